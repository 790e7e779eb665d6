"""The reference encoder: a residual network trained once on real training lesions, a second opinion beside ImageNet's.

Source: He et al. (arXiv 1512.03385) for the network, through torchvision, from random weights. Its features say whether
a ranking by FID-Inception hangs on a network that has only seen photographs of the world.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torchvision.models import resnet18

from dermstudy.data.dataset import Cohort, read_image
from dermstudy.entities import CODES
from dermstudy.evaluation.encoders import Encoder
from dermstudy.files import InputError, atomic_path, code_hash, sha256_file, sha256_text

SIDE = 64
BATCH = 32


def train(training: Cohort, validation: Cohort, folder: str | Path, steps: int, seed: int = 0) -> float:
    """Train on class-balanced draws and write the weights; returns the balanced accuracy on validation lesions.

    A folder that holds weights of the same steps, seed, images, entities and code is kept. Prints a line every ten seconds.
    """
    if steps < 1 or not len(training) or not len(validation):
        raise InputError(
            f"a reference encoder needs steps and images, got {steps}, {len(training)} and {len(validation)}"
        )
    path = Path(folder) / "weights.safetensors"
    code = code_hash(_fit, _network, _labels, _tensor, Cohort.images, read_image)
    shown = training.frame[["image_id", "dx"]].to_dict("list")
    token = sha256_text(json.dumps([steps, seed, SIDE, BATCH, CODES, training.data_hash, shown, code]))
    model = _network(seed)
    if not path.is_file() or (path.with_name("made_by.txt").read_text(encoding="utf-8") != token):
        _fit(model, training, steps, seed)
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            save_file(model.state_dict(), temporary / path.name)
            (temporary / "made_by.txt").write_text(token, encoding="utf-8")
    model.load_state_dict(load_file(path))
    predicted = _scores(model, validation.images(SIDE)).argmax(axis=1)
    true = _labels(validation)
    return float(np.mean([(predicted[true == label] == label).mean() for label in np.unique(true)]))


def encoder(folder: str | Path) -> Encoder:
    """The encoder whose weights `train` wrote: features [n, 512], pooled, each of length sqrt(512).

    One length, for the features of images unlike all that trained grow without bound, and a distance with a cubic kernel
    would see nothing but their length. InputError where there are no weights.
    """
    model = _trained(folder)
    model.fc = torch.nn.Identity()
    code = code_hash(encoder, _network, _reduced, _tensor, _scores)
    identity = sha256_text(f"{code} {SIDE} {sha256_file(Path(folder) / 'weights.safetensors')}")

    def features(images: np.ndarray) -> np.ndarray:
        pooled = _scores(model, _reduced(images))
        return pooled * np.sqrt(pooled.shape[1]) / np.linalg.norm(pooled, axis=1, keepdims=True).clip(1e-12)

    return Encoder("reference", features, identity)


def answers(folder: str | Path, cohort: Cohort, batch: int = 256) -> pd.Series:
    """The entity code that the network in `folder` gives each image of `cohort`; InputError where there is none."""
    names = list(cohort.frame["image_id"])
    parts = [named(folder, cohort.images(SIDE, names[start : start + batch])) for start in range(0, len(names), batch)]
    return pd.Series(np.concatenate(parts), index=cohort.frame.index)


def named(folder: str | Path, images: np.ndarray) -> np.ndarray:
    """The entity code that the network in `folder` gives each of `images`, uint8 [n, h, w, 3] of any side."""
    return np.array(CODES)[_scores(_trained(folder), _reduced(images)).argmax(axis=1)]


def probabilities(folder: str | Path, images: np.ndarray) -> pd.DataFrame:
    """The network's probability of each entity, [n, 7] by entity code, for uint8 [n, h, w, 3] of any side."""
    scores = torch.from_numpy(_scores(_trained(folder), _reduced(images)))
    return pd.DataFrame(scores.softmax(dim=1).numpy(), columns=list(CODES))


def _trained(folder: str | Path):
    path = Path(folder) / "weights.safetensors"
    if not path.is_file():
        raise InputError(f"no reference encoder in {folder}: run notebook 04_metrics again")
    model = _network(0)
    model.load_state_dict(load_file(path))
    return model


def _network(seed: int):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return resnet18(weights=None, num_classes=len(CODES))


def _labels(cohort: Cohort) -> np.ndarray:
    return cohort.frame["dx"].map(CODES.index).to_numpy()


def _reduced(images: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    small = functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def _tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def _scores(model, images: np.ndarray) -> np.ndarray:
    model.eval()
    parts = [model(_tensor(images[start : start + BATCH])) for start in range(0, len(images), BATCH)]
    return torch.cat(parts).float().numpy()


def _fit(model, training: Cohort, steps: int, seed: int) -> None:
    images, labels = training.images(SIDE), _labels(training)
    random = np.random.default_rng([seed, 5])
    by_label = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    model.train()
    told = started = time.monotonic()
    for step in range(1, steps + 1):
        chosen = np.array([random.choice(by_label[kind]) for kind in random.integers(0, len(by_label), BATCH)])
        pixels = _tensor(images[chosen])
        turns, flip = int(random.integers(4)), bool(random.integers(2))
        pixels = torch.rot90(pixels.flip(-1) if flip else pixels, turns, (-2, -1))
        loss = functional.cross_entropy(model(pixels), torch.from_numpy(labels[chosen]), label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if time.monotonic() - told > 10 or step == steps:
            told = time.monotonic()
            print(f"reference encoder, step {step}/{steps}  loss {loss.item():.3f}  {told - started:.0f} s", flush=True)
