"""Whether synthetic skin has the colour of real skin: mean and spread of CIELAB's lightness, a and b by entity.

Features of a network forgive a shift of colour that a dermatologist sees at once. Source: CIE 1976 L*a*b* through
scikit-image (D65, 2 degrees); the interval resamples images, real ones by whole lesions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from skimage.color import rgb2lab

from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.intervals import quantiles

CHANNELS = ("L", "a", "b")  # lightness 0..100; green to red and blue to yellow, about -100..100
CENTRE = 0.75  # share of the side that is looked at: corners may be black from the dermatoscope's rim


def colours(images: np.ndarray) -> np.ndarray:
    """Of each image uint8 [n, h, w, 3]: mean L, a, b, then their standard deviations over its centre, float [n, 6]."""
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise InputError(f"colours are read from uint8 images [n, h, w, 3], got {images.dtype} {images.shape}")
    side = images.shape[1:3]
    cut = [slice(round(edge * (1 - CENTRE) / 2), round(edge * (1 + CENTRE) / 2)) for edge in side]
    rows = []
    for image in images:
        lab = rgb2lab(image[cut[0], cut[1]]).reshape(-1, 3)
        rows.append(np.concatenate([lab.mean(axis=0), lab.std(axis=0)]))
    return np.array(rows).reshape(-1, 6)


def colour_table(
    synthetic: tuple[pd.DataFrame, np.ndarray],
    real: tuple[pd.DataFrame, np.ndarray],
    codes: Sequence[str] = CODES,
    resamples: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """One row an entity and channel: how far synthetic images lie from real ones, and how evenly they scatter.

    synthetic, real: a row an image (dx; group, the lesion, of real ones) and the images' `colours` [n, 6]. Columns entity,
    channel, n, n_real, mean, real_mean, difference with its 95 % interval low, high (bootstrap of synthetic images and of real
    lesions), between (the standard deviation of image means over that of real ones) and within (of pixels within an image,
    likewise). InputError where one of `codes` has fewer than two images or lesions on a side.
    """
    rows = []
    for code in codes:
        made, known = (colours[(frame["dx"] == code).to_numpy()] for frame, colours in (synthetic, real))
        random, lesions = (
            np.random.default_rng([seed, CODES.index(code), 13]),
            real[0].loc[real[0]["dx"] == code, "group"],
        )
        names, lesion_of = np.unique(lesions.to_numpy(), return_inverse=True)
        if len(made) < 2 or len(names) < 2:
            raise InputError(
                f"{code}: {len(made)} synthetic images and {len(names)} real lesions; colours need two of each"
            )
        members = [np.flatnonzero(lesion_of == lesion) for lesion in range(len(names))]
        drawn = []
        for _ in range(resamples):
            again = np.concatenate([members[lesion] for lesion in random.integers(0, len(names), len(names))])
            drawn.append(made[random.integers(0, len(made), len(made)), :3].mean(0) - known[again, :3].mean(0))
        for channel, name in enumerate(CHANNELS):
            low, high = quantiles(np.array(drawn)[:, channel])
            mean, real_mean = made[:, channel].mean(), known[:, channel].mean()
            rows.append({
                "entity": code, "channel": name, "n": len(made), "n_real": len(known), "mean": mean, "real_mean": real_mean,
                "difference": mean - real_mean, "low": low, "high": high,
                "between": made[:, channel].std() / known[:, channel].std(),
                "within": made[:, 3 + channel].mean() / known[:, 3 + channel].mean(),
            })  # fmt: skip
    return pd.DataFrame(rows)
