"""Does an image show the entity that was asked for? Asked of two networks that are fitted here, on training lesions.

The small one is a residual network that reads pixels, trained from random weights: He et al. (arXiv 1512.03385), through
torchvision. The independent one is a logistic regression on EfficientNet-Lite0's pooled features; it had no part in choosing
the generator, whose recipe and sampler were chosen by losses and by KID of FID-Inception's features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torchvision.models import resnet18

from dermstudy.data.dataset import Cohort
from dermstudy.entities import CODES, NAMES
from dermstudy.evaluation.features import Features
from dermstudy.files import InputError, atomic_path, progress, sha256_text
from dermstudy.intervals import quantiles
from dermstudy.processor import device, exact_roots
from dermstudy.source import code_hash
from dermstudy.weight_files import check_finite

SIDE = 64
BATCH = 32
STIFFNESS = (0.001, 0.003, 0.01, 0.03, 0.1)  # inverse penalties, the best of which validation lesions choose
SMALL, INDEPENDENT = "small network", "independent network"
COLUMNS = ("network", "entity", "n", "synthetic", "n_real", "real", "difference", "low", "high")
DRAWS = 2000  # resamples of an interval


# The small network


def train(training: Cohort, validation: Cohort, folder: str | Path, steps: int, seed: int = 0) -> float:
    """Train on class-balanced draws and write the weights; returns the balanced accuracy on validation lesions.

    A folder that holds weights of the same steps, seed, images, entities and code is kept. Prints a line every ten seconds.
    """
    if steps < 1 or not len(training) or not len(validation):
        raise InputError(
            f"a reference classifier needs steps and images, got {steps}, {len(training)} and {len(validation)}"
        )
    path = Path(folder) / "weights.safetensors"
    shown = training.frame[["image_id", "dx"]].to_dict("list")
    made_by = [steps, seed, SIDE, BATCH, CODES, training.data_hash, shown, code_hash(__name__)]
    token = sha256_text(json.dumps(made_by))
    model = _network(seed)
    if not path.is_file() or (path.with_name("made_by.txt").read_text(encoding="utf-8") != token):
        _fit(model, training, steps, seed)
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            save_file(model.state_dict(), temporary / path.name)
            (temporary / "made_by.txt").write_text(token, encoding="utf-8")
    predicted, true = named(folder, validation.images(SIDE)), validation.frame["dx"].to_numpy()
    return float(np.mean([(predicted[true == code] == code).mean() for code in CODES if code in true]))


def named(folder: str | Path, images: np.ndarray) -> np.ndarray:
    """The entity code that the network in `folder` gives each of `images`, uint8 [n, h, w, 3] of any side.

    InputError where the folder holds no such network, or a damaged one.
    """
    return np.array(CODES)[_scores(folder, images).argmax(dim=1)]


def probabilities(folder: str | Path, images: np.ndarray) -> pd.DataFrame:
    """The network's probability of each entity, [n, 7] by entity code, for uint8 [n, h, w, 3] of any side."""
    return pd.DataFrame(_scores(folder, images).softmax(dim=1).numpy(), columns=list(CODES))


@torch.inference_mode()
def _scores(folder: str | Path, images: np.ndarray) -> torch.Tensor:
    """Logits [n, 7] of images, which are reduced to SIDE first."""
    path, mend = Path(folder) / "weights.safetensors", "remove it and run notebook 04_metrics again"
    if not path.is_file():
        raise InputError(f"no reference classifier in {folder}: run notebook 04_metrics again")
    model = _network(0).eval()
    try:
        tensors = load_file(path)
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{path} is damaged: {mend}") from error
    check_finite(tensors, path, mend)
    scores = []
    for start in range(0, len(images), BATCH):
        pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH])).permute(0, 3, 1, 2).float()
        small = functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True).round().clamp(0, 255)
        scores.append(model(_entered(small.byte().permute(0, 2, 3, 1).numpy())).float().cpu())
    check_finite({"a score": torch.cat(scores)}, "the reference classifier")
    return torch.cat(scores)


def _network(seed: int) -> torch.nn.Module:
    exact_roots()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return resnet18(weights=None, num_classes=len(CODES)).to(device())


def _entered(images: np.ndarray) -> torch.Tensor:
    """What the network is given, float32 [n, 3, SIDE, SIDE] in -1..1, of images uint8 [n, SIDE, SIDE, 3]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(device()).float() / 127.5 - 1


def _fit(model: torch.nn.Module, training: Cohort, steps: int, seed: int) -> None:
    images, labels = training.images(SIDE), training.frame["dx"].map(CODES.index).to_numpy()
    random = np.random.default_rng([seed, 5])
    by_label = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    model.train()
    for _ in progress(range(steps), steps, "steps of the reference classifier"):
        chosen = np.array([random.choice(by_label[kind]) for kind in random.integers(0, len(by_label), BATCH)])
        turns, flip = int(random.integers(4)), bool(random.integers(2))
        pixels = _entered(images[chosen])
        pixels = torch.rot90(pixels.flip(-1) if flip else pixels, turns, (-2, -1))
        target = torch.from_numpy(labels[chosen]).to(device())
        loss = functional.cross_entropy(model(pixels), target, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


# The independent network


class Namer:
    """Names the entity of an image from its features [n, d]; every entity counts the same while it learns."""

    def __init__(self, training: Features, validation: Features):
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import balanced_accuracy_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.score = -1.0
        for stiffness in STIFFNESS:
            head = LogisticRegression(C=stiffness, class_weight="balanced", max_iter=2000)
            model = make_pipeline(StandardScaler(), head).fit(training.values, training.entity)
            score = balanced_accuracy_score(validation.entity, model.predict(validation.values))
            if score > self.score:
                self.score, self.model = score, model

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Entity codes [n]."""
        return self.model.predict(values)

    def confidence(self, values: np.ndarray) -> np.ndarray:
        """The probability [n], 0..1, that the network gives the entity which it names."""
        return self.model.predict_proba(values).max(axis=1)


# What they answer


def fidelity_table(
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]], asked: pd.DataFrame, true: pd.DataFrame, seed: int = 0
) -> pd.DataFrame:
    """Shares named as asked by several networks, entities by name, then "overall" (the mean of the entities): COLUMNS.

    answers: by network its entity codes for synthetic and for real images; asked, true: a row an image with its `dx`, real
    ones with the `group` of their lesion. n and n_real count images; low and high bracket the difference: the 95 %
    percentile interval that resamples synthetic images and real lesions within each entity.
    """
    parts = []
    for network, codes in answers.items():
        made, real = (
            _shares(codes[side], frame, np.random.default_rng([seed, side])) for side, frame in enumerate((asked, true))
        )
        table = made.merge(real, on="entity", suffixes=("", "_real"))
        table[["low", "high"]] = [quantiles(row.draws - row.draws_real) for row in table.itertuples()]
        table["difference"] = table["share"] - table["share_real"]
        table = table.rename(columns={"share": "synthetic", "share_real": "real"}).reset_index()
        parts.append(table.assign(network=network, entity=table["entity"].replace(NAMES)))
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]


def _shares(codes: np.ndarray, frame: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    """By entity, and over all as the mean of the entities: n, share (0..1), draws (the shares [DRAWS] of resampled lesions)."""
    right = pd.Series(np.asarray(codes) == frame["dx"].to_numpy(), index=frame.index)
    lesions = frame["group" if "group" in frame else "image_id"]
    rows = {}
    for code in [code for code in CODES if (frame["dx"] == code).any()]:
        counts = right[frame["dx"] == code].groupby(lesions[frame["dx"] == code]).agg(["sum", "size"]).to_numpy()
        times = random.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), DRAWS)
        hits, images = (times @ counts).T
        rows[code] = counts[:, 1].sum(), counts[:, 0].sum() / counts[:, 1].sum(), hits / images
    sizes, shares, draws = zip(*rows.values(), strict=True)
    rows["overall"] = sum(sizes), float(np.mean(shares)), np.mean(draws, axis=0)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["n", "share", "draws"]).rename_axis("entity")


def wrongly_named(answers: Mapping[str, np.ndarray], asked: pd.Series, confidence: np.ndarray) -> pd.DataFrame:
    """Which synthetic images no network names as asked: entity, the INDEPENDENT network's answer by name, and confidence.

    answers: by network the entity code of each image; confidence [n]: what the INDEPENDENT network gives its answer. An
    image that some network names rightly has "" and NaN.
    """
    frame = pd.DataFrame({name: np.asarray(codes) for name, codes in answers.items()})
    wrong = frame.ne(asked.to_numpy(), axis=0).all(axis=1)
    entity, sure = frame[INDEPENDENT].map(NAMES), pd.Series(np.asarray(confidence, float))
    return pd.DataFrame({"entity": entity.where(wrong, ""), "confidence": sure.where(wrong)})
