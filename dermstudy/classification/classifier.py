"""Keras classifiers: the paper's convolutional network and residual ones, the flow of images, training, kept runs.

Sources: Shavlokhova et al., section 2.4 (network, augmentation, early stopping); He et al. (arXiv 1512.03385) for the
residual network.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from sklearn.preprocessing import LabelEncoder

from dermstudy.classification import augmentation
from dermstudy.classification.training_sets import Arm
from dermstudy.data.dataset import Cohort
from dermstudy.entities import CODES, by_code
from dermstudy.files import InputError, atomic_path, sha256_text
from dermstudy.processor import bf16_products
from dermstudy.tensorflow_setup import import_keras, import_tensorflow, limit_threads

POLICIES = {"fp32": "float32", "bf16": "mixed_bfloat16"}
PAPER, RESIDUAL, PRETRAINED = "paper's CNN", "residual network", "ResNet50"
Key = TypeVar("Key")
MODELS = (PAPER, RESIDUAL, PRETRAINED)


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


@dataclass(frozen=True)
class Result:
    """A trained arm's test predictions, row by row, and its learning curve."""

    predictions: pd.DataFrame  # image_id, group, kind, dx, answer, then one probability column an entity code
    history: pd.DataFrame  # epoch, loss, validation_loss


class Pixels:
    """The images of several cohorts, decoded once into files at one side and read from there as they are needed.

    Memory does not grow with the number of images. An image that stands in several rows is decoded once.
    """

    def __init__(self, cohorts: list[Cohort], side: int, folder: Path):
        self.parts = []
        for cohort in cohorts:
            each = replace(cohort, frame=cohort.frame.drop_duplicates("image_id"))
            stored = np.load(_decoded(each, side, folder), mmap_mode="r")
            place = pd.Series(range(len(each)), index=each.frame["image_id"])
            self.parts.append((stored, place[cohort.frame["image_id"]].to_numpy()))
        self.starts = np.cumsum([0] + [len(rows) for _, rows in self.parts])
        self.side = side

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, counted through all cohorts: uint8 [n, side, side, 3]."""
        out = np.empty((len(indices), self.side, self.side, 3), np.uint8)
        owners = np.searchsorted(self.starts, indices, side="right") - 1
        for place, (index, owner) in enumerate(zip(indices, owners, strict=True)):
            stored, rows = self.parts[owner]
            out[place] = stored[rows[index - self.starts[owner]]]
        return out


def _decoded(cohort: Cohort, side: int, folder: Path, chunk: int = 256) -> Path:
    """The file of a cohort's pixels, uint8 [n, side, side, 3]; written in chunks where it is not there."""
    names = cohort.frame["image_id"]
    path = folder / f"{sha256_text(' '.join([cohort.data_hash, str(side), *names]))[:16]}.npy"
    if not path.is_file():
        with atomic_path(path) as temporary:
            shape = (len(names), side, side, 3)
            stored = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            for start in range(0, len(names), chunk):
                stored[start : start + chunk] = cohort.images(side, list(names[start : start + chunk]))
            stored.flush()
    return path


def train(
    arm: Arm,
    config: ClassifierConfig,
    seed: int,
    say: Callable[[str], None] = print,
    cache: str | Path | None = None,
) -> Result:
    """Train the network on an arm and predict its test images. The same seed gives the same weights on a CPU.

    Best weights by validation loss are restored (patience as configured). Says one line an epoch. cache: a folder for
    decoded pixels, which other runs share (a temporary one by default).
    """
    if cache is None:
        with tempfile.TemporaryDirectory() as folder:
            return train(arm, config, seed, say, folder)
    keras = import_keras()
    import tensorflow as tf

    config = replace(config, **arm.changes)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = network(config)
    model.compile(
        optimizer=keras.optimizers.Adam(config.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    order = encoded_codes()

    def labels_of(part: str) -> np.ndarray:
        return label_encoder().transform([by_code(code).paper_label for code in arm.rows(part)["dx"]])

    def flow(part: str, shuffled: bool = False):
        pixels, labels = Pixels(getattr(arm, part), config.side, Path(cache)), labels_of(part)

        def read(rows):
            images = tf.numpy_function(pixels.take, [rows], tf.uint8)
            images.set_shape((None, config.side, config.side, 3))
            return images, tf.gather(tf.constant(labels), rows)

        data = tf.data.Dataset.range(len(labels))
        if shuffled:
            data = data.shuffle(len(labels), seed=seed)
            data = data.repeat() if config.images_per_epoch else data
        return data.batch(config.batch).map(read, num_parallel_calls=1).prefetch(2)

    started = time.monotonic()
    name = f"{arm.protocol}, {arm.name}, {config.model}, seed {seed}"

    class Line(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if (epoch + 1) % max(1, config.epochs // 10) == 0 or epoch == 0:
                say(
                    f"{name}: epoch {epoch + 1}/{config.epochs}  "
                    f"loss {logs['loss']:.3f}  validation {logs['val_loss']:.3f}  {time.monotonic() - started:.0f} s"
                )

    stopping = keras.callbacks.EarlyStopping(monitor="val_loss", patience=config.patience, restore_best_weights=True)
    labels = labels_of("train")
    counts = np.bincount(labels, minlength=len(order))
    history = model.fit(
        flow("train", shuffled=True),
        validation_data=flow("fit_until"),
        epochs=config.epochs,
        steps_per_epoch=-(-config.images_per_epoch // config.batch) or None,
        class_weight={i: len(labels) / (len(order) * n) for i, n in enumerate(counts)}
        if config.class_weights
        else None,
        verbose=0,
        shuffle=False,
        callbacks=[stopping, Line()],
    ).history
    probabilities = model.predict(flow("test"), verbose=0)
    rows = arm.rows("test")[["image_id", "group", "kind", "dx"]].copy()
    rows["answer"] = [order[index] for index in probabilities.argmax(axis=1)]
    rows[list(order)] = probabilities
    curve = pd.DataFrame(
        {"epoch": range(1, len(history["loss"]) + 1), "loss": history["loss"], "validation_loss": history["val_loss"]}
    )
    best = int(np.argmin(history["val_loss"])) + 1
    say(f"{name}: kept epoch {best} of {len(curve)}, {time.monotonic() - started:.0f} s")
    return Result(rows, curve)


def train_once(arm: Arm, config: ClassifierConfig, seed: int, folder: str | Path) -> Result:
    """`train`, or its kept result in `folder` when the same images, configuration and seed have been run before."""
    kept = _kept(arm, config, seed, folder)
    if kept.is_dir():
        return Result(pd.read_csv(kept / "predictions.csv"), pd.read_csv(kept / "history.csv"))
    result = train(arm, config, seed, lambda line: print(line, flush=True), Path(folder) / "pixels")
    with atomic_path(kept) as temporary:
        temporary.mkdir()
        result.predictions.to_csv(temporary / "predictions.csv", index=False)
        result.history.to_csv(temporary / "history.csv", index=False)
    return result


def _kept(arm: Arm, config: ClassifierConfig, seed: int, folder: str | Path) -> Path:
    """Where the result of these images, this configuration and this seed is kept."""
    parts = {part: arm.rows(part)["image_id"].tolist() for part in ("train", "fit_until", "test")}
    hashes = [[cohort.data_hash for cohort in getattr(arm, part)] for part in parts]
    settings = asdict(replace(config, **arm.changes))
    return Path(folder) / sha256_text(json.dumps([seed, settings, parts, hashes]))[:16]


def train_all(
    arms: Mapping[Key, Arm], config: ClassifierConfig, seeds: Sequence[int], folder: str | Path, workers: int = 1
) -> dict[Key, list[Result]]:
    """`train_once` for every arm and seed, so that a cut run goes on where it stopped; the results by the arms' keys.

    workers: runs at once, each in a process of its own with its share of the processor's threads. On two cores two such
    runs take less time than one after the other, since a batch of 32 small images keeps no two cores busy.
    """
    jobs = [(arm, config, seed, folder) for arm in arms.values() for seed in seeds]
    waiting = [job for job in jobs if not _kept(*job).is_dir()]
    if workers > 1 and len(waiting) > 1:
        for cohorts in (part for arm in arms.values() for part in (arm.train, arm.fit_until, arm.test)):
            Pixels(cohorts, config.side, Path(folder) / "pixels")  # decoded here, for all processes
        threads = max(1, (os.cpu_count() or 1) // workers)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=limit_threads, initargs=(threads,)) as pool:
            list(pool.map(train_once, *zip(*waiting, strict=True)))
    results = iter([train_once(*job) for job in jobs])
    return {key: [next(results) for _ in seeds] for key in arms}
