"""Intervals, in one place: Wilson's, Student's, quantiles of resamples, DeLong's, the bootstrap of lesions crossed with seeds.

Sources: Wilson 1927 through statsmodels; DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) for the variance of an
area under the ROC curve; Efron and Tibshirani 1993 for percentile intervals and the bootstrap of clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata

from dermstudy.files import InputError

LEVEL = 0.95
Statistic = Callable[[pd.DataFrame], float]


def quantiles(values: Sequence[float] | np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of resampled values: the percentile interval; NaN where there are none."""
    if not len(values):
        return np.nan, np.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(values: Sequence[float] | np.ndarray, name: str = "mean") -> dict[str, float]:
    """The mean of independent values, under `name`, and its 95 % t interval low, high (scipy); NaN for fewer than two."""
    from scipy.stats import ttest_1samp

    values = np.asarray(values, float)
    span = ttest_1samp(values, 0).confidence_interval(LEVEL) if len(values) > 1 else (np.nan, np.nan)
    return {name: float(values.mean()) if len(values) else np.nan, "low": float(span[0]), "high": float(span[1])}


def wilson(right: int, of: int) -> dict[str, float]:
    """right, of, share, and Wilson's 95 % interval low, high (statsmodels); NaN where nothing was asked (of = 0)."""
    from statsmodels.stats.proportion import proportion_confint

    if not of:
        return {"right": right, "of": of, **dict.fromkeys(("share", "low", "high"), np.nan)}
    low, high = proportion_confint(right, of, method="wilson")
    return {"right": right, "of": of, "share": right / of, "low": float(low), "high": float(high)}


def auc_delong(true: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """Area under the ROC curve with its standard error and 95 % interval by DeLong's method.

    true: bool [n]; score: float [n], higher for true. The variance is that of each case's share of the other class
    that it outranks, by midranks. InputError where one class has fewer than two cases.
    """
    true, score = np.asarray(true, bool), np.asarray(score, float)
    positive, negative = score[true], score[~true]
    if min(len(positive), len(negative)) < 2:
        raise InputError(f"an AUC interval needs two cases of each class, got {len(positive)} and {len(negative)}")
    ranks = rankdata(np.concatenate([positive, negative]))
    # Structural components: for each case, the share of the other class that lies on its right side.
    over = (ranks[: len(positive)] - rankdata(positive)) / len(negative)
    under = 1 - (ranks[len(positive) :] - rankdata(negative)) / len(positive)
    area = float(over.mean())
    error = float(np.sqrt(over.var(ddof=1) / len(positive) + under.var(ddof=1) / len(negative)))
    half = norm.ppf(0.5 + LEVEL / 2) * error
    return {"auc": area, "standard_error": error, "low": max(0.0, area - half), "high": min(1.0, area + half)}


def auc_bootstrap(true: np.ndarray, score: np.ndarray, resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """The same by percentile bootstrap within each class: the second method that DeLong's is checked against."""
    from sklearn.metrics import roc_auc_score

    true, score = np.asarray(true, bool), np.asarray(score, float)
    random, places = np.random.default_rng(seed), [np.flatnonzero(true), np.flatnonzero(~true)]
    areas = []
    for _ in range(resamples):
        drawn = np.concatenate([random.choice(own, len(own)) for own in places])
        areas.append(roc_auc_score(true[drawn], score[drawn]))
    low, high = quantiles(areas)
    return {"auc": float(roc_auc_score(true, score)), "low": low, "high": high}


def clustered_bootstrap(
    predictions: list[pd.DataFrame], statistic: Statistic, repeats: int = 200, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean of `statistic` over seeds, by resampling test lesions (column group) and seeds.

    predictions: one frame a training seed over the same test images. Each resample draws lesions whole, so that sister
    images stay together, and as many seeds as there are, and takes the mean over those: more seeds, a narrower interval.
    With one seed it is over test lesions alone. The interval is conditional on one generator. NaN without test images.
    """
    random = np.random.default_rng(seed)
    members = lesion_rows(predictions[0])
    names = list(members)
    values = []
    for _ in range(repeats if names else 0):
        rows = np.concatenate([members[names[index]] for index in random.integers(0, len(names), len(names))])
        values.append(_mean_of_drawn(random, len(predictions), lambda own: statistic(predictions[own].iloc[rows])))  # noqa: B023
    return quantiles(values)


def paired_difference(
    first: list[pd.DataFrame], second: list[pd.DataFrame], statistic: Statistic, repeats: int, seed: int
) -> dict[str, float]:
    """`first` minus `second`, the mean over seeds: difference, interval, and half its width as what is detectable.

    Lesions of both test sets are resampled together and seeds pairwise, so images that both sets share are paired and
    others are not; each resample takes the mean over the seeds that it drew, as `clustered_bootstrap` does. NaN where a
    side has no test image.
    """
    random = np.random.default_rng(seed)
    sides = [lesion_rows(first[0]), lesion_rows(second[0])]
    names = list(dict.fromkeys([*sides[0], *sides[1]]))

    def change(own: int, rows: list[np.ndarray]) -> float:
        return statistic(first[own].iloc[rows[0]]) - statistic(second[own].iloc[rows[1]])

    values = []
    while len(values) < (repeats if all(sides) else 0):
        picked = [names[index] for index in random.integers(0, len(names), len(names))]
        rows = [np.concatenate([side[name] for name in picked if name in side] or [[]]).astype(int) for side in sides]
        if min(len(part) for part in rows):
            values.append(_mean_of_drawn(random, len(first), lambda own: change(own, rows)))  # noqa: B023
    low, high = quantiles(values)
    each = [statistic(a) - statistic(b) for a, b in zip(first, second, strict=True)] if all(sides) else np.nan
    mean = float(np.mean(each))
    return {"difference": mean, "low": low, "high": high, "detectable": (high - low) / 2}


def _mean_of_drawn(random: np.random.Generator, seeds: int, score: Callable[[int], float]) -> float:
    """The mean of `score` over as many seeds as there are, drawn with replacement; each drawn one is scored once."""
    drawn, times = np.unique(random.integers(0, seeds, seeds), return_counts=True)
    return float(np.average([score(own) for own in drawn], weights=times))


def lesion_rows(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The rows of each lesion group, in the order of their first image."""
    return {name: np.asarray(rows) for name, rows in frame.groupby("group", sort=False).indices.items()}


def by_image(images: pd.DataFrame) -> list[str]:
    """What a reader of intervals must know where some of `images` (image_id, group) are of no known lesion: a line or none."""
    alone = int((images["group"] == images["image_id"]).sum())
    if not alone:
        return []
    which = "" if alone == len(images) else f" for {alone} of {len(images)} images"
    return [f"lesions are unknown, so intervals are by image{which}: too narrow where images show the same lesion"]
