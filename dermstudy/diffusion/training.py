"""One run of training: its networks, optimizer, averages and log, and its state, which another call takes up exactly.

`config` is finetune's TrainingConfig. Source: Karras et al. (arXiv 2312.02696) for the averaged weights and for noise levels
that count alike.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dermstudy.diffusion.architecture import tokenize
from dermstudy.diffusion.batches import Pictures, make_batch
from dermstudy.diffusion.checkpoints import BEST, STATE, origin_of, save_tensors, turn_last_layer, whole_state
from dermstudy.diffusion.losses import Denoiser, autocast, diffusion_loss, layout, seed_of, validation_loss
from dermstudy.files import InputError, restore_all

AVERAGE, EXPONENT = "short", 16.97  # the name of the averaged weights, and the power by which they forget (width 0.05)
LEVELS = (-5.0, 0.5, 21)  # of noise, whose errors are kept: the first logarithm, the distance, how many
CHECKED = 10  # steps from one look at the losses to the next: a GPU has to be waited for


@dataclass
class Run:
    """One call of `finetune.train`: what it is given, how it trains, and what has been recorded."""

    pipeline: Any
    trained: Mapping[str, nn.Module]  # as finetune.what_trains has it
    pictures: Pictures
    config: Any
    folder: Path
    validation: Pictures | None = None
    keeps_best: bool = False
    after: Callable | None = None
    about: dict | None = None

    def __post_init__(self):
        pipeline, pictures, config = self.pipeline, self.pictures, self.config
        self.accelerator = Accelerator()
        device = self.accelerator.device
        self.every = config.validate_every or max(1, config.steps // 10)
        denoiser = Denoiser(pipeline.unet, pipeline.text_encoder)
        moving = {name: value for name, value in denoiser.named_parameters() if value.requires_grad}
        self.names, self.parameters = list(moving), list(moving.values())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, betas=(0.9, config.second_beta),
            weight_decay=config.weight_decay, fused=device.type == "cuda",
        )  # fmt: skip
        self.average = [value.detach().clone() for value in self.parameters] if config.averaged else None
        self.level_errors = torch.ones(LEVELS[2], device=device)
        self.tokens = tokenize(pipeline.tokenizer, pictures.texts, pipeline.text_encoder.config.length)
        self.origin = "" if self.about else self._origin()
        self.denoiser = self.accelerator.prepare(denoiser)
        if self.about and device.type == "cuda":
            self.denoiser.compile(dynamic=False)  # hours are worth the minutes that this takes
        self.log, self.step, self.best = [], 0, {"loss": math.inf, "step": 0}
        self.shares = _share(config, self.accelerator)
        self.started = self.recorded = time.monotonic()

    def _origin(self) -> str:
        """A hash of the weights, images, captions and tokens that the run begins with."""
        sides = [side for side in (self.pictures.images, self.pictures.small) if side is not None]
        # Learned tokens depend on how captions are cut up.
        read = [str(self.tokens[0].tolist())] if self.config.trains == "tokens" else []
        modules = {"unet": self.pipeline.unet, "text": self.pipeline.text_encoder}
        return origin_of(modules, sides, [*self.pictures.texts, *read])

    def train(self, minutes: float) -> None:
        """Every step that is left; a record when one is due, and at least every so many `minutes` where they are given."""
        losses: list[torch.Tensor] = []
        while self.step < self.config.steps:
            losses.append(self.train_step())
            late = 0 < 60 * minutes < time.monotonic() - self.recorded
            due = late or self.step % self.every == 0 or self.step == self.config.steps
            if (due or self.step % CHECKED == 0) and not torch.stack(losses).isfinite().all():
                rate = self.config.learning_rate
                raise InputError(f"the loss is not finite at step {self.step}: lower the learning rate {rate}")
            if due:
                self.record(losses)
                losses = []

    def train_step(self) -> torch.Tensor:
        """One update; the mean loss of the batch over all processes, on the device, so that nothing has to wait for it."""
        config, device, accelerator = self.config, self.accelerator.device, self.accelerator
        batch = make_batch(self.pictures, self.pipeline, config, self.step)
        torch.manual_seed(seed_of(config.seed, self.step, 1, accelerator.process_index))  # dropout
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        errors = []
        for number, share in enumerate(self.shares, 1):
            together = number == len(self.shares)
            with contextlib.nullcontext() if together else accelerator.no_sync(self.denoiser):
                ids, mask = (values[batch.rows[share]].to(device) for values in self.tokens)
                with autocast(config, device):
                    values = diffusion_loss(self.denoiser, self.pipeline, batch.part(share, device), ids, mask)
                errors.append(values.detach())
                weighted = values / self.level_errors[self._level(batch.sigma[share])] if config.even_levels else values
                accelerator.backward(weighted.sum() * accelerator.num_processes / config.batch)
        if config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, config.gradient_clip)
        self.optimizer.step()
        self.step += 1
        if self.average:
            # The average forgets in proportion to its age, so that no decay has to fit the length of the run.
            torch._foreach_lerp_(self.average, self.parameters, 1 - (1 - 1 / self.step) ** (EXPONENT + 1))
        errors = accelerator.gather(torch.cat(errors))
        if config.even_levels:
            for index, error in zip(self._level(batch.sigma).tolist(), errors, strict=True):
                self.level_errors[index].lerp_(error, 0.02)
        return errors.mean()

    def _level(self, sigma: torch.Tensor) -> torch.Tensor:
        """Which of LEVELS each noise over signal is nearest to, [n]."""
        return ((sigma.log() - LEVELS[0]) / LEVELS[1]).round().long().clamp(0, LEVELS[2] - 1)

    def record(self, losses: list[torch.Tensor]) -> None:
        """A row of the log, the best weights and the state: written by the first process while the others wait."""
        if self.accelerator.is_main_process:
            row = {"step": self.step, "loss": torch.stack(losses).mean().item() if losses else math.nan}
            with self._as_it_answers():
                if self.validation:
                    row |= validation_loss(self.pipeline, self.validation, self.config)
                    if self.keeps_best and row["validation_loss"] < self.best["loss"]:
                        self.best = {"loss": row["validation_loss"], "step": self.step}
                        save_tensors(self.folder / BEST, dict(zip(self.names, self.parameters, strict=True)))
                now = time.monotonic()
                images = len(losses) * self.config.batch / (now - self.recorded)
                self.log.append(row | {"seconds": round(now - self.started, 1)})
                print(_line(self.log[-1], self.config.steps, images), flush=True)
                if self.after:
                    self.after(self.pipeline, self.log)
            self.pipeline.unet.to(memory_format=layout(self.config, self.accelerator.device))
            self._save()
            self.recorded = time.monotonic()
        self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def _as_it_answers(self):
        """Averaged weights in place of the trained ones, and dropout off, for as long as the block lasts."""
        kept = [value.detach().clone() for value in self.parameters] if self.average else None
        self._put(self.average)
        for module in self.trained.values():
            module.eval()
        try:
            yield
        finally:
            for module in self.trained.values():
                module.train()
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: Sequence[torch.Tensor] | None) -> None:
        if values is not None:
            torch._foreach_copy_(self.parameters, list(values))

    def _save(self) -> None:
        """Everything that a resumed run needs, in one file written whole: weights, average, moments, errors, log."""
        tensors = {"level_errors": self.level_errors}
        for prefix, values in {"weight": self.parameters, AVERAGE: self.average}.items():
            if values is not None:
                tensors |= {f"{prefix}.{name}": value for name, value in zip(self.names, values, strict=True)}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
        notes = {"step": self.step, "log": self.log, "best": self.best, "origin": self.origin}
        notes |= notes_of(self.pipeline, self.config, self.about)
        save_tensors(self.folder / STATE, tensors, {"dermstudy": json.dumps(notes)}, keep=True)

    def restore(self) -> None:
        """Take up the state that an earlier call of the same run left in the folder, where there is one.

        InputError for a damaged file of the best weights, where no state is whole, and, with `about`, for one of another run.
        """
        restore_all(self.folder)
        found = whole_state(self.folder / STATE)
        if found is None or not self._goes_on(*found):
            return
        path, notes = found
        try:
            tensors = load_file(path)
            if self.keeps_best:
                load_file(self.folder / BEST)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self.folder / BEST} is empty or cut: remove {self.folder} to train anew") from error
        if not notes.get("predicts"):  # a state that predicts the target of Karras et al.
            turn_last_layer(tensors, self.names)
        self._put([tensors[f"weight.{name}"] for name in self.names])
        if self.average:
            self.average = [tensors[f"{AVERAGE}.{name}"].to(self.accelerator.device) for name in self.names]
        moments: dict = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.level_errors = tensors.get("level_errors", self.level_errors).to(self.accelerator.device)
        self.log, self.step, self.best = notes["log"], notes["step"], notes.get("best", self.best)
        self.started -= self.log[-1]["seconds"] if self.log else 0.0
        self.accelerator.print(f"going on from step {self.step}", flush=True)

    def _goes_on(self, path: Path, notes: dict) -> bool:
        """Whether the state of `notes` is one of this run; InputError where it is not, with `about`."""
        now, config = notes_of(self.pipeline, self.config, self.about), self.config
        saved = notes.get("recipe", {})
        free = {"steps", "decay_share", "validate_every"} if self.about else set()
        if config.validate_every and notes["step"] % config.validate_every == 0 and not config.decay_share:
            free |= {"steps"}  # both would have come to this state in the same way
        # A setting that is newer than the state counts as it is now.
        same = all(saved.get(key, value) == value for key, value in now["recipe"].items() if key not in free)
        same = same and "recipe" in notes and notes["scale"] == now["scale"] and notes["step"] <= config.steps
        if self.about and not same:
            raise InputError(f"{path} is of another recipe or of other images: choose another folder")
        best_is_there = not self.keeps_best or (self.folder / BEST).is_file()
        return same and notes.get("origin", "") == self.origin and best_is_there

    def finish(self) -> pd.DataFrame:
        """The weights that stay put in place, nothing left to train; the log."""
        found = whole_state(self.folder / STATE)
        if found:  # which the first process alone has written
            self.log, self.best = found[1]["log"], found[1]["best"]
        if self.keeps_best:
            tensors = load_file(self.folder / BEST)
            self._put([tensors[name] for name in self.names])
        else:
            self.best = {"loss": self.log[-1]["loss"], "step": self.step}
            self._put(self.average)
        if self.config.gradient_checkpointing:
            self.pipeline.unet.disable_gradient_checkpointing()
        for module in (self.pipeline.unet, self.pipeline.text_encoder):
            module.eval().requires_grad_(False)
        kept = f"step {self.best['step']} (loss {self.best['loss']:.4f})"
        self.accelerator.print(f"kept the weights of {kept}", flush=True)
        return pd.DataFrame(self.log)


def notes_of(pipeline, config, about: dict | None = None) -> dict:
    """What a state or a file of averaged weights says of its run: the recipe, the scale of folded pixels, the prediction."""
    scale = pipeline.pixels.scale if pipeline.pixels else None
    return {"recipe": asdict(config) | (about or {}), "scale": scale, "predicts": "velocity"}


def _share(config, accelerator: Accelerator) -> list[slice]:
    """This process's part of each batch, cut into micro-batches."""
    count = accelerator.num_processes
    if config.batch % count:
        raise InputError(f"a batch of {config.batch} does not divide over {count} processes: choose a multiple")
    size = config.batch // count
    start, micro = accelerator.process_index * size, config.micro_batch or size
    return [slice(at, min(at + micro, start + size)) for at in range(start, start + size, micro)]


def _line(row: dict, steps: int, rate: float) -> str:
    held_out = f", validation {row['validation_loss']:.4f}" if "validation_loss" in row else ""
    loss = f"  loss {row['loss']:.4f}" if math.isfinite(row["loss"]) else "  before training"
    return f"step {row['step']:>6}/{steps}{loss}{held_out}  {row['seconds']:.0f} s, {rate:.1f} images a second"
