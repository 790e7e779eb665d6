"""The trial's secondary measures, described and not tested: of each run, and of the difference of two training sets.

Sources: docs/PROTOCOL.md for what is described; Saerens et al. (2002) for the correction of a prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dermstudy.classification import measures, protocol
from dermstudy.classification.inference import lesion_weights, lesions_of, mean_area, seed_weights
from dermstudy.classification.predictions import Predictions
from dermstudy.classification.scores import RUN_COLUMNS
from dermstudy.files import InputError
from dermstudy.intervals import quantiles

LOG_LOSS, CORRECTED = "log loss", "prior-corrected balanced accuracy"
SENSITIVITY, CALIBRATION = "melanoma sensitivity at 90 % specificity", "expected calibration error"
ARGMAX = "balanced accuracy by argmax"
ARTEFACT = "balanced accuracy by argmax, moved by the prior alone"
REMAINDER = "balanced accuracy by argmax, without what the prior moved"
NATURAL, EVEN, RAW = "at the prior of the originals", "at an even prior", "as they come"  # the scores that are measured
MEASURES = {
    LOG_LOSS: (measures.log_loss, NATURAL),
    CORRECTED: (measures.balanced_accuracy, EVEN),
    SENSITIVITY: (measures.sensitivity, EVEN),
    CALIBRATION: (measures.calibration_error, NATURAL),
    ARGMAX: (measures.balanced_accuracy, RAW),
}
PRIOR = "the prior: the scores on originals moved to the shares that balanced synthetic images give"
ACCESS = "access: all originals in place of 30 % of them"
CHANCE = "seeds: standard error of the mean of three runs, dose 1 less originals"


def secondary_table(
    predictions: Predictions, comparisons: Sequence[protocol.Comparison] = protocol.COMPARISONS + protocol.PAIRS,
    seeds: Mapping[str, int] = protocol.SEEDS, resamples: int = 500, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Each measure of both training sets of each comparison of two: comparison, network, seeds, measure, first, second,
    difference, low, high.

    low, high: 95 % percentiles of resampled lesions and seeds. ARTEFACT is what the second set's own scores give when
    they are moved to the first set's prior (first) instead of their own (second); REMAINDER compares the first set with
    the second one so moved: ARGMAX's difference is the sum of both. Measures that depend on the prior, argmax apart, are
    taken at even shares (balanced accuracy, sensitivity) or at those of ORIGINALS' runs (log loss, calibration).
    """
    rows, drawn = [], {}
    for comparison in comparisons:
        if comparison.measure != protocol.MACRO_AUC or len(comparison.training_sets) != 2:
            continue
        key = comparison.network, comparison.splits
        if key not in drawn:
            drawn[key] = _Drawn(predictions, *key, resamples, seed)
        rows += _differences(drawn[key], comparison, seeds[comparison.network], seed)
    columns = ["comparison", "network", "seeds", "measure", "first", "second", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def artefact_table(measured: pd.DataFrame) -> pd.DataFrame:
    """What the prior alone moved, for a reader: comparison, network, and differences by argmax, moved by the prior, the rest,
    prior-corrected. measured: as `secondary_table` gives it."""
    names = {ARGMAX: "by argmax", ARTEFACT: "moved by the prior", REMAINDER: "the rest", CORRECTED: "prior-corrected"}
    own = measured[measured["measure"].isin(names)]
    table = own.pivot_table(index=["comparison", "network"], columns="measure", values="difference", sort=False)
    return table[list(names)].rename(columns=names).rename_axis(columns=None).reset_index()


def gain_table(
    predictions: Predictions, seeds: Mapping[str, int] = protocol.SEEDS, resamples: int = 500, seed: int = 0
) -> pd.DataFrame:
    """What moves balanced accuracy by argmax on test lesions though synthetic images teach nothing: part, network, seeds, size,
    low, high.

    PRIOR: what ORIGINALS' own scores gain when they are moved to the mean prior of BALANCED and nothing else changes. ACCESS:
    what a classifier gains that sees all originals, as the generator did, and not the subset alone. CHANCE: how far three
    runs of ONCE less ORIGINALS are from their mean by the seed alone, without an interval. A part whose runs are not there
    is left out. low, high: 95 % percentiles of resampled lesions and seeds.
    """
    rows, balanced = [], (predictions.runs["training_set"] == protocol.BALANCED).to_numpy()
    for network in predictions.runs["network"].unique():
        drawn = _Drawn(predictions, network, ("test",), resamples, seed)
        own, subset, once = (
            {number: place for number, place in drawn.places(name).items() if number < seeds[network]}
            for name in (protocol.ORIGINALS, protocol.SUBSET, protocol.ONCE)
        )
        reached = {place: drawn.measures(place)[ARGMAX] for place in (*own.values(), *subset.values(), *once.values())}
        found = {PRIOR: [], ACCESS: [reached[own[n]] - reached[subset[n]] for n in own if n in subset]}
        if balanced.any():
            prior = predictions.priors[balanced].mean(axis=0)
            found[PRIOR] = [drawn.at_prior(place, prior) - reached[place] for place in own.values()]
        for part, values in found.items():
            if len(values) > 1:
                rows.append((part, network, len(values), *_mean_and_interval(np.array(values), seed)))
        by_seed = [reached[once[n]][0] - reached[own[n]][0] for n in own if n in once]
        if len(by_seed) > 1:
            rows.append((CHANCE, network, len(by_seed), np.std(by_seed, ddof=1) / np.sqrt(3), np.nan, np.nan))
    return pd.DataFrame(rows, columns=["part", "network", "seeds", "size", "low", "high"])


def run_table(predictions: Predictions, split: str = "test") -> pd.DataFrame:
    """Every measure of every run: RUN_COLUMNS, as `scores.every_run` has them. A failed run has NaN."""
    rows = []
    for network in predictions.runs["network"].unique():
        drawn = _Drawn(predictions, network, (split,), 0, 0)
        even, dx = drawn.scores[EVEN][drawn.sound], drawn.runs.images["dx"]
        areas = {name: np.full(len(drawn.runs.runs), np.nan) for name in protocol.MEASURES}
        for name, entities in protocol.MEASURES.items():
            areas[name][drawn.sound] = mean_area(even, dx, drawn.lesions, entities)[0]
        for place, run in drawn.runs.runs.iterrows():
            values = {name: area[place] for name, area in areas.items()} | dict.fromkeys(MEASURES, np.nan)
            if drawn.sound[place]:
                values |= {name: measured[0] for name, measured in drawn.measures(place).items()}
            rows += [(network, run["training_set"], run["seed"], "audited", *pair) for pair in values.items()]
    return pd.DataFrame(rows, columns=RUN_COLUMNS)


class _Drawn:
    """The runs of a network on the images of some splits, with resampled lesions; each run's measures are taken once."""

    def __init__(self, predictions: Predictions, network: str, splits: Sequence[str], resamples: int, seed: int):
        self.runs = predictions.select(splits, network=network)
        self.sound, self.lesions = self.runs.sound, lesions_of(self.runs.images)
        drawn = lesion_weights(self.lesions.strata(), resamples, seed)
        self.weights = np.vstack([np.ones(len(self.lesions.entity)), drawn]) @ self.lesions.member.T
        self.true, self.known = measures.places_of(self.runs.images["dx"]), {}
        self.scores = {NATURAL: _natural(self.runs), EVEN: self.runs.corrected(), RAW: self.runs.log_probabilities}

    def places(self, training_set: str) -> pd.Series:
        """The place of each sound run on a training set, by seed."""
        runs = self.runs.runs.assign(place=np.arange(len(self.runs.runs)))[self.sound]
        return runs[runs["training_set"] == training_set].set_index("seed")["place"]

    def measures(self, place: int) -> dict[str, np.ndarray]:
        """MEASURES of one run: of all images first, then of each resample."""
        if place not in self.known:
            asked = {name: (measure, self.scores[which][place]) for name, (measure, which) in MEASURES.items()}
            self.known[place] = {name: measure(own, self.true, self.weights) for name, (measure, own) in asked.items()}
        return self.known[place]

    def at_prior(self, place: int, prior: np.ndarray) -> np.ndarray:
        """Balanced accuracy by argmax of a run whose scores are moved to a prior [7]."""
        ratio = np.log(prior) - np.log(self.runs.priors[place])
        return measures.balanced_accuracy(self.runs.log_probabilities[place] + ratio, self.true, self.weights)


def _differences(drawn: _Drawn, comparison: protocol.Comparison, planned: int, seed: int) -> list[dict]:
    first, second = (drawn.places(name) for name in comparison.training_sets)
    both = [number for number in range(planned) if number in first.index and number in second.index]
    if len(both) < 2:
        return []
    found: dict[str, list] = {}
    for number in both:
        own = [drawn.measures(first[number]), drawn.measures(second[number])]
        moved = drawn.at_prior(second[number], drawn.runs.priors[first[number]])
        pairs = {measure: (own[0][measure], own[1][measure]) for measure in MEASURES}
        pairs |= {ARTEFACT: (moved, own[1][ARGMAX]), REMAINDER: (own[0][ARGMAX], moved)}
        for measure, pair in pairs.items():
            found.setdefault(measure, []).append(pair)
    rows = []
    for measure, values in found.items():
        values = np.array(values)  # [seeds, first and second, 1 + resamples]
        change, low, high = _mean_and_interval(values[:, 0] - values[:, 1], seed)
        rows.append({
            "comparison": comparison.name, "network": comparison.network, "seeds": len(both), "measure": measure,
            "first": values[:, 0, 0].mean(), "second": values[:, 1, 0].mean(), "difference": change,
            "low": low, "high": high,
        })  # fmt: skip
    return rows


def _mean_and_interval(values: np.ndarray, seed: int) -> tuple[float, float, float]:
    """The mean over seeds and its 95 % percentiles; values: [seeds, 1 + resamples], of all images first."""
    weights = seed_weights(len(values), values.shape[1] - 1, seed)
    return values[:, 0].mean(), *quantiles((weights * values[:, 1:].T).mean(axis=1))


def _natural(predictions: Predictions) -> np.ndarray:
    """Probabilities at the mean prior of ORIGINALS' runs, which every network has; InputError where it has none."""
    own = (predictions.runs["training_set"] == protocol.ORIGINALS).to_numpy()
    if not own.any():
        raise InputError(
            f"the predictions hold no run on {protocol.ORIGINALS!r}: log loss and calibration are taken at its prior"
        )
    return predictions.corrected(predictions.priors[own].mean(axis=0))
