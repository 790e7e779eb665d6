"""The walk through the notebooks: running them in order, skipping what is up to date, provenance.

Notebooks are known by file name only; no stage of the study is imported here.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import json
import os
import platform
import re
import time
from collections.abc import Collection
from pathlib import Path

from dermstudy.files import InputError, sha256_file, sha256_text, write_text
from dermstudy.profiles import Profile, declared_parameters, load_profile, notebooks, read_notebook, resolve
from dermstudy.workspace import Workspace, commit, from_root, open_workspace, project_root, shown, versions

STATE = "state.json"  # among a results folder's artifacts: what has run, and from what
MOST_LINES = 100  # of progress that an executed notebook keeps of one cell


def run(
    profile: str = "demo",
    data: str | None = None,
    results: str | None = None,
    only: str | Collection[str] | None = None,
    start: str | None = None,
    force: bool = False,
) -> Path:
    """Execute the notebooks of a profile in order and return the results folder.

    data: a folder in the HAM10000 layout in place of the profile's own cohort; the results then go to
    results/<profile>-data unless `results` says otherwise, so that no real pixel lands in a committed folder.
    only: a two-digit notebook number, or several; start: the first one. force: run notebooks that are up to date as well.
    Raises InputError for anything the user can mend, NotebookFailed when a notebook's cell fails.
    """
    chosen = load_profile(profile)
    data, results = places(chosen, data, results)
    parameters = resolve(chosen, results, data)
    chosen_ones = selected(only, start)
    space = open_workspace(results)
    with _locked(space):
        prints = fingerprints(parameters, data_token(data or _data_of(chosen)))
        print(f"profile {profile}: {chosen.description}")
        print(f"results in {shown(space.root)}")
        started = time.monotonic()
        for notebook in chosen_ones:
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
            made = sorted(present - before | present & set(artifacts_of(notebook, "out")))
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


def places(chosen: Profile, data: str | None, results: str | None) -> tuple[str | None, str]:
    """The data folder, taken from the project root, and the results folder of a run; defaults as in `run`.

    InputError where `data` is no folder.
    """
    if data is not None:
        if not Path(data).expanduser().is_dir():
            raise InputError(f"no folder {data}: give --data the folder of a HAM10000 download")
        data = os.path.relpath(Path(data).expanduser().resolve(), project_root())
    if results is None:
        results = f"results/{chosen.name}" + ("-data" if data and _data_of(chosen) == "phantom" else "")
    return data, results


def _data_of(profile: Profile) -> str:
    """The profile's DATA, or the default of the notebook that declares it."""
    own = {**profile.shared, **profile.own.get("00_dataset", {})}
    return own.get("DATA") or declared_parameters(notebooks()[0])["DATA"]


class NotebookFailed(Exception):
    """A cell of a notebook failed. The message names the notebook, the cell and the error in one line."""


def selected(only: str | Collection[str] | None = None, start: str | None = None) -> list[Path]:
    """The notebooks of these two-digit numbers, or from `start` on, or all. InputError for an unknown number."""
    sources = notebooks()
    several = [only] if isinstance(only, str) else only
    for number in [*(several or []), *([start] if start else [])]:
        if number not in {notebook.name[:2] for notebook in sources}:
            raise InputError(f"no notebook {number!r}: notebooks/ has {', '.join(n.name[:2] for n in sources)}")
    if several is not None:
        return [notebook for notebook in sources if notebook.name[:2] in several]
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
        mendable = error.ename == "InputError"
        name, kept = ("", "notebook up to there") if mendable else (f"{error.ename}: ", "whole traceback")
        raise NotebookFailed(
            f"{notebook.stem}, cell {error.exec_count}: {name}{message} ({kept} in {shown(failed)})"
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
    nbformat.write(_cleaned(nbformat.read(running, as_version=4), stamp), running)
    os.replace(running, target)
    failed.unlink(missing_ok=True)
    print(f"[{notebook.stem}] {_clock(seconds)}", flush=True)
    return round(seconds, 1)


def _cleaned(executed, stamp: dict):
    """The executed notebook without papermill's paths and times, with the study's own provenance."""
    executed.metadata.pop("papermill", None)
    executed.metadata["dermstudy"] = stamp
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = _merged(cell.outputs)
    return executed


def _merged(outputs: list) -> list:
    """Outputs with what a cell printed in one piece after the other as one text, shortened."""
    kept: list = []
    for output in outputs:
        if kept and output.output_type == kept[-1].output_type == "stream" and output.name == kept[-1].name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = _shortened(output.text)
    return kept


def _shortened(text: str) -> str:
    """The first and last of many lines of progress, and how many were left out between them."""
    lines = text.splitlines(keepends=True)
    if len(lines) <= MOST_LINES:
        return text
    part = MOST_LINES // 4
    return "".join([*lines[:part], f"... {len(lines) - 2 * part} lines left out ...\n", *lines[-part:]])


def _up_to_date(space: Workspace, state: dict, stem: str, prints: dict) -> bool:
    known = state.get(stem, {})
    return known.get("fingerprint") == prints[stem] and all(
        (space.artifacts / name).exists() for name in known.get("artifacts", [])
    )


def _artifact_names(space: Workspace) -> set[str]:
    return {
        path.name
        for path in space.artifacts.iterdir()
        if path.name not in {"running", "failed", STATE} and not path.name.startswith(".")
    }


def artifacts_of(notebook: Path, call: str) -> list[str]:
    """The artifacts that the notebook makes (`ws.out(...)`, call "out") or reads ("need")."""
    return re.findall(rf"ws\.{call}\(\s*[\"']([\w.]+)[\"']", "\n".join(_code(notebook)))


def _load_state(space: Workspace) -> dict:
    path = space.artifacts / STATE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _save_state(space: Workspace, state: dict) -> None:
    write_text(space.artifacts / STATE, json.dumps(state, indent=1))


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


# Fingerprints: what a result depends on


def source_hash(notebook: Path) -> str:
    """SHA-256 over the notebook's code cells and every dermstudy room they import, prose left out."""
    code = _code(notebook)
    rooms = sorted(_rooms(code))
    return sha256_text("\n".join(code + [f"{room.name} {sha256_file(room)}" for room in rooms]))


def dependencies(notebook: Path) -> list[str]:
    """The notebooks whose artifacts this one reads, from its `made_by=` arguments."""
    return sorted(set(re.findall(r"made_by\s*=\s*[\"'](\w+)[\"']", "\n".join(_code(notebook)))))


def fingerprints(parameters: dict[str, dict], data: str) -> dict[str, str]:
    """One hash a notebook over its sources, its parameters, the data and the fingerprints it depends on."""
    prints: dict[str, str] = {}
    for notebook in notebooks():
        own = {name: value for name, value in parameters[notebook.stem].items() if name != "RESULTS"}
        parts = [source_hash(notebook), json.dumps(own, sort_keys=True)]
        if "DATA" in declared_parameters(notebook):
            parts.append(data)
        parts += [_content_token(value) for name, value in sorted(own.items()) if name != "DATA"]
        parts += [prints[stem] for stem in dependencies(notebook) if stem in prints]
        prints[notebook.stem] = sha256_text("\n".join(parts))
    return prints


def data_token(data: str | None) -> str:
    """What lies in a data folder, by its bytes (seconds for HAM10000, read once a run); or the word itself."""
    if not data or not from_root(data).is_dir():
        return str(data)
    rows = []
    for folder, _, names in sorted(os.walk(from_root(data), followlinks=True)):
        paths = [Path(folder, name) for name in sorted(names)]
        rows += [f"{path.relative_to(from_root(data))} {sha256_file(path)}" for path in paths]
    return sha256_text("\n".join(rows))


def _content_token(value: object) -> str:
    """What lies at a path of the checkout (weights, a split, another run's images) by its bytes; "" for any other value."""
    path = from_root(value) if isinstance(value, str) and "/" in value else None
    if path is None or not path.exists():
        return ""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return sha256_text(" ".join(f"{file.relative_to(path)} {sha256_file(file)}" for file in files))


def _code(notebook: Path) -> list[str]:
    return [cell.source for cell in read_notebook(notebook).cells if cell.cell_type == "code"]


def _rooms(code: list[str]) -> set[Path]:
    """The dermstudy modules that `code` imports, directly or through one another; this module left out."""
    package, found, waiting = Path(__file__).parent, set(), list(code)
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop())):
            names = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dermstudy"):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.startswith("dermstudy.")]
            for name in names:
                path = package.joinpath(*name.split(".")[1:]).with_suffix(".py")
                if path.is_file() and path not in found:
                    found.add(path)
                    waiting.append(path.read_text(encoding="utf-8"))
    return found


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
