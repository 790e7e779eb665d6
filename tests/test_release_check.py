"""What must hold before a release: each check holds here, and fails where what it looks for is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from dermstudy.files import InputError, sha256_file
from dermstudy.maintenance import interface, markdown_links, packing, release_check
from dermstudy.maintenance.release_check import Fault


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


def put(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize("name", list(release_check.CHECKS))
def test_every_check_holds_here(original, name):
    found = release_check.outcome(name, release_check.CHECKS[name], original)
    assert found.holds, found.line()


def unused_import(root):
    (root / "dermstudy" / "more.py").write_text('"""More."""\n\nimport os\n')


def unformatted(root):
    (root / "dermstudy" / "more.py").write_text('"""More."""\n\nVALUE = { "a" : 1 }\n')


def with_output(root):
    path = root / "notebooks" / "00_dataset.ipynb"
    content = json.loads(path.read_text())
    cell = next(cell for cell in content["cells"] if cell["cell_type"] == "code")
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]
    path.write_text(json.dumps(content, indent=1) + "\n")


def end_of_readme(text):
    def harm(root):
        with open(root / "README.md", "a", encoding="utf-8") as stream:
            stream.write(text)

    return harm


def other_finding(root):
    path = root / "results" / "ham10000" / "tables" / "leak.csv"
    table = pd.read_csv(path)
    table["share"] += 0.1
    table.to_csv(path, index=False)


def repacked(root, old, new):
    """A change of the card whose checksum was renewed with it."""
    card, sums = (root / "weights" / "glide-mini" / name for name in ("README.md", packing.CHECKSUMS))
    before = sha256_file(card)
    put(card, old, new)
    put(sums, before, sha256_file(card))


@pytest.mark.parametrize(
    ("name", "harm", "words"),
    [
        ("lint", unused_import, "ruff check"),
        ("lint", unformatted, "ruff format"),
        ("lint", with_output, "nbstripout"),
        ("links", end_of_readme("\n[more](docs/MORE.md)\n"), "links to docs/MORE.md: no such file"),
        ("links", end_of_readme("\n[more](docs/DATA.md#more)\n"), "links to docs/DATA.md#more: no such heading"),
        ("links", end_of_readme("\nSee `docs/MORE.md`.\n"), "names docs/MORE.md, which is not there"),
        ("links", end_of_readme("\n[out](../secret.md)\n"), "lies outside the repository"),
        ("numbers", other_finding, "is not that of `dermstudy findings results/ham10000 --headlines`"),
        ("numbers", lambda root: put(root / "CITATION.cff", "\nversion: ", "\nversion: 9"), "versions differ"),
        ("numbers", lambda root: put(root / ".zenodo.json", '"version": "', '"version": "9'), "versions differ"),
        ("numbers", lambda root: put(root / "docs" / "API.md", "(", "(other, "), "docs/API.md is not today's"),
        ("card", lambda root: put(root / "weights/glide-mini/README.md", "Not for", "Made for"), "not the file that was"),
        ("card", lambda root: repacked(root, "cc-by-nc-4.0", "mit"), "front matter"),
        ("card", lambda root: repacked(root, "## Recipe", "## Recipe of {minutes}"), "empty place: {minutes}"),
        ("card", lambda root: repacked(root, "**Not for diagnosis", "Not for diagnosis"), "without the warning"),
        ("metadata", lambda root: put(root / ".github/workflows/tests.yml", "runs-on", "runs_on"), "workflows"),
        ("metadata", lambda root: put(root / "CITATION.cff", "type: software", "type: study"), "CITATION.cff"),
    ],
)  # fmt: skip
def test_every_check_can_fail(checkout, name, harm, words):
    harm(checkout)
    found = release_check.outcome(name, release_check.CHECKS[name], checkout)
    assert not found.holds and words in found.found and "\n" not in found.line()


@pytest.mark.slow
def test_a_clone_that_is_too_large_is_measured(original, monkeypatch):
    monkeypatch.setattr(release_check, "LARGEST_CLONE", 1_000_000)
    with pytest.raises(Fault, match=r"has [0-9.]+ MB; at most 1 may be"):
        release_check.sizes(original)


def test_a_folder_that_is_no_checkout_cannot_be_cloned(tmp_path):
    with pytest.raises(Fault, match="cannot be cloned"):
        release_check.sizes(tmp_path)


@pytest.mark.parametrize("code", [0, 1])
def test_verify_says_what_the_command_said(tmp_path, monkeypatch, code):
    seen = []

    def run(command, **options):
        seen.append(command)
        return subprocess.CompletedProcess(command, code, stdout="one\ntables equal 47 of 48\n")

    monkeypatch.setattr(release_check.subprocess, "run", run)
    found = release_check.outcome("verify", release_check.verified, tmp_path)
    assert found.holds is (code == 0) and found.found == "tables equal 47 of 48"
    assert seen[0][1:] == ["-m", "dermstudy", "verify", "results/demo"]


def test_one_line_a_check_and_any_fault_fails(monkeypatch, capsys):
    def broken(root):
        raise InputError("it is broken")

    def dying(root):
        raise ZeroDivisionError("by zero")

    checks = {"one": lambda root: "fine", "two": broken, "three": dying}
    monkeypatch.setattr(release_check, "CHECKS", checks)
    monkeypatch.setattr(release_check, "verified", lambda root: "equal")
    assert release_check.main([]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok    one: fine",
        "FAILS two: it is broken",
        "FAILS three: ZeroDivisionError: by zero",
        "ok    verify: equal",
    ]
    monkeypatch.setattr(release_check, "CHECKS", {"one": checks["one"]})
    assert release_check.main(["--skip-verify"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "----- verify: skipped"


def test_the_makefile_calls_it():
    made = subprocess.run(
        ["make", "-C", str(ROOT), "-n", "release-check", "SKIP_VERIFY=1"], capture_output=True, text=True
    )
    assert "-m dermstudy.maintenance.release_check --skip-verify" in made.stdout


# Pages


def test_headings_become_anchors(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One, two\n\n```\n# no heading\n```\n\n## `cli`: [a link](there.md)\n\n## One, two\n")
    assert markdown_links.anchors(page) == {"one-two", "cli-a-link", "one-two-1"}
    notebook = tmp_path / "page.ipynb"
    cells = [{"cell_type": "markdown", "source": ["# 01 · Title\n", "text"]}, {"cell_type": "code", "source": ["# no"]}]
    notebook.write_text(json.dumps({"cells": cells}))
    assert markdown_links.anchors(notebook) == {"01-·-Title"}


# What a notebook may import


def test_the_page_is_made_from_todays_sources():
    assert (ROOT / interface.PAGE).read_text(encoding="utf-8") == interface.page(ROOT), (
        "the notebooks or what they use have changed: python -m dermstudy.maintenance.interface"
    )


MODULE = '''"""Numbers. More."""

LEAST, MOST = 1, 2

def twice(x: int, by: int = 2) -> int:
    """Twice x. Or more."""

def most():
    """The most."""

class Pair:
    """Two."""

def _own(): ...
'''


def small_package(root: Path, code: str) -> None:
    (root / "notebooks").mkdir(parents=True)
    (root / "dermstudy" / "data").mkdir(parents=True)
    (root / "dermstudy" / "data" / "numbers.py").write_text(MODULE)
    cell = {"cell_type": "code", "source": [line + "\n" for line in code.splitlines()]}
    (root / "notebooks" / "00.ipynb").write_text(json.dumps({"cells": [cell]}))


def test_the_page_lists_what_is_used_and_nothing_else(tmp_path):
    code = "%matplotlib inline\nfrom dermstudy.data import numbers\nfrom dermstudy.data.numbers import Pair\n"
    small_package(tmp_path, code + "numbers.twice(numbers.most(), numbers.MOST)")
    lines = interface.page(tmp_path).splitlines()
    assert lines[-6:] == [
        "Numbers.", "", "- `MOST`: a constant", "- `most()`: The most.", "- `Pair`: Two.", "- `twice(x, by=2)`: Twice x.",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["gone", "_own"])
def test_a_notebook_that_uses_what_is_not_offered_is_named(tmp_path, name):
    small_package(tmp_path, f"from dermstudy.data import numbers\nnumbers.{name}")
    with pytest.raises(InputError, match=f"a notebook uses dermstudy.data.numbers.{name}"):
        interface.page(tmp_path)


def test_the_command_compares_without_writing(capsys):
    before = (ROOT / interface.PAGE).stat().st_mtime_ns
    assert interface.main(["--check"]) == 0
    assert (ROOT / interface.PAGE).stat().st_mtime_ns == before and capsys.readouterr().out == ""
