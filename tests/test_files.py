"""Files and folders are whole whenever a process dies: the old content is there, or the new."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from dermstudy import workspace
from dermstudy.files import InputError, atomic_path, locked

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


HALF_WRITTEN = """
import os, sys
from dermstudy import files

with files.atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os._exit(9)
"""


def test_what_a_killed_save_left_is_swept_at_the_next_start(tmp_path):
    """And what a living process writes is left to it."""
    space = workspace.open_workspace(tmp_path / "results")
    target = space.artifacts / "table.csv"
    done = subprocess.run([sys.executable, "-c", HALF_WRITTEN, str(target)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 9 and list(space.artifacts.iterdir()), done.stderr
    with atomic_path(space.artifacts / "other.csv") as temporary:
        temporary.write_text("whole")
        workspace.open_workspace(tmp_path / "results")
    assert {path.name for path in space.artifacts.iterdir()} == {"other.csv", ".writable"}
    assert (space.artifacts / "other.csv").read_text() == "whole"


def test_a_lock_has_one_holder_among_processes(tmp_path):
    """The second is refused, or waits; a killed holder holds nothing."""
    hold = (
        "import sys, time\nfrom dermstudy.files import locked\n"
        "with locked(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    path = tmp_path / "folder" / ".lock"
    other = subprocess.Popen([sys.executable, "-c", hold, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match="another run writes"), locked(path, "another run writes"):
        pass
    other.kill()
    other.wait()
    with locked(path, "another run writes"):
        assert path.exists()
    assert not path.exists()


@pytest.mark.parametrize("folder", [False, True])
def test_durable_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, folder):
    told = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda own: told.append(os.readlink(f"/proc/self/fd/{own}")) or fsync(own))
    monkeypatch.setattr(os, "replace", lambda *paths: told.append("renamed") or replace(*paths))
    target = tmp_path / "state"
    with atomic_path(target, durable=True) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "content").write_text("new")
        else:
            temporary.write_text("new")
    written = [Path(name).name for name in told[: told.index("renamed")]]
    assert written == (["content", "state"] if folder else ["state"])
    assert told[-2:] == ["renamed", str(tmp_path)]
