"""A trial made ready: originals, generators' images and other people's, each encoded once through the same views.

Its parts are described in `encoding`, `feature_sets` and `frozen_features`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from dermstudy.classification.encoding import Settings, encode
from dermstudy.classification.feature_sets import ORIGINALS
from dermstudy.classification.frozen_features import Encoded, Trial
from dermstudy.classification.predictions import EXTERNAL
from dermstudy.data.dataset import Cohort
from dermstudy.data.external import External


def encoded_trial(
    originals: Cohort,
    synthetic: Mapping[str, Cohort],
    settings: Settings,
    cache_folder: str | Path,
    draws: int = 0,
    external: External | None = None,
) -> Trial:
    """The trial of `frozen_features.run_trial` on these cohorts.

    originals: frame with group, split and subset. synthetic: a cohort a pool of `feature_sets`. draws: how often the stronger
    augmentation is laid over each view of the training originals (0: its training set cannot be run). external: other
    people's images to predict as well. InputError as `encode`.
    """
    features = {ORIGINALS: _features(originals, settings, cache_folder)}
    features |= {pool: _features(cohort, settings, cache_folder) for pool, cohort in synthetic.items()}
    augmented = []
    train = (originals.frame["split"] == "train").to_numpy()
    for draw in range(1, draws + 1):
        drawn = replace(settings, views=tuple(replace(view, draw=draw) for view in settings.views))
        values = np.zeros_like(features[ORIGINALS])
        values[train] = _features(originals.select(split="train"), drawn, cache_folder)
        augmented.append(values)
    frames = {pool: cohort.frame for pool, cohort in synthetic.items()}
    trial = Trial(originals.frame, Encoded(features, augmented), frames, settings.components, blocks=settings.blocks)
    return trial if external is None else with_external(trial, external, settings, cache_folder)


def with_external(trial: Trial, external: External, settings: Settings, cache_folder: str | Path) -> Trial:
    """`trial` that predicts other people's images as well: its runs' Predictions hold them as split EXTERNAL."""
    features = {**trial.encoded.features, EXTERNAL: _features(external.cohort, settings, cache_folder)}
    encoded = Encoded(features, trial.encoded.augmented)
    return replace(trial, encoded=encoded, external=external.cohort.frame)


def _features(cohort: Cohort, settings: Settings, cache_folder: str | Path) -> np.ndarray:
    return settings.features([encode(cohort, cache_folder, view) for view in settings.views])
