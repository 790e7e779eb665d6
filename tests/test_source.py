"""One hash of code: whatever is imported counts, and nothing has to be listed by hand."""

from __future__ import annotations

import shutil

import pytest
from conftest import ROOT

from dermstudy import source


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the package that a test may edit."""
    root = tmp_path_factory.mktemp("checkout")
    for package in ("dermstudy", "dermstudy_commands"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def changed(root, file: str, old: str, new: str, name: str) -> bool:
    """Whether the hash of module `name` is another one once `old` in `file` is `new`."""
    path, before = root / file, source.code_hash(name, root)
    text = path.read_text(encoding="utf-8")
    assert old in text
    try:
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return source.code_hash(name, root) != before
    finally:
        path.write_text(text, encoding="utf-8")


ADDED = "\n\ndef changed():\n    return 1\n\n\ndef "
ROOM = "dermstudy.classification"
TABLE = next((ROOT / "dermstudy" / "data").glob("*.csv")).relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    ("file", "old", "new", "name", "counts"),
    [
        ("dermstudy/classification/keras_network.py", "\ndef ", ADDED, f"{ROOM}.study_runs", True),
        ("dermstudy/classification/frozen_features.py", "TOLERANCE = ", "TOLERANCE = 2 * ", f"{ROOM}.frozen_features", True),
        ("dermstudy/diffusion/folded.py", "\ndef ", ADDED, "dermstudy.diffusion.glide", True),
        ("dermstudy/diffusion/schedules.py", "\ndef ", ADDED, "dermstudy.diffusion.glide", True),
        (TABLE, "\n", "\nISIC_0,ISIC_1\n", "dermstudy.data.near_duplicates", True),
        ("dermstudy/intervals.py", "def wilson", "# a comment\n\n\ndef wilson", "dermstudy.intervals", False),
        ("dermstudy/intervals.py", '"""', '"""Other words. ', "dermstudy.intervals", False),
        ("dermstudy_commands/web/app.py", "\ndef ", ADDED, "dermstudy.intervals", False),
    ],
)  # fmt: skip
def test_what_counts_in_the_hash_of_a_module(checkout, file, old, new, name, counts):
    assert changed(checkout, file, old, new, name) == counts


def test_every_import_is_written_out():
    """An import whose name is worked out at run time could not be followed."""
    for path in ROOT.glob("dermstudy*/**/*.py"):
        source.imported(path.read_text(encoding="utf-8"), ROOT)


def test_lazy_relative_and_package_imports_are_followed(tmp_path):
    package = tmp_path / "study"
    (package / "room").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "room" / "__init__.py").write_text("from .inner import value\n")
    (package / "room" / "inner.py").write_text("value = 1\n")
    (package / "other.py").write_text("def late():\n    from .room import value\n    import numpy\n    return value\n")
    files, packages = source.imported("from study import other\n", tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [
        "study/__init__.py", "study/other.py", "study/room/__init__.py", "study/room/inner.py",
    ]  # fmt: skip
    assert packages == {"numpy"}
