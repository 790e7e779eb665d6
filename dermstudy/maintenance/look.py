"""Synthetic images beside real ones, to look at: `python -m dermstudy.maintenance.look --data DIR`.

Ten an entity of each, drawn by seed and not picked: synthetic ones at the settings of the weights' card, for the captions of the
real ones, which are of validation lesions. The picture holds real images: it goes to build/, which is not part of the project.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dermstudy import figures, workspace
from dermstudy.data.storage import storage_of
from dermstudy.diffusion import glide, sample, weights
from dermstudy.entities import CODES, NAMES
from dermstudy.evaluation import cascade
from dermstudy.files import InputError
from dermstudy.maintenance.commands import answered, split_cohort
from dermstudy.processor import bf16_products

OUT = Path("build/look.jpg")


def rows_of(
    cohort, base, upsampler, sampling: dict, count: int, seed: int = 0
) -> tuple[list[list[np.ndarray]], list[str]]:
    """Two rows an entity, uint8 images of the upsampler's side: `count` real ones of `cohort`, then one painted for each.

    sampling: the settings of notebook 03, as `weights.describe` gives them. InputError where an entity has no image.
    """
    rows, names = [], []
    for code in CODES:
        own = cohort.frame[cohort.frame["dx"] == code]
        if own.empty:
            raise InputError(f"no image of {NAMES[code]} to set beside synthetic ones: use a larger cohort")
        drawn = own.sample(min(count, len(own)), random_state=seed)
        captions, seeds = drawn["caption"].tolist(), sample.seeds_for(drawn["image_id"], seed)
        small = cascade.painted(
            base, drawn, sampling["BASE_STEPS"], sampling["GUIDANCE_SCALE"], seed,
            guidance_interval=glide.interval_of(sampling["GUIDANCE_INTERVAL"]),
        )  # fmt: skip
        large = sample.enlarged(upsampler, small, captions, seeds, sampling["UPSAMPLE_STEPS"])
        rows += [list(cohort.images(upsampler.side, drawn["image_id"])), list(storage_of(cohort).stored(large))]
        names += [f"{NAMES[code]}, real", f"{NAMES[code]}, synthetic"]
    return rows, names


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m dermstudy.maintenance.look", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="a HAM10000 download")
    parser.add_argument("--weights", default="weights/glide-mini", help="base/ and upsampler/")
    parser.add_argument("--split", default="weights/ham10000-split.csv")
    parser.add_argument("--count", type=int, default=10, help="images an entity of each (default 10)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"a JPEG (default {OUT})")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    folder = workspace.from_root(options.weights)
    sampling = weights.describe(folder).sampling
    precision = "bf16" if bf16_products() else "fp32"
    base, upsampler = sample.stages(folder / "base", folder / "upsampler", sampling["SAMPLER"], precision)
    upsampler.set_progress_bar_config(disable=True)
    cohort = split_cohort(options.data, options.split).select(split="validation")
    figures.use_style()
    sheet = figures.image_grid(*rows_of(cohort, base, upsampler, sampling, options.count))
    print(figures.save(sheet, options.out.parent, options.out.stem))


if __name__ == "__main__":
    sys.exit(main())
