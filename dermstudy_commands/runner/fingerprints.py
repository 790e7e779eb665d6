"""What a notebook's results depend on: its code and the modules that it imports, parameters, data, weights, the locks."""

from __future__ import annotations

import json
import re
from pathlib import Path

from dermstudy import source
from dermstudy.files import InputError, content_hash, sha256_file, sha256_text
from dermstudy.workspace import from_root, project_root, shown
from dermstudy_commands.runner.profiles import declared_parameters, notebooks, read_notebook
from dermstudy_commands.runner.provenance import manifest

LOCKS = ("requirements.lock", "requirements-gpu.lock")
WHERE = ("RESULTS", "DATA", "PREDICTIONS", "ANSWERS")  # parameters that say where things lie, not what is made of them


def source_hash(notebook: Path) -> str:
    """SHA-256 of the meaning of a notebook's code, its parameters' defaults among it, and of the locks; prose left out."""
    return _meaning(notebook, code_cells(notebook))


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
        given = declared_parameters(notebook) | parameters[notebook.stem]
        named = {name: value for name, value in given.items() if name not in ("RESULTS", "DATA")}
        meaning = _meaning(notebook, code_cells(notebook, parameters=False))
        inputs = [data] * ("DATA" in given) + [prints[stem] for stem in dependencies(notebook) if stem in prints]
        text = [meaning, json.dumps(named, sort_keys=True), inputs_hash(named, seen), *inputs]
        prints[notebook.stem] = sha256_text("\n".join(text))
    return prints


def data_token(data: str | None) -> str:
    """What lies in a data folder, by its bytes (seconds for HAM10000, read once a run); or the word itself."""
    return content_hash(from_root(data)) if data and from_root(data).is_dir() else str(data)


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
    from dermstudy_commands.runner.profiles import load_profile, resolve

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


def code_cells(notebook: Path, parameters: bool = True) -> list[str]:
    """The code cells; without the one tagged `parameters` where that is not wanted."""
    cells = [cell for cell in read_notebook(notebook).cells if cell.cell_type == "code"]
    return [cell.source for cell in cells if parameters or "parameters" not in cell.metadata.get("tags", [])]


def _meaning(notebook: Path, code: list[str]) -> str:
    """One hash of `code`, of what it imports of this project, and of the packages that the locks pin."""
    locks = [sha256_file(project_root() / name) for name in LOCKS if (project_root() / name).is_file()]
    try:
        return sha256_text("\n".join([source.source_hash("\n".join(code)), *locks]))
    except SyntaxError as error:
        raise InputError(f"{shown(notebook)} cannot be parsed: {error}") from error
