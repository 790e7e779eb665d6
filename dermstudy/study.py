"""The walk through the notebooks: profiles, the workspace they write to, running them in order, provenance.

Notebooks are known by file name only; no stage of the study is imported here.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from dermstudy.files import InputError, atomic_path, sha256_file, sha256_text, write_text

PACKAGES = (
    "torch", "diffusers", "transformers", "accelerate", "tensorflow", "keras", "torch-fidelity", "scikit-learn",
    "scikit-image", "scipy", "numpy", "pandas", "statsmodels", "matplotlib", "seaborn", "papermill",
)


# The workspace: what a notebook sees of the disk


@dataclass(frozen=True)
class Workspace:
    """One results folder: tables and figures to commit, artifacts (heavy, outside git) between notebooks."""

    root: Path

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def save_table(self, frame, name: str):
        """Write `frame` (without a default index) to tables/<name>.csv and return it."""
        with atomic_path(self.tables / f"{name}.csv") as path:
            frame.to_csv(path, index=any(label is not None for label in frame.index.names), lineterminator="\n",
                         float_format="%.6g")
        return frame

    def save_figure(self, figure, name: str):
        """Write `figure` to figures/<name>.png and return it."""
        from dermstudy import figures

        figures.save(figure, self.figures / f"{name}.png")
        return figure

    def out(self, name: str) -> Path:
        """The path artifacts/<name>, for the notebook that makes it."""
        return self.artifacts / name

    def need(self, name: str, made_by: str) -> Path:
        """The path artifacts/<name>; InputError names the notebook to run first where it is missing."""
        path = self.artifacts / name
        if not path.exists():
            raise InputError(f"{shown(path)} is missing: run notebook {made_by} into the same RESULTS folder first")
        return path


def project_root() -> Path:
    """The checkout that holds notebooks/, profiles/ and results/."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "notebooks").is_dir():
        raise InputError(f"no notebooks/ beside the package in {root}: install it from a checkout (pip install -e .)")
    return root


def from_root(path: str | Path) -> Path:
    """`path` itself when absolute, otherwise taken from the project root."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else project_root() / path


def shown(path: str | Path) -> str:
    """`path` as messages print it: relative to the project root where it lies inside."""
    path = Path(path)
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(project_root()))
    return str(path)


def workspace(results: str | Path) -> Workspace:
    """The workspace at `results` (a relative path is taken from the project root), its folders created."""
    space = Workspace(from_root(results))
    try:
        for folder in (space.tables, space.figures, space.artifacts):
            folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(space.artifacts / ".writable") as probe:
            probe.touch()
    except (OSError, InputError) as error:
        reason = getattr(error, "strerror", None) or "not writable"
        raise InputError(f"cannot write to the results folder {shown(space.root)} ({reason}): "
                         "choose another with --results or mend its permissions") from error
    return space


# Profiles


@dataclass(frozen=True)
class Profile:
    """Papermill parameters by notebook: `shared` for every notebook that declares them, `own` for one."""

    name: str
    description: str
    shared: dict
    own: dict


def profile_names() -> list[str]:
    """The names of the profiles in profiles/."""
    return sorted(path.stem for path in (project_root() / "profiles").glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """Read profiles/<name>.yaml; InputError for an unknown profile, an unknown notebook or a malformed file."""
    if name not in profile_names():
        raise InputError(f"unknown profile {name!r}: profiles/ has {', '.join(profile_names())}")
    path = project_root() / "profiles" / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{shown(path)} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("description"), str):
        raise InputError(f"{shown(path)} needs a mapping with a 'description' line at its top")
    description, shared = content.pop("description"), content.pop("all", None) or {}
    stems = [notebook.stem for notebook in notebooks()]
    for stem in content:
        if stem not in stems:
            raise InputError(f"{shown(path)} names notebook {stem!r}, which notebooks/ has not: {', '.join(stems)}")
    return Profile(name, description, shared, {stem: content.get(stem) or {} for stem in stems})


def notebooks() -> list[Path]:
    """The numbered notebook sources in their order."""
    return sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def declared_parameters(notebook: Path) -> dict:
    """The literals of the notebook's parameters cell: name -> default value."""
    cells = [cell for cell in _read(notebook).cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f"{shown(notebook)} needs exactly one cell tagged 'parameters', it has {len(cells)}")
    values = {}
    for statement in ast.parse(cells[0].source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            values[statement.targets[0].id] = ast.literal_eval(statement.value)
    return values


def resolve(profile: Profile, results: str, data: str | None = None) -> dict[str, dict]:
    """Every notebook's parameters under `profile`: stem -> overrides handed to papermill.

    A parameter that a notebook does not declare, or whose type differs from its default's, is an InputError:
    papermill alone would only warn.
    """
    resolved = {}
    for notebook in notebooks():
        declared = declared_parameters(notebook)
        own = {name: value for name, value in profile.shared.items() if name in declared}
        own |= profile.own[notebook.stem]
        own["RESULTS"] = results
        if data is not None and "DATA" in declared:
            own["DATA"] = data
        for name, value in own.items():
            if name not in declared:
                raise InputError(f"profile {profile.name!r} gives {notebook.stem} the parameter {name}, which its "
                                 f"parameters cell does not declare: {', '.join(declared)}")
            if not _same_kind(value, declared[name]):
                raise InputError(f"profile {profile.name!r} gives {notebook.stem} {name} = {value!r}; "
                                 f"its default {declared[name]!r} is of another type")
        resolved[notebook.stem] = own
    for name in profile.shared:
        if not any(name in declared_parameters(notebook) for notebook in notebooks()):
            raise InputError(f"profile {profile.name!r} gives all notebooks {name}, which none of them declares")
    return resolved


def _same_kind(value, default) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, int | float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


# Fingerprints: what a result depends on


def source_hash(notebook: Path) -> str:
    """SHA-256 over the notebook's code cells and every dermstudy room they import, prose left out."""
    code = _code(notebook)
    rooms = sorted(_rooms(code))
    return sha256_text("\n".join(code + [f"{room.name} {sha256_file(room)}" for room in rooms]))


def dependencies(notebook: Path) -> list[str]:
    """The notebooks whose artifacts this one reads, from its `made_by=` arguments."""
    return sorted(set(re.findall(r"made_by\s*=\s*[\"'](\w+)[\"']", "\n".join(_code(notebook)))))


def fingerprints(parameters: dict[str, dict], data_token: str) -> dict[str, str]:
    """One hash a notebook over its sources, its parameters, the data and the fingerprints it depends on."""
    prints: dict[str, str] = {}
    for notebook in notebooks():
        own = {name: value for name, value in parameters[notebook.stem].items() if name != "RESULTS"}
        parts = [source_hash(notebook), json.dumps(own, sort_keys=True)]
        if "DATA" in own:
            parts.append(data_token)
        parts += [prints[stem] for stem in dependencies(notebook) if stem in prints]
        prints[notebook.stem] = sha256_text("\n".join(parts))
    return prints


def _data_token(data: str | None) -> str:
    """A quick identity of a data folder: names, sizes and times of its files, or the word itself."""
    if not data or not from_root(data).is_dir():
        return str(data)
    rows = []
    for folder, _, names in sorted(os.walk(from_root(data), followlinks=True)):
        for name in sorted(names):
            status = os.stat(os.path.join(folder, name))
            rows.append(f"{os.path.relpath(folder, from_root(data))}/{name} {status.st_size} {status.st_mtime_ns}")
    return sha256_text("\n".join(rows))


def _read(notebook: Path):
    import nbformat

    try:
        return nbformat.read(notebook, as_version=4)
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(notebook)} cannot be read as a notebook: {error}") from error


def _code(notebook: Path) -> list[str]:
    return [cell.source for cell in _read(notebook).cells if cell.cell_type == "code"]


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
                if path.is_file() and path.stem != "study" and path not in found:
                    found.add(path)
                    waiting.append(path.read_text(encoding="utf-8"))
    return found


# Running


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
    own_data = {**chosen.shared, **chosen.own.get("00_dataset", {})}.get("DATA")
    if data is not None:
        if not Path(data).expanduser().is_dir():
            raise InputError(f"no folder {data}: give --data the folder of a HAM10000 download")
        data = os.path.relpath(Path(data).expanduser().resolve(), project_root())
    if results is None:
        results = f"results/{profile}" + ("-data" if data and own_data == "phantom" else "")
    parameters = resolve(chosen, results, data)
    selected = _select(only, start)
    space = workspace(results)
    with _locked(space):
        prints = fingerprints(parameters, _data_token(data or own_data))
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
            made = sorted(_artifact_names(space) - before | set(_made_by(notebook)))
            state[notebook.stem] = {"fingerprint": prints[notebook.stem], "seconds": seconds, "artifacts": made}
            _save_state(space, state)
            _write_manifest(space, chosen, parameters, prints, state)
        print(f"done in {_clock(time.monotonic() - started)}: {shown(space.root)}", flush=True)
    return space.root


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
            str(notebook), str(running), parameters=parameters, engine_name=ENGINE, kernel_name="python3",
            cwd=str(project_root()), progress_bar=False, autosave_cell_every=0, stdout_file=IndentedOutput(),
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
        "source": source_hash(notebook), "fingerprint": prints[notebook.stem], "profile": profile,
        "commit": commit(), "data_hash": _data_hash(space), "seconds": round(seconds, 1),
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
    return executed


def _up_to_date(space: Workspace, state: dict, stem: str, prints: dict) -> bool:
    known = state.get(stem, {})
    return known.get("fingerprint") == prints[stem] and all(
        (space.artifacts / name).exists() for name in known.get("artifacts", [])
    )


def _artifact_names(space: Workspace) -> set[str]:
    return {path.name for path in space.artifacts.iterdir()
            if path.name not in {"running", "failed", "state.json"} and not path.name.startswith(".")}


def _made_by(notebook: Path) -> list[str]:
    """The artifacts that the notebook names with `ws.out(...)`."""
    return re.findall(r"ws\.out\(\s*[\"']([\w.]+)[\"']", "\n".join(_code(notebook)))


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
            raise InputError(f"another run is writing to {shown(space.root)}: wait for it, or give --results") from error
        yield


# Provenance


def commit() -> str:
    """The checkout's commit, with "+changes" where tracked files outside results/ differ; "unknown" without git."""
    try:
        git = ["git", "-C", str(project_root())]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!results"],
                                 capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def versions(*packages: str) -> dict[str, str]:
    """Installed versions by distribution name (all of the study's main packages by default)."""
    return {name: importlib.metadata.version(name) for name in packages or PACKAGES}


def version_line(*packages: str) -> str:
    """One line with the Python, dermstudy and package versions, for the end of a notebook."""
    parts = [f"Python {platform.python_version()}", f"dermstudy {importlib.metadata.version('dermstudy')}"]
    return " · ".join(parts + [f"{name} {version}" for name, version in versions(*packages).items()])


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
                "parameters": declared_parameters(project_root() / "notebooks" / f"{stem}.ipynb") | parameters[stem],
            }
            for stem, known in sorted(state.items()) if known["fingerprint"] == prints.get(stem)
        },
        "seconds": round(sum(known["seconds"] for known in state.values()), 1),
    }
    write_text(space.root / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


if sys.platform == "win32":  # pragma: no cover
    raise ImportError("dermstudy runs on Linux and macOS; on Windows use WSL")
