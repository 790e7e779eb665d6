"""The walk through the notebooks: running them in order, skipping what is up to date, provenance.

Notebooks are known by file name only; no stage of the study is imported here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dermstudy.files import InputError, sha256_text, write_text
from dermstudy.processor import instruction_set
from dermstudy.runner import order
from dermstudy.runner.executed import cleaned
from dermstudy.runner.fingerprints import data_token, fingerprints, source_hash
from dermstudy.runner.openings import opened
from dermstudy.runner.profiles import Profile, declared_parameters, load_profile, notebooks, resolve
from dermstudy.runner.provenance import KINDS, data_hash, fixed_by, hashed, holds, read, write_manifest
from dermstudy.workspace import Workspace, commit, from_root, open_workspace, project_root, shown

STATE = "state.json"  # among a results folder's artifacts: what has run, and from what
OUTSIDE = {"running", "failed", "notes", STATE}  # in the artifacts folder, but no notebook's artifact
PREDICTIONS, FROM_FILES = "predictions", "PREDICTIONS"  # a results folder's finished predictions, and who reads them
ORIGINS = ".origins.json"  # beside the artifacts: which commit wrote each last


def run(
    profile: str = "demo",
    data: str | None = None,
    results: str | None = None,
    only: str | Collection[str] | None = None,
    start: str | None = None,
    force: bool = False,
    to: str | None = None,
    jobs: int = 1,
    redraw: bool = False,
) -> Path:
    """Execute the notebooks of a profile in order and return the results folder.

    data: a folder in the HAM10000 layout in place of the profile's own cohort; the results then go to
    results/<profile>-data unless `results` says otherwise, so that no real pixel lands in a committed folder.
    only: a two-digit notebook number, or several; start, to: the first and the last one that run. force: run notebooks that
    are up to date as well. redraw: those that can read finished predictions (06, 07) read the ones in the results folder.
    Raises InputError for anything the user can mend, in a notebook's cell too (NotebookRefused), NotebookFailed when a cell
    fails otherwise.
    """
    chosen = load_profile(profile)
    data, results = places(chosen, data, results)
    parameters = resolve(chosen, results, data)
    chosen_ones = selected(only, start, to)
    if redraw:
        _redrawn(parameters, chosen_ones, results)
    space = open_workspace(results)
    with locked(space):
        prints = fingerprints(parameters, data_token(data or _data_of(chosen)))
        print(f"profile {profile}: {chosen.description}")
        print(f"results in {shown(space.root)}")
        started = time.monotonic()
        walk = _Walk(space, chosen, parameters, prints, force, jobs > 1)
        order.run_in_order(chosen_ones, walk.step, jobs)
        print(f"done in {_clock(time.monotonic() - started)}: {shown(space.root)}", flush=True)
    return space.root


@dataclass
class _Walk:
    """A run's bookkeeping: what is up to date, what each notebook made, the manifest; one notebook at a time writes it."""

    space: Workspace
    profile: Profile
    parameters: dict[str, dict]
    prints: dict[str, str]
    force: bool
    together: bool  # notebooks run beside each other: their lines are told apart
    writing: threading.Lock = field(default_factory=threading.Lock)

    def step(self, notebook: Path) -> None:
        """Run `notebook`, unless it is up to date."""
        stem, target = notebook.stem, self.space.root / notebook.name
        with self.writing:
            state = _load_state(self.space)
            if not self.force and target.is_file() and _up_to_date(self.space, state, stem, self.prints):
                print(f"[{stem}] up to date", flush=True)
                return
            state.pop(stem, None)
            _save_state(self.space, state)
            before = _contents(self.space)
        own, prefix = self.parameters[stem], f"[{stem[:2]}] " if self.together else ""
        try:
            stamp = _execute(notebook, target, own, self.space, self.profile.name, self.prints, prefix)
        finally:
            with self.writing:
                made = _made(notebook, self.space, before)
        with self.writing:
            state = _load_state(self.space)
            state[stem] = stamp | made | {"parameters": declared_parameters(notebook) | own}
            _save_state(self.space, state)
            write_manifest(self.space, self.profile, state, stem)


def _redrawn(parameters: dict[str, dict], chosen: Collection[Path], results: str) -> None:
    """Name the finished predictions of a results folder to the `chosen` notebooks; InputError where one cannot read any."""
    folder = f"{results}/{PREDICTIONS}"
    if not from_root(folder).is_dir():
        raise InputError(f"no finished predictions in {folder}: run 06 and 07 and copy theirs (docs/RUNNING.md)")
    for notebook in chosen:
        if FROM_FILES not in declared_parameters(notebook):
            raise InputError(f"{notebook.stem} reads no predictions: give --redraw with --only 06 or 07")
        parameters[notebook.stem][FROM_FILES] = folder


def default_results(profile: str, data: str | None = None) -> str:
    """Where a run goes that is not told: results/<profile>, or results/<profile>-data for images in place of a phantom."""
    return f"results/{profile}" + ("-data" if data and _data_of(load_profile(profile)) == "phantom" else "")


def places(chosen: Profile, data: str | None, results: str | None) -> tuple[str | None, str]:
    """The data folder, taken from the project root, and the results folder of a run; defaults as in `run`.

    InputError where `data` is no folder.
    """
    if data is not None:
        if not Path(data).expanduser().is_dir():
            raise InputError(f"no folder {data}: give --data the folder of a HAM10000 download")
        data = os.path.relpath(Path(data).expanduser().resolve(), project_root())
    return data, results or default_results(chosen.name, data)


def _data_of(profile: Profile) -> str:
    """The profile's DATA, or the default of the notebook that declares it."""
    own = {**profile.shared, **profile.own.get("00_dataset", {})}
    return own.get("DATA") or declared_parameters(notebooks()[0])["DATA"]


class NotebookFailed(Exception):
    """A cell of a notebook failed. The message names the notebook, the cell and the error in one line."""


class NotebookRefused(NotebookFailed, InputError):
    """A cell of a notebook refused what the user gave it, in the same one line."""


def selected(only: str | Collection[str] | None = None, start: str | None = None, to: str | None = None) -> list[Path]:
    """The notebooks of these two-digit numbers, or those from `start` to `to`, or all. InputError for an unknown number."""
    sources = notebooks()
    several = [only] if isinstance(only, str) else only
    for number in [*(several or []), *(end for end in (start, to) if end)]:
        if number not in {notebook.name[:2] for notebook in sources}:
            raise InputError(f"no notebook {number!r}: notebooks/ has {', '.join(n.name[:2] for n in sources)}")
    if several is not None and (start or to):
        raise InputError("--only names the notebooks to run: give it without --from and --to")
    if several is not None:
        return [notebook for notebook in sources if notebook.name[:2] in several]
    if start is not None and to is not None and start > to:
        raise InputError(f"--from {start} lies after --to {to}: nothing would run")
    after = [notebook for notebook in sources if start is None or notebook.name[:2] >= start]
    return [notebook for notebook in after if to is None or notebook.name[:2] <= to]


def _execute(
    notebook: Path, target: Path, parameters: dict, space: Workspace, profile: str, prints: dict, prefix: str = ""
) -> dict:
    """Run a notebook into `target`; its stamp: what was run, by which commit, on what, for how long."""
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from dermstudy.runner.progress import ENGINE, IndentedOutput

    running, failed = (space.artifacts / folder / notebook.name for folder in ("running", "failed"))
    running.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    try:
        papermill.execute_notebook(
            str(notebook),
            str(running),
            parameters=parameters,
            engine_name=ENGINE,
            kernel_name="python3",
            cwd=str(project_root()),
            progress_bar=False,
            autosave_cell_every=0,
            stdout_file=IndentedOutput(prefix),
            extra_arguments=["--IPKernelApp.log_level=50"],
        )
    except PapermillExecutionError as error:
        failed.parent.mkdir(exist_ok=True)
        os.replace(running, failed)
        message = " ".join(str(error.evalue).split())
        mendable = error.ename == "InputError"
        name, kept = ("", "notebook up to there") if mendable else (f"{error.ename}: ", "whole traceback")
        kind = NotebookRefused if mendable else NotebookFailed
        raise kind(f"{notebook.stem}, cell {error.exec_count}: {name}{message} ({kept} in {shown(failed)})") from error
    except DeadKernelError as error:
        raise NotebookFailed(f"{notebook.stem}: its kernel died, most often for want of memory") from error
    seconds = time.monotonic() - started
    stamp = {
        "source": source_hash(notebook),
        "fingerprint": prints[notebook.stem],
        "profile": profile,
        "commit": commit(),
        "processor": instruction_set(),
        "data_hash": data_hash(space),
        "seconds": round(seconds, 1),
    }
    stamp |= fixed_by(notebook.stem)
    executed = cleaned(nbformat.read(running, as_version=4), stamp)
    nbformat.write(opened(executed, notebook.stem, space), running)
    os.replace(running, target)
    failed.unlink(missing_ok=True)
    print(f"[{notebook.stem}] {_clock(seconds)}", flush=True)
    return {name: value for name, value in stamp.items() if name != "profile"}


def _up_to_date(space: Workspace, state: dict, stem: str, prints: dict) -> bool:
    known = state.get(stem, {})
    there = all((space.artifacts / name).exists() for name in known.get("artifacts", []))
    # a table that was put back from elsewhere, or edited, is there and not the one that this run made
    there &= all(holds(space, kind, name, made) for kind in KINDS for name, made in known.get(kind, {}).items())
    return there and known.get("fingerprint") == prints[stem]


def _contents(space: Workspace) -> dict[str, dict[str, str]]:
    """What lies in a workspace, by kind and name, each with a word that changes whenever it is written."""

    def word(path: Path) -> str:
        known = []
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # another notebook's, and gone since it was listed
                found = file.stat()
                known.append((str(file), found.st_ino, found.st_mtime_ns, found.st_size))
        return sha256_text(repr(known))

    artifacts = [path for path in space.artifacts.iterdir() if not path.name.startswith(".")]
    return {
        "artifacts": {path.name: word(path) for path in artifacts if path.name not in OUTSIDE},
        "tables": {path.stem: word(path) for path in space.tables.glob("*.csv")},
        "figures": {name: word(path) for name, path in space.pictures().items()},
        "measures": {path.stem: word(path) for path in space.notes.glob("*.json")},
    }


def _made(notebook: Path, space: Workspace, before: dict) -> dict[str, dict]:
    """The artifacts, tables and figures of a notebook that has just run, each with commit and processor that wrote it.

    What it noted of time and memory stands beside them, as `measures`.
    An artifact that stayed as it was, such as a finished training, keeps those that made it; "" where none are known.
    """
    now = {"commit": commit(), "processor": instruction_set()}
    own, after = order.claims(notebook), _contents(space)
    others = [order.claims(other) for other in notebooks() if other.stem != notebook.stem]
    record = space.artifacts / ORIGINS
    origins = read(record)
    made: dict[str, dict] = {}
    for kind, present in after.items():
        written = {name for name, word in present.items() if before[kind].get(name) != word}
        beside = set().union(*(other[kind] for other in others)) - own[kind]  # a notebook that ran at the same time
        made[kind] = {name: now | hashed(space, kind, name) for name in sorted(written - beside)}
    made["measures"] = {name: json.loads((space.notes / f"{name}.json").read_text()) for name in made["measures"]}
    for name in own["artifacts"] & set(after["artifacts"]) - set(made["artifacts"]):
        known = origins.get(name, {})
        same = known.get("word") == after["artifacts"][name]
        made["artifacts"][name] = {key: known[key] if same else "" for key in now}
    for name in made["artifacts"]:
        origins[name] = made["artifacts"][name] | {"word": after["artifacts"][name]}
    write_text(record, json.dumps(origins, indent=1))
    return made


def _load_state(space: Workspace) -> dict:
    return read(space.artifacts / STATE)


def _save_state(space: Workspace, state: dict) -> None:
    write_text(space.artifacts / STATE, json.dumps(state, indent=1))


@contextlib.contextmanager
def locked(space: Workspace) -> Iterator[None]:
    """Hold the lock of a results folder, which every command that writes there takes; InputError where another has it."""
    space.artifacts.mkdir(parents=True, exist_ok=True)  # committed results have none
    with open(space.artifacts / ".lock", "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"another run is writing to {shown(space.root)}: wait for it, or give --results"
            ) from error
        yield


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
