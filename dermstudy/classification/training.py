"""Training the Keras network on a training set: one run a seed, kept by all that it depends on, several at once."""

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

from dermstudy.classification import networks
from dermstudy.classification.attempts import attempted
from dermstudy.classification.networks import ClassifierConfig, encoded_codes, label_encoder, network
from dermstudy.classification.pixels import Pixels
from dermstudy.classification.training_sets import TrainingSet
from dermstudy.data.dataset import Cohort, read_image
from dermstudy.entities import CODES, by_code
from dermstudy.files import InputError, atomic_path, code_hash, sha256_text
from dermstudy.tensorflow_setup import import_keras, limit_threads

TEXTS = dict.fromkeys(("image_id", "group", "kind", "dx", "answer"), "str")  # names of digits alone stay names
Key = TypeVar("Key")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """A trained network's test predictions, row by row, and its learning curve.

    Where the run has failed (docs/PROTOCOL.md) probabilities are NaN and answers "".
    """

    predictions: pd.DataFrame  # image_id, group, kind, dx, answer, then one probability column an entity code
    history: pd.DataFrame  # epoch, loss, validation_loss

    @property
    def failed(self) -> bool:
        """Whether a probability is no number."""
        return bool(self.predictions[list(CODES)].isna().any(axis=None))


def train(
    training_set: TrainingSet, config: ClassifierConfig, seed: int, say: Say = print, cache: str | Path | None = None
) -> Result:
    """Train the network and predict the set's test images. The same seed gives the same weights on a CPU.

    Best weights by validation loss are restored (patience as configured). Says one line an epoch. cache: a folder for
    decoded pixels, which other runs share (a temporary one by default).
    """
    if cache is None:
        with tempfile.TemporaryDirectory() as folder:
            return train(training_set, config, seed, say, folder)
    keras = import_keras()
    import tensorflow as tf

    config, started = replace(config, **training_set.changes), time.monotonic()
    name = f"{training_set.protocol}, {training_set.name}, seed {seed}"
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = network(config)
    model.compile(
        optimizer=keras.optimizers.Adam(config.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    stopping = keras.callbacks.EarlyStopping(monitor="val_loss", patience=config.patience, restore_best_weights=True)
    history = model.fit(
        _batches(training_set, "train", config, Path(cache), seed),
        validation_data=_batches(training_set, "fit_until", config, Path(cache)),
        epochs=config.epochs,
        steps_per_epoch=-(-config.images_per_epoch // config.batch) or None,
        verbose=0,
        shuffle=False,
        callbacks=[stopping, _lines(name, config.epochs, say)],
    ).history
    rows = _answers(training_set, model.predict(_batches(training_set, "test", config, Path(cache)), verbose=0))
    curve = pd.DataFrame(
        {"epoch": range(1, len(history["loss"]) + 1), "loss": history["loss"], "validation_loss": history["val_loss"]}
    )
    watched = curve["validation_loss"]
    kept = "no epoch has a loss" if watched.isna().all() else f"kept epoch {watched.idxmin() + 1}"
    say(f"{name}: {kept} of {len(curve)}, {time.monotonic() - started:.0f} s")
    return Result(rows, curve)


def _batches(training_set: TrainingSet, part: str, config: ClassifierConfig, cache: Path, seed: int | None = None):
    """A tf.data.Dataset of images and labels of "train", "fit_until" or "test"; shuffled, and repeated, by `seed`."""
    import tensorflow as tf

    pixels = Pixels(getattr(training_set, part), config.side, cache)
    names = [by_code(code).paper_label for code in training_set.rows(part)["dx"]]
    labels = label_encoder().transform(names)

    def read(rows):
        images = tf.numpy_function(pixels.take, [rows], tf.uint8)
        images.set_shape((None, config.side, config.side, 3))
        return images, tf.gather(tf.constant(labels), rows)

    data = tf.data.Dataset.range(len(labels))
    if seed is not None:
        data = data.shuffle(len(labels), seed=seed)
        data = data.repeat() if config.images_per_epoch else data
    return data.batch(config.batch).map(read, num_parallel_calls=1).prefetch(2)


def _lines(name: str, epochs: int, say: Say):
    """A Keras callback that says about ten lines a run."""
    keras, started = import_keras(), time.monotonic()

    class Lines(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if (epoch + 1) % max(1, epochs // 10) == 0 or epoch == 0:
                say(
                    f"{name}: epoch {epoch + 1}/{epochs}  "
                    f"loss {logs['loss']:.3f}  validation {logs['val_loss']:.3f}  {time.monotonic() - started:.0f} s"
                )

    return Lines()


def _answers(training_set: TrainingSet, probabilities: np.ndarray) -> pd.DataFrame:
    order = encoded_codes()
    rows = training_set.rows("test")[["image_id", "group", "kind", "dx"]].copy()
    numbers = ~np.isnan(probabilities).any(axis=1)
    rows["answer"] = np.where(numbers, np.array(order)[probabilities.argmax(axis=1)], "")
    rows[list(order)] = probabilities
    return rows


def train_once(
    training_set: TrainingSet, config: ClassifierConfig, seed: int, folder: str | Path, threads: int | None = None
) -> Result:
    """`train`, or its kept result in `folder` when this code has run the same images, configuration, seed and threads before.

    A run that cannot be finished is kept as one that has failed: predictions of NaN, no learning curve. threads: those that
    TensorFlow has been limited to (None: all of the machine's); a run's answers depend on them.
    """
    threads = threads or threads_of(1)
    kept = _kept(training_set, config, seed, folder, threads)
    if kept.is_dir():
        predictions = pd.read_csv(kept / "predictions.csv", dtype=TEXTS).fillna({"answer": ""})
        return Result(predictions, pd.read_csv(kept / "history.csv"))

    def say(line: str) -> None:
        print(line, flush=True)

    name = f"{training_set.protocol}, {training_set.name}, seed {seed}"
    result = attempted(lambda: train(training_set, config, seed, say, Path(folder) / "pixels"), name, say)
    if result is None:
        empty = np.full((len(training_set.rows("test")), len(CODES)), np.nan)
        result = Result(_answers(training_set, empty), pd.DataFrame(columns=["epoch", "loss", "validation_loss"]))
    with atomic_path(kept) as temporary:
        temporary.mkdir()
        result.predictions.to_csv(temporary / "predictions.csv", index=False)
        result.history.to_csv(temporary / "history.csv", index=False)
    return result


def _kept(
    training_set: TrainingSet, config: ClassifierConfig, seed: int, folder: str | Path, threads: int | None = None
) -> Path:
    """Where the result of these images, this configuration, this seed, these threads and this code is kept."""
    parts = {part: training_set.rows(part)["image_id"].tolist() for part in ("train", "fit_until", "test")}
    hashes = [[cohort.data_hash for cohort in getattr(training_set, part)] for part in parts]
    settings = asdict(replace(config, **training_set.changes))
    code = code_hash(networks, train, _batches, _answers, Pixels, read_image, Cohort.images, attempted)
    identity = [seed, settings, parts, hashes, code, threads or threads_of(1)]
    return Path(folder) / sha256_text(json.dumps(identity))[:16]


def steps_an_epoch(training_set: TrainingSet, config: ClassifierConfig) -> int:
    """The batches of an epoch on `training_set`."""
    images = replace(config, **training_set.changes).images_per_epoch or len(training_set.rows("train"))
    return -(-images // config.batch)


def threads_of(workers: int) -> int:
    """The threads of each of `workers` runs at once."""
    return max(1, (os.cpu_count() or 1) // workers)


def train_all(
    sets: Mapping[Key, TrainingSet],
    config: ClassifierConfig,
    seeds: Sequence[int],
    folder: str | Path,
    workers: int = 1,
) -> dict[Key, list[Result]]:
    """`train_once` for every training set and seed, so that a cut run goes on where it stopped; results by the sets' keys.

    workers: runs at once, each in a process of its own with its share of the processor's threads. On two cores two such
    runs take less time than one after the other, since a batch of 32 small images keeps no two cores busy. A run's answers
    depend on its threads, so the last run that is missing gets no more of them than the first, and a run is kept by them.
    """
    threads = threads_of(workers)
    jobs = [(training_set, config, seed, folder, threads) for training_set in sets.values() for seed in seeds]
    waiting = [job for job in jobs if not _kept(*job).is_dir()]
    if workers > 1 and waiting:
        for training_set in sets.values():
            for cohorts in (training_set.train, training_set.fit_until, training_set.test):
                Pixels(cohorts, config.side, Path(folder) / "pixels")  # decoded here, for all processes
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=limit_threads, initargs=(threads,)) as pool:
            list(pool.map(train_once, *zip(*waiting, strict=True)))
    results = iter([train_once(*job) for job in jobs])
    return {key: [next(results) for _ in seeds] for key in sets}


def finished(
    kept: Mapping[Key, Sequence[Result]], seeds: Sequence[int], say: Say = print
) -> tuple[dict[Key, list[Result]], list[int]]:
    """The results of those seeds that failed in no set, and these seeds; says a line for each run that failed.

    kept: as `train_all` gives it for `seeds`. A failed run's seed is left out of every set, as docs/PROTOCOL.md has it.
    InputError where no seed is left.
    """
    failed = {seed: [key for key in kept if kept[key][place].failed] for place, seed in enumerate(seeds)}
    for seed, keys in failed.items():
        for key in keys:
            say(f"failed, so its seed is left out of every set: {key}, seed {seed}")
    sound = [place for place, seed in enumerate(seeds) if not failed[seed]]
    if not sound:
        raise InputError(
            f"no seed of {', '.join(map(str, seeds))} was trained to its end in every set: "
            f"{', '.join(dict.fromkeys(str(key) for keys in failed.values() for key in keys))} failed"
        )
    return {key: [own[place] for place in sound] for key, own in kept.items()}, [seeds[place] for place in sound]
