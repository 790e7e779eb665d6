"""The head that is shipped in weights/classifier: kept with what made it, and asked for probabilities of a folder's images.

Not for diagnosis. Sources: as `frozen_features` and `encoding`; safetensors for the file.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy import pretrained
from dermstudy.classification.encoding import Settings, View, encoded_now
from dermstudy.classification.frozen_features import Basis, Head, signed_root
from dermstudy.data.dataset import Cohort
from dermstudy.data.image_files import find_images, require_plain_names, survey
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError, atomic_path
from dermstudy.tables import write_csv
from dermstudy.weight_files import DAMAGED, check_finite, check_shipped

WEIGHTS = "weights/classifier/head.safetensors"
PRIORS = ("even", "ham10000")


@dataclass(frozen=True)
class ShippedHead:
    """A head folded with its basis into one linear map of square roots: weights [d, 7], bias [7], prior [7].

    lineage: what made it (data_hash, split_hash, weights_hash, code, penalty, training images), plain values.
    """

    settings: Settings
    weights: np.ndarray
    bias: np.ndarray
    prior: np.ndarray
    lineage: dict

    def log_probabilities(self, features: np.ndarray) -> np.ndarray:
        """Natural logarithms [n, 7] of the posteriors of features [n, d], under the prior of the training images."""
        from scipy.special import log_softmax

        return log_softmax(signed_root(features).astype(float) @ self.weights + self.bias, axis=1)

    def probabilities(self, features: np.ndarray, prior: str = PRIORS[0]) -> np.ndarray:
        """Posteriors [n, 7], for entities equally common ("even") or as common as in the training images ("ham10000")."""
        if prior not in PRIORS:
            raise InputError(f"unknown prior {prior!r}: choose {' or '.join(PRIORS)}")
        log_p = self.log_probabilities(features) - (np.log(self.prior) if prior == PRIORS[0] else 0)
        check_finite({"a probability": log_p}, "no answer", "the head is damaged, or was made for other features")
        scores = np.exp(log_p - log_p.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)


def fold(settings: Settings, basis: Basis, head: Head, lineage: dict) -> ShippedHead:
    """One linear map of a basis and the head fitted in it."""
    weights = (basis.axes.astype(float) @ head.weights) / basis.spread[:, None]
    return ShippedHead(settings, weights, head.bias - basis.mean @ weights, head.prior, lineage)


def save_head(head: ShippedHead, path: str | Path) -> Path:
    """Write a safetensors file, its settings and lineage in the header, whole or not at all."""
    from safetensors.numpy import save_file

    tensors = {
        "weights": head.weights.astype(np.float32), "bias": head.bias.astype(np.float32),
        "prior": np.asarray(head.prior, np.float32),
    }  # fmt: skip
    notes = {"settings": asdict(head.settings), "lineage": head.lineage, "entities": CODES}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {key: json.dumps(value) for key, value in notes.items()})
    return Path(path)


def load_head(path: str | Path) -> ShippedHead:
    """Read what `save_head` wrote; InputError where it is missing, something else, or of another network's features."""
    from safetensors import SafetensorError, safe_open

    check_shipped(Path(path).parent)
    try:
        with safe_open(path, "numpy") as stream:
            notes = {key: json.loads(value) for key, value in (stream.metadata() or {}).items()}
            tensors = {name: stream.get_tensor(name).astype(float) for name in ("weights", "bias", "prior")}
        views = tuple(View(**view) for view in notes["settings"]["views"])
        settings = Settings(views, tuple(notes["settings"]["depths"]), notes["settings"]["components"])
        entities = tuple(notes["entities"])
        size = len(views) * len(pretrained.depth_columns(settings.depths))
    except FileNotFoundError as error:
        raise InputError(f"no head {path}: it is shipped in the repository's weights/classifier") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no head of this study: {' '.join(str(error).split())}") from error
    shapes = {"weights": (size, len(CODES)), "bias": (len(CODES),), "prior": (len(CODES),)}
    if entities != CODES or {name: tensor.shape for name, tensor in tensors.items()} != shapes:
        raise InputError(f"{path} is a head for other entities or features: take it from this checkout")
    check_finite(tensors, path)
    if not (tensors["prior"] > 0).all():
        raise InputError(f"{path}: its prior gives {NAMES[CODES[tensors['prior'].argmin()]]} no share; {DAMAGED}")
    return ShippedHead(settings, tensors["weights"], tensors["bias"], tensors["prior"], notes["lineage"])


def classify(folder: str | Path, out: str | Path, weights: str | Path, prior: str = PRIORS[0]) -> pd.DataFrame:
    """Write and return the probabilities of every image under `folder`, at any depth.

    Columns image (its path in the folder), answer (the likeliest entity's name) and one a name, probabilities that add up
    to 1. Prints a line every ten seconds, and lines on images that were converted and files that were left out. InputError
    where the folder is missing or holds no image, the head cannot be read or `out` is a folder, and, by name, for the images
    that cannot be read truly; then nothing is written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: give a folder of images")
    if Path(out).is_dir():
        raise InputError(f"{out} is a folder: give the name of the table to write")
    head = load_head(weights)
    found = find_images(folder)
    files = found.images
    if not files:
        there = f" ({found.left_out()})" if found.others else ""
        raise InputError(f"no image in {folder}{there}: it needs files such as .jpg, .png or .tif")
    require_plain_names(files)
    seen = survey(folder, files)
    cohort = Cohort(folder.name, folder, pd.DataFrame({"image_id": files, "file": files}), "")
    parts, told = [], time.monotonic()
    for start in range(0, len(files), 16):
        chosen = files[start : start + 16]
        views = [encoded_now(cohort, view, chosen) for view in head.settings.views]
        parts.append(head.probabilities(head.settings.features(views), prior))
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{start + len(chosen)} of {len(files)} images classified", flush=True)
    probabilities = np.concatenate(parts)
    table = pd.DataFrame(probabilities, columns=[NAMES[code] for code in CODES])
    table.insert(0, "image", files)
    table.insert(1, "answer", [NAMES[CODES[place]] for place in probabilities.argmax(axis=1)])
    with atomic_path(out) as temporary:
        write_csv(table, temporary, index=False, float_format="%.6f")
    print(*(f"{line}\n" for line in (seen.line(), found.left_out()) if line), sep="", end="")
    return table
