"""Runs of 06 and 07 that committed predictions lack, beside those that are there: `python -m dermstudy.maintenance.more_runs`.

    python -m dermstudy.maintenance.more_runs ham10000 --data DIR

A generator that is trained later costs its own runs alone, wherever the images of the others are by then. What is there of
the head on frozen features is not taken on trust: CHECKED is run again first, and its answers have to be the kept ones.
`dermstudy run ham10000 --only 06,07 --redraw` then draws both anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy import workspace
from dermstudy.classification import (
    at_hand,
    classifier_files,
    feature_sets,
    fine_tuning,
    ladder,
    predictions,
    protocol,
    runs,
    shipped_head,
    training,
    training_sets,
)
from dermstudy.classification.predictions import Predictions
from dermstudy.data import dataset
from dermstudy.files import InputError, write_text
from dermstudy.maintenance.commands import answered, of_results
from dermstudy.runner import profiles, provenance, task
from dermstudy.runner.study import PREDICTIONS, default_results
from dermstudy.workspace import Workspace, commit, last_commit

CHECKED = protocol.ORIGINALS
PROVENANCE = (
    "provenance.csv"  # of trial.npz: by training set the code that made its runs, and the protocol's page at that time
)
TOLERANCE = 0.02  # of a probability: a float16 logarithm keeps three digits, and another processor rounds otherwise


def images_at_hand(space: Workspace, own: Mapping) -> at_hand.Images:
    """What the trial learns from, as far as it is there: the cohort, and each generator's images that the profile names."""
    cohort = dataset.open_cohort(space.need("cohort", made_by="00_dataset"))
    folders = {pool: workspace.from_root(own[name]) for pool, name in task.POOLS.items() if name and own[name]}
    folders[feature_sets.WHOLE] = space.out("synthetic")
    pools = {pool: dataset.open_synthetic(path) for pool, path in folders.items() if path.is_dir()}
    return runs.gather(cohort, pools, own["ORIGINALS"], own["SEED"])


def lacking(kept: Predictions, images: at_hand.Images, draws: int) -> list[str]:
    """The training sets of the head on frozen features that `images` allow and `kept` holds no run of."""
    there = set(kept.select(network=protocol.FROZEN).runs["training_set"])
    return [name for name in at_hand.frozen_sets(images, draws)[0] if name not in there]


def check_alike(kept: Predictions, again: Predictions, name: str) -> float:
    """The largest difference of a probability between the same runs, kept and made again; `name` says which.

    InputError where it passes TOLERANCE, or where images or seeds differ: what is added would not be of the same trial.
    """
    alike = kept.images.astype(str).equals(again.images.astype(str)) and kept.runs.equals(again.runs)
    away = np.abs(np.exp(kept.log_probabilities) - np.exp(again.log_probabilities)).max() if alike else np.nan
    if not away <= TOLERANCE:
        said = f"answers differ by up to {away:.3f}" if alike else "their images or seeds are others"
        raise InputError(f"the kept runs of {name!r} are not those that this code and these images give: {said}")
    return float(away)


def with_runs(kept: Predictions, more: Predictions) -> Predictions:
    """Both, in the order of the protocol's training sets, seeds in theirs."""
    whole = predictions.joined([kept, replace(more, images=kept.images)])
    places = {
        (network, name): place
        for place, (network, name) in enumerate(
            (network, name) for network, names in protocol.TRAINING_SETS.items() for name in names
        )
    }
    rank = [places[pair] for pair in zip(whole.runs["network"], whole.runs["training_set"], strict=True)]
    order = np.lexsort((whole.runs["seed"], rank))
    return Predictions(
        whole.images, whole.runs.iloc[order].reset_index(drop=True), whole.priors[order], whole.log_probabilities[order]
    )


def add_frozen(space: Workspace, own: Mapping, folder: Path) -> list[str]:
    """Run what is lacking of the head on frozen features and write it into `folder`; the names of what was added."""
    kept, images = predictions.load(folder / "trial.npz"), images_at_hand(space, own)
    names = lacking(kept, images, own["AUGMENTED"])
    if not names:
        return []
    settings, seeds = shipped_head.load_head(workspace.from_root(own["HEAD"])).settings, range(own["FROZEN_SEEDS"])
    cache, parts = space.out("features"), {}
    for name in (CHECKED, *names):
        # the stronger augmentation is encoded for the training set that wants it, not for the others
        draws = own["AUGMENTED"] if name == protocol.STRONGER else 0
        parts[name] = runs.frozen_runs(images, settings, seeds, cache, draws, own["SEED"], name)
        if name == CHECKED:
            own_kept = kept.select(network=protocol.FROZEN, training_set=CHECKED)
            away = check_alike(own_kept, parts[name].predictions, CHECKED)
            print(f"{CHECKED} made again: probabilities within {away:.4f} of the kept ones", flush=True)
    added = predictions.joined([parts[name].predictions for name in names])
    left_out, penalties = (pd.read_csv(folder / f"{name}.csv") for name in ("left_out", "penalties"))
    done = (left_out["network"] == protocol.FROZEN) & left_out["training_set"].isin(names)
    earlier = penalties[~penalties["training_set"].isin(names)]  # of a call that was cut
    penalties = pd.concat([earlier, *(parts[name].record for name in names)], ignore_index=True)
    _write(left_out[~done], folder / "left_out.csv")
    _write(_in_order(penalties), folder / "penalties.csv")
    _write(_counts(pd.read_csv(folder / "counts.csv"), images), folder / "counts.csv")
    _made(added.runs, folder / PROVENANCE)
    predictions.save(with_runs(kept, added), folder / "trial.npz")  # last: until then the next call does all again
    return names


def add_tuned(space: Workspace, own: Mapping, folder: Path) -> list[str]:
    """Train the fine-tuned network where its runs or their epochs are not in `folder`; the names of what was added.

    Runs that are there are made again for their epochs and have to answer as the kept ones do.
    """
    if not own["TUNED_SEEDS"]:
        return []
    kept, images, curves = predictions.load(folder / "trial.npz"), images_at_hand(space, own), _curves(folder)
    there = kept.select(network=protocol.TUNED)
    names, asked = at_hand.possible(protocol.TUNED, images)[0], range(own["TUNED_SEEDS"])
    known = curves[curves["network"] == protocol.TUNED]
    told = set(zip(known["training_set"], known["seed"], strict=True))
    if not set(there.runs["training_set"]) <= set(names) or told >= {(name, seed) for name in names for seed in asked}:
        return []
    tuning = fine_tuning.of_side(own["TUNED_SIDE"], own["TUNED_EPOCHS"], own["PRECISION"])
    ran = runs.tuned_runs(images, tuning, asked, space.out("fine_tuned"), own["WORKERS"])
    if len(there.runs):
        away = check_alike(there, ran.predictions, protocol.TUNED)
        print(f"{protocol.TUNED} made again: probabilities within {away:.4f} of the kept ones", flush=True)
    others = curves[curves["network"] != protocol.TUNED]
    _write(pd.concat([own for own in (others, ran.record) if len(own)]), folder / "histories.csv")
    if not len(there.runs):
        left_out = pd.read_csv(folder / "left_out.csv")
        others = left_out[left_out["network"] != protocol.TUNED]
        _write(pd.concat([others, ran.left_out]), folder / "left_out.csv")
        _made(ran.predictions.runs, folder / PROVENANCE)
        predictions.save(with_runs(kept, ran.predictions), folder / "trial.npz")
    return [f"{protocol.TUNED}, {name}" for name in names]


def _curves(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "histories.csv").reindex(columns=list(runs.HISTORY_COLUMNS))


def _made(runs_added: pd.DataFrame, path: Path) -> None:
    """Name the code and the protocol's page of added runs beside those of the kept ones, where a table names these."""
    if not path.is_file():
        return
    kept, own = pd.read_csv(path, dtype=str), runs_added.groupby(["network", "training_set"], sort=False).size()
    own = own.rename("seeds").reset_index().assign(run=commit()[:12], protocol=last_commit(provenance.PROTOCOL)[:12])
    same = kept["training_set"].isin(own["training_set"]) & kept["network"].isin(own["network"])
    _write(pd.concat([kept[~same], own]).reindex(columns=kept.columns), path)


def add_published(space: Workspace, own: Mapping, folder: Path) -> list[str]:
    """Train Table 3 as published where its generator's images are there and its runs are not; the names of what was added."""
    place = workspace.from_root(own["PUBLISHED_SYNTHETIC"]) if own["PUBLISHED_SYNTHETIC"] else None
    seeds = list(range(own["PUBLISHED_SEEDS"]))
    there = {name: found.runs["seed"].tolist() for name, found in runs.published_predictions(folder).items()}
    if not seeds or place is None or not place.is_dir() or there == dict.fromkeys(training_sets.PUBLISHED, seeds):
        return []
    cohort = images_at_hand(space, own).originals
    made = dataset.open_synthetic(place)
    found = runs.published_runs(
        cohort, made, task.config_of(dict(own)), seeds, space.out("classifier"), own["WORKERS"], own["SEED"],
        own["TEST_FRACTION"],
    )  # fmt: skip
    kept = _curves(folder).query("protocol != @training_sets.PROTOCOLS[0]")
    _write(pd.concat([*(ran.record for ran in found.values()), kept]), folder / "histories.csv")
    for name, ran in found.items():
        predictions.save(ran.predictions, folder / f"published_{name}.npz")
    return [f"as published, {name}" for name in found]


def add_classifier(space: Workspace, own: Mapping, folder: Path) -> list[str]:
    """Train what 06 asks of the generator that saw all lesions, and write 06's files; the names of what was added.

    own: 06's parameters. Its audited network is one of the trial's, whose runs are there: they are taken from them.
    InputError where they lack one of its seeds.
    """
    place = workspace.from_root(own["PUBLISHED_SYNTHETIC"]) if own["PUBLISHED_SYNTHETIC"] else None
    if place is None or not place.is_dir() or _has_ladder(folder, own):
        return []
    kept = predictions.load(folder / "trial.npz")
    kept = kept.select(network=protocol.KERAS, training_set=protocol.ONCE, seed=own["SEEDS"])
    if kept.runs["seed"].tolist() != own["SEEDS"]:
        seeds = ", ".join(map(str, kept.runs["seed"])) or "none"
        raise InputError(
            f"the trial's runs of {protocol.ONCE!r} have the seeds {seeds}, SEEDS of 06 says {own['SEEDS']}"
        )
    originals = runs.gather(dataset.open_cohort(space.need("cohort", made_by="00_dataset")), {}).originals
    published = training_sets.one_an_original(dataset.open_synthetic(place), originals)
    dealt = originals, published, own["SEED"], own["TEST_FRACTION"]
    as_published, audited = training_sets.PROTOCOLS
    sets = {
        as_published: training_sets.published_set("combined", *dealt),
        # for its make-up alone: any generator's images of dose 1 are one for each training original
        audited: training_sets.audited_set(protocol.ONCE, originals, {feature_sets.WHOLE: published}),
    }
    partner = runs.made_by_another(own["PARTNER_SYNTHETIC"])  # as 06 has it, the study's own where none is named
    partner = partner or dataset.open_synthetic(space.need("synthetic", made_by="03_sample"))
    steps = training_sets.ladder(originals, published, partner, own["SEED"], own["TEST_FRACTION"])
    how = task.config_of(dict(own)), own["SEEDS"], space.out("classifier"), own["WORKERS"]
    first = training.train_all({as_published: sets[as_published]}, *how)
    climbed = training.train_all(steps, *how)
    curves = _curves(folder).query(
        "network == @protocol.KERAS and protocol == @audited and training_set == @protocol.ONCE"
    )
    results = first | {audited: classifier_files.results_of(kept, curves)}
    classifier_files.describe(sets, folder)
    classifier_files.save(folder, "classifier", sets, results, own["SEEDS"])
    classifier_files.save(folder, "ladder", steps, climbed, own["SEEDS"])
    settings = shipped_head.load_head(workspace.from_root(own["HEAD"])).settings
    cohorts = originals, dataset.open_synthetic(place), partner
    how = cohorts, settings, range(own["FROZEN_SEEDS"]), space.out("features")
    ladder.save(folder, ladder.frozen_runs(steps, *how))
    return [f"06, {name}" for name in sets] + [f"06's ladder, {name}" for name in steps]


def _has_ladder(folder: Path, own: Mapping) -> bool:
    """Whether every step has its seeds of both networks."""
    try:
        found = ladder.load(folder)
    except InputError:
        return False
    seeds = {protocol.KERAS: list(own["SEEDS"]), protocol.FROZEN: list(range(own["FROZEN_SEEDS"]))}
    for network, wanted in seeds.items():
        steps = found.get(network, {})
        ran = {name: list(one.runs["seed"]) for name, one in steps.items() if name in training_sets.LADDER}
        if wanted and ran != dict.fromkeys(training_sets.LADDER, wanted):
            return False
    return True


def _in_order(penalties: pd.DataFrame) -> pd.DataFrame:
    names = list(protocol.TRAINING_SETS[protocol.FROZEN])
    return penalties.sort_values("training_set", key=lambda own: own.map(names.index), kind="stable")


def _counts(kept: pd.DataFrame, images: at_hand.Images) -> pd.DataFrame:
    """`kept` with a column for each pool that it lacks, where `Images.counts` has it."""
    mine, kept = images.counts(), kept.set_index("entity")
    whole = kept.join(mine[mine.columns.difference(kept.columns)])
    pools = [f"synthetic, {pool}" for pool in task.POOLS]
    order = ["training originals", *pools, "validation originals", "test originals"]
    return whole[[name for name in order if name in whole]].reset_index()


def _write(table: pd.DataFrame, path: Path) -> None:
    write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = of_results("dermstudy.maintenance.more_runs", __doc__, "whose parameters of 07 say what is run")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    results = options.results or default_results(options.profile, options.data)
    every, space = profiles.complete(options.profile, results, options.data), Workspace(workspace.from_root(results))
    own, folder = every[task.NOTEBOOK], space.root / PREDICTIONS
    if not (folder / "trial.npz").is_file():
        raise InputError(f"no predictions in {folder}: run 07_ablation first")
    added = add_frozen(space, own, folder) + add_published(space, own, folder)
    added += add_classifier(space, every["06_cnn_classifier"], folder)
    added += add_tuned(space, own, folder)  # last: an hour, and refused on a processor that answers otherwise
    print("added:", "; ".join(added) or "nothing: every training set that the images at hand allow has its runs")


if __name__ == "__main__":
    sys.exit(main())
