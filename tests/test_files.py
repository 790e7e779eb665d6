"""Files and folders are whole whenever a process dies: the old content is there, or the new."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from dermstudy import workspace
from dermstudy.files import atomic_path

KILLED = """
import os, shutil, sys
from dermstudy import files

def die(*_, **__):
    os._exit(9)

setattr({module}, {name!r}, die)
with files.atomic_path(sys.argv[1]) as temporary:
    temporary.mkdir()
    (temporary / "content").write_text("new")
"""
BETWEEN = KILLED.format(module="os", name="replace")  # the old folder is set aside, the new one not in its place
AFTERWARDS = KILLED.format(module="shutil", name="rmtree")  # the new one is in its place, the old one still aside


def killed(code: str, folder: Path) -> None:
    """Replace `folder`, which says "old", in a process that dies."""
    folder.mkdir(parents=True)
    (folder / "content").write_text("old")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr


def test_a_reader_finds_the_old_folder_of_a_run_that_was_killed_between(tmp_path):
    space = workspace.Workspace(tmp_path / "results")
    killed(BETWEEN, space.artifacts / "cohort")
    assert not (space.artifacts / "cohort").exists()
    assert (space.need("cohort", made_by="00_dataset") / "content").read_text() == "old"


@pytest.mark.parametrize(("code", "content"), [(BETWEEN, "old"), (AFTERWARDS, "new")])
def test_the_next_start_finds_one_whole_folder(tmp_path, code, content):
    killed(code, tmp_path / "results" / "artifacts" / "cohort")
    space = workspace.open_workspace(tmp_path / "results")
    assert (space.out("cohort") / "content").read_text() == content
    assert not list(space.artifacts.glob(".*.replaced"))


def test_the_next_writer_finds_the_old_folder_and_keeps_it_where_it_fails(tmp_path):
    killed(BETWEEN, tmp_path / "cohort")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "cohort"):
        raise RuntimeError
    assert (tmp_path / "cohort" / "content").read_text() == "old"
    with atomic_path(tmp_path / "cohort") as temporary:
        temporary.mkdir()
        (temporary / "content").write_text("newer")
    assert (tmp_path / "cohort" / "content").read_text() == "newer"
    assert not list(tmp_path.glob(".*.replaced"))


def test_a_folder_that_cannot_be_replaced_stays(tmp_path):
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "content").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "cohort"):
        pass  # nothing was written under the temporary name
    assert (tmp_path / "cohort" / "content").read_text() == "old"
