"""Provenance: what a results folder's manifest says of each notebook, table and figure in it."""

from __future__ import annotations

import json
import platform
from pathlib import Path

from dermstudy.files import sha256_file, write_text
from dermstudy.processor import described, instruction_set
from dermstudy.runner.profiles import Profile
from dermstudy.workspace import Workspace, commit, last_commit, versions

PROTOCOL = "docs/PROTOCOL.md"  # of the trial: a run names the commit that it was fixed by
TRIAL = "07_ablation"  # the notebook that runs it
COMMANDS = "dermstudy.maintenance."  # what stands as the notebook of a table that a command wrote
KINDS = ("tables", "figures")


def read(path: Path) -> dict:
    """What a JSON file holds; nothing where there is none or it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def file_of(space: Workspace, kind: str, name: str) -> Path:
    """The table, or the picture of the figure, of this name; one that is not there has a path too."""
    return (
        space.tables / f"{name}.csv" if kind == "tables" else space.pictures().get(name, space.figures / f"{name}.png")
    )


def hashed(space: Workspace, kind: str, name: str) -> dict[str, str]:
    """The SHA-256 of a table or figure as it was written; nothing for what is neither."""
    return {"sha256": sha256_file(file_of(space, kind, name))} if kind in KINDS else {}


def holds(space: Workspace, kind: str, name: str, made: dict) -> bool:
    """Whether a table or figure is there, as `made` names it where that names its SHA-256."""
    path = file_of(space, kind, name)
    return path.is_file() and made.get("sha256") in (None, sha256_file(path))


def protocol_of(notes: dict) -> str:
    """The commit of the protocol's page that the trial of a manifest was run under; "" where the manifest names none.

    It stands in the entry of the trial's notebook, or, as older manifests have it, at the top.
    """
    own = notes.get("notebooks", {}).get(TRIAL, {})
    return (own.get("protocol") or notes.get("protocol") or {}).get("commit", "")


def fixed_by(stem: str) -> dict:
    """What the trial's notebook names beside its own commit; nothing for another notebook."""
    return {"protocol": {"page": PROTOCOL, "commit": last_commit(PROTOCOL)}} if stem == TRIAL else {}


def data_hash(space: Workspace) -> str:
    """Of the cohort that lies there, or, where none does, of the one that the manifest names: predictions are drawn again."""
    path = space.artifacts / "cohort" / "cohort.json"
    return read(path if path.is_file() else space.root / "manifest.json").get("data_hash", "")


def write_manifest(space: Workspace, profile: Profile, state: dict, stem: str) -> None:
    """Name notebook `stem` as it has just run; all others in the folder stay named as the runs that made them."""
    known = {name: entry for name, entry in state.items() if "source" in entry}
    entries = known | _earlier_entries(space, profile.name) | {stem: state[stem]}
    entries = {stem: known for stem, known in sorted(entries.items()) if (space.root / f"{stem}.ipynb").is_file()}
    manifest = {
        "profile": profile.name,
        "description": profile.description,
        "commit": commit(),
        "processor": instruction_set(),
        "data_hash": data_hash(space),
        "python": platform.python_version(),
        "platform": described(),
        "packages": versions(),
        "notebooks": {
            stem: {name: value for name, value in known.items() if name not in ("tables", "figures", "data_hash")}
            for stem, known in entries.items()
        },
        **{kind: _by_name(entries, kind) | _of_commands(space, profile.name, kind) for kind in KINDS},
        "seconds": round(sum(known["seconds"] for known in entries.values()), 1),
    }
    write_text(space.root / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def _by_name(entries: dict, kind: str) -> dict[str, dict]:
    """The tables or figures of all notebooks, each with its notebook, commit and processor."""
    return {
        name: {"notebook": stem} | made for stem, known in entries.items() for name, made in known.get(kind, {}).items()
    }


def name_command(space: Workspace, command: str, made: dict[str, list[str]]) -> None:
    """Name what a command of `maintenance` has just written beside the notebooks' own: `made`, names of tables and figures.

    Nothing where the folder has no manifest.
    """
    path = space.root / "manifest.json"
    notes = read(path)
    if notes:
        own = {"notebook": command, "commit": commit(), "processor": instruction_set()}
        for kind, names in made.items():
            notes[kind] |= {name: own | hashed(space, kind, name) for name in names}
        write_text(path, json.dumps(notes, indent=1) + "\n")


def _of_commands(space: Workspace, profile: str, kind: str) -> dict[str, dict]:
    """What commands wrote into the folder, as its manifest names it; nothing where it is another profile's."""
    notes = read(space.root / "manifest.json")
    own = notes.get(kind, {}) if notes.get("profile") == profile else {}
    return {name: made for name, made in own.items() if made["notebook"].startswith(COMMANDS)}


def _earlier_entries(space: Workspace, profile: str) -> dict[str, dict]:
    """What the manifest in the folder says of its notebooks; nothing where it is another profile's or cannot be read."""
    notes = read(space.root / "manifest.json")
    if notes.get("profile") != profile:
        return {}
    entries: dict[str, dict] = {stem: dict(entry) for stem, entry in notes["notebooks"].items()}
    if TRIAL in entries and "protocol" in notes:  # as older manifests have it
        entries[TRIAL].setdefault("protocol", notes["protocol"])
    for kind in KINDS:
        for name, made in notes.get(kind, {}).items():
            own = {key: value for key, value in made.items() if key != "notebook"}
            if made["notebook"] in entries:
                entries[made["notebook"]].setdefault(kind, {})[name] = own
    return entries
