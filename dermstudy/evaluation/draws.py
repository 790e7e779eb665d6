"""How images are drawn for a distance between two sides: how many, which lesions first, halves, and subsets of each size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from dermstudy.evaluation.features import Features
from dermstudy.evaluation.metrics import fid


def draw_lesions(features: Features, n: int, random: np.random.Generator) -> np.ndarray:
    """Vectors [n, d] of `n` images drawn without replacement, one image a lesion before any lesion's second."""
    shuffled = features.rows(random.permutation(len(features)))
    turn = pd.Series(shuffled.groups).groupby(shuffled.groups).cumcount().to_numpy()
    return shuffled.values[turn.argsort(kind="stable")[:n]]


def largest_n(wanted: int, *sides: dict[str, object]) -> int:
    """The number of images to compare, at most `wanted` and half of what the smallest entity has on any side.

    Half, because subsamples of nearly everything hardly differ and their spread would say nothing.
    """
    halves = [len(images) // 2 for side in sides for images in side.values()]
    return min([wanted, *halves])


def fid_by_size(
    first: np.ndarray,
    second: np.ndarray,
    sizes: list[int],
    repeats: int = 5,
    seed: int = 0,
    distance: Callable[[np.ndarray, np.ndarray], float] = fid,
) -> pd.DataFrame:
    """The distance of random subsets against their size: columns n, value (one row a repetition)."""
    random = np.random.default_rng(seed)
    rows = []
    for size in sizes:
        for _ in range(repeats):
            parts = [part[random.permutation(len(part))[:size]] for part in (first, second)]
            rows.append({"n": size, "value": distance(*parts)})
    return pd.DataFrame(rows)
