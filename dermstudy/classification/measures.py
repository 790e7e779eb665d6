"""Measures of class probabilities, each for many weightings of the test images at once: resampled lesions cost a product.

Everywhere here: probabilities or scores float [images, 7] in the order of CODES; true int [images], places in CODES; weights
float [weightings, images], how often each image counts. A measure is float [weightings]; an entity without weight is in no
mean. Tests hold them against scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from dermstudy.classification.predictions import Predictions
from dermstudy.entities import CODES

SPECIFICITY, BINS, LEAST = 0.9, 15, 1e-12


def places_of(dx: Sequence[str]) -> np.ndarray:
    """The place of each entity code in CODES, -1 for another one."""
    return pd.Index(CODES).get_indexer(dx)


def of_runs(measure: Callable, predictions: Predictions, probabilities: np.ndarray | None = None) -> np.ndarray:
    """A measure of every run [runs], each image counted once.

    probabilities [runs, images, 7]: by default `predictions.corrected()`, posteriors as if entities were equally common.
    """
    each = predictions.corrected() if probabilities is None else probabilities
    true, once = places_of(predictions.images["dx"]), np.ones((1, len(predictions.images)))
    return np.array([measure(own, true, once)[0] for own in each])


def accuracy(scores: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of images whose highest score is the true entity's."""
    return weights @ (scores.argmax(axis=1) == true) / weights.sum(axis=1)


def recalls(scores: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The accuracy of each entity's images [weightings, 7]; NaN where an entity has none."""
    return _of_entities(scores.argmax(axis=1) == true, true, weights)


def balanced_accuracy(scores: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean recall of the entities that are there."""
    return _mean(recalls(scores, true, weights))


def macro_f1(scores: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean F1 of the entities that are there."""
    answer, each = np.eye(len(CODES))[scores.argmax(axis=1)], np.eye(len(CODES))[true]
    there, answered = weights @ each, weights @ answer
    with np.errstate(invalid="ignore"):
        return _mean(np.where(there > 0, 2 * (weights @ (each * answer)) / (there + answered), np.nan))


def macro_area(scores: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean area under the ROC curve, each entity that is there against the rest; ties count half."""
    return _mean(np.stack([_area(scores[:, place], true == place, weights) for place in range(len(CODES))], axis=1))


def _area(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The area of one entity; NaN where all images or none are its own."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    own, others = (np.add.reduceat(weights[:, order] * side[order], starts, axis=1) for side in (positive, ~positive))
    below = others.cumsum(axis=1) - others / 2
    with np.errstate(invalid="ignore"):
        return (own * below).sum(axis=1) / (own.sum(axis=1) * others.sum(axis=1))


def log_loss(probabilities: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of -log of the true entity's probability."""
    return weights @ _losses(probabilities, true) / weights.sum(axis=1)


def balanced_log_loss(probabilities: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`log_loss` with each entity that is there counted the same."""
    return _mean(_of_entities(_losses(probabilities, true), true, weights))


def _losses(probabilities: np.ndarray, true: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(probabilities[np.arange(len(true)), true], LEAST))


def sensitivity(scores: np.ndarray, true: np.ndarray, weights: np.ndarray, code: str = "mel") -> np.ndarray:
    """The share of an entity's images above the lowest score of another with SPECIFICITY of the others at or under it.

    The threshold is read off the very images it is judged on, anew in each weighting: it describes the curve and is no
    threshold to use. NaN where all images or none are the entity's.
    """
    score, positive = scores[:, CODES.index(code)], true == CODES.index(code)
    if not positive.any() or positive.all():
        return np.full(len(weights), np.nan)
    others = np.flatnonzero(~positive)
    others = others[np.argsort(score[others], kind="stable")]
    cumulative = weights[:, others].cumsum(axis=1)
    reached = cumulative >= SPECIFICITY * cumulative[:, -1:] - 1e-9
    threshold = score[others][reached.argmax(axis=1)]
    own = weights[:, positive]
    return (own * (score[positive][None, :] > threshold[:, None])).sum(axis=1) / own.sum(axis=1)


def calibration_error(probabilities: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error: |accuracy - confidence| of the likeliest answers over BINS equal bins of confidence.

    Source: Guo et al. (arXiv 1706.04599), equation 3. 0 where a confidence of 0.8 is right in 80 % of answers.
    """
    confidence, right, bins = _confidence(probabilities, true)
    return np.abs(weights @ (np.eye(BINS)[bins] * (right - confidence)[:, None])).sum(axis=1) / weights.sum(axis=1)


def reliability(probabilities: np.ndarray, true: np.ndarray) -> pd.DataFrame:
    """The answers by bin of confidence: columns confidence (mean), accuracy, n; empty bins are left out."""
    confidence, right, bins = _confidence(probabilities, true)
    groups = pd.DataFrame({"confidence": confidence, "accuracy": right.astype(float)}).groupby(bins)
    return groups.mean().assign(n=groups.size()).reset_index(drop=True)


def _confidence(probabilities: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    confidence = probabilities.max(axis=1)
    return confidence, probabilities.argmax(axis=1) == true, np.minimum((confidence * BINS).astype(int), BINS - 1)


def _of_entities(values: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    each = np.eye(len(CODES))[true]
    with np.errstate(invalid="ignore"):
        return weights @ (each * values[:, None]) / (weights @ each)


def _mean(values: np.ndarray) -> np.ndarray:
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0).sum(axis=1) / there.sum(axis=1)
