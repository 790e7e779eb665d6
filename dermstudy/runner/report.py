"""The executed notebooks of one results folder as one folder of linked web pages that need no server and no network."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import nbformat

from dermstudy.files import InputError, atomic_path, write_text
from dermstudy.runner import findings
from dermstudy.workspace import Workspace, shown

STYLE = """
body { font: 16px/1.5 "DejaVu Sans", sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
a { color: #332288 } table { border-collapse: collapse } td, th { padding: .3rem .8rem .3rem 0; text-align: left;
vertical-align: top; border-bottom: 1px solid #ddd } img { max-width: 100% } .small { color: #666; font-size: .85rem }
"""
NAVIGATION = """
nav { font: 14px "DejaVu Sans", sans-serif; display: flex; justify-content: space-between; padding: .6rem 1rem;
border-bottom: 1px solid #ddd }
"""
COVER = ("synthetic_grid", "ablation_summary")  # figures of the first page, where they are there


def write(space: Workspace, out: str | Path) -> Path:
    """Render every executed notebook of `space` and an index.html beside them into the folder `out`.

    InputError where the folder holds no executed notebook, or `out` exists and is no report.
    """
    from nbconvert import HTMLExporter

    out = Path(out)
    notebooks = sorted(space.root.glob("[0-9][0-9]_*.ipynb"))
    manifest = space.root / "manifest.json"
    if not notebooks or not manifest.is_file():
        raise InputError(f"{shown(space.root)} holds no executed notebooks: run 'dermstudy run' first")
    if out.exists() and not (out / "index.html").is_file():
        raise InputError(f"{shown(out)} is there already and is no report: choose another folder")
    notes = json.loads(manifest.read_text(encoding="utf-8"))
    # No script: pages are read offline, and none of them holds a formula or a widget.
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="", exclude_input_prompt=True)
    pages = [(path.stem, nbformat.read(path, as_version=4)) for path in notebooks]
    titles = [_title(content, stem) for stem, content in pages]
    with atomic_path(out) as temporary:
        temporary.mkdir()
        for place, (stem, content) in enumerate(pages):
            content.metadata["title"] = titles[place]
            body, _ = exporter.from_notebook_node(content)
            around = [pages[other][0] if 0 <= other < len(pages) else None for other in (place - 1, place + 1)]
            body = re.sub(r'<script[^>]*src="https?:[^>]*>\s*</script>', "", body)
            write_text(temporary / f"{stem}.html", _with_navigation(body, *around))
        (temporary / "figures").mkdir()
        cover = [name for name in COVER if (space.figures / f"{name}.png").is_file()]
        for name in cover:
            (temporary / "figures" / f"{name}.png").write_bytes((space.figures / f"{name}.png").read_bytes())
        write_text(temporary / "index.html", _index(notes, pages, titles, _found(space), cover))
    return out


def _title(content, stem: str) -> str:
    first = next((cell.source for cell in content.cells if cell.cell_type == "markdown"), stem)
    return first.splitlines()[0].lstrip("# ").strip()


def _question(content) -> str:
    text = content.cells[0].source
    found = re.search(r"\*\*Question\.\*\*\s*(.+)", text)
    return found.group(1).strip() if found else ""


def _with_navigation(body: str, before: str | None, after: str | None) -> str:
    links = [
        f'<a href="{before}.html">← {before}</a>' if before else "<span></span>",
        '<a href="index.html">all notebooks</a>',
        f'<a href="{after}.html">{after} →</a>' if after else "<span></span>",
    ]
    navigation = f"<style>{NAVIGATION}</style><nav>{''.join(links)}</nav>"
    return re.sub(r"(<body[^>]*>)", lambda match: match.group(1) + navigation, body, count=1)


def _found(space: Workspace) -> str:
    """The table of what was found; empty where the walk has not come so far."""
    try:
        table = findings.table(space)
    except InputError:
        return ""
    lines = ["".join(f"<th>{html.escape(name)}</th>" for name in table.columns)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in table.to_numpy()]
    content = "".join(f"<tr>{line}</tr>" for line in lines)
    return "<table>" + re.sub(r"[*]{2}([^*]*)[*]{2}", r"<b>\1</b>", content) + "</table>"


def _index(notes: dict, pages: list, titles: list[str], found: str, cover: list[str]) -> str:
    rows = "".join(
        f'<tr><td><a href="{stem}.html">{html.escape(title)}</a></td><td>{html.escape(_question(content))}</td></tr>'
        for (stem, content), title in zip(pages, titles, strict=True)
    )
    pictures = "".join(f'<p><img src="figures/{name}.png" alt="{name.replace("_", " ")}"></p>' for name in cover)
    versions = ", ".join(f"{name} {version}" for name, version in notes["packages"].items())
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>dermstudy: {html.escape(notes["profile"])}</title><style>{STYLE}</style></head><body>
<h1>dermstudy: {html.escape(notes["profile"])}</h1>
<p>{html.escape(notes["description"])}. Nothing here is for diagnosis or any clinical use.</p>
{found}
<table><tr><th>notebook</th><th>question</th></tr>{rows}</table>
{pictures}
<p class="small">Commit {notes["commit"]}; data {notes["data_hash"][:16]}; {notes["seconds"]:.0f} seconds on
{html.escape(notes["platform"])}; {html.escape(versions)}.</p>
</body></html>
"""
