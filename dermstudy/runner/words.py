"""Mended words in executed notebooks, without running them again: their code and outputs stay, but for progress bars."""

from __future__ import annotations

import ast
from copy import deepcopy

import nbformat

from dermstudy.files import InputError, atomic_path
from dermstudy.runner.executed import merged
from dermstudy.runner.fingerprints import source_hash
from dermstudy.runner.openings import opened
from dermstudy.runner.profiles import notebooks
from dermstudy.workspace import Workspace, shown

INJECTED = "injected-parameters"  # papermill's tag of the cell in which the profile's values stand


def refresh(space: Workspace) -> list[str]:
    """Give each executed notebook in `space` the prose of its source and its finding; the names of those that changed.

    InputError where a notebook's code, or a room that it imports, is no longer what was run.
    """
    changed = []
    for source in notebooks():
        path = space.root / source.name
        if not path.is_file():
            continue
        executed, words = nbformat.read(path, as_version=4), nbformat.read(source, as_version=4)
        if executed.metadata.get("dermstudy", {}).get("source") != source_hash(source):
            raise InputError(f"{shown(path)} was made by other code than {shown(source)}: run it again")
        ran = [cell for cell in executed.cells if cell.cell_type == "code"]
        injected = [cell for cell in ran if INJECTED in cell.metadata.get("tags", [])]
        own = [cell for cell in ran if cell not in injected]
        if [_code(cell) for cell in own] != [_code(cell) for cell in words.cells if cell.cell_type == "code"]:
            raise InputError(f"{shown(path)} has its code in other cells than {shown(source)}: run it again")
        kept = iter(own)
        cells = []
        for cell in words.cells:
            cells.append(next(kept) if cell.cell_type == "code" else cell)
            if "parameters" in cell.metadata.get("tags", []):
                cells += injected
        for place, cell in enumerate(cells):
            cell.id = f"{place:08x}"
        before = [(cell.source, cell.get("outputs")) for cell in executed.cells]
        executed.cells = cells
        for cell in ran:
            cell.outputs = merged(deepcopy(cell.outputs))
        if [(cell.source, cell.get("outputs")) for cell in opened(executed, source.stem, space).cells] != before:
            with atomic_path(path) as temporary:
                nbformat.write(executed, temporary)
            changed.append(source.stem)
    return changed


def _code(cell) -> str:
    return ast.dump(ast.parse(cell.source))
