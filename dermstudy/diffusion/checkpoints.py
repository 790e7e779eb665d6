"""The state of a training run on disk: everything that a resumed run needs, in one file written whole."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dermstudy.files import atomic_path


def named(modules: dict) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    with atomic_path(path) as temporary:
        save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, temporary, metadata)


def weights_hash(modules: dict) -> str:
    """SHA-256 over every tensor of the modules, their names, precisions and shapes."""
    digest = hashlib.sha256()
    for name, value in sorted(named(modules).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def origin_of(modules: dict, images: np.ndarray, captions: Sequence[str]) -> str:
    """SHA-256 over what a run starts from: the modules' weights, the images and their captions."""
    digest = hashlib.sha256(weights_hash(modules).encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update("\n".join(captions).encode())
    return digest.hexdigest()


def save_state(folder, config, origin, step, log, best, parameters, optimizer, average) -> None:
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
        "origin": origin,
        "average_step": average.optimization_step if average is not None else 0,
    }
    save_tensors(folder / "state.safetensors", tensors, {"dermstudy": json.dumps(notes)})


def read_notes(folder: Path) -> dict:
    with safe_open(folder / "state.safetensors", "pt") as stream:
        return json.loads(stream.metadata()["dermstudy"])


def load_state(folder, config, origin, parameters, optimizer, average, accelerator) -> dict:
    """The saved state put back in place, or a fresh one; a state of another configuration, or of a run
    that started from other weights, images or captions (`origin`), is left alone.

    A run of the same configuration with other numbers of steps, or of steps at half the side, is gone on from as long
    as both would have come to this state in the same way.
    """
    path = folder / "state.safetensors"
    fresh = {"step": 0, "log": [], "best": {"loss": math.inf, "step": 0}}
    if not path.is_file():
        return fresh
    notes = read_notes(folder)
    # A setting that is newer than the state had its default then.
    before = asdict(type(config)(steps=0)) | notes["config"]
    if config.validate_every and notes["step"] % config.validate_every == 0 and notes["step"] <= config.steps:
        before["steps"] = config.steps
        if notes["step"] <= min(before["half_side_steps"], config.half_side_steps):
            before["half_side_steps"] = config.half_side_steps
    if before != asdict(config) or notes.get("origin") != origin or not (folder / "best.safetensors").is_file():
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
        average.shadow_params = [tensors[f"average.{index}"].to(accelerator.device) for index in range(len(parameters))]
        average.optimization_step = notes["average_step"]
    accelerator.print(f"going on from step {notes['step']}", flush=True)
    return {"step": notes["step"], "log": notes["log"], "best": notes["best"]}
