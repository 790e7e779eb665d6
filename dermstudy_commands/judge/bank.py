"""Real images as features: what a folder is judged by without an image of theirs at hand.

Every number is kept in eight bits, with a lowest value and a step for each column. Components are those of the trial's
linear probe; their axes are rounded first, so that training, test and judged images go through the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.classification import predictions
from dermstudy.classification.frozen_features import Basis, Head
from dermstudy.classification.predictions import Predictions
from dermstudy.evaluation.judge import Seen
from dermstudy.files import InputError, atomic_path, sha256_file
from dermstudy.weight_files import check_finite, check_shipped

FOLDER, FEATURES, IMAGES, ORIGINALS = "weights/judge", "features.safetensors", "images.csv", "originals.npz"
HEAD = ("weights", "bias", "prior")
MEND = "it is shipped in the repository's weights/judge"


@dataclass(frozen=True)
class Bank:
    """Real originals. frame: image_id, dx, group, split, subset, side, pixels (a hash); components float32 [n, k].

    seen: features and colours of the images whose `side` is that (train, test), in the order of the frame.
    head: the probe on all originals as they are; originals: its seeds on all of them, and on the 30 % subset.
    """

    name: str
    frame: pd.DataFrame
    basis: Basis
    components: np.ndarray
    seen: Mapping[str, Seen]
    head: Head | None = None
    originals: Predictions | None = None

    def images(self, split: str) -> np.ndarray:
        """Which rows are of a split: bool [n]."""
        return (self.frame["split"] == split).to_numpy()


def save(bank: Bank, folder: str | Path) -> Path:
    """Write `bank` to `folder` (IMAGES, FEATURES), in eight bits a number; other files there stay."""
    from safetensors.numpy import save_file

    folder = Path(folder)
    matrices = {"axes": bank.basis.axes, "components": bank.components}
    for side, seen in bank.seen.items():
        matrices |= {f"{side}.{name}": values for name, values in seen.vectors.items()}
    tensors = {"mean": bank.basis.mean.astype(np.float32), "spread": bank.basis.spread.astype(np.float32)}
    if bank.head is not None:
        tensors |= {f"head.{name}": np.float32(getattr(bank.head, name)) for name in HEAD}
    tensors |= {f"{side}.colours": seen.colours.astype(np.float32) for side, seen in bank.seen.items()}
    for name, values in matrices.items():
        coded, low, step = _coded(values)
        tensors |= {name: coded, f"{name}.low": low, f"{name}.step": step}
    with atomic_path(folder / IMAGES) as path:
        bank.frame.to_csv(path, index=False, lineterminator="\n")
    notes = {"name": bank.name, "images": sha256_file(folder / IMAGES), "sides": list(bank.seen)}
    with atomic_path(folder / FEATURES) as path:
        save_file(tensors, path, {"notes": json.dumps(notes)})
    if bank.originals is not None:
        predictions.save_predictions(bank.originals, folder / ORIGINALS)
    return folder


def load(folder: str | Path) -> Bank:
    """What `save` wrote. InputError where it is missing, damaged or was changed."""
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    check_shipped(folder)
    try:
        with safe_open(folder / FEATURES, "numpy") as stream:
            notes = json.loads(stream.metadata()["notes"])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}
        frame = pd.read_csv(folder / IMAGES, dtype=str, keep_default_na=False)
        frame["subset"] = frame["subset"] == "True"
        if sha256_file(folder / IMAGES) != notes["images"]:
            raise InputError(f"{folder / IMAGES} does not belong to {FEATURES} beside it: {MEND}")
        check_finite(
            {name: tensor for name, tensor in tensors.items() if tensor.dtype == np.float32}, folder / FEATURES, MEND
        )
        basis = Basis(tensors["mean"], tensors["spread"], _decoded(tensors, "axes"))
        seen = {side: _seen(tensors, side, frame[frame["side"] == side]) for side in notes["sides"]}
        head = [tensors[f"head.{name}"] for name in HEAD if f"head.{name}" in tensors]
        bank = Bank(notes["name"], frame, basis, _decoded(tensors, "components"), seen, Head(*head) if head else None)
    except FileNotFoundError as error:
        raise InputError(f"no features of real images in {folder}: {MEND}") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder} holds no features of real images ({' '.join(str(error).split())}): {MEND}"
        ) from error
    if not (folder / ORIGINALS).is_file():
        return bank
    return replace(bank, originals=replace(predictions.load_predictions(folder / ORIGINALS), images=images_of(frame)))


def images_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The validation and test images that every run is asked about."""
    return frame.loc[frame["split"] != "train", list(predictions.IMAGE_COLUMNS)].reset_index(drop=True)


def _seen(tensors: Mapping[str, np.ndarray], side: str, frame: pd.DataFrame) -> Seen:
    names = [name.removeprefix(f"{side}.").removesuffix(".low") for name in tensors if name.startswith(f"{side}.")]
    names = [name for name in names if f"{side}.{name}.low" in tensors]
    vectors = {name: _decoded(tensors, f"{side}.{name}") for name in sorted(set(names), reverse=True)}
    return Seen(frame[["image_id", "dx", "group"]].reset_index(drop=True), vectors, tensors[f"{side}.colours"])


def _coded(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 [n, d] with the lowest value and the step of each column."""
    low, high = values.min(axis=0), values.max(axis=0)
    step = np.maximum((high - low) / 255, 1e-12).astype(np.float32)
    return np.round((values - low) / step).clip(0, 255).astype(np.uint8), low.astype(np.float32), step


def _decoded(tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return tensors[name].astype(np.float32) * tensors[f"{name}.step"] + tensors[f"{name}.low"]


def rounded(values: np.ndarray) -> np.ndarray:
    """`values` as they come back from eight bits."""
    coded, low, step = _coded(values)
    return coded.astype(np.float32) * step + low
