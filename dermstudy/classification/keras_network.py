"""The paper's convolutional network in Keras: its layers, its augmentation, its training on a set.

Source: Shavlokhova et al., section 2.4. The retired ImageDataGenerator turned, shifted, zoomed and mirrored an image in one
transform (keras.src.legacy.preprocessing.image), and so does `random_affine`: one interpolation in place of the three of
Keras' separate layers is kinder to small images, and a step takes half as long.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.classification import protocol
from dermstudy.classification.predictions import Predictions
from dermstudy.classification.training_sets import Images, TrainingSet
from dermstudy.data.dataset import Cohort
from dermstudy.entities import CODES
from dermstudy.files import InputError, atomic_path, locked, sha256_text
from dermstudy.processor import bf16_products
from dermstudy.published.arithmetic import label_encoder_order
from dermstudy.source import code_hash
from dermstudy.tensorflow_setup import import_keras, import_tensorflow, limit_threads

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
    precision: str = "fp32"  # or bf16: convolutions compute in half precision, weights and answers stay whole


@contextmanager
def in_precision(precision: str) -> Iterator[None]:
    """Layers made in this block compute in `precision`, fp32 or bf16; a processor without bf16 products takes fp32.

    InputError for an unknown precision.
    """
    if precision not in POLICIES:
        raise InputError(f"unknown precision {precision!r}: choose {' or '.join(POLICIES)}")
    keras = import_keras()
    before = keras.config.dtype_policy()
    able = bf16_products() or import_tensorflow().config.list_physical_devices("GPU")
    keras.config.set_dtype_policy(POLICIES[precision if able else "fp32"])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def random_affine(rotation: float, shift: float, zoom: float, **options):
    """A Keras layer, float [n, side, side, 3] to the same, that acts in training only.

    rotation: largest angle in degrees; shift: largest share of the side, along each axis; zoom: largest share by which
    each axis is stretched or squeezed. Half of the images are mirrored. Beyond the border the nearest pixel is repeated.
    """
    keras = import_keras()

    class RandomAffine(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="random_affine", **options)
            self.seeds = keras.random.SeedGenerator()

        def call(self, images, training=False):
            if not training:
                return images
            count, side = keras.ops.shape(images)[0], images.shape[1]

            def draw(most: float, middle: float = 0.0):
                return keras.random.uniform((count,), middle - most, middle + most, seed=self.seeds)

            mirror = keras.ops.where(draw(1.0) < 0, -1.0, 1.0)
            moved = draw(shift * side), draw(shift * side)
            drawn = affine_rows(draw(math.radians(rotation)), moved, (mirror * draw(zoom, 1.0), draw(zoom, 1.0)), side)
            return keras.ops.image.affine_transform(
                images, drawn, interpolation="bilinear", fill_mode="nearest", data_format="channels_last"
            )

    return RandomAffine()


def affine_rows(angle, moved: tuple, stretched: tuple, side: int):
    """Rows [n, 8] that say for each pixel (x, y) of the result where in the image it comes from, about the middle.

    angle: radians, [n]; moved: pixels along x and y; stretched: factors along x and y, negative for a mirror image.
    """
    ops, middle = import_keras().ops, (side - 1) / 2
    across, along = ops.cos(angle) * stretched[0], -ops.sin(angle) * stretched[1]
    down, upright = ops.sin(angle) * stretched[0], ops.cos(angle) * stretched[1]
    start_x = middle + moved[0] - (across + along) * middle
    start_y = middle + moved[1] - (down + upright) * middle
    nothing = ops.zeros_like(angle)
    return ops.stack([across, along, start_x, down, upright, start_y, nothing, nothing], axis=1)


def network(config: ClassifierConfig):
    """A Keras model of `config`: uint8 [n, side, side, 3] to probabilities [n, 7] of `label_encoder_order()`.

    Rotation, shifts, zoom and horizontal flip act in training only, as one transform. InputError as `in_precision`.
    """
    keras, whole = import_keras(), {"dtype": "float32"}
    layers = keras.layers
    with in_precision(config.precision):
        augmented = random_affine(config.rotation, config.shift, config.zoom, **whole)
        stack = [layers.Input((config.side, config.side, 3)), layers.Rescaling(1 / 255, **whole), augmented]
        for filters in config.filters:
            stack += [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D()]
        stack += [layers.Flatten(), layers.Dense(config.dense, activation="relu"), layers.Dropout(config.dropout)]
        return keras.Sequential([*stack, layers.Dense(len(CODES), activation="softmax", **whole)])


def compiled(config: ClassifierConfig, seed: int):
    """The network with the first weights of `seed`, ready to train as section 2.4 has it."""
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    model, optimizer = network(config), keras.optimizers.Adam(config.learning_rate)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def decoded(cohort: Cohort, side: int, folder: Path, chunk: int = 256) -> np.ndarray:
    """The pixels of a cohort at one side, uint8 [n, side, side, 3], mapped from a file that is written where it is not there."""
    names = cohort.frame["image_id"]
    key = sha256_text(" ".join([cohort.data_hash, code_hash("dermstudy.data.dataset"), str(side), *names]))
    path = folder / f"{key[:16]}.npy"
    with locked(path.with_suffix(".lock")):  # another run may be writing the same file
        if not path.is_file():
            with atomic_path(path) as temporary:
                shape = (len(names), side, side, 3)
                stored = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
                for start in range(0, len(names), chunk):
                    stored[start : start + chunk] = cohort.images(side, list(names[start : start + chunk]))
                stored.flush()
    return np.load(path, mmap_mode="r")


class KerasNetwork:
    """The network on the training sets of some images: `fit(training set, seed)`.

    folder: keeps decoded pixels and runs. threads: those of each run, by default a share of the processor for each of
    `workers` at once; a run's answers depend on them. On two cores two runs at once take less time than one after the
    other, since a batch of 32 small images keeps no two cores busy.
    """

    name = protocol.KERAS

    def __init__(
        self, images: Images, config: ClassifierConfig, folder: str | Path, workers: int = 1, threads: int = 0
    ):
        threads = threads or max(1, (os.cpu_count() or 1) // workers)
        self.images, self.config, self.folder, self.alone = images, config, Path(folder), workers == 1
        self.settings, self.start = asdict(config) | {"threads": threads}, (limit_threads, (threads,))

    def prepare(self, sets: Sequence[TrainingSet]) -> None:
        """Decode what `sets` read, where it is not kept."""
        for chosen in sets:
            for rows in (chosen.train, chosen.watched, chosen.tested):
                self._pixels(rows)

    def _pixels(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        pools, folder = self.images.pools, self.folder / "pixels"
        return {pool: decoded(pools[pool], self.config.side, folder) for pool in rows["pool"].unique()}

    def fit(self, chosen: TrainingSet, seed: int) -> tuple[Predictions, pd.DataFrame]:
        """Train and predict the tested images: Predictions, and a row an epoch: epoch, loss, validation_loss, steps (of one).

        Best weights by validation loss are restored (patience as configured). The same seed gives the same weights on a CPU
        with the same threads. Prints about ten lines.
        """
        keras, config, started = import_keras(), self.config, time.monotonic()
        name = f"{chosen.protocol}, {chosen.name}, seed {seed}"
        import_tensorflow().config.experimental.enable_op_determinism()
        model = compiled(config, seed)
        stopping = keras.callbacks.EarlyStopping(
            monitor="val_loss", patience=config.patience, restore_best_weights=True
        )
        history = model.fit(
            self._batches(chosen.seen, seed, repeat=bool(chosen.images_per_epoch)),
            validation_data=self._batches(chosen.watched),
            epochs=config.epochs,
            steps_per_epoch=-(-chosen.images_per_epoch // config.batch) or None,
            verbose=0,
            shuffle=False,
            callbacks=[stopping, _lines(name, config.epochs)],
        ).history
        order = [label_encoder_order().index(code) for code in CODES]
        answers = model.predict(self._batches(chosen.tested), verbose=0)[:, order]
        curve = pd.DataFrame({"loss": history["loss"], "validation_loss": history["val_loss"]})
        curve.insert(0, "epoch", range(1, len(curve) + 1))
        watched, steps = curve["validation_loss"], -(-(chosen.images_per_epoch or len(chosen.seen)) // config.batch)
        kept = "no epoch has a loss" if watched.isna().all() else f"kept epoch {watched.idxmin() + 1}"
        print(f"{name}: {kept} of {len(curve)}, {time.monotonic() - started:.0f} s", flush=True)
        runs = pd.DataFrame({"network": [self.name], "training_set": [chosen.name], "seed": [seed]})
        with np.errstate(divide="ignore"):
            logarithms = np.maximum(np.log(answers.astype(np.float32)), -60)
        return Predictions(chosen.images, runs, chosen.prior()[None], logarithms[None]), curve.assign(steps=steps)

    def _batches(self, rows: pd.DataFrame, seed: int | None = None, repeat: bool = False):
        """A tf.data.Dataset of images and labels of `rows` (pool, place, dx); shuffled by `seed`, without an end if asked."""
        import tensorflow as tf

        side, stored = self.config.side, self._pixels(rows)
        pools, places = rows["pool"].to_numpy(), rows["place"].to_numpy()
        labels = pd.Index(label_encoder_order()).get_indexer(rows["dx"])

        def take(asked):
            return np.stack([stored[pools[row]][places[row]] for row in asked])

        def read(asked):
            images = tf.numpy_function(take, [asked], tf.uint8)
            images.set_shape((None, side, side, 3))
            return images, tf.gather(tf.constant(labels), asked)

        data = tf.data.Dataset.range(len(labels))
        if seed is not None:
            data = data.shuffle(len(labels), seed=seed)
            data = data.repeat() if repeat else data
        return data.batch(self.config.batch).map(read, num_parallel_calls=1).prefetch(2)


def _lines(name: str, epochs: int):
    """A Keras callback that prints about ten lines a run."""
    keras, started = import_keras(), time.monotonic()

    class Lines(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if (epoch + 1) % max(1, epochs // 10) == 0 or epoch == 0:
                loss = f"loss {logs['loss']:.3f}  validation {logs['val_loss']:.3f}"
                print(f"{name}: epoch {epoch + 1}/{epochs}  {loss}  {time.monotonic() - started:.0f} s", flush=True)

    return Lines()
