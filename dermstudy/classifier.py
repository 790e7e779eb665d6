"""The paper's convolutional network in Keras: data arms, training, kept runs.

Source: Shavlokhova et al., section 2.4 (network, augmentation, early stopping).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.preprocessing import LabelEncoder

from dermstudy.backends import import_keras
from dermstudy.dataset import Cohort
from dermstudy.entities import CODES, NAMES, by_code
from dermstudy.files import InputError, atomic_path, sha256_text

PROTOCOLS = ("as published", "audited")
ARMS = ("original", "synthetic", "combined")


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


@dataclass(frozen=True)
class Arm:
    """The images of one arm under one protocol; `fit_until` watches validation loss for early stopping."""

    protocol: str
    name: str
    train: list[Cohort]
    fit_until: list[Cohort]
    test: list[Cohort]

    def rows(self, part: str) -> pd.DataFrame:
        """The frame of "train", "fit_until" or "test", with `kind` original or synthetic and the lesion `group`."""
        return pd.concat([cohort.frame.assign(kind=_kind(cohort)) for cohort in getattr(self, part)], ignore_index=True)


def make_arm(
    protocol: str, name: str, originals: Cohort, synthetic: Cohort, seed: int, test_fraction: float = 0.2
) -> Arm:
    """The training and test images of an arm ("original", "synthetic" or "combined").

    As published: the arm's own images split 80/20 by image within each entity, synthetic ones in the test set too, early
    stopping on the test set, for the paper names no other. Audited: trained on originals of training lesions and
    synthetic images made for them, stopped on validation lesions, tested on originals of test lesions alone.
    InputError where an entity is absent from training or test, or the arm is unknown.
    """
    from sklearn.model_selection import train_test_split

    if protocol not in PROTOCOLS or name not in ARMS:
        raise InputError(
            f"unknown arm {name!r} of protocol {protocol!r}: choose {', '.join(ARMS)} of {' or '.join(PROTOCOLS)}"
        )
    groups = originals.frame.set_index("image_id")["group"]
    synthetic = replace(synthetic, frame=synthetic.frame.assign(group=synthetic.frame["source_image_id"].map(groups)))
    pool = {"original": [originals], "synthetic": [synthetic], "combined": [originals, synthetic]}[name]
    if protocol == "as published":
        every = pd.concat([cohort.frame[["image_id", "dx"]] for cohort in pool]).sort_values("image_id")
        try:
            train_ids, test_ids = train_test_split(
                every["image_id"].to_numpy(), test_size=test_fraction, random_state=seed, stratify=every["dx"]
            )
        except ValueError as error:
            raise InputError(
                f"{protocol}, {name} arm: {len(every)} images cannot be split {1 - test_fraction:.0%} to "
                f"{test_fraction:.0%} with every entity on both sides; use more images"
            ) from error
        test = [cohort.select(image_id=test_ids) for cohort in pool]
        arm = Arm(protocol, name, [cohort.select(image_id=train_ids) for cohort in pool], test, test)
    else:
        train_ids = originals.frame.loc[originals.frame["split"] == "train", "image_id"]
        train = [
            cohort.select(split="train") if cohort is originals else cohort.select(source_image_id=train_ids)
            for cohort in pool
        ]
        arm = Arm(protocol, name, train, [originals.select(split="validation")], [originals.select(split="test")])
    for part in ("train", "test"):
        absent = [NAMES[code] for code in CODES if code not in set(arm.rows(part)["dx"])]
        if absent:
            raise InputError(
                f"{protocol}, {name} arm: no {part} image of {', '.join(absent)}; "
                "use a larger cohort or more synthetic images"
            )
    return arm


def _kind(cohort: Cohort) -> str:
    return "synthetic" if "source_image_id" in cohort.frame else "original"


def label_encoder() -> LabelEncoder:
    """sklearn's LabelEncoder fitted on the paper's entity names, as in section 2.4: alphabetical numbers."""
    return LabelEncoder().fit([by_code(code).paper_label for code in CODES])


def encoded_codes() -> tuple[str, ...]:
    """The entity codes in the order of the network's outputs."""
    by_label = {by_code(code).paper_label: code for code in CODES}
    return tuple(by_label[label] for label in label_encoder().classes_)


def network(config: ClassifierConfig):
    """The network of section 2.4 as a Keras model: uint8 [n, side, side, 3] to probabilities [n, 7].

    Rotation, shifts, zoom and horizontal flip act in training only, with the nearest pixel beyond the border, as the
    legacy ImageDataGenerator did.
    """
    keras = import_keras()
    layers = [
        keras.layers.Input((config.side, config.side, 3)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.RandomRotation(config.rotation / 360, fill_mode="nearest"),
        keras.layers.RandomTranslation(config.shift, config.shift, fill_mode="nearest"),
        keras.layers.RandomZoom(config.zoom, fill_mode="nearest"),
        keras.layers.RandomFlip("horizontal"),
    ]
    for filters in config.filters:
        layers += [keras.layers.Conv2D(filters, 3, activation="relu"), keras.layers.MaxPooling2D()]
    layers += [
        keras.layers.Flatten(),
        keras.layers.Dense(config.dense, activation="relu"),
        keras.layers.Dropout(config.dropout),
        keras.layers.Dense(len(CODES), activation="softmax"),
    ]
    return keras.Sequential(layers)


@dataclass(frozen=True)
class Result:
    """A trained arm's test predictions, row by row, and its learning curve."""

    predictions: pd.DataFrame  # image_id, group, kind, dx, answer, then one probability column an entity code
    history: pd.DataFrame  # epoch, loss, validation_loss


def train(arm: Arm, config: ClassifierConfig, seed: int, say: Callable[[str], None] = print) -> Result:
    """Train the network on an arm and predict its test images. The same seed gives the same weights on a CPU.

    Best weights by validation loss are restored (patience as configured). Says one line an epoch.
    """
    keras = import_keras()
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = network(config)
    model.compile(
        optimizer=keras.optimizers.Adam(config.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    order = encoded_codes()

    def pixels_and_labels(part: str):
        pixels = np.concatenate([cohort.images(config.side) for cohort in getattr(arm, part)])
        labels = label_encoder().transform([by_code(code).paper_label for code in arm.rows(part)["dx"]])
        return pixels, labels

    pixels, labels = pixels_and_labels("train")
    data = tf.data.Dataset.from_tensor_slices((pixels, labels)).shuffle(len(pixels), seed=seed).batch(config.batch)
    watched = tf.data.Dataset.from_tensor_slices(pixels_and_labels("fit_until")).batch(config.batch)
    started = time.monotonic()

    class Line(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if (epoch + 1) % max(1, config.epochs // 10) == 0 or epoch == 0:
                say(
                    f"{arm.protocol}, {arm.name}, seed {seed}: epoch {epoch + 1}/{config.epochs}  "
                    f"loss {logs['loss']:.3f}  validation {logs['val_loss']:.3f}  {time.monotonic() - started:.0f} s"
                )

    stopping = keras.callbacks.EarlyStopping(monitor="val_loss", patience=config.patience, restore_best_weights=True)
    history = model.fit(
        data.prefetch(2),
        validation_data=watched.prefetch(2),
        epochs=config.epochs,
        verbose=0,
        shuffle=False,
        callbacks=[stopping, Line()],
    ).history
    test = np.concatenate([cohort.images(config.side) for cohort in arm.test])
    probabilities = model.predict(test, batch_size=256, verbose=0)
    rows = arm.rows("test")[["image_id", "group", "kind", "dx"]].copy()
    rows["answer"] = [order[index] for index in probabilities.argmax(axis=1)]
    rows[list(order)] = probabilities
    curve = pd.DataFrame(
        {"epoch": range(1, len(history["loss"]) + 1), "loss": history["loss"], "validation_loss": history["val_loss"]}
    )
    best = int(np.argmin(history["val_loss"])) + 1
    say(
        f"{arm.protocol}, {arm.name}, seed {seed}: kept epoch {best} of {len(curve)}, "
        f"{time.monotonic() - started:.0f} s"
    )
    return Result(rows, curve)


def train_once(arm: Arm, config: ClassifierConfig, seed: int, folder: str | Path) -> Result:
    """`train`, or its kept result in `folder` when the same images, configuration and seed have been run before."""
    parts = {part: arm.rows(part)["image_id"].tolist() for part in ("train", "fit_until", "test")}
    hashes = [cohort.data_hash for cohort in arm.train]
    key = sha256_text(json.dumps([arm.protocol, arm.name, seed, asdict(config), parts, hashes]))[:16]
    kept = Path(folder) / key
    if kept.is_dir():
        return Result(pd.read_csv(kept / "predictions.csv"), pd.read_csv(kept / "history.csv"))
    result = train(arm, config, seed, lambda line: print(line, flush=True))
    with atomic_path(kept) as temporary:
        temporary.mkdir()
        result.predictions.to_csv(temporary / "predictions.csv", index=False)
        result.history.to_csv(temporary / "history.csv", index=False)
    return result
