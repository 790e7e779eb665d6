"""Hours of training for glide-mini, in sittings: `python -m dermstudy.maintenance.long_training base FOLDER --steps N`.

Every random number is a function of seed and step, and the state is saved every few minutes, so that a run that was cut
short goes on as if it had not been. The learning rate decays within a sitting, whose averaged weights are usable; a
later sitting starts again from them (a warm restart), or from the exact state where the machine still has it. On a GPU
(`--device cuda`) the pictures lie in its memory and the network is compiled.
Sources: Karras et al. (arXiv 2206.00364) for the loss; Karras et al. (arXiv 2312.02696) for the power-function averages.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import GPT2Tokenizer

from dermstudy import workspace
from dermstudy.data import dataset, splits
from dermstudy.diffusion.architecture import text_encoder_from, tokenize
from dermstudy.diffusion.folded import (
    FOLDED_PRESETS,
    LOW_NOISE,
    FoldedDenoiser,
    FoldedPreset,
    enlarge_bicubic,
    fold,
    folded_unet,
    low_condition,
    mixed,
    tempered,
    trained_preset,
    training_target,
)
from dermstudy.diffusion.pixels import to_float
from dermstudy.entities import CODES
from dermstudy.files import InputError, atomic_path, code_hash, sha256_file, sha256_text, write_text
from dermstudy.maintenance.commands import answered, open_tokenizer
from dermstudy.maintenance.folded_weights import INPUTS, LOG, STATE, averages_of
from dermstudy.maintenance.taught_text import labels_of, teach
from dermstudy.processor import bf16_products

CAPTION_VARIANTS = 8  # templates an image is captioned by
CHECKED = 10  # steps from one look at the loss to the next: a GPU has to be waited for
MARGIN = 2  # pixels of the small image around a crop, for its enlargement
AVERAGES = {"short": 16.97, "long": 6.94}  # exponents of the power-function averages (widths 0.05 and 0.10)


@dataclass(frozen=True)
class Recipe:
    """What a sitting does; saved in its state and its lineage."""

    preset: str
    steps: int
    batch: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    decay_share: float = 0.4  # the last part of a sitting, in which the rate falls to a fiftieth by a cosine
    caption_dropout: float = 0.1
    gradient_clip: float = 1.0
    crop: int = 0  # side of the crops; 0 trains on whole images
    scaling: str = (
        "tempered"  # of an upsampler's residual: its components evened out in part, or "plain", one scale for all
    )
    limit: int = 0  # the first so many steps alone, of the same schedule; 0 for all
    seed: int = 0
    balance: float = 0.5  # images are drawn by their entity's frequency to the power of 1 - balance: 1 is evenly
    taught_text: bool = False  # the text encoder first learns to tell its captions apart
    noise_mean: float | None = None  # of the logarithm of sigma, in place of the preset's
    noise_spread: float | None = None
    high_share: float = 0.0  # of the draws, at the high noise levels where a picture's entity is decided
    high_mean: float = 2.3
    high_spread: float = 0.8


@dataclass(frozen=True)
class Pictures:
    """Training images in memory: large [n, 256, 256, 3] (or None), small [n, 64, 64, 3], uint8, with captions."""

    large: torch.Tensor | None
    small: torch.Tensor
    captions: list[list[str]]  # CAPTION_VARIANTS an image
    weights: np.ndarray  # how often an image is drawn, adding up to one
    labels: np.ndarray  # what each image's captions tell, as taught_text.labels_of gives it
    colour: tuple[np.ndarray, np.ndarray]  # mean and spread of each channel, in -1..1


def draw_weights(entities: pd.Series, balance: float) -> np.ndarray:
    """How often each image is drawn, [n], adding up to one: by its entity's frequency to the power of 1 - balance.

    balance: 0 as often as they come, 0.5 by the square root, 1 every entity equally often.
    """
    counts = entities.map(entities.value_counts())
    weights = counts.to_numpy(float) ** -balance
    return weights / weights.sum()


def read_pictures(cohort: dataset.Cohort, cache: Path, large: bool, balance: float = 0.5) -> Pictures:
    """The images of `cohort` at 64 and, for an upsampler, 256 pixels, kept in `cache` as uncompressed arrays.

    balance: of the draws, as draw_weights takes it.
    """
    arrays = {}
    for side in (64, 256) if large else (64,):
        read_by = code_hash(dataset.read_image, dataset.Cohort.images)
        names = sha256_text(" ".join([read_by, *cohort.frame["image_id"]]))
        path = cache / f"{cohort.data_hash[:16]}-{names[:16]}-{side}.npy"
        if not path.is_file():
            with atomic_path(path) as temporary, open(temporary, "wb") as stream:
                np.save(stream, cohort.images(side))
        arrays[side] = torch.from_numpy(np.load(path))
    frames = [dataset.captions(cohort.frame, "metadata", seed) for seed in range(CAPTION_VARIANTS)]
    captions = [list(texts) for texts in zip(*frames, strict=True)]
    values = arrays[64].numpy().reshape(-1, 3) / 127.5 - 1
    colour = values.mean(axis=0), values.std(axis=0)
    weights = draw_weights(cohort.frame["dx"], balance)
    return Pictures(arrays.get(256), arrays[64], captions, weights, labels_of(cohort.frame), colour)


# Batches


@dataclass
class Step:
    """One batch: clean data [n, c, h, w] of unit variance, noise, sigma [n], the small image's part, captions' rows."""

    clean: torch.Tensor
    noise: torch.Tensor
    sigma: torch.Tensor
    rows: np.ndarray
    condition: torch.Tensor | None = None


def turned_crops(images: torch.Tensor, chosen: np.ndarray, top, left, side: int, flags: np.ndarray) -> torch.Tensor:
    """Crops [n, 3, side, side] in -1..1 of `images`[chosen] at (top, left), under flips and quarter turns, in one gather.

    images: uint8 [count, h, w, 3], on whose device the crops are made. flags: booleans [n, 3], transpose, upside down,
    mirrored: all eight symmetries of a square.
    """
    places = np.stack([chosen, top, left, *flags.T]).astype(np.int64)
    chosen, top, left, *turns = torch.from_numpy(places).to(images.device)[..., None, None]
    swapped, down, mirrored = (turn.bool() for turn in turns)
    line = torch.arange(side, device=images.device)
    row, column = line[None, :, None], line[None, None, :]
    first, second = torch.where(swapped, column, row), torch.where(swapped, row, column)
    first = torch.where(down, side - 1 - first, first) + top
    second = torch.where(mirrored, side - 1 - second, second) + left
    pixels = images[chosen, first, second]  # [n, side, side, 3]
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1)


def make_step(pictures: Pictures, recipe: Recipe, preset: FoldedPreset, scale: dict, step: int) -> Step:
    """The batch of `step`, a function of the recipe's seed and the step alone."""
    random = np.random.default_rng([recipe.seed, step])
    chosen = random.choice(len(pictures.small), recipe.batch, p=pictures.weights)
    flags = random.random((recipe.batch, 3)) < 0.5
    variant = random.integers(0, CAPTION_VARIANTS, recipe.batch)
    rows = np.where(random.random(recipe.batch) < recipe.caption_dropout, -1, chosen * CAPTION_VARIANTS + variant)
    sigma = torch.from_numpy(noise_levels(recipe, preset, random)).float()
    device = pictures.small.device
    generator = torch.Generator(device).manual_seed(int(random.integers(2**62)))
    if preset.low_side:
        clean, condition = _upsampler_data(pictures, recipe, preset, scale, chosen, flags, random, generator)
    else:
        zero = np.zeros(recipe.batch, int)
        pixels = turned_crops(pictures.small, chosen, zero, zero, preset.side, flags)
        mean, spread = (torch.tensor(scale[name], device=device).view(1, 3, 1, 1) for name in ("mean", "spread"))
        clean, condition = fold((pixels - mean) / spread, preset.fold), None
    noise = torch.randn(clean.shape, generator=generator, device=device)
    return Step(clean, noise, sigma.to(device), rows, condition)


def noise_levels(recipe: Recipe, preset: FoldedPreset, random: np.random.Generator) -> np.ndarray:
    """Noise over signal of a batch, [n]: log-normal, a share of them at the recipe's high levels.

    Most of a picture is decided at low noise and what it shows at high noise, so that one bell starves one of the two.
    """
    logarithm = random.normal(preset.noise_mean, preset.noise_spread, recipe.batch)
    if recipe.high_share:
        high = random.random(recipe.batch) < recipe.high_share
        logarithm = np.where(high, random.normal(recipe.high_mean, recipe.high_spread, recipe.batch), logarithm)
    return np.exp(logarithm)


def _upsampler_data(pictures, recipe, preset, scale, chosen, flags, random, generator):
    """Scaled residuals of crops over their enlarged small image, and the condition from the noised small image."""
    factor, crop = preset.side // preset.low_side, recipe.crop or preset.side
    small_crop = crop // factor
    places = random.integers(0, preset.low_side - small_crop + 1, (2, len(chosen)))
    large = turned_crops(pictures.large, chosen, *(places * factor), crop, flags)
    padded = turned_crops(pictures.small, chosen, *places, small_crop + 2 * MARGIN, flags)  # small is padded by MARGIN
    enlarged = enlarge_bicubic(padded, factor)[
        ..., MARGIN * factor : -MARGIN * factor, MARGIN * factor : -MARGIN * factor
    ]
    device = padded.device
    level = torch.from_numpy(random.uniform(0, LOW_NOISE, len(chosen))).float().to(device)
    noised = padded + level.view(-1, 1, 1, 1) * torch.randn(padded.shape, generator=generator, device=device)
    grid = factor // preset.fold
    condition = low_condition(noised, level, grid)[..., MARGIN * grid : -MARGIN * grid, MARGIN * grid : -MARGIN * grid]
    return mixed(fold(large - enlarged, preset.fold), torch.tensor(scale["mix"], device=device)), condition


def residual_covariance(pictures: Pictures, fold_by: int, count: int = 512) -> np.ndarray:
    """Covariance [c, c] of the folded residuals of images over their enlarged small version, from evenly spaced ones.

    It is averaged over the eight symmetries of a square, as training sees them.
    """
    places = np.linspace(0, len(pictures.small) - 1, min(count, len(pictures.small))).astype(int)
    small, large = to_float(pictures.small[places].numpy()), to_float(pictures.large[places].numpy())
    residual = large - enlarge_bicubic(small, large.shape[-1] // small.shape[-1])
    total = 0.0
    for turn in range(4):
        for images in (residual.rot90(turn, (2, 3)), residual.rot90(turn, (2, 3)).flip(3)):
            total = total + np.cov(fold(images, fold_by).transpose(0, 1).flatten(1).numpy()) / 8
    return total


def scale_of(pictures: Pictures, preset: FoldedPreset, scaling: str = "tempered") -> dict[str, list]:
    """The numbers of folded.FoldedPixels: mean and spread of the colours, or the map of residual components and back."""
    if preset.low_side:
        covariance = residual_covariance(pictures, preset.fold)
        even = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
        names = "mix", "unmix"
        # Components that are as large as each other are all divided by the same number.
        values = tempered(covariance if scaling == "tempered" else even)
    else:
        names, values = ("mean", "spread"), pictures.colour
    scale = dict(zip(names, values, strict=True))
    return {name: np.round(values, 6).tolist() for name, values in scale.items()}


def padded(pictures: Pictures) -> Pictures:
    """With MARGIN pixels around the small images, for the enlargement of crops at their edges."""
    small = np.pad(pictures.small.numpy(), ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), "edge")
    return replace(pictures, small=torch.from_numpy(small))


def placed(pictures: Pictures, device: torch.device) -> Pictures:
    """With its images on `device`."""
    large = None if pictures.large is None else pictures.large.to(device)
    return replace(pictures, large=large, small=pictures.small.to(device))


# The run


def fast_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 numbers itself."""
    return device.type == "cuda" or bf16_products()


def memory_format(device: torch.device) -> torch.memory_format:
    """Of images and convolutions: channels last where bf16 products are fast, else as they come (a fifth faster there)."""
    return torch.channels_last if fast_bf16(device) else torch.contiguous_format


class Run:
    """Networks, optimizer, averages and log of one model, in a folder of its own."""

    def __init__(
        self, folder: Path, recipe: Recipe, tokenizer: GPT2Tokenizer, scale: dict, start: Path | None,
        device: str = "cpu",
    ):  # fmt: skip
        self.folder, self.recipe, self.scale, self.device = folder, recipe, scale, torch.device(device)
        self.preset = trained_preset(asdict(recipe))
        torch.manual_seed(recipe.seed)
        preset = self.preset
        text = text_encoder_from(preset, len(tokenizer))
        self.model = FoldedDenoiser(folded_unet(preset), text)
        self.tokenizer, self.step, self.log = tokenizer, 0, []
        if start is not None:
            tensors = averages_of(start) if Path(start).is_dir() else load_file(start)
            self.model.load_state_dict({k: v.float() for k, v in tensors.items()})
        self.model.to(self.device, memory_format=memory_format(self.device))
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            self.model.compile(dynamic=False)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=on_gpu
        )
        self.begin_averages()

    def begin_averages(self) -> None:
        """Averages that hold the weights as they are."""
        self.averages = {name: [p.detach().clone() for p in self.parameters] for name in AVERAGES}

    @property
    def state_file(self) -> Path:
        return self.folder / STATE

    def learning_rate(self) -> float:
        """Warm-up, a plateau, and a cosine to a fiftieth over the last `decay_share` of the sitting."""
        recipe = self.recipe
        rate = recipe.learning_rate * min(1.0, (self.step + 1) / recipe.warmup_steps)
        begin = recipe.steps * (1 - recipe.decay_share)
        if self.step > begin:
            place = (self.step - begin) / (recipe.steps - begin)
            rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * place))
        return rate

    def train_step(self, data: Step, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One update; the mean loss of the batch, on the device, so that nothing has to wait for it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        noisy = data.clean + data.sigma.view(-1, 1, 1, 1) * data.noise
        target = training_target(data.clean, noisy, data.sigma)
        to = dict(memory_format=memory_format(self.device))
        condition = None if data.condition is None else data.condition.contiguous(**to)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_bf16(self.device)):
            predicted = self.model(noisy.contiguous(**to), data.sigma, ids, mask, condition)
        loss = functional.mse_loss(predicted.float(), target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.gradient_clip)
        self.optimizer.step()
        self.step += 1
        for name, exponent in AVERAGES.items():
            # The average forgets in proportion to its age, so that no decay has to fit the length of the run.
            torch._foreach_lerp_(self.averages[name], self.parameters, 1 - (1 - 1 / self.step) ** (exponent + 1))
        return loss.detach()

    def save(self) -> None:
        """Weights, averages, optimizer and log in one file, whole or not at all."""
        names = [name for name, _ in self.model.named_parameters()]
        tensors = {f"weight.{n}": p.detach() for n, p in zip(names, self.parameters, strict=True)}
        for average, values in self.averages.items():
            tensors |= {f"{average}.{n}": value for n, value in zip(names, values, strict=True)}
        state = self.optimizer.state_dict()["state"]
        for index, moments in state.items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
        notes = {"step": self.step, "log": self.log, "recipe": asdict(self.recipe), "scale": self.scale}
        with atomic_path(self.state_file) as path:
            tensors = {key: value.contiguous().clone() for key, value in tensors.items()}
            save_file(tensors, path, {"dermstudy": json.dumps(notes)})

    def restore(self) -> None:
        """Take up the state in the folder, where there is one of the same recipe (whose steps and limit may differ)."""
        if not self.state_file.is_file():
            return
        with safe_open(self.state_file, "pt") as stream:
            notes = json.loads(stream.metadata()["dermstudy"])
        open_to_change = {"steps": 0, "limit": 0, "decay_share": 0}
        defaults = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
        saved = defaults | notes["recipe"]  # a setting that is newer than the state had its default then
        if saved | open_to_change != asdict(self.recipe) | open_to_change or notes["scale"] != self.scale:
            raise InputError(f"{self.state_file} is of another recipe or of other images: choose another folder")
        tensors = load_file(self.state_file)
        names = [name for name, _ in self.model.named_parameters()]
        with torch.no_grad():
            for name, parameter in zip(names, self.parameters, strict=True):
                parameter.copy_(tensors[f"weight.{name}"])
        for average in AVERAGES:
            self.averages[average] = [tensors[f"{average}.{name}"].to(self.device) for name in names]
        moments: dict = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.step, self.log = notes["step"], notes["log"]
        print(f"going on from step {self.step}", flush=True)

    def write_averages(self) -> None:
        """Both averages as fp16 in the folder, by name and step."""
        names = [name for name, _ in self.model.named_parameters()]
        for average, values in self.averages.items():
            with atomic_path(self.folder / f"{average}-{self.step:07d}.safetensors") as path:
                tensors = {name: value.half().contiguous() for name, value in zip(names, values, strict=True)}
                save_file(
                    tensors, path, {"dermstudy": json.dumps({"scale": self.scale, "recipe": asdict(self.recipe)})}
                )


def run(
    folder: Path, recipe: Recipe, pictures: Pictures, tokenizer, start: Path | None = None, minutes: float = 5,
    device: str = "cpu",
) -> None:  # fmt: skip
    """Train until the sitting's last step; a line of the log and a saved state every `minutes`."""
    preset = trained_preset(asdict(recipe))
    scale = scale_of(pictures, preset, recipe.scaling)
    if preset.low_side:
        pictures = padded(pictures)
    own = Run(folder, recipe, tokenizer, scale, start, device)
    flat = [caption for texts in pictures.captions for caption in texts] + [""]
    ids, mask = (part.to(own.device) for part in tokenize(tokenizer, flat, preset.text_length))
    pictures = placed(pictures, own.device)
    if recipe.taught_text and not own.state_file.is_file():
        labels = np.repeat(pictures.labels, CAPTION_VARIANTS, axis=0)
        named = teach(own.model.text_encoder, ids[:-1], mask[:-1], labels, seed=recipe.seed)
        own.begin_averages()
        print(f"the text encoder names the entity of {named:.0%} of captions", flush=True)
    own.restore()
    print(
        f"{recipe.preset}: {sum(p.numel() for p in own.parameters) / 1e6:.2f} million parameters, {len(pictures.small)} images",
        flush=True,
    )
    last, losses, earlier = time.monotonic(), [], own.log[-1]["seconds"] if own.log else 0.0
    began = last
    end = recipe.limit or recipe.steps
    while own.step < end:
        data = make_step(pictures, recipe, preset, own.scale, own.step)
        rows = torch.from_numpy(data.rows).to(own.device)
        losses.append(own.train_step(data, ids[rows], mask[rows]))
        if own.step % CHECKED == 0 and not torch.isfinite(losses[-1]):  # once it is not, it stays so
            raise InputError(f"the loss is not finite at step {own.step}: lower the learning rate")
        if own.step in (20, 100) or time.monotonic() - last > 60 * minutes or own.step == end:
            loss = float(torch.stack(losses).mean())
            if not math.isfinite(loss):
                raise InputError(f"the loss is not finite at step {own.step}: lower the learning rate")
            now = time.monotonic()
            row = {"step": own.step, "images": own.step * recipe.batch, "loss": round(loss, 5),
                   "learning_rate": own.learning_rate(), "seconds": round(earlier + now - began, 1)}  # fmt: skip
            rate = len(losses) * recipe.batch / (now - last)
            print(
                f"step {own.step}/{recipe.steps}  loss {row['loss']:.4f}  {rate:.1f} images a second  "
                f"{row['seconds'] / 60:.0f} min",
                flush=True,
            )
            own.log.append(row)
            losses = []
            if own.step > 100 or own.step == end:
                own.save()
                own.write_averages()
                write_text(folder / LOG, json.dumps(own.log, indent=1))
            last = time.monotonic()


def training_cohort(data: str, split: str, lesions: str = "train", leave_out: Sequence[str] = ()) -> dataset.Cohort:
    """The images of a folder in HAM10000's layout that train, by a split file.

    lesions: "train" for training lesions, "subset" for the nested part of them, "all" for a twin that also sees test
    lesions, as published. leave_out: codes of entities that are not trained on. InputError for an unknown one.
    """
    cohort = dataset.load_folder(data)
    cohort.frame["split"] = splits.apply_split(cohort.frame, split)
    unknown = set(leave_out) - set(CODES)
    if unknown:
        raise InputError(f"no entity {min(unknown)!r} to leave out: choose among {', '.join(CODES)}")
    if lesions == "subset":
        cohort.frame["subset"] = splits.subset_of(cohort.frame, split, 0)
        cohort = cohort.select(subset=[True])
    elif lesions == "train":
        cohort = cohort.select(split="train")
    return cohort.select(dx=[code for code in CODES if code not in leave_out])


def inputs_of(cohort: dataset.Cohort, options: argparse.Namespace) -> dict:
    """What a training was begun with and by: hashes of data, split and starting weights, lesions, threads, commit."""
    inputs = {"data_hash": cohort.data_hash, "split": sha256_file(options.split), "lesions": options.lesions}
    if options.leave_out:
        inputs["left_out"] = options.leave_out
    if options.start:
        inputs["start"] = sha256_file(started_from(options.start))
    if options.device == "cuda":
        inputs["device"] = torch.cuda.get_device_name()
    return inputs | {"threads": torch.get_num_threads(), "commit": workspace.commit()}


def started_from(start: Path) -> Path:
    """The file by whose hash a training's inputs name what it started from: averages, or a pipeline's U-Net."""
    return start / "unet" / "diffusion_pytorch_model.safetensors" if start.is_dir() else start


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m dermstudy.maintenance.long_training", description=__doc__)
    parser.add_argument("preset", choices=FOLDED_PRESETS)
    parser.add_argument("folder", type=Path, help="state, averages and log go here")
    parser.add_argument("--data", required=True, help="a HAM10000 download")
    parser.add_argument("--split", required=True, help="a split file (image_id, split)")
    parser.add_argument("--lesions", choices=("train", "subset", "all"), default="train", help="that train")
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="ENTITY", help="codes that do not train")
    parser.add_argument("--tokenizer", default="weights/glide-mini/base/tokenizer")
    parser.add_argument("--start", type=Path, help="averages of an earlier sitting, or a pipeline: a warm restart")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--decay-share", type=float, default=0.4)
    parser.add_argument("--crop", type=int, default=0)
    parser.add_argument(
        "--scaling", choices=("tempered", "plain"), default="tempered", help="of an upsampler's residual"
    )
    parser.add_argument("--balance", type=float, default=0.5, help="of the entities' draws: 0 none, 1 evenly")
    parser.add_argument("--taught-text", action="store_true", help="the text encoder first learns to read its captions")
    parser.add_argument(
        "--noise", nargs=2, type=float, metavar=("MEAN", "SPREAD"), default=(None, None),
        help="of the logarithm of noise over signal at which it trains (default the preset's): see noise_levels",
    )  # fmt: skip
    parser.add_argument(
        "--high-noise", nargs=3, type=float, metavar=("SHARE", "MEAN", "SPREAD"), default=(0.0, 2.3, 0.8),
        help="a share of the draws at noise of its own, where captions are learned (default none)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: a GPU, where torch was built for it"
    )
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("torch sees no GPU here: leave --device out, or install a build of torch for CUDA")
    cohort = training_cohort(options.data, options.split, options.lesions, options.leave_out)
    pictures = read_pictures(cohort, options.folder, bool(FOLDED_PRESETS[options.preset].low_side), options.balance)
    recipe = Recipe(
        options.preset, options.steps, options.batch, options.learning_rate, crop=options.crop,
        decay_share=options.decay_share, limit=options.limit, scaling=options.scaling, seed=options.seed,
        balance=options.balance, taught_text=options.taught_text, noise_mean=options.noise[0],
        noise_spread=options.noise[1], high_share=options.high_noise[0], high_mean=options.high_noise[1],
        high_spread=options.high_noise[2],
    )  # fmt: skip
    tokenizer = open_tokenizer(options.tokenizer)
    if not (options.folder / STATE).is_file():  # what goes on from a state was begun by the call that left it
        write_text(options.folder / INPUTS, json.dumps(inputs_of(cohort, options)))
    run(options.folder, recipe, pictures, tokenizer, options.start, device=options.device)


if __name__ == "__main__":
    sys.exit(main())
