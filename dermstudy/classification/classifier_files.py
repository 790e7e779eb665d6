"""What 06 is drawn from, as files without a pixel: answers by image of the Keras network, learning curves, counts of images.

A reader without the images computes every table and figure of 06 from them. Probabilities are kept as `predictions` keeps
them, so that a network which 06 and 07 share has one score in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.classification import predictions, runs
from dermstudy.classification.predictions import EXTERNAL, Predictions
from dermstudy.classification.training import Result
from dermstudy.classification.training_sets import LADDER, PROTOCOLS, TrainingSet
from dermstudy.entities import CODES
from dermstudy.files import InputError, write_text

GROUPS = {"classifier": PROTOCOLS, "ladder": LADDER}  # the sets of each group of files, in order
OPTIONAL = LADDER[-1:]  # it needs a second generator
TESTED = ("test", "original", "synthetic")  # the values of `split` that the study's own scores are taken on
OTHERS = (EXTERNAL,)
KEPT = "classifier_images.csv"
HISTORY_COLUMNS = ("set", "seed", "epoch", "loss", "validation_loss")


def describe(sets: Mapping[str, TrainingSet], folder: str | Path) -> Path:
    """Write classifier_images.csv: how many images each set is trained, stopped and tested on.

    Columns protocol (the key in `sets`), part (train, fit_until, test), original, synthetic, lesions_in_training: how many
    lesions of the part the network learns from.
    """
    rows = []
    for kind, chosen in sets.items():
        learned = set(chosen.rows("train")["group"])
        for part in ("train", "fit_until", "test"):
            own = chosen.rows(part)
            own = own[_split(chosen, own).isin(TESTED)] if part == "test" else own
            counts = own["kind"].value_counts().reindex(["original", "synthetic"], fill_value=0)
            rows.append((kind, part, *counts, len(learned & set(own["group"]))))
    columns = ["protocol", "part", "original", "synthetic", "lesions_in_training"]
    text = pd.DataFrame(rows, columns=columns).to_csv(index=False, lineterminator="\n")
    return write_text(Path(folder) / KEPT, text)


def save(
    folder: str | Path, group: str, sets: Mapping[str, TrainingSet], results: Mapping[str, Sequence[Result]],
    seeds: Sequence[int],
) -> None:  # fmt: skip
    """Write what `load` reads: GROUP_NAME.npz for each set and GROUP_histories.csv; files of the group from before go.

    group: one of GROUPS, whose names are the keys of `sets`; results: a run a seed, as training.train_all gives them.
    In a file `split` is validation, test or EXTERNAL of an audited set, original or synthetic of any other.
    """
    folder = Path(folder)
    for stale in folder.glob(f"{group}_*.npz"):
        stale.unlink()
    curves = []
    for name, chosen in sets.items():
        shown = chosen.rows("test")
        shown = shown.assign(split=_split(chosen, shown))[list(predictions.IMAGE_COLUMNS)].reset_index(drop=True)
        predictions.save(runs.predictions_of(chosen, results[name], seeds, shown), _path(folder, group, name))
        curves += [run.history.assign(set=name, seed=seed) for seed, run in zip(seeds, results[name], strict=True)]
    text = pd.concat(curves)[list(HISTORY_COLUMNS)].to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_text(folder / f"{group}_histories.csv", text)


def load(folder: str | Path, group: str) -> tuple[dict[str, list[Result]], list[int]]:
    """The runs of each set of `group` that `save` wrote, a Result a seed, and the seeds: as training.finished takes them.

    Predictions have a column split in the place of kind. InputError where a file is missing, or holds other seeds.
    """
    folder = Path(folder)
    names = [name for name in GROUPS[group] if name not in OPTIONAL or _path(folder, group, name).is_file()]
    found = {name: predictions.load(_path(folder, group, name)) for name in names}
    seeds = found[names[0]].runs["seed"].tolist()
    other = [name for name, own in found.items() if own.runs["seed"].tolist() != seeds]
    if other:
        raise InputError(f"{_path(folder, group, other[0])} holds other seeds than {names[0]}: write both in one run")
    try:
        curves = pd.read_csv(folder / f"{group}_histories.csv")
    except OSError as error:
        raise InputError(f"no learning curves at {folder / f'{group}_histories.csv'}: run notebook 06 first") from error
    return {name: results_of(own, curves[curves["set"] == name]) for name, own in found.items()}, seeds


def makeup(folder: str | Path) -> pd.DataFrame:
    """What `describe` wrote, by protocol and part; InputError where it is missing."""
    try:
        return pd.read_csv(Path(folder) / KEPT, index_col=["protocol", "part"])
    except OSError as error:
        raise InputError(f"no counts of images at {Path(folder) / KEPT}: run notebook 06 first") from error


def tested(results: Sequence[Result], splits: Sequence[str] = TESTED) -> list[pd.DataFrame]:
    """The answers of each run on the images of `splits` (TESTED or OTHERS); InputError where there are none."""
    frames = [run.predictions[run.predictions["split"].isin(splits)].reset_index(drop=True) for run in results]
    if any(own.empty for own in frames):
        raise InputError(
            f"the predictions hold no image of {' or '.join(splits)}: run notebook 06 on such images first"
        )
    return frames


def _split(chosen: TrainingSet, rows: pd.DataFrame) -> pd.Series:
    """Other people's images, which no split deals, are EXTERNAL."""
    return rows["split"].fillna(EXTERNAL) if chosen.protocol == PROTOCOLS[1] else rows["kind"]


def results_of(own: Predictions, curves: pd.DataFrame) -> list[Result]:
    """The runs of one set as training.train_all gives them: `own` of that set alone, curves its rows of HISTORY_COLUMNS."""
    results = []
    for place, seed in enumerate(own.runs["seed"]):
        shares = pd.DataFrame(np.exp(own.log_probabilities[place]), columns=list(CODES))
        best = np.array(CODES)[own.log_probabilities[place].argmax(axis=1)]
        answer = np.where(shares.isna().any(axis=1), "", best)
        rows = pd.concat([own.images.assign(answer=answer), shares], axis=1)
        history = curves.loc[curves["seed"] == seed, list(HISTORY_COLUMNS[2:])].reset_index(drop=True)
        results.append(Result(rows, history))
    return results


def _path(folder: Path, group: str, name: str) -> Path:
    return folder / f"{group}_{name.replace(' ', '_')}.npz"
