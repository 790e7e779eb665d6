"""What a sitting reached is kept with its line of the log, and a committed log is that of the committed weights."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from dermstudy.evaluation import cascade
from dermstudy.files import sha256_file
from dermstudy.maintenance import sittings

COMMITTED = ROOT / sittings.OUT


@pytest.fixture
def training(tmp_path):
    """A training's folder: a state, its inputs and an average, of an upsampler after 30 steps."""
    folder = tmp_path / "training"
    folder.mkdir()
    recipe = {"preset": "mini-upsampler"}
    log = [
        {"step": 20, "images": 320, "loss": 0.9, "seconds": 60.0},
        {"step": 30, "images": 480, "loss": 0.5, "seconds": 90.0},
    ]
    notes = {"step": 30, "log": log, "recipe": recipe, "scale": {}}
    save_file({"w": torch.ones(2)}, folder / "state.safetensors", {"dermstudy": json.dumps(notes)})
    own = {"recipe": recipe, "scale": {}}
    save_file({"w": torch.ones(2).half()}, folder / "short-0000030.safetensors", {"dermstudy": json.dumps(own)})
    (folder / "inputs.json").write_text(json.dumps({"data_hash": "d", "split": "s"}))
    return folder


@pytest.fixture
def measured(tmp_path):
    rows = [
        {"input": "real images", "enlarged_by": cascade.NONE, "kid": 3.0},
        {"input": cascade.REAL, "enlarged_by": cascade.BICUBIC, "kid": 35.0},
        {"input": cascade.REAL, "enlarged_by": cascade.UPSAMPLER, "kid": 22.0},
    ]
    shared = {"average": "short-0000030", "steps": 8, "n": 120, "low": 20.0, "high": 25.0}
    path = tmp_path / "kid.txt"
    path.write_text("a warning\n" + "\n".join(json.dumps(row | shared) for row in rows) + "\n")
    return path


def test_a_sitting_adds_a_line_and_replaces_the_weights(training, measured, tmp_path):
    out, average = tmp_path / "out", training / "short-0000030.safetensors"
    command = [str(training), str(average), "--kid", str(measured), "--out", str(out)]
    assert sittings.main(command) == 0 and sittings.main(command) == 0
    log = pd.read_csv(out / sittings.LOG)
    assert log["sitting"].tolist() == [1, 2] and list(log.columns) == list(sittings.COLUMNS)
    last = log.iloc[-1]
    assert (last["model"], last["kid"], last["floor"], last["images"], last["hours"]) == (
        "upsampler",
        22.0,
        3.0,
        480,
        0.025,
    )
    assert last["weights_sha256"] == sha256_file(out / "upsampler.safetensors")
    assert torch.equal(load_file(out / "upsampler.safetensors")["w"], load_file(average)["w"])


def test_what_does_not_belong_together_is_refused_in_a_line(training, measured, tmp_path, capsys):
    out, average = tmp_path / "out", training / "short-0000030.safetensors"
    other = training / "short-0000020.safetensors"
    notes = {"recipe": {"preset": "mini-base"}, "scale": {}}
    save_file({"w": torch.ones(1)}, other, {"dermstudy": json.dumps(notes)})
    for path, kid, said in (
        (other, measured, "is of mini-base"),
        (training / "inputs.json", measured, "is no file of a long training"),
        (average, tmp_path / "none.txt", "no file"),
        (average, training / "inputs.json", "hold no KID of short-0000030"),
    ):
        assert sittings.main([str(training), str(path), "--kid", str(kid), "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.skipif(not (COMMITTED / sittings.LOG).is_file(), reason="no sitting is committed")
def test_the_committed_weights_are_those_of_the_last_sittings():
    log = pd.read_csv(COMMITTED / sittings.LOG)
    for model, own in log.groupby("model"):
        assert own["weights_sha256"].iloc[-1] == sha256_file(COMMITTED / f"{model}.safetensors")
        assert own["sitting"].tolist() == list(range(1, len(own) + 1)) and own["images"].is_monotonic_increasing
