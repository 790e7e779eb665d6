"""The yardstick of the next generator's gates: `python -m dermstudy_commands.maintenance.yardstick NAME --input real32 ...`.

Images of 256 pixels made of validation lesions, against real images of other validation lesions: docs/GENERATOR.md. Each
result is a line of a .jsonl file; features are kept beside it, so that a later call compares with them by pairs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dermstudy.data import dataset
from dermstudy.data.storage import storage_of
from dermstudy.diffusion import glide, sample
from dermstudy.entities import CODES
from dermstudy.evaluation import cascade, encoders, metrics
from dermstudy.evaluation.colour import colours
from dermstudy.files import InputError, answered, atomic_path, sha256_file
from dermstudy.intervals import quantiles
from dermstudy_commands.maintenance import appearance
from dermstudy_commands.maintenance.commands import open_tokenizer, split_cohort
from dermstudy_commands.maintenance.stage_kid import caption_gains, opened, squared_errors

INPUTS = ("real32", "real64", "painted")
REPEATS = 100
NOISE = (1.0, 10.0)  # over signal, at which a base's error is measured


def kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in `path`, made where it is not there."""
    if not path.is_file():
        array = make()
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.save(stream, array)
    return np.load(path)


def halves(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """KID x 1,000 of REPEATS half-size subsamples without replacement, the same for arrays of the same sizes."""
    random, draws = np.random.default_rng(0), []
    for _ in range(REPEATS):
        chosen = [random.permutation(len(side))[: min(len(made), len(real)) // 2] for side in (made, real)]
        draws.append(metrics.kid(made[chosen[0]], real[chosen[1]]))
    return np.array(draws)


def measured(images: np.ndarray, features: np.ndarray, sides: cascade.Sides, real: np.ndarray) -> dict:
    """KID with its interval, precision, recall, Lab's b by entity less that of the originals, power over theirs by band."""
    originals, entities = sides.enlarged.images(images.shape[1]), sides.enlarged.frame["dx"].to_numpy()
    low, high = quantiles(halves(features, real))
    precision, recall = metrics.precision_recall(features, real)
    difference = colours(images)[:, 2] - colours(originals)[:, 2]
    bias = {f"b_{code}": difference[entities == code].mean() for code in CODES if code in entities}
    ratio = metrics.band_power(images) / metrics.band_power(originals)
    power = {f"power_{low}_{high}": value for (low, high), value in zip(metrics.BANDS, ratio, strict=True)}
    row = {"n": len(images), "kid": metrics.kid(features, real), "low": low, "high": high}
    row |= {"precision": precision, "recall": recall} | bias | power
    return {name: round(float(value), 3) for name, value in row.items()}


def small_images(options: argparse.Namespace, sides: cascade.Sides, training: dataset.Cohort, tokenizer) -> np.ndarray:
    """What enters the last stage, uint8 [n, 64, 64, 3], by --input: real, through the stages before it, or painted.

    What a base of 64 pixels painted or denoised is reduced to 32 where --middle is given.
    """
    frame = sides.enlarged.frame
    captions, seeds = frame["caption"].tolist(), sample.seeds_for(frame["image_id"], 0)
    small = sides.enlarged.images(32 if options.input == "real32" else 64)
    if options.input == "painted" or options.denoise:
        said = spoken(options, sides.enlarged, training).frame["caption"].tolist()
        if options.colour:
            small, options.denoise = flat_colours(frame["dx"], training), options.colour
        small = painted(options, said, small, seeds)
    if options.middle is not None and small.shape[1] == 64:
        small = reduced(small)
    if small.shape[1] == 32:
        if options.middle is None:
            raise InputError("images of 32 pixels need --middle, the stage that enlarges them to 64")
        middle = opened(options.middle, tokenizer, glide.GlideUpsamplePipeline, options.precision)
        small = sample.enlarged(middle, small, captions, [seed + 1 for seed in seeds], options.middle_steps, 16)
    return small


def painted(options: argparse.Namespace, captions: list[str], small: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
    """What the base paints, from noise alone or from the images `small`, enlarged to its side and noised: uint8 [n, s, s, 3]."""
    base = opened(options.base, open_tokenizer(options.base_tokenizer), glide.GlidePipeline, options.precision)
    settings = {"num_inference_steps": options.base_steps, "guidance_scale": options.scale}
    settings["guidance_interval"] = tuple(options.interval)
    small, images = sample.bicubic(small, base.side), []
    for start in range(0, len(captions), 16):
        some = slice(start, start + 16)
        begin = (small[some], options.denoise) if options.denoise else None
        images.append(base(captions[some], seeds=seeds[some], begin=begin, **settings))
    return np.concatenate(images)


def flat_colours(dx: pd.Series, training: dataset.Cohort) -> np.ndarray:
    """Images of one colour, uint8 [n, 8, 8, 3]: each the mean of a training image of the same entity, drawn by chance."""
    random, images = np.random.default_rng(0), []
    entities = training.frame["dx"]
    for code in dx:
        chosen = random.choice(training.frame.loc[entities == code, "image_id"])
        images.append(np.broadcast_to(training.images(8, [chosen])[0].mean((0, 1)), (8, 8, 3)))
    return np.stack(images).round().astype(np.uint8)


def spoken(options: argparse.Namespace, cohort: dataset.Cohort, training: dataset.Cohort) -> dataset.Cohort:
    """`cohort` with the base's captions, the whole of what is known of each image, by --captions."""
    if options.captions == "metadata":
        return cohort
    shown = [appearance.with_appearance(part, options.kept) for part in (cohort, training)]
    captions = appearance.captions(*shown, seed=0, keep=1.0).to_numpy()
    return replace(cohort, frame=cohort.frame.assign(caption=captions))


def heard(options: argparse.Namespace, cohort: dataset.Cohort) -> dict[str, float]:
    """A base's caption gain on validation lesions, and their error over that of as many training images, less one, by noise.

    The noise levels are NOISE, in its own images' units.
    """
    base = opened(options.base, open_tokenizer(options.base_tokenizer))
    training, validation = (cohort.select(split=part) for part in ("train", "validation"))
    validation = spoken(options, validation, training)
    gains = caption_gains(base, validation, NOISE)
    seen = spoken(options, training, training)
    seen = seen.select(image_id=seen.frame["image_id"].sample(len(validation), random_state=0))
    known, new = (squared_errors(base, part.images(base.side), part.frame["caption"].tolist(), NOISE)
                  for part in (seen, validation))  # fmt: skip
    row = {f"gain_{noise:g}": gain for noise, gain in zip(NOISE, gains, strict=True)}
    return row | {f"gap_{noise:g}": after / before - 1 for noise, before, after in zip(NOISE, known, new, strict=True)}


def reduced(images: np.ndarray) -> np.ndarray:
    """`images` uint8 [n, h, w, 3] at half their side."""
    n, height, width, colours = images.shape
    blocks = images.reshape(n, height // 2, 2, width // 2, 2, colours)
    return blocks.mean((2, 4)).round().astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m dermstudy_commands.maintenance.yardstick", description=__doc__)
    parser.add_argument("name", help="of the line, and of the files of features")
    parser.add_argument("--input", choices=INPUTS, required=True)
    parser.add_argument("--base", type=Path, default=Path("weights/glide-mini/base"), help="pipeline or averages")
    parser.add_argument("--middle", type=Path, help="the stage from 32 to 64 pixels: pipeline or averages")
    parser.add_argument("--upsampler", type=Path, default=Path("weights/glide-mini/upsampler"))
    parser.add_argument("--denoise", type=float, default=0.0, help="real images are noised so much and denoised")
    parser.add_argument("--colour", type=float, default=0.0, help="begin at this noise from an entity's flat colour")
    parser.add_argument("--base-steps", type=int, default=20)
    parser.add_argument("--middle-steps", type=int, default=12)
    parser.add_argument("--upsampler-steps", type=int, default=10)
    parser.add_argument("--scale", type=float, default=1.0, help="of guidance (default none)")
    parser.add_argument("--interval", type=float, nargs=2, default=glide.EVERYWHERE, help="of noise, for guidance")
    parser.add_argument("--precision", choices=glide.PRECISIONS, default="bf16", help="of sampling (default bf16)")
    parser.add_argument("--count", type=int, default=500, help="images, at most (default 500)")
    parser.add_argument("--against", help="the name of an earlier line, compared by the same subsamples")
    parser.add_argument("--data", required=True, help="a HAM10000 download")
    parser.add_argument("--split", default="weights/ham10000-split.csv")
    parser.add_argument("--tokenizer", default="weights/glide-mini/base/tokenizer")
    parser.add_argument("--base-tokenizer", default="weights/glide-mini/base/tokenizer", help="of a base's averages")
    parser.add_argument("--captions", choices=("metadata", "appearance"), default="metadata", help="of the base")
    parser.add_argument("--kept", type=Path, default=Path("build/yardstick"), help="lines, images and features")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    options.kept.mkdir(parents=True, exist_ok=True)
    other = options.kept / f"{options.against}-{options.count}-features.npy"
    if options.against and not other.is_file():
        raise InputError(f"no line {options.against!r} of {options.count} images in {options.kept}: measure it first")
    began, cohort = time.monotonic(), split_cohort(options.data, options.split)
    sides = cascade.sides(cohort.select(split="validation"), options.count, share=0.5)
    tokenizer, frame = open_tokenizer(options.tokenizer), sides.enlarged.frame
    upsampler = opened(options.upsampler, tokenizer, glide.GlideUpsamplePipeline, options.precision)
    seeds, captions = sample.seeds_for(frame["image_id"], 0), frame["caption"].tolist()

    def images() -> np.ndarray:
        small = small_images(options, sides, cohort.select(split="train"), tokenizer)
        return storage_of(cohort).stored(sample.enlarged(upsampler, small, captions, seeds, options.upsampler_steps))

    encode, beside = encoders.fid_inception_features, options.kept / f"{options.name}-{options.count}"
    made = kept(beside.with_name(f"{beside.name}-images.npy"), images)
    features = kept(beside.with_name(f"{beside.name}-features.npy"), lambda: cascade.encoded(made, encode))
    real = kept(
        options.kept / f"real-{options.count}-features.npy",
        lambda: cascade.encoded(sides.compared.images(upsampler.side), encode),
    )
    row = {"name": options.name} | measured(made, features, sides, real)
    if options.input == "painted":
        row |= {name: round(value, 4) for name, value in heard(options, cohort).items()}
    if options.against:
        change = halves(features, real) - halves(np.load(other), real)
        low, high = quantiles(change)
        row |= {"against": options.against, "change": round(float(change.mean()), 2), "change_low": round(low, 2)}
        row["change_high"] = round(high, 2)
    settings = {key: str(value) for key, value in vars(options).items() if key not in ("data", "kept", "threads")}
    used = {stage: getattr(options, stage) for stage in ("base", "middle", "upsampler")}
    hashes = {f"{name}_sha256": sha256_file(path)[:16] for name, path in used.items() if path and path.is_file()}
    line = json.dumps(row | {"seconds": round(time.monotonic() - began)} | hashes | {"settings": settings})
    with open(options.kept / "lines.jsonl", "a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
