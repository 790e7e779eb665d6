"""Arithmetic on the published tables: what their own numbers determine, and where they contradict each other.

Source: Tables 1 to 3 and sections 3.1 to 3.4 of Shavlokhova et al.; every line is recomputed from dermstudy.published.paper.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
import pandas as pd
from scipy.optimize import linprog
from scipy.stats import spearmanr

from dermstudy.entities import CODES, ENTITIES, HAM10000_IMAGES, NAMES
from dermstudy.files import InputError
from dermstudy.published import paper
from dermstudy.published.paper import CORRECT, CORRECT_ON_AI, PREDICTED, SOURCE_MATRIX


@dataclass(frozen=True)
class Finding:
    """One audited claim: what the paper says and where, what was computed, what came out, and one sentence on it."""

    claim: str
    place: str
    computation: str
    result: str
    verdict: str


def findings(section: str) -> pd.DataFrame:
    """The findings of a section, "quality", "reader", "classifier" or "ablation", one row each."""
    sections = {"quality": _quality, "reader": _reader, "classifier": _classifier, "ablation": _ablation}
    if section not in sections:
        raise InputError(f"unknown audit section {section!r}: choose one of {', '.join(sections)}")
    return pd.DataFrame([asdict(finding) for finding in sections[section]()])


# What the printed figures determine


def prints_as(value: float, printed: float) -> bool:
    """Whether `value` rounds to the two printed digits (either way at an exact half)."""
    return abs(value - printed) <= 0.005 + 1e-9


def source_matrices() -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """All 2 x 2 matrices (rows original, AI; 70 images each) that print section 3.2's figures."""
    printed = {(what, place): value for what, place, value in paper.READER_FIGURES}
    place = "AI against original"
    found = []
    for a, d in product(range(71), range(71)):
        b, c = 70 - a, 70 - d
        if a + c == 0 or b + d == 0:
            continue
        precisions, recalls = (a / (a + c), d / (b + d)), (a / 70, d / 70)
        f1 = [2 * p * r / (p + r) if p + r else 0.0 for p, r in zip(precisions, recalls, strict=True)]
        values = {
            "accuracy": (a + d) / 140,
            "precision original": precisions[0],
            "precision AI": precisions[1],
            "recall original": recalls[0],
            "recall AI": recalls[1],
            "macro F1": sum(f1) / 2,
        }
        if all(prints_as(value, printed[name, place]) for name, value in values.items()):
            found.append(((a, b), (c, d)))
    return found


def entity_margins() -> dict[str, list[tuple[int, int]]]:
    """By entity, all (correct, predicted) counts with 20 images that print Table 2's dermatologist columns."""
    table = paper.table_2()
    return {
        code: [
            (correct, predicted)
            for correct in range(1, 21)
            for predicted in range(correct, 121 + correct)
            if prints_as(correct / predicted, row["precision"])
            and prints_as(correct / 20, row["recall"])
            and prints_as(2 * correct / (20 + predicted), row["f1"])
        ]
        for code, row in table.iterrows()
    }


def consistent_margins() -> list[tuple[tuple[int, int], ...]]:
    """The choices of one pair an entity whose predicted counts add up to the 140 images."""
    return [choice for choice in product(*entity_margins().values()) if sum(p for _, p in choice) == 140]


# The two readings of the AI rows


def label_encoder_order() -> tuple[str, ...]:
    """The entity codes in the order that sklearn's LabelEncoder gives the paper's full names."""
    return tuple(entity.code for entity in sorted(ENTITIES, key=lambda entity: entity.paper_label))


def readings() -> pd.DataFrame:
    """Each training set's accuracy as HAM10000's shares and the printed recalls give it, under both orders of the classes.

    Index: training sets; columns: printed, legend, label_encoder. Accuracy is the share-weighted mean of the recalls.
    """
    total = sum(HAM10000_IMAGES.values())
    rows = {}
    for training_set in paper.TRAINING_SETS:
        recalls = paper.by_class(training_set)["recall"].to_numpy()
        rows[training_set] = {"printed": paper.summary(training_set)["accuracy"]} | {
            name: float(sum(HAM10000_IMAGES[code] * r for code, r in zip(order, recalls, strict=True)) / total)
            for name, order in (("legend", CODES), ("label_encoder", label_encoder_order()))
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("training_set")


def psnr_columns() -> pd.DataFrame:
    """Printed PSNR of Table 1 by entity beside what printed MSE gives with a peak of 255 on unit errors, and true PSNR."""
    table = paper.table_1().drop(index="overall")
    return pd.DataFrame(
        {
            "printed": table["psnr"],
            "peak 255, unit errors": 10 * np.log10(255**2 / table["mse"]),
            "true PSNR": 10 * np.log10(1 / table["mse"]),
        }
    )


def share_bounds(training_set: str) -> pd.DataFrame:
    """The least and the largest share of test images that each printed class can have had in `training_set`.

    Whatever the shares were, they add up to one, and weighted by them the printed columns must give the printed
    accuracy and weighted averages, up to rounding: bounds by linear programming (scipy). Columns low, high; index:
    class numbers as printed. Needs no assumption on which entity a number stands for.
    """
    table, summary = paper.by_class(training_set), paper.summary(training_set)
    rounding = 0.01  # of the printed column and of the printed average, half a digit each
    rows, limits = [], []
    for column, name in (("recall", "accuracy"), ("precision", "weighted precision"), ("f1", "weighted f1")):
        if summary.get(name) is not None:
            values = table[column].to_numpy()
            rows += [values, -values]
            limits += [summary[name] + rounding, rounding - summary[name]]
    total = {"A_ub": rows, "b_ub": limits, "A_eq": [np.ones(len(table))], "b_eq": [1.0]}
    bounds = {}
    for place, number in enumerate(table.index):
        unit = np.zeros(len(table))
        unit[place] = 1
        low, high = linprog(unit, **total), linprog(-unit, **total)
        if not (low.success and high.success):
            raise InputError(f"no shares of the classes print the averages of {training_set!r}")
        bounds[number] = {"low": float(low.fun), "high": float(-high.fun)}
    return pd.DataFrame.from_dict(bounds, orient="index").rename_axis("class")


# Findings


def _quality() -> list[Finding]:
    table = paper.table_1()
    rows, overall = table.drop(index="overall"), table.loc["overall"]
    gap = (rows.mean() - overall).abs()
    from_mse = 20 * np.log10(255) - 10 * np.log10(rows["mse"])
    correlation = spearmanr(rows["fid"], [HAM10000_IMAGES[code] for code in rows.index]).statistic
    ranks = rows["ssim"].rank(ascending=False).astype(int)
    return [
        Finding(
            "overall metrics",
            "Table 1",
            "unweighted mean of the seven rows against the printed overall row",
            f"largest difference {gap.max():.4f}",
            "The overall row is the unweighted mean of the entities.",
        ),
        Finding(
            "PSNR of 60 to 64 dB",
            "Table 1",
            "20 log10(255) - 10 log10(MSE) row by row",
            f"printed minus computed {(rows['psnr'] - from_mse).min():+.2f} to {(rows['psnr'] - from_mse).max():+.2f} dB",
            "PSNR sets a peak of 255 against errors on the unit scale, which adds 48.13 dB; true PSNR is "
            f"{(rows['psnr'] - 20 * np.log10(255)).min():.1f} to {(rows['psnr'] - 20 * np.log10(255)).max():.1f} dB.",
        ),
        Finding(
            "FID ranks the entities",
            "Table 1, section 3.1",
            "Spearman's rank correlation of FID with class size",
            f"{correlation:.2f}",
            "FID follows the number of images an entity has, as its small-sample bias does.",
        ),
        Finding(
            "vascular lesions require further improvement, melanoma and nevi perform better",
            "section 3.1",
            "rank of SSIM among the seven entities",
            ", ".join(f"{NAMES[c]} {ranks[c]}" for c in ("nv", "mel", "vasc", "df")),
            f"By SSIM vascular lesions stand in place {ranks['vasc']} of 7, ahead of basal cell carcinoma.",
        ),
        Finding(
            "basal cell carcinoma has the highest PSNR",
            "section 3.1",
            "largest PSNR of Table 1",
            f"{NAMES[rows['psnr'].idxmax()]}, {rows['psnr'].max():.2f} dB",
            "Holds.",
        ),
    ]


def matrix_words(matrix: tuple[tuple[int, int], tuple[int, int]]) -> str:
    """A 2 x 2 matrix of AI against original as a sentence."""
    (original, as_ai), (as_original, ai) = matrix
    return f"{original} originals and {ai} AI images right, {as_ai} and {as_original} wrong"


def _listed(numbers) -> str:
    return ", ".join(map(str, numbers))


def _reader() -> list[Finding]:
    matrices, margins = source_matrices(), consistent_margins()
    table = paper.table_2()
    lowest = table["f1"].idxmin()
    return [
        Finding(
            "AI against original, 96 % accuracy",
            "section 3.2",
            "search over all 71 x 71 matrices with 70 images a row",
            f"{len(matrices)} matrix prints all figures: " + " or ".join(map(matrix_words, matrices)),
            "The matrix is determined." if matrices == [SOURCE_MATRIX] else "The matrix is not determined.",
        ),
        Finding(
            "precision, recall and F1 by entity",
            "Table 2, dermatologist",
            "search over (correct, predicted) with 20 images an entity and 140 predictions in all",
            f"{len(margins)} solution: correct {_listed(c for c, _ in margins[0])}; "
            f"predicted {_listed(p for _, p in margins[0])}",
            "Both margins are determined; the cells off the diagonal are not."
            if margins == [tuple(zip(CORRECT, PREDICTED, strict=True))]
            else "The margins are not determined.",
        ),
        Finding(
            "89 % on AI images, 40 % on originals",
            "section 3.2",
            "whole numbers of 70 that print so, adding to 90 right",
            " or ".join(f"{ai} on AI images, {original} on originals" for ai, original in subset_counts()),
            f"{CORRECT_ON_AI} of 70 and {sum(CORRECT) - CORRECT_ON_AI} of 70.",
        ),
        Finding(
            "macro and weighted F1 of 0.88 and 0.89 (AI), 0.37 and 0.40 (original)",
            "section 3.2",
            "with 10 images an entity all weights are 1/7",
            "macro F1 = weighted F1, whatever the answers",
            "Both pairs contradict the stated 10 images an entity.",
        ),
        Finding(
            "class 2 has the lowest F1, 0.56",
            "section 3.2",
            "smallest F1 of Table 2's dermatologist column",
            f"class {list(CODES).index(lowest) + 1} ({NAMES[lowest]}), {table.loc[lowest, 'f1']:.2f}",
            "The text contradicts Table 2.",
        ),
    ]


def subset_counts() -> list[tuple[int, int]]:
    """(right on AI, right on original) of 70 each that print 0.89 and 0.40 and add up to the 90 right answers."""
    return [
        (a, sum(CORRECT) - a) for a in range(71) if prints_as(a / 70, 0.89) and prints_as((sum(CORRECT) - a) / 70, 0.40)
    ]


def _classifier() -> list[Finding]:
    both = readings()
    combined, bounds = paper.by_class("combined"), share_bounds("combined")
    floor = HAM10000_IMAGES["nv"] / sum(HAM10000_IMAGES.values())
    fit = {name: float((both[name] - both["printed"]).abs().max()) for name in ("legend", "label_encoder")}
    return [
        Finding(
            "classes 1 to 7 are melanoma, nevi, actinic keratoses …",
            "legends of Tables 2 and 3, AI columns",
            "accuracy from the printed recalls and HAM10000's class shares, in the legend's and in LabelEncoder's order",
            "; ".join(
                f"{training_set} printed {row['printed']:.2f}, legend {row['legend']:.2f}, "
                f"LabelEncoder {row['label_encoder']:.2f}"
                for training_set, row in both.iterrows()
            ),
            f"LabelEncoder's order fits within {fit['label_encoder']:.2f}, the legend misses by up to "
            f"{fit['legend']:.2f}: class 5 is melanocytic nevi and the AI rows carry another order than the legend.",
        ),
        Finding(
            "class 5 is basal cell carcinoma",
            "legends of Tables 2 and 3, combined set",
            "linear programming over all class shares that give the printed averages",
            f"class 5 holds {bounds.loc[5, 'low']:.0%} to {bounds.loc[5, 'high']:.0%} of the test images, any other "
            f"at most {bounds.drop(index=5)['high'].max():.0%}",
            f"Whatever the split, class 5 is the majority; basal cell carcinoma is "
            f"{HAM10000_IMAGES['bcc'] / sum(HAM10000_IMAGES.values()):.0%} of HAM10000, nevi are {floor:.0%}.",
        ),
        Finding(
            "AI 0.86 against dermatologist 0.64",
            "section 3.3",
            "balanced accuracy (mean recall) of both",
            f"AI {combined['recall'].mean():.2f}, dermatologist {paper.table_2()['recall'].mean():.2f}",
            "The AI's accuracy is weighted by HAM10000's shares, the reader's images are balanced: compare the means.",
        ),
    ]


def _ablation() -> list[Finding]:
    combined, synthetic = paper.by_class("combined"), paper.by_class("synthetic")
    higher = combined.index[synthetic["recall"] > combined["recall"]]
    named = (f"{NAMES[label_encoder_order()[number - 1]]} (class {number})" for number in higher)
    floor = HAM10000_IMAGES["nv"] / sum(HAM10000_IMAGES.values())
    return [
        Finding(
            "combining enhanced precision and recall across all classes",
            "section 3.4",
            "recall of the combined set against that of the synthetic one",
            f"synthetic-only recall is higher in {', '.join(named)}, as LabelEncoder's order names them",
            "The tables contradict the text.",
        ),
        Finding(
            "original-only accuracy 0.65",
            "Table 3",
            "accuracy of always answering nevus at HAM10000's share",
            f"{floor:.2f}",
            "The published baseline is worse than a classifier that looks at nothing.",
        ),
    ]
