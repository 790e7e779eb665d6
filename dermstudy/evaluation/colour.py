"""Whether synthetic skin has the colour of real skin: mean and spread of CIELAB's lightness, a and b by entity.

Features of a network forgive a shift of colour that a dermatologist sees at once. Source: CIE 1976 L*a*b* through
scikit-image (D65, 2 degrees); the interval resamples images, real ones by whole lesions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from skimage.color import rgb2lab

from dermstudy.data.dataset import Cohort
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


def colours_of(synthetic: Cohort, real: Cohort, shades: Sequence[np.ndarray], seed: int = 0) -> pd.DataFrame:
    """`colour_table` of two cohorts whose images have the colours `shades`, [n, 6] each."""
    own, known = (
        {code: shade[(side.frame["dx"] == code).to_numpy()] for code in CODES}
        for side, shade in zip((synthetic, real), shades, strict=True)
    )
    lesions = {code: real.select(dx=code).frame["group"].to_numpy() for code in CODES}
    return colour_table(own, known, lesions, seed=seed)


def colour_table(
    synthetic: Mapping[str, np.ndarray],
    real: Mapping[str, np.ndarray],
    lesions: Mapping[str, np.ndarray],
    resamples: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """One row an entity and channel: how far synthetic images lie from real ones, and how evenly they scatter.

    synthetic, real: `colours` [n, 6] by entity; lesions: the lesion of each real image. Columns entity, channel, n, n_real,
    mean, real_mean, difference with its 95 % interval low, high (bootstrap of synthetic images and of real lesions), between
    (the standard deviation of image means over that of real ones) and within (of pixels within an image, likewise).
    InputError where an entity has fewer than two images or lesions on a side.
    """
    rows = []
    for code in [code for code in CODES if code in synthetic]:
        random, own, known = np.random.default_rng([seed, CODES.index(code), 13]), synthetic[code], real[code]
        names, place = np.unique(np.asarray(lesions[code]), return_inverse=True)
        if len(own) < 2 or len(names) < 2:
            raise InputError(
                f"{code}: {len(own)} synthetic images and {len(names)} real lesions; colours need two of each"
            )
        members = [np.flatnonzero(place == lesion) for lesion in range(len(names))]
        drawn = []
        for _ in range(resamples):
            again = np.concatenate([members[lesion] for lesion in random.integers(0, len(names), len(names))])
            drawn.append(own[random.integers(0, len(own), len(own)), :3].mean(0) - known[again, :3].mean(0))
        for channel, name in enumerate(CHANNELS):
            low, high = quantiles(np.array(drawn)[:, channel])
            rows.append({
                "entity": code, "channel": name, "n": len(own), "n_real": len(known),
                "mean": own[:, channel].mean(), "real_mean": known[:, channel].mean(),
                "difference": own[:, channel].mean() - known[:, channel].mean(), "low": low, "high": high,
                "between": own[:, channel].std() / known[:, channel].std(),
                "within": own[:, 3 + channel].mean() / known[:, 3 + channel].mean(),
            })  # fmt: skip
    return pd.DataFrame(rows)
