"""The one trainer of GLIDE's base model and its upsampler: fine-tuning, and the hours that made glide-mini.

Source: Shavlokhova et al., section 2.1, through glide-finetune. batches draws what a step sees, losses says how wrong the
network is, training takes the steps and keeps the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from peft import LoraConfig
from PIL import Image
from torch import nn

from dermstudy.diffusion.batches import Pictures, draw_weights
from dermstudy.diffusion.glide import PRECISIONS, GlideUpsamplePipeline
from dermstudy.diffusion.losses import layout
from dermstudy.diffusion.schedules import sampler_from
from dermstudy.diffusion.training import Run
from dermstudy.files import InputError, atomic_path

# tokens: those that inversion.extend added; lora: low-rank additions to the U-Net (Hu et al., arXiv 2106.09685)
TRAINS = ("all", "unet", "text", "tokens", "lora")
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj", "time_emb_proj")


@dataclass(frozen=True)
class TrainingConfig:
    """What a run is; saved with its state. Defaults are the paper's (section 2.1)."""

    steps: int
    batch: int = 4
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    caption_dropout: float = 0.0  # the paper's unconditional probability
    trains: str = "all"  # one of TRAINS
    lora_rank: int = 8
    precision: str = "fp32"
    warmup_steps: int = 0
    decay_share: float = 0.0  # the last part of the steps, in which the rate falls to a fiftieth by a cosine
    second_beta: float = 0.999  # of AdamW's mean of squared gradients
    gradient_clip: float = 0.0  # norm; 0 leaves gradients as they are
    averaged: bool = False  # answers are those of weights averaged over the last steps
    balance: float | None = None  # of the entities' draws: 0 none, 1 evenly; None shuffles all images each epoch
    augment: bool = False  # flips and quarter turns
    crop: int = 0  # side of a random crop; 0 trains on whole images
    noise_augmentation: float = 0.0  # most standard deviation of noise added to the small image
    high_share: float = 0.0  # folded pixels: of the draws, at high noise, where what a picture shows is decided
    high_mean: float = 2.3
    high_spread: float = 0.8
    even_levels: bool = False  # each noise level's loss is divided by its mean so far
    micro_batch: int = 0  # images at once in a process, gradients added up over the batch; 0: its whole share
    gradient_checkpointing: bool = False  # less memory for one more forward pass
    validate_every: int = 0  # steps between records; 0 records ten times
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of `step`: a warm-up, a plateau, and a cosine over the last `decay_share` of the steps."""
        rate = self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps))
        begin = self.steps * (1 - self.decay_share)
        if step > begin:
            rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - begin) / (self.steps - begin)))
        return rate


def train(
    pipeline, images: np.ndarray, captions: Sequence, config: TrainingConfig, folder: str | Path,
    validation: tuple | None = None, small: np.ndarray | None = None, entities: Sequence[str] | None = None,
    after: Callable[[object, list[dict]], None] | None = None, keep: str = "best", about: dict | None = None,
    minutes: float = 0,
) -> pd.DataFrame:  # fmt: skip
    """Train `pipeline` in place and return the log.

    images: uint8 [n, side, side, 3] at the model's side, with a caption each, or as many for each. validation: images,
    captions and, for an upsampler, their small ones. small: of an upsampler, the training images reduced, uint8
    [n, low, low, 3]. entities: one name an image, which `config.balance` deals.
    The log has one row a record: step, loss (mean since the last record), validation loss over all timesteps and by band of
    timesteps, seconds. With `validation` the first record is that of step 0, the weights as they came, and the weights left
    in the pipeline are those of the record with the lowest validation loss; without it, or to `keep` the "last", those of
    the last step. After every record, of which one comes at least every so many `minutes` where they are given, the state is
    saved in `folder`, from which the same call goes on; `after` is called with the log and the pipeline as it would answer.
    about: what more makes the run what it is, as JSON takes it. Where it is given, a state in `folder` is gone on from with
    another number of steps too, and one of another run is refused in place of begun anew.
    Under `torchrun` the processes share each batch and the first one validates, saves and prints.
    Raises InputError for sizes, captions or settings that do not fit.
    """
    texts = [[text] if isinstance(text, str) else list(text) for text in captions]
    _check(pipeline, images, texts, config, small, entities)
    weights = None if config.balance is None else draw_weights(entities, config.balance)
    held_out = validation and Pictures(validation[0], [[text] for text in validation[1]], *validation[2:])
    keeps_best = held_out is not None and keep == "best"
    trained = what_trains(pipeline.to(PartialState().device), config)
    run = Run(
        pipeline,
        trained,
        Pictures(images, texts, small, weights),
        config,
        Path(folder),
        held_out,
        keeps_best,
        after,
        about,
    )
    run.restore()
    if run.step == 0 and not run.log and held_out:
        run.record([])
    run.train(minutes)
    return run.finish()


def what_trains(pipeline, config: TrainingConfig) -> dict[str, nn.Module]:
    """The modules of `pipeline` that train, by name; of all its parameters only those that train have gradients."""
    modules = {"unet": pipeline.unet, "text": pipeline.text_encoder}
    trained = {name: module for name, module in modules.items() if config.trains in ("all", name)}
    if config.trains == "tokens":
        trained = {"tokens": pipeline.text_encoder.token_embedding}
    elif config.trains == "lora":
        trained = {"unet": pipeline.unet}
        if not getattr(pipeline.unet, "peft_config", None):
            torch.manual_seed(config.seed)
            rank, targets = config.lora_rank, list(LORA_TARGETS)
            pipeline.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
    for name, module in [*modules.items(), *trained.items()]:
        for key, parameter in module.named_parameters():
            parameter.requires_grad_(name in trained and (config.trains != "lora" or "lora_" in key))
        module.to(memory_format=layout(config, pipeline.device))
        module.train(name in trained)
    if config.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
    return trained


def trained_count(pipeline, trains: str) -> int:
    """How many numbers a run with this `trains` changes in a model that has been through one."""
    if trains == "tokens":
        return pipeline.text_encoder.token_embedding.added.numel()
    values = [value for name, value in pipeline.unet.named_parameters() if trains != "lora" or "lora_" in name]
    values = values * (trains != "text") + [*pipeline.text_encoder.parameters()] * (trains in ("all", "text"))
    return sum(value.numel() for value in values)


def preview_to(folder: str | Path, prompts: Sequence[str], steps: int = 20) -> Callable[[object, list[dict]], None]:
    """What `train` does after each record: one image a prompt (seed 0, no guidance), side by side as a PNG in `folder`."""

    def preview(pipeline, log: list[dict]) -> None:
        scheduler, step = pipeline.scheduler, log[-1]["step"]
        pipeline.scheduler = sampler_from(scheduler, "dpm-solver")
        pipeline.set_progress_bar_config(disable=True)
        images = pipeline(list(prompts), guidance_scale=1.0, num_inference_steps=steps, seeds=[0] * len(prompts))
        pipeline.scheduler = scheduler
        for later in Path(folder).glob("step_*.png"):  # of an earlier run
            if int(later.stem.removeprefix("step_")) > step:
                later.unlink()
        with atomic_path(Path(folder) / f"step_{step:07d}.png") as path:
            Image.fromarray(np.concatenate(list(images), axis=1)).save(path, format="PNG")

    return preview


def _check(pipeline, images, captions, config, small, entities) -> None:
    side, folded = pipeline.side, pipeline.pixels
    if images.ndim != 4 or images.shape[1:] != (side, side, 3) or images.dtype != np.uint8:
        raise InputError(f"training images must be uint8 [n, {side}, {side}, 3], got {images.dtype} {images.shape}")
    if len(captions) != len(images):
        raise InputError(f"{len(images)} training images need as many captions, got {len(captions)}")
    if config.balance is not None and (entities is None or len(entities) != len(images)):
        raise InputError(f"balanced training needs the entity of each of the {len(images)} images")
    if len(images) == 0:
        raise InputError("no training image: the training split is empty; check the cohort that 00_dataset saved")
    if config.trains == "tokens" and not hasattr(pipeline.text_encoder.token_embedding, "added"):
        raise InputError("no token can learn: give the model some by inversion.extend first")
    if config.trains not in TRAINS:
        raise InputError(f"unknown part to train {config.trains!r}: choose one of {', '.join(TRAINS)}")
    if config.precision not in PRECISIONS:
        raise InputError(f"unknown precision {config.precision!r}: choose fp32 or bf16")
    if isinstance(pipeline, GlideUpsamplePipeline) != (small is not None):
        raise InputError("an upsampler needs the small images that condition it; a base model has none")
    if small is not None and folded and small.shape[1] != folded.config.low_side:
        raise InputError(f"this upsampler's small images have a side of {folded.config.low_side}, not {small.shape[1]}")


def lowest_loss(log: pd.DataFrame, network: str) -> str:
    """A sentence on the lowest held-out loss of `network` beside the first one; log: as `train` gives it."""
    first, best = log.iloc[0], log.loc[log["validation_loss"].idxmin()]
    before = f"{first['validation_loss']:.4f} {f'after {first.step:.0f} steps' if first['step'] else 'before training'}"
    if log["step"].max() == 0:
        return f"The weights of the {network} are taken as they came; their loss on validation lesions is {before.split()[0]}."
    if best["step"] == first["step"]:
        return f"The {network}'s loss on validation lesions does not fall below {before}."
    after = f"after {best['step']:.0f} of {log['step'].max():.0f} steps"
    return f"The {network}'s loss on validation lesions falls from {before} to {best['validation_loss']:.4f} {after}."
