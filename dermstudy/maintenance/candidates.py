"""How glide-mini's architecture and recipe were chosen: candidates trained for the same time, judged on validation.

`python -m dermstudy.maintenance.candidates` trains each candidate at 32 x 32 on the training lesions of an opened cohort
and compares them on validation lesions (tables/mini_recipes.csv). Seconds are equal, steps are not: a recipe that learns
more a step but runs slower has to earn it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dermstudy import workspace
from dermstudy.data import dataset
from dermstudy.diffusion import architecture, finetune, glide
from dermstudy.diffusion.pixels import to_float
from dermstudy.files import InputError
from dermstudy.runner import study

SIDE = 32
HELD_OUT = 224  # validation images
PROBE_STEPS = 10  # what a candidate's speed is measured by


@dataclass(frozen=True)
class Candidate:
    """What differs from the baseline: sizes of the network, fields of the training configuration, the prediction."""

    sizes: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    prediction: str = "v_prediction"
    seed: int = 0


CANDIDATES = {
    "baseline": Candidate(),
    "baseline, another seed": Candidate(seed=1),
    "narrower (24 channels)": Candidate(sizes={"channels": 24, "head_width": 24}),
    "wider (64 channels)": Candidate(sizes={"channels": 64}),
    "deeper (2 blocks a level)": Candidate(sizes={"blocks": 2}),
    "learning rate 0.001": Candidate(config={"learning_rate": 1e-3}),
    "batch 16": Candidate(config={"batch": 16}),
    "EMA 0.99": Candidate(config={"ema_decay": 0.99}),
    "loss unweighted": Candidate(config={"snr_gamma": float("inf")}),
    "noise prediction": Candidate(prediction="epsilon"),
}
BASELINE = finetune.TrainingConfig(
    steps=PROBE_STEPS,
    validate_every=PROBE_STEPS,
    batch=32,
    learning_rate=5e-4,
    caption_dropout=0.1,
    precision="bf16",
    warmup_steps=100,
    gradient_clip=1.0,
    ema_decay=0.999,
    balanced=True,
    augment=True,
)


def compare(cohort: dataset.Cohort, seconds: float, names: list[str] | None = None) -> pd.DataFrame:
    """Train each candidate for `seconds` and compare it: one row a candidate, in the order of CANDIDATES.

    Columns: candidate, parameters (millions), steps, seconds, then the mean squared error of the clean image (pixels in
    -1..1, clipped as samplers clip it) that the averaged weights predict for validation images, over all timesteps and
    by quarter of them. That error means the same whatever a candidate's loss is.
    """
    training, validation = cohort.select(split="train"), cohort.select(split="validation")
    held_out = validation.select(image_id=dataset.spread(validation.frame, HELD_OUT)["image_id"])
    pixels, truth = training.images(SIDE), held_out.images(SIDE)
    captions, names = training.frame["caption"].tolist(), names or list(CANDIDATES)
    tokenizer = architecture.train_tokenizer(dataset.captions(cohort.frame, "metadata", 0))
    rows = []
    for name in names:
        candidate = CANDIDATES[name]
        sizes = replace(architecture.PRESETS["mini-base"], side=SIDE, **candidate.sizes)
        config = replace(BASELINE, seed=candidate.seed, **candidate.config)
        entity_names = training.frame["dx"].tolist()
        with tempfile.TemporaryDirectory() as folder:
            for probe in ("warm", "timed"):  # the first steps of a process choose kernels
                started = time.monotonic()
                model = glide.build(sizes, tokenizer, candidate.prediction, candidate.seed)
                finetune.train(model, pixels, captions, config, Path(folder) / probe, entities=entity_names)
                each = (time.monotonic() - started) / PROBE_STEPS
            steps = max(PROBE_STEPS, int(seconds / each))
            config = replace(config, steps=steps, validate_every=steps)
            model = glide.build(sizes, tokenizer, candidate.prediction, candidate.seed)
            log = finetune.train(model, pixels, captions, config, Path(folder) / "run", entities=entity_names)
        errors = clean_error(model, truth, held_out.frame["caption"].tolist())
        rows.append(
            {
                "candidate": name,
                "parameters": glide.parameter_count(model) / 1e6,
                "steps": config.steps,
                "seconds": log["seconds"].iloc[-1],
                "error": errors.mean(),
            }
            | {f"error_{250 * band}_{250 * band + 249}": value for band, value in enumerate(errors)}
        )
        print(f"{name}: {config.steps} steps, error {errors.mean():.4f} {errors.round(4)}", flush=True)
    return pd.DataFrame(rows)


@torch.no_grad()
def clean_error(pipeline, images: np.ndarray, captions: list[str], draws: int = 4, each: int = 32) -> np.ndarray:
    """Mean squared error of the predicted clean image in -1..1, by quarter of the 1,000 timesteps, [4].

    images: uint8 [n, side, side, 3]. Every image meets `draws` timesteps, spread evenly over all, with fixed noise.
    """
    ids, mask = architecture.tokenize(pipeline.tokenizer, captions, pipeline.text_encoder.config.length)
    denoise = finetune.Denoiser(pipeline.unet, pipeline.text_encoder)
    total, generator = pipeline.scheduler.config.num_train_timesteps, torch.Generator().manual_seed(0)
    sums, counts = np.zeros(4), np.zeros(4)
    for draw in range(draws):
        for start in range(0, len(images), each):
            part = slice(start, start + each)
            pixels = to_float(images[part])
            place = torch.arange(start, start + len(pixels)) * draws + draw
            timesteps = place * total // (len(images) * draws)
            noisy = pipeline.scheduler.add_noise(pixels, torch.randn(pixels.shape, generator=generator), timesteps)
            signal = pipeline.scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
            noise = (1 - signal**2).sqrt()
            output = denoise(noisy, timesteps, ids[part], mask[part]).float()
            velocity = pipeline.scheduler.config.prediction_type == "v_prediction"
            clean = signal * noisy - noise * output if velocity else (noisy - noise * output) / signal
            error = ((clean.clamp(-1, 1) - pixels) ** 2).mean(dim=(1, 2, 3)).numpy()
            np.add.at(sums, (timesteps * 4 // total).numpy(), error)
            np.add.at(counts, (timesteps * 4 // total).numpy(), 1)
    return sums / counts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dermstudy.maintenance.candidates", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("results", help="a results folder in which notebook 00 has run, such as results/ham10000")
    parser.add_argument("--seconds", type=float, default=50, help="training time of a candidate (default 50)")
    parser.add_argument("--only", nargs="*", choices=list(CANDIDATES), help="some of the candidates")
    options = parser.parse_args(arguments)
    try:
        space = workspace.open_workspace(options.results)
        with study.locked(space):
            cohort = dataset.open_cohort(space.need("cohort", made_by="00_dataset"))
            table = compare(cohort, options.seconds, options.only)
            space.save_table(table, "mini_recipes")
    except InputError as error:
        print(f"dermstudy: {error}", file=sys.stderr)
        return 2
    print(table.round(3).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
