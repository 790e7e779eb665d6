"""Profiles: the papermill parameters that override the paper's values, read and checked against the notebooks."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import yaml

from dermstudy.files import InputError
from dermstudy.workspace import project_root, shown


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


def load_profile(name: str, extended_by: tuple[str, ...] = ()) -> Profile:
    """Read profiles/<name>.yaml; InputError for an unknown profile, an unknown notebook or a malformed file.

    A profile that `extends` another one starts from its parameters and changes those that it names.
    """
    if name not in profile_names():
        raise InputError(f"unknown profile {name!r}: profiles/ has {', '.join(profile_names())}")
    path = _path(name)
    content = _content(path)
    base = content.pop("extends", None)
    if base is not None and (base not in profile_names() or base in (name, *extended_by)):
        raise InputError(f"{shown(path)} extends {base!r}: name another profile, and no ring of them")
    under = load_profile(base, (name, *extended_by)) if base else Profile("", "", {}, {})
    description, shared = content.pop("description"), under.shared | (content.pop("all", None) or {})
    stems = [notebook.stem for notebook in notebooks()]
    for stem in content:
        if stem not in stems:
            raise InputError(f"{shown(path)} names notebook {stem!r}, which notebooks/ has not: {', '.join(stems)}")
    own = {stem: under.own.get(stem, {}) | (content.get(stem) or {}) for stem in stems}
    return Profile(name, description, shared, own)


def _path(name: str) -> Path:
    return project_root() / "profiles" / f"{name}.yaml"


def _content(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{shown(path)} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("description"), str):
        raise InputError(f"{shown(path)} needs a mapping with a 'description' line at its top")
    return content


def notebooks() -> list[Path]:
    """The numbered notebook sources in their order."""
    return sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def declared_parameters(notebook: Path) -> dict:
    """The literals of the notebook's parameters cell: name -> default value."""
    cells = [cell for cell in read_notebook(notebook).cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f"{shown(notebook)} needs exactly one cell tagged 'parameters', it has {len(cells)}")
    values = {}
    for statement in ast.parse(cells[0].source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            values[statement.targets[0].id] = ast.literal_eval(statement.value)
    return values


def complete(name: str, results: str, data: str | None = None) -> dict[str, dict]:
    """Every parameter of every notebook under the profile `name`, the notebook's own default where the profile is silent."""
    given = resolve(load_profile(name), results, data)
    return {notebook.stem: declared_parameters(notebook) | given[notebook.stem] for notebook in notebooks()}


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
                raise InputError(
                    f"profile {profile.name!r} gives {notebook.stem} the parameter {name}, which its "
                    f"parameters cell does not declare: {', '.join(declared)}"
                )
            if not _same_kind(value, declared[name]):
                raise InputError(
                    f"profile {profile.name!r} gives {notebook.stem} {name} = {value!r}; "
                    f"its default {declared[name]!r} is of another type"
                )
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


def read_notebook(notebook: Path):
    """The notebook as nbformat 4; InputError where it cannot be read."""
    import nbformat

    try:
        return nbformat.read(notebook, as_version=4)
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(notebook)} cannot be read as a notebook: {error}") from error
