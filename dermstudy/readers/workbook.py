"""Workbooks of a blinded reader study: reading, checking, writing, and the reconstruction of the paper's reader.

Source: Shavlokhova et al., section 2.3 (an Excel file with true and predicted entity, and AI or original) and 3.2.
"""

from __future__ import annotations

import zipfile
from math import comb, log
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError, atomic_path
from dermstudy.published.paper import CORRECT, CORRECT_ON_AI, PREDICTED, SOURCE_MATRIX

COLUMNS = ("reader", "image", "source", "entity", "entity_answer", "source_answer")
SOURCES = ("original", "AI")
SOURCE_ANSWERS = (*SOURCES, "unsure")
KNOWN = {  # what a cell of each column may say
    "entity": tuple(NAMES.values()),
    "entity_answer": tuple(NAMES.values()),
    "source": SOURCES,
    "source_answer": SOURCE_ANSWERS,
}
RECONSTRUCTION = "reconstruction of the published reader"


def read_workbook(path: str | Path) -> pd.DataFrame:
    """The answers of one or several readers, one row an image and reader, with entity codes.

    Columns COLUMNS, and confidence (1..5) where given; entities may stand as names or as HAM10000 codes. InputError
    names the row and the column for: a file that is no workbook, a missing column, an empty cell, an unknown entity
    or source, and an image that one reader answered twice.
    """
    path = Path(path)
    try:
        frame = pd.read_excel(path, dtype=str, engine="openpyxl")
    except FileNotFoundError as error:
        raise InputError(f"no workbook {path}: give the .xlsx file of the reader study") from error
    except (zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        raise InputError(f"{path} is not an Excel workbook (.xlsx): save it as one") from error
    lacking = [column for column in COLUMNS if column not in frame.columns]
    if lacking:
        raise InputError(f"{path} has no column {', '.join(lacking)}: the first row must name {', '.join(COLUMNS)}")
    if frame.empty:
        raise InputError(f"{path} holds no answers: one row an image is needed")
    codes = {name: code for code, name in NAMES.items()} | {code: code for code in CODES}
    for column in COLUMNS:
        cells = frame[column].str.strip()
        empty = frame.index[cells.isna() | (cells == "")]
        if len(empty):
            raise InputError(f"{path}, row {empty[0] + 2}: {column} is empty; fill it in")
        if column in KNOWN:
            is_entity = column.startswith("entity")
            allowed = list(codes) if is_entity else KNOWN[column]  # an entity may also stand as its code
            unknown = frame.index[~cells.isin(allowed)]
            if len(unknown):
                raise InputError(
                    f"{path}, row {unknown[0] + 2}: unknown {column} {cells[unknown[0]]!r}; "
                    f"known are {', '.join(KNOWN[column])}"
                )
            if is_entity:
                cells = cells.map(codes)
        frame[column] = cells
    if "kit" in frame and frame["kit"].nunique() > 1:
        kits = ", ".join(sorted(frame["kit"].dropna().unique()))
        raise InputError(f"{path} holds answers of {frame['kit'].nunique()} kits ({kits}): analyse each by itself")
    double = frame.index[frame.duplicated(["reader", "image"])]
    if len(double):
        row = frame.loc[double[0]]
        raise InputError(
            f"{path}, row {double[0] + 2}: reader {row['reader']} answered image {row['image']} twice; keep one row"
        )
    if "confidence" in frame:
        frame["confidence"] = pd.to_numeric(frame["confidence"], errors="coerce")
        wrong = frame.index[~frame["confidence"].between(1, 5)]
        if len(wrong):
            raise InputError(f"{path}, row {wrong[0] + 2}: confidence must be a number from 1 to 5")
    return frame


def write_workbook(frame: pd.DataFrame, path: str | Path, readers: pd.DataFrame | None = None) -> Path:
    """Write answers as an .xlsx workbook with the entities' plain names, whole or not at all.

    readers: the kit's readers with their links, for a second sheet.
    """
    readable = frame.assign(entity=frame["entity"].map(NAMES), entity_answer=frame["entity_answer"].map(NAMES))
    with atomic_path(path) as temporary, pd.ExcelWriter(temporary, engine="openpyxl") as workbook:
        readable.to_excel(workbook, index=False, sheet_name="answers")
        if readers is not None:
            readers.to_excel(workbook, index=False, sheet_name="readers")
    return Path(path)


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
    """Correct answers on AI images by entity, `total` in all, such that the most arrangements of images give them."""
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for count in correct:
        reached: dict[int, tuple[float, list[int]]] = {}
        for so_far, (weight, chosen) in best.items():
            for on_ai in range(max(0, count - each), min(each, count) + 1):
                value = weight + log(comb(each, on_ai)) + log(comb(each, count - on_ai))
                if value > reached.get(so_far + on_ai, (-1.0, []))[0]:
                    reached[so_far + on_ai] = (value, [*chosen, on_ai])
        best = reached
    return best[total][1]


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
