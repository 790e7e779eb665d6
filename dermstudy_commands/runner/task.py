"""One run of notebooks 06 and 07 as a command of its own, for a workflow engine or a shell.

    python -m dermstudy_commands.runner.task ham10000 --list
    python -m dermstudy_commands.runner.task ham10000 keras-cnn-all-originals-3
    python -m dermstudy_commands.runner.task ham10000 --list keras-cnn

A task leaves its run where 06 and 07 look for it, by all that it depends on, and does nothing where it is there already.
Tasks take no lock of the results folder: any number of them may run beside each other, on any machine that sees the folder.
Those named `encode-POOL-VIEW` and `activations-POOL-VIEW` go first: the runs of the probe and of the fine-tuned network share
what they compute.
They take their parameters from the profile, as the notebooks do.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from dermstudy import workspace
from dermstudy.classification import encoding, fitting, protocol, study_runs
from dermstudy.classification import training_sets as sets
from dermstudy.classification.recipes import allowed_sets, make_training_set
from dermstudy.classification.study_runs import ABLATION, CLASSIFIER, Task
from dermstudy.files import InputError, answered
from dermstudy.tensorflow_setup import limit_threads
from dermstudy.workspace import Workspace
from dermstudy_commands.runner.profiles import complete
from dermstudy_commands.runner.study import default_results

Shared = tuple[str, str, int]  # what is computed, of which pool, through which view


def run_tasks_of(
    every: Mapping[str, Mapping], stems: Sequence[str] = (CLASSIFIER, ABLATION)
) -> dict[str, tuple[str, Task]]:
    """The runs of 06 and 07 by slug, each with a notebook that reads it; every: the parameters by notebook (`complete`)."""
    stems = [stem for stem in stems if stem in (CLASSIFIER, ABLATION)]
    return {task.slug: (stem, task) for stem in stems for task in study_runs.single_tasks(stem, every[stem])}


def shared_tasks_of(every: Mapping[str, Mapping]) -> dict[str, Shared]:
    """What runs share, by slug: each view of each pool encoded for the probe, and its early activations where 07 tunes."""
    given = every[ABLATION]
    named = [pool for pool in (sets.SECOND, sets.OWN) if given[study_runs.POOLS[pool]]]
    pools = [sets.ORIGINALS, sets.WHOLE, *named, *([sets.EXTERNAL] if given["EXTERNAL"] else [])]
    views = range(len(study_runs.encoding_of(given).views))
    found = [("encode", pool, view) for pool in pools for view in views]
    if given["TUNED_SEEDS"]:
        tuned = [pool for pool in pools if pool not in named]
        found += [("activations", pool, view) for pool in tuned for view in range(4)]
    return {re.sub(r"\W+", "-", f"{what} {pool} {view}"): (what, pool, view) for what, pool, view in found}


def needs(task: Task, shared: Mapping[str, Shared]) -> list[str]:
    """The slugs of what a run shares with others."""
    what = {protocol.FROZEN: "encode", protocol.TUNED: "activations"}.get(task.network)
    return [slug for slug, (kind, _, _) in shared.items() if kind == what]


def compute_shared(space: Workspace, given: Mapping, shared: Shared) -> None:
    """One view of a pool, of originals with the stronger augmentation's draws; kept in artifacts."""
    what, pool, view = shared
    images = study_runs.open_images(space, given)
    if what == "activations":
        network = study_runs.network_of(protocol.TUNED, images, space, given)
        if pool in network.images.pools:
            encoding.encode_early(network.images.pools[pool], network.cache, network.tuning.views[view])
        return
    cohort, seen, cache = images.pools[pool], study_runs.encoding_of(given).views[view], space.out("features")
    encoding.encode(cohort, cache, seen)
    for draw in range(1, given["AUGMENTED"] + 1 if pool == sets.ORIGINALS else 1):
        encoding.encode(cohort.select(split="train"), cache, replace(seen, draw=draw))


def run(space: Workspace, given: Mapping, task: Task) -> None:
    """One task; a set of the trial that the images do not allow is left out with a line, as the notebook leaves it out."""
    images = study_runs.open_images(space, given)
    allowed, reasons = allowed_sets([task.name], images, given.get("AUGMENTED", 0))
    if not allowed:
        if task.file != study_runs.TRIAL:
            raise InputError(reasons[task.name])
        print(f"{task.name} is left out: {reasons[task.name]}")
        return
    network = study_runs.network_of(task.network, images, space, given)
    if task.network == protocol.TUNED:
        torch.set_num_threads(1)  # as in the notebook: answers depend on them
    if task.network == protocol.KERAS:
        limit_threads(network.settings["threads"])
    chosen = make_training_set(task.name, network.images)
    for seed in task.seeds:
        fitting.fit(network, chosen, seed)


def main(arguments: list[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m dermstudy_commands.runner.task", description=__doc__.splitlines()[0]
    )
    parser.add_argument("profile")
    parser.add_argument("task", nargs="?", default="", help="its name, as --list prints it")
    begin = "print the names of all tasks, or of those that begin so"
    parser.add_argument("--list", nargs="?", const="", metavar="BEGINNING", help=begin)
    parser.add_argument("--results", help="results folder (default: as dermstudy run has it)")
    parser.add_argument("--data", help="a folder in the HAM10000 layout")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    results = options.results or default_results(options.profile, options.data)
    every = complete(options.profile, results, options.data)
    shared, runs = shared_tasks_of(every), run_tasks_of(every)
    if options.list is not None:
        print(*(slug for slug in (*shared, *runs) if slug.startswith(options.list)), sep="\n")
    elif options.task in shared:
        compute_shared(workspace.open_workspace(results), every[ABLATION], shared[options.task])
    elif options.task in runs:
        stem, task = runs[options.task]
        run(workspace.open_workspace(results), every[stem], task)
    else:
        raise InputError(f"no task {options.task!r} of {options.profile}: --list prints their names")


if __name__ == "__main__":
    sys.exit(main())
