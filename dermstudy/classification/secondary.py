"""The trial's secondary measures, described and not tested: of each run, and of the difference of two training sets.

Every measure is written for many weightings of the test images at once, so that resampled lesions cost products of
matrices. Sources: Saerens et al. 2002 (prior correction); Guo et al. (arXiv 1706.04599), equation 3 (calibration).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dermstudy.classification import described, protocol
from dermstudy.classification.inference import lesion_weights, lesions_of, mean_area, seed_weights, sound_runs
from dermstudy.classification.predictions import Predictions
from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.intervals import quantiles

LOG_LOSS, CORRECTED = "log loss", "prior-corrected balanced accuracy"
SENSITIVITY, CALIBRATION = "melanoma sensitivity at 90 % specificity", "expected calibration error"
ARGMAX = "balanced accuracy by argmax"
ARTEFACT = "balanced accuracy by argmax, moved by the prior alone"
REMAINDER = "balanced accuracy by argmax, without what the prior moved"
MEASURES = (LOG_LOSS, CORRECTED, SENSITIVITY, CALIBRATION, ARGMAX)
PRIOR = "the prior: the scores on originals moved to the shares that balanced synthetic images give"
ACCESS = "access: all originals in place of 30 % of them"
CHANCE = "seeds: standard error of the mean of three runs, dose 1 less originals"
SPECIFICITY, BINS, LEAST = 0.9, 15, 1e-12


def secondary_table(
    predictions: Predictions, comparisons: Sequence[protocol.Comparison] = protocol.COMPARISONS + described.PAIRS,
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
        found = {ACCESS: [reached[own[n]] - reached[subset[n]] for n in own if n in subset]}
        if balanced.any():
            prior = predictions.priors[balanced].mean(axis=0)
            found[PRIOR] = [drawn.at_prior(place, prior) - reached[place] for place in own.values()]
        for part in (PRIOR, ACCESS):
            if len(found.get(part, ())) > 1:
                rows.append((part, network, len(found[part]), *_mean_and_interval(np.array(found[part]), seed)))
        by_seed = [reached[once[n]][0] - reached[own[n]][0] for n in own if n in once]
        if len(by_seed) > 1:
            rows.append((CHANCE, network, len(by_seed), np.std(by_seed, ddof=1) / np.sqrt(3), np.nan, np.nan))
    return pd.DataFrame(rows, columns=["part", "network", "seeds", "size", "low", "high"])


def run_table(predictions: Predictions, split: str = "test") -> pd.DataFrame:
    """Every measure of every run: columns network, training_set, seed, measure, value. A failed run has NaN."""
    rows = []
    for network in predictions.runs["network"].unique():
        own = predictions.select(split=split, network=network)
        lesions, even, natural = lesions_of(own.images), own.corrected(), _natural(own)
        sound = sound_runs(own)
        found = {}
        for name, entities in protocol.MEASURES.items():
            found[name] = np.full(len(own.runs), np.nan)
            found[name][sound] = mean_area(even[sound], own.images["dx"], lesions, entities)[0]
        weights = np.ones((1, len(own.images)))
        for place, run in own.runs.iterrows():
            values = {name: found[name][place] for name in found} | dict.fromkeys(MEASURES, np.nan)
            if sound[place]:
                values |= _measures(own.log_probabilities[place], even[place], natural[place], own.images, weights)
            for measure, value in values.items():
                rows.append(
                    {**run[["network", "training_set", "seed"]], "measure": measure, "value": np.ravel(value)[0]}
                )
    return pd.DataFrame(rows)


def log_loss(probabilities: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of -log of the true entity's probability, under each weighting: [weightings].

    Here and below: probabilities [images, 7]; true: place in CODES [images]; weights [weightings, images].
    """
    loss = -np.log(np.maximum(probabilities[np.arange(len(true)), true], LEAST))
    return weights @ loss / weights.sum(axis=1)


def balanced_accuracy(scores: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean recall, of the entities that are there, of the highest score."""
    right = scores.argmax(axis=1) == true
    recalls = [weights[:, true == c] @ right[true == c] / weights[:, true == c].sum(axis=1) for c in np.unique(true)]
    return np.mean(recalls, axis=0)


def sensitivity(score: np.ndarray, positive: np.ndarray, weights: np.ndarray, specificity: float = SPECIFICITY):
    """The share of positives above the threshold: the lowest negative score with at least `specificity` of the negatives
    at or under it.

    score float, positive bool [images]. The threshold is read off the very images it is judged on, anew in each
    resample: it describes the curve and is no threshold to use. NaN without positives or negatives.
    """
    if not positive.any() or positive.all():
        return np.full(len(weights), np.nan)
    order = np.argsort(score[~positive], kind="stable")
    cumulative = weights[:, ~positive][:, order].cumsum(axis=1)
    reached = cumulative >= specificity * cumulative[:, -1:] - 1e-9
    threshold = score[~positive][order][reached.argmax(axis=1)]
    above = score[positive][None, :] > threshold[:, None]
    own = weights[:, positive]
    return (own * above).sum(axis=1) / own.sum(axis=1)


def calibration_error(probabilities: np.ndarray, true: np.ndarray, weights: np.ndarray, bins: int = BINS) -> np.ndarray:
    """|accuracy - confidence| of the likeliest answers over equal bins of confidence, by their weight."""
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == true) - confidence
    own = np.minimum((confidence * bins).astype(int), bins - 1)
    sums = [np.abs(weights[:, own == place] @ gap[own == place]) for place in np.unique(own)]
    return np.sum(sums, axis=0) / weights.sum(axis=1)


def _measures(
    log_probabilities: np.ndarray, even: np.ndarray, natural: np.ndarray, images: pd.DataFrame, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """MEASURES of one run under each weighting."""
    true, melanoma = _places(images), CODES.index("mel")
    return {
        LOG_LOSS: log_loss(natural, true, weights),
        CORRECTED: balanced_accuracy(even, true, weights),
        SENSITIVITY: sensitivity(even[:, melanoma], true == melanoma, weights),
        CALIBRATION: calibration_error(natural, true, weights),
        ARGMAX: balanced_accuracy(log_probabilities, true, weights),
    }


class _Drawn:
    """The runs of a network on the images of some splits, with resampled lesions; each run's measures are taken once."""

    def __init__(self, predictions: Predictions, network: str, splits: Sequence[str], resamples: int, seed: int):
        own = predictions.select(network=network)
        kept = own.images["split"].isin(splits).to_numpy()
        images = own.images[kept].reset_index(drop=True)
        self.runs = Predictions(images, own.runs, own.priors, own.log_probabilities[:, kept])
        self.even, self.natural, lesions = self.runs.corrected(), _natural(self.runs), lesions_of(images)
        drawn = lesion_weights(lesions.strata(), resamples, seed)
        self.weights = np.vstack([np.ones(len(lesions.entity)), drawn]) @ lesions.member.T
        self.true, self.known = _places(images), {}

    def places(self, training_set: str) -> pd.Series:
        """The place of each sound run on a training set, by seed."""
        runs = self.runs.runs.assign(place=np.arange(len(self.runs.runs)))[sound_runs(self.runs)]
        return runs[runs["training_set"] == training_set].set_index("seed")["place"]

    def measures(self, place: int) -> dict[str, np.ndarray]:
        """MEASURES of one run: of all images first, then of each resample."""
        if place not in self.known:
            own = self.runs.log_probabilities[place], self.even[place], self.natural[place]
            self.known[place] = _measures(*own, self.runs.images, self.weights)
        return self.known[place]

    def moved(self, place: int, other: int) -> np.ndarray:
        """Balanced accuracy by argmax of a run whose scores are moved to another run's prior."""
        return self.at_prior(place, self.runs.priors[other])

    def at_prior(self, place: int, prior: np.ndarray) -> np.ndarray:
        """Balanced accuracy by argmax of a run whose scores are moved to a prior [7]."""
        ratio = np.log(prior) - np.log(self.runs.priors[place])
        return balanced_accuracy(self.runs.log_probabilities[place] + ratio, self.true, self.weights)


def _differences(drawn: _Drawn, comparison: protocol.Comparison, planned: int, seed: int) -> list[dict]:
    first, second = (drawn.places(name) for name in comparison.training_sets)
    both = [number for number in range(planned) if number in first.index and number in second.index]
    if len(both) < 2:
        return []
    found: dict[str, list] = {}
    for number in both:
        own = [drawn.measures(first[number]), drawn.measures(second[number])]
        moved = drawn.moved(second[number], first[number])
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


def _places(images: pd.DataFrame) -> np.ndarray:
    return images["dx"].map({code: place for place, code in enumerate(CODES)}).to_numpy()
