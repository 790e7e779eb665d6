"""Workbooks of a blinded reader study: reading, checking, writing, and the reconstruction of the paper's reader.

Source: Shavlokhova et al., section 2.3 (an Excel file with true and predicted entity, and AI or original) and 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.entities import CODES, ENTITIES, NAMES
from dermstudy.files import InputError, atomic_path
from dermstudy.published.paper import CORRECT, CORRECT_ON_AI, PREDICTED, SOURCE_MATRIX
from dermstudy.tables import Table, read_table, unmarked, write_csv

COLUMNS = ("reader", "image", "source", "entity", "entity_answer", "source_answer")
SOURCES = ("original", "AI")
SOURCE_ANSWERS = (*SOURCES, "unsure")
ENTITY_MEANINGS = {word.lower(): own.code for own in ENTITIES for word in (own.code, own.name, own.paper_label)}
SOURCE_MEANINGS = {answer.lower(): answer for answer in SOURCE_ANSWERS}
MEANINGS = {  # what a cell of each column may say in whichever case, and what it means
    "source": {word: source for word, source in SOURCE_MEANINGS.items() if source in SOURCES},
    "entity": ENTITY_MEANINGS,
    "entity_answer": ENTITY_MEANINGS,
    "source_answer": SOURCE_MEANINGS,
}
KNOWN = {"source": SOURCES, "entity": NAMES.values(), "entity_answer": NAMES.values(), "source_answer": SOURCE_ANSWERS}
RECONSTRUCTION = "reconstruction of the published reader"


def read_workbook(path: str | Path) -> pd.DataFrame:
    """The answers of one or several readers, one row an image and reader, with entity codes.

    An .xlsx workbook or a text table. Columns COLUMNS, and confidence (1..5, NaN where a cell is empty) unless all its
    cells are; entities may stand as names, as the paper's labels or as HAM10000 codes, in whichever case. InputError
    names the cell for: what `read_table` refuses, a missing column, an empty cell, an unknown entity or source, and an
    image that one reader answered twice.
    """
    table = read_answers(path, COLUMNS)
    frame = table.frame
    for column in COLUMNS:
        cells = table.filled(column).str.split().str.join(" ")
        if column in MEANINGS:
            meant = cells.str.lower().map(MEANINGS[column])
            unknown = cells.index[meant.isna()]
            if len(unknown):
                raise InputError(
                    f"{table.where(unknown[0], column)}: unknown {table.printed[column]} {cells[unknown[0]]!r}; "
                    f"known are {', '.join(KNOWN[column])}"
                )
            cells = meant
        frame[column] = cells
    kits = sorted(set(frame.get("kit", ())) - {""})
    if len(kits) > 1:
        raise InputError(f"{path} holds answers of {len(kits)} kits ({', '.join(kits)}): analyse each by itself")
    double = frame.index[frame.duplicated(["reader", "image"])]
    if len(double):
        row = frame.loc[double[0]]
        raise InputError(
            f"{table.where(double[0], 'image')}: reader {row['reader']} answered image {row['image']} twice; keep one row"
        )
    return frame.reset_index(drop=True)


def read_answers(path: str | Path, columns: Sequence[str]) -> Table:
    """A table of answers that has `columns`: cells as they were written, confidence as numbers, or absent where empty.

    InputError for what `read_table` refuses, a missing column, no row, and a confidence that is no number from 1 to 5.
    """
    table = read_table(path, (*columns, "confidence"))
    print(*table.notes, sep="\n", end="\n" * bool(table.notes))
    table.require(*columns)
    frame = unmarked(table.frame) if table.sheet is None else table.frame
    if "confidence" in frame:
        confidence = table.numbers("confidence", 1, 5, "a number from 1 to 5")
        frame["confidence"] = confidence.astype(int) if (confidence % 1 == 0).all() else confidence
        frame = frame.drop(columns="confidence") if confidence.isna().all() else frame
    return replace(table, frame=frame)


def write_workbook(frame: pd.DataFrame, path: str | Path, readers: pd.DataFrame | None = None) -> Path:
    """Write answers with the entities' plain names as an .xlsx workbook or a .csv file, whole or not at all.

    readers: the kit's readers with their links, for a second sheet; a .csv file holds the answers alone. InputError for
    any other ending of `path`.
    """
    path = Path(path)
    readable = frame.assign(entity=frame["entity"].map(NAMES), entity_answer=frame["entity_answer"].map(NAMES))
    if path.suffix.lower() == ".csv":
        with atomic_path(path) as temporary:
            write_csv(readable, temporary, index=False)
    elif path.suffix.lower() == ".xlsx":
        sheets = {"answers": readable} | ({} if readers is None else {"readers": readers})
        with atomic_path(path) as temporary:
            book_of(sheets).save(temporary)
    else:
        raise InputError(f"{path}: answers are written as .xlsx or .csv; name the file with one of these endings")
    return path


def book_of(sheets: dict[str, pd.DataFrame]):
    """A workbook whose text cells are text, whatever they begin with."""
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.active)
    for title, frame in sheets.items():
        page = book.create_sheet(title)
        for number, row in enumerate([frame.columns, *frame.itertuples(index=False)], start=1):
            for place, value in enumerate(row, start=1):
                cell = page.cell(number, place, None if pd.isna(value) else value)
                if isinstance(value, str):
                    cell.data_type, cell.number_format = "s", "@"
    return book


def reconstruct_published_reader(seed: int = 0) -> pd.DataFrame:
    """140 answers that print the paper's reader figures: a reconstruction, and labelled so in every row.

    Determined by the printed figures: the AI-against-original matrix, each entity's correct and predicted counts, and
    the number right on AI and on original images. Not determined, and chosen here: the cells off the diagonal (the
    maximum-entropy matrix with these margins, rounded), how an entity's correct answers divide between AI and original
    images (the division with the most arrangements), and which image got which answer (drawn from `seed`).
    """
    random = np.random.default_rng(seed)
    confusion = _rounded(_maximum_entropy(np.array(CORRECT), np.array(PREDICTED)))
    on_ai = most_arrangements(CORRECT, CORRECT_ON_AI)
    rows = []
    for place, code in enumerate(CODES):
        counts = confusion[place].copy()
        counts[place] = 0
        wrong = random.permutation(np.repeat(np.arange(7), counts))
        right = {"AI": on_ai[place], "original": CORRECT[place] - on_ai[place]}
        for source in ("AI", "original"):
            answers = [place] * right[source] + list(wrong[: 10 - right[source]])
            wrong = wrong[10 - right[source] :]
            rows += [{"source": source, "entity": code, "entity_answer": CODES[a]} for a in random.permutation(answers)]
    frame = pd.DataFrame(rows)
    for source, (original, ai) in zip(SOURCES, SOURCE_MATRIX, strict=True):
        own = frame.index[frame["source"] == source]
        frame.loc[own, "source_answer"] = random.permutation(["original"] * original + ["AI"] * ai)
    frame = frame.iloc[random.permutation(len(frame))].reset_index(drop=True)
    frame.insert(0, "reader", "published")
    frame.insert(1, "image", [f"image_{number:03d}" for number in range(1, len(frame) + 1)])
    frame["provenance"] = RECONSTRUCTION
    return frame[[*COLUMNS, "provenance"]]


def most_arrangements(correct: tuple[int, ...], total: int, each: int = 10) -> list[int]:
    """Correct answers on AI images by entity, `total` in all, such that the most arrangements of images give them.

    One answer more on AI images multiplies an entity's arrangements by a factor that falls with each, so the largest
    factor is taken every time.
    """
    on_ai = [max(0, count - each) for count in correct]

    def factor(place: int) -> float:
        ai, original = on_ai[place], correct[place] - on_ai[place]
        return (each - ai) / (ai + 1) * original / (each - original + 1)

    while sum(on_ai) < total:
        on_ai[max(range(len(correct)), key=factor)] += 1
    return on_ai


def _maximum_entropy(correct: np.ndarray, predicted: np.ndarray, each: int = 20) -> np.ndarray:
    """The confusion matrix [7, 7] of largest entropy with the given diagonal and margins (iterative fitting)."""
    off = 1.0 - np.eye(len(correct))
    rows, columns = each - correct, predicted - correct
    for _ in range(500):
        off *= (rows / np.maximum(off.sum(axis=1), 1e-300))[:, None]
        off *= columns / np.maximum(off.sum(axis=0), 1e-300)
    return off + np.diag(correct)


def _rounded(matrix: np.ndarray) -> np.ndarray:
    """Integers nearest to `matrix` among those with the same margins (a transport problem, hence whole numbers)."""
    from scipy.optimize import linprog

    floor = np.floor(matrix + 1e-9)
    part = matrix - floor
    size = len(matrix)
    constraints = np.vstack([np.kron(np.eye(size), np.ones(size)), np.kron(np.ones(size), np.eye(size))])
    margins = np.concatenate([part.sum(axis=1), part.sum(axis=0)]).round()
    upper = np.where(part.ravel() > 1e-6, 1, 0)
    solution = linprog(-part.ravel(), A_eq=constraints, b_eq=margins, bounds=list(zip(0 * upper, upper, strict=True)))
    return (floor + solution.x.reshape(size, size).round()).astype(int)
