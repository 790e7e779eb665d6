"""Training a network on a training set: one run a seed, kept by all that it depends on, several at once."""

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

from dermstudy.classification.networks import ClassifierConfig, encoded_codes, label_encoder, network
from dermstudy.classification.pixels import Pixels
from dermstudy.classification.training_sets import TrainingSet
from dermstudy.entities import by_code
from dermstudy.files import atomic_path, sha256_text
from dermstudy.tensorflow_setup import import_keras, limit_threads

Key = TypeVar("Key")


@dataclass(frozen=True)
class Result:
    """A trained arm's test predictions, row by row, and its learning curve."""

    predictions: pd.DataFrame  # image_id, group, kind, dx, answer, then one probability column an entity code
    history: pd.DataFrame  # epoch, loss, validation_loss


def train(
    arm: TrainingSet,
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


def train_once(arm: TrainingSet, config: ClassifierConfig, seed: int, folder: str | Path) -> Result:
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


def _kept(arm: TrainingSet, config: ClassifierConfig, seed: int, folder: str | Path) -> Path:
    """Where the result of these images, this configuration and this seed is kept."""
    parts = {part: arm.rows(part)["image_id"].tolist() for part in ("train", "fit_until", "test")}
    hashes = [[cohort.data_hash for cohort in getattr(arm, part)] for part in parts]
    settings = asdict(replace(config, **arm.changes))
    return Path(folder) / sha256_text(json.dumps([seed, settings, parts, hashes]))[:16]


def train_all(
    arms: Mapping[Key, TrainingSet],
    config: ClassifierConfig,
    seeds: Sequence[int],
    folder: str | Path,
    workers: int = 1,
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
