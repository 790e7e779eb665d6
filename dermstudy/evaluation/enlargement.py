"""Enlargements of real images beside the images themselves, the upsampler's and bicubic ones, image by image.

Source: Shavlokhova et al., section 2.1, for the upsampler, which the paper sets beside nothing.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dermstudy import figures
from dermstudy.entities import CODES, COLOURS, NAMES
from dermstudy.evaluation.cascade import BICUBIC, UPSAMPLER
from dermstudy.evaluation.metrics import mse, psnr, ssim
from dermstudy.files import InputError
from dermstudy.intervals import mean_interval

MEASURES = {"psnr": "PSNR, dB", "ssim": "structural similarity", "detail": "share of the original's detail"}
FINE = 2.0  # pixels: the standard deviation of the Gaussian that leaves no detail of a quarter-size image's pixel


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
        own = detail(real)
        for name, made in zip((UPSAMPLER, BICUBIC), both, strict=True):
            error = mse(real, made)
            rows.append({
                "image_id": row.image_id, "dx": row.dx, "enlargement": name, "ssim": ssim(real, made), "psnr": psnr(error),
                "mse": error, "detail": detail(made) / own if own else np.nan,
            })  # fmt: skip
    return pd.DataFrame(rows)


def enlargements(each: pd.DataFrame) -> pd.DataFrame:
    """The means of `by_image`: index upsampler, bicubic; columns n, ssim, psnr (of the mean error), mse, detail.

    Then of how many images the row has the lower error and the higher SSIM, ties in neither.
    """
    table = each.groupby("enlargement")[["ssim", "mse", "detail"]].mean().loc[[UPSAMPLER, BICUBIC]]
    table.insert(1, "psnr", table["mse"].map(psnr))
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
        for place, code in enumerate(present, start=1):
            values = gained.loc[gained["dx"] == code, measure]
            heights = place + np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else [place]
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
