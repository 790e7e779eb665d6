"""What each difference between the published protocol and the audited one is worth: 06's ladder, for two networks.

The steps are those of `training_sets.ladder`: the Keras network is trained on each, and a head on frozen features fitted to it,
whose figure moves less by chance. A change is a contrast whose error counts test lesions and seeds, as the trial's is
(`inference`); with one seed it counts lesions alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.classification import inference, predictions, protocol
from dermstudy.classification.encoding import Settings, encode
from dermstudy.classification.feature_sets import ORIGINALS, Composition, FeatureSet, lesion_weights
from dermstudy.classification.frozen_features import (
    PENALTIES,
    Basis,
    Head,
    balanced_log_loss,
    fit_basis,
    fit_head,
    predictions_of,
)
from dermstudy.classification.inference import Contrast, Estimate, Lesions
from dermstudy.classification.predictions import IMAGE_COLUMNS, Predictions
from dermstudy.classification.training_sets import LADDER, TrainingSet
from dermstudy.data.dataset import Cohort
from dermstudy.entities import CODES
from dermstudy.files import code_hash, sha256_text

OWN_SET = "the trial's own set"  # after the last step: all originals, and images of the study's own generator
FILES = {protocol.KERAS: "ladder", protocol.FROZEN: "frozen_ladder"}
MEASURES = ("balanced accuracy", protocol.MACRO_AUC)
COLUMNS = ("network", "step", "seeds", "n", "measure", "value", "difference", "low", "high", "p")


def frozen_runs(
    steps: Mapping[str, TrainingSet], cohorts: Iterable[Cohort], settings: Settings, seeds: Sequence[int],
    cache: str | Path,
) -> dict[str, Predictions]:  # fmt: skip
    """A head on frozen features for each step and seed, its answers on the step's test images (split: original or synthetic).

    cohorts: whole, those that the steps take images from: each is encoded once. The basis is that of the step's training
    originals, without their labels. A step that watches its test set chooses its penalty there too, as the published way
    chooses its epoch; each of `seeds` then weighs training lesions by a Bayesian bootstrap, the same in steps of the same
    images (no seeds: no step). cache: keeps features and finished steps. Prints a line a step. InputError as `encode`.
    """
    if not len(seeds):
        return {}
    known = {}
    for cohort in cohorts:
        if cohort.data_hash not in known:
            values = settings.features([encode(cohort, cache, view) for view in settings.views])
            known[cohort.data_hash] = pd.Index(cohort.frame["image_id"]), values
    found, bases = {}, {}
    for name, chosen in steps.items():
        started, kept = time.monotonic(), Path(cache) / "ladder" / f"{_identity(chosen, known, settings, seeds)}.npz"
        if not kept.is_file():
            originals = _features([cohort for cohort in chosen.train if "source_image_id" not in cohort.frame], known)
            key = sha256(np.ascontiguousarray(originals).data).hexdigest()
            if key not in bases:
                bases[key] = fit_basis(originals, settings.components, settings.blocks)
            answers = _climbed(chosen, known, bases[key], seeds)
            kept.parent.mkdir(parents=True, exist_ok=True)
            predictions.save(answers, kept)
            print(f"{protocol.FROZEN}, {name}: {len(seeds)} seeds, {time.monotonic() - started:.0f} s", flush=True)
        found[name] = predictions.load(kept)
    return found


def _climbed(chosen: TrainingSet, known: Mapping, basis: Basis, seeds: Sequence[int]) -> Predictions:
    rows = chosen.rows("train")
    learned = FeatureSet(chosen.name, rows.assign(pool=ORIGINALS, repetitions=1.0), Composition())
    places = pd.Index(CODES).get_indexer(rows["dx"])
    train, watched, tested = (
        basis.inputs(_features(getattr(chosen, part), known)) for part in ("train", "fit_until", "test")
    )
    heads: dict[float, Head] = {}
    losses = {}
    for penalty in sorted(PENALTIES, reverse=True):
        heads[penalty] = fit_head(train, places, learned.weights(), penalty, start=heads[min(heads)] if heads else None)
        said = predictions_of(
            heads[penalty].log_probabilities(watched), heads[penalty].prior, _shown(chosen, "fit_until")
        )
        losses[penalty] = balanced_log_loss(said)[0]
    best = min(losses, key=losses.get)
    runs = []
    for seed in seeds:
        head = fit_head(train, places, learned.weights(seed), best, start=heads[best])
        runs.append(
            predictions_of(head.log_probabilities(tested), head.prior, _shown(chosen, "test"), chosen.name, seed)
        )
    return predictions.joined(runs)


def _features(cohorts: Sequence[Cohort], known: Mapping) -> np.ndarray:
    parts = [(known[cohort.data_hash], cohort.frame["image_id"]) for cohort in cohorts if len(cohort.frame)]
    return np.concatenate([values[index.get_indexer(ids)] for (index, values), ids in parts])


def _shown(chosen: TrainingSet, part: str) -> pd.DataFrame:
    rows = chosen.rows(part)
    return rows.assign(split=rows["kind"])[list(IMAGE_COLUMNS)].reset_index(drop=True)


def _identity(chosen: TrainingSet, known: Mapping, settings: Settings, seeds: Sequence[int]) -> str:
    parts = [chosen.name, list(seeds), list(PENALTIES), settings.components, settings.blocks.tolist()]
    for part in ("train", "fit_until", "test"):
        values = _features(getattr(chosen, part), known)
        parts += [_shown(chosen, part).to_json(), sha256(np.ascontiguousarray(values).data).hexdigest()]
    code = code_hash(_climbed, Basis, fit_basis, Head, fit_head, balanced_log_loss, FeatureSet, lesion_weights)
    return sha256_text(json.dumps([*parts, code]))[:16]


def save(folder: str | Path, climbed: Mapping[str, Predictions]) -> None:
    """Write the answers of the head on frozen features, frozen_ladder_STEP.npz; files of other steps go."""
    folder = Path(folder)
    for stale in folder.glob(f"{FILES[protocol.FROZEN]}_*.npz"):
        stale.unlink()
    for name, found in climbed.items():
        predictions.save(found, _path(folder, protocol.FROZEN, name))


def load(folder: str | Path) -> dict[str, dict[str, Predictions]]:
    """The answers of each network that climbed, by network and step, on the step's test images; failed seeds left out.

    The Keras network ends on OWN_SET, its audited network of 06. InputError where its files are missing.
    """
    folder, found = Path(folder), {}
    for network in FILES:
        paths = {name: _path(folder, network, name) for name in LADDER}
        there = {name: predictions.load(path) for name, path in paths.items() if path.is_file()}
        if network == protocol.KERAS:
            audited = predictions.load(folder / "classifier_audited.npz").select(split="test")
            there = {LADDER[0]: predictions.load(paths[LADDER[0]])} | there | {OWN_SET: audited}
        if there:
            found[network] = _paired(there)
    return found


def _paired(steps: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """The seeds that failed on no step."""
    sound = [set(own.runs["seed"][inference.sound_runs(own)]) for own in steps.values()]
    return {name: own.select(seed=sorted(set.intersection(*sound))) for name, own in steps.items()}


def table(climbed: Mapping[str, Mapping[str, Predictions]]) -> pd.DataFrame:
    """COLUMNS: each step's measure (0..1) on its n test images, the mean over seeds, and its change against the step before.

    low, high: the 95 % t interval of the change over test lesions and seeds (one seed: over lesions; none where an entity has
    a single lesion); p is two-sided and of no family. balanced accuracy is of the largest posterior, as published; macro AUC
    of posteriors corrected to an even prior.
    """
    rows = []
    for network, steps in climbed.items():
        for measure in MEASURES:
            before = None
            for name, own in steps.items():
                value = float(_values(own, measure).mean())
                counts = {"seeds": len(own.runs), "n": len(own.images)}
                row = {"network": network, "step": name, **counts, "measure": measure, "value": value}
                if before is not None:
                    row["difference"] = float((_values(own, measure) - _values(before, measure)).mean())
                    change = change_of(own, before, measure)
                    row |= {} if change is None else {"low": change.low, "high": change.high, "p": change.p}
                rows.append(row)
                before = own
    return pd.DataFrame(rows, columns=list(COLUMNS))


def by_seed(climbed: Mapping[str, Mapping[str, Predictions]]) -> pd.DataFrame:
    """The changes whose means are in `table`: network, step, measure, seed, difference."""
    rows = []
    for network, steps in climbed.items():
        for measure in MEASURES:
            for (_, before), (name, own) in pairwise(steps.items()):
                changes = _values(own, measure) - _values(before, measure)
                rows += [(network, name, measure, *pair) for pair in zip(own.runs["seed"], changes, strict=True)]
    return pd.DataFrame(rows, columns=["network", "step", "measure", "seed", "difference"])


def change_of(after: Predictions, before: Predictions, measure: str) -> Estimate | None:
    """`after` less `before`, whose runs are paired by seed; test lesions that both have are paired, others are not.

    None where an entity has a single lesion in both tests together: nothing says how much another one would differ.
    """
    count, images = len(after.images), pd.concat([after.images, before.images], ignore_index=True)
    if images.drop_duplicates("group")["dx"].value_counts().min() < 2:
        return None
    both = inference.lesions_of(images)
    sides = zip((after, before), (both.member[:count], both.member[count:]), strict=True)
    (value, influence), (other, others) = (_measured(own, measure, Lesions(part, both.entity)) for own, part in sides)
    return _estimate(Contrast(value - other, influence - others, both.strata()))


def _values(found: Predictions, measure: str) -> np.ndarray:
    """A measure of each run [runs]."""
    dx = found.images["dx"].to_numpy()
    if measure == protocol.MACRO_AUC:
        return np.nanmean(inference.areas(found.corrected(), dx)[0], axis=1)
    return _recalls(found, dx)[0]


def _measured(found: Predictions, measure: str, lesions: Lesions) -> tuple[np.ndarray, np.ndarray]:
    """A measure of each run [runs] and the influence of each lesion on it [runs, lesions]."""
    dx = found.images["dx"].to_numpy()
    if measure == protocol.MACRO_AUC:
        return inference.mean_area(found.corrected(), dx, lesions)
    values, influence = _recalls(found, dx)
    return values, influence @ lesions.member


def _recalls(found: Predictions, dx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean recall [runs] of the largest posterior over the entities there, and each image's influence [runs, images]."""
    right = (np.array(CODES)[found.log_probabilities.argmax(axis=2)] == dx).astype(float)
    influence, recalls = np.zeros_like(right), []
    for code in pd.unique(dx):
        own = dx == code
        recalls.append(right[:, own].mean(axis=1))
        influence[:, own] = (right[:, own] - recalls[-1][:, None]) / own.sum()
    return np.mean(recalls, axis=0), influence / len(recalls)


def _estimate(contrast: Contrast) -> Estimate:
    if len(contrast.values) > 1:
        return inference.estimate(contrast)
    parts = [(len(own) * contrast.influence[0, own].var(ddof=1), len(own) - 1) for own in contrast.strata]
    variance, spread = sum(v for v, _ in parts), sum(v**2 / freedom for v, freedom in parts)
    df = max(1.0, variance**2 / spread) if spread else 1.0
    error = max(float(np.sqrt(variance)), inference.SMALLEST)
    return Estimate(float(contrast.values[0]), error, df, float(variance), 0.0, 0.0)


def _path(folder: Path, network: str, name: str) -> Path:
    return folder / f"{FILES[network]}_{name.replace(' ', '_')}.npz"


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """`table` to be read: network, measure and step as index, three digits, p in words, nothing where there is none."""
    words = table["p"].map(lambda p: "" if np.isnan(p) else protocol.p_words(p).removeprefix("= "))
    return table.assign(p=words).set_index(["network", "measure", "step"]).round(3)
