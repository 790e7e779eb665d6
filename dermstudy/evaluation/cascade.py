"""Which stage of a generator loses what: each stage fed with perfect input, then with what the stage before it made.

Real 64-pixel images enlarged say what the upsampler costs; painted ones enlarged without a model say what the base
costs; real images of other lesions are the floor. The second half sets enlargements of real images beside the images
themselves, the upsampler's and bicubic ones: the paper (section 2.1) sets its upsampler beside nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dermstudy import figures
from dermstudy.data import dataset
from dermstudy.data.storage import PNG, Storage
from dermstudy.diffusion import sample
from dermstudy.entities import CODES, COLOURS, NAMES
from dermstudy.evaluation import metrics
from dermstudy.files import InputError
from dermstudy.intervals import mean_interval, quantiles

Encode = Callable[[np.ndarray], np.ndarray]
REAL, PAINTED = "real 64-pixel images", "painted images"
BICUBIC, UPSAMPLER, NONE = "bicubic", "upsampler", "none"
MEASURES = {"psnr": "PSNR, dB", "ssim": "structural similarity", "detail": "share of the original's detail"}
FINE = 2.0  # pixels: the standard deviation of the Gaussian that leaves no detail of a quarter-size image's pixel


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
    for code, rows in cohort.frame.groupby("dx"):
        lesions = rows["group"].unique()
        if len(lesions) < 3:
            raise InputError(f"{code}: {len(lesions)} lesions are too few for two sides: use a larger cohort")
        part = random.permutation(lesions)[: max(1, int(len(lesions) * share))]
        ordered[code] = dataset.in_turn(rows[rows["group"].isin(part)])
    each = -(-count // len(ordered)) if even else _level([len(rows) for rows in ordered.values()], count)
    taken = pd.concat(rows.head(each) for rows in ordered.values())
    left = cohort.frame[~cohort.frame["group"].isin(taken["group"])]
    shares = taken["dx"].value_counts()
    times = (left["dx"].value_counts() / shares).min()
    others = pd.concat(
        rows.sample(int(times * shares[code]), random_state=np.random.default_rng([seed, number]))
        for number, (code, rows) in enumerate(left.groupby("dx"))
    )
    return Sides(cohort.select(image_id=taken["image_id"]), cohort.select(image_id=others["image_id"]))


def _level(sizes: Sequence[int], count: int) -> int:
    """The smallest number of images taken from each of `sizes`, as far as it has them, that makes `count` in all."""
    return next((each for each in range(1, max(sizes)) if sum(min(each, size) for size in sizes) >= count), max(sizes))


def against(made: np.ndarray, real: np.ndarray, repeats: int = 100, seed: int = 0) -> dict[str, float]:
    """n, KID x 1,000 of features [n, d] to [m, d], and the middle 95 % over half of both, drawn without replacement."""
    random, draws = np.random.default_rng(seed), []
    for _ in range(repeats):
        halves = [side[random.permutation(len(side))[: len(side) // 2]] for side in (made, real)]
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


# Enlargements, image by image


def detail(image: np.ndarray) -> float:
    """Standard deviation, on the unit scale, of what a Gaussian of FINE pixels takes away from uint8 [h, w, 3]."""
    from skimage.filters import gaussian

    pixels = image.astype(float) / 255
    return float((pixels - gaussian(pixels, FINE, channel_axis=2)).std())


def by_image(chosen: pd.DataFrame, truth: np.ndarray, upsampler: np.ndarray, bicubic: np.ndarray) -> pd.DataFrame:
    """A row an image and enlargement: image_id, dx, enlargement, ssim, psnr (true, in dB), mse, detail.

    chosen: the images' rows; the others uint8 [n, h, w, 3] in their order. detail: of the enlargement, over the original's
    own: below 1 it is smoother than the original, above 1 it holds grain that is not there. InputError where the numbers of
    images differ.
    """
    if len({len(chosen), len(truth), len(upsampler), len(bicubic)}) > 1:
        raise InputError(
            f"{len(chosen)} images with {len(upsampler)} and {len(bicubic)} enlargements: give one of each"
        )
    rows = []
    for row, real, *both in zip(chosen.itertuples(), truth, upsampler, bicubic, strict=True):
        whole = detail(real)
        for name, made in zip((UPSAMPLER, BICUBIC), both, strict=True):
            error, share = metrics.mse(real, made), detail(made) / whole if whole else np.nan
            measured = {"ssim": metrics.ssim(real, made), "psnr": metrics.psnr(error), "mse": error, "detail": share}
            rows.append({"image_id": row.image_id, "dx": row.dx, "enlargement": name} | measured)
    return pd.DataFrame(rows)


def enlargements(each: pd.DataFrame) -> pd.DataFrame:
    """The means of `by_image`: index upsampler, bicubic; columns n, ssim, psnr (of the mean error), mse, detail.

    Then of how many images the row has the lower error and the higher SSIM, ties in neither.
    """
    table = each.groupby("enlargement")[["ssim", "mse", "detail"]].mean().loc[[UPSAMPLER, BICUBIC]]
    table.insert(1, "psnr", table["mse"].map(metrics.psnr))
    table.insert(0, "n", each["image_id"].nunique())
    gained = _gained(each, ["mse", "ssim"])
    table["lower_error_in"] = [(gained["mse"] < 0).sum(), (gained["mse"] > 0).sum()]
    table["higher_ssim_in"] = [(gained["ssim"] > 0).sum(), (gained["ssim"] < 0).sum()]
    return table


def differences(each: pd.DataFrame) -> pd.DataFrame:
    """The upsampler less bicubic, a row a measure of MEASURES: n, difference (mean over images), low, high.

    The interval is a 95 % t interval over images, which are of different lesions where the choice was.
    """
    gained = _gained(each, list(MEASURES)).dropna()
    rows = [{"measure": name, "n": len(gained)} | mean_interval(gained[name], "difference") for name in MEASURES]
    return pd.DataFrame(rows)


def differences_figure(each: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """A panel a measure: the upsampler less bicubic, a dot an image, a row an entity; on top the mean with its interval."""
    import matplotlib.pyplot as plt

    gained = _gained(each, list(MEASURES)).join(each.drop_duplicates("image_id").set_index("image_id")["dx"])
    present = [code for code in CODES if code in set(gained["dx"])]
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(figures.WIDTH, 2.9), sharey=True, layout="constrained")
    for ax, (measure, words) in zip(axes, MEASURES.items(), strict=True):
        ax.axvline(0, color="#BBBBBB", lw=1)
        for height, code in enumerate(present, start=1):
            values = gained.loc[gained["dx"] == code, measure]
            heights = height + np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else [height]
            ax.plot(values, heights, ".", color=COLOURS[code], ms=4, alpha=0.7)
        whole = table.set_index("measure").loc[measure]
        ax.hlines(0, whole["low"], whole["high"], color="#88CCEE", lw=6)
        ax.plot(whole["difference"], 0, "o", color="#332288", ms=3)
        ax.set_xlabel(f"{words}:\nupsampler less bicubic")
    axes[0].set_yticks(range(len(present) + 1), [f"mean, n = {len(gained)}", *(NAMES[code] for code in present)])
    axes[0].invert_yaxis()
    return figure


def _gained(each: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """The upsampler less bicubic, a row an image."""
    wide = each.pivot(index="image_id", columns="enlargement", values=measures)
    return pd.DataFrame({name: wide[name, UPSAMPLER] - wide[name, BICUBIC] for name in measures})
