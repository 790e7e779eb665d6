"""Notebooks by hand: papermill as its manual has it, in the checkout and elsewhere, and what stops before it writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import papermill
import pytest
from conftest import ROOT
from papermill.iorw import load_notebook_node, read_yaml_file
from papermill.parameterize import parameterize_notebook

from dermstudy import workspace
from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.readers import kit, workbook
from dermstudy_commands.runner import profiles, study

NOTEBOOKS = profiles.notebooks()
TYPES = {"str", "int", "float", "bool", "list[str]", "list[int]", "list[float]", "list[list]"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_lists_every_parameter_with_its_type(notebook):
    listed = papermill.inspect_notebook(notebook)
    assert list(listed) == list(profiles.declared_parameters(notebook))
    assert {one["inferred_type_name"] for one in listed.values()} <= TYPES


@pytest.mark.parametrize("profile", profiles.profile_names())
def test_a_file_gives_papermill_what_the_runner_gives(profile):
    """Each file is whole: no other has to be named beside it."""
    resolved = profiles.resolve(profiles.load_profile(profile), study.default_results(profile))
    for notebook in NOTEBOOKS:
        given = read_yaml_file(str(ROOT / "profiles" / profile / f"{notebook.stem}.yaml"))
        assert given == resolved[notebook.stem], notebook.stem
        cells = parameterize_notebook(load_notebook_node(str(notebook)), given).cells
        (injected,) = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
        names: dict = {}
        exec(injected.source, names)
        assert {name: names[name] for name in given} == given


# The set-up cell


def opened(**given) -> workspace.Workspace:
    """As a notebook opens, with two declared parameters and what was injected."""
    names = {"__annotations__": {"RESULTS": str, "COUNT": int, "SCALE": float}, "RESULTS": "results/x", "COUNT": 1,
             "SCALE": 1.0, "workspace": workspace} | given  # fmt: skip
    space = workspace.open_notebook(names)
    assert isinstance(names["RESULTS"], str) and isinstance(names["COUNT"], int) and isinstance(names["SCALE"], float)
    return space


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"RESULT": "x"}, "RESULT is no parameter of this notebook: RESULTS is one"),
        ({"results": "x"}, "results is no parameter of this notebook: RESULTS is one"),
        ({"ELSE": 1}, "ELSE is no parameter of this notebook: its parameters are RESULTS, COUNT, SCALE"),
        ({"COUNT": "many"}, "COUNT is 'many': give a value of type int"),
        ({"COUNT": True}, "COUNT is True: give a value of type int"),
        ({"COUNT": 1.5}, "COUNT is 1.5: give a value of type int"),
        ({"RESULTS": None}, "RESULTS is None: give a value of type str"),
        ({"RESULTS": "../elsewhere"}, "relative paths are taken from the checkout"),
        ({"RESULTS": "results/../.."}, "relative paths are taken from the checkout"),
        ({"RESULTS": ""}, "relative paths are taken from the checkout"),
        ({"__annotations__": {}}, "run the cell of parameters first"),
    ],
)
def test_what_a_notebook_cannot_use_stops_it(given, line):
    with pytest.raises(InputError, match=line):
        opened(**given)


def test_what_a_notebook_can_read_is_read(tmp_path):
    assert opened(RESULTS=2024).root == ROOT / "2024" and opened(COUNT="3", SCALE=2).root == ROOT / "results" / "x"
    assert opened(ws=None, RESULT="the reader's own, in a later cell")
    assert opened(RESULTS=str(tmp_path / "new")).root == tmp_path / "new"
    assert not (tmp_path / "new").exists() and not (ROOT / "2024").exists()


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path):
    for profile in ("demo", "published-twin"):
        space = workspace.Workspace(ROOT / study.default_results(profile))
        with pytest.raises(InputError, match=f"`dermstudy run {profile} --to 03`"):
            space.need("nothing", made_by="03_sample")
    with pytest.raises(InputError, match=f"`dermstudy run PROFILE --to 00 --results {tmp_path}`"):
        workspace.Workspace(tmp_path).need("cohort", made_by="00_dataset")


# papermill


def by_hand(folder: Path, stem: str, *arguments: str) -> subprocess.CompletedProcess:
    """papermill's own command, called in `folder`, on notebook `stem`."""
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / f"{stem}.ipynb"), f"{stem}.ipynb"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    more = ["--no-progress-bar", "--kernel", "python3"]
    return subprocess.run([*command, *more, *arguments], cwd=folder, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_papermill_runs_a_notebook_with_its_file_from_another_folder(tmp_path):
    """00, and 05 with the answers of a kit's readers in a workbook."""
    results, smoke, elsewhere = tmp_path / "results", ROOT / "profiles" / "smoke", tmp_path / "elsewhere"
    elsewhere.mkdir()
    rows = [("k", f"{kind}{code}{n}", kind, code, "x") for code in CODES for kind in ("AI", "original") for n in "ab"]
    key = pd.DataFrame(rows, columns=kit.KEY_COLUMNS)
    answers = pd.concat([kit.simulated_answers(key, reader, 0.7, 0.8, 0) for reader in ("Ada", "Grete")])
    own = workbook.write_workbook(answers.drop(columns="provenance"), tmp_path / "own.xlsx")
    to = ["-p", "RESULTS", str(results)]
    for stem, more in (("00_dataset", ["SEED", "1"]), ("05_dermatologist_study", ["KIT_WORKBOOK", str(own)])):
        done = by_hand(elsewhere, stem, "-f", str(smoke / f"{stem}.yaml"), *to, "-p", *more)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (results / "tables" / "cohort.csv").is_file() and (results / "tables" / "reader_intervals.csv").is_file()
    assert set(pd.read_csv(results / "tables" / "kit_source_auc.csv")["reader"]) == {"Ada", "Grete"}
    assert sorted(path.name for path in elsewhere.iterdir()) == ["00_dataset.ipynb", "05_dermatologist_study.ipynb"]


@pytest.mark.slow
def test_papermill_stops_before_anything_is_written(tmp_path):
    before = {path.name for path in (ROOT / "results").iterdir()}
    done = by_hand(tmp_path, "03_sample")
    line = "artifacts/cohort is missing: run notebook 00_dataset first (`dermstudy run paper --to 00`)"
    assert done.returncode == 1 and line in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["03_sample.ipynb"]
    cells = load_notebook_node(str(tmp_path / "03_sample.ipynb")).cells
    (error,) = [one for cell in cells for one in cell.get("outputs", []) if one.output_type == "error"]
    assert len(error.traceback) == 1 and line in error.traceback[0]
    assert {path.name for path in (ROOT / "results").iterdir()} == before
