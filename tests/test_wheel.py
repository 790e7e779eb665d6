"""The package as a wheel, installed elsewhere: what works without a checkout, and what says that it needs one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import Server
from conftest import ROOT
from PIL import Image
from test_convert import SMALL, pipeline_of, tokenizer  # noqa: F401  the tokenizer is a fixture

from dermstudy.data.dataset import SYNTHETIC_COLUMNS
from dermstudy.entities import CODES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The unpacked wheel, built without the network from a copy of what it is built from."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for package in ("dermstudy", "dermstudy_commands"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*build, "--wheel-dir", folder, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def dermstudy(installed, tmp_path):
    """The command of the installed wheel, run in an empty folder."""

    def run(*arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "dermstudy", *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_images_are_painted_and_classified_without_a_checkout(dermstudy, tmp_path):
    glide = ROOT / "weights" / "glide-mini"
    done = dermstudy("synthesize", "painted", "--per-entity", 1, "--weights", glide)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "painted" / "images").glob("*.png"))) == 7
    head = ROOT / "weights" / "classifier" / "head.safetensors"
    done = dermstudy("classify", "painted", "--out", "answers.csv", "--weights", head)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "answers.csv")) == 7


def test_weights_are_converted_without_a_checkout(dermstudy, tmp_path, tokenizer):  # noqa: F811
    pipeline_of(SMALL, tokenizer).save_pretrained(tmp_path / "base")
    done = dermstudy("convert", "base", "base.pt", "--to-openai")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "base.pt").is_file()


def test_a_kit_and_the_painting_page_are_served_without_a_checkout(installed, dermstudy, tmp_path):
    rows = []
    for number, code in enumerate(CODES):
        image = Image.fromarray(np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8))
        for name in (f"original_{number}", f"synthetic_{number}"):
            (tmp_path / name[0]).mkdir(exist_ok=True)
            image.save(tmp_path / name[0] / f"{name}.png")
        rows.append((f"synthetic_{number}", code, f"synthetic_{number}.png", code, f"original_{number}", number))
    pd.DataFrame(rows, columns=SYNTHETIC_COLUMNS).to_csv(tmp_path / "s" / "index.csv", index=False)
    originals = pd.DataFrame({
        "lesion_id": [f"lesion_{number}" for number in range(7)],
        "image_id": [f"original_{number}" for number in range(7)],
        "dx": CODES, "dx_type": "histo", "age": 50, "sex": "female", "localization": "back",
    })  # fmt: skip
    originals.to_csv(tmp_path / "o" / "HAM10000_metadata.csv", index=False)
    originals[["image_id"]].assign(split="test").to_csv(tmp_path / "split.csv", index=False)
    done = dermstudy(
        "kit", "build", "kit", "--synthetic", "s", "--data", "o", "--split", "split.csv", "--per-entity", 1
    )
    assert done.returncode == 0, done.stderr
    for command in (["kit", "serve", "kit"], ["app", "--weights", str(ROOT / "weights" / "glide-mini")]):
        server = Server(*command, folder=tmp_path, PYTHONPATH=str(installed))
        try:
            assert urllib.request.urlopen(server.address, timeout=60).status == 200
        finally:
            server.kill()


@pytest.mark.parametrize("command", [["run"], ["lab", "--no-browser"]])
def test_what_needs_a_checkout_says_so_in_one_line(dermstudy, command):
    done = dermstudy(*command)
    assert done.returncode == 2 and done.stderr.startswith("dermstudy: this needs a checkout"), done.stderr
    assert done.stderr.count("\n") == 1 and "--weights" in done.stderr


def test_shipped_weights_that_a_wheel_lacks_are_named(dermstudy, tmp_path):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    for command in (["synthesize", "painted", "--per-entity", 1], ["classify", ".", "--out", "answers.csv"]):
        done = dermstudy(*command)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "weights/" in done.stderr
