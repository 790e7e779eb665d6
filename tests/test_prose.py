"""Mended words reach executed notebooks; other code does not."""

from __future__ import annotations

import shutil

import nbformat
import pytest
from conftest import ROOT

from dermstudy import workspace
from dermstudy.files import InputError
from dermstudy.runner import fingerprints, words


@pytest.fixture
def run(tmp_path, monkeypatch):
    """One notebook and its committed result, where they may be changed."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    (tmp_path / "results").mkdir()
    source = ROOT / "notebooks" / "05_dermatologist_study.ipynb"
    executed = nbformat.read(ROOT / "results" / "demo" / source.name, as_version=4)
    executed.metadata["dermstudy"]["source"] = fingerprints.source_hash(source)  # as if today's code had made it
    nbformat.write(executed, tmp_path / "results" / source.name)
    monkeypatch.setattr(words, "notebooks", lambda: sorted((tmp_path / "notebooks").glob("*.ipynb")))
    return tmp_path / "notebooks" / "05_dermatologist_study.ipynb", workspace.Workspace(tmp_path / "results")


def test_words_change_and_outputs_stay(run):
    source, space = run
    words.refresh(space)
    before = nbformat.read(space.root / source.name, as_version=4)
    content = nbformat.read(source, as_version=4)
    content.cells[0].source += "\n\nOne sentence more."
    nbformat.write(content, source)
    assert words.refresh(space) == [source.stem] and words.refresh(space) == []
    after = nbformat.read(space.root / source.name, as_version=4)
    assert after.cells[0].source.endswith("One sentence more.") and after.metadata == before.metadata
    outputs = [[cell.outputs for cell in nb.cells if cell.cell_type == "code"] for nb in (before, after)]
    assert outputs[0] == outputs[1]


def test_other_code_is_refused(run):
    source, space = run
    content = nbformat.read(source, as_version=4)
    next(cell for cell in content.cells if cell.cell_type == "code").source += "\nSEED = 1"
    nbformat.write(content, source)
    before = (space.root / source.name).read_bytes()
    with pytest.raises(InputError, match="made by other code"):
        words.refresh(space)
    assert (space.root / source.name).read_bytes() == before
    assert fingerprints.source_hash(source)


def test_code_in_other_cells_is_refused(run):
    """The hash of the code is that of all cells together, and outputs belong to one cell each."""
    source, space = run
    content = nbformat.read(source, as_version=4)
    place = next(n for n, cell in enumerate(content.cells) if cell.cell_type == "code" and "\n" in cell.source)
    first, rest = content.cells[place].source.split("\n", 1)
    content.cells[place].source = first
    content.cells.insert(place + 1, nbformat.v4.new_code_cell(rest))
    nbformat.write(content, source)
    before = (space.root / source.name).read_bytes()
    with pytest.raises(InputError, match="has its code in other cells"):
        words.refresh(space)
    assert (space.root / source.name).read_bytes() == before
