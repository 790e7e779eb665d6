"""A notebook's prose: its Markdown as plain text and as HTML, its first sentence, the paragraph with which a cell begins."""

from __future__ import annotations

import re

from bs4 import BeautifulSoup

NO_SENTENCE_END = re.compile(r"\b(al|Front|Med|Fig|Figs|No|vs|cf|e\.g|i\.e)\.$")
NO_PARAGRAPH = re.compile(r"#|[-*+] |\d+[.)] |\||>|```|!\[|---")


def first_sentence(text: str) -> str:
    """The first sentence of a paragraph of plain text."""
    for match in re.finditer(r"[.!?][\"”’)]*(?=\s+[A-Z0-9“\"(])", text):
        if not NO_SENTENCE_END.search(text[: match.start() + 1]):
            return text[: match.end()]
    return text


def plain(markdown: str) -> str:
    """Markdown as one line of plain text."""
    return " ".join(BeautifulSoup(to_html(markdown), "html.parser").get_text().split())


def to_html(markdown: str) -> str:
    """Markdown as HTML."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    return markdown2html_mistune(markdown)


def paragraph(cell) -> str:
    """The Markdown of the paragraph with which a cell begins; "" where it begins with anything else."""
    first = re.split(r"\n\s*\n", cell.source.strip())[0] if cell.cell_type == "markdown" else ""
    return "" if NO_PARAGRAPH.match(first) else first
