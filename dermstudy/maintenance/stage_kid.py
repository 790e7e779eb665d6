"""How far a stage of a long training has come, on validation lesions: `python -m dermstudy.maintenance.stage_kid`.

For every averaged file in a training's folder: the KID of what it makes of perfect input, beside bicubic enlargement and
real images. Test lesions have no part in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Tokenizer

from dermstudy.data import dataset, near_duplicates, splits
from dermstudy.data.storage import storage_of
from dermstudy.diffusion import schedules
from dermstudy.diffusion.glide import GlideUpsamplePipeline
from dermstudy.evaluation import cascade, encoders
from dermstudy.files import atomic_path
from dermstudy.maintenance.commands import answered
from dermstudy.maintenance.folded_weights import pipeline_from


def opened(path: Path, tokenizer):
    """The pipeline of an averaged file with the solver that samples it."""
    pipeline = pipeline_from(path, tokenizer)
    pipeline.scheduler = schedules.sampler_from(pipeline.scheduler, "dpm-solver")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stage_table(pipeline, parts: cascade.Sides, steps: int, scale: float, interval: tuple[float, float]):
    """The rows of one pipeline: a cascade table without painted images, or the base's own KID at its side."""
    captions = parts.enlarged.frame["caption"].tolist()
    if isinstance(pipeline, GlideUpsamplePipeline):
        return cascade.table(
            parts, None, captions, pipeline, steps, encoders.fid_inception_features, 0, storage_of(parts.compared)
        )
    images = cascade.painted(pipeline, parts.enlarged.frame, steps, scale, guidance_interval=interval)
    return cascade.base_rows(parts, images, encoders.fid_inception_features).assign(guidance_scale=scale)


def validation_cohort(data: str, split: str) -> dataset.Cohort:
    """The validation images of a folder in HAM10000's layout, with their captions."""
    cohort = dataset.load_folder(data)
    cohort.frame["group"] = near_duplicates.join_groups(cohort.frame, near_duplicates.confirmed_pairs(cohort.frame))
    cohort.frame["split"] = splits.apply_split(cohort.frame, split)
    own = cohort.select(split="validation")
    own.frame["caption"] = dataset.captions(own.frame, "metadata", 0)
    return own


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m dermstudy.maintenance.stage_kid", description=__doc__)
    parser.add_argument("averages", type=Path, nargs="+", help="files short-STEP.safetensors or long-STEP.safetensors")
    parser.add_argument("--data", required=True, help="a HAM10000 download")
    parser.add_argument("--split", required=True, help="a split file (image_id, split)")
    parser.add_argument("--count", type=int, default=200, help="images (default 200)")
    parser.add_argument(
        "--steps", type=int, default=0, help="of the solver (default 10 of the upsampler, 25 of the base)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="guidance scale of the base (default 1)")
    parser.add_argument("--interval", type=float, nargs=2, default=(0.0, float("inf")), help="of noise, for guidance")
    parser.add_argument("--tokenizer", default="weights/glide-mini/base/tokenizer")
    parser.add_argument("--images", type=Path, help="keep the painted images here (.npy), to look at")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    parts = cascade.sides(validation_cohort(options.data, options.split), options.count)
    tokenizer = GPT2Tokenizer.from_pretrained(options.tokenizer, local_files_only=True)
    for path in options.averages:
        began, pipeline = time.monotonic(), opened(path, tokenizer)
        upsamples = isinstance(pipeline, GlideUpsamplePipeline)
        steps = options.steps or (10 if upsamples else 25)
        table = stage_table(pipeline, parts, steps, options.scale, tuple(options.interval))
        for row in table.assign(average=path.stem, steps=steps).to_dict("records"):
            print(json.dumps(row | {"seconds": round(time.monotonic() - began)}), flush=True)
        if options.images and not upsamples:
            with atomic_path(options.images) as temporary, open(temporary, "wb") as stream:
                np.save(
                    stream,
                    cascade.painted(
                        pipeline,
                        parts.enlarged.frame.head(28),
                        steps,
                        options.scale,
                        guidance_interval=tuple(options.interval),
                    ),
                )


if __name__ == "__main__":
    sys.exit(main())
