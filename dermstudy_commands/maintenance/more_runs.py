"""Runs of 06 and 07 that committed predictions lack, beside those that are there.

    python -m dermstudy_commands.maintenance.more_runs ham10000 --data DIR

A generator that is trained later costs its own runs alone, wherever the images of the others are by then. What is there is not
taken on trust: before runs of the probe are added, CHECKED is run again, and its answers have to be the kept ones; so have
those of runs that are made again because their learning curves are missing.
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
from dermstudy.classification import protocol, study_runs
from dermstudy.classification import training_sets as sets
from dermstudy.classification.predictions import Predictions, joined, load_predictions, save_predictions
from dermstudy.classification.recipes import allowed_sets, make_training_set
from dermstudy.classification.study_runs import ABLATION, CLASSIFIER, TRIAL, Task, write_table
from dermstudy.files import InputError, answered
from dermstudy.workspace import Workspace, commit, last_commit
from dermstudy_commands.maintenance.commands import of_results
from dermstudy_commands.runner import profiles, provenance
from dermstudy_commands.runner.study import PREDICTIONS, default_results

CHECKED = protocol.ORIGINALS
PROVENANCE = "provenance.csv"  # of trial.npz: by training set the code that made its runs, and the protocol's page then
TOLERANCE = 0.02  # of a probability: a float16 logarithm keeps three digits, and another processor rounds otherwise
KEYS = {  # what tells the rows of a table of records apart
    "penalties.csv": ["training_set"], "histories.csv": ["network", "protocol", "training_set", "seed"],
    "classifier_histories.csv": ["set", "seed"], "ladder_histories.csv": ["set", "seed"],
}  # fmt: skip


def kept_runs(folder: Path, task: Task) -> Predictions | None:
    """The runs of a task that its file in `folder` holds; None where it holds none."""
    path = folder / f"{task.file}.npz"
    found = load_predictions(path) if path.is_file() else None
    if found is not None and task.file == TRIAL:
        found = found.select(network=task.network, training_set=task.name)
    return found if found is not None and len(found.runs) else None


def lacks(folder: Path, task: Task) -> bool:
    """Whether a seed of the task has no run in `folder`, or, of the fine-tuned network, no learning curve."""
    kept = kept_runs(folder, task)
    known = set() if kept is None else set(kept.runs["seed"])
    if task.network == protocol.TUNED:
        curves = pd.read_csv(folder / "histories.csv")
        curves = curves[(curves["network"] == task.network) & (curves["training_set"] == task.name)]
        known &= set(curves["seed"])
    return not known >= set(task.seeds)


def check_alike(kept: Predictions, again: Predictions, name: str) -> None:
    """Print the largest difference of a probability between the same runs, kept and made again; `name` says which.

    InputError where it passes TOLERANCE, or where images or seeds differ: what is added would not be of the same trial.
    """
    alike = kept.images.astype(str).equals(again.images.astype(str)) and kept.runs.equals(again.runs)
    away = np.abs(np.exp(kept.log_probabilities) - np.exp(again.log_probabilities)).max() if alike else np.nan
    if not away <= TOLERANCE:
        said = f"answers differ by up to {away:.3f}" if alike else "their images or seeds are others"
        raise InputError(f"the kept runs of {name!r} are not those that this code and these images give: {said}")
    print(f"{name} made again: probabilities within {away:.4f} of the kept ones", flush=True)


def add_runs(space: Workspace, stem: str, given: Mapping, folder: Path) -> list[str]:
    """Run what `folder` lacks of 06 or 07 and the images at hand allow, and write it there; the names of what was added."""
    images, planned = study_runs.open_images(space, given, at_hand=True), study_runs.tasks_of(stem, given)
    tasks = [
        task for task in planned
        if task.seeds and lacks(folder, task) and allowed_sets([task.name], images, given.get("AUGMENTED", 0))[0]
    ]  # fmt: skip
    if not tasks:
        return []
    if stem == ABLATION and any(task.network == protocol.FROZEN for task in tasks):
        tasks = [next(t for t in planned if (t.network, t.name) == (protocol.FROZEN, CHECKED)), *tasks]
    found, _ = study_runs.run_tasks(list(dict.fromkeys(tasks)), images, space, given)
    for task, runs in found.items():
        kept = kept_runs(folder, task)
        if kept is not None and task.file == TRIAL:
            check_alike(kept, joined([run for run, _ in runs]), f"{task.network}, {task.name}")
    _add_records(folder, stem, found)
    if stem == ABLATION:
        _add_to_trial_tables(folder, images, list(found))
    else:
        pools = {sets.WHOLE: images.synthetic[sets.SAW_ALL], **images.synthetic}  # any dose 1 has one for each original
        full = replace(images, synthetic=pools)
        chosen = {key: make_training_set(name, full) for key, name in study_runs.OF_PROTOCOLS.items()}
        write_table(study_runs.makeup_of(chosen), folder / study_runs.MAKEUP)
    for file in dict.fromkeys(task.file for task in found):  # last: until then the next call does all again
        _add_to_file(folder, file, {task: runs for task, runs in found.items() if task.file == file})
    return [f"{task.network}, {task.name}" for task in tasks if (task.network, task.name) != (protocol.FROZEN, CHECKED)]


def _add_to_file(folder: Path, file: str, found: Mapping) -> None:
    path, runs = folder / f"{file}.npz", [run for own in found.values() for run, _ in own]
    if file != TRIAL or not path.is_file():
        save_predictions(joined(runs), path)
        return
    kept = load_predictions(path)
    known = set(kept.runs[["network", "training_set", "seed"]].itertuples(index=False, name=None))
    fresh = [run for run in runs if tuple(run.runs.iloc[0][["network", "training_set", "seed"]]) not in known]
    whole = joined([kept, *(replace(run, images=kept.images) for run in fresh)])
    every = [(network, name) for network, names in protocol.TRAINING_SETS.items() for name in names]
    rank = [every.index(pair) for pair in zip(whole.runs["network"], whole.runs["training_set"], strict=True)]
    save_predictions(whole.part(np.lexsort((whole.runs["seed"], rank))), path)


def _add_records(folder: Path, stem: str, found: Mapping) -> None:
    """Learning curves and penalties of what was run, in place of those of the same names."""
    for name, whole in study_runs.tables_of(stem, found).items():
        if whole.empty:
            continue
        path, keys = folder / name, KEYS[name]
        if path.is_file():
            kept = pd.read_csv(path)
            again = kept[keys].astype(str).agg("|".join, axis=1).isin(whole[keys].astype(str).agg("|".join, axis=1))
            whole = pd.concat([rows for rows in (kept[~again], whole) if len(rows)], ignore_index=True)
        if name == "penalties.csv":
            rank = list(protocol.TRAINING_SETS[protocol.FROZEN]).index
            whole = whole.sort_values("training_set", key=lambda names: names.map(rank), kind="stable")
        write_table(whole.reindex(columns=list(study_runs.TABLES[stem][name])), path)


def _add_to_trial_tables(folder: Path, images: sets.Images, tasks: Sequence[Task]) -> None:
    """What was left out no longer is, pools that came later are counted, and added runs name their code and page."""
    done = pd.DataFrame([(t.network, t.name) for t in tasks if t.file == TRIAL], columns=["network", "training_set"])
    left_out = pd.read_csv(folder / "left_out.csv")
    keys = left_out["network"] + "|" + left_out["training_set"]
    write_table(left_out[~keys.isin(done["network"] + "|" + done["training_set"])], folder / "left_out.csv")
    mine, kept = images.counts(), pd.read_csv(folder / "counts.csv").set_index("entity")
    whole = kept.join(mine[mine.columns.difference(kept.columns)])
    pools = [f"synthetic, {pool}" for pool in sets.TRIAL_POOLS]
    order = ["training originals", *pools, "validation originals", "test originals"]
    write_table(whole[[name for name in order if name in whole]].reset_index(), folder / "counts.csv")
    fresh = [task for task in tasks if task.file == TRIAL and kept_runs(folder, task) is None]
    if fresh and (folder / PROVENANCE).is_file():
        named = {"run": commit()[:12], "protocol": last_commit(provenance.PROTOCOL)[:12]}
        rows = [{"network": t.network, "training_set": t.name, "seeds": len(t.seeds), **named} for t in fresh]
        table = pd.read_csv(folder / PROVENANCE, dtype=str)
        write_table(pd.concat([table, pd.DataFrame(rows)]).reindex(columns=table.columns), folder / PROVENANCE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = of_results(
        "dermstudy_commands.maintenance.more_runs", __doc__, "whose parameters of 06 and 07 say what is run"
    )
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    results = options.results or default_results(options.profile, options.data)
    every, space = profiles.complete(options.profile, results, options.data), Workspace(workspace.from_root(results))
    folder = space.root / PREDICTIONS
    if not (folder / f"{TRIAL}.npz").is_file():
        raise InputError(f"no predictions in {folder}: run 07_ablation first")
    added = [name for stem in (ABLATION, CLASSIFIER) for name in add_runs(space, stem, every[stem], folder)]
    print("added:", "; ".join(added) or "nothing: every training set that the images at hand allow has its runs")


if __name__ == "__main__":
    sys.exit(main())
