"""Tables of 06 and 07 but for the trial's: reports by entity, the always-nevus floor, intervals, steps, and 06's ladder.

Sources: Shavlokhova et al., section 2.5 and Tables 2 and 3 (reports); Field and Welsh, J. R. Stat. Soc. B 69 (2007) for
the bootstrap of clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from sklearn.metrics import classification_report, confusion_matrix

from dermstudy.classification import measures, protocol
from dermstudy.classification.inference import Contrast, Estimate, Lesions, estimate, lesions_of, mean_area, mean_recall
from dermstudy.classification.predictions import Predictions
from dermstudy.classification.training_sets import PROTOCOLS, PUBLISHED
from dermstudy.entities import CODES, NAMES
from dermstudy.intervals import paired_difference, quantiles
from dermstudy.published import arithmetic, paper

Runs = Mapping[tuple[str, str], Predictions]  # by protocol and training set: the sound runs on its test images
Climbed = Mapping[
    str, Mapping[str, Predictions]
]  # by network and step of the ladder: the runs on the step's test images
RUN_COLUMNS = ["model", "training_set", "seed", "protocol", "metric", "value"]
CALIBRATION = "calibration error"
METRICS = {
    "accuracy": measures.accuracy,
    "balanced accuracy": measures.balanced_accuracy,
    "macro F1": measures.macro_f1,
    "AUC": measures.macro_area,
    CALIBRATION: measures.calibration_error,
}
HEADLINES = ("accuracy", "balanced accuracy")  # drawn beside the paper's
STEP_MEASURES = ("balanced accuracy", protocol.MACRO_AUC)


def report(found: Predictions, run: int = 0) -> pd.DataFrame:
    """sklearn's classification report of one run by entity in the paper's class order, with accuracy and the averages."""
    answers = found.frame(run)
    content = classification_report(
        answers["dx"], answers["answer"], labels=list(CODES), output_dict=True, zero_division=0.0
    )
    right = float((answers["dx"] == answers["answer"]).mean())
    averages = {name: content.pop(name) for name in ("macro avg", "weighted avg")}
    for name in ("accuracy", "micro avg"):
        content.pop(name, None)
    content["accuracy"] = dict.fromkeys(("precision", "recall", "f1-score"), right) | {"support": len(answers)}
    table = pd.DataFrame.from_dict(content | averages, orient="index")
    return table.rename(columns={"f1-score": "f1"}).astype({"support": int}).rename_axis("entity")


def report_rows(reports: Mapping[tuple[str, str], pd.DataFrame], seed: int) -> pd.DataFrame:
    """`report` by protocol and training set, a number a row: protocol, training_set, model, seed, entity, metric, value."""
    parts = [
        table.reset_index()
        .melt("entity", var_name="metric")
        .assign(protocol=kind, training_set=name, model=protocol.KERAS, seed=seed)
        for (kind, name), table in reports.items()
    ]
    return pd.concat(parts)[["protocol", "training_set", "model", "seed", "entity", "metric", "value"]]


def recalls_in_both_orders(reports: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Recall by entity: the paper's combined set in either order of its classes, and this run's reports by protocol."""
    printed = paper.by_class("combined")["recall"].to_numpy()
    orders = {"legend": CODES, "LabelEncoder": arithmetic.label_encoder_order()}
    theirs = {name: pd.Series(printed, index=list(order)) for name, order in orders.items()}
    own = {kind: table["recall"] for kind, table in reports.items()}
    tables = {"paper, combined, recall": theirs, "this run, recall": own}
    return pd.concat({head: pd.concat(columns, axis=1).reindex(CODES) for head, columns in tables.items()}, axis=1)


def confusion(found: Predictions, run: int = 0) -> np.ndarray:
    """Counts [7, 7] of one run, rows true, columns answered, in the paper's class order."""
    answers = found.frame(run)
    return confusion_matrix(answers["dx"], answers["answer"], labels=list(CODES))


def reliability(found: Predictions, run: int = 0) -> pd.DataFrame:
    """One run's answers by bin of confidence, as `measures.reliability` gives them."""
    return measures.reliability(np.exp(found.log_probabilities[run]), measures.places_of(found.images["dx"]))


def every_run(runs: Runs) -> pd.DataFrame:
    """The scores and the recall by entity (0 of an absent one) of each run: RUN_COLUMNS."""
    rows = []
    for (kind, name), found in runs.items():
        probabilities = np.exp(found.log_probabilities)
        values = {metric: measures.of_runs(measure, found, probabilities) for metric, measure in METRICS.items()}
        by_entity = np.nan_to_num(measures.of_runs(measures.recalls, found, probabilities))
        values |= {f"recall {NAMES[code]}": by_entity[:, place] for place, code in enumerate(CODES)}
        for place, seed in enumerate(found.runs["seed"]):
            rows += [(protocol.KERAS, name, seed, kind, metric, own[place]) for metric, own in values.items()]
    return pd.DataFrame(rows, columns=RUN_COLUMNS)


def summary(runs: Runs, repeats: int, seed: int) -> pd.DataFrame:
    """Every metric of each training set: mean over seeds, interval, floor, and the paper's figure as published.

    Columns protocol, training_set, metric, mean, low, high, always_nevus, paper; always_nevus is what a certain nevus for
    every image scores, the paper's balanced accuracy the mean of its printed recalls. Calibration error has no interval:
    the same lesions drawn twice make it larger than it is.
    """
    rows = []
    for (kind, name), found in runs.items():
        printed = {}
        if kind == PROTOCOLS[0] and name in PUBLISHED:
            printed["accuracy"] = paper.summary(name)["accuracy"]
            printed["balanced accuracy"] = paper.by_class(name)["recall"].mean()
        true = measures.places_of(found.images["dx"])
        nevus = np.tile(np.eye(len(CODES))[CODES.index("nv")], (len(true), 1))
        drawn = _resampled(found, repeats, seed)
        for metric, measure in METRICS.items():
            mean, low, high = _with_interval(measure, found, true, *drawn)
            rows.append({
                "protocol": kind, "training_set": name, "metric": metric, "mean": mean,
                "low": np.nan if metric == CALIBRATION else low, "high": np.nan if metric == CALIBRATION else high,
                "always_nevus": measure(nevus, true, np.ones((1, len(true))))[0], "paper": printed.get(metric),
            })  # fmt: skip
    columns = ["protocol", "training_set", "metric", "mean", "low", "high", "always_nevus", "paper"]
    return pd.DataFrame(rows, columns=columns)


def _resampled(found: Predictions, repeats: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each resample draws each image [1 + repeats, images], all once first, and each seed [repeats, seeds].

    Lesions are drawn whole, so that sister images stay together; the draws are those of `intervals.clustered_bootstrap`.
    """
    random, (lesion, names) = np.random.default_rng(seed), found.images["group"].factorize()
    images, seeds = np.ones((1 + repeats, len(lesion))), np.zeros((repeats, len(found.runs)))
    for place in range(repeats if len(names) else 0):
        images[1 + place] = np.bincount(random.integers(0, len(names), len(names)), minlength=len(names))[lesion]
        seeds[place] = np.bincount(random.integers(0, len(found.runs), len(found.runs)), minlength=len(found.runs))
    return images, seeds


def _with_interval(
    measure: Callable, found: Predictions, true: np.ndarray, images: np.ndarray, seeds: np.ndarray
) -> tuple[float, float, float]:
    """The mean over seeds, and the 95 % percentiles of its resamples (NaN without images)."""
    if not len(true):
        return np.nan, np.nan, np.nan
    values = np.array([measure(own, true, images) for own in np.exp(found.log_probabilities.astype(float))])
    return float(values[:, 0].mean()), *quantiles((seeds * values[:, 1:].T).sum(axis=1) / len(values))


def beside_readers(found: Predictions, answers: pd.DataFrame, repeats: int, seed: int) -> pd.DataFrame:
    """Each reader and a network on the same original images of a kit: share of entities named, paired difference.

    found: test predictions, a run a seed; answers: reader, original_name, source, entity, entity_answer, one row an image
    and reader. Columns reader, n, reader_accuracy, network_accuracy, difference (network minus reader), low, high; the
    interval resamples lesions and seeds. Empty where no original of the kit is among the predicted images.
    """

    def right(rows: pd.DataFrame) -> float:
        return float((rows["dx"] == rows["answer"]).mean())

    rows, frames = [], [found.frame(run) for run in range(len(found.runs))]
    shown = answers[(answers["source"] == "original") & answers["original_name"].isin(found.images["image_id"])]
    for reader, own in shown.groupby("reader"):
        named = own.set_index("original_name")["entity_answer"]
        network = [run[run["image_id"].isin(named.index)].reset_index(drop=True) for run in frames]
        person = [run.assign(answer=run["image_id"].map(named)) for run in network]
        change = paired_difference(network, person, right, repeats, seed)
        rows.append({
            "reader": reader, "n": len(named), "reader_accuracy": right(person[0]),
            "network_accuracy": float(np.mean([right(run) for run in network])),
            **{key: change[key] for key in ("difference", "low", "high")},
        })  # fmt: skip
    columns = ["reader", "n", "reader_accuracy", "network_accuracy", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def steps_table(histories: pd.DataFrame) -> pd.DataFrame:
    """How long each run was trained: network, protocol, training_set, seed, epochs, steps, kept_epoch, kept_steps.

    histories: those four names, epoch, steps (of an epoch) and validation_loss, which is watched. A run of the Keras network
    stops on its own watched loss, so equal steps an epoch are not equal steps in all; one without such a loss kept no epoch.
    """
    rows = []
    for names, own in histories.groupby(["network", "protocol", "training_set", "seed"], sort=False):
        watched = own["validation_loss"].dropna()
        best = own.loc[watched.idxmin(), "epoch"] if len(watched) else 0
        rows.append((*names, len(own), own["steps"].sum(), best, best * own["steps"].iloc[0]))
    columns = ["network", "protocol", "training_set", "seed", "epochs", "steps", "kept_epoch", "kept_steps"]
    return pd.DataFrame(rows, columns=columns)


def steps_ranges(steps: pd.DataFrame) -> pd.DataFrame:
    """`steps_table` in a row a training set: how many seeds, and the least and the largest of each count over them."""
    groups = steps.groupby(["network", "protocol", "training_set"], sort=False)
    counts = ["epochs", "steps", "kept_epoch", "kept_steps"]
    least, largest = groups[counts].min().astype(str), groups[counts].max().astype(str)
    ranges = least.where(least == largest, least + " to " + largest)
    ranges.insert(0, "seeds", groups.size())
    return ranges.reset_index()


def interval_words(seeds: int) -> str:
    """What an interval of this module is over, for a label: test lesions, and seeds where there are several."""
    return "95 % interval over test lesions " + ("and seeds" if seeds > 1 else "(one seed)")


# The ladder: what each difference between the published protocol and the audited one is worth


def ladder_table(climbed: Climbed) -> pd.DataFrame:
    """Each step's measure on its n test images, the mean over seeds, and its change against the step before.

    Columns network, step, seeds, n, measure, value (0..1), difference, low, high, p. low, high: the 95 % t interval of the
    change over test lesions and seeds (one seed: over lesions; none where an entity has a single lesion); p is two-sided and
    of no family. balanced accuracy is of the largest posterior, as published; macro AUC of posteriors corrected to an even
    prior.
    """
    rows = []
    for network, steps in climbed.items():
        for measure in STEP_MEASURES:
            before = None
            for name, found in steps.items():
                value = _values(found, measure)
                row = {"network": network, "step": name, "seeds": len(found.runs), "n": len(found.images),
                       "measure": measure, "value": value.mean()}  # fmt: skip
                if before is not None:
                    row["difference"] = (value - _values(before, measure)).mean()
                    change = change_of(found, before, measure)
                    row |= {} if change is None else {"low": change.low, "high": change.high, "p": change.p}
                rows.append(row)
                before = found
    columns = ["network", "step", "seeds", "n", "measure", "value", "difference", "low", "high", "p"]
    return pd.DataFrame(rows, columns=columns)


def ladder_to_read(table: pd.DataFrame) -> pd.DataFrame:
    """`ladder_table` with network, measure and step as index, three digits, p in words, nothing where there is none."""
    words = table["p"].map(lambda p: "" if np.isnan(p) else protocol.p_words(p).removeprefix("= "))
    return table.assign(p=words).set_index(["network", "measure", "step"]).round(3)


def changes_by_seed(climbed: Climbed) -> pd.DataFrame:
    """The changes whose means are in `ladder_table`: network, step, measure, seed, difference."""
    rows = []
    for network, steps in climbed.items():
        for measure in STEP_MEASURES:
            for (_, before), (name, found) in pairwise(steps.items()):
                changes = _values(found, measure) - _values(before, measure)
                rows += [(network, name, measure, *pair) for pair in zip(found.runs["seed"], changes, strict=True)]
    return pd.DataFrame(rows, columns=["network", "step", "measure", "seed", "difference"])


def change_of(after: Predictions, before: Predictions, measure: str) -> Estimate | None:
    """`after` less `before`, whose runs are paired by seed; test lesions that both have are paired, others are not.

    The error counts test lesions and seeds, as the trial's does; with one seed it counts lesions alone. None where an entity
    has a single lesion in both tests together: nothing says how much another one would differ.
    """
    count, images = len(after.images), pd.concat([after.images, before.images], ignore_index=True)
    if images.drop_duplicates("group")["dx"].value_counts().min() < 2:
        return None
    both = lesions_of(images)
    sides = []
    for found, member in ((after, both.member[:count]), (before, both.member[count:])):
        dx, lesions = found.images["dx"], Lesions(member, both.entity)
        if measure == protocol.MACRO_AUC:
            sides.append(mean_area(found.corrected(), dx, lesions))
        else:
            sides.append(mean_recall(found.log_probabilities.argmax(axis=2), dx, lesions))
    (value, influence), (other, others) = sides
    return estimate(Contrast(value - other, influence - others, both.strata()), one_seed=True)


def _values(found: Predictions, measure: str) -> np.ndarray:
    """A measure of each run [runs]."""
    if measure == protocol.MACRO_AUC:
        return measures.of_runs(measures.macro_area, found)
    return measures.of_runs(measures.balanced_accuracy, found, found.log_probabilities)
