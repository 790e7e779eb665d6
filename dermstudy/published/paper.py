"""The published tables and methods as data, each with its place in the paper.

Source: Shavlokhova et al., "Finetuning of GLIDE stable diffusion model for AI-based text-conditional image synthesis
of dermoscopic images", Front. Med. 10:1231436 (2023), doi 10.3389/fmed.2023.1231436, CC BY.
"""

from __future__ import annotations

import pandas as pd

from dermstudy.entities import CODES

TRAINING_SETS = ("combined", "original", "synthetic")

_TABLE_1 = """
mel     0.2186 60.1854 0.0698 115.1804 1.3630
nv      0.2229 61.0407 0.0604  99.2504 1.4739
akiec   0.0612 62.2664 0.0435 174.9675 1.2991
bkl     0.1174 61.7934 0.0506 203.4957 1.3379
bcc     0.1347 64.2892 0.0289 189.7611 1.3193
df      0.0873 63.0862 0.0358 275.1849 1.2379
vasc    0.1589 60.1402 0.0785 252.0546 1.3672
overall 0.1430 61.8288 0.0525 187.1278 1.3426
"""

# Rows by class number 1..7, then accuracy, macro and weighted averages; the paper prints no more than this.
_TABLE_2_DERMATOLOGIST = """
1 0.67 0.70 0.68
2 0.62 0.50 0.56
3 0.60 0.60 0.60
4 0.46 0.85 0.60
5 0.62 0.40 0.48
6 1.00 0.55 0.71
7 0.82 0.90 0.86
"""
_TABLE_3 = {
    "combined": (
        "1 0.81 0.60 0.69",
        "2 0.83 0.70 0.76",
        "3 0.80 0.63 0.71",
        "4 0.91 0.55 0.69",
        "5 0.87 0.97 0.92",
        "6 0.82 0.61 0.70",
        "7 0.96 0.76 0.85",
    ),
    "original": (
        "1 0.40 0.35 0.37",
        "2 0.60 0.55 0.57",
        "3 0.58 0.50 0.54",
        "4 0.30 0.23 0.26",
        "5 0.70 0.75 0.73",
        "6 0.50 0.40 0.44",
        "7 0.60 0.50 0.55",
    ),
    "synthetic": (
        "1 0.75 0.65 0.70",
        "2 0.78 0.70 0.74",
        "3 0.80 0.75 0.77",
        "4 0.70 0.60 0.65",
        "5 0.85 0.87 0.86",
        "6 0.76 0.68 0.72",
        "7 0.70 0.60 0.65",
    ),
}
_SUMMARY = {  # accuracy; macro precision, recall, F1; weighted precision, recall, F1; None where nothing is printed
    "dermatologist": (0.64, (0.68, 0.64, 0.64), (0.68, 0.64, 0.64)),
    "combined": (0.86, (0.86, 0.69, 0.76), (0.86, 0.86, 0.85)),
    "original": (0.65, (None, None, 0.49), (None, None, 0.64)),
    "synthetic": (0.80, (None, None, 0.73), (None, None, 0.80)),
}

# Section 3.2, in the order of the text: what, where it is counted, the printed figure.
READER_FIGURES = (
    ("accuracy", "AI against original", 0.96),
    ("precision original", "AI against original", 0.99),
    ("precision AI", "AI against original", 0.95),
    ("recall original", "AI against original", 0.94),
    ("recall AI", "AI against original", 0.99),
    ("macro F1", "AI against original", 0.96),
    ("weighted F1", "AI against original", 0.96),
    ("accuracy", "entities", 0.64),
    ("macro F1", "entities", 0.64),
    ("weighted F1", "entities", 0.64),
    ("accuracy", "entities, AI images", 0.89),
    ("macro F1", "entities, AI images", 0.88),
    ("weighted F1", "entities, AI images", 0.89),
    ("accuracy", "entities, original images", 0.40),
    ("macro F1", "entities, original images", 0.37),
    ("weighted F1", "entities, original images", 0.40),
)

# Section 3.3: whose confusion matrix of the entities each shows; that of AI against original has no number.
SUPPLEMENTARY_FIGURES = {"S1": "network", "S2": "dermatologist"}

METHODS = {  # setting -> (value, place)
    "images": (10_015, "section 2.1"),
    "input side": (128, "section 2.1"),
    "learning rate": (1e-5, "section 2.1"),
    "weight decay": (0.0, "section 2.1"),
    "unconditional probability": (0.0, "section 2.1"),
    "half precision": (False, "section 2.1"),
    "batch size": (4, "section 2.1"),
    "group sampling": (8, "section 2.1"),
    "epochs": (60, "section 2.1"),
    "upsampling factor": (4, "section 2.1"),
    "output side": (256, "section 2.1"),
    "reader images": (140, "section 2.3"),
    "classifier test share": (0.2, "section 2.4"),
    "classifier epochs": (100, "section 2.4"),
    "classifier patience": (5, "section 2.4"),
    "classifier batch size": (32, "section 2.4"),
    "classifier dense units": (64, "section 2.4"),
    "classifier dropout": (0.5, "section 2.4"),
}


def table_1() -> pd.DataFrame:
    """Table 1, "Evaluation metrics for the fine-tuned GLIDE model": index entity codes, then "overall"."""
    rows = [line.split() for line in _TABLE_1.strip().splitlines()]
    columns = ["ssim", "psnr", "mse", "fid", "inception_score"]
    return pd.DataFrame([[float(v) for v in row[1:]] for row in rows], [row[0] for row in rows], columns).rename_axis(
        "entity"
    )


def by_class(training_set: str) -> pd.DataFrame:
    """Precision, recall and F1 by class number 1..7 of a training set of Table 3, or of Table 2's "dermatologist"."""
    lines = _TABLE_2_DERMATOLOGIST.strip().splitlines() if training_set == "dermatologist" else _TABLE_3[training_set]
    rows = [line.split() for line in lines]
    return pd.DataFrame(
        [[float(v) for v in row[1:]] for row in rows], [int(row[0]) for row in rows], ["precision", "recall", "f1"]
    ).rename_axis("class")


def summary(training_set: str) -> dict[str, float | None]:
    """Accuracy and the macro and weighted averages printed for a training set of Table 3 or the dermatologist of Table 2."""
    accuracy, macro, weighted = _SUMMARY[training_set]
    names = ("precision", "recall", "f1")
    return (
        {"accuracy": accuracy}
        | {f"macro {n}": v for n, v in zip(names, macro, strict=True)}
        | {f"weighted {n}": v for n, v in zip(names, weighted, strict=True)}
    )


def table_2() -> pd.DataFrame:
    """Table 2's dermatologist columns by entity (the legend's order holds there): precision, recall, F1."""
    table = by_class("dermatologist")
    table.index = pd.Index(CODES, name="entity")
    return table


def table_3(order: tuple[str, ...] = CODES) -> pd.DataFrame:
    """Table 3 by entity and training set, its class numbers read as `order` (the printed legend's by default)."""
    parts = {
        training_set: by_class(training_set).set_axis(pd.Index(order, name="entity")) for training_set in TRAINING_SETS
    }
    return pd.concat(parts, axis=1).loc[list(CODES)]


# What the printed figures determine (`arithmetic` recomputes them), in the paper's class order.
SOURCE_MATRIX = ((66, 4), (1, 69))  # rows: original, AI; columns: called original, called AI
CORRECT = (14, 10, 12, 17, 8, 11, 18)  # of 20 each
PREDICTED = (21, 16, 20, 37, 13, 11, 22)
CORRECT_ON_AI = 62  # of 70; 28 of 70 on originals
