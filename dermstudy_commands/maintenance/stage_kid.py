"""How far a stage of a long training has come, on validation lesions: `python -m dermstudy_commands.maintenance.stage_kid`.

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

from dermstudy.data import dataset
from dermstudy.data.storage import storage_of
from dermstudy.diffusion import glide, schedules
from dermstudy.diffusion.architecture import tokenize
from dermstudy.diffusion.batches import Batch, data_of
from dermstudy.diffusion.folded import time_of, to_float
from dermstudy.diffusion.glide import GlidePipeline, GlideUpsamplePipeline
from dermstudy.diffusion.losses import Denoiser, diffusion_loss
from dermstudy.evaluation import cascade, encoders
from dermstudy.files import answered, atomic_path, sha256_file
from dermstudy_commands.maintenance.commands import open_tokenizer, split_cohort
from dermstudy_commands.maintenance.folded_weights import pipeline_from

HIGH_NOISE = (6.0, 20.0)  # noise over signal at which a sitting's caption gain is measured


def opened(path: Path, tokenizer, kind: type = GlidePipeline, precision: str = "fp32"):
    """The pipeline of an averaged file, or of a folder, of `kind`, with the solver that samples it."""
    pipeline = glide.load(path, kind) if path.is_dir() else pipeline_from(path, tokenizer)
    glide.cast(pipeline, precision)
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
    rows = cascade.base_rows(parts, images, encoders.fid_inception_features).assign(guidance_scale=scale)
    return rows.assign(caption_gain=np.mean(caption_gains(pipeline, parts.compared, HIGH_NOISE)))


def caption_gains(pipeline, cohort: dataset.Cohort, sigmas: Sequence[float]) -> list[float]:
    """By how much the right caption lowers a base model's squared error, against captions of other images.

    A share of the error for each of `sigmas` (noise over signal); 0 means that captions are not heard there. Images that
    lend each other captions are of different entities as far as these are mixed.
    """
    captions = cohort.frame["caption"].tolist()
    wrong = np.random.default_rng(0).permutation(captions).tolist()
    errors = (squared_errors(pipeline, cohort.images(pipeline.side), said, sigmas) for said in (captions, wrong))
    return [1 - right / other for right, other in zip(*errors, strict=True)]


@torch.inference_mode()
def squared_errors(
    pipeline, images: np.ndarray, captions: Sequence[str], sigmas: Sequence[float], each: int = 16
) -> list[float]:
    """A base model's mean squared error of clean data, for each of `sigmas` (noise over signal), the noise always the same.

    images: uint8 [n, side, side, 3], a caption each.
    """
    data, _ = data_of(pipeline, to_float(images))
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(0))
    denoise, errors = Denoiser(pipeline.unet, pipeline.text_encoder), []
    ids, mask = tokenize(pipeline.tokenizer, captions, pipeline.text_encoder.config.length)
    for sigma in sigmas:
        level = torch.full((len(data),), float(sigma))
        batch, losses = Batch(data, noise, level, time_of(level)), []
        for start in range(0, len(data), each):
            part = slice(start, start + each)
            losses.append(diffusion_loss(denoise, pipeline, batch.part(part, data.device), ids[part], mask[part]))
        # An error of the velocity is one of the clean data, less by the noise's share of the variance.
        errors.append(float(torch.cat(losses).mean()) * sigma**2 / (1 + sigma**2))
    return errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m dermstudy_commands.maintenance.stage_kid", description=__doc__)
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
    parts = cascade.sides(
        split_cohort(options.data, options.split).select(split="validation"), options.count, even=True
    )
    tokenizer = open_tokenizer(options.tokenizer)
    for path in options.averages:
        began, pipeline = time.monotonic(), opened(path, tokenizer)
        upsamples = isinstance(pipeline, GlideUpsamplePipeline)
        steps = options.steps or (10 if upsamples else 25)
        table = stage_table(pipeline, parts, steps, options.scale, tuple(options.interval))
        for row in table.assign(average=path.stem, sha256=sha256_file(path), steps=steps).to_dict("records"):
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
