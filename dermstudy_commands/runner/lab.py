"""Notebooks to change and run again: what they read, working copies in a folder of their own, and JupyterLab on both."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from dermstudy.files import InputError, atomic_path, sha256_text, write_text
from dermstudy.workspace import Workspace, from_root, open_workspace, project_root, shown
from dermstudy_commands.runner import order, provenance, study
from dermstudy_commands.runner.fingerprints import dependencies
from dermstudy_commands.runner.profiles import load_profile, notebooks, read_notebook, resolve

SUFFIX = "-lab"  # of the results folder that the working copies write to, beside the profile's own
RECORD = "copied.json"  # among the lab's artifacts: what each copied artifact and table was like when it was copied


def prepare(
    profile: str = "demo",
    number: str | None = None,
    data: str | None = None,
    results: str | None = None,
    as_is: bool = False,
) -> tuple[Path, Path | None]:
    """Make ready what notebook `number` ("03"; all of them by default) reads, and write the working copies.

    The notebooks that it depends on run where they are not up to date: in the profile's results folder where that has
    artifacts, otherwise in run/ of the lab's folder, so that committed results stay as they are. data, results: as in
    `study.run`. as_is: run nothing, take what that folder holds.
    Returns the lab's folder (the results folder's name, without -run, and "-lab") and the copy of notebook `number`. A copy
    that was changed is kept, and the fresh one gets a new name. InputError for anything the user can mend; NotebookFailed.
    """
    chosen = load_profile(profile)
    given, (data, results) = data, study.places(chosen, data, results)
    opened = study.selected(number)
    run = from_root(results)
    lab = Workspace(run.with_name(run.name.removesuffix(study.RUN) + SUFFIX))
    parameters = resolve(chosen, shown(lab.root), data)
    source = Workspace(run if (run / "artifacts").is_dir() else lab.root / "run")
    needed = sorted(set().union(*(order.names_in(notebook)["reads"] for notebook in opened)))
    if as_is:
        lacking = [name for name in needed if not (source.artifacts / name).exists()]
        if lacking:
            raise InputError(f"{shown(source.root)} has no {', '.join(lacking)}: leave out --as-is to have them made")
    earlier = sorted(set().union(*(_earlier(notebook) for notebook in opened)))
    lab = open_workspace(lab.root)
    if chosen.phantom and not data and not as_is:
        study.draw_phantom(chosen)
    if earlier and not as_is:
        study.run(profile, given, shown(source.root), only=earlier)
    made = set().union(*(order.names_in(notebook)["artifacts"] for notebook in opened))
    _copy_over(source, lab, [*needed, *sorted(made.difference(needed))])
    copies = {
        notebook.name: _working_copy(notebook, lab, parameters[notebook.stem], profile) for notebook in notebooks()
    }
    return lab.root, copies[opened[0].name] if number else None


def _earlier(notebook: Path) -> set[str]:
    """The two-digit numbers of the notebooks that `notebook` depends on, directly or through one another."""
    found: set[str] = set()
    for stem in dependencies(notebook):
        found |= {stem[:2]} | _earlier(notebook.with_stem(stem))
    return found


# What earlier notebooks made


def _copy_over(source: Workspace, lab: Workspace, names: list[str]) -> None:
    """Copy artifacts `names` and all tables to the lab where they are new; what the user has made there is kept.

    Copies, not links: a notebook that runs in the lab writes its models in place.
    """
    record_path = lab.artifacts / RECORD
    record = provenance.read(record_path, dict[str, str])
    paths = [f"artifacts/{name}" for name in names]
    paths += [f"tables/{path.name}" for path in sorted(source.tables.glob("*.csv"))]
    for path in paths:
        origin, target = source.root / path, lab.root / path
        if not origin.exists():
            continue
        current = _signature(origin)
        if target.exists():
            present = _signature(target)
            if present == current:
                record[path] = current  # a call that was cut had copied it and noted nothing
            if record.get(path) == current:
                continue
            if present != record.get(path):
                print(f"{shown(target)} is your own and stays, though {shown(origin)} has changed")
                continue
        with atomic_path(target) as temporary:
            (shutil.copytree if origin.is_dir() else shutil.copy2)(origin, temporary)
        record[path] = current
    write_text(record_path, json.dumps(record, indent=1))


def _signature(path: Path) -> str:
    """The names, sizes and times of the files at `path`: equal for a copy that nobody wrote to."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    states = [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return sha256_text(json.dumps(states))


# Working copies


def _working_copy(notebook: Path, lab: Workspace, parameters: dict, profile: str) -> Path:
    """The notebook with the parameters injected, under its own name, or under a new one beside a changed copy."""
    import nbformat

    fresh = _parameterized(notebook, parameters, profile)
    target, count = lab.root / notebook.name, 1
    while target.exists():
        present = read_notebook(target)
        if _cells(present) == _cells(fresh):
            break
        outputs = any(cell.get("outputs") for cell in present.cells)
        if present.metadata.get("dermstudy", {}).get("copy") == _cells(present) and not outputs:
            break
        count += 1
        target = lab.root / f"{notebook.stem}-{count}.ipynb"
    if not target.exists() or _cells(read_notebook(target)) != _cells(fresh):
        with atomic_path(target) as temporary:
            nbformat.write(fresh, temporary)
    if count > 1:
        print(f"{shown(lab.root / notebook.name)} was changed and stays; the fresh copy is {target.name}")
    return target


def _parameterized(notebook: Path, parameters: dict, profile: str):
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    comment = f"Profile {profile}; these values hold, so change them here"
    fresh = parameterize_notebook(load_notebook_node(str(notebook)), parameters, comment=comment)
    for part in (fresh, *fresh.cells):
        part.metadata.pop("papermill", None)
    fresh.metadata["dermstudy"] = {"profile": profile, "copy": _cells(fresh)}
    return fresh


def _cells(notebook) -> str:
    """A hash of what the cells say, without outputs and without what an editor adds."""
    return sha256_text(json.dumps([(cell.cell_type, cell.source) for cell in notebook.cells]))


# JupyterLab


def serve(folder: Path, notebook: Path | None = None, port: int | None = None, browser: bool = True) -> None:
    """Become JupyterLab in `folder`, on this environment's kernel, with `notebook` open; Ctrl-C stops it.

    JupyterLab prints its address, token included. port: where to begin to look for a free one (Jupyter's 8888 by default).
    Kernels work in the checkout, so that `results/...` in a cell means what it means to the command line.
    """
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={folder}",
        f"--MappingKernelManager.root_dir={project_root()}",
        f"--LabApp.default_url=/lab{f'/tree/{notebook.name}' if notebook else ''}",
        "--ServerApp.answer_yes=True",  # Ctrl-C stops it without a question
        "--log-level=WARN",
    ]
    command += [f"--port={port}"] * (port is not None) + ["--no-browser"] * (not browser)
    command += ["--allow-root"] * (os.geteuid() == 0)  # a container's only user; the page is for this machine alone
    os.execve(sys.executable, command, os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"})
