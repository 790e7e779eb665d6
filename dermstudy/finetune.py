"""One training loop for GLIDE's base model and its upsampler.

The loss is the mean squared error of the noise (Shavlokhova et al., section 2.1, through glide-finetune), or of the
velocity where the scheduler predicts it (Salimans and Ho, arXiv 2202.00512), with the weight of nearly clean images
capped (after Hang et al., arXiv 2303.09556): unlike theirs the weight stays one where noise prevails, since it is there
that an image's overall colour is decided. Every random
number is a function of the seed, the step and the place in the batch, so a resumed run repeats an unbroken one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers.training_utils import EMAModel, compute_snr
from safetensors.torch import load_file, save_file
from torch.nn import functional

from dermstudy.files import InputError, atomic_path
from dermstudy.glide import enlarge, to_float, tokenize

TRAINS = ("all", "unet", "text")
BANDS = 4  # the validation loss is kept for as many equal bands of the 1,000 timesteps


@dataclass(frozen=True)
class TrainingConfig:
    """What a run is; saved beside the weights. Defaults are the paper's (section 2.1)."""

    steps: int
    batch: int = 4
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    caption_dropout: float = 0.0  # the paper's unconditional probability
    trains: str = "all"
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
    Raises InputError for sizes, captions or settings that do not fit.
    """
    _check(pipeline, images, captions, config, low_side, entities)
    folder = Path(folder)
    modules = {"unet": pipeline.unet, "text": pipeline.text_encoder}
    trained = {name: module for name, module in modules.items() if config.trains in ("all", name)}
    for name, module in modules.items():
        module.requires_grad_(name in trained)
        module.to(memory_format=torch.contiguous_format)
        module.train(name in trained)
    parameters = [parameter for module in trained.values() for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    average = EMAModel(parameters, decay=config.ema_decay, use_ema_warmup=True) if config.ema_decay else None
    ids, mask = tokenize(pipeline.tokenizer, list(captions) + [""], pipeline.text_encoder.config.length)
    strata = pd.factorize(np.asarray(entities))[0] if config.balanced else None
    record = config.validate_every or max(1, config.steps // 10)
    state = _load_state(folder, config, parameters, optimizer, average)
    log, step, best = state["log"], state["step"], state["best"]
    losses, started = [], time.monotonic() - (log[-1]["seconds"] if log else 0.0)
    while step < config.steps:
        chosen = _draw(len(images), config, step, strata)
        generator = _generator(config.seed, step)
        pixels, low = _batch(images[chosen], config, step, generator, low_side)
        dropped = torch.rand(len(chosen), generator=generator) < config.caption_dropout
        rows = torch.where(dropped, len(captions), torch.as_tensor(chosen))
        torch.manual_seed(_seed(config.seed, step, 1))  # dropout
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            loss = diffusion_loss(pipeline, pixels, ids[rows], mask[rows], generator, low, config).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        optimizer.step()
        if average is not None:
            average.step(parameters)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise InputError(f"the loss is not finite at step {step}: lower the learning rate {config.learning_rate}")
        step += 1
        if step % record == 0 or step == config.steps:
            row = {"step": step, "loss": float(np.mean(losses))}
            losses = []
            with _averaged(average, parameters), _evaluating(trained):
                if validation is not None:
                    row |= validation_loss(pipeline, *validation, low_side=low_side, seed=config.seed)
                if row.get("validation_loss", row["loss"]) < best["loss"]:
                    best = {"loss": row.get("validation_loss", row["loss"]), "step": step}
                    _save_tensors(folder / "best.safetensors", _named(trained))
                if preview is not None:
                    preview(step, pipeline)
            log.append(row | {"seconds": round(time.monotonic() - started, 1)})
            print(_line(log[-1], config.steps), flush=True)
            _save_state(folder, config, step, log, best, parameters, optimizer, average)
    tensors = load_file(folder / "best.safetensors")
    for name, module in trained.items():
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
    for module in modules.values():
        module.eval().requires_grad_(False)
    print(f"kept the weights of step {best['step']} (loss {best['loss']:.4f})", flush=True)
    return pd.DataFrame(log)


def diffusion_loss(pipeline, pixels, ids, mask, generator, low=None, config=None, timesteps=None) -> torch.Tensor:
    """The training loss of each image, [n]: every timestep 0…999 equally likely unless `timesteps` [n] are given.

    pixels: float [n, 3, h, w] in -1..1; low: the upsampler's condition, already enlarged, [n, 3, h, w].
    """
    scheduler = pipeline.scheduler
    count = len(pixels)
    noise = torch.randn(pixels.shape, generator=generator)
    if timesteps is None:
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (count,), generator=generator)
    noisy = scheduler.add_noise(pixels, noise, timesteps)
    hidden, pooled = pipeline.text_encoder(ids, mask)
    entered = noisy if low is None else torch.cat([noisy, low], dim=1)
    output = pipeline.unet(entered, timesteps, encoder_hidden_states=hidden, class_labels=pooled).sample[:, :3]
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(pixels, noise, timesteps)
        snr = compute_snr(scheduler, timesteps)
        gamma = config.snr_gamma if config is not None else 5.0
        weight = torch.clamp(gamma / (snr + 1), max=1.0)
    else:
        target, weight = noise, torch.ones(count)
    return functional.mse_loss(output.float(), target, reduction="none").mean(dim=(1, 2, 3)) * weight


@torch.no_grad()
def validation_loss(pipeline, images, captions, low_side=0, seed=0, draws=2, batch=16) -> dict[str, float]:
    """Loss on held-out images with fixed noise, over all timesteps and by equal band of timesteps."""
    ids, mask = tokenize(pipeline.tokenizer, list(captions), pipeline.text_encoder.config.length)
    total = pipeline.scheduler.config.num_train_timesteps
    values, bands = [], []
    for draw in range(draws):
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            pixels = to_float(images[part])
            generator = _generator(seed, start, 2 + draw)
            # Equally spaced over all images, so that each band holds its share however few the images are.
            place = torch.arange(start, start + len(pixels)) * draws + draw
            timesteps = (place * total) // (len(images) * draws)
            low = _condition(pixels, low_side) if low_side else None
            values += diffusion_loss(pipeline, pixels, ids[part], mask[part], generator, low, None, timesteps).tolist()
            bands += (timesteps * BANDS // total).tolist()
    frame = pd.Series(values).groupby(bands).mean()
    row = {"validation_loss": float(np.mean(values))}
    return row | {f"validation_{b * total // BANDS}_{(b + 1) * total // BANDS - 1}": float(v) for b, v in frame.items()}


def _check(pipeline, images, captions, config, low_side, entities) -> None:
    side = pipeline.unet.config.sample_size
    if images.ndim != 4 or images.shape[1:] != (side, side, 3) or images.dtype != np.uint8:
        raise InputError(f"training images must be uint8 [n, {side}, {side}, 3], got {images.dtype} {images.shape}")
    if len(captions) != len(images):
        raise InputError(f"{len(images)} training images need as many captions, got {len(captions)}")
    if config.balanced and (entities is None or len(entities) != len(images)):
        raise InputError(f"balanced training needs the entity of each of the {len(images)} images")
    if len(images) == 0:
        raise InputError("no training image: the training split is empty; check the cohort that 00_dataset saved")
    if config.trains not in TRAINS:
        raise InputError(f"unknown part to train {config.trains!r}: choose one of {', '.join(TRAINS)}")
    if config.precision not in ("fp32", "bf16"):
        raise InputError(f"unknown precision {config.precision!r}: choose fp32 or bf16")
    if (pipeline.unet.config.in_channels == 6) != bool(low_side):
        raise InputError("an upsampler needs low_side, the side of its low-resolution input; a base model has none")


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _generator(*parts: int) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(*parts))


def _draw(count: int, config: TrainingConfig, step: int, strata: np.ndarray | None) -> np.ndarray:
    """Indices of the images of `step`: by shuffled epochs, or an entity at random and an image of it."""
    if strata is not None:
        random = np.random.default_rng([config.seed, step, 3])
        kinds = random.integers(0, strata.max() + 1, config.batch)
        return np.array([random.choice(np.flatnonzero(strata == kind)) for kind in kinds])
    places = np.arange(step * config.batch, (step + 1) * config.batch)
    epochs = {
        epoch: np.random.default_rng([config.seed, epoch, 4]).permutation(count) for epoch in set(places // count)
    }
    return np.array([epochs[place // count][place % count] for place in places])


def _batch(images: np.ndarray, config: TrainingConfig, step: int, generator: torch.Generator, low_side: int):
    """Pixels [n, 3, h, w] in -1..1 after augmentation and crop, and the upsampler's enlarged condition or None."""
    pixels = to_float(images)
    if config.augment:
        turns = torch.randint(0, 4, (len(pixels),), generator=generator).tolist()
        flips = torch.rand(len(pixels), generator=generator) < 0.5
        pixels = torch.stack(
            [
                torch.rot90(image.flip(-1) if flip else image, turn, (-2, -1))
                for image, turn, flip in zip(pixels, turns, flips, strict=True)
            ]
        )
    if step < config.half_side_steps:
        pixels = functional.interpolate(pixels, scale_factor=0.5, mode="area")
    low = None
    if low_side:
        low = _condition(pixels, low_side)
        if config.noise_augmentation:
            low = low + config.noise_augmentation * torch.randn(low.shape, generator=generator)
    if config.crop:
        side = pixels.shape[-1]
        top, left = torch.randint(0, side - config.crop + 1, (2,), generator=generator).tolist()
        window = (..., slice(top, top + config.crop), slice(left, left + config.crop))
        pixels, low = pixels[window], low[window] if low is not None else None
    return pixels, low


def _condition(pixels: torch.Tensor, low_side: int) -> torch.Tensor:
    """Images reduced to `low_side` by area and enlarged again as the upsampler sees them."""
    side = pixels.shape[-1]
    reduced = functional.interpolate(pixels, (low_side, low_side), mode="area")
    return enlarge((reduced * 127.5).round() / 127.5, side)


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


def _named(modules: dict) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def _save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    with atomic_path(path) as temporary:
        save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, temporary, metadata)


def _save_state(folder, config, step, log, best, parameters, optimizer, average) -> None:
    """Everything a resumed run needs, in one file written whole: weights, average, optimizer moments, log."""
    tensors = {f"weight.{index}": parameter for index, parameter in enumerate(parameters)}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
    if average is not None:
        tensors |= {f"average.{index}": value for index, value in enumerate(average.shadow_params)}
    notes = {
        "step": step,
        "log": log,
        "best": best,
        "config": asdict(config),
        "average_step": average.optimization_step if average is not None else 0,
    }
    _save_tensors(folder / "state.safetensors", tensors, {"dermstudy": json.dumps(notes)})


def _load_state(folder, config, parameters, optimizer, average) -> dict:
    """The saved state put back in place, or a fresh one; a state of another configuration is left alone."""
    from safetensors import safe_open

    path = folder / "state.safetensors"
    fresh = {"step": 0, "log": [], "best": {"loss": math.inf, "step": 0}}
    if not path.is_file():
        return fresh
    with safe_open(path, "pt") as stream:
        notes = json.loads(stream.metadata()["dermstudy"])
    # A setting that is newer than the state had its default then.
    if (
        asdict(TrainingConfig(steps=0)) | notes["config"] != asdict(config)
        or not (folder / "best.safetensors").is_file()
    ):
        return fresh
    tensors = load_file(path)
    with torch.no_grad():
        for index, parameter in enumerate(parameters):
            parameter.copy_(tensors[f"weight.{index}"])
    moments: dict = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    if average is not None:
        average.shadow_params = [tensors[f"average.{index}"] for index in range(len(parameters))]
        average.optimization_step = notes["average_step"]
    print(f"going on from step {notes['step']}", flush=True)
    return {"step": notes["step"], "log": notes["log"], "best": notes["best"]}


def _line(row: dict, steps: int) -> str:
    held_out = f", validation {row['validation_loss']:.4f}" if "validation_loss" in row else ""
    return f"step {row['step']:>6}/{steps}  loss {row['loss']:.4f}{held_out}  {row['seconds']:.0f} s"
