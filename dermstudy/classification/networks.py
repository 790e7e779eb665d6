"""Keras classifiers: the paper's convolutional network and residual ones, and the numbers that they give the entities.

Sources: Shavlokhova et al., section 2.4 (network, augmentation, early stopping); He et al. (arXiv 1512.03385) for the
residual network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sklearn.preprocessing import LabelEncoder

from dermstudy.classification import augmentation
from dermstudy.entities import CODES, by_code
from dermstudy.files import InputError
from dermstudy.processor import bf16_products
from dermstudy.tensorflow_setup import import_keras, import_tensorflow

PAPER, RESIDUAL, PRETRAINED = "paper's CNN", "residual network", "ResNet50"
MODELS = (PAPER, RESIDUAL, PRETRAINED)
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
    model: str = PAPER  # one of MODELS
    weights: str = ""  # for ResNet50: Keras' file of its weights without top; "" starts from nothing
    class_weights: bool = False  # each image counts by the rarity of its entity
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

    The paper's CNN is that of section 2.4. The residual network has one block of two convolutions at each of four
    widths. ResNet50 is Keras' own. Rotation, shifts, zoom and horizontal flip act in training only, as one transform.
    A processor without bf16 products computes in fp32 whatever is asked.
    InputError for an unknown model or precision, or missing weights.
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
    answer = layers.Dense(len(CODES), activation="softmax", **whole)
    shape = (config.side, config.side, 3)
    if config.model == PAPER:
        stack = [layers.Input(shape), layers.Rescaling(1 / 255, **whole), augmented]
        for filters in config.filters:
            stack += [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D()]
        stack += [layers.Flatten(), layers.Dense(config.dense, activation="relu"), layers.Dropout(config.dropout)]
        return keras.Sequential([*stack, answer])
    image = layers.Input(shape)
    x = augmented(image)
    if config.model == RESIDUAL:
        x = _residual_blocks(layers, layers.Rescaling(1 / 127.5, offset=-1, **whole)(x))
    elif config.model == PRETRAINED:
        if config.weights and not Path(config.weights).is_file():
            raise InputError(
                f"no weights {config.weights}: give Keras' ResNet50 weights without top (.h5), or leave it empty"
            )
        x = keras.applications.resnet.preprocess_input(keras.ops.cast(x, "float32"))
        x = keras.applications.ResNet50(False, config.weights or None, input_shape=shape, pooling="avg")(x)
    else:
        raise InputError(f"unknown classifier {config.model!r}: choose one of {', '.join(MODELS)}")
    return keras.Model(image, answer(layers.Dropout(config.dropout)(x)))


def _residual_blocks(layers, x, widths=(32, 64, 128, 256)):
    """Pooled features [n, 256]: a strided convolution, then a residual block at each width, halving the side between."""

    def convolution(width: int, stride: int):
        return layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)

    x = convolution(widths[0], 2)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for place, width in enumerate(widths):
        stride, shortcut, inner = 1 if place == 0 else 2, x, x
        inner = layers.BatchNormalization()(convolution(width, stride)(inner))
        inner = layers.BatchNormalization()(convolution(width, 1)(layers.ReLU()(inner)))
        if place:
            shortcut = layers.BatchNormalization()(layers.Conv2D(width, 1, strides=stride, use_bias=False)(x))
        x = layers.ReLU()(layers.Add()([shortcut, inner]))
    return layers.GlobalAveragePooling2D()(x)
