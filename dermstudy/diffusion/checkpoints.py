"""The state of a training run on disk: everything that a resumed run needs, in one file written whole, and the one before."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dermstudy.files import InputError, atomic_path

STATE, BEST = "state.safetensors", "best.safetensors"


def save_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None, keep: bool = False
) -> None:
    """Write a safetensors file that a power failure leaves whole; keep: what was there stays as the state before it."""
    with atomic_path(path, durable=True) as temporary:
        save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, temporary, metadata)
        if keep and path.is_file():
            os.replace(path, _before(path))


def _before(path: Path) -> Path:
    return path.with_stem(f"{path.stem}.previous")


def whole_state(path: Path) -> tuple[Path, dict] | None:
    """The file of the state `path`, or of the one before it where that is damaged, and its notes; None where there is none.

    Prints a line that names a damaged file. InputError where no state is whole.
    """
    there = [file for file in (path, _before(path)) if file.is_file()]
    for file in there:
        try:
            with safe_open(file, "pt") as stream:
                notes = json.loads((stream.metadata() or {})["dermstudy"])
        except (OSError, SafetensorError, KeyError, ValueError):
            continue
        if file != there[0]:
            print(f"{path} is empty or cut: training goes on from the state before it, {file.name}", flush=True)
        return file, notes
    if there:
        raise InputError(f"{there[0]} is empty or cut, and no state before it is whole: remove it to begin anew")
    return None


def weights_hash(modules: dict) -> str:
    """SHA-256 over every tensor of the modules, their names, precisions and shapes."""
    digest = hashlib.sha256()
    named = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for name, value in sorted(named.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def origin_of(modules: dict, sides: Sequence[np.ndarray], captions: Sequence[str]) -> str:
    """SHA-256 over what a run starts from: the modules' weights, the images at each side and their captions."""
    digest = hashlib.sha256(weights_hash(modules).encode())
    for images in sides:
        digest.update(np.ascontiguousarray(images).data)
    digest.update("\n".join(captions).encode())
    return digest.hexdigest()


def turn_last_layer(tensors: dict[str, torch.Tensor], names: Sequence[str] = ()) -> None:
    """Change tensors of a network that predicts the target of Karras et al. (arXiv 2206.00364) into those of the velocity.

    The velocity is that target with the sign turned, so that a network's last convolution, its averages and the optimizer's
    first moments of it are negated; `names`: of the parameters that a state's optimizer numbers.
    """
    last = [f"unet.conv_out.{kind}" for kind in ("weight", "bias")]
    turned = [key for key in tensors if key.endswith(tuple(last))]
    for key in [*turned, *(f"optimizer.{names.index(name)}.exp_avg" for name in last if name in names)]:
        tensors[key] = -tensors[key]
