"""Statistics of reader studies that the libraries lack or keep in another form.

Source: Fleiss, Psychol. Bull. 76 (1971) for agreement of several readers (statsmodels computes it).
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.intervals import auc_bootstrap, auc_delong, quantiles


def fleiss_kappa(answers: pd.DataFrame, column: str) -> float:
    """Fleiss' kappa of all readers on the images that every one of them answered (statsmodels).

    answers: reader, image and the answer in `column`. InputError with fewer than two readers or no common image.
    """
    from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

    table = answers.pivot(index="image", columns="reader", values=column).dropna()
    if table.shape[1] < 2 or table.empty:
        raise InputError("agreement needs at least two readers of the same images")
    return float(fleiss_kappa(aggregate_raters(table.to_numpy())[0]))


def cohen_kappa(one: pd.Series, other: pd.Series) -> float:
    """Cohen's kappa of two lists of answers to the same images (sklearn); NaN where both hold one answer alone, or none."""
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(one, other)) if len({*one, *other}) > 1 else float("nan")


def cohen_pairs(answers: pd.DataFrame, column: str) -> pd.DataFrame:
    """Cohen's kappa of each pair of readers on their common images (sklearn): columns reader, other, images, kappa."""
    table = answers.pivot(index="image", columns="reader", values=column)
    rows = []
    for place, first in enumerate(table.columns):
        for second in table.columns[place + 1 :]:
            both = table[[first, second]].dropna()
            kappa = cohen_kappa(both[first], both[second])
            rows.append({"reader": first, "other": second, "images": len(both), "kappa": kappa})
    return pd.DataFrame(rows, columns=["reader", "other", "images", "kappa"])


def _area(true: np.ndarray, score: np.ndarray, resamples: int = 0, seed: int = 0) -> dict[str, float]:
    """auc, low and high (DeLong), bootstrap_low and _high with `resamples`; NaN with under two images of either class."""
    if min(true.sum(), (~true).sum()) < 2:
        return dict.fromkeys(("auc", "low", "high", "bootstrap_low", "bootstrap_high"), float("nan"))
    area = auc_delong(true, score)
    bootstrap = auc_bootstrap(true, score, resamples, seed) if resamples else area
    return {**area, "bootstrap_low": bootstrap["low"], "bootstrap_high": bootstrap["high"]}


def source_auc(answers: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """AI against original for each reader: area under the curve from the bare answer and from signed confidence.

    Signed confidence ranks images from "certainly original" (-5) over "unsure" (0) to "certainly AI" (+5). Columns
    reader, score, auc, low, high (DeLong), bootstrap_low, bootstrap_high, images.
    """
    rows = []
    for reader, own in answers.groupby("reader"):
        true = (own["source"] == "AI").to_numpy()
        scores = {"answer": (own["source_answer"] == "AI").to_numpy(float)}
        if "confidence" in own:
            scores["signed confidence"] = signed_confidence(own)
        for name, score in scores.items():
            area = _area(true, score, resamples, seed)
            columns = ("auc", "low", "high", "bootstrap_low", "bootstrap_high")
            values = {column: area[column] for column in columns}
            rows.append({"reader": reader, "score": name, **values, "images": len(own)})
    return pd.DataFrame(rows)


def signed_confidence(answers: pd.DataFrame) -> np.ndarray:
    """+confidence where a reader said AI, -confidence for original, 0 for unsure, float [n]; 1 where none was asked for."""
    sign = answers["source_answer"].map({"AI": 1.0, "original": -1.0, "unsure": 0.0})
    return (sign * answers.get("confidence", 1)).to_numpy(float)


def entity_auc(answers: pd.DataFrame) -> pd.DataFrame:
    """One entity against the rest for each reader, from +confidence where it was named and -confidence elsewhere.

    The score's limit: a reader names one entity and is silent on the order of the others, so images that were given
    other names differ only by how sure the reader was of those names. Columns reader, entity, auc, low, high.
    """
    rows = []
    for (reader, own), code in product(answers.groupby("reader"), CODES):
        score = np.where(own["entity_answer"] == code, 1.0, -1.0) * np.asarray(own.get("confidence", 1), float)
        area = _area((own["entity"] == code).to_numpy(), score)
        rows.append({"reader": reader, "entity": code, **{name: area[name] for name in ("auc", "low", "high")}})
    return pd.DataFrame(rows)


def source_answers(answers: pd.DataFrame) -> pd.DataFrame:
    """How each reader sorted the images: right, wrong and unsure by source, the protocol of Ali et al. (2211.00902)."""
    unsure = answers["source_answer"] == "unsure"
    right = answers["source_answer"] == answers["source"]
    outcome = np.select([unsure, right], ["unsure", "right"], "wrong")
    table = pd.crosstab([answers["reader"], answers["source"]], outcome)
    return table.reindex(columns=["right", "wrong", "unsure"], fill_value=0).rename_axis(columns=None)


def readers_and_cases(
    answers: pd.DataFrame, right: pd.Series, resamples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """The mean share of right answers over readers, with an interval that resamples readers and images both.

    right: bool, one an answer, in the order of `answers`. With one reader only the images are resampled, and the
    interval says nothing about other readers.
    """
    table = answers.assign(right=right.to_numpy(float)).pivot(index="image", columns="reader", values="right")
    values = table.to_numpy()
    random, means = np.random.default_rng(seed), []
    for _ in range(resamples):
        images = random.integers(0, values.shape[0], values.shape[0])
        readers = random.integers(0, values.shape[1], values.shape[1])
        drawn = values[images][:, readers]
        if not np.isnan(drawn).all():  # readers who answered none of the images
            means.append(np.nanmean(drawn))
    low, high = quantiles(means)
    share = float(np.nanmean(values))
    return {"readers": values.shape[1], "images": values.shape[0], "share": share, "low": low, "high": high}


def agreement_table(answers: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """How much readers agree and how often they are right, on the entity and on AI against original.

    Columns task, fleiss_kappa (NaN with one reader, and without an image that all answered), then as `readers_and_cases`.
    """
    rows = []
    for task, column, truth in (("entity", "entity_answer", "entity"), ("AI or original", "source_answer", "source")):
        try:
            kappa = fleiss_kappa(answers, column)
        except InputError:
            kappa = float("nan")
        right = answers[column] == answers[truth]
        rows.append({"task": task, "fleiss_kappa": kappa, **readers_and_cases(answers, right, resamples, seed)})
    return pd.DataFrame(rows)
