"""A tiny training run and a tiny synthetic dataset, to be started several times, launched, and killed by the tests.

Usage: in_processes.py train FOLDER PRESET [N]   N: be killed half-way through the N-th file that the run writes
       in_processes.py both FOLDER            training, then sampling
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState

from dermstudy.diffusion import architecture, checkpoints, finetune, glide, sample, schedules

CAPTIONS = ["melanoma", "dermatofibroma"] * 2


def train(folder: Path, preset: str) -> pd.DataFrame:
    """Eight steps with everything on that a resumed run has to bring back."""
    low, side = preset == "tiny-upsampler", 256 if preset == "tiny-upsampler" else 64
    images = np.random.default_rng(1).integers(0, 256, (4, side, side, 3), np.uint8)
    model = glide.build(preset, architecture.train_tokenizer(CAPTIONS), "v_prediction", seed=3)
    config = finetune.TrainingConfig(
        steps=8, batch=4, learning_rate=1e-3, caption_dropout=0.2, averaged=True, crop=64 if low else 0,
        noise_augmentation=0.1 if low else 0.0, gradient_clip=1.0, warmup_steps=3, augment=True, validate_every=2,
    )  # fmt: skip
    held_out = images[:2], CAPTIONS[:2], *([images[:2, ::4, ::4]] if low else [])
    return finetune.train(model, images, CAPTIONS, config, folder, held_out, images[:, ::4, ::4] if low else None)


def synthesise(folder: Path) -> Path:
    """Five images from stirred weights."""
    tokenizer = architecture.train_tokenizer(CAPTIONS)
    pipelines = [glide.build(f"tiny-{kind}", tokenizer, "v_prediction", 1) for kind in ("base", "upsampler")]
    for pipeline in pipelines:
        torch.manual_seed(5)
        torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.05)
        pipeline.scheduler = schedules.sampler_from(pipeline.scheduler, "ddim")
    names = [f"original_{number}" for number in range(5)]
    originals = pd.DataFrame({"image_id": names, "copy": 0, "dx": "mel", "caption": "melanoma"})
    return sample.synthesise(*pipelines, originals, folder, 0, 2.0, 3, 2, batch=2)


def killed_at(number: int) -> None:
    """Replace the writing of safetensors by one that dies half-way through its `number`-th file."""
    original, written = checkpoints.save_file, []

    def save_file(tensors, path, metadata=None):
        original(tensors, path, metadata)
        written.append(path)
        if len(written) == number:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.save_file = save_file


if __name__ == "__main__":
    task, target = sys.argv[1], Path(sys.argv[2])
    if task == "train":
        if len(sys.argv) > 4:
            killed_at(int(sys.argv[4]))
        train(target, sys.argv[3])
    else:
        state = PartialState(cpu=True)  # as runner.parallel has it: else the processes do not know each other
        print(f"process {state.process_index} of {state.num_processes} processes", flush=True)
        train(target / "training", "tiny-base")
        synthesise(target / "synthetic")
        state.destroy_process_group()
