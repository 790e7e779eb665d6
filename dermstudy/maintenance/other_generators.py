"""Another generator's images, measured as 04 measures the first one's: `python -m dermstudy.maintenance.other_generators`.

    python -m dermstudy.maintenance.other_generators ham10000 ham10000-second --data DIR

Their images are no part of the repository: a table beside the trial's says how near to real ones they come and what their
generator saw, and a sheet shows some.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dermstudy import figures, workspace
from dermstudy.data import dataset
from dermstudy.data.dataset import Cohort
from dermstudy.diffusion import weights
from dermstudy.entities import CODES, NAMES
from dermstudy.evaluation import encoders, quality
from dermstudy.evaluation.encoders import Encoder
from dermstudy.files import InputError
from dermstudy.maintenance.commands import answered, of_results
from dermstudy.runner import provenance
from dermstudy.runner.profiles import complete
from dermstudy.runner.study import default_results
from dermstudy.workspace import Workspace

COMMAND = f"{provenance.COMMANDS}other_generators"
TABLE = "other_generators"
COLUMNS = ["generator", "lesions", "images_seen", "n", "metric", "value", "low", "high", "floor"]
SHOWN = 8  # images an entity on a sheet
SAW_ALL = "generator that saw all lesions"


def measured(cohort: Cohort, painted: Cohort, judge: Encoder, given: dict, cache: Path) -> pd.DataFrame:
    """The pooled rows of `quality.audited`: metric, n, value, low, high, floor; given: the parameters of 04."""
    chosen = dataset.some_of_each(painted, given["MEASURED"], given["SEED"])
    both = quality.sides(cohort, given["AUDIT_N"], given["SEED"])
    parts = [encoders.by_entity(side, cache, judge, given["SIDE"]) for side in both.values()]
    made = encoders.vectors(encoders.by_entity(chosen, cache, judge, given["SIDE"]))
    table = quality.audited(made, *parts, given["AUDIT_N"], given["REPEATS"], given["SEED"])
    return table.reset_index().query("entity == 'overall'")


def seen(stage: Path) -> dict:
    """Whose lesions the base model in the folder `stage` was trained on, and on how many images in all, repetitions counted.

    InputError where no lineage lies beside it.
    """
    known = weights.lineage(stage.parent).get(stage.name, {})
    if "recipe" not in known:
        raise InputError(f"{workspace.shown(stage.parent)} says nothing of how {stage.name} was trained (lineage.json)")
    return {"lesions": known["lesions"], "images_seen": known["recipe"]["steps"] * known["recipe"]["batch"]}


def added(before: pd.DataFrame | None, rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """`rows` of the generator `name` in the place of its earlier ones, by name."""
    kept = [] if before is None else [before[before["generator"] != name]]
    return pd.concat([*kept, rows.assign(generator=name)[COLUMNS]]).sort_values("generator", kind="stable")


def measure(space: Workspace, other: str, own: dict[str, dict], theirs: dict[str, dict]) -> pd.DataFrame:
    """Write the table and the sheet of the profile `other`, and return the table. own, theirs: parameters by notebook."""
    folder = workspace.from_root(f"results/{other}/artifacts/synthetic")
    if not folder.is_dir():
        raise InputError(f"no images in {workspace.shown(folder)}: run 00 to 03 of the profile {other} first")
    cohort = dataset.open_cohort(space.need("cohort", made_by="00_dataset"))
    painted = dataset.open_synthetic(folder)
    facts = seen(workspace.from_root(theirs["01_finetune"]["START"]))
    name = SAW_ALL if facts["lesions"] == "all" else theirs["03_sample"]["FOR_TRIAL"] or other
    rows = measured(cohort, painted, encoders.fid_encoder(), own["04_metrics"], space.out("features")).assign(**facts)
    path = space.tables / f"{TABLE}.csv"
    table = space.save_table(added(pd.read_csv(path) if path.is_file() else None, rows, name), TABLE)
    grid = [list(painted.select(dx=code).images(128)[:SHOWN]) for code in CODES]
    sheet = f"{TABLE}_{name.replace(' ', '_')}"
    space.save_figure(figures.image_grid(grid, [NAMES[code] for code in CODES]), sheet)
    provenance.name_command(space, COMMAND, {"tables": [TABLE], "figures": [sheet]})
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    said = "whose 04 measured the first generator, and whose results are added to"
    parser = of_results("dermstudy.maintenance.other_generators", __doc__, said)
    parser.add_argument("other", help="the profile whose 03 has painted")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    results = options.results or default_results(options.profile, options.data)
    first, theirs = (complete(name, results, options.data) for name in (options.profile, options.other))
    table = measure(Workspace(workspace.from_root(results)), options.other, first, theirs)
    print(table.to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
