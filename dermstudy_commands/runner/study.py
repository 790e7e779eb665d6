"""The walk through the notebooks: papermill runs them in order, what is up to date is left, the manifest says what ran.

Notebooks are known by file name only; no stage of the study is imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from dermstudy import files
from dermstudy.files import InputError, sha256_file, sha256_text, write_text
from dermstudy.processor import instruction_set
from dermstudy.source import code_hash
from dermstudy.workspace import Workspace, commit, from_root, open_workspace, project_root, shown
from dermstudy_commands.runner import order, provenance
from dermstudy_commands.runner.executed import IndentedOutput, announced, cleaned
from dermstudy_commands.runner.fingerprints import code_cells, data_token, fingerprints, source_hash
from dermstudy_commands.runner.profiles import (
    Profile,
    declared_parameters,
    load_profile,
    notebooks,
    resolve,
    surroundings,
)

PREDICTIONS = "predictions"  # the folder of a results folder's finished predictions
FROM_FILES = {"PREDICTIONS": "", "ANSWERS": "/kit_answers.csv"}  # the parameters that read it, and what of it
RUN = "-run"  # of the folder that a run of a profile with committed results writes to


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
    environment: dict[str, str] | None = None,
) -> Path:
    """Execute the notebooks of a profile in order and return the results folder.

    data: a folder in the HAM10000 layout in place of the profile's own cohort; the results then go to
    results/<profile>-data unless `results` says otherwise, so that no real pixel lands in a committed folder.
    only: a two-digit notebook number, or several; start, to: the first and the last one that run. force: run notebooks that
    are up to date as well. redraw: those that can read finished predictions (05 to 07) read the ones in the results folder.
    environment: variables of the kernels in place of the profile's.
    Raises InputError for anything the user can mend, in a notebook's cell too (NotebookRefused), NotebookFailed when a cell
    fails otherwise.
    """
    chosen = load_profile(profile)
    if environment is not None:
        chosen = replace(chosen, environment=environment)
    data, results = places(chosen, data, results)
    parameters = resolve(chosen, results, data)
    chosen_ones = selected(only, start, to)
    if redraw:
        _redrawn(parameters, chosen_ones, results)
    space = open_workspace(results)
    with locked(space), surroundings({"TQDM_DISABLE": "1"} | chosen.environment):  # bars would fill the notebooks
        provenance.known_manifest(space)  # a damaged one is refused now, not after a notebook
        drawn = chosen.phantom and not data
        if drawn and any(notebook.name.startswith("00") for notebook in chosen_ones):
            draw_phantom(chosen)
        prints = fingerprints(parameters, _phantom_token(chosen) if drawn else data_token(data or _data_of(chosen)))
        writing = threading.Lock()  # one notebook at a time writes the manifest

        def step(notebook: Path) -> None:
            stem, prefix = notebook.stem, f"[{notebook.name[:2]}] " if jobs > 1 else ""
            with writing:
                if not force and provenance.up_to_date(space, stem, prints[stem]):
                    print(f"[{stem}] up to date", flush=True)
                    return
                provenance.started(space, stem)
            stamp = {"source": source_hash(notebook), "fingerprint": prints[stem], "profile": chosen.name}
            began = time.time()
            entry = _execute(notebook, parameters[stem], space, stamp, prefix)
            with writing:
                provenance.write_manifest(space, chosen, stem, entry, _made(notebook, space, began))

        print(f"profile {profile}: {chosen.description}")
        print(f"results in {shown(space.root)}")
        started = time.monotonic()
        order.run_in_order(chosen_ones, step, jobs)
        print(f"done in {_clock(time.monotonic() - started)}: {shown(space.root)}", flush=True)
    return space.root


def _redrawn(parameters: dict[str, dict], chosen: Collection[Path], results: str) -> None:
    """Name the finished predictions of a results folder to the `chosen` notebooks; InputError where one cannot read any."""
    folder = f"{results}/{PREDICTIONS}"
    if not from_root(folder).is_dir():
        raise InputError(f"no finished predictions in {folder}: run 06 and 07 and copy theirs (docs/FULL_RUN.md)")
    for notebook in chosen:
        read = FROM_FILES.keys() & declared_parameters(notebook).keys()
        if not read:
            raise InputError(f"{notebook.stem} reads no predictions: give --redraw with --only 05, 06 or 07")
        parameters[notebook.stem] |= {name: folder + FROM_FILES[name] for name in read}


def default_results(profile: str, data: str | None = None) -> str:
    """Where a run goes that is not told: to the profile's RESULTS, or beside it, with -data, for images in place of a phantom.

    A profile whose results are committed names a folder that git ignores, ending in -run, so that a checkout stays clean.
    InputError where a profile names none.
    """
    chosen = load_profile(profile)
    if not chosen.results:
        raise InputError(f"profile {chosen.name} names no RESULTS: add it to its files, or give --results")
    if data and chosen.phantom:
        return chosen.results.removesuffix(RUN) + "-data"
    return chosen.results


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
    return profile.parameters["00_dataset"].get("DATA") or declared_parameters(notebooks()[0])["DATA"]


def draw_phantom(profile: Profile) -> None:
    """Draw the phantom of a profile into the folder that its DATA names, unless these settings and this code drew it."""
    from dermstudy_commands.phantom import cohort

    folder = from_root(_data_of(profile))
    stamp = folder.with_name(f"{folder.name}.txt")
    with files.locked(stamp.with_suffix(".lock")):  # runs into several results folders share it
        if not folder.is_dir() or not stamp.is_file() or stamp.read_text() != _phantom_token(profile):
            print(f"drawing the phantom in {shown(folder)}", flush=True)
            cohort.write_cohort(folder, **cohort.arguments(profile.phantom))
            write_text(stamp, _phantom_token(profile))


def _phantom_token(profile: Profile) -> str:
    return sha256_text(json.dumps(profile.phantom) + code_hash("dermstudy_commands.phantom.cohort"))


class NotebookFailed(Exception):
    """A cell of a notebook failed. The message names the notebook, the cell and the error in one line."""


class NotebookRefused(NotebookFailed, InputError):
    """A cell of a notebook refused what the user gave it, in the same one line."""


def selected(only: str | Collection[str] | None = None, start: str | None = None, to: str | None = None) -> list[Path]:
    """The notebooks of these two-digit numbers, or those from `start` to `to`, or all. InputError for an unknown number."""
    sources = notebooks()
    several = [only] if isinstance(only, str) else only
    for number in [*(several or []), *(end for end in (start, to) if end is not None)]:
        if number not in {notebook.name[:2] for notebook in sources}:
            raise InputError(f"no notebook {number!r}: notebooks/ has {', '.join(n.name[:2] for n in sources)}")
    if several is not None and (start, to) != (None, None):
        raise InputError("--only names the notebooks to run: give it without --from and --to")
    if several is not None:
        return [notebook for notebook in sources if notebook.name[:2] in several]
    if start is not None and to is not None and start > to:
        raise InputError(f"--from {start} lies after --to {to}: nothing would run")
    after = [notebook for notebook in sources if start is None or notebook.name[:2] >= start]
    return [notebook for notebook in after if to is None or notebook.name[:2] <= to]


def _execute(notebook: Path, parameters: dict, space: Workspace, stamp: dict, prefix: str = "") -> dict:
    """Run a notebook by papermill into the results folder; `stamp` with commit, processor, data and seconds, as it is kept."""
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    target = space.root / notebook.name
    running, failed = (space.artifacts / folder / notebook.name for folder in ("running", "failed"))
    running.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    try:
        papermill.execute_notebook(
            str(notebook),
            str(running),
            parameters=parameters,
            on_cell_start=announced(notebook.stem, len(code_cells(notebook)) + 1),
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
    stamp |= {
        "commit": commit(),
        "processor": instruction_set(),
        "data_hash": provenance.data_hash(space),
        "seconds": round(seconds, 1),
        **provenance.fixed_by(notebook.stem),
    }
    root = os.path.relpath(project_root(), target.parent) if project_root() in target.parents else ".."
    nbformat.write(cleaned(nbformat.read(running, as_version=4), stamp, root), running)
    os.replace(running, target)
    failed.unlink(missing_ok=True)
    print(f"[{notebook.stem}] {_clock(seconds)}", flush=True)
    entry = {name: value for name, value in stamp.items() if name not in ("profile", "data_hash")}
    return entry | {"parameters": declared_parameters(notebook) | parameters}


def _made(notebook: Path, space: Workspace, began: float) -> dict[str, dict]:
    """What a notebook wrote since `began`, by kind and name: tables and figures by SHA-256, measures by their value.

    Each but the measures has the commit and processor that wrote it. An artifact that stayed as it was, such as a finished
    training, keeps those of the manifest; "" where none are known.
    """
    now = {"commit": commit(), "processor": instruction_set()}
    entries = provenance.known_manifest(space).get("notebooks", {})
    known = entries.get(notebook.stem, {}).get("artifacts", {})
    made: dict[str, dict] = {kind: {} for kind in ("artifacts", "tables", "figures", "measures")}
    for kind in made:
        for name in sorted(order.names_in(notebook)[kind]):
            path = space.notes / f"{name}.json" if kind == "measures" else space.artifacts / name
            path = provenance.file_of(space, kind, name) if kind in provenance.KINDS else path
            fresh = _changed(path) >= began
            if kind == "artifacts" and path.exists():
                fresh |= now in [one.get("artifacts", {}).get(name) for one in entries.values()]  # another's, of this run
                made[kind][name] = now if fresh else known.get(name, dict.fromkeys(now, ""))
            elif fresh:
                made[kind][name] = (
                    json.loads(path.read_text()) if kind == "measures" else now | {"sha256": sha256_file(path)}
                )
    return made


def _changed(path: Path) -> float:
    """When a file, or the newest in a folder, was written, in seconds since the epoch; 0 where there is none."""
    times = [0.0]
    for file in path.rglob("*") if path.is_dir() else [path]:
        with contextlib.suppress(FileNotFoundError):  # another notebook's, and gone since it was listed
            times.append(file.stat().st_mtime)
    return max(times)


@contextlib.contextmanager
def locked(space: Workspace) -> Iterator[None]:
    """Hold the lock of a results folder, which every command that writes there takes; InputError where another has it."""
    refused = f"another run is writing to {shown(space.root)}: wait for it, or give --results"
    with files.locked(space.artifacts / ".lock", refused):
        yield


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
