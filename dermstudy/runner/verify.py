"""Committed results, proven: a profile run once more beside them, every table and figure compared.

To the byte where the processor's instruction set is the one that made them; elsewhere rounding differs, and with it what
a training arrives at, so that numbers and pixels are held to a tolerance instead.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dermstudy.files import InputError
from dermstudy.processor import instruction_set
from dermstudy.runner import study
from dermstudy.runner.fingerprints import manifest, older
from dermstudy.workspace import Workspace, from_root, project_root, shown

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
        parts = []
        for kind, count, other in (
            ("tables equal", self.tables, self.other_tables),
            ("figures equal by their pixels", self.figures, self.other_figures),
        ):
            where = "; ".join(f"{name}: {place}" for name, place in other.items())
            parts.append(f"{kind} {count - len(other)} of {count}" + (f" ({where})" if where else ""))
        return f"{', '.join(parts)}; {self.manner}"


def rerun(results: str | Path, at_commit: bool = False, jobs: int = 1) -> tuple[Comparison, list[str]]:
    """Run the profile of `results` into a temporary folder and compare; and the notebooks that older code made.

    at_commit: each notebook is run by the commit that the manifest names for it, checked out into a temporary worktree,
    with the packages that are installed here; none is older then. jobs: notebooks at once, with today's code.
    InputError where the folder holds no run, or a commit is not at hand; NotebookFailed as `run` has it, and the temporary
    folder with the traceback is left then.
    """
    results = from_root(results)
    notes = manifest(results)
    stale = [] if at_commit else older(results)
    data = notes["notebooks"].get("00_dataset", {}).get("parameters", {}).get("DATA", "phantom")
    data = None if data == "phantom" else str(from_root(data).resolve())
    folder = Path(tempfile.mkdtemp(prefix="dermstudy-verify-"))
    keep = False
    try:
        if at_commit:
            _run_at_commits(notes, data, folder / "results")
        else:
            study.run(notes["profile"], data, str(folder / "results"), to=max(notes["notebooks"])[:2], jobs=jobs)
        return compare(results, folder / "results"), stale
    except study.NotebookFailed:
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def compare(expected: Path, found: Path) -> Comparison:
    """Compare the tables and figures that notebooks made in `expected` with those in `found`.

    Where `found` holds only some of the notebooks, theirs alone are compared. Exact where the manifest of `expected`
    names this processor's instruction set and no other, else within TOLERANCE. InputError where there is no manifest.
    """
    notes, again = manifest(expected), manifest(found)
    whole = set(notes["notebooks"]) <= set(again["notebooks"])
    made = [*notes.get("tables", {}).values(), *notes.get("figures", {}).values()]
    named = {one["processor"] for one in made} or {notes.get("processor", "")}
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
        own, new = (_files(root, kind) for root in (expected, found))
        if kind in notes:  # else nothing says which notebook made what, and a maintainer's tables are among them
            asked = {name for name, one in notes[kind].items() if one["notebook"] in again["notebooks"]}
            more = {name for name, one in again.get(kind, {}).items() if one["notebook"] in notes["notebooks"]}
        else:
            asked, more = (set(own), set(new)) if whole else (set(own) & set(new), set())
        counts[kind], others[kind] = len(asked | more), {}
        for name in sorted(asked | more):
            if name not in own or name not in new:
                others[kind][name] = "missing" if name not in new else "not among the committed"
                continue
            place = differs(own[name], new[name], 0.0 if exact else TOLERANCE)
            if place:
                others[kind][name] = place
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
        for place, name in enumerate(first.columns):
            one, other = (
                pd.to_numeric(frame[name][:rows], errors="coerce").to_numpy(float) for frame in (first, second)
            )
            finite = one[np.isfinite(one)]
            near = np.abs(one - other) <= tolerance * (np.abs(finite).max() if len(finite) else 0.0)
            unequal[:, place] &= ~near
    places = np.argwhere(unequal)
    if len(places):
        row, column = places[0]
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
    with Image.open(expected) as one, Image.open(found) as other:
        first, second = (np.asarray(image.convert("RGBA"), dtype=np.int16) for image in (one, other))
    if first.shape != second.shape:
        return f"{first.shape[1]} x {first.shape[0]} against {second.shape[1]} x {second.shape[0]} pixels"
    change = np.abs(first - second)
    if not tolerance:
        share = (change > 0).any(axis=2).mean()
        return f"{share:.2%} of the pixels" if share else ""
    mean = change[..., :3].mean() / 255
    return f"{mean:.1%} of the range on average" if mean > tolerance else ""


@contextmanager
def committed(profile: str, target: str | Path, own_data: bool = False) -> Iterator[Path]:
    """A copy of the results that a run into `target` is compared with: of HEAD, or else of what lies there before the run.

    own_data: the run is of other images than those of results/<profile>, which are then no measure for it.
    InputError where there is nothing to compare with.
    """
    target = from_root(target)
    wanted = [shown(target)] + ([] if own_data else [f"results/{profile}"])
    with tempfile.TemporaryDirectory(prefix="dermstudy-committed-") as folder:
        for name in wanted:
            packed = _git("archive", "HEAD", "--", name)
            if packed.returncode == 0:
                with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
                    archive.extractall(folder, filter="data")
                if (Path(folder) / name / "manifest.json").is_file():
                    yield Path(folder) / name
                    return
        if not (target / "manifest.json").is_file():
            raise InputError(f"nothing to verify against: neither HEAD nor {shown(target)} holds results of {profile}")
        for name in ("tables", "figures"):
            shutil.copytree(target / name, Path(folder) / name)
        shutil.copy(target / "manifest.json", folder)
        yield Path(folder)


def _run_at_commits(notes: dict, data: str | None, target: Path) -> None:
    commits = {stem: entry["commit"] for stem, entry in sorted(notes["notebooks"].items())}
    for stem, commit in commits.items():
        if commit.endswith("+changes") or not commit or commit == "unknown":
            raise InputError(f"{stem} was made by code that no commit holds ({commit or 'none named'}): run it again")
        if _git("cat-file", "-e", f"{commit}^{{commit}}").returncode:
            raise InputError(f"commit {commit[:12]} of {stem} is not in this clone: git fetch --unshallow")
    with tempfile.TemporaryDirectory(prefix="dermstudy-commit-") as folder:
        tree = Path(folder) / "tree"
        try:
            for stem, commit in commits.items():
                place = ["-C", str(tree), "checkout", "--quiet"] if tree.is_dir() else ["worktree", "add", str(tree)]
                done = _git(*place, "--detach", commit)
                if done.returncode:
                    raise InputError(f"git cannot check out {commit[:12]}: {done.stderr.decode().strip()}")
                _lend(notes["notebooks"][stem]["parameters"], tree)
                arguments = ["run", notes["profile"], "--only", stem[:2], "--results", str(target)]
                arguments += ["--data", data] if data else []
                print(f"{stem} at commit {commit[:12]}", flush=True)
                code = subprocess.run(
                    [sys.executable, "-c", _entry(tree), *arguments],
                    cwd=tree,
                    env=os.environ | {"PYTHONPATH": str(tree)},
                ).returncode
                if code:
                    raise study.NotebookFailed(f"{stem} does not run at commit {commit[:12]}: its exit code is {code}")
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _entry(tree: Path) -> str:
    """Python that calls the command line of the checkout at `tree`, wherever its pyproject.toml says that it lies."""
    scripts = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, function = scripts["dermstudy"].split(":")
    return f"import sys; from {module} import {function}; sys.exit({function}())"


def _lend(parameters: dict, tree: Path) -> None:
    """Link into `tree` what its parameters name in this checkout outside of git: data, weights, another run's artifacts."""
    for value in parameters.values():
        if not isinstance(value, str) or not value.strip() or Path(value).is_absolute():
            continue
        here, there = project_root() / value, tree / value
        if here.exists() and not there.exists() and project_root() in here.resolve().parents:
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(here.resolve())


def _git(*arguments: str) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(["git", "-C", str(project_root()), *arguments], capture_output=True)
    except OSError as error:
        raise InputError("git is not installed, and committed results are read with it: install it") from error
