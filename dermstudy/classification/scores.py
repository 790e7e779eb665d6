"""Scores of test predictions: reports by entity, the always-nevus floor, lesion-clustered intervals, summaries.

Sources: Shavlokhova et al., section 2.5 and Tables 2 and 3 (reports); Field and Welsh, J. R. Stat. Soc. B 69 (2007) for
the bootstrap of clusters. The metrics that intervals repeat are in numpy; tests hold them against scikit-learn's.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import classification_report, confusion_matrix

from dermstudy.classification import protocol as trial_protocol
from dermstudy.classification.training_sets import PROTOCOLS, PUBLISHED
from dermstudy.entities import CODES, NAMES
from dermstudy.intervals import clustered_bootstrap, paired_difference
from dermstudy.published import arithmetic, paper

Runs = dict[
    tuple[str, str], list[pd.DataFrame]
]  # (protocol, training set) -> the Keras network's answers, a frame a seed
RUN_COLUMNS = ["model", "training_set", "seed", "protocol", "metric", "value"]


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


def report_rows(reports: dict[tuple[str, str], pd.DataFrame], seed: int) -> pd.DataFrame:
    """`report` of one run a protocol and training set, a number a row: protocol, training_set, model, seed, entity,
    metric, value."""
    parts = [
        table.reset_index()
        .melt("entity", var_name="metric")
        .assign(protocol=protocol, training_set=name, model=trial_protocol.KERAS, seed=seed)
        for (protocol, name), table in reports.items()
    ]
    return pd.concat(parts)[["protocol", "training_set", "model", "seed", "entity", "metric", "value"]]


def recalls_in_both_orders(reports: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Recall by entity: the paper's combined set in either order of its classes, and this run's reports by protocol."""
    printed = paper.by_class("combined")["recall"].to_numpy()
    orders = {"legend": CODES, "LabelEncoder": arithmetic.label_encoder_order()}
    theirs = {name: pd.Series(printed, index=list(order)) for name, order in orders.items()}
    own = {protocol: table["recall"] for protocol, table in reports.items()}
    parts = {"paper, combined, recall": theirs, "this run, recall": own}
    return pd.concat({head: pd.concat(columns, axis=1).reindex(CODES) for head, columns in parts.items()}, axis=1)


def confusion(predictions: pd.DataFrame) -> np.ndarray:
    """Counts [7, 7], rows true, columns answered, in the paper's class order."""
    return confusion_matrix(predictions["dx"], predictions["answer"], labels=list(CODES))


def scores(predictions: pd.DataFrame) -> dict[str, float]:
    """Every metric of METRICS."""
    return {name: metric(predictions) for name, metric in METRICS.items()}


def floors(predictions: pd.DataFrame) -> dict[str, float]:
    """What always answering the nevus, with certainty, scores on this test set."""
    return scores(predictions.assign(answer="nv", **{code: float(code == "nv") for code in CODES}))


def accuracy(predictions: pd.DataFrame) -> float:
    """The share of test images answered rightly."""
    return float((predictions["dx"] == predictions["answer"]).mean())


def balanced_accuracy(predictions: pd.DataFrame) -> float:
    """The mean recall of the entities in the test set."""
    return float((predictions["dx"] == predictions["answer"]).groupby(predictions["dx"].to_numpy()).mean().mean())


def macro_f1(predictions: pd.DataFrame) -> float:
    """The mean F1 of the entities in the test set."""
    true, answered = predictions["dx"].to_numpy(), predictions["answer"].to_numpy()
    values = []
    for code in pd.unique(true):
        right = ((true == code) & (answered == code)).sum()
        values.append(2 * right / ((true == code).sum() + (answered == code).sum()))
    return float(np.mean(values))


def area(predictions: pd.DataFrame) -> float:
    """The mean area under the ROC curve, each entity of the test set against the rest; ties count half."""
    true, ranks = predictions["dx"].to_numpy(), rankdata(predictions[list(CODES)].to_numpy(), axis=0)
    values = []
    for place, code in enumerate(CODES):
        own = true == code
        positive, negative = own.sum(), (~own).sum()
        if positive and negative:
            values.append((ranks[own, place].sum() - positive * (positive + 1) / 2) / (positive * negative))
    return float(np.mean(values)) if values else float("nan")


def calibration_error(predictions: pd.DataFrame, bins: int = 15) -> float:
    """Expected calibration error: |accuracy - confidence| of the answers, over equal bins of confidence, by their number.

    Source: Guo et al. (arXiv 1706.04599), equation 3. 0 where a confidence of 0.8 is right in 80 % of answers.
    """
    table = reliability(predictions, bins)
    return float((table["n"] * (table["accuracy"] - table["confidence"]).abs()).sum() / table["n"].sum())


def reliability(predictions: pd.DataFrame, bins: int = 15) -> pd.DataFrame:
    """The answers by bin of confidence: columns confidence (mean), accuracy, n; empty bins are left out."""
    confidence = predictions[list(CODES)].to_numpy().max(axis=1)
    right = (predictions["dx"] == predictions["answer"]).to_numpy()
    own = np.minimum((confidence * bins).astype(int), bins - 1)
    n = np.bincount(own, minlength=bins)
    kept = n > 0
    sums = (np.bincount(own, weights=values, minlength=bins)[kept] for values in (confidence, right))
    confidence, right = (total / n[kept] for total in sums)
    return pd.DataFrame({"confidence": confidence, "accuracy": right, "n": n[kept]})


CALIBRATION = "calibration error"
METRICS = {
    "accuracy": accuracy,
    "balanced accuracy": balanced_accuracy,
    "macro F1": macro_f1,
    "AUC": area,
    CALIBRATION: calibration_error,
}
HEADLINES = ("accuracy", "balanced accuracy")  # drawn beside the paper's


def every_run(runs: Runs, seeds: list[int] | None = None) -> pd.DataFrame:
    """The scores and the recall by entity of each run of the Keras network: RUN_COLUMNS.

    seeds: of the frames of every set; None reads each frame's own, from its column seed.
    """
    rows = []
    for (protocol, name), predictions in runs.items():
        own_seeds = [own["seed"].iloc[0] for own in predictions] if seeds is None else seeds
        for seed, own in zip(own_seeds, predictions, strict=True):
            recall = report(own).loc[list(CODES), "recall"].rename(lambda code: f"recall {NAMES[code]}")
            for metric, value in {**scores(own), **recall.to_dict()}.items():
                rows.append((trial_protocol.KERAS, name, seed, protocol, metric, value))
    return pd.DataFrame(rows, columns=RUN_COLUMNS)


def summary(runs: Runs, repeats: int, seed: int) -> pd.DataFrame:
    """Every metric of each training set: mean over seeds, interval, floor, and the paper's figure as published.

    Columns protocol, training_set, metric, mean, low, high, always_nevus, paper; the paper's balanced accuracy is the
    mean of its printed recalls. Calibration error has no interval: the same lesions drawn twice make it larger than it is.
    """
    rows = []
    for (protocol, name), predictions in runs.items():
        printed = {}
        if protocol == PROTOCOLS[0] and name in PUBLISHED:
            printed["accuracy"] = paper.summary(name)["accuracy"]
            printed["balanced accuracy"] = paper.by_class(name)["recall"].mean()
        floor = floors(predictions[0])
        for metric, statistic in METRICS.items():
            low, high = np.nan, np.nan
            if metric != CALIBRATION:
                low, high = clustered_bootstrap(predictions, statistic, repeats, seed)
            rows.append({
                "protocol": protocol, "training_set": name, "metric": metric,
                "mean": float(np.mean([statistic(own) for own in predictions])), "low": low, "high": high,
                "always_nevus": floor[metric], "paper": printed.get(metric),
            })  # fmt: skip
    columns = ["protocol", "training_set", "metric", "mean", "low", "high", "always_nevus", "paper"]
    return pd.DataFrame(rows, columns=columns)


def beside_readers(predictions: list[pd.DataFrame], answers: pd.DataFrame, repeats: int, seed: int) -> pd.DataFrame:
    """Each reader and a network on the same original images of a kit: share of entities named, paired difference.

    predictions: test predictions of each seed; answers: reader, original_name, source, entity, entity_answer, one row an
    image and reader. Columns reader, n, reader_accuracy, network_accuracy, difference (network minus reader), low, high;
    the interval resamples lesions and seeds. Empty where no original of the kit is among the predicted images.
    """
    rows = []
    shown = answers[(answers["source"] == "original") & answers["original_name"].isin(predictions[0]["image_id"])]
    for reader, own in shown.groupby("reader"):
        named = own.set_index("original_name")["entity_answer"]
        network = [run[run["image_id"].isin(named.index)].reset_index(drop=True) for run in predictions]
        person = [run.assign(answer=run["image_id"].map(named)) for run in network]
        change = paired_difference(network, person, accuracy, repeats, seed)
        rows.append({
            "reader": reader, "n": len(named), "reader_accuracy": accuracy(person[0]),
            "network_accuracy": float(np.mean([accuracy(run) for run in network])),
            **{key: change[key] for key in ("difference", "low", "high")},
        })  # fmt: skip
    columns = ["reader", "n", "reader_accuracy", "network_accuracy", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def interval_words(seeds: int) -> str:
    """What an interval of this room is over, for a label: test lesions, and seeds where there are several."""
    return "95 % interval over test lesions " + ("and seeds" if seeds > 1 else "(one seed)")
