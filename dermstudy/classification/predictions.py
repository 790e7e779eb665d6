"""Predictions of many runs on one set of images, in one file without a pixel: what every comparison is computed from.

A reader without the images recomputes every table of 06 and 07 from such a file.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.entities import CODES
from dermstudy.files import InputError, atomic_path

RUN_COLUMNS = ("network", "training_set", "seed")
IMAGE_COLUMNS = ("image_id", "group", "dx", "split")
EXTERNAL = "external"  # the pool and the split of other people's images


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of each run for each image.

    images: a row an image: image_id, group (its lesion), dx, split. runs: a row a run: network, training_set, seed.
    priors [runs, 7]: the share of each entity (CODES) in what the run learned from, weights and repetitions counted.
    log_probabilities float32 [runs, images, 7]: natural logarithms, entities in the order of CODES.
    """

    images: pd.DataFrame
    runs: pd.DataFrame
    priors: np.ndarray
    log_probabilities: np.ndarray

    def __post_init__(self):
        shape = (len(self.runs), len(self.images), len(CODES))
        if self.log_probabilities.shape != shape or self.priors.shape != (shape[0], shape[2]):
            raise InputError(
                f"predictions of shape {self.log_probabilities.shape} with priors {self.priors.shape}; their runs and "
                f"images say {shape}"
            )

    @property
    def sound(self) -> np.ndarray:
        """Which runs did not fail, bool [runs]: a run has failed where a probability is no number."""
        return ~np.isnan(self.log_probabilities).any(axis=(1, 2))

    def select(self, split: str | Sequence[str] | None = None, **chosen: object) -> Predictions:
        """The runs whose columns have the values `chosen` (one or a list each), on the images of `split` (one or a list)."""
        rows, columns = np.ones(len(self.runs), bool), np.ones(len(self.images), bool)
        for column, value in chosen.items():
            rows &= self.runs[column].isin(_listed(value)).to_numpy()
        if split is not None:
            columns = self.images["split"].isin(_listed(split)).to_numpy()
        return self.part(rows, columns)

    def part(self, runs: np.ndarray | None, images: np.ndarray | None = None) -> Predictions:
        """The runs and images of the masks or places `runs` and `images` (None: all), in their order."""
        runs, images = (
            np.arange(count) if rows is None else np.flatnonzero(rows) if np.asarray(rows).dtype == bool else rows
            for rows, count in ((runs, len(self.runs)), (images, len(self.images)))
        )
        return Predictions(
            self.images.iloc[images].reset_index(drop=True),
            self.runs.iloc[runs].reset_index(drop=True),
            self.priors[runs],
            self.log_probabilities[np.ix_(runs, images)],
        )

    def frame(self, run: int) -> pd.DataFrame:
        """One run's answers: the columns of `images`, answer (the likeliest entity's code), a probability an entity code."""
        shares = pd.DataFrame(np.exp(self.log_probabilities[run]), columns=list(CODES))
        answer = np.array(CODES)[self.log_probabilities[run].argmax(axis=1)]
        return pd.concat([self.images.assign(answer=answer), shares], axis=1)

    def corrected(self, prior: np.ndarray | None = None) -> np.ndarray:
        """Probabilities [runs, images, 7] as if every run had learned from entities of shares `prior` [7] (even ones).

        Each posterior is divided by its run's prior, multiplied by `prior` and made to add up to one (Saerens, Latinne
        and Decaestecker, Neural Computation 14, 2002, equation 2.4).
        """
        even = np.full(len(CODES), 1 / len(CODES)) if prior is None else np.asarray(prior, float)
        with np.errstate(divide="ignore"):
            scores = self.log_probabilities.astype(float) + np.log(even) - np.log(self.priors)[:, None, :]
        scores = np.exp(scores - scores.max(axis=2, keepdims=True))
        return scores / scores.sum(axis=2, keepdims=True)


def joined(parts: Iterable[Predictions]) -> Predictions:
    """Runs of several Predictions on the same images; InputError where the images differ or a run stands twice."""
    parts = list(parts)
    first = parts[0].images
    for part in parts[1:]:
        if not part.images.equals(first):
            raise InputError("predictions on different images cannot be joined: give the same image rows in one order")
    runs = pd.concat([part.runs for part in parts], ignore_index=True)
    if runs.duplicated(list(RUN_COLUMNS)).any():
        twice = runs[runs.duplicated(list(RUN_COLUMNS))].iloc[0]
        raise InputError(f"the run {twice['network']}, {twice['training_set']}, seed {twice['seed']} stands twice")
    stacked = (np.concatenate([getattr(part, name) for part in parts]) for name in ("priors", "log_probabilities"))
    return Predictions(first, runs, *stacked)


def save_predictions(predictions: Predictions, path: str | Path) -> Path:
    """Write one compressed file (.npz, log probabilities as float16), whole or not at all."""
    content = {
        "priors": predictions.priors,
        "log_probabilities": predictions.log_probabilities.clip(-60, 0).astype(np.float16),
        "entities": np.array(CODES),
    }
    content |= {f"run.{column}": _plain(predictions.runs[column]) for column in RUN_COLUMNS}
    content |= {f"image.{column}": _plain(predictions.images[column]) for column in IMAGE_COLUMNS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return Path(path)


def load_predictions(path: str | Path) -> Predictions:
    """Read what `save_predictions` wrote; InputError where it is missing or something else."""
    try:
        with np.load(path, allow_pickle=False) as content:
            if tuple(content["entities"]) != CODES:
                raise InputError(f"{path} holds other entities: {', '.join(content['entities'])}")
            runs = pd.DataFrame({column: content[f"run.{column}"] for column in RUN_COLUMNS})
            images = pd.DataFrame({column: content[f"image.{column}"] for column in IMAGE_COLUMNS})
            return Predictions(images, runs, content["priors"], content["log_probabilities"].astype(np.float32))
    except FileNotFoundError as error:
        raise InputError(f"no predictions at {path}: run what writes them first") from error
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is no file of predictions: {error}") from error


def _listed(value: object) -> list:
    return [value] if isinstance(value, (str, int)) else list(value)


def _plain(column: pd.Series) -> np.ndarray:
    """A column as an array that needs no pickle."""
    return column.to_numpy(np.int64) if pd.api.types.is_integer_dtype(column) else column.astype(str).to_numpy(np.str_)
