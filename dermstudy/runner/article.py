"""One executed notebook as the article of a web page: figures with captions, code behind a summary, tables in boxes.

A figure's caption is the paragraph that follows it, as the notebooks have it; its alternative text is the name of its
section and that paragraph's first sentence (W3C, Web Content Accessibility Guidelines 2.2, 1.1.1).
"""

from __future__ import annotations

import ast
import base64
import io
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from PIL import Image

from dermstudy.data.dataset import ARCHIVE
from dermstudy.files import InputError
from dermstudy.runner import prose
from dermstudy.runner.openings import TAG
from dermstudy.workspace import Workspace, shown

TEMPLATES = Path(__file__).with_name("templates")
SAYS = 60  # characters that alternative text has at least, where there are as many
SHORT = 24  # characters of a cell that stay on one line
PIXEL = 96  # CSS pixels to an inch
KINDS = {"image/png": ".png", "image/jpeg": ".jpg"}
IMAGE_NAME = re.compile(r"\bISIC_\d{7}\b")
NUMBER = re.compile(r"[-+−]?[\d,]*\.?\d+(e[-+]?\d+)?\s?%?|nan|NaN|[-–]|", re.IGNORECASE)


@dataclass(frozen=True)
class Figure:
    """A figure of a page: its name, its picture (and PDF, where there is one), and what is said of it.

    width, height: CSS pixels at which it stands as large as in print.
    """

    stem: str
    name: str
    number: str
    alt: str
    caption: str  # Markdown; "" where no paragraph follows
    width: int
    height: int
    file: str  # name and suffix
    picture: bytes
    pdf: bytes | None = None


@dataclass(frozen=True)
class Section:
    """A second-level heading and the anchor that leads to it."""

    anchor: str
    title: str


@dataclass(frozen=True)
class Page:
    """A notebook as a page. question, finding: first sentences, "" where the notebook names none; made: its run's stamp."""

    stem: str
    title: str
    question: str
    finding: str
    article: str  # HTML
    sections: tuple[Section, ...]
    figures: tuple[Figure, ...]
    made: dict


def read(path: Path, space: Workspace, notes: dict) -> Page:
    """The page of the executed notebook at `path`.

    notes: the manifest. Where it says that this notebook wrote a figure of figures/, that file is shown, which has more
    pixels than the notebook's own; elsewhere the notebook's.
    InputError where the file is no notebook.
    """
    try:
        content = nbformat.read(path, as_version=4)
    except (OSError, ValueError) as error:  # nbformat's errors are ValueErrors
        raise InputError(f"{shown(path)} is no notebook that can be read: run it again with --force") from error
    stem = path.stem
    saved = {name for name, one in notes.get("figures", {}).items() if one["notebook"] == stem}
    title = _title(content, stem)
    question, finding = (prose.first_sentence(_said(content, word)) for word in ("Question", "Finding"))
    figures = _describe_figures(content, stem, space, saved)
    leading = None
    for cell in content.cells:
        if TAG in cell.metadata.get("tags", []):
            leading = _leading(cell.source, figures)
            cell.source = cell.source.partition("\n\n![")[0]
        if cell.cell_type == "code":
            cell.metadata["report"] = {"summary": _summary(cell, notes.get("profile", ""))}
    body, _ = _exporter().from_notebook_node(content)
    article, sections = _finished(body, leading)
    made = notes["notebooks"].get(stem, {})
    return Page(stem, title, question, finding, article, sections, tuple(figures), made)


def _leading(source: str, figures: list[Figure]) -> tuple[Figure, str] | None:
    """The figure that an opening shows below its finding, and its alternative text there; None where it shows none."""
    named = re.search(r"^!\[(.*)\]\(figures/(\w+)\.\w+\)$", source, re.MULTILINE)
    return next(((figure, named[1]) for figure in figures if named and figure.name == named[2]), None)


@cache
def _exporter():
    from nbconvert import HTMLExporter

    return HTMLExporter(
        extra_template_basedirs=[str(TEMPLATES)],
        template_name="notebook",
        exclude_output_prompt=True,
        embed_images=True,
    )


def _title(content, stem: str) -> str:
    first = next((cell.source for cell in content.cells if cell.cell_type == "markdown"), "")
    return (first.splitlines() or [""])[0].lstrip("# ").strip() or stem


def _said(content, word: str) -> str:
    """The paragraph that opens with **word.**, in the notebook's prose or in what a cell wrote as Markdown."""
    for cell in content.cells:
        texts = [output.get("data", {}).get("text/markdown", "") for output in cell.get("outputs", [])]
        for text in [cell.source if cell.cell_type == "markdown" else "", *texts]:
            found = re.search(rf"\*\*{word}\.\*\*\s*(.+?)(?:\n\s*\n|\Z)", text, re.DOTALL)
            if found:
                return prose.plain(found.group(1))
    return ""


def _summary(cell, profile: str) -> str:
    tags = cell.metadata.get("tags", [])
    if "parameters" in tags:
        return "Parameters: defaults, as in the paper"
    if "injected-parameters" in tags:
        return f"Parameters of the profile {profile}"
    lines = len(cell.source.splitlines())
    return f"Code, {lines} line{'s' if lines != 1 else ''}"


# Figures


def _describe_figures(content, stem: str, space: Workspace, saved: set[str]) -> list[Figure]:
    """Take every picture out of `content` and leave its name, number, caption and alternative text in its place.

    The paragraph that becomes a caption leaves the text.
    """
    figures: list[Figure] = []
    cells, heading, drawn = content.cells, "", space.pictures()
    for place, cell in enumerate(cells):
        heading = _last_heading(cell) or heading
        outputs = [output for output in cell.get("outputs", []) if picture_of(output)]
        names = _saved_names(cell.source) if outputs else []
        after = prose.paragraph(cells[place + 1]) if outputs and place + 1 < len(cells) else ""
        for output in outputs:
            last = output is outputs[-1]
            number = f"{stem[:2]}.{len(figures) + 1}"
            name = names[outputs.index(output)] if len(names) == len(outputs) else ""
            known = name in saved
            if not re.fullmatch(r"\w+", name) or name in {figure.name for figure in figures}:
                name, known = f"{stem}_{len(figures) + 1}", False
            kind = picture_of(output)
            file, picture = name + KINDS[kind], base64.b64decode("".join(output.data.pop(kind)))
            if known and name in drawn:
                file, picture = drawn[name].name, drawn[name].read_bytes()
            caption = after if last else ""
            told = caption or _nearby(cells, place) or heading or _title(content, stem)
            alt = cell.metadata.get("alt") or _alternative(heading or _title(content, stem), prose.plain(told))
            pdf = _bytes(space.figures / f"{name}.pdf") if known else None
            figures.append(Figure(stem, name, number, alt, caption, *_size(picture), file, picture, pdf))
            output.data["image/png"] = ""
            told_of = {name: value for name, value in vars(figures[-1]).items() if name != "picture"}
            output.metadata["report"] = told_of | {"pdf": pdf is not None}
        if after:
            cells[place + 1].source = cells[place + 1].source.strip()[len(after) :].lstrip("\n")
    return figures


def picture_of(output) -> str:
    """The kind of the picture that an output holds, as a media type; "" where it holds none."""
    return next((kind for kind in KINDS if kind in output.get("data", {})), "")


def _alternative(heading: str, told: str) -> str:
    """The name of the section, and as many sentences as it takes to say something."""
    said = prose.first_sentence(told)
    while len(said) < SAYS and len(said) < len(told):
        said += told[len(said)] + prose.first_sentence(told[len(said) + 1 :])
    return f"{heading}{'' if heading.endswith(('?', '.', '!')) else '.'} {said}"


def _last_heading(cell) -> str:
    found = re.findall(r"^##+ (.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
    return prose.plain(found[-1]) if found else ""


def _saved_names(source: str) -> list[str]:
    """The names that a cell's calls of `save_figure` give, in their order; none where the cell is not plain Python."""
    try:
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    except SyntaxError:
        return []
    own = sorted(
        (c for c in calls if getattr(c.func, "attr", "") == "save_figure"), key=lambda c: (c.lineno, c.col_offset)
    )
    given = [[*call.args[1:2], *(word.value for word in call.keywords if word.arg == "name")] for call in own]
    return [str(getattr(one[0], "value", "")) if one else "" for one in given]


def _nearby(cells, place: int) -> str:
    """The next paragraph that speaks of cell `place` and no later figure, or else the last paragraph before it."""
    for cell in cells[place + 1 :]:
        if any(picture_of(output) for output in cell.get("outputs", [])):
            break
        if cell.cell_type == "markdown":
            if prose.paragraph(cell):
                return prose.paragraph(cell)
            break
    for cell in reversed(cells[:place]):
        if cell.cell_type == "markdown":
            parts = [part for part in re.split(r"\n\s*\n", cell.source.strip()) if not prose.NO_PARAGRAPH.match(part)]
            return parts[-1] if parts else ""
    return ""


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _size(picture: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(picture)) as image:
        dots = float(image.info.get("dpi", (PIXEL, PIXEL))[0]) or PIXEL
        return round(image.width * PIXEL / dots), round(image.height * PIXEL / dots)


# Finish


def _finished(body: str, leading: tuple[Figure, str] | None = None) -> tuple[str, tuple[Section, ...]]:
    """The article with its tables in boxes that scroll, its links to notebooks led to pages; and its sections.

    leading: the figure that stands below the finding and its alternative text there. Real images that are named where
    they are not drawn get a link each.
    """
    soup = BeautifulSoup(body, "html.parser")
    for style in soup.select("style[scoped]"):
        style.decompose()  # pandas' own, a copy a table
    heading = ""
    for element in soup.find_all(["h1", "h2", "h3", "table", "a", "p"]):
        if element.name == "table":
            _box(soup, element, heading)
        elif element.name == "a":
            element["href"] = re.sub(r"^(\d\d_\w+)\.ipynb", r"\1.html", element.get("href", ""))
        elif element.name == "p":
            opening = element.strong.get_text() if element.strong and not element.find_parent("li") else ""
            if opening in ("Question.", "Finding."):
                element["class"] = "lead"
            if opening == "Finding." and leading:
                element.insert_after(_opening(soup, *leading))
            elif opening in ("Paper:", "In:"):
                element["class"] = "aside"
        else:
            heading = _words(element)
    for printed in soup.select("pre"):
        if ARCHIVE in printed.get_text() and not printed.find(True):
            named = IMAGE_NAME.sub(
                lambda name: f'<a href="{ARCHIVE.replace("NAME", name[0])}">{name[0]}</a>', str(printed)
            )
            printed.replace_with(BeautifulSoup(named, "html.parser"))
    for link in soup.select(".anchor-link"):
        link["aria-label"] = "Link to this section"
    sections = [Section(element.get("id", ""), _words(element)) for element in soup.find_all("h2")]
    return str(soup), tuple(section for section in sections if section.anchor)


def _opening(soup, figure: Figure, alt: str):
    """The figure of an opening, which leads to the place further down where it has its number and caption."""
    shown_first = soup.new_tag("figure", attrs={"class": "opening"})
    link = soup.new_tag("a", href=f"#{figure.name}")
    size = {"width": str(figure.width), "height": str(figure.height)}
    link.append(soup.new_tag("img", src=f"figures/{figure.file}", alt=alt, attrs=size))
    shown_first.append(link)
    below = soup.new_tag("figcaption")
    below.append(soup.new_tag("a", href=f"#{figure.name}"))
    below.a.string = f"Figure {figure.number}, below with what it shows"
    shown_first.append(below)
    return shown_first


def _words(heading) -> str:
    return "".join(
        str(part) for part in heading.find_all(string=True) if part.parent.get("class") != ["anchor-link"]
    ).strip()


def _box(soup, table, heading: str) -> None:
    """Put a table into a box of its own that scrolls, name its columns in one row, and set numbers flush right."""
    del table["border"]
    for row in table.select("tr[style]"):
        del row["style"]
    _merge_head(table)
    rows = [row.find_all(["th", "td"]) for row in table.select("tbody tr")]
    heads = [row.find_all("th") for row in table.select("thead tr")]
    for place in range(
        1, min(map(len, rows), default=0) + 1
    ):  # from the right: a merged head of rows stands on the left
        cells = [row[-place] for row in rows]
        if all(cell.name == "td" and NUMBER.fullmatch(cell.get_text().strip()) for cell in cells):
            for cell in [*cells, *(head[-place] for head in heads if len(head) >= place and not _spans(head))]:
                cell["class"] = "number"
        for cell in cells:
            if "class" not in cell.attrs and len(cell.get_text()) <= SHORT:
                cell["class"] = "short"
    for cell in (cell for head in heads for cell in head):
        if cell.get("colspan"):
            cell["class"] = "group"
        words = cell.get_text().split("_")
        if len(words) < 2 or len(cell.get_text()) <= SHORT // 2:
            continue
        cell.clear()
        for word in words[:-1]:
            cell.extend([f"{word}_", soup.new_tag("wbr")])
        cell.append(words[-1])
    box = soup.new_tag(
        "div", attrs={"class": "scroll", "tabindex": "0", "role": "region", "aria-label": f"Table: {heading}"}
    )
    table.wrap(box)


def _merge_head(table) -> None:
    """pandas names the columns in one row and the index in another, below: one row for both."""
    rows = table.select("thead tr")
    if len(rows) < 2:
        return
    upper, lower = (row.find_all("th") for row in rows[-2:])
    filled = [bool(cell.get_text().strip()) for cell in lower]
    index = filled.index(False) if False in filled else 0
    if len(upper) != len(lower) or not index or any(filled[index:]) or _spans(upper):
        return
    for over, under in zip(upper[:index], lower[:index], strict=True):
        over.string = under.get_text().strip()
    rows[-1].decompose()


def _spans(cells) -> bool:
    return any(cell.get("colspan") for cell in cells)
