"""One line and an exit code, whatever a user gives and whatever the system refuses; nothing half-written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, committed

from dermstudy import workspace
from dermstudy.data import dataset
from dermstudy.diffusion import weights
from dermstudy.files import InputError, answered, atomic_path
from dermstudy_commands import cli
from dermstudy_commands.readers import served
from dermstudy_commands.runner import findings, report, study, verify


def told(capsys) -> str:
    """The one line on standard error."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("dermstudy: "), error
    return error


# Values that no command can use


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "smoke", "--only", ""],
        ["run", "smoke", "--from", ""],
        ["run", "smoke", "--to", ""],
        ["run", "smoke", "--results", ""],
        ["run", "smoke", "--data", ""],
        ["run", ""],
        ["lab", "smoke", ""],
        ["report", ""],
        ["synthesize", "", "--per-entity", "1"],
    ],
)
def test_an_empty_value_is_not_taken_for_none(arguments, capsys, monkeypatch):
    monkeypatch.setattr(study, "run", lambda *_: pytest.fail("it ran"))
    assert cli.main(arguments) == 2
    assert "empty" in told(capsys)


@pytest.mark.parametrize("command", [["run", "smoke"], ["verify"]])
def test_no_jobs_are_refused_before_anything_is_read(command, capsys, monkeypatch):
    monkeypatch.setattr(study, "run", lambda *_: pytest.fail("it ran"))
    assert cli.main([*command, "--jobs", "0"]) == 2
    assert "--jobs 0: give 1 or more" in told(capsys)


@pytest.mark.parametrize("epoch", ["", "tomorrow", "1e9", "99999999999999999"])
def test_a_date_that_is_none_is_refused_before_anything_runs(epoch):
    """In a process of its own: numpy reads it when it is imported."""
    command = [sys.executable, "-m", "dermstudy", "run", "smoke"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"SOURCE_DATE_EPOCH": epoch}, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"dermstudy: SOURCE_DATE_EPOCH is {epoch!r}: give a number of seconds, or unset it\n"


@pytest.mark.parametrize("command", ["report", "findings", "verify"])
def test_results_that_are_not_there_are_not_made(command, tmp_path, capsys):
    assert cli.main([command, str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in told(capsys) and not list(tmp_path.iterdir())


# Files of another shape

SHAPES = {
    "an empty file": b"",
    "cut": b'{"kit": "a", "ima',
    "a list": b"[]",
    "null": b"null",
    "not UTF-8": b'{"kit": "\xff"}',
    "null in place of text": b'{"profile": null, "kit": null, "name": null, "notebooks": null, "a": null, "base": null}',
    "text in place of a list": b'{"profile": "a", "notebooks": "a", "kit": "a", "images": "a", "side": 1, "base": "a"}',
}
READERS = {
    "manifest.json": [
        lambda folder: report.write(workspace.Workspace(folder), folder / "out"),
        lambda folder: verify.rerun(folder),
        lambda folder: study.run("smoke", results=str(folder), only="05"),
    ],
    "kit.json": [served.open_kit],
    "cohort.json": [dataset.open_cohort],
    "lineage.json": [weights.lineage],
}


@pytest.mark.parametrize("content", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", READERS)
def test_json_of_another_shape_is_named(name, content, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "_execute", lambda *_: pytest.fail("it ran"))
    for folder in ("artifacts", "tables", "figures"):
        (tmp_path / folder).mkdir()
    (tmp_path / "00_dataset.ipynb").write_text("{}")
    (tmp_path / name).write_bytes(content)
    for read in READERS[name]:
        with pytest.raises(InputError) as raised:
            read(tmp_path)
        assert name in str(raised.value) and "\n" not in str(raised.value)
    assert (tmp_path / name).read_bytes() == content


def test_a_field_is_named_with_its_place(tmp_path):
    (tmp_path / "manifest.json").write_text(
        '{"profile": "demo", "notebooks": {"00_dataset": {"source": "", "commit": null}}}'
    )
    with pytest.raises(
        InputError, match="manifest.json, notebooks, 00_dataset, commit: input should be a valid string"
    ):
        verify.rerun(tmp_path)
    (tmp_path / "manifest.json").unlink()
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(InputError, match="manifest.json is no file"):
        verify.rerun(tmp_path)


def test_the_committed_results_have_the_shape():
    for folder in committed():
        assert report.provenance.manifest(folder, report.provenance.Report)["profile"] == folder.name
        findings.markdown(workspace.Workspace(folder))


# What the system refuses


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.csv"), "a.csv: No space left on device; free some space"),
        (OSError(errno.EROFS, "Read-only file system", "a"), "a: Read-only file system; choose a folder you may write to"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; raise the limit of `ulimit -n`"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "aa"), "aa: File name too long; shorten the name"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), "a: Is a directory"),
        (UnicodeEncodeError("utf-8", "caf\udce9.jpg", 3, 4, ""), "not UTF-8: 'caf\\udce9.jpg' (rename it)"),
        (InputError("a\nb"), "a b"),
    ],
)  # fmt: skip
def test_what_the_system_refuses_is_one_line(error, line, capsys):
    def act():
        raise error

    assert answered(act) == 2
    assert told(capsys) == f"dermstudy: {line}\n"


def test_errors_of_the_program_keep_their_traceback(capsys):
    with pytest.raises(ZeroDivisionError):
        answered(lambda: 1 / 0)
    assert answered(lambda: None) == 0 and answered(lambda: 1) == 1


def limited(code: str, folder, size: int = 4096) -> subprocess.CompletedProcess:
    """Python code in a process that may write no file of more than `size` bytes."""
    before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    return subprocess.run(
        [sys.executable, "-c", before + code, str(folder)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "write",
    [
        "path.write_bytes(bytes(9999))",
        "import numpy; numpy.save(open(path, 'wb'), numpy.zeros(9999))",
        "import numpy, safetensors.numpy; safetensors.numpy.save_file({'a': numpy.zeros(9999)}, path)",
        "import numpy, PIL.Image; PIL.Image.fromarray(numpy.random.default_rng(0).integers(0, 255, (99, 99, 3), "
        "numpy.uint8)).save(path, 'png')",
        "import numpy, pandas; pandas.DataFrame(numpy.zeros((999, 9))).to_csv(path)",
    ],
)
def test_a_full_disk_leaves_the_old_file_and_one_line(write, tmp_path):
    target = tmp_path / "kept"
    target.write_text("old")
    code = (
        "import sys, pathlib\nfrom dermstudy import files\ntarget = pathlib.Path(sys.argv[1])\n"
        f"def act():\n    with files.atomic_path(target) as path:\n        {write}\nsys.exit(files.answered(act))"
    )
    done = limited(code, target)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"dermstudy: cannot write {target}: ") and done.stderr.count("\n") == 1
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_full_disk_ends_a_command_with_one_line(tmp_path):
    command = "cli.main(['data', 'phantom', sys.argv[1], '--profile', 'smoke'])"
    code = f"import sys; from dermstudy_commands import cli; sys.exit({command})"
    done = limited(code, tmp_path / "phantom", 512)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"{tmp_path}/phantom" in done.stderr and not list(tmp_path.iterdir())


def test_other_errors_in_the_block_are_their_own(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        np.load(tmp_path / "nowhere.npy")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("a.jpg", ["data", "check", "FOLDER"]),
        ("HAM10000_metadata.csv", ["data", "check", "FOLDER"]),
        ("a.jpg", ["classify", "FOLDER", "--out", "FOLDER/x.csv"]),
        ("a.pt", ["convert", "FOLDER/a.pt", "FOLDER/x", "--tokenizer", "FOLDER"]),
    ],
)
def test_a_named_pipe_is_not_waited_for(name, command, tmp_path, capsys):
    os.mkfifo(tmp_path / name)
    assert cli.main([part.replace("FOLDER", str(tmp_path)) for part in command]) == 2
    told(capsys)


@pytest.mark.parametrize("name", ["a" * 300, "caf\udce9"])
def test_names_that_no_file_can_have(name, tmp_path, capsys):
    assert cli.main(["data", "check", str(tmp_path / name)]) == 2
    told(capsys)
    assert cli.main(["report", str(tmp_path / name)]) == 2
    told(capsys)


def test_output_that_cannot_be_written_is_told():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "dermstudy", "findings", "results/demo"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr == "dermstudy: No space left on device; free some space\n"
