"""Shared fixtures: the phantom cohort, and the real images where they are at hand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory) -> Path:
    from dermstudy_commands.phantom import cohort as phantom

    return phantom.write_cohort(
        tmp_path_factory.mktemp("phantom") / "cohort",
        images=140,
        seed=0,
        side=128,
        shares="balanced",
        minimum_lesions=4,
    )


@pytest.fixture(scope="session")
def cohort(phantom_folder):
    """The phantom with captions and both splits, as notebook 00 leaves it."""
    from dataclasses import replace

    from dermstudy.data import dataset, splits

    loaded = dataset.load_folder(phantom_folder)
    frame = loaded.frame.copy()
    frame["caption"] = dataset.captions(frame, "entity")
    frame["group"] = frame["lesion_id"]
    frame["split"] = splits.lesion_split(frame, seed=0, minimum_test_lesions=2)
    frame["published"] = splits.published_split(frame, seed=0)
    return replace(loaded, frame=frame)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Path:
    """The smoke profile, executed once from the first notebook to the last."""
    from dermstudy_commands.runner import study

    results = tmp_path_factory.mktemp("smoke") / "results"
    return study.run("smoke", results=str(results), jobs=2)


@pytest.fixture(scope="session")
def cases() -> Path:
    """Inputs that users brought: $CASES, or the folder shared/cases beside the checkout."""
    folder = Path(os.environ.get("CASES") or ROOT.parent / "shared" / "cases")
    if not folder.is_dir():
        pytest.skip("the users' inputs are not at hand: set CASES=/path/to/them to run this test")
    return folder


@pytest.fixture(scope="session")
def ham10000() -> Path:
    """The real images: $HAM10000, or the folder beside the checkout."""
    folder = Path(os.environ.get("HAM10000") or ROOT.parent / "shared" / "ham10000")
    if not folder.is_dir():
        pytest.skip("HAM10000 is not at hand: set HAM10000=/path/to/the/download to run this test")
    return folder


def pytest_terminal_summary(terminalreporter):
    """One line that names the committed results made by older code, where they were among the tests."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    if not any("test_results.py" in str(getattr(report, "nodeid", "")) for report in reports):
        return
    from dermstudy_commands.runner import fingerprints

    terminalreporter.write_line(older_line({folder.name: fingerprints.older(folder) for folder in committed()}))


def committed() -> list[Path]:
    """The results folders that the repository holds: a reader's runs may lie beside them."""
    tracked = ["git", "-C", str(ROOT), "ls-files", "results/*/manifest.json"]
    return [(ROOT / line).parent for line in subprocess.run(tracked, capture_output=True, text=True).stdout.split()]


def older_line(older: dict[str, list[str]]) -> str:
    """The notebooks, by results folder, that older code made, in one line."""
    parts = [f"{name} {', '.join(stem[:2] for stem in stems)}" for name, stems in older.items() if stems]
    return f"results made by older code: {'; '.join(parts) or 'none'}"
