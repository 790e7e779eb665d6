"""Committed results, proven: a profile run once more beside them, every table and figure compared.

To the byte where the processor's instruction set is the one that made them, or is capped to it by the variables that the
manifest names; elsewhere rounding differs, and with it what a training arrives at, so that numbers and pixels are held to
a tolerance instead.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.data.images import opened
from dermstudy.processor import instruction_set
from dermstudy.workspace import Workspace, from_root
from dermstudy_commands.runner import study
from dermstudy_commands.runner.fingerprints import older
from dermstudy_commands.runner.profiles import surroundings
from dermstudy_commands.runner.provenance import manifest

TOLERANCE = 0.05  # on another instruction set: of a column's largest number; of the range of pixels, on average


@dataclass(frozen=True)
class Comparison:
    """Tables and figures of two results folders: how many were compared, and where those that differ do so first."""

    tables: int
    figures: int
    manner: str  # how exactly, and on which processor
    other_tables: dict[str, str] = field(default_factory=dict)
    other_figures: dict[str, str] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        return not self.other_tables and not self.other_figures

    def line(self) -> str:
        """The comparison in one line."""
        told = []
        for kind, count, other in (
            ("tables equal", self.tables, self.other_tables),
            ("figures equal by their pixels", self.figures, self.other_figures),
        ):
            where = "; ".join(f"{name}: {place}" for name, place in other.items())
            told.append(f"{kind} {count - len(other)} of {count}" + (f" ({where})" if where else ""))
        return f"{', '.join(told)}; {self.manner}"


def rerun(results: str | Path, jobs: int = 1) -> tuple[Comparison, list[str]]:
    """Run the profile of `results` into a temporary folder and compare; and the notebooks that older code made.

    jobs: notebooks at once. InputError where the folder holds no run; NotebookFailed as `run` has it, and the temporary
    folder with the traceback is left then.
    """
    results = from_root(results)
    notes = manifest(results)
    stale = older(results)
    data = notes["notebooks"].get("00_dataset", {}).get("parameters", {}).get("DATA", "phantom")
    data = None if "phantom" in data else str(from_root(data).resolve())
    folder = Path(tempfile.mkdtemp(prefix="dermstudy-verify-"))
    last, caps = max(notes["notebooks"])[:2], notes.get("environment", {})
    try:
        study.run(notes["profile"], data, str(folder / "results"), to=last, jobs=jobs, environment=caps)
        return compare(results, folder / "results"), stale
    finally:
        if not any(folder.glob("results/artifacts/failed/*")):
            shutil.rmtree(folder, ignore_errors=True)


def compare(expected: Path, found: Path) -> Comparison:
    """Compare the tables and figures that notebooks made in `expected` with those in `found`.

    Where `found` holds only some of the notebooks, theirs alone are compared. Exact where the manifest of `expected`
    names this processor's instruction set and no other, else within TOLERANCE. InputError where there is no manifest.
    """
    notes, again = manifest(expected), manifest(found)
    made = [*notes.get("tables", {}).values(), *notes.get("figures", {}).values()]
    named = {one["processor"] for one in made} or {notes.get("processor", "")}
    with surroundings(notes.get("environment", {})):
        here = instruction_set()
    exact = named == {here}
    manner = f"exactly, on {here}"
    if not exact:
        manner = (
            f"within {TOLERANCE:.0%} of a column's largest number and of the pixels' range: this is {here}, "
            f"and they were made on {' and '.join(sorted(named - {''})) or 'a processor that the manifest does not name'}"
        )
    counts, others = {}, {}
    for kind, differs in (("tables", table_difference), ("figures", figure_difference)):
        kept, new = (_files(root, kind) for root in (expected, found))
        asked = {
            name
            for this, other in ((notes, again), (again, notes))
            for name, one in this.get(kind, {}).items()
            if one["notebook"] in other["notebooks"]
        }
        counts[kind], others[kind] = len(asked), {}
        for name in sorted(asked):
            if name in kept and name in new:
                where = differs(kept[name], new[name], 0.0 if exact else TOLERANCE)
            else:
                where = "missing" if name in kept else "not among the committed"
            others[kind] |= {name: where} if where else {}
    return Comparison(counts["tables"], counts["figures"], manner, others["tables"], others["figures"])


def _files(root: Path, kind: str) -> dict[str, Path]:
    space = Workspace(root)
    return space.pictures() if kind == "figures" else {path.stem: path for path in space.tables.glob("*.csv")}


def table_difference(expected: Path, found: Path, tolerance: float) -> str:
    """Where two CSV files differ first, by row (1 is the first below the head) and column; "" where they do not.

    tolerance: the share of a column's largest number by which numbers may differ; 0 asks for equal bytes.
    """
    if expected.read_bytes() == found.read_bytes():
        return ""
    first, second = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in (expected, found))
    if list(first.columns) != list(second.columns):
        extra = [name for name in [*first.columns, *second.columns] if (name in first) != (name in second)]
        return f"column {extra[0]} in one only" if extra else "the order of the columns"
    rows = min(len(first), len(second))
    unequal = (first[:rows].to_numpy() != second[:rows].to_numpy()).reshape(rows, len(first.columns))
    if tolerance:
        one, other = (frame[:rows].apply(pd.to_numeric, errors="coerce").to_numpy(float) for frame in (first, second))
        largest = np.abs(np.where(np.isfinite(one), one, 0.0)).max(axis=0, initial=0.0)
        unequal &= ~(np.abs(one - other) <= tolerance * largest)
    differing = np.argwhere(unequal)
    if len(differing):
        row, column = differing[0]
        return (
            f"row {row + 1}, column {first.columns[column]}, {first.iat[row, column]} against {second.iat[row, column]}"
        )
    if len(first) != len(second):
        return f"{len(first)} rows against {len(second)}"
    return "" if tolerance else "the same cells in other bytes"


def figure_difference(expected: Path, found: Path, tolerance: float) -> str:
    """How the pixels of two images differ; "" where they do not.

    tolerance: the share of the range of pixels by which they may differ on average; 0 asks for equal pixels.
    """
    with opened(expected) as one, opened(found) as other:
        first, second = (np.asarray(image.convert("RGBA"), dtype=np.int16) for image in (one, other))
    if first.shape != second.shape:
        return f"{first.shape[1]} x {first.shape[0]} against {second.shape[1]} x {second.shape[0]} pixels"
    change = np.abs(first - second)
    if not tolerance:
        share = (change > 0).any(axis=2).mean()
        return f"{share:.2%} of the pixels" if share else ""
    mean = change[..., :3].mean() / 255
    return f"{mean:.1%} of the range on average" if mean > tolerance else ""
