"""The published tables and methods as data, each with its place in the paper.

Source: Shavlokhova et al., "Finetuning of GLIDE stable diffusion model for AI-based text-conditional image synthesis
of dermoscopic images", Front. Med. 10:1231436 (2023), doi 10.3389/fmed.2023.1231436, CC BY.
"""

from __future__ import annotations

import pandas as pd

from dermstudy.entities import CODES

TRAINING_SETS = ("combined", "original", "synthetic")

_TABLE_1 = """
entity  ssim   psnr    mse    fid      inception_score
mel     0.2186 60.1854 0.0698 115.1804 1.3630
nv      0.2229 61.0407 0.0604  99.2504 1.4739
akiec   0.0612 62.2664 0.0435 174.9675 1.2991
bkl     0.1174 61.7934 0.0506 203.4957 1.3379
bcc     0.1347 64.2892 0.0289 189.7611 1.3193
df      0.0873 63.0862 0.0358 275.1849 1.2379
vasc    0.1589 60.1402 0.0785 252.0546 1.3672
overall 0.1430 61.8288 0.0525 187.1278 1.3426
"""
# Tables 2 and 3: precision, recall and F1 by class number.
_BY_CLASS = """
class combined       original       synthetic      dermatologist
1     0.81 0.60 0.69 0.40 0.35 0.37 0.75 0.65 0.70 0.67 0.70 0.68
2     0.83 0.70 0.76 0.60 0.55 0.57 0.78 0.70 0.74 0.62 0.50 0.56
3     0.80 0.63 0.71 0.58 0.50 0.54 0.80 0.75 0.77 0.60 0.60 0.60
4     0.91 0.55 0.69 0.30 0.23 0.26 0.70 0.60 0.65 0.46 0.85 0.60
5     0.87 0.97 0.92 0.70 0.75 0.73 0.85 0.87 0.86 0.62 0.40 0.48
6     0.82 0.61 0.70 0.50 0.40 0.44 0.76 0.68 0.72 1.00 0.55 0.71
7     0.96 0.76 0.85 0.60 0.50 0.55 0.70 0.60 0.65 0.82 0.90 0.86
"""
_SUMMARY = {  # accuracy; macro precision, recall, F1; weighted precision, recall, F1; None where nothing is printed
    "dermatologist": (0.64, 0.68, 0.64, 0.64, 0.68, 0.64, 0.64),
    "combined": (0.86, 0.86, 0.69, 0.76, 0.86, 0.86, 0.85),
    "original": (0.65, None, None, 0.49, None, None, 0.64),
    "synthetic": (0.80, None, None, 0.73, None, None, 0.80),
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
# Rows of the combined set that the paper gives names to: where, precision, recall, whose row it says it is.
NAMED_ROWS = (
    ("section 3.3", 0.91, 0.55, "akiec"),
    ("section 3.4", 0.91, 0.55, "bkl"),
    ("the legend", 0.91, 0.55, "bkl"),
    ("section 3.3", 0.87, 0.97, "bkl"),
    ("the legend", 0.87, 0.97, "bcc"),
)
SAID_PARAMETERS = 3_500_000_000  # of the baseline model, by section 4
RELEASED_PARAMETERS = 385_000_000  # of GLIDE's base model as OpenAI released it, to a million
METHODS = {  # setting -> (value, place)
    "images": (10_015, "section 2.1"),
    "learning rate": (1e-5, "section 2.1"),
    "weight decay": (0.0, "section 2.1"),
    "unconditional probability": (0.0, "section 2.1"),
    "batch size": (4, "section 2.1"),
    "epochs": (60, "section 2.1"),
    "classifier test share": (0.2, "section 2.4"),
    "classifier epochs": (100, "section 2.4"),
    "classifier patience": (5, "section 2.4"),
    "classifier batch size": (32, "section 2.4"),
}

# What the printed figures determine (`arithmetic` recomputes them), in the paper's class order.
SOURCE_MATRIX = ((66, 4), (1, 69))  # rows: original, AI; columns: called original, called AI
CORRECT = (14, 10, 12, 17, 8, 11, 18)  # of 20 each
PREDICTED = (21, 16, 20, 37, 13, 11, 22)
CORRECT_ON_AI = 62  # of 70; 28 of 70 on originals
# One way in which the right answers and the wrong names can lie on AI images, by entity: it prints one macro F1 of each subset.
RIGHT_ON_AI = (10, 5, 9, 10, 8, 10, 10)
WRONGLY_NAMED_ON_AI = (1, 2, 3, 1, 1, 0, 0)


def table_1() -> pd.DataFrame:
    """Table 1, "Evaluation metrics for the fine-tuned GLIDE model": index entity codes, then "overall"."""
    (_, *names), *lines = (line.split() for line in _TABLE_1.strip().splitlines())
    rows = {entity: [float(value) for value in values] for entity, *values in lines}
    return pd.DataFrame.from_dict(rows, "index", columns=names).rename_axis("entity")


def by_class(training_set: str) -> pd.DataFrame:
    """Precision, recall and F1 by class number 1..7 of a training set of Table 3, or of Table 2's "dermatologist"."""
    (_, *names), *lines = (line.split() for line in _BY_CLASS.strip().splitlines())
    first = 3 * names.index(training_set)
    rows = {int(number): [float(value) for value in values[first : first + 3]] for number, *values in lines}
    return pd.DataFrame.from_dict(rows, "index", columns=["precision", "recall", "f1"]).rename_axis("class")


def summary(training_set: str) -> dict[str, float | None]:
    """Accuracy and the macro and weighted averages printed for a training set of Table 3 or the dermatologist of Table 2."""
    names = [f"{kind} {what}" for kind in ("macro", "weighted") for what in ("precision", "recall", "f1")]
    return dict(zip(["accuracy", *names], _SUMMARY[training_set], strict=True))


def table_2() -> pd.DataFrame:
    """Table 2's dermatologist columns by entity (the legend's order holds there): precision, recall, F1."""
    return by_class("dermatologist").set_axis(pd.Index(CODES, name="entity"))
