"""Provenance: what a results folder's manifest says of each notebook, table and figure in it.

The manifest is also what tells the next run which notebooks are up to date.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dermstudy.files import read_json, sha256_file, write_text
from dermstudy.processor import described, instruction_set
from dermstudy.workspace import Workspace, commit, last_commit, versions
from dermstudy_commands.runner.profiles import Profile

PROTOCOL = "docs/PROTOCOL.md"  # of the trial: a run names the commit that it was fixed by
TRIAL = "07_ablation"  # the notebook that runs it
KINDS = ("tables", "figures")


class Made(BaseModel):
    """A table or figure in a manifest: the notebook or command that wrote it, by which commit, on which processor."""

    notebook: str
    commit: str
    processor: str


class Entry(BaseModel):
    """A notebook in a manifest: what was run; without a fingerprint while it runs, and where it did not end."""

    source: str
    commit: str
    fingerprint: str = ""
    seconds: float = 0.0
    parameters: dict[str, Any] = {}
    artifacts: dict[str, dict[str, str]] = {}
    protocol: dict[str, str] = {}


class Manifest(BaseModel):
    """A results folder's manifest, as far as every reader of one relies on it."""

    profile: str
    notebooks: dict[str, Entry]
    tables: dict[str, Made] = {}
    figures: dict[str, Made] = {}
    processor: str = ""
    environment: dict[str, str] = {}
    data_hash: str = ""


class Report(Manifest):
    """What the first page of a report tells besides."""

    description: str
    commit: str
    python: str
    platform: str
    packages: dict[str, str]
    seconds: float


class DataHash(BaseModel):
    """What a saved cohort's notes say of its images."""

    data_hash: str


def manifest(results: Path, shape: type[BaseModel] = Manifest) -> dict:
    """The manifest of a results folder; InputError where it has none of that `shape`."""
    return read_json(results / "manifest.json", shape, "it is no manifest of a run; name a folder of 'dermstudy run'")


def read(path: Path, shape: Any) -> dict:
    """What a JSON file of that `shape` holds; nothing where there is none. InputError where it is damaged."""
    return read_json(path, shape, "remove it, and the notebooks run again") if path.exists() else {}


def known_manifest(space: Workspace) -> dict:
    """The manifest of a folder that a run adds to; nothing where there is none. InputError where it is damaged."""
    return manifest(space.root) if (space.root / "manifest.json").exists() else {}


def file_of(space: Workspace, kind: str, name: str) -> Path:
    """The table, or the picture of the figure, of this name; one that is not there has a path too."""
    return (
        space.tables / f"{name}.csv" if kind == "tables" else space.pictures().get(name, space.figures / f"{name}.png")
    )


def holds(space: Workspace, kind: str, name: str, made: dict) -> bool:
    """Whether a table or figure is there, as `made` names it where that names its SHA-256."""
    path = file_of(space, kind, name)
    return path.is_file() and made.get("sha256") in (None, sha256_file(path))


def up_to_date(space: Workspace, stem: str, fingerprint: str) -> bool:
    """Whether notebook `stem` ended with this fingerprint, and all that it left is there as it was left."""
    notes = known_manifest(space)
    entry = notes.get("notebooks", {}).get(stem, {})
    there = (space.root / f"{stem}.ipynb").is_file()
    there &= all((space.artifacts / name).exists() for name in entry.get("artifacts", ()))
    # a table that was put back from elsewhere, or edited, is there and not the one that this run made
    there &= all(
        holds(space, kind, name, made)
        for kind in KINDS
        for name, made in notes.get(kind, {}).items()
        if made["notebook"] == stem
    )
    return there and entry.get("fingerprint") == fingerprint


def fixed_by(stem: str) -> dict:
    """What the trial's notebook names beside its own commit; nothing for another notebook."""
    return {"protocol": {"page": PROTOCOL, "commit": last_commit(PROTOCOL)}} if stem == TRIAL else {}


def data_hash(space: Workspace) -> str:
    """Of the cohort that lies there, or, where none does, of the one that the manifest names: predictions are drawn again."""
    path = space.artifacts / "cohort" / "cohort.json"
    return (read(path, DataHash) or known_manifest(space)).get("data_hash", "")


def started(space: Workspace, stem: str) -> None:
    """Take notebook `stem` for out of date from now on until it ends."""
    notes = known_manifest(space)
    if notes.get("notebooks", {}).get(stem, {}).pop("fingerprint", ""):
        write_text(space.root / "manifest.json", json.dumps(notes, indent=1) + "\n")


def write_manifest(space: Workspace, profile: Profile, stem: str, entry: dict, made: dict[str, dict]) -> None:
    """Name notebook `stem` as it has just run; all others of the profile stay named as the runs that made them.

    entry: as Entry has it, but for what it made; made: artifacts, measures, tables and figures, by kind and name.
    """
    notes = known_manifest(space)
    entry = entry | {kind: made[kind] for kind in ("artifacts", "measures")}
    notes = notes if notes.get("profile") == profile.name else {}
    entries = {**notes.get("notebooks", {}), stem: entry}
    entries = {stem: entry for stem, entry in sorted(entries.items()) if (space.root / f"{stem}.ipynb").is_file()}
    written = {
        kind: {name: one for name, one in notes.get(kind, {}).items() if one["notebook"] != stem}
        | {name: {"notebook": stem} | one for name, one in made[kind].items()}
        for kind in KINDS
    }
    manifest = {
        "profile": profile.name,
        "description": profile.description,
        "commit": commit(),
        "processor": instruction_set(),
        "environment": profile.environment,
        "data_hash": data_hash(space),
        "python": platform.python_version(),
        "platform": described(),
        "packages": versions(),
        "notebooks": entries,
        **{kind: dict(sorted(one.items())) for kind, one in written.items()},
        "seconds": round(sum(one["seconds"] for one in entries.values()), 1),
    }
    write_text(space.root / "manifest.json", json.dumps(manifest, indent=1) + "\n")
