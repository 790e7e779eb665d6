"""An empty workbook for answers that were given elsewhere, whose cells offer what is understood."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dermstudy.files import InputError, atomic_path
from dermstudy.readers import workbook

TEMPLATE_ROWS = 5000  # that offer the words of KNOWN
HELP = {  # the template's second sheet
    "reader": "who answered: a name or initials",
    "image": "the image's name; one row an image and reader",
    "source": "what the image is: original or AI",
    "entity": "what the image shows, by its diagnosis: one of the list, or a HAM10000 code",
    "entity_answer": "what the reader named: one of the list, or a HAM10000 code",
    "source_answer": "what the reader said: original, AI or unsure",
    "confidence": "how sure the reader was, from 1 (guessing) to 5 (certain); leave the column empty where nobody was asked",
}


def write_template(path: str | Path) -> Path:
    """Write an .xlsx workbook without answers, whose cells offer what `workbook.read_workbook` understands."""
    from openpyxl.worksheet.datavalidation import DataValidation

    path = Path(path)
    if path.suffix.lower() != ".xlsx":
        raise InputError(f"{path}: the template is an Excel workbook; name it template.xlsx")
    columns = [*workbook.COLUMNS, "confidence"]
    book = workbook.book_of(
        {"answers": pd.DataFrame(columns=columns), "help": pd.DataFrame(HELP.items(), columns=["column", "says"])}
    )
    page = book["answers"]
    for letter, column in zip("ABCDEFG", columns, strict=True):
        page.column_dimensions[letter].width = 22
        page.column_dimensions[letter].number_format = "General" if column == "confidence" else "@"
        choices = ("1", "2", "3", "4", "5") if column == "confidence" else workbook.KNOWN.get(column)
        if choices:
            listed = DataValidation(type="list", formula1=f'"{",".join(choices)}"', allow_blank=True)
            listed.add(f"{letter}2:{letter}{TEMPLATE_ROWS}")
            page.add_data_validation(listed)
    book["help"].column_dimensions["B"].width = 100
    with atomic_path(path) as temporary:
        book.save(temporary)
    return path
