"""Every run of the trial that the images at hand allow: the head on frozen features, the network fine-tuned, the Keras one.

docs/PROTOCOL.md names the training sets. One that asks for images which are not there is left out by name, with the
reason: a small run answers fewer questions by the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy import workspace
from dermstudy.classification import (
    feature_sets,
    fine_tuning,
    frozen_features,
    predictions,
    protocol,
    training,
    training_sets,
)
from dermstudy.classification.at_hand import LEFT_OUT_COLUMNS, Images, frozen_sets, possible
from dermstudy.classification.encoded_trial import encoded_trial
from dermstudy.classification.encoding import Settings
from dermstudy.classification.inference import sound_runs
from dermstudy.classification.networks import ClassifierConfig
from dermstudy.classification.predictions import IMAGE_COLUMNS, Predictions, joined, to_predict
from dermstudy.classification.scores import RUN_COLUMNS
from dermstudy.data import splits
from dermstudy.data.dataset import Cohort, open_synthetic
from dermstudy.data.external import External
from dermstudy.entities import CODES
from dermstudy.files import InputError, write_text

EVERY, CAPTIONED = "all", "captioned"
PEOPLE_COLUMNS = ("image_id", "sex", "age", "localization")
HISTORY_COLUMNS = (
    "network", "protocol", "training_set", "seed", "epoch", "loss", "validation_loss", "steps", "macro_auc"
)  # fmt: skip


def made_by_another(folder: str) -> Cohort | None:
    """Another generator's images, from a folder of the project or elsewhere; None where none is named.

    InputError where the folder is not there.
    """
    if folder and not workspace.from_root(folder).is_dir():
        raise InputError(
            f"no images of another generator in {folder}: make them (docs/GLIDE.md), or give '' to leave out what learns so"
        )
    return open_synthetic(workspace.from_root(folder)) if folder else None


def gather(
    originals: Cohort, synthetic: Mapping[str, Cohort | None], which: str = EVERY, seed: int = 0,
    external: External | None = None,
) -> Images:  # fmt: skip
    """The trial's images. which: EVERY training original, or the CAPTIONED ones that lent a synthetic image its caption.

    The nested subset is the cohort's own column where it has one and all originals train; else it is drawn here. Pools
    that are None are left out. InputError for another `which`, and where no original lent a caption.
    """
    if which not in (EVERY, CAPTIONED):
        raise InputError(f"ORIGINALS is {which!r}: give {EVERY!r}, or {CAPTIONED!r} for a small run")
    pools = {pool: cohort for pool, cohort in synthetic.items() if cohort is not None}
    frame = originals.frame
    if which == CAPTIONED:
        lent = frame["image_id"].isin(pools[feature_sets.WHOLE].frame["source_image_id"])
        frame = frame[lent | (frame["split"] != "train")].reset_index(drop=True)
        if not (frame["split"] == "train").any():
            raise InputError(
                "no training original lent a synthetic image its caption: pair with training lesions in 03"
            )
    if which == CAPTIONED or "subset" not in frame:
        frame = frame.assign(subset=splits.nested_subset(frame, seed))
    return Images(replace(originals, frame=frame), pools, external)


@dataclass(frozen=True)
class Ran:
    """What one network's runs gave: Predictions (None: it did not run), training sets left out, what was written down.

    left_out: LEFT_OUT_COLUMNS. record: of the frozen features the penalties tried, of the others the learning curves
    (HISTORY_COLUMNS; steps: of an epoch; validation_loss: what is watched, of the fine-tuned network the log loss of
    posteriors corrected to an even prior; macro_auc: of validation lesions, for that network alone).
    """

    predictions: Predictions | None
    left_out: pd.DataFrame
    record: pd.DataFrame


def frozen_runs(
    images: Images, settings: Settings, seeds: Sequence[int], cache: str | Path, draws: int = 0, seed: int = 0,
    only: str = "",
) -> Ran:  # fmt: skip
    """The head on frozen features on every training set that `images` allow.

    draws: how often the stronger augmentation is laid over each training original; 0 leaves that training set out. only: one
    of them, for a task of its own.
    """
    names, left_out = frozen_sets(images, draws)
    names = [only] if only else names
    trial = encoded_trial(images.originals, images.synthetic, settings, cache, draws, images.external)
    found, penalties = frozen_features.run_trial(trial, names, seeds, seed, Path(cache) / "runs")
    return Ran(found, left_out, penalties)


def keras_runs(
    images: Images, config: ClassifierConfig, seeds: Sequence[int], folder: str | Path, workers: int = 1
) -> Ran:
    """The Keras network on every training set of the protocol that `images` allow."""
    names, left_out = possible(protocol.KERAS, images)
    external = None if images.external is None else images.external.cohort
    chosen = {name: training_sets.audited_set(name, images.originals, images.synthetic, 0, external) for name in names}
    kept = training.train_all(chosen, config, seeds, folder, workers)
    shown = predicted_images(images)
    parts = [
        _predictions(name, number, result, chosen[name], shown)
        for name, results in kept.items()
        for number, result in zip(seeds, results, strict=True)
    ]
    return Ran(joined(parts), left_out, _histories(kept, chosen, config, training_sets.PROTOCOLS[1], seeds))


def tuned_runs(
    images: Images, tuning: fine_tuning.Tuning, seeds: Sequence[int], folder: str | Path, workers: int = 1
) -> Ran:
    """The pretrained network with its last blocks fine-tuned, on every training set of the protocol that `images` allow.

    folder: keeps activations and finished runs.
    """
    asked, left_out = tuned_jobs(images, tuning, seeds, folder)
    found, epochs = fine_tuning.run_all(asked, workers)
    curves = epochs.rename(columns={"balanced_log_loss": "validation_loss"})
    curves = curves.assign(network=protocol.TUNED, protocol=training_sets.PROTOCOLS[1])
    return Ran(found, left_out, curves[list(HISTORY_COLUMNS)])


def tuned_jobs(
    images: Images, tuning: fine_tuning.Tuning, seeds: Sequence[int], folder: str | Path
) -> tuple[list[fine_tuning.Job], pd.DataFrame]:
    """The runs of `tuned_runs`, none of them run yet, once their activations are there; and the training sets left out."""
    names, left_out = possible(protocol.TUNED, images)
    frames = {pool: cohort.frame for pool, cohort in images.synthetic.items()}
    taken = [feature_sets.make_feature_set(name, images.originals.frame, frames).rows for name in names]
    synthetic = {
        pool: cohort.select(image_id=own["image_id"])
        for pool, own in pd.concat(taken).groupby("pool")
        if (cohort := images.synthetic.get(pool)) is not None
    }
    others = None if images.external is None else images.external.cohort
    folder, frames = Path(folder), {pool: cohort.frame for pool, cohort in synthetic.items()}
    activations = fine_tuning.encoded(images.originals, synthetic, tuning, folder / "activations", others)
    external = None if others is None else others.frame
    asked = fine_tuning.jobs(
        names, seeds, images.originals.frame, frames, activations, tuning, folder / "runs", external
    )
    return asked, left_out


def published_runs(
    originals: Cohort, synthetic: Cohort, config: ClassifierConfig, seeds: Sequence[int], folder: str | Path,
    workers: int = 1, seed: int = 0, test_fraction: float = 0.2,
) -> dict[str, Ran]:  # fmt: skip
    """The Keras network as published, by training set of Table 3, with as many synthetic images as `one_an_original` gives.

    Every set has test images of its own; `split` says original or synthetic there.
    """
    synthetic = training_sets.one_an_original(synthetic, originals)
    chosen = {
        name: training_sets.published_set(name, originals, synthetic, seed, test_fraction)
        for name in training_sets.PUBLISHED
    }
    kept = training.train_all(chosen, config, seeds, folder, workers)
    found = {}
    for name, results in kept.items():
        shown = chosen[name].rows("test")
        shown = shown.assign(split=shown["kind"])[list(IMAGE_COLUMNS)].reset_index(drop=True)
        runs = zip(seeds, results, strict=True)
        answers = joined([_predictions(name, number, result, chosen[name], shown) for number, result in runs])
        nothing = pd.DataFrame(columns=list(LEFT_OUT_COLUMNS))
        found[name] = Ran(
            answers, nothing, _histories({name: results}, chosen, config, training_sets.PROTOCOLS[0], seeds)
        )
    return found


def describe(images: Images, folder: str | Path) -> None:
    """Write what the trial learns from and is asked about, without a pixel: counts.csv, and people.csv of predicted originals.

    counts.csv: `Images.counts` by entity. people.csv: image_id, sex, age and localization, for the exploratory parts.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = images.originals.frame[images.originals.frame["split"] != "train"]
    tables = {"counts": images.counts().rename_axis("entity").reset_index(), "people": held[list(PEOPLE_COLUMNS)]}
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))


def without(network: str, reason: str) -> Ran:
    """No run of `network`: each of its training sets is left out for `reason`."""
    rows = [(network, name, reason) for name in protocol.TRAINING_SETS[network]]
    return Ran(None, pd.DataFrame(rows, columns=list(LEFT_OUT_COLUMNS)), pd.DataFrame(columns=list(HISTORY_COLUMNS)))


def save(folder: str | Path, frozen: Ran, tuned: Ran, keras: Ran, published: Mapping[str, Ran]) -> Path:
    """Write what 07 is drawn from: trial.npz, published_NAME.npz, left_out.csv, penalties.csv, histories.csv."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ran = [part.predictions for part in (frozen, tuned, keras) if part.predictions is not None]
    predictions.save(joined(ran), folder / "trial.npz")
    for stale in folder.glob("published_*.npz"):
        stale.unlink()
    for name, ran in published.items():
        predictions.save(ran.predictions, folder / f"published_{name}.npz")
    tables = {
        "left_out": [frozen.left_out, tuned.left_out, keras.left_out],
        "penalties": [frozen.record],
        "histories": [*(ran.record for ran in published.values()), keras.record, tuned.record],
    }
    for name, parts in tables.items():
        whole = pd.concat(parts, ignore_index=True)
        write_text(folder / f"{name}.csv", whole.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return folder


def _histories(
    kept: Mapping[str, Sequence[training.Result]], chosen: Mapping[str, training_sets.TrainingSet],
    config: ClassifierConfig, protocol_name: str, seeds: Sequence[int],
) -> pd.DataFrame:  # fmt: skip
    curves = [
        result.history.assign(
            network=protocol.KERAS,
            protocol=protocol_name,
            training_set=name,
            seed=number,
            steps=training.steps_an_epoch(chosen[name], config),
            macro_auc=np.nan,
        )
        for name, results in kept.items()
        for number, result in zip(seeds, results, strict=True)
    ]
    return pd.concat(curves, ignore_index=True)[list(HISTORY_COLUMNS)]


def steps_table(histories: pd.DataFrame) -> pd.DataFrame:
    """How long each run was trained: network, protocol, training_set, seed, epochs, steps, kept_epoch, kept_steps.

    histories: HISTORY_COLUMNS. A run of the Keras network stops on its own watched loss, so equal steps an epoch are not
    equal steps in all. A run without a watched loss kept no epoch.
    """
    rows = []
    for names, own in histories.groupby(["network", "protocol", "training_set", "seed"], sort=False):
        watched = own["validation_loss"].dropna()
        best = own.loc[watched.idxmin(), "epoch"] if len(watched) else 0
        rows.append((*names, len(own), own["steps"].sum(), best, best * own["steps"].iloc[0]))
    columns = ["network", "protocol", "training_set", "seed", "epochs", "steps", "kept_epoch", "kept_steps"]
    return pd.DataFrame(rows, columns=columns)


def steps_ranges(steps: pd.DataFrame) -> pd.DataFrame:
    """`steps_table` in a row a training set: how many seeds, and the least and the largest of each count over them."""
    groups = steps.groupby(["network", "protocol", "training_set"], sort=False)
    counts = ["epochs", "steps", "kept_epoch", "kept_steps"]
    least, largest = groups[counts].min(), groups[counts].max()
    ranges = least.astype(str).where(least == largest, least.astype(str) + " to " + largest.astype(str))
    ranges.insert(0, "seeds", groups.size())
    return ranges.reset_index()


def predicted_images(images: Images) -> pd.DataFrame:
    """IMAGE_COLUMNS of `predictions.to_predict`."""
    others = None if images.external is None else images.external.cohort.frame
    return to_predict(images.originals.frame, others)[list(IMAGE_COLUMNS)]


def predictions_of(
    chosen: training_sets.TrainingSet, results: Sequence[training.Result], seeds: Sequence[int], shown: pd.DataFrame
) -> Predictions:
    """The answers of a training set's runs, one a seed, on the images `shown` (IMAGE_COLUMNS) of its test part."""
    each = zip(seeds, results, strict=True)
    return joined([_predictions(chosen.name, number, result, chosen, shown) for number, result in each])


def _predictions(name, number, result, chosen, shown: pd.DataFrame) -> Predictions:
    rows = result.predictions.set_index("image_id").loc[shown["image_id"], list(CODES)]
    shares = chosen.rows("train")["dx"].value_counts(normalize=True).reindex(CODES, fill_value=0).to_numpy()
    with np.errstate(divide="ignore"):
        logarithms = np.log(rows.to_numpy(np.float32))
    runs = pd.DataFrame({"network": [protocol.KERAS], "training_set": [name], "seed": [number]})
    return Predictions(shown, runs, shares[None], np.maximum(logarithms, -60)[None])


def published_frames(folder: str | Path) -> dict[str, list[pd.DataFrame]]:
    """`frames_of` the Keras network as published, by training set of Table 3; empty where it did not run."""
    return {
        name: frames[name]
        for name, found in published_predictions(folder).items()
        if name in (frames := frames_of(found, protocol.KERAS, None))
    }


def published_predictions(folder: str | Path) -> dict[str, Predictions]:
    """What `save` kept of the Keras network as published, by training set of Table 3; empty where it did not run."""
    paths = {name: Path(folder) / f"published_{name}.npz" for name in training_sets.PUBLISHED}
    return {name: predictions.load(path) for name, path in paths.items() if path.is_file()}


def frames_of(found: Predictions, network: str, split: str | None = "test") -> dict[str, list[pd.DataFrame]]:
    """A network's answers as `scores` takes them: by training set, a frame a seed; runs that failed are left out.

    split: of the images (None: all). Columns image_id, group, kind (original or synthetic), dx, answer, seed, entity codes.
    """
    own = found.select(split=split, network=network)
    kind = np.where(own.images["split"] == "synthetic", "synthetic", "original")
    frames: dict[str, list[pd.DataFrame]] = {}
    for place, run in own.runs[sound_runs(own)].iterrows():
        shares = pd.DataFrame(np.exp(own.log_probabilities[place]), columns=list(CODES))
        frame = own.images[["image_id", "group", "dx"]].assign(
            kind=kind, answer=shares.idxmax(axis=1), seed=run["seed"]
        )
        frames.setdefault(run["training_set"], []).append(pd.concat([frame, shares], axis=1))
    return frames


def failed_lines(found: Predictions) -> list[str]:
    """A line for each run that failed; a table's `missing_seeds` names it in the comparisons that lack it."""
    failed = found.runs[~sound_runs(found)]
    return [f"failed: {run.network}, {run.training_set}, seed {run.seed}" for run in failed.itertuples()]


def as_run_rows(measured: pd.DataFrame) -> pd.DataFrame:
    """`secondary.run_table` in the columns of `scores.every_run`, so that one table holds every run of 07."""
    named = measured.rename(columns={"network": "model", "measure": "metric"}).assign(
        protocol=training_sets.PROTOCOLS[1]
    )
    return named[RUN_COLUMNS]
