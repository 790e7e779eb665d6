"""One part of a notebook's work as a command of its own, for a workflow engine: `python -m dermstudy.runner.task`.

    python -m dermstudy.runner.task ham10000 encode --pool originals --view 0
    python -m dermstudy.runner.task ham10000 heads --set "all originals"
    python -m dermstudy.runner.task ham10000 train --set "all originals" --seed 3
    python -m dermstudy.runner.task ham10000 train --set "ladder, no lesion on both sides" --seed 3
    python -m dermstudy.runner.task ham10000 activations
    python -m dermstudy.runner.task ham10000 tune --set "all originals" --seed 3

A task leaves its result where notebooks 06 and 07 look for it, by all that it depends on, and does nothing where it is
there already. Tasks take no lock of the results folder: any number of them may run beside each other, on any machine that
sees the folder; those that tune begin when the activations that they share are there. They take their parameters from the
profile, as the notebooks do.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import torch

from dermstudy import workspace
from dermstudy.classification import (
    at_hand,
    encoding,
    feature_sets,
    fine_tuning,
    networks,
    protocol,
    runs,
    shipped_head,
    training,
)
from dermstudy.classification import training_sets as sets
from dermstudy.classification.predictions import EXTERNAL
from dermstudy.data import dataset
from dermstudy.data.dataset import Cohort
from dermstudy.data.external import load_external
from dermstudy.files import InputError
from dermstudy.runner.profiles import complete
from dermstudy.runner.study import default_results
from dermstudy.tensorflow_setup import limit_threads
from dermstudy.workspace import Workspace

NOTEBOOK = "07_ablation"
CLASSIFIER = "06_cnn_classifier"  # whose ladder is trained; its two other sets are of 07 too
POOLS = {feature_sets.WHOLE: "", feature_sets.SECOND: "SECOND_SYNTHETIC", feature_sets.OWN: "SUBSET_SYNTHETIC"}
FROZEN_SETS = protocol.TRAINING_SETS[protocol.FROZEN]
TUNED_SETS = protocol.TRAINING_SETS[protocol.TUNED]
AS_PUBLISHED = {f"as published, {name}": name for name in sets.PUBLISHED}
SETS = (*protocol.TRAINING_SETS[protocol.KERAS], *AS_PUBLISHED)
LADDER = {f"ladder, {name}": name for name in sets.LADDER}


def parameters(profile: str, results: str, data: str | None = None, notebook: str = NOTEBOOK) -> dict:
    """The parameters of notebook 07, or another, under a profile, its own defaults where the profile is silent."""
    return complete(profile, results, data)[notebook]


def ladder_of(own: dict) -> dict[str, str]:
    """The rows of LADDER that 06 has with its parameters `own`: the last one wants a generator that saw all lesions."""
    return {slot: name for slot, name in LADDER.items() if own["PUBLISHED_SYNTHETIC"] or name != sets.LADDER[-1]}


def sets_of(own: dict) -> list[str]:
    """What 06 trains with its parameters `own`, as `train --set` names it: two sets of 07, and its ladder."""
    return ["as published, combined", protocol.ONCE, *ladder_of(own)]


def images(space: Workspace, own: dict) -> at_hand.Images:
    """What the trial learns from, as notebook 07 opens it."""
    cohort = dataset.open_cohort(space.need("cohort", made_by="00_dataset"))
    pools = {feature_sets.WHOLE: dataset.open_synthetic(space.need("synthetic", made_by="03_sample"))}
    pools |= {pool: runs.made_by_another(own[name]) for pool, name in POOLS.items() if name}
    others = (
        load_external(workspace.from_root(own["EXTERNAL"]), cohort, space.out("features")) if own["EXTERNAL"] else None
    )
    return runs.gather(cohort, pools, own["ORIGINALS"], own["SEED"], others)


def encode(space: Workspace, own: dict, pool: str, view: int) -> None:
    """One view of every image of a pool, of originals with the stronger augmentation's draws, kept in artifacts/features.

    InputError for a pool or view that is not there.
    """
    gathered, settings = images(space, own), shipped_head.load_head(workspace.from_root(own["HEAD"])).settings
    cohorts: dict[str, Cohort] = {feature_sets.ORIGINALS: gathered.originals, **gathered.synthetic}
    if gathered.external is not None:
        cohorts[EXTERNAL] = gathered.external.cohort
    if pool not in cohorts:
        raise InputError(f"no pool {pool!r} in this profile: it has {', '.join(cohorts)}")
    if view not in range(len(settings.views)):
        raise InputError(f"no view {view}: the head of {own['HEAD']} has views 0 to {len(settings.views) - 1}")
    seen, features = settings.views[view], space.out("features")
    encoding.encode(cohorts[pool], features, seen)
    if pool == feature_sets.ORIGINALS:
        for draw in range(1, own["AUGMENTED"] + 1):
            encoding.encode(cohorts[pool].select(split="train"), features, replace(seen, draw=draw))


def heads(space: Workspace, own: dict, name: str) -> None:
    """The head on frozen features on one training set, every seed, kept in artifacts/features/runs, once all pools are encoded.

    One that the images do not allow is left out with a line, as notebook 07 leaves it out. InputError for an unknown one.
    """
    gathered = images(space, own)
    names, left_out = at_hand.frozen_sets(gathered, own["AUGMENTED"])
    if name in names:
        settings = shipped_head.load_head(workspace.from_root(own["HEAD"])).settings
        seeds = range(own["FROZEN_SEEDS"])
        runs.frozen_runs(gathered, settings, seeds, space.out("features"), own["AUGMENTED"], own["SEED"], name)
        return
    reasons = left_out.set_index("training_set")["reason"]
    if name not in reasons:
        raise InputError(f"no training set {name!r} for the head on frozen features: it has {'; '.join(names)}")
    print(f"{name} is left out: {reasons[name]}")


def train(space: Workspace, own: dict, name: str, seed: int) -> None:
    """One run of the small convolutional network, kept in artifacts/classifier; InputError for a set that is not in SETS."""
    if name not in SETS:
        raise InputError(f"unknown training set {name!r}: choose {'; '.join(SETS)}")
    gathered = images(space, own)
    if name in AS_PUBLISHED:
        other = own["PUBLISHED_SYNTHETIC"]
        saw_all = (
            dataset.open_synthetic(workspace.from_root(other)) if other else gathered.synthetic[feature_sets.WHOLE]
        )
        saw_all = sets.one_an_original(saw_all, gathered.originals)
        chosen = sets.published_set(AS_PUBLISHED[name], gathered.originals, saw_all, own["SEED"], own["TEST_FRACTION"])
    else:
        others = None if gathered.external is None else gathered.external.cohort
        chosen = sets.audited_set(name, gathered.originals, gathered.synthetic, 0, others)
    threads = training.threads_of(own["WORKERS"])  # as in the notebook: answers depend on them
    limit_threads(threads)
    training.train_once(chosen, config_of(own), seed, space.out("classifier"), threads)


def climb(space: Workspace, own: dict, name: str, seed: int) -> None:
    """One run of 06's ladder, kept in artifacts/classifier; own: the parameters of 06. InputError for a step it has not."""
    steps = ladder_of(own)
    if name not in steps:
        raise InputError(f"no step {name!r} of 06's ladder here: choose {'; '.join(steps)}")
    cohort = dataset.open_cohort(space.need("cohort", made_by="00_dataset"))
    made = dataset.open_synthetic(space.need("synthetic", made_by="03_sample"))
    originals = runs.gather(cohort, {feature_sets.WHOLE: made}, own["ORIGINALS"], own["SEED"]).originals
    saw_all = sets.one_an_original(runs.made_by_another(own["PUBLISHED_SYNTHETIC"]) or made, originals)
    partner = runs.made_by_another(own["PARTNER_SYNTHETIC"]) or made
    safe = partner if own["PUBLISHED_SYNTHETIC"] else None
    chosen = sets.ladder(originals, saw_all, safe, own["SEED"], own["TEST_FRACTION"])[steps[name]]
    threads = training.threads_of(own["WORKERS"])
    limit_threads(threads)
    training.train_once(chosen, config_of(own), seed, space.out("classifier"), threads)


def tune(space: Workspace, own: dict, name: str, seed: int) -> None:
    """One run of the fine-tuned network, kept in artifacts/fine_tuned; InputError for a training set that it does not have."""
    for job in _jobs(space, own, [seed]):
        if job.name == name:
            torch.set_num_threads(1)  # as in the notebook
            fine_tuning.run_once(job)
            return
    raise InputError(
        f"no training set {name!r} for the fine-tuned network here: {'; '.join(TUNED_SETS)} may be asked for"
    )


def _jobs(space: Workspace, own: dict, seeds: list[int]) -> list[fine_tuning.Job]:
    """The fine-tuned network's runs, their activations made where they are not there."""
    tuning = fine_tuning.of_side(own["TUNED_SIDE"], own["TUNED_EPOCHS"], own["PRECISION"])
    return runs.tuned_jobs(images(space, own), tuning, seeds, space.out("fine_tuned"))[0]


def config_of(own: dict) -> networks.ClassifierConfig:
    """The small convolutional network as notebooks 06 and 07 build it, each with its own parameters."""
    given = "side", "filters", "epochs", "batch", "patience", "rotation", "shift", "zoom", "precision"
    values = {name: own[name.upper()] for name in given}
    return networks.ClassifierConfig(**values | {"filters": tuple(values["filters"])})


def main(arguments: list[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m dermstudy.runner.task", description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("task", choices=("encode", "heads", "train", "activations", "tune"))
    parser.add_argument("--pool", default=feature_sets.ORIGINALS, help="encode: originals or a generator's images")
    parser.add_argument("--view", type=int, default=0, help="encode: which view of the head's settings")
    parser.add_argument(
        "--set",
        default=protocol.ORIGINALS,
        help="heads, train, tune: a training set of the protocol; train: as published, and a step of 06's ladder, too",
    )
    parser.add_argument("--seed", type=int, default=0, help="train, tune: the run's seed")
    parser.add_argument("--results", help="results folder (default: as dermstudy run has it)")
    parser.add_argument("--data", help="a folder in the HAM10000 layout")
    options = parser.parse_args(arguments)
    try:
        results = options.results or default_results(options.profile, options.data)
        climbs = options.task == "train" and options.set.startswith("ladder, ")
        own = parameters(options.profile, results, options.data, CLASSIFIER if climbs else NOTEBOOK)
        space = workspace.open_workspace(results)
        if options.task == "encode":
            encode(space, own, options.pool, options.view)
        elif options.task == "heads":
            heads(space, own, options.set)
        elif options.task == "activations":
            _jobs(space, own, [])
        elif options.task == "tune":
            tune(space, own, options.set, options.seed)
        else:
            (climb if climbs else train)(space, own, options.set, options.seed)
    except InputError as error:
        print(f"dermstudy: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
