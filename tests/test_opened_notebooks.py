"""A notebook opened straight from notebooks/, with nothing run before it: one line says what to do first."""

from __future__ import annotations

import re

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

from dermstudy.runner import profiles

NEEDED = re.compile(r"ws\.need\(|\.open_source\(")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Each notebook's code up to the first cell that reads what another one makes, all in one kernel: its last outputs."""
    folder = tmp_path_factory.mktemp("opened")
    joined, last = nbformat.v4.new_notebook(), {}
    for notebook in profiles.notebooks():
        for cell in profiles.read_notebook(notebook).cells:
            if cell.cell_type != "code":
                continue
            joined.cells.append(nbformat.v4.new_code_cell(cell.source))
            if "parameters" in cell.metadata.get("tags", []):
                own = {"RESULTS": str(folder / notebook.stem), "DATA": str(folder / "none"), "BOOTSTRAP": 20}
                code = "\n".join(f"{name} = {value!r}" for name, value in own.items())
                joined.cells.append(nbformat.v4.new_code_cell(code))
            if NEEDED.search(cell.source):
                last[notebook.stem] = len(joined.cells) - 1
                break
    joined.cells.append(nbformat.v4.new_code_cell("1 / 0"))
    last["another error"] = len(joined.cells) - 1
    NotebookClient(joined, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": ROOT}}).execute()
    return {stem: joined.cells[place].outputs for stem, place in last.items()}, folder


@pytest.mark.slow
@pytest.mark.parametrize("stem", [notebook.stem for notebook in profiles.notebooks()])
def test_what_is_missing_is_said_in_one_line(opened, stem):
    outputs, folder = opened
    errors = [output for output in outputs[stem] if output.output_type == "error"]
    assert [error.ename for error in errors] == ["InputError"], errors
    if stem == "00_dataset":
        assert f"no folder {folder / 'none'}: set DATA to the folder of a HAM10000 download" in errors[0].evalue
    else:
        assert "artifacts/cohort is missing: run notebook 00_dataset" in errors[0].evalue
    assert "dermstudy lab" in errors[0].evalue
    shown = "\n".join(errors[0].traceback)
    assert shown.count("\n") == 0 and errors[0].evalue in shown, shown


@pytest.mark.slow
def test_another_error_keeps_its_traceback(opened):
    (error,) = opened[0]["another error"]
    assert error.ename == "ZeroDivisionError" and len(error.traceback) > 1
