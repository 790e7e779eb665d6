"""Settings of the fine-tuned network side by side, by validation lesions: `python -m dermstudy.maintenance.tuning_settings`.

    python -m dermstudy.maintenance.tuning_settings ham10000 --data DIR

All originals, one seed, one change at a time from what 07 uses. No test lesion is read: rows of the trial are not chosen by
it, they say what the trial's setting stands beside. Writes tables/fine_tuning_settings.csv of the results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dermstudy import workspace
from dermstudy.classification import at_hand, fine_tuning, frozen_features, protocol, runs
from dermstudy.data import dataset
from dermstudy.maintenance.commands import answered, of_results
from dermstudy.runner import profiles, provenance, task
from dermstudy.runner.study import default_results
from dermstudy.workspace import Workspace

COMMAND = f"{provenance.COMMANDS}tuning_settings"
TABLE = "fine_tuning_settings"
CHANGES = ({}, {"rate": 1e-4}, {"rate": 1e-3}, {"epochs": 12})  # of 07's setting, which is the first
SHOWN = ("rate", "epochs")
SCORES = frozen_features.balanced_log_loss, frozen_features.macro_auc, frozen_features.balanced_accuracy
SEED = 0


def candidates(tuning: fine_tuning.Tuning, changes: Sequence[dict] = CHANGES) -> list[fine_tuning.Tuning]:
    """`tuning` with each of `changes`."""
    return [replace(tuning, **change) for change in changes]


def compared(
    images: at_hand.Images,
    settings: Sequence[fine_tuning.Tuning],
    folder: str | Path,
    workers: int = 1,
    seed: int = SEED,
) -> pd.DataFrame:
    """One row a setting, trained on all originals: SHOWN, kept_epoch, steps, and of validation lesions balanced_log_loss,
    macro_auc and balanced_accuracy, all of posteriors corrected to an even prior.

    folder: where 07 keeps activations and runs (artifacts/fine_tuned).
    """
    asked = [_job(images, tuning, Path(folder), seed) for tuning in settings]
    found, epochs = fine_tuning.run_all(asked, workers)
    rows = []
    for job in asked:
        row = {name: getattr(job.tuning, name) for name in SHOWN}
        own = epochs[epochs["training_set"] == job.name].dropna(subset="balanced_log_loss")
        if len(own):  # else the run has failed, and its row ends here
            run = found.select(training_set=job.name)
            row["kept_epoch"] = own.loc[own["balanced_log_loss"].idxmin(), "epoch"]
            row |= {"steps": own["steps"].sum()} | {score.__name__: score(run)[0] for score in SCORES}
        rows.append(row)
    return pd.DataFrame(rows)


def _job(images: at_hand.Images, tuning: fine_tuning.Tuning, folder: Path, seed: int) -> fine_tuning.Job:
    """The run of one setting that answers for validation lesions alone, named by the setting."""
    activations = fine_tuning.encoded(images.originals, {}, tuning, folder / "activations")
    names, frame = [protocol.ORIGINALS], images.originals.frame
    (job,) = fine_tuning.jobs(names, [seed], frame, {}, activations, tuning, folder / "settings")
    watched = job.images[job.images["split"] == "validation"].reset_index(drop=True)
    return replace(job, images=watched, name=", ".join(f"{name} {getattr(tuning, name):g}" for name in SHOWN))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = of_results(
        "dermstudy.maintenance.tuning_settings", __doc__, "whose parameters of 07 are the first setting"
    )
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    results = options.results or default_results(options.profile, options.data)
    own = profiles.complete(options.profile, results, options.data)[task.NOTEBOOK]
    space = Workspace(workspace.from_root(results))
    cohort = dataset.open_cohort(space.need("cohort", made_by="00_dataset"))
    images = runs.gather(cohort, {}, seed=own["SEED"])
    tuning = fine_tuning.of_side(own["TUNED_SIDE"], own["TUNED_EPOCHS"], own["PRECISION"])
    table = compared(images, candidates(tuning), space.out("fine_tuned"), own["WORKERS"])
    space.save_table(table, TABLE)
    provenance.name_command(space, COMMAND, {"tables": [TABLE], "figures": []})
    print(table.round(4).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
