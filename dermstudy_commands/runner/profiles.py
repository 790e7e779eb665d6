"""Profiles: the papermill parameters that override the paper's values, read and checked against the notebooks."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dermstudy.files import InputError, line_of
from dermstudy.parameters import declared, typed
from dermstudy.workspace import from_root, project_root, shown

PHANTOM = "phantom.yaml"


@dataclass(frozen=True)
class Profile:
    """Papermill parameters by notebook, and the results folder that they name ("" where they name none).

    environment: variables of every kernel, such as caps on instruction sets under which all processors round alike.
    phantom: settings of the phantom in the folder that DATA of 00 names; {} where that holds other images.
    """

    name: str
    description: str
    parameters: dict[str, dict]
    results: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    phantom: dict[str, int] = field(default_factory=dict)


def profile_names() -> list[str]:
    """The names of the profiles in profiles/."""
    return sorted(path.name for path in (project_root() / "profiles").iterdir() if path.is_dir())


def load_profile(name: str) -> Profile:
    """The profile of that name in profiles/, or in the folder of one's own that `name` is the path of.

    A profile is a folder with a file of parameters for each notebook, NN_name.yaml, as papermill's -f takes it; a notebook
    without a file keeps its defaults. description.txt says in a line what the profile is for; environment.txt has a line
    NAME=value for each variable of the kernels; phantom.yaml says how the phantom is drawn. InputError for an unknown
    profile or notebook, a malformed file, and files that name several results folders.
    """
    folder = _folder(name)
    stems = [notebook.stem for notebook in notebooks()]
    files = sorted(path for path in folder.glob("*.yaml") if path.name != PHANTOM)
    for path in files:
        if path.stem not in stems:
            raise InputError(f"{shown(path)} is named after no notebook: notebooks/ has {', '.join(stems)}")
    parameters = dict.fromkeys(stems, {}) | {path.stem: _content(path) for path in files}
    named = {str(own["RESULTS"]) for own in parameters.values() if "RESULTS" in own}
    if len(named) > 1:
        raise InputError(f"the files of {shown(folder)} name several results folders: {', '.join(sorted(named))}")
    about = folder / "description.txt"
    description = about.read_text(encoding="utf-8").strip() if about.is_file() else ""
    named_as = name if name in profile_names() else shown(folder)
    phantom = _content(folder / PHANTOM) if (folder / PHANTOM).is_file() else {}
    return Profile(named_as, description, parameters, "".join(named), _environment(folder / "environment.txt"), phantom)


def _folder(name: str) -> Path:
    if name in profile_names():
        return project_root() / "profiles" / name
    for folder in (Path(name).expanduser().resolve(), from_root(name)):
        if any(folder.glob("[0-9][0-9]_*.yaml")):
            return folder
    raise InputError(
        f"unknown profile {name!r}: profiles/ has {', '.join(profile_names())}; or give the path of a folder of your own"
    )


def _environment(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").split() if path.is_file() else []
    for line in lines:
        if not re.fullmatch(r"[A-Z0-9_]+=\S+", line):
            raise InputError(f"{shown(path)} needs a line NAME=value for each variable, without spaces: not {line!r}")
    return dict(line.split("=", 1) for line in lines)


@contextlib.contextmanager
def surroundings(environment: dict[str, str]) -> Iterator[None]:
    """These variables for all processes started meanwhile, and for what is read of the processor; then those of before."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _content(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise InputError(f"{shown(path)} is not valid YAML: {line_of(error)}") from error
    if content is not None and not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        raise InputError(f"{shown(path)} needs a line `NAME: value` for each parameter, and nothing around them")
    return content or {}


def notebooks() -> list[Path]:
    """The numbered notebook sources in their order."""
    return sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def declared_parameters(notebook: Path) -> dict:
    """The literals of the notebook's parameters cell: name -> default value."""
    return _declared(notebook)[0]


def _declared(notebook: Path) -> tuple[dict, dict]:
    """The defaults of the notebook's parameters and their types, by name."""
    cells = [cell for cell in read_notebook(notebook).cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f"{shown(notebook)} needs exactly one cell tagged 'parameters', it has {len(cells)}")
    return declared(cells[0].source)


def complete(name: str, results: str, data: str | None = None) -> dict[str, dict]:
    """Every parameter of every notebook under the profile `name`, the notebook's own default where the profile is silent."""
    given = resolve(load_profile(name), results, data)
    return {notebook.stem: declared_parameters(notebook) | given[notebook.stem] for notebook in notebooks()}


def resolve(profile: Profile, results: str, data: str | None = None) -> dict[str, dict]:
    """Every notebook's parameters under `profile`: stem -> overrides handed to papermill, each of its declared type.

    A parameter that a notebook does not declare, or of another type than it declares, is an InputError.
    """
    resolved = {}
    for notebook in notebooks():
        defaults, kinds = _declared(notebook)
        own = profile.parameters[notebook.stem] | {"RESULTS": results}
        if data is not None and "DATA" in defaults:
            own["DATA"] = data
            if "DATA_MAX_PER_ENTITY" in profile.phantom:
                own["MAX_PER_ENTITY"] = profile.phantom["DATA_MAX_PER_ENTITY"]
        resolved[notebook.stem] = typed(own, kinds, f"profile {profile.name!r}, {notebook.stem}: ")
    return resolved


def read_notebook(notebook: Path):
    """The notebook as nbformat 4; InputError where it cannot be read."""
    import nbformat

    try:
        return nbformat.read(notebook, as_version=4)
    except (OSError, ValueError, AttributeError, TypeError, KeyError, nbformat.ValidationError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{shown(notebook)} cannot be read as a notebook ({reason}): take it from git again"
        ) from error
