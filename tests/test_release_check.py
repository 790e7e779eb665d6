"""What must hold before a release: each check holds here, and fails where what it looks for is wrong."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

from dermstudy_commands.maintenance import release_check

QUICK = [name for name in release_check.CHECKS if name != "verified"]


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """The checkout's files as git would have them, in a repository of their own with one commit."""
    root = tmp_path_factory.mktemp("release") / "checkout"
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    git = ["git", "-C", str(root), "-c", "user.name=nobody", "-c", "user.email=nobody@invalid"]
    for step in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*git, *step], check=True)
    return root


@pytest.fixture
def checkout(original):
    """The same, put back afterwards."""
    yield original
    for step in (["reset", "--quiet", "--hard"], ["clean", "--quiet", "--force", "-d"]):
        subprocess.run(["git", "-C", str(original), *step], check=True)


@pytest.mark.parametrize("name", QUICK)
def test_every_check_holds_here(original, name):
    holds, found = release_check.outcome(name, original)
    assert holds, found


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "words"),
    [
        ("links", "README.md", "\n", "\n[more](docs/MORE.md)\n", "links to docs/MORE.md: no such file"),
        ("links", "README.md", "\n", "\n[more](docs/DATA.md#more)\n", "links to docs/DATA.md#more: no such heading"),
        ("links", "README.md", "\n", "\n[out](../secret.md)\n", "links to ../secret.md: no such file"),
        ("versions", "CITATION.cff", "\nversion: ", "\nversion: 9", "versions differ"),
        ("weights", "weights/glide-mini/README.md", "Not for", "Made for", "not the file that was shipped"),
        ("metadata", ".github/workflows/tests.yml", "runs-on", "runs_on", ""),
        ("metadata", "CITATION.cff", "type: software", "type: study", ""),
    ],
)
def test_every_check_can_fail(checkout, name, file, old, new, words):
    text = (checkout / file).read_text(encoding="utf-8")
    assert old in text
    (checkout / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    holds, found = release_check.outcome(name, checkout)
    assert not holds and words in found and "\n" not in found


def test_what_cannot_be_measured_or_is_too_large_does_not_hold(original, tmp_path, monkeypatch):
    assert not release_check.outcome("sizes", tmp_path)[0] and not release_check.outcome("weights", tmp_path)[0]
    monkeypatch.setattr(release_check, "LARGEST_DOWNLOAD", 1_000_000)
    assert "of at most 1 MB" in release_check.outcome("sizes", original)[1]


def test_one_line_a_check_and_any_fault_fails(monkeypatch, capsys):
    monkeypatch.setattr(release_check, "CHECKS", {"one": lambda root: "fine", "two": lambda root: 1 / 0})
    assert release_check.main([]) == 1
    assert capsys.readouterr().out == "ok    one: fine\nFAILS two: ZeroDivisionError: division by zero\n"
    monkeypatch.setattr(release_check, "CHECKS", {"one": lambda root: "fine", "verified": lambda root: 1 / 0})
    assert release_check.main(["--skip-verify"]) == 0
