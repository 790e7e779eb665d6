"""Scores of test predictions: reports by entity, the always-nevus floor, lesion-clustered intervals, summaries.

Sources: Shavlokhova et al., section 2.5 and Tables 2 and 3 (reports); Field and Welsh, J. R. Stat. Soc. B 69 (2007) for
the bootstrap of clusters. scikit-learn does the mathematics of each score.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import classification_report, confusion_matrix, roc_auc_score

from dermstudy import paper
from dermstudy.entities import CODES, NAMES

MODEL = "paper's CNN"
Runs = dict[tuple[str, str], list[pd.DataFrame]]  # (protocol, arm) -> test predictions of each seed


def report(predictions: pd.DataFrame) -> pd.DataFrame:
    """sklearn's classification report by entity in the paper's class order, with accuracy and the averages."""
    content = classification_report(
        predictions["dx"], predictions["answer"], labels=list(CODES), output_dict=True, zero_division=0.0
    )
    accuracy = float((predictions["dx"] == predictions["answer"]).mean())
    content.pop("accuracy", None)
    content.pop("micro avg", None)
    averages = {name: content.pop(name) for name in ("macro avg", "weighted avg")}
    content["accuracy"] = dict.fromkeys(("precision", "recall", "f1-score"), accuracy) | {"support": len(predictions)}
    table = pd.DataFrame.from_dict(content | averages, orient="index")
    return table.rename(columns={"f1-score": "f1"}).astype({"support": int}).rename_axis("entity")


def confusion(predictions: pd.DataFrame) -> np.ndarray:
    """Counts [7, 7], rows true, columns answered, in the paper's class order."""
    return confusion_matrix(predictions["dx"], predictions["answer"], labels=list(CODES))


def scores(predictions: pd.DataFrame) -> dict[str, float]:
    """Accuracy, balanced accuracy (mean recall of the entities in the test set), macro F1 and macro one-vs-rest AUC."""
    table = report(predictions)
    present = [code for code in CODES if table.loc[code, "support"]]
    areas = [
        roc_auc_score(predictions["dx"] == code, predictions[code])
        for code in present
        if table.loc[code, "support"] < len(predictions)
    ]
    return {
        "accuracy": float(table.loc["accuracy", "recall"]),
        "balanced accuracy": float(table.loc[present, "recall"].mean()),
        "macro F1": float(table.loc[present, "f1"].mean()),
        "AUC": float(np.mean(areas)) if areas else float("nan"),
    }


def floors(predictions: pd.DataFrame) -> dict[str, float]:
    """What always answering the nevus scores on this test set."""
    return scores(predictions.assign(answer="nv", **{code: float(code == "nv") for code in CODES}))


def clustered_bootstrap(
    predictions: list[pd.DataFrame],
    statistic: Callable[[pd.DataFrame], float],
    repeats: int = 200,
    seed: int = 0,
    other: list[pd.DataFrame] | None = None,
) -> tuple[float, float]:
    """95 % percentile interval of `statistic`, by resampling test lesions (column group) and, with them, seeds.

    predictions: one frame a training seed over the same test images. other: a second model's frames, paired by seed;
    then the interval is that of the difference. Resampling whole lesions keeps sister images together; the interval
    is conditional on one generator.
    """
    random = np.random.default_rng(seed)
    first = predictions[0]
    members = [np.flatnonzero(first["group"].to_numpy() == group) for group in pd.unique(first["group"])]
    values = []
    for _ in range(repeats):
        rows = np.concatenate([members[index] for index in random.integers(0, len(members), len(members))])
        chosen = random.integers(0, len(predictions))
        value = statistic(predictions[chosen].iloc[rows])
        values.append(value - statistic(other[chosen].iloc[rows]) if other else value)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def balanced_accuracy(predictions: pd.DataFrame) -> float:
    """The mean recall of the entities in the test set."""
    return float((predictions["dx"] == predictions["answer"]).groupby(predictions["dx"].to_numpy()).mean().mean())


def accuracy(predictions: pd.DataFrame) -> float:
    """The share of test images answered rightly."""
    return float((predictions["dx"] == predictions["answer"]).mean())


INTERVALS = {"accuracy": accuracy, "balanced accuracy": balanced_accuracy}


def every_run(runs: Runs, seeds: list[int]) -> pd.DataFrame:
    """The scores and the recall by entity of each run: columns protocol, arm, model, seed, metric, value."""
    rows = []
    for (protocol, arm), predictions in runs.items():
        for seed, own in zip(seeds, predictions, strict=True):
            recall = report(own).loc[list(CODES), "recall"].rename(lambda code: f"recall {NAMES[code]}")
            for metric, value in {**scores(own), **recall.to_dict()}.items():
                rows.append(
                    {"protocol": protocol, "arm": arm, "model": MODEL, "seed": seed, "metric": metric, "value": value}
                )
    return pd.DataFrame(rows)


def summary(runs: Runs, repeats: int, seed: int) -> pd.DataFrame:
    """Accuracy and balanced accuracy of each arm: mean over seeds, interval, floor, and the paper's figure as published.

    Columns protocol, arm, model, metric, mean, low, high, always_nevus, paper; the paper's balanced accuracy is the mean
    of its printed recalls.
    """
    rows = []
    for (protocol, arm), predictions in runs.items():
        printed = {
            "accuracy": paper.summary(arm)["accuracy"],
            "balanced accuracy": paper.by_class(arm)["recall"].mean(),
        }
        for metric, statistic in INTERVALS.items():
            low, high = clustered_bootstrap(predictions, statistic, repeats, seed)
            rows.append({
                "protocol": protocol, "arm": arm, "model": MODEL, "metric": metric,
                "mean": float(np.mean([statistic(own) for own in predictions])), "low": low, "high": high,
                "always_nevus": floors(predictions[0])[metric],
                "paper": printed[metric] if protocol == "as published" else None,
            })  # fmt: skip
    return pd.DataFrame(rows)


def paired_difference(
    first: list[pd.DataFrame],
    second: list[pd.DataFrame],
    repeats: int,
    seed: int,
    statistic: Callable[[pd.DataFrame], float] = balanced_accuracy,
) -> dict[str, float]:
    """`first` minus `second` on the same test images: difference, interval, and half its width as what is detectable."""
    values = [statistic(a) - statistic(b) for a, b in zip(first, second, strict=True)]
    low, high = clustered_bootstrap(first, statistic, repeats, seed, other=second)
    return {"difference": float(np.mean(values)), "low": low, "high": high, "detectable": (high - low) / 2}
