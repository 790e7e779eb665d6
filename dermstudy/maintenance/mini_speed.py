"""Speeds of glide-mini: `python -m dermstudy.maintenance.mini_speed` (part of `make bench`).

A step of its training beside the matrix products that it consists of, alone and in the same arithmetic: their share of the
step says what a faster implementation could gain. Then whole images at the settings of its card, one and in batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from transformers import GPT2Tokenizer

from dermstudy import workspace
from dermstudy.diffusion import glide, sample, weights
from dermstudy.diffusion.architecture import tokenize
from dermstudy.diffusion.folded import FOLDED_PRESETS, FoldedPreset
from dermstudy.entities import PROMPTS
from dermstudy.files import write_text
from dermstudy.maintenance.commands import answered, open_tokenizer
from dermstudy.maintenance.long_training import Recipe, Run, Step
from dermstudy.processor import bf16_products, described

TABLE = "speed.csv"
BATCHES = {
    "mini-base": (16, 64),
    "mini-upsampler": (12, 128),
}  # images and side of a training step, as the card's recipes
PRODUCTS_OF_A_STEP = 3  # a layer's output, and the gradients of its input and of its weights

Product = tuple[int, int, int]  # [rows, inner] times [inner, columns]


def products(model: nn.Module, forward: Callable[[], object]) -> Counter:
    """The matrix products, by shape and number, that `forward` makes in the convolutions and linear layers of `model`."""
    found: Counter = Counter()

    def record(module, inputs, output):
        rows = output.numel() // output.shape[1 if isinstance(module, nn.Conv2d) else -1]
        columns = module.weight.shape[0]
        found[(rows, module.weight[0].numel(), columns)] += 1

    handles = [m.register_forward_hook(record) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return found


def seconds_of(action: Callable[[], object], repeats: int) -> float:
    """Median seconds of `repeats` calls after a first one."""
    action()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def seconds_alone(shapes: Counter, dtype: torch.dtype, repeats: int) -> float:
    """Seconds of the matrix products of one training step with those of `shapes` in its forward pass."""
    total = 0.0
    for (rows, inner, columns), times in shapes.items():
        left, right, out = (
            torch.randn(shape, dtype=dtype) for shape in ((rows, inner), (inner, columns), (rows, columns))
        )
        for a, b in ((left, right), (out, right.t()), (left.t(), out)):
            total += times * seconds_of(lambda a=a, b=b: a @ b, repeats)
    return total


def training_step(preset_name: str, tokenizer: GPT2Tokenizer, folder: Path, repeats: int) -> dict:
    """Seconds of a training step of a preset, of its products alone, and their share of it."""
    preset = FOLDED_PRESETS[preset_name]
    batch, side = BATCHES.get(preset_name, (2, preset.side))
    run = Run(folder, Recipe(preset_name, 1000, batch), tokenizer, {}, None)
    ids, mask = tokenize(tokenizer, [PROMPTS[place % len(PROMPTS)] for place in range(batch)], preset.text_length)
    data = _noise(preset, batch, side)
    shapes = products(run.model, lambda: run.train_step(data, ids, mask))
    whole = seconds_of(lambda: run.train_step(data, ids, mask), repeats)
    alone = seconds_alone(shapes, torch.bfloat16 if bf16_products() else torch.float32, repeats)
    operations = 2 * PRODUCTS_OF_A_STEP * sum(m * k * n * times for (m, k, n), times in shapes.items())
    return {
        "case": f"training step, {preset_name}, {batch} images", "seconds": whole, "products_alone": alone,
        "share": alone / whole, "images_a_second": batch / whole, "gflops": operations / whole / 1e9,
    }  # fmt: skip


def _noise(preset: FoldedPreset, batch: int, side: int) -> Step:
    """A batch of noise in the shapes of training: speed does not depend on what is learned."""
    grid, channels = side // preset.fold, 3 * preset.fold**2
    clean, noise = torch.randn(2, batch, channels, grid, grid)
    condition = torch.randn(batch, 4, grid, grid) if preset.low_side else None
    return Step(clean, noise, torch.ones(batch), None, condition)


def whole_images(folder: Path, batch: int, repeats: int, precision: str) -> dict:
    """Seconds of `batch` whole images at the settings that the weights in `folder` were measured with."""
    settings = weights.describe(folder).sampling
    base, upsampler = sample.stages(folder / "base", folder / "upsampler", settings["SAMPLER"], precision)
    for stage in (base, upsampler):
        stage.set_progress_bar_config(disable=True)
    captions, seeds = [PROMPTS[place % len(PROMPTS)] for place in range(batch)], list(range(batch))

    def paint():
        small = base(
            captions, guidance_scale=settings["GUIDANCE_SCALE"], num_inference_steps=settings["BASE_STEPS"], seeds=seeds,
            guidance_interval=glide.interval_of(settings["GUIDANCE_INTERVAL"]),
        )  # fmt: skip
        return sample.enlarged(upsampler, small, captions, seeds, settings["UPSAMPLE_STEPS"])

    seconds = seconds_of(paint, repeats)
    steps = f"{settings['BASE_STEPS']} + {settings['UPSAMPLE_STEPS']} steps"
    return {"case": f"whole images, {batch}, {steps}", "seconds": seconds, "images_a_second": batch / seconds}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m dermstudy.maintenance.mini_speed", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--weights", default="weights/glide-mini", help="base/ and upsampler/")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="(default all)")
    parser.add_argument("--keep", action="store_true", help=f"write tables/{TABLE} of the weights, for their card")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    folder = workspace.from_root(options.weights)
    tokenizer = open_tokenizer(folder / "base" / "tokenizer")
    precision = "bf16" if bf16_products() else "fp32"
    shared = {"threads": torch.get_num_threads(), "precision": precision, "processor": described()}
    rows = []
    for name in BATCHES:
        rows.append(training_step(name, tokenizer, Path("build"), options.repeats) | shared)
        print(json.dumps(rows[-1]), flush=True)
    for batch in (1, 16):
        rows.append(whole_images(folder, batch, options.repeats, precision) | shared)
        print(json.dumps(rows[-1]), flush=True)
    if options.keep:
        table = pd.DataFrame(rows)
        write_text(folder / "tables" / TABLE, table.to_csv(index=False, float_format="%.4g", lineterminator="\n"))


if __name__ == "__main__":
    sys.exit(main())
