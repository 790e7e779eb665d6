"""One training loop for GLIDE's base model and its upsampler.

The loss is the mean squared error of the noise (Shavlokhova et al., section 2.1, through glide-finetune), or of the
velocity where the scheduler predicts it (Salimans and Ho, arXiv 2202.00512), with the weight of nearly clean images
capped (after Hang et al., arXiv 2303.09556): unlike theirs the weight stays one where noise prevails, since it is there
that an image's overall colour is decided.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from dermstudy.diffusion.architecture import tokenize
from dermstudy.diffusion.batches import Batch, draw, make_batch, seed_of
from dermstudy.diffusion.checkpoints import load_state, named, origin_of, read_notes, save_state, save_tensors
from dermstudy.diffusion.glide import PRECISIONS, GlideUpsamplePipeline
from dermstudy.diffusion.losses import Denoiser, autocast, diffusion_loss, validation_loss
from dermstudy.diffusion.schedules import sampler_from
from dermstudy.diffusion.sides import check_side
from dermstudy.files import InputError, atomic_path

# tokens: those that inversion.extend added; lora: low-rank additions to the U-Net (Hu et al., arXiv 2106.09685)
TRAINS = ("all", "unet", "text", "tokens", "lora")
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj", "time_emb_proj")


@dataclass(frozen=True)
class TrainingConfig:
    """What a run is; saved beside the weights. Defaults are the paper's (section 2.1)."""

    steps: int
    batch: int = 4
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    caption_dropout: float = 0.0  # the paper's unconditional probability
    trains: str = "all"  # one of TRAINS
    lora_rank: int = 8
    precision: str = "fp32"
    warmup_steps: int = 0
    gradient_clip: float = 0.0  # norm; 0 leaves gradients as they are
    ema_decay: float = 0.0  # 0 keeps no average
    snr_gamma: float = 5.0  # velocity prediction: the loss counts min(1, snr_gamma / (SNR + 1))
    balanced: bool = False  # every entity equally often
    augment: bool = False  # flips and quarter turns
    crop: int = 0  # side of a random crop; 0 trains on whole images
    half_side_steps: int = 0  # the first steps at half the side
    noise_augmentation: float = 0.0  # standard deviation added to the low-resolution image
    micro_batch: int = 0  # images at once in a process, gradients added up over the batch; 0: its whole share
    gradient_checkpointing: bool = False  # less memory for one more forward pass
    validate_every: int = 0  # steps between records; 0 records ten times
    seed: int = 0


def train(
    pipeline,
    images: np.ndarray,
    captions: list[str],
    config: TrainingConfig,
    folder: str | Path,
    validation: tuple[np.ndarray, list[str]] | None = None,
    low_side: int = 0,
    entities: Sequence[str] | None = None,
    preview: Callable[[int, object], None] | None = None,
) -> pd.DataFrame:
    """Train `pipeline` in place, keep its best weights, and return the log.

    images: uint8 [n, side, side, 3] at the model's side, with one caption each. low_side: for the upsampler, the side
    to which images are reduced as its condition. entities: one name an image, which `balanced` deals evenly. The log
    has one row a record: step, loss (mean since the last record), validation loss over all timesteps and by band of
    timesteps, seconds. With `validation` the first record is that of step 0, the weights as they came, without a
    training loss; no step at all is a run too. After every record the state is saved in `folder`, from which the same
    call goes on. The weights left in the pipeline are the averaged ones where ema_decay is set, of the record with the
    lowest validation loss: those of step 0 where training did not help.
    Under `torchrun` the processes share each batch and the first one validates, saves and prints.
    Raises InputError for sizes, captions or settings that do not fit.
    """
    _check(pipeline, images, captions, config, low_side, entities)
    run = _Run(pipeline, config, Path(folder), low_side, validation, preview)
    run.start(images, captions, entities)
    if run.step == 0 and not run.log and validation is not None:
        run.record([])
    losses: list[float] = []
    while run.step < config.steps:
        losses.append(run.train_step())
        if run.step % run.every == 0 or run.step == config.steps:
            run.record(losses)
            losses = []
    return run.finish()


class _Run:
    """One call of `train`: what trains, how, and what has been recorded."""

    def __init__(self, pipeline, config: TrainingConfig, folder: Path, low_side: int, validation, preview):
        self.pipeline, self.config, self.folder, self.low_side = pipeline, config, folder, low_side
        self.validation, self.preview = validation, preview
        self.accelerator = Accelerator()
        self.every = config.validate_every or max(1, config.steps // 10)
        self.modules = {"unet": pipeline.unet, "text": pipeline.text_encoder}
        self.trained = self._what_trains()

    def _what_trains(self) -> dict[str, nn.Module]:
        """The modules that train, by name, with gradients where they train alone."""
        config, pipeline = self.config, self.pipeline
        trained = {name: module for name, module in self.modules.items() if config.trains in ("all", name)}
        if config.trains == "tokens":
            trained = {"tokens": pipeline.text_encoder.token_embedding}
        elif config.trains == "lora":
            trained = {"unet": pipeline.unet}
            if not getattr(pipeline.unet, "peft_config", None):
                torch.manual_seed(config.seed)
                targets = list(LORA_TARGETS)
                pipeline.unet.add_adapter(
                    LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=targets)
                )
        for name, module in [*self.modules.items(), *trained.items()]:
            for key, parameter in module.named_parameters():
                parameter.requires_grad_(name in trained and (config.trains != "lora" or "lora_" in key))
            module.to(memory_format=torch.contiguous_format)
            module.train(name in trained)
        if config.gradient_checkpointing:
            pipeline.unet.enable_gradient_checkpointing()
        pipeline.to(self.accelerator.device)
        return trained

    def start(self, images: np.ndarray, captions: list[str], entities: Sequence[str] | None) -> None:
        """Take up the data, and the state that an earlier call of the same run left."""
        config, pipeline = self.config, self.pipeline
        self.images, self.captions = images, captions
        self.parameters = [p for module in self.trained.values() for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.average = (
            EMAModel(self.parameters, decay=config.ema_decay, use_ema_warmup=True) if config.ema_decay else None
        )
        self.tokens = tokenize(pipeline.tokenizer, list(captions) + [""], pipeline.text_encoder.config.length)
        self.strata = pd.factorize(np.asarray(entities))[0] if config.balanced else None
        # Learned tokens depend on how captions are cut up.
        read = [str(self.tokens[0].tolist())] if config.trains == "tokens" else []
        self.origin = origin_of(self.modules, images, [*captions, *read])
        state = load_state(
            self.folder, config, self.origin, self.parameters, self.optimizer, self.average, self.accelerator
        )
        self.denoiser = self.accelerator.prepare(Denoiser(pipeline.unet, pipeline.text_encoder))
        self.log, self.step, self.best = state["log"], state["step"], state["best"]
        self.started = time.monotonic() - (self.log[-1]["seconds"] if self.log else 0.0)
        self.shares = _share(config, self.accelerator)

    def train_step(self) -> float:
        """One update; the mean loss of the batch over all processes."""
        config, device = self.config, self.accelerator.device
        chosen = draw(len(self.images), config, self.step, self.strata)
        batch = make_batch(
            self.images[chosen], config, self.step, self.pipeline.scheduler, self.low_side, self.pipeline.pixels
        )
        batch.rows = torch.where(batch.dropped, len(self.captions), torch.as_tensor(chosen))
        torch.manual_seed(seed_of(config.seed, self.step, 1, self.accelerator.process_index))  # dropout
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        for place, part in enumerate(self.shares):
            last = place == len(self.shares) - 1
            together = contextlib.nullcontext() if last else self.accelerator.no_sync(self.denoiser)
            with together, autocast(config, device):
                loss = self._loss(batch.part(part, device), batch.rows[part])
            self.accelerator.backward(loss)
            total += loss.detach()
        if config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, config.gradient_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.step(self.parameters)
        loss = self.accelerator.reduce(total, "mean").item()
        if not math.isfinite(loss):
            raise InputError(
                f"the loss is not finite at step {self.step}: lower the learning rate {config.learning_rate}"
            )
        self.step += 1
        return loss

    def _loss(self, some: Batch, rows: torch.Tensor) -> torch.Tensor:
        """What a part of a batch adds to its mean loss."""
        ids, mask = (values[rows].to(self.accelerator.device) for values in self.tokens)
        pipeline = self.pipeline
        values = diffusion_loss(self.denoiser, pipeline.scheduler, some, ids, mask, self.config, pipeline.pixels)
        return values.sum() * self.accelerator.num_processes / self.config.batch

    def record(self, losses: list[float]) -> None:
        """A row of the log, the best weights and the state: written by the first process while the others wait."""
        if self.accelerator.is_main_process:
            row = {"step": self.step, "loss": float(np.mean(losses)) if losses else math.nan}
            with _averaged(self.average, self.parameters), _evaluating(self.trained):
                if self.validation is not None:
                    row |= validation_loss(self.pipeline, *self.validation, self.low_side, self.config)
                reached = row.get("validation_loss", row["loss"])
                if reached < self.best["loss"]:
                    self.best = {"loss": reached, "step": self.step}
                    save_tensors(self.folder / "best.safetensors", named(self.trained))
                if self.preview is not None:
                    self.preview(self.step, self.pipeline)
            self.pipeline.unet.to(memory_format=torch.contiguous_format)
            self.log.append(row | {"seconds": round(time.monotonic() - self.started, 1)})
            print(_line(self.log[-1], self.config.steps), flush=True)
            save_state(
                self.folder, self.config, self.origin, self.step, self.log, self.best,
                self.parameters, self.optimizer, self.average,
            )  # fmt: skip
        self.accelerator.wait_for_everyone()

    def finish(self) -> pd.DataFrame:
        """The best weights put in place, nothing left to train; the log."""
        tensors = load_file(self.folder / "best.safetensors")
        for name, module in self.trained.items():
            own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
            module.load_state_dict(own)
        if self.config.gradient_checkpointing:
            self.pipeline.unet.disable_gradient_checkpointing()
        for module in self.modules.values():
            module.eval().requires_grad_(False)
        notes = read_notes(self.folder)
        kept = notes["best"]
        self.accelerator.print(f"kept the weights of step {kept['step']} (loss {kept['loss']:.4f})", flush=True)
        return pd.DataFrame(notes["log"])


def trained_count(pipeline, trains: str) -> int:
    """How many numbers a run with this `trains` changes in a model that has been through one."""
    parts = {"unet": pipeline.unet.parameters(), "text": pipeline.text_encoder.parameters()}
    if trains == "lora":
        parts = {"lora": (value for name, value in pipeline.unet.named_parameters() if "lora_" in name)}
    elif trains == "tokens":
        parts = {"tokens": [pipeline.text_encoder.token_embedding.added]}
    return sum(value.numel() for name, own in parts.items() if trains in ("all", name) for value in own)


def preview_to(folder: str | Path, prompts: Sequence[str], steps: int = 20) -> Callable[[int, object], None]:
    """A `preview` for `train`: after each record, one image a prompt (seed 0, no guidance), side by side as a PNG."""

    def preview(step: int, pipeline) -> None:
        scheduler = pipeline.scheduler
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


def _share(config: TrainingConfig, accelerator: Accelerator) -> list[slice]:
    """This process's part of each batch, cut into micro-batches."""
    count = accelerator.num_processes
    if config.batch % count:
        raise InputError(f"a batch of {config.batch} does not divide over {count} processes: choose a multiple")
    size = config.batch // count
    start, micro = accelerator.process_index * size, config.micro_batch or size
    return [slice(at, min(at + micro, start + size)) for at in range(start, start + size, micro)]


def _check(pipeline, images, captions, config, low_side, entities) -> None:
    side, folded = pipeline.side, pipeline.pixels
    if images.ndim != 4 or images.shape[1:] != (side, side, 3) or images.dtype != np.uint8:
        raise InputError(f"training images must be uint8 [n, {side}, {side}, 3], got {images.dtype} {images.shape}")
    if config.half_side_steps:
        check_side(pipeline, side // 2, f"steps at half of a side of {side}, a side")
    if len(captions) != len(images):
        raise InputError(f"{len(images)} training images need as many captions, got {len(captions)}")
    if config.balanced and (entities is None or len(entities) != len(images)):
        raise InputError(f"balanced training needs the entity of each of the {len(images)} images")
    if len(images) == 0:
        raise InputError("no training image: the training split is empty; check the cohort that 00_dataset saved")
    if config.trains == "tokens" and not hasattr(pipeline.text_encoder.token_embedding, "added"):
        raise InputError("no token can learn: give the model some by inversion.extend first")
    if config.trains not in TRAINS:
        raise InputError(f"unknown part to train {config.trains!r}: choose one of {', '.join(TRAINS)}")
    if config.precision not in PRECISIONS:
        raise InputError(f"unknown precision {config.precision!r}: choose fp32 or bf16")
    if isinstance(pipeline, GlideUpsamplePipeline) != bool(low_side):
        raise InputError("an upsampler needs low_side, the side of its low-resolution input; a base model has none")
    if folded and folded.config.low_side != low_side:
        raise InputError(
            f"this upsampler's low-resolution input has a side of {folded.config.low_side}, not {low_side}"
        )


class _averaged:
    """Averaged weights in place of the trained ones, for as long as the block lasts."""

    def __init__(self, average, parameters):
        self.average, self.parameters = average, parameters

    def __enter__(self):
        if self.average is not None:
            self.average.store(self.parameters)
            self.average.copy_to(self.parameters)

    def __exit__(self, *exception):
        if self.average is not None:
            self.average.restore(self.parameters)


class _evaluating:
    """Dropout off for as long as the block lasts."""

    def __init__(self, modules: dict):
        self.modules = modules

    def __enter__(self):
        for module in self.modules.values():
            module.eval()

    def __exit__(self, *exception):
        for module in self.modules.values():
            module.train()


def _line(row: dict, steps: int) -> str:
    held_out = f", validation {row['validation_loss']:.4f}" if "validation_loss" in row else ""
    loss = f"  loss {row['loss']:.4f}" if math.isfinite(row["loss"]) else "  before training"
    return f"step {row['step']:>6}/{steps}{loss}{held_out}  {row['seconds']:.0f} s"
