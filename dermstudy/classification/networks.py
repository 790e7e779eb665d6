"""The paper's convolutional network in Keras, and the numbers that it gives the entities.

Source: Shavlokhova et al., section 2.4 (network, augmentation, early stopping).
"""

from __future__ import annotations

from dataclasses import dataclass

from sklearn.preprocessing import LabelEncoder

from dermstudy.classification import augmentation
from dermstudy.entities import CODES, by_code
from dermstudy.files import InputError
from dermstudy.processor import bf16_products
from dermstudy.tensorflow_setup import import_keras, import_tensorflow

POLICIES = {"fp32": "float32", "bf16": "mixed_bfloat16"}


@dataclass(frozen=True)
class ClassifierConfig:
    """The network and its training; what section 2.4 leaves open is marked."""

    side: int = 64  # open
    filters: tuple[int, ...] = (32, 64, 128)  # open; three convolutions are given
    dense: int = 64
    dropout: float = 0.5
    epochs: int = 100
    batch: int = 32
    patience: int = 5
    learning_rate: float = 0.001  # open; Keras' default for Adam
    rotation: float = 20.0  # degrees, open
    shift: float = 0.1  # share of the side, open
    zoom: float = 0.1  # open
    images_per_epoch: int = 0  # 0: every image once
    precision: str = "fp32"  # or bf16: convolutions compute in half precision, weights and answers stay whole


def label_encoder() -> LabelEncoder:
    """sklearn's LabelEncoder fitted on the paper's entity names, as in section 2.4: alphabetical numbers."""
    return LabelEncoder().fit([by_code(code).paper_label for code in CODES])


def encoded_codes() -> tuple[str, ...]:
    """The entity codes in the order of the network's outputs."""
    by_label = {by_code(code).paper_label: code for code in CODES}
    return tuple(by_label[label] for label in label_encoder().classes_)


def network(config: ClassifierConfig):
    """A Keras model of `config`: uint8 [n, side, side, 3] to probabilities [n, 7].

    Rotation, shifts, zoom and horizontal flip act in training only, as one transform. A processor without bf16 products
    computes in fp32 whatever is asked. InputError for an unknown precision.
    """
    if config.precision not in POLICIES:
        raise InputError(f"unknown precision {config.precision!r}: choose {' or '.join(POLICIES)}")
    keras = import_keras()
    before = keras.config.dtype_policy()
    able = bf16_products() or import_tensorflow().config.list_physical_devices("GPU")
    keras.config.set_dtype_policy(POLICIES[config.precision if able else "fp32"])
    try:
        return _network(keras, config)
    finally:
        keras.config.set_dtype_policy(before)


def _network(keras, config: ClassifierConfig):
    layers, whole = keras.layers, {"dtype": "float32"}
    augmented = augmentation.random_affine(config.rotation, config.shift, config.zoom, **whole)
    stack = [layers.Input((config.side, config.side, 3)), layers.Rescaling(1 / 255, **whole), augmented]
    for filters in config.filters:
        stack += [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D()]
    stack += [layers.Flatten(), layers.Dense(config.dense, activation="relu"), layers.Dropout(config.dropout)]
    return keras.Sequential([*stack, layers.Dense(len(CODES), activation="softmax", **whole)])
