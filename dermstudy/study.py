"""The walk through the notebooks: running them in order, skipping what is up to date, provenance.

Notebooks are known by file name only; no stage of the study is imported here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import time
from pathlib import Path

from dermstudy.executed import cleaned
from dermstudy.files import InputError, write_text
from dermstudy.fingerprints import data_token, fingerprints, source_hash
from dermstudy.profiles import Profile, declared_parameters, load_profile, notebooks, read_notebook, resolve
from dermstudy.workspace import Workspace, commit, open_workspace, project_root, shown, versions


def run(
    profile: str = "demo",
    data: str | None = None,
    results: str | None = None,
    only: str | None = None,
    start: str | None = None,
    force: bool = False,
) -> Path:
    """Execute the notebooks of a profile in order and return the results folder.

    data: a folder in the HAM10000 layout in place of the profile's own cohort; the results then go to
    results/<profile>-data unless `results` says otherwise, so that no real pixel lands in a committed folder.
    only, start: a two-digit notebook number. force: run notebooks that are up to date as well.
    Raises InputError for anything the user can mend, NotebookFailed when a notebook's cell fails.
    """
    chosen = load_profile(profile)
    own_data = _data_of(chosen)
    if data is not None:
        if not Path(data).expanduser().is_dir():
            raise InputError(f"no folder {data}: give --data the folder of a HAM10000 download")
        data = os.path.relpath(Path(data).expanduser().resolve(), project_root())
    if results is None:
        results = f"results/{profile}" + ("-data" if data and own_data == "phantom" else "")
    parameters = resolve(chosen, results, data)
    selected = _select(only, start)
    space = open_workspace(results)
    with _locked(space):
        prints = fingerprints(parameters, data_token(data or own_data))
        print(f"profile {profile}: {chosen.description}")
        print(f"results in {shown(space.root)}")
        started = time.monotonic()
        for notebook in selected:
            target = space.root / notebook.name
            state = _load_state(space)
            if not force and target.is_file() and _up_to_date(space, state, notebook.stem, prints):
                print(f"[{notebook.stem}] up to date", flush=True)
                continue
            state.pop(notebook.stem, None)
            _save_state(space, state)
            before = _artifact_names(space)
            seconds = _execute(notebook, target, parameters[notebook.stem], space, chosen.name, prints)
            present = _artifact_names(space)
            made = sorted(present - before | present & set(_made_by(notebook)))
            state[notebook.stem] = {
                "fingerprint": prints[notebook.stem],
                "seconds": seconds,
                "artifacts": made,
                "commit": commit(),
            }
            _save_state(space, state)
            _write_manifest(space, chosen, parameters, prints, state)
        print(f"done in {_clock(time.monotonic() - started)}: {shown(space.root)}", flush=True)
    return space.root


def _data_of(profile: Profile) -> str:
    """The profile's DATA, or the default of the notebook that declares it."""
    own = {**profile.shared, **profile.own.get("00_dataset", {})}
    return own.get("DATA") or declared_parameters(notebooks()[0])["DATA"]


class NotebookFailed(Exception):
    """A cell of a notebook failed. The message names the notebook, the cell and the error in one line."""


def _select(only: str | None, start: str | None) -> list[Path]:
    sources = notebooks()
    for number in (only, start):
        if number is not None and number not in {notebook.name[:2] for notebook in sources}:
            raise InputError(f"no notebook {number!r}: notebooks/ has {', '.join(n.name[:2] for n in sources)}")
    if only is not None:
        return [notebook for notebook in sources if notebook.name[:2] == only]
    return [notebook for notebook in sources if start is None or notebook.name[:2] >= start]


def _execute(notebook: Path, target: Path, parameters: dict, space: Workspace, profile: str, prints: dict) -> float:
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from dermstudy.progress import ENGINE, IndentedOutput

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
            stdout_file=IndentedOutput(),
            extra_arguments=["--IPKernelApp.log_level=50"],
        )
    except PapermillExecutionError as error:
        failed.parent.mkdir(exist_ok=True)
        os.replace(running, failed)
        message = " ".join(str(error.evalue).split())
        name = "" if error.ename == "InputError" else f"{error.ename}: "
        raise NotebookFailed(
            f"{notebook.stem}, cell {error.exec_count}: {name}{message} (whole traceback in {shown(failed)})"
        ) from error
    seconds = time.monotonic() - started
    stamp = {
        "source": source_hash(notebook),
        "fingerprint": prints[notebook.stem],
        "profile": profile,
        "commit": commit(),
        "data_hash": _data_hash(space),
        "seconds": round(seconds, 1),
    }
    nbformat.write(cleaned(nbformat.read(running, as_version=4), stamp), running)
    os.replace(running, target)
    failed.unlink(missing_ok=True)
    print(f"[{notebook.stem}] {_clock(seconds)}", flush=True)
    return round(seconds, 1)


def _up_to_date(space: Workspace, state: dict, stem: str, prints: dict) -> bool:
    known = state.get(stem, {})
    return known.get("fingerprint") == prints[stem] and all(
        (space.artifacts / name).exists() for name in known.get("artifacts", [])
    )


def _artifact_names(space: Workspace) -> set[str]:
    return {
        path.name
        for path in space.artifacts.iterdir()
        if path.name not in {"running", "failed", "state.json"} and not path.name.startswith(".")
    }


def _made_by(notebook: Path) -> list[str]:
    """The artifacts that the notebook names with `ws.out(...)`."""
    code = "\n".join(cell.source for cell in read_notebook(notebook).cells if cell.cell_type == "code")
    return re.findall(r"ws\.out\(\s*[\"']([\w.]+)[\"']", code)


def _load_state(space: Workspace) -> dict:
    path = space.artifacts / "state.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _save_state(space: Workspace, state: dict) -> None:
    write_text(space.artifacts / "state.json", json.dumps(state, indent=1))


@contextlib.contextmanager
def _locked(space: Workspace):
    with open(space.artifacts / ".lock", "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"another run is writing to {shown(space.root)}: wait for it, or give --results"
            ) from error
        yield


# Provenance


def _data_hash(space: Workspace) -> str:
    path = space.artifacts / "cohort" / "cohort.json"
    return json.loads(path.read_text(encoding="utf-8"))["data_hash"] if path.is_file() else ""


def _write_manifest(space: Workspace, profile: Profile, parameters: dict, prints: dict, state: dict) -> None:
    manifest = {
        "profile": profile.name,
        "description": profile.description,
        "commit": commit(),
        "data_hash": _data_hash(space),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "packages": versions(),
        "notebooks": {
            stem: {
                "source": source_hash(project_root() / "notebooks" / f"{stem}.ipynb"),
                "fingerprint": known["fingerprint"],
                "seconds": known["seconds"],
                "commit": known.get("commit", ""),
                "parameters": declared_parameters(project_root() / "notebooks" / f"{stem}.ipynb") | parameters[stem],
            }
            for stem, known in sorted(state.items())
            if known["fingerprint"] == prints.get(stem)
        },
        "seconds": round(sum(known["seconds"] for known in state.values()), 1),
    }
    write_text(space.root / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
