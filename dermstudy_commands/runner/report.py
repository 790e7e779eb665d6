"""The executed notebooks of one results folder as one folder of linked web pages that need no server and no network.

nbconvert renders the cells by templates/notebook, matplotlib's mathtext the formulas, as pictures.
"""

from __future__ import annotations

import base64
import html
import io
import re
import shutil
from pathlib import Path

import bleach
from bs4 import BeautifulSoup

from dermstudy.data.dataset import ARCHIVE
from dermstudy.files import InputError, atomic_path, write_text
from dermstudy.workspace import Workspace, shown
from dermstudy_commands.runner import findings, provenance
from dermstudy_commands.runner.profiles import read_notebook

QUESTION = (
    "Does adding synthetic images to the originals improve the recognition of skin lesions, as the paper concludes?"
)
COVER = ("synthetic_grid", "trial")  # figures of the first page, where they are there
MARKER = "dermstudy report"  # in every page's head: a folder that holds it may be written again
TEMPLATES = Path(__file__).with_name("templates")
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$([^$\n]+?)\$", re.DOTALL)
MATHTEXT = {  # what mathtext writes otherwise, or not at all
    r"\\[lr]Vert": r"\\Vert ", r"\\texttt": r"\\mathtt", r"\\(big|Big)\b": "", r"\\!": "", r"\\tfrac": r"\\frac",
    r"\s+": " ",
}  # fmt: skip
TAGS = set(bleach.ALLOWED_TAGS) | set(
    "br caption dd del details div dl dt figcaption figure h1 h2 h3 h4 h5 h6 hr img p pre s span sub summary sup table tbody td "
    "tfoot th thead tr u".split()
)
ATTRIBUTES = {"*": "alt aria-label class colspan height href id rowspan start tabindex title width".split()}
KINDS = {"image/png": ".png", "image/jpeg": ".jpg"}


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
    notes = provenance.manifest(space.root, provenance.Report)
    found = findings.found(space) if (space.root / "findings").is_dir() else {}
    with atomic_path(out) as folder:
        (folder / "figures").mkdir(parents=True)
        for name in ("report.css", "report.js"):
            shutil.copyfile(TEMPLATES / name, folder / name)
        pages = [_page(path, space, folder / "figures", found.get(path.stem, "")) for path in notebooks]
        shared = {"notes": notes, "pages": pages, "marker": MARKER}
        for place, page in enumerate(pages):
            beside = {"before": pages[place - 1] if place else None, "after": (pages[place + 1 :] or [None])[0]}
            _render("page", folder / f"{page['stem']}.html", shared, page=page, here=page["stem"], **beside)
        cover = [figure for page in pages for figure in page["figures"] if figure["name"] in COVER]
        whole = safe_html(findings.markdown(space)) if found else ""
        _render(
            "index",
            folder / "index.html",
            shared,
            here="",
            question=QUESTION,
            cover=cover,
            found=whole,
            facts=_facts(notes),
        )
    return out


def _is_report(folder: Path) -> bool:
    index = folder / "index.html"
    return index.is_file() and f'content="{MARKER}"' in index.read_text(encoding="utf-8", errors="replace")[:2000]


def _render(name: str, target: Path, shared: dict, **own) -> None:
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATES)
    templates = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    write_text(target, templates.get_template(f"{name}.html.j2").render(shared, **own))


def _facts(notes: dict) -> dict[str, str]:
    """What the manifest says of the run, by the name under which the first page shows it."""
    versions = [f"Python {notes['python']}", *(f"{name} {version}" for name, version in notes["packages"].items())]
    facts = {
        "Profile": f"{notes['profile']}: {notes['description']}",
        "Commit": notes["commit"],
        "Data (SHA-256)": notes["data_hash"],
        "Machine": ", ".join(part for part in (notes["platform"], notes.get("processor")) if part),
        "Time": f"{notes['seconds']:.0f} seconds for {len(notes['notebooks'])} notebooks",
        "Versions": ", ".join(versions),
    }
    return {name: value for name, value in facts.items() if value}


def _page(path: Path, space: Workspace, folder: Path, finding: str) -> dict:
    """The page of an executed notebook, its pictures written to `folder`. InputError where the file is no notebook."""
    from nbconvert import HTMLExporter

    content = read_notebook(path)
    first = next((cell.source for cell in content.cells if cell.cell_type == "markdown"), path.stem)
    asked = re.search(r"\*\*Question\.\*\*\s*(.+?)(?:\n\s*\n|\Z)", first, re.DOTALL)
    figures = _take_figures(content, path.stem, space, folder)
    formulas: list[str] = []
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = _without_formulas(cell.source, formulas)
    exporter = HTMLExporter(
        extra_template_basedirs=[str(TEMPLATES)], template_name="notebook", exclude_output_prompt=True
    )
    soup = BeautifulSoup(_safe(exporter.from_notebook_node(content)[0]), "html.parser")
    for link in soup.find_all("a"):
        link["href"] = re.sub(r"^(\d\d_\w+)\.ipynb", r"\1.html", link.get("href", ""))
        if link["href"].startswith("../"):
            link.unwrap()  # a file of the checkout, which does not go with the pages
    sections = [(head["id"], head.get_text().rstrip("¶")) for head in soup.find_all("h2") if head.get("id")]
    article = re.sub("⟦(\\d+)⟧", lambda match: formulas[int(match[1])], str(soup))
    named = ARCHIVE.replace("NAME", r"\1")
    article = (
        re.sub(r"(?<![/\w])(ISIC_\d{7})(?![\w<])", rf'<a href="{named}">\1</a>', article)
        if ARCHIVE in article
        else article
    )
    return {
        "stem": path.stem, "title": first.splitlines()[0].lstrip("# "), "question": _plain(asked[1]) if asked else "",
        "headline": finding.partition("\n")[0], "article": article, "sections": sections,
        "figures": figures, "made": content.metadata.get("dermstudy", {}),
    }  # fmt: skip


def _take_figures(content, stem: str, space: Workspace, folder: Path) -> list[dict]:
    """Write each picture of a notebook to `folder`, the one of figures/ where a cell saved it, and describe it in its output.

    The paragraph that follows a picture becomes its caption. The alternative text is the section's name and the caption.
    """
    figures, heading, drawn = [], stem, space.pictures()
    for cell, after in zip(content.cells, [*content.cells[1:], None], strict=True):
        heads = re.findall(r"^##+ (.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        heading = _plain(heads[-1]) if heads else heading
        pictures = [output for output in cell.get("outputs", []) if KINDS.keys() & output.get("data", {}).keys()]
        names = re.findall(r'save_figure\(.*?"(\w+)",?\s*\)', cell.source, re.DOTALL) if pictures else []
        caption = ""
        if pictures and after and after.cell_type == "markdown" and re.match(r"[^#|>`*\d-]", after.source):
            caption, _, after.source = after.source.partition("\n\n")
        for output, name in zip(pictures, names if len(names) == len(pictures) else [""] * len(pictures), strict=True):
            kind = next(kind for kind in KINDS if kind in output.data)
            number = f"{stem[:2]}.{len(figures) + 1}"
            known = name in drawn
            file = drawn[name].name if known else f"{stem}_{len(figures) + 1}{KINDS[kind]}"
            (folder / file).write_bytes(drawn[name].read_bytes() if known else base64.b64decode(output.data[kind]))
            pdf = f"{name}.pdf" if (space.figures / f"{name}.pdf").is_file() else ""
            if pdf:
                shutil.copyfile(space.figures / pdf, folder / pdf)
            alt = f"Figure {number}. {heading}. {_plain(FORMULA.sub('', caption))}".strip()
            figure = {
                "name": Path(file).stem,
                "file": file,
                "number": number,
                "alt": alt,
                "caption": caption,
                "pdf": pdf,
                "stem": stem,
            }
            output.data = {"image/png": ""}
            output.metadata["report"] = figure
            figures.append(figure | {"caption": safe_html(caption)})
    return figures


def _without_formulas(markdown: str, formulas: list[str]) -> str:
    """Markdown with a mark in place of each formula, whose picture is added to `formulas`."""

    def taken(match: re.Match) -> str:
        formulas.append(picture_of(match[1] or match[2]))
        return f"⟦{len(formulas) - 1}⟧"

    return FORMULA.sub(taken, markdown)


def picture_of(formula: str) -> str:
    """A formula in LaTeX as an image element; InputError where mathtext cannot draw it."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    text, drawn = formula.strip(), io.BytesIO()
    for pattern, other in MATHTEXT.items():
        text = re.sub(pattern, other, text)
    try:
        depth = math_to_image(f"${text}$", drawn, prop=FontProperties(size=13), format="svg")
    except ValueError as error:
        raise InputError(f"the formula {formula.strip()!r} cannot be drawn: {str(error).splitlines()[-1]}") from error
    data = base64.b64encode(drawn.getvalue()).decode()
    alt = html.escape(formula.strip(), quote=True)
    return f'<img class="formula" style="vertical-align:-{depth:.1f}pt" alt="{alt}" src="data:image/svg+xml;base64,{data}">'


def safe_html(markdown: str) -> str:
    """Markdown as HTML with nothing that runs and nothing from elsewhere, its formulas drawn."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    formulas: list[str] = []
    cleaned = _safe(markdown2html_mistune(_without_formulas(markdown, formulas)))
    return re.sub("⟦(\\d+)⟧", lambda match: formulas[int(match[1])], cleaned)


def _plain(markdown: str) -> str:
    return " ".join(BeautifulSoup(safe_html(markdown), "html.parser").get_text().split())


def _safe(page: str) -> str:
    """HTML with TAGS and ATTRIBUTES alone, and pictures from figures/ alone, whoever wrote the notebook."""
    soup = BeautifulSoup(page, "html.parser")
    for element in soup.find_all(["script", "style"]):
        element.decompose()  # bleach would leave what they hold as text
    allowed = ATTRIBUTES | {
        "img": lambda _, name, value: (
            name in ATTRIBUTES["*"] or (name == "src" and re.fullmatch(r"figures/[\w.-]+", value))
        )
    }
    return bleach.clean(str(soup), tags=TAGS, attributes=allowed, protocols=["http", "https", "mailto"], strip=True)
