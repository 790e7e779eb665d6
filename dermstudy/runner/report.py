"""The executed notebooks of one results folder as one folder of linked web pages that need no server and no network."""

from __future__ import annotations

import shutil
from pathlib import Path

from dermstudy.files import InputError, atomic_path, write_text
from dermstudy.runner import article, findings, prose
from dermstudy.runner.fingerprints import manifest
from dermstudy.workspace import Workspace, shown

QUESTION = (
    "Does adding synthetic images to the originals improve the recognition of skin lesions, as the paper concludes?"
)
COVER = ("synthetic_grid", "trial")  # figures of the first page, where they are there
MARKER = "dermstudy report"  # in every page's head: a folder that holds it may be written again
STATIC = ("report.css", "report.js")


def write(space: Workspace, out: str | Path) -> Path:
    """Render every executed notebook of `space` as a page, and an index.html beside them, into the folder `out`.

    The folder is whole or not written at all; an earlier report there is replaced.
    InputError where `space` holds no executed notebook, or `out` exists and is no report.
    """
    out = Path(out)
    notebooks = sorted(space.root.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks or not (space.root / "manifest.json").is_file():
        raise InputError(f"{shown(space.root)} holds no executed notebooks: run 'dermstudy run' first")
    if out.exists() and not _is_report(out):
        raise InputError(f"{shown(out)} is there already and is no report: choose another folder")
    notes = manifest(space.root)
    made = [article.read(path, space, notes) for path in notebooks]
    templates = _templates()
    shared = {"notes": notes, "pages": made, "marker": MARKER}
    with atomic_path(out) as temporary:
        (temporary / "figures").mkdir(parents=True)
        for name in STATIC:
            shutil.copyfile(article.TEMPLATES / name, temporary / name)
        for place, page in enumerate(made):
            around = {
                "before": made[place - 1] if place else None,
                "after": made[place + 1] if made[place + 1 :] else None,
            }
            text = templates.get_template("page.html.j2").render(shared, page=page, here=page.stem, **around)
            write_text(temporary / f"{page.stem}.html", text)
            for figure in page.figures:
                (temporary / "figures" / figure.file).write_bytes(figure.picture)
                if figure.pdf:
                    (temporary / "figures" / f"{figure.name}.pdf").write_bytes(figure.pdf)
        drawn = {figure.name: figure for page in made for figure in page.figures}
        own = {
            "cover": [drawn[name] for name in COVER if name in drawn],
            "found": _found(space),
            "facts": _facts(notes),
        }
        text = templates.get_template("index.html.j2").render(shared, question=QUESTION, here="", **own)
        write_text(temporary / "index.html", text)
    return out


def _is_report(folder: Path) -> bool:
    index = folder / "index.html"
    return index.is_file() and f'content="{MARKER}"' in index.read_text(encoding="utf-8", errors="replace")[:2000]


def _templates():
    import jinja2

    def inline(markdown: str) -> str:
        return prose.to_html(markdown).strip().removeprefix("<p>").removesuffix("</p>")

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(article.TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    templates.filters |= {"html": prose.to_html, "inline": inline, "clock": _clock}
    return templates


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _facts(notes: dict) -> dict[str, str]:
    """What the manifest says of the run, by the name under which the first page shows it."""
    versions = [f"Python {notes['python']}", *(f"{name} {version}" for name, version in notes["packages"].items())]
    facts = {
        "Profile": f"{notes['profile']}: {notes['description']}",
        "Commit": notes["commit"],
        "Data (SHA-256)": notes["data_hash"],
        "Machine": ", ".join(part for part in (notes["platform"], notes.get("processor")) if part),
        "Time": f"{notes['seconds']:.0f} seconds ({_clock(notes['seconds'])}) for {len(notes['notebooks'])} notebooks",
        "Versions": ", ".join(versions),
    }
    return {name: value for name, value in facts.items() if value}


def _found(space: Workspace):
    """The table of what was found; None where the walk has not come so far."""
    try:
        return findings.table(space)
    except InputError:
        return None
