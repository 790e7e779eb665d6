"""Tables that people bring, read in one way for every room: text files of any separator and encoding, and .xlsx workbooks.

Cells stay text. A column is looked up by its plain name (`plain`), and messages carry the true line and the printed name.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO, StringIO
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.files import InputError

SEPARATORS = (",", ";", "\t")
BLANK = "".join(SEPARATORS) + " "  # a row of nothing else is blank, whichever of them separates the others
MISSING = ("", "nan", "na", "n/a", "#n/a", "null", "none", "unknown", "-", "?")  # where a value may be missing
TOP_ROWS = 30  # rows among which the header is looked for: titles may stand above it
MOST_CELLS = 5_000_000  # of a sheet: one stray cell in the last row would make billions
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)
FORMULA = re.compile("'*[=+@-]")
INVISIBLE = {ord(sign): None for sign in "\u200b\u2060\ufeff"} | {ord(sign): " " for sign in "\xa0\u2007\u202f"}
CONTROL = re.compile("[\x00-\x08\x0e-\x19\x1b-\x1f]")
# What damaged UTF-8 and the encodings of DOS and Macintosh leave where they are read as Windows-1252.
NOT_WINDOWS = re.compile(r"[^\x00-\x7f\xa0À-ÿ°µ²³§€–—‘’…„“”«»]|[ÃÂ][^\x00-\x7fÀ-ÿ]|(?<=[^\W\d_])[„“”](?=[^\W\d_])")
WORKBOOK, OLD_WORKBOOK = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
SAVE = "save it as CSV (UTF-8) or .xlsx"

Row = tuple[int, list[str]]  # its line, from 1, and its cells


@dataclass(frozen=True)
class Table:
    """Cells as text under plain column names; the index of `frame` holds each row's line in the file, from 1.

    sheet: of a workbook. header: the header's line. printed: the header's cells by plain name. notes: what was done to
    read the file, one sentence each, for the user to see. places: the columns' numbers in the file, from 1, by plain name.
    """

    path: Path
    sheet: str | None
    header: int
    frame: pd.DataFrame
    printed: dict[str, str]
    notes: tuple[str, ...] = ()
    places: dict[str, int] = field(default_factory=dict)

    def where(self, line: int | None = None, column: str | None = None) -> str:
        """The file, sheet, line and cell, as messages name them."""
        from openpyxl.utils import get_column_letter

        if self.sheet is None:
            return f"{self.path}" + ("" if line is None else f", line {line}")
        cell = f" (cell {get_column_letter(self.places[column])}{line})" if column in self.places else ""
        return f"{self.path}, sheet {self.sheet!r}" + ("" if line is None else f", row {line}{cell}")

    def require(self, *columns: str) -> None:
        """InputError where a column is lacking, or where no row stands under the header."""
        lacking = [column for column in columns if column not in self.frame]
        if lacking:
            found = ", ".join(self.printed.values()) or "no name"
            raise InputError(
                f"{self.where()} has no column {', '.join(lacking)}: its header, line {self.header}, has {found}; "
                f"it needs {', '.join(columns)}"
            )
        if self.frame.empty:
            raise InputError(f"{self.where()} has a header but no row: one row an image is needed")

    def filled(self, column: str) -> pd.Series:
        """The cells of a column that may not be blank. InputError names the first blank one."""
        cells = self.frame[column]
        if (cells == "").any():
            where = self.where(cells.index[cells == ""][0], column)
            raise InputError(f"{where}: {self.printed[column]} is empty; fill it in")
        return cells

    def numbers(self, column: str, low: float, high: float, what: str) -> pd.Series:
        """The cells as float64, NaN where missing; decimal points or commas. InputError where one is not in low..high."""
        cells = self.frame[column]
        numeric = [float(cell.replace(",", ".")) if NUMBER.fullmatch(cell) else np.nan for cell in cells]
        values = pd.Series(numeric, cells.index, dtype=float)
        wrong = cells.index[~missing(cells) & ~values.between(low, high)]
        if len(wrong):
            raise InputError(
                f"{self.where(wrong[0], column)}: {self.printed[column]} {cells[wrong[0]]!r} is not {what}; mend it, or "
                "leave the cell empty"
            )
        return values


def plain(name: str) -> str:
    """A column's name for look-up: lower case, spaces and hyphens as underscores."""
    return re.sub(r"[\s_-]+", "_", clean(name).lower())


def clean(text: str) -> str:
    """Text without spaces at its ends, with ordinary spaces, and without signs of no width."""
    return text.translate(INVISIBLE).strip()


def missing(cells: pd.Series) -> pd.Series:
    """bool: which cells stand for no value. Only for numbers and for values that may lack: never for names."""
    return cells.str.lower().isin(MISSING)


def write_csv(frame: pd.DataFrame, path: str | Path, **options) -> None:
    """`frame.to_csv` in which no text is a formula: a spreadsheet program would run one that a stranger gave as a name.

    Text that begins as a formula gets an apostrophe before it, which `unmarked` takes off again.
    """
    frame = frame.rename(index=_marked, columns=_marked)
    for column in frame.select_dtypes(["object", "str", "category"]).columns:
        frame[column] = pd.Series([_marked(cell) for cell in frame[column]], frame.index, dtype=object)
    frame.to_csv(path, lineterminator="\n", **options)


def unmarked(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells of a CSV file, all text, as `write_csv` had them."""
    return frame.replace(r"^'(?='*[=+@-])", "", regex=True)


def _marked(cell: object) -> object:
    """A number, such as -0.5, is none of the formulas."""
    formula = isinstance(cell, str) and FORMULA.match(cell) and not NUMBER.fullmatch(cell)
    return f"'{cell}" if formula else cell


def read_table(path: str | Path, wanted: Sequence[str] = ()) -> Table:
    """Read a text table (comma, semicolon or tab; UTF-8, UTF-16 or Windows-1252) or an .xlsx workbook, told by its content.

    wanted: plain names of the columns that are read. The header is the row of the first 30 that has the most of them,
    and the sheet the one whose header has the most; without `wanted` the first row that is not blank. Blank rows are
    left out, and columns without a name. InputError, in one line, for: no such file, one that is no table,
    a quotation mark that is not closed, a row with more cells than the header, a wanted column that stands twice, and
    several sheets with the wanted columns.
    """
    content = _content(Path(path))
    if content.startswith(WORKBOOK):
        return _workbook(Path(path), content, wanted)
    text, separator, notes = _dialect(Path(path), content, wanted)
    return _table(Path(path), None, list(_records(Path(path), text, separator, strict=True)), wanted, notes)


def columns_of(path: str | Path, wanted: Sequence[str] = ()) -> set[str]:
    """The plain names in the header of a table, found as `read_table` finds it, whose rows are not read."""
    content = _content(Path(path))
    if content.startswith(WORKBOOK):
        return set(_workbook(Path(path), content, wanted).frame)
    text, separator, _ = _dialect(Path(path), content, wanted)
    rows = list(islice(_records(Path(path), text, separator), TOP_ROWS))
    return {plain(cell) for cell in rows[_header(rows, wanted)][1]} - {""} if rows else set()


def _content(path: Path) -> bytes:
    """The bytes of a file that may be a table."""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a table: give the file")
        if not path.is_file():
            raise InputError(f"no table {path}: give a CSV or .xlsx file")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not content.strip():
        raise _unreadable(path, "it is empty")
    if content.startswith(OLD_WORKBOOK):
        raise _unreadable(path, f"it is an old or encrypted Excel workbook; {SAVE}, without a password")
    return content


def _dialect(path: Path, content: bytes, wanted: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
    """The text, its separator and notes: the separator whose header has the most wanted names, then the most cells."""
    text, notes = _decoded(path, content)
    tops = {separator: list(islice(_records(path, text, separator), TOP_ROWS)) for separator in SEPARATORS}
    return text, max(SEPARATORS, key=lambda separator: _score(tops[separator], wanted)), notes


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"{path} cannot be read as a table: {reason}")


def _decoded(path: Path, content: bytes) -> tuple[str, tuple[str, ...]]:
    """The text, and a note where it was not Unicode."""
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    notes = ()
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise _unreadable(path, f"it begins as UTF-16 and goes on as something else; {SAVE}") from error
        text = content.decode("cp1252", errors="replace")
        words = re.findall(r"[^\W\d_]*[À-ÿ][^\W\d_]*", text)
        letters = "".join(words)
        plainly = letters and 2 * sum(map(str.isascii, letters)) >= len(letters)
        if not plainly or NOT_WINDOWS.search(text) or CONTROL.search(text):
            line = content[: error.start].count(b"\n") + 1
            raise _unreadable(path, f"line {line} is neither UTF-8 nor plainly Windows-1252; {SAVE}") from error
        notes = (f"{path.name} is not UTF-8 and was read as Windows-1252, for example {words[0]!r}",)
    if CONTROL.search(text):
        raise _unreadable(path, f"it holds control characters, so it is no text; {SAVE}")
    return text, notes


def _records(path: Path, text: str, separator: str, strict: bool = False) -> Iterator[Row]:
    """Rows that are not blank. A fault in the quotes ends them, or is an InputError where `strict`."""
    reader = csv.reader(
        StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t", strict=True
    )
    line = 1
    try:
        for cells in reader:
            cells = [clean(cell) for cell in cells]
            if any(cell.strip(BLANK) for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        if strict:
            reason = "a quotation mark is not closed, or stands inside a cell; close it, or write it twice"
            raise InputError(f"{path}, line {line}: {reason}") from error


def _workbook(path: Path, content: bytes, wanted: Sequence[str]) -> Table:
    from openpyxl import load_workbook

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions that no table needs
            book = load_workbook(BytesIO(content), data_only=True)
        sheets = {page.title: rows for page in book.worksheets if (rows := _sheet_rows(path, page))}
    except InputError:
        raise
    except Exception as error:  # openpyxl raises whatever the damaged part of the file makes it meet
        raise _unreadable(path, f"it is no Excel workbook (.xlsx), or a damaged one; {SAVE}") from error
    if not sheets:
        raise _unreadable(path, "its sheets are empty")
    best = max(sheets, key=lambda title: _score(sheets[title][:TOP_ROWS], wanted)[0])
    table = _table(path, best, sheets.pop(best), wanted, ())
    found = set(wanted) & set(table.frame)
    for title, rows in sheets.items():
        place = _header(rows[:TOP_ROWS], wanted)
        if found and found <= {plain(cell) for cell in rows[place][1]} and len(rows) > place + 1:
            raise InputError(f"{path} has these columns on two sheets, {best!r} and {title!r}: keep one, with all rows")
    return table


def _sheet_rows(path: Path, page) -> list[Row]:
    """The rows of a sheet that are not blank; the cells that a column's merged cell covers have its value."""
    if page.max_row * page.max_column > MOST_CELLS:
        raise InputError(
            f"{path}, sheet {page.title!r} spans {page.max_row} rows and {page.max_column} columns: delete what stands "
            "beyond the table, or save it as CSV"
        )
    rows = [[_cell(value) for value in cells] for cells in page.iter_rows(values_only=True)]
    for merged in page.merged_cells.ranges:
        if merged.min_col == merged.max_col:
            for row in rows[merged.min_row - 1 : merged.max_row]:
                row[merged.min_col - 1] = rows[merged.min_row - 1][merged.min_col - 1]
    return [(line, cells) for line, cells in enumerate(rows, start=1) if any(cells)]


def _cell(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else clean(str(value))


def _header(rows: list[Row], wanted: Sequence[str]) -> int:
    """The index of the first row that has the most wanted names."""
    hits = [len(set(wanted) & {plain(cell) for cell in cells}) for _, cells in rows]
    return hits.index(max(hits))


def _score(rows: list[Row], wanted: Sequence[str]) -> tuple[int, int]:
    """How many wanted names the header has, and how many cells."""
    if not rows:
        return 0, 0
    cells = rows[_header(rows, wanted)][1]
    return len(set(wanted) & {plain(cell) for cell in cells}), len(cells)


def _table(path: Path, sheet: str | None, rows: list[Row], wanted: Sequence[str], notes: tuple[str, ...]) -> Table:
    """The table below the header. A name that stands twice is an InputError where it is wanted, else its first column."""
    if not rows:
        raise _unreadable(path, "all its rows are blank")
    place = _header(rows[:TOP_ROWS], wanted)
    line, header = rows[place]
    rows = rows[place + 1 :]
    table = Table(path, sheet, line, pd.DataFrame(), {}, notes)
    for number, cells in rows:
        if any(cells[len(header) :]):
            raise InputError(
                f"{table.where(number)} has {len(cells)} cells, and the header {len(header)}: put a cell that holds the "
                "separator in quotes"
            )
    columns: dict[str, list[str]] = {}
    for index, printed in enumerate(header):
        name = plain(printed)
        cells = [cells[index] if index < len(cells) else "" for _, cells in rows]
        if name == "":
            continue
        if not any(columns.get(name, ())):
            columns[name], table.printed[name] = cells, printed
            table.places[name] = index + 1
        elif any(cells) and (name in wanted or not wanted):
            raise InputError(
                f"{table.where(line)} names a column twice, {table.printed[name]!r} and {printed!r}: keep one of them"
            )
    frame = pd.DataFrame(columns, index=pd.Index([number for number, _ in rows], name="line"), dtype=str)
    return replace(table, frame=frame)
