"""What a notebook's results depend on, by meaning: the code that it reaches, parameters, data, weights, locked versions.

Code is parsed, and followed from the notebook definition by definition; comments, docstrings, blank lines, formatting
and whatever it does not reach make no difference, nor does where a module lies or what it is called.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import re
import sys
from pathlib import Path

from dermstudy.files import InputError, content_hash, sha256_file, sha256_text
from dermstudy.runner.profiles import declared_parameters, notebooks, read_notebook
from dermstudy.runner.reach import reached
from dermstudy.workspace import from_root, project_root, shown

WHERE = ("RESULTS", "DATA", "PREDICTIONS", "ANSWERS")  # parameters that say where things lie, not what is made of them
NAMED_OTHERWISE = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml"}


def source_hash(notebook: Path) -> str:
    """SHA-256 of the meaning of a notebook's code, its parameters' defaults among it; prose left out."""
    return sha256_text("\n".join(_meaning(notebook, "\n".join(code_cells(notebook)))))


def dependencies(notebook: Path) -> list[str]:
    """The notebooks whose artifacts this one reads, from its `made_by=` arguments."""
    return sorted(set(re.findall(r"made_by\s*=\s*[\"'](\w+)[\"']", "\n".join(code_cells(notebook)))))


def fingerprints(parameters: dict[str, dict], data: str) -> dict[str, str]:
    """One hash a notebook: the meaning of its code, its parameters, data, weights, and what it depends on in turn.

    parameters: what each notebook is given beyond its defaults, by stem; data: as data_token has it.
    """
    prints: dict[str, str] = {}
    seen: dict[str, str] = {}
    for notebook in notebooks():
        own = declared_parameters(notebook) | parameters[notebook.stem]
        named = {name: value for name, value in own.items() if name not in ("RESULTS", "DATA")}
        parts = _meaning(notebook, "\n".join(code_cells(notebook, parameters=False)))
        parts += [json.dumps(named, sort_keys=True), inputs_hash(named, seen)]
        if "DATA" in own:
            parts.append(data)
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


def inputs_hash(parameters: dict, seen: dict[str, str] | None = None) -> str:
    """One hash of the bytes at every path that `parameters` name: weights, a split, another run's images.

    seen: the hashes of paths read before, which spares reading them for each notebook.
    """
    seen, rows = {} if seen is None else seen, []
    for name, value in sorted(parameters.items()):
        path = from_root(value) if isinstance(value, str) and value.strip() else None
        if path is None or not path.exists():
            continue
        if value not in seen:
            seen[value] = content_hash(path)
        rows.append(f"{name} {seen[value]}")
    return sha256_text("\n".join(rows))


def older(results: Path) -> list[str]:
    """The notebooks of a results folder that other code, other versions or other parameters made than those of today.

    InputError where the folder has no manifest, or its profile is no more.
    """
    from dermstudy.runner.profiles import load_profile, resolve

    notes = manifest(results)
    sources = {notebook.stem: notebook for notebook in notebooks()}
    given = resolve(load_profile(notes["profile"]), str(results))
    stale = []
    for stem, entry in sorted(notes["notebooks"].items()):
        if stem not in sources or entry["source"] != source_hash(sources[stem]):
            stale.append(stem)
            continue
        today = declared_parameters(sources[stem]) | given[stem]
        if any(entry["parameters"].get(name) != today[name] for name in today if name not in WHERE):
            stale.append(stem)
    return stale


def manifest(results: Path) -> dict:
    """The manifest of a results folder; InputError where it has none that can be read."""
    path = results / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(path)} is no manifest of a run: name a folder that 'dermstudy run' wrote") from error


def code_cells(notebook: Path, parameters: bool = True) -> list[str]:
    """The code cells; without the one tagged `parameters` where that is not wanted."""
    cells = [cell for cell in read_notebook(notebook).cells if cell.cell_type == "code"]
    return [cell.source for cell in cells if parameters or "parameters" not in cell.metadata.get("tags", [])]


def _meaning(notebook: Path, code: str) -> list[str]:
    """What `code` does, as parsed bodies in a fixed order, and the versions of the packages that it takes."""
    package = sys.modules[__name__.partition(".")[0]]
    try:
        bodies, packages = reached(code, Path(package.__file__).parent)
    except SyntaxError as error:
        raise InputError(f"{shown(notebook)} cannot be parsed: {error}") from error
    return bodies + locked_versions(packages, project_root() / "requirements.lock")


# Versions


def locked_versions(packages: set[str], lock: Path) -> list[str]:
    """`name==version` of the distributions that hold the imported `packages`, as `lock` pins them."""
    pins: dict[str, list[str]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines() if lock.is_file() else []:
        found = re.match(r"([\w.-]+)==([^\s;]+)", line)
        if found:
            pins.setdefault(_distribution(found[1]), []).append(found[2])
    names = set()
    for package in packages:
        own = _distribution(NAMED_OTHERWISE.get(package, package))
        names |= {own} if own in pins else set(map(_distribution, _distributions().get(package, [package])))
    return sorted(f"{name}=={' '.join(sorted(pins.get(name, ['unlocked'])))}" for name in names)


@functools.cache
def _distributions() -> dict[str, list[str]]:
    """Every installed distribution by the packages in it; seconds, so it is asked last."""
    return dict(importlib.metadata.packages_distributions())


def _distribution(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# Reach: which definitions of a package some code comes to
