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

from dermstudy.data import dataset
from dermstudy.data.storage import storage_of
from dermstudy.diffusion import schedules
from dermstudy.diffusion.architecture import tokenize
from dermstudy.diffusion.glide import GlideUpsamplePipeline
from dermstudy.diffusion.losses import Denoiser
from dermstudy.diffusion.pixels import to_float
from dermstudy.evaluation import cascade, encoders
from dermstudy.files import atomic_path, sha256_file
from dermstudy.maintenance.commands import answered, open_tokenizer, split_cohort
from dermstudy.maintenance.folded_weights import pipeline_from

HIGH_NOISE = (6.0, 20.0)  # noise over signal at which a sitting's caption gain is measured


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
    rows = cascade.base_rows(parts, images, encoders.fid_inception_features).assign(guidance_scale=scale)
    return rows.assign(caption_gain=np.mean(caption_gains(pipeline, parts.compared, HIGH_NOISE)))


@torch.inference_mode()
def caption_gains(pipeline, cohort: dataset.Cohort, sigmas: Sequence[float], batch: int = 16) -> list[float]:
    """By how much the right caption lowers a base model's squared error, against captions of other images.

    A share of the error for each of `sigmas` (noise over signal); 0 means that captions are not heard there. Images that
    lend each other captions are of different entities as far as these are mixed.
    """
    images, captions = to_float(cohort.images(pipeline.side)), cohort.frame["caption"].tolist()
    wrong = np.random.default_rng(0).permutation(captions).tolist()
    data, signal = pipeline.pixels.encode(images, None), pipeline.scheduler.alphas_cumprod
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(0))
    denoise = Denoiser(pipeline.unet, pipeline.text_encoder)
    noise_levels, gains = ((1 - signal) / signal).sqrt(), []
    for sigma in sigmas:
        step = int((noise_levels - sigma).abs().argmin())
        noisy = signal[step].sqrt() * data + (1 - signal[step]).sqrt() * noise
        errors = []
        for said in (captions, wrong):
            ids, mask = tokenize(pipeline.tokenizer, said, pipeline.text_encoder.config.length)
            total = 0.0
            for start in range(0, len(data), batch):
                part = slice(start, start + batch)
                times = pipeline.pixels.times(pipeline.scheduler, torch.full((len(data[part]),), step))
                velocity = denoise(noisy[part], times, ids[part], mask[part])
                clean = signal[step].sqrt() * noisy[part] - (1 - signal[step]).sqrt() * velocity
                total += float(((clean - data[part]) ** 2).sum())
            errors.append(total)
        gains.append(1 - errors[0] / errors[1])
    return gains


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
