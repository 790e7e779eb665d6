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
from diffusers.training_utils import EMAModel, compute_snr
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from dermstudy.diffusion.architecture import tokenize
from dermstudy.diffusion.batches import Batch, data_of, draw, generator_of, make_batch, seed_of
from dermstudy.diffusion.checkpoints import load_state, named, origin_of, read_notes, save_state, save_tensors
from dermstudy.diffusion.glide import PRECISIONS, GlideUpsamplePipeline
from dermstudy.diffusion.pixels import to_float
from dermstudy.diffusion.schedules import sampler_from
from dermstudy.diffusion.sides import check_side
from dermstudy.files import InputError, atomic_path
from dermstudy.processor import bf16_products

# tokens: those that inversion.extend added; lora: low-rank additions to the U-Net (Hu et al., arXiv 2106.09685)
TRAINS = ("all", "unet", "text", "tokens", "lora")
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj", "time_emb_proj")
BANDS = 4  # the validation loss is kept for as many equal bands of the 1,000 timesteps


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
    timesteps, seconds. After every record the state is saved in `folder`, from which the same call goes on. The
    weights left in the pipeline are the averaged ones where ema_decay is set, of the record with the lowest
    validation loss.
    Under `accelerate launch` the processes share each batch and the first one validates, saves and prints.
    Raises InputError for sizes, captions or settings that do not fit.
    """
    _check(pipeline, images, captions, config, low_side, entities)
    folder = Path(folder)
    accelerator = Accelerator()
    own = _share(config, accelerator)
    modules = {"unet": pipeline.unet, "text": pipeline.text_encoder}
    trained = {name: module for name, module in modules.items() if config.trains in ("all", name)}
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
    for name, module in [*modules.items(), *trained.items()]:
        for key, parameter in module.named_parameters():
            parameter.requires_grad_(name in trained and (config.trains != "lora" or "lora_" in key))
        module.to(memory_format=torch.contiguous_format)
        module.train(name in trained)
    if config.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
    pipeline.to(accelerator.device)
    parameters = [p for module in trained.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    average = EMAModel(parameters, decay=config.ema_decay, use_ema_warmup=True) if config.ema_decay else None
    ids, mask = tokenize(pipeline.tokenizer, list(captions) + [""], pipeline.text_encoder.config.length)
    strata = pd.factorize(np.asarray(entities))[0] if config.balanced else None
    record = config.validate_every or max(1, config.steps // 10)
    read = [str(ids.tolist())] if config.trains == "tokens" else []  # learned tokens depend on how captions are cut up
    origin = origin_of(modules, images, [*captions, *read])
    state = load_state(folder, config, origin, parameters, optimizer, average, accelerator)
    denoiser = accelerator.prepare(Denoiser(pipeline.unet, pipeline.text_encoder))
    log, step, best = state["log"], state["step"], state["best"]
    losses, started = [], time.monotonic() - (log[-1]["seconds"] if log else 0.0)
    while step < config.steps:
        chosen = draw(len(images), config, step, strata)
        batch = make_batch(images[chosen], config, step, pipeline.scheduler, low_side, pipeline.pixels)
        batch.rows = torch.where(batch.dropped, len(captions), torch.as_tensor(chosen))
        torch.manual_seed(seed_of(config.seed, step, 1, accelerator.process_index))  # dropout
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=accelerator.device)
        for place, part in enumerate(own):
            last = place == len(own) - 1
            with (
                contextlib.nullcontext() if last else accelerator.no_sync(denoiser),
                _autocast(config, accelerator.device),
            ):
                some = batch.part(part, accelerator.device)
                rows = batch.rows[part]
                values = diffusion_loss(
                    denoiser,
                    pipeline.scheduler,
                    some,
                    ids[rows].to(total.device),
                    mask[rows].to(total.device),
                    config,
                    pipeline.pixels,
                )
                loss = values.sum() * accelerator.num_processes / config.batch
            accelerator.backward(loss)
            total += loss.detach()
        if config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        optimizer.step()
        if average is not None:
            average.step(parameters)
        losses.append(accelerator.reduce(total, "mean").item())
        if not math.isfinite(losses[-1]):
            raise InputError(f"the loss is not finite at step {step}: lower the learning rate {config.learning_rate}")
        step += 1
        if step % record == 0 or step == config.steps:
            if accelerator.is_main_process:
                row = {"step": step, "loss": float(np.mean(losses))}
                with _averaged(average, parameters), _evaluating(trained):
                    if validation is not None:
                        row |= validation_loss(pipeline, *validation, low_side, config)
                    if row.get("validation_loss", row["loss"]) < best["loss"]:
                        best = {"loss": row.get("validation_loss", row["loss"]), "step": step}
                        save_tensors(folder / "best.safetensors", named(trained))
                    if preview is not None:
                        preview(step, pipeline)
                pipeline.unet.to(memory_format=torch.contiguous_format)
                log.append(row | {"seconds": round(time.monotonic() - started, 1)})
                print(_line(log[-1], config.steps), flush=True)
                save_state(folder, config, origin, step, log, best, parameters, optimizer, average)
            losses = []
            accelerator.wait_for_everyone()
    tensors = load_file(folder / "best.safetensors")
    for name, module in trained.items():
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
    if config.gradient_checkpointing:
        pipeline.unet.disable_gradient_checkpointing()
    for module in modules.values():
        module.eval().requires_grad_(False)
    kept = read_notes(folder)["best"]
    accelerator.print(f"kept the weights of step {kept['step']} (loss {kept['loss']:.4f})", flush=True)
    return pd.DataFrame(read_notes(folder)["log"])


def trained_count(pipeline, trains: str) -> int:
    """How many numbers a run with this `trains` changes in a model that has been through one."""
    parts = {"unet": pipeline.unet.parameters(), "text": pipeline.text_encoder.parameters()}
    if trains == "lora":
        parts = {"lora": (value for name, value in pipeline.unet.named_parameters() if "lora_" in name)}
    elif trains == "tokens":
        parts = {"tokens": [pipeline.text_encoder.token_embedding.added]}
    return sum(value.numel() for name, own in parts.items() if trains in ("all", name) for value in own)


class Denoiser(nn.Module):
    """The text encoder and the U-Net as one module, so that a distributed wrapper sees each step whole."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        channels = unet.config.out_channels
        self.data = 3 if channels == 6 else channels  # OpenAI's say three more, where the variance lies in its range

    def forward(self, entered, timesteps, ids, mask) -> torch.Tensor:
        """The prediction for noisy data [n, c, h, w], with what stands beside them, times [n] and tokens [n, length]."""
        hidden, pooled = self.text_encoder(ids, mask)
        output = self.unet(entered, timesteps, encoder_hidden_states=hidden, class_labels=pooled).sample
        return output[:, : self.data]


def diffusion_loss(denoise, scheduler, batch: Batch, ids, mask, config: TrainingConfig, folded=None) -> torch.Tensor:
    """The training loss of each image, [n]: squared error of noise or velocity.

    denoise: a Denoiser; ids and mask: the captions' tokens, each [n, length]; folded: the pipeline's FoldedPixels, for
    whose data every velocity counts alike.
    """
    noisy = scheduler.add_noise(batch.pixels, batch.noise, batch.timesteps)
    entered = noisy if batch.low is None else torch.cat([noisy, batch.low], dim=1)
    times = folded.times(scheduler, batch.timesteps) if folded else batch.timesteps
    output = denoise(entered, times, ids, mask)
    if folded:
        target, weight = scheduler.get_velocity(batch.pixels, batch.noise, batch.timesteps), 1.0
    elif scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(batch.pixels, batch.noise, batch.timesteps)
        snr = compute_snr(scheduler, batch.timesteps)
        weight = torch.clamp(config.snr_gamma / (snr + 1), max=1.0)
    else:
        target, weight = batch.noise, torch.ones_like(batch.pixels[:, 0, 0, 0])
    return functional.mse_loss(output.float(), target, reduction="none").mean(dim=(1, 2, 3)) * weight


@torch.no_grad()
def validation_loss(pipeline, images, captions, low_side: int, config: TrainingConfig, draws=2, each=16) -> dict:
    """Loss on held-out images with fixed noise, over all timesteps and by equal band of timesteps."""
    ids, mask = tokenize(pipeline.tokenizer, list(captions), pipeline.text_encoder.config.length)
    total, device = pipeline.scheduler.config.num_train_timesteps, pipeline.device
    denoise = Denoiser(pipeline.unet, pipeline.text_encoder)
    values, bands = [], []
    for turn in range(draws):
        for start in range(0, len(images), each):
            part = slice(start, start + each)
            pixels = to_float(images[part])
            data, seen = data_of(pixels, low_side, pipeline.pixels)
            noise = torch.randn(data.shape, generator=generator_of(config.seed, start, 2 + turn))
            # Equally spaced over all images, so that each band holds its share however few the images are.
            place = torch.arange(start, start + len(pixels)) * draws + turn
            timesteps = (place * total) // (len(images) * draws)
            batch = Batch(data, noise, timesteps, seen)
            with _autocast(config, device):
                loss = diffusion_loss(
                    denoise,
                    pipeline.scheduler,
                    batch.part(slice(None), device),
                    ids[part].to(device),
                    mask[part].to(device),
                    config,
                    pipeline.pixels,
                )
            values += loss.tolist()
            bands += (timesteps * BANDS // total).tolist()
    frame = pd.Series(values).groupby(bands).mean()
    row = {"validation_loss": float(np.mean(values))}
    return row | {f"validation_{b * total // BANDS}_{(b + 1) * total // BANDS - 1}": float(v) for b, v in frame.items()}


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


def _autocast(config: TrainingConfig, device: torch.device):
    able = device.type != "cpu" or bf16_products()
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16" and able)


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
    return f"step {row['step']:>6}/{steps}  loss {row['loss']:.4f}{held_out}  {row['seconds']:.0f} s"
