"""The protocol's power: `python -m dermstudy.maintenance.power` simulates the trial and writes docs/protocol/.

With `--data FOLDER` (a HAM10000 download) the test lesions are counted anew first; without it the committed counts serve.
The tables of docs/PROTOCOL.md between marks are written from the same numbers.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pandas as pd

from dermstudy.classification import simulation
from dermstudy.data import dataset, near_duplicates, splits
from dermstudy.entities import CODES
from dermstudy.files import InputError, atomic_path, write_text
from dermstudy.maintenance.commands import answered

FIRST, PRESENT, POOLED = "first split, test", "present split, test", "present split, validation and test"
FILES = {
    FIRST: ("weights/ham10000-split-first.csv", ("test",)),
    PRESENT: ("weights/ham10000-split.csv", ("test",)),
    POOLED: ("weights/ham10000-split.csv", ("validation", "test")),
}
COUNTS, POWER, FALSE_ALARMS = "test_lesions.csv", "power.csv", "false_alarms.csv"


def count_lesions(frame: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Test lesions by how many images they have: columns split, entity, images, lesions.

    frame: a cohort's rows; lesions whose images show the same skin count as one.
    """
    frame = frame.assign(group=near_duplicates.join_groups(frame, near_duplicates.confirmed_pairs(frame)))
    parts = []
    for name, (path, kept) in FILES.items():
        own = frame[splits.apply_split(frame, root / path).isin(kept)].sort_values("image_id")
        lesions = own.groupby("group").agg(entity=("dx", "first"), images=("dx", "size"))
        count = lesions.groupby(["entity", "images"]).size().rename("lesions").reset_index()
        count = count.sort_values(["entity", "images"], key=lambda c: c.map(CODES.index) if c.name == "entity" else c)
        parts.append(count.assign(split=name))
    return pd.concat(parts, ignore_index=True)[["split", "entity", "images", "lesions"]]


def by_split(counts: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What `count_lesions` gives, a frame a split."""
    return {name: own.reset_index(drop=True) for name, own in counts.groupby("split", sort=False)}


def blocks(counts: pd.DataFrame, power: pd.DataFrame, alarms: pd.DataFrame) -> dict[str, str]:
    """The tables of docs/PROTOCOL.md in Markdown, by the name of their mark."""
    lesions = counts.groupby(["split", "entity"], sort=False)["lesions"].sum().unstack()[list(CODES)]
    images = (counts["lesions"] * counts["images"]).groupby(counts["split"]).sum()
    heads = ["melanoma", "nevus", "actinic k.", "benign k.", "basal cell c.", "dermatofibroma", "vascular"]
    first = [[name, f"{images[name]:,}", *(f"{value:,}" for value in own)] for name, own in lesions.iterrows()]
    effects = [column for column in power if column.startswith("power_")]
    second = [
        [row["split"], row["seeds"], f"{row['standard_error']:.4f}", f"{row['seeds_share']:.0%}"]
        + [f"{row['detectable']:.3f}", f"{row['false_alarms']:.1%}", *(f"{row[column]:.0%}" for column in effects)]
        + [f"{row[f'equivalent_{margin}']:.0%}" for margin in (simulation.MARGIN, simulation.NARROW)]
        for _, row in power.iterrows()
    ]
    third = [
        [row["scenario"], row["seeds"], f"{row['the_rule']:.1%}"]
        + [f"{row['crossed_percentiles']:.1%}", f"{row['t_over_seeds']:.1%}"]
        for _, row in alarms.iterrows()
    ]
    margins = [f"equivalent, ±{margin:.3f}" for margin in (simulation.MARGIN, simulation.NARROW)]
    effects = [f"power at {float(column.removeprefix('power_')):.3f}" for column in effects]
    start = ["lesions", "seeds", "standard error", "seeds' share", "detectable", "false alarms"]
    return {
        "lesions": _markdown(["lesions", "images", *heads], first),
        "power": _markdown([*start, *effects, *margins], second),
        "false alarms": _markdown(["differences", "seeds", "the rule", "crossed percentiles", "t over seeds"], third),
    }


def filled(page: str, tables: dict[str, str]) -> str:
    """`page` with each table between its marks, `<!-- NAME -->` and `<!-- end -->`; InputError where a mark is missing."""
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(page):
            raise InputError(f"docs/PROTOCOL.md has no place <!-- {name} --> … <!-- end -->: put the marks back")
        page = pattern.sub(lambda found, table=table: found[1] + table + found[2], page)
    return page


def _markdown(heads: list[str], rows: list[list]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def _write(table: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dermstudy.maintenance.power", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", help="a HAM10000 download: count the test lesions anew")
    parser.add_argument("--root", default=".", help="the checkout (default: here)")
    parser.add_argument("--trials", type=int, default=2000, help="simulated trials a row (default 2000)")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    root = Path(options.root)
    folder, page = root / "docs/protocol", root / "docs/PROTOCOL.md"
    if options.data:
        _write(count_lesions(dataset.load_folder(options.data).frame, root), folder / COUNTS)
    if not (folder / COUNTS).is_file() or not page.is_file():
        raise InputError(f"{root} has no {page.name} or no counts of lesions: give the checkout (--root) or --data")
    counts = pd.read_csv(folder / COUNTS)
    lesions = by_split(counts)
    power = simulation.power_table(lesions, options.trials)
    alarms = simulation.false_alarm_table(lesions[PRESENT], count=options.trials)
    text = filled(page.read_text(encoding="utf-8"), blocks(counts, power, alarms))
    _write(power, folder / POWER)
    _write(alarms, folder / FALSE_ALARMS)
    write_text(page, text)
    print(power.round(4).to_string(index=False), alarms.round(3).to_string(index=False), sep="\n\n")


if __name__ == "__main__":
    sys.exit(main())
