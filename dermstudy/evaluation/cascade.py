"""Which stage of a generator loses what: each stage fed with perfect input, then with what the stage before it made.

Real 64-pixel images enlarged say what the upsampler costs; painted ones enlarged without a model say what the base
costs; real images of other lesions are the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dermstudy.data import dataset
from dermstudy.data.storage import PNG, Storage
from dermstudy.diffusion import sample
from dermstudy.evaluation import metrics
from dermstudy.files import InputError
from dermstudy.intervals import quantiles

Encode = Callable[[np.ndarray], np.ndarray]
REAL, PAINTED = "real 64-pixel images", "painted images"
BICUBIC, UPSAMPLER, NONE = "bicubic", "upsampler", "none"


@dataclass(frozen=True)
class Sides:
    """Real images in two parts that share no lesion: one is enlarged, the other is what all are compared with."""

    enlarged: dataset.Cohort
    compared: dataset.Cohort


def sides(cohort: dataset.Cohort, count: int, seed: int = 0, share: float = 1 / 3, even: bool = False) -> Sides:
    """`count` images of `cohort`, an even number an entity as far as it has lesions, against images of other lesions.

    At most `share` of each entity's lesions is enlarged; where a rare one has too few, the others make up for it, or
    none does (`even`). Both sides have the same shares of the entities: else a distance between real images would be one
    between their diagnoses. InputError where an entity has fewer than three lesions.
    """
    random, ordered = np.random.default_rng(seed), {}
    for code, own in cohort.frame.groupby("dx"):
        lesions = own["group"].unique()
        if len(lesions) < 3:
            raise InputError(f"{code}: {len(lesions)} lesions are too few for two sides: use a larger cohort")
        part = random.permutation(lesions)[: max(1, int(len(lesions) * share))]
        rows = own[own["group"].isin(part)]
        # One image of every lesion before a second one of any.
        ordered[code] = rows.loc[rows.groupby("group").cumcount().sort_values(kind="stable").index]
    each = -(-count // len(ordered)) if even else _level([len(rows) for rows in ordered.values()], count)
    taken = pd.concat(rows.head(each) for rows in ordered.values())
    left = cohort.frame[~cohort.frame["group"].isin(taken["group"])]
    shares = taken["dx"].value_counts()
    times = (left["dx"].value_counts() / shares).min()
    others = pd.concat(
        own.sample(int(times * shares[code]), random_state=np.random.default_rng([seed, place]))
        for place, (code, own) in enumerate(left.groupby("dx"))
    )
    return Sides(cohort.select(image_id=taken["image_id"]), cohort.select(image_id=others["image_id"]))


def _level(sizes: Sequence[int], count: int) -> int:
    """The smallest number of images taken from each of `sizes`, as far as it has them, that makes `count` in all."""
    return next((each for each in range(1, max(sizes)) if sum(min(each, size) for size in sizes) >= count), max(sizes))


def against(made: np.ndarray, real: np.ndarray, repeats: int = 100, seed: int = 0) -> dict[str, float]:
    """n, KID x 1,000 of features [n, d] to [m, d], and the middle 95 % over half of both, drawn without replacement."""
    random, draws = np.random.default_rng(seed), []
    for _ in range(repeats):
        halves = [own[random.permutation(len(own))[: len(own) // 2]] for own in (made, real)]
        draws.append(metrics.kid(*halves))
    low, high = quantiles(draws)
    return {"n": len(made), "kid": metrics.kid(made, real), "low": low, "high": high}


def table(
    parts: Sides,
    painted: np.ndarray | None,
    captions: Sequence[str],
    upsampler,
    steps: int | str,
    encode: Encode,
    seed: int = 0,
    storage: Storage = PNG,
) -> pd.DataFrame:
    """One row a way to an image of the upsampler's side: input, enlarged_by, n, kid, low, high.

    painted: the base model's images uint8 [n, 64, 64, 3] for `captions`, those of parts.enlarged; None leaves them out.
    The first row is the floor: the real images that the small ones were reduced from. encode: images uint8
    [n, h, w, 3] to features [n, d]. storage: what enlarged images go through before, that of the real ones.
    """
    side, low_side = upsampler.side, (upsampler.pixels.config.low_side if upsampler.pixels else 64)
    real = encoded(parts.compared.images(side), encode)
    seeds = sample.seeds_for(parts.enlarged.frame["image_id"], seed)
    rows = [{"input": "real images", "enlarged_by": NONE} | against(encoded(parts.enlarged.images(side), encode), real)]
    inputs = {REAL: parts.enlarged.images(low_side)} | ({} if painted is None else {PAINTED: painted})
    for name, small in inputs.items():
        for way in (BICUBIC, UPSAMPLER):
            if way == BICUBIC:
                large = sample.bicubic(small, side)
            else:
                large = sample.enlarged(upsampler, small, list(captions), seeds, steps)
            rows.append({"input": name, "enlarged_by": way} | against(encoded(storage.stored(large), encode), real))
    return pd.DataFrame(rows)


def painted(
    base, frame: pd.DataFrame, steps: int | str, scale: float, seed: int = 0, batch: int = 16, **options
) -> np.ndarray:
    """One image of the base model for each caption of `frame` (image_id, caption), uint8 [n, side, side, 3]."""
    captions, seeds, parts = frame["caption"].tolist(), sample.seeds_for(frame["image_id"], seed), []
    base.set_progress_bar_config(disable=True)
    for start in range(0, len(frame), batch):
        part = slice(start, start + batch)
        parts.append(
            base(captions[part], guidance_scale=scale, num_inference_steps=steps, seeds=seeds[part], **options)
        )
    return np.concatenate(parts)


def whole_table(
    parts: Sides, base, upsampler, steps: tuple[int | str, int | str], scale: float, encode: Encode, seed: int = 0,
    storage: Storage = PNG, **options,
) -> pd.DataFrame:  # fmt: skip
    """`base_rows` and `table` of a generator: what each stage loses, at the base model's size and at the upsampler's.

    options: what else the base model is called with, such as guidance_interval.
    """
    small = painted(base, parts.enlarged.frame, steps[0], scale, seed, **options)
    upsampler.set_progress_bar_config(disable=True)
    captions = parts.enlarged.frame["caption"].tolist()
    rows = table(parts, small, captions, upsampler, steps[1], encode, seed, storage)
    return pd.concat([base_rows(parts, small, encode), rows], ignore_index=True)


def base_rows(parts: Sides, images: np.ndarray, encode: Encode) -> pd.DataFrame:
    """`table`'s columns for the base model alone, at its own side: the floor, then `images` painted for its captions."""
    side = images.shape[1]
    real = encoded(parts.compared.images(side), encode)
    floor = against(encoded(parts.enlarged.images(side), encode), real)
    made = against(encoded(images, encode), real)
    return pd.DataFrame(
        [
            {"input": f"real images at {side} pixels", "enlarged_by": NONE} | floor,
            {"input": f"painted images at {side} pixels", "enlarged_by": NONE} | made,
        ]
    )


def encoded(images: np.ndarray, encode: Encode, batch: int = 16) -> np.ndarray:
    """Features [n, d] of images uint8 [n, h, w, 3], `batch` at a time."""
    return np.concatenate([encode(images[start : start + batch]) for start in range(0, len(images), batch)])
