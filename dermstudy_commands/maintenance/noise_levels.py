"""At which noise levels a stage loses what: `python -m dermstudy_commands.maintenance.noise_levels --data DIR`.

Real images of validation lesions are given noise of one level and denoised from there, by their captions and, for the
upsampler, their small version. What is lost between two levels the network does not know there: that is where to train
(long_training's --noise). What the base loses is measured once more after the upsampler has enlarged it, for 64 pixels hide
it. Sampling from noise alone stands beside it. At which levels the base hears its captions is
measured with them. Adds to tables/noise_levels.csv and caption_gain.csv of a folder of weights, by sitting, and draws
figures/noise_levels.png. Test lesions have no part in it.
Source: Meng et al. (arXiv 2108.01073) for sampling from a noised image.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dermstudy import figures, workspace
from dermstudy.data.storage import storage_of
from dermstudy.diffusion import sample, weights
from dermstudy.evaluation import cascade, encoders
from dermstudy.files import InputError, answered
from dermstudy_commands.maintenance.commands import of_weights, split_cohort, write_table
from dermstudy_commands.maintenance.stage_kid import caption_gains

TABLE, GAINS = "noise_levels.csv", "caption_gain.csv"
FIGURE = "noise_levels"
LEVELS = {"base": (0.3, 1.0, 3.0, 10.0), "upsampler": (0.3, 1.0, 3.0, 10.0)}
CAPTIONS = "captions"  # beside the stages: at which noise over signal the base hears them
GAIN_LEVELS = (0.5, 2.0, 6.0, 20.0)
COUNT = {"base": 250, "upsampler": 105}  # asked of cascade.sides; lesions of rare entities give fewer
STEPS_A_FOLD = 1.3  # solver steps for each e-fold of noise: enough that more change nothing
LEAST = 4  # steps
STEPS = 6  # of the upsampler after the base
SEED = 0


def stage_rows(
    stage: str, pipeline, parts: cascade.Sides, encode: cascade.Encode, levels: Sequence[float], upsampler=None
) -> list[dict]:
    """One row a noise level: noise, n, kid, low, high, texture, kid_enlarged.

    The first row is real images as they are (noise 0), the last one sampling from noise alone (noise infinite). texture, of
    an upsampler: the standard deviation over bicubic enlargement, beside the real images'; 1 is right. kid_enlarged, of a
    base with an `upsampler`: KID of what it made of the images, against real images of its side.
    """
    frame, side = parts.enlarged.frame, pipeline.side
    real, stored = parts.enlarged.images(side), storage_of(parts.compared)
    small = parts.enlarged.images(pipeline.pixels.config.low_side) if stage == "upsampler" else None
    compared = cascade.encoded(parts.compared.images(side), encode)
    large = None if upsampler is None else cascade.encoded(parts.compared.images(upsampler.side), encode)
    rows = []
    for noise in (0.0, *levels, np.inf):
        made = real if noise == 0 else _denoised(pipeline, frame, real, small, noise)
        seen = made if noise == 0 or small is None else stored.stored(made)
        row = {"noise": noise} | cascade.against(cascade.encoded(seen, encode), compared)
        row |= {"texture": _texture(made, real, small)}
        if upsampler is not None:
            row["kid_enlarged"] = cascade.against(_enlarged(upsampler, made, parts, encode), large)["kid"]
        rows.append(row)
        print(
            json.dumps({"model": stage} | {key: round(float(value), 3) for key, value in rows[-1].items()}), flush=True
        )
    return rows


def _denoised(pipeline, frame: pd.DataFrame, real: np.ndarray, small: np.ndarray | None, noise: float, batch: int = 8):
    """`real` given that noise and denoised, or sampled from noise alone where it is infinite: uint8, as `real`."""
    captions, seeds, made = frame["caption"].tolist(), sample.seeds_for(frame["image_id"], SEED), []
    levels = pipeline.scheduler.alphas_cumprod
    least, largest = (float((1 - level) / level) ** 0.5 for level in (levels[0], levels[-1]))
    steps = max(LEAST, round(STEPS_A_FOLD * np.log(min(noise, largest) / least)))
    for start in range(0, len(frame), batch):
        part = slice(start, start + batch)
        options = {"num_inference_steps": steps, "seeds": seeds[part]}
        if np.isfinite(noise):
            options["begin"] = real[part], noise
        if small is None:
            made.append(pipeline(captions[part], guidance_scale=1.0, **options))
        else:
            made.append(pipeline(captions[part], small[part], **options))
    return np.concatenate(made)


def _enlarged(upsampler, small: np.ndarray, parts: cascade.Sides, encode: cascade.Encode) -> np.ndarray:
    """Features of `small` enlarged and stored as the originals are."""
    frame = parts.enlarged.frame
    seeds = sample.seeds_for(frame["image_id"], SEED)
    large = sample.enlarged(upsampler, small, frame["caption"].tolist(), seeds, STEPS)
    return cascade.encoded(storage_of(parts.compared).stored(large), encode)


def _texture(made: np.ndarray, real: np.ndarray, small: np.ndarray | None) -> float:
    if small is None:
        return float("nan")
    smooth = sample.bicubic(small, real.shape[1]).astype(np.float32)
    spread, right = (float(np.mean([(a - b).std() for a, b in zip(own, smooth, strict=True)])) for own in (made, real))
    return spread / right


def gain_rows(base, cohort, sitting: int, before: pd.DataFrame | None) -> pd.DataFrame:
    """`before` with one sitting's share of the squared error that the right caption saves: sitting, noise, n, gain."""
    gains = caption_gains(base, cohort, GAIN_LEVELS)
    own = pd.DataFrame({"sitting": sitting, "noise": GAIN_LEVELS, "n": len(cohort), "gain": gains})
    kept = [] if before is None else [before[before["sitting"] != sitting]]
    return pd.concat([*kept, own]).sort_values(["sitting", "noise"], ignore_index=True)


def name_of(noise: float) -> str:
    """A noise level for a reader: none of it, so much over signal, or noise alone."""
    return "none" if noise == 0 else "alone" if np.isinf(noise) else f"{noise:g}"


def added(table: pd.DataFrame | None, rows: list[dict], stage: str, sitting: int) -> pd.DataFrame:
    """`table` with the rows of one stage after one sitting in place of any that it had."""
    own = pd.DataFrame(rows).assign(model=stage, sitting=sitting)
    own = own.reindex(columns=["model", "sitting", "noise", "n", "kid", "low", "high", "texture", "kid_enlarged"])
    if table is not None:
        own = pd.concat([table[(table["model"] != stage) | (table["sitting"] != sitting)], own])
    return own.sort_values(["model", "sitting", "noise"], ignore_index=True)


def figure(table: pd.DataFrame) -> Figure:
    """KID by the noise from which real images were denoised, a panel a stage, a line a sitting."""
    figures.use_style()
    drawn, axes = plt.subplots(1, 2, figsize=(figures.WIDTH, 3.4))
    colours = ("#88CCEE", "#332288", "#117733", "#CC6677")
    for ax, (stage, own) in zip(axes, table.groupby("model"), strict=True):
        noise = sorted(own["noise"].unique())
        for colour, (sitting, line) in zip(colours, own.groupby("sitting"), strict=False):
            place = [noise.index(value) for value in line["noise"]]
            ax.fill_between(place, line["low"], line["high"], color=colour, alpha=0.2, lw=0)
            ax.plot(place, line["kid"], "o-", ms=4, color=colour, label=f"after sitting {sitting}")
            if line["kid_enlarged"].notna().any():
                ax.plot(
                    place, line["kid_enlarged"], "s--", ms=4, color=colour, label="the same, enlarged to 256 pixels"
                )
        ax.set_xticks(range(len(noise)), [name_of(value) for value in noise])
        ax.set(title=f"{stage}, n = {own['n'].iloc[0]}", xlabel="noise over signal that real images were given")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3))
    axes[0].set(ylabel="KID x 1,000 after denoising")
    drawn.tight_layout()
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = of_weights(
        "dermstudy_commands.maintenance.noise_levels", __doc__, "base/, upsampler/ and tables/sittings.csv"
    )
    parts = [*LEVELS, CAPTIONS]
    parser.add_argument("--stage", choices=parts, nargs="+", default=parts, help="or what the base hears (default all)")
    parser.add_argument("--out", help="the folder of weights whose table is added to (default --weights)")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    folder = workspace.from_root(options.weights)
    out = workspace.from_root(options.out or options.weights)
    lines = folder / "tables" / weights.SITTINGS
    if not lines.is_file():
        raise InputError(f"{lines} is missing: write it with 'python -m dermstudy_commands.maintenance.shipping keep'")
    sittings = pd.read_csv(lines)["model"].value_counts()
    cohort = split_cohort(options.data, options.split).select(split="validation")
    stages = dict(zip(LEVELS, sample.stages(folder / "base", folder / "upsampler", "dpm-solver", "bf16"), strict=True))
    for pipeline in stages.values():
        pipeline.set_progress_bar_config(disable=True)
    path, gains = (out / "tables" / name for name in (TABLE, GAINS))
    if CAPTIONS in options.stage:
        before = pd.read_csv(gains) if gains.is_file() else None
        base, _ = sample.stages(
            folder / "base", folder / "upsampler", "dpm-solver"
        )  # a small gain wants full precision
        write_table(gain_rows(base, cohort, int(sittings["base"]), before), gains)
    for stage in LEVELS:
        if stage not in options.stage:
            continue
        parts = cascade.sides(cohort, COUNT[stage], even=True)
        then = stages["upsampler"] if stage == "base" else None
        rows = stage_rows(stage, stages[stage], parts, encoders.fid_inception_features, LEVELS[stage], then)
        before = pd.read_csv(path) if path.is_file() else None
        write_table(added(before, rows, stage, int(sittings[stage])), path)
    if path.is_file() and (table := pd.read_csv(path))["model"].nunique() == 2:
        figures.save(figure(table), out / "figures", FIGURE)


if __name__ == "__main__":
    sys.exit(main())
