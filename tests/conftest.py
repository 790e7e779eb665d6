"""Shared fixtures: the phantom cohort, and the real images where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory) -> Path:
    from dermstudy import phantom

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

    from dermstudy import dataset, splits

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
    from dermstudy import study

    results = tmp_path_factory.mktemp("smoke") / "results"
    return study.run("smoke", results=str(results))


@pytest.fixture(scope="session")
def ham10000() -> Path:
    """The real images: $HAM10000, or the folder beside the checkout."""
    folder = Path(os.environ.get("HAM10000") or ROOT.parent / "shared" / "ham10000")
    if not folder.is_dir():
        pytest.skip("HAM10000 is not at hand: set HAM10000=/path/to/the/download to run this test")
    return folder
