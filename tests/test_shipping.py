"""What a sitting reached is kept with its line of the log, and a committed log is that of the committed weights."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file
from transformers import GPT2Tokenizer

from dermstudy.diffusion import glide, losses, weights
from dermstudy.diffusion.folded import FOLDED_PRESETS
from dermstudy.evaluation import cascade
from dermstudy.files import sha256_file
from dermstudy_commands.maintenance import folded_weights, shipping

COMMITTED = ROOT / shipping.OUT
AVERAGE = "short-0000030.safetensors"

RECIPE = {"preset": "mini-upsampler", "noise_mean": 1.2, "noise_spread": 1.4}  # kept with the preset's noise levels


@pytest.fixture(scope="module")
def averaged():
    """Averaged weights of an upsampler as long_training writes them: of no training."""
    tokenizer = GPT2Tokenizer.from_pretrained(COMMITTED / "base" / "tokenizer", local_files_only=True)
    return tensors_of(glide.build(FOLDED_PRESETS["mini-upsampler"], tokenizer, seed=3))


def tensors_of(pipeline) -> dict[str, torch.Tensor]:
    """The tensors of a file of averaged weights, of `pipeline`: the last convolution of an untrained one is zero."""
    networks = losses.Denoiser(pipeline.unet, pipeline.text_encoder)
    return {name: value.detach().half().contiguous() for name, value in networks.named_parameters()}


@pytest.fixture
def out(tmp_path):
    """A folder of weights of which the tokenizer is there."""
    shutil.copytree(COMMITTED / "base" / "tokenizer", tmp_path / "out" / "base" / "tokenizer")
    return tmp_path / "out"


@pytest.fixture
def training(tmp_path, averaged):
    """A training's folder: its log, its inputs and an average, of an upsampler after 30 steps."""
    folder = tmp_path / "training"
    folder.mkdir()
    recipe = {"preset": "mini-upsampler"}
    log = [
        {"step": 20, "images": 320, "loss": 0.9, "seconds": 60.0},
        {"step": 30, "images": 480, "loss": 0.5, "seconds": 90.0},
    ]
    (folder / "log.json").write_text(json.dumps(log))
    own = {"recipe": recipe, "scale": {}}
    save_file(averaged, folder / AVERAGE, {"dermstudy": json.dumps(own)})
    (folder / "inputs.json").write_text(json.dumps({"data_hash": "d", "split": "s", "commit": "c"}))
    return folder


@pytest.fixture
def measured(tmp_path, training):
    rows = [
        {"input": "real images", "enlarged_by": cascade.NONE, "kid": 3.0},
        {"input": cascade.REAL, "enlarged_by": cascade.BICUBIC, "kid": 35.0},
        {"input": cascade.REAL, "enlarged_by": cascade.UPSAMPLER, "kid": 22.0},
    ]
    shared = {"sha256": sha256_file(training / AVERAGE), "steps": 8, "n": 120, "low": 20.0, "high": 25.0}
    path = tmp_path / "kid.txt"
    path.write_text("a warning\n" + "\n".join(json.dumps(row | shared) for row in rows) + "\n")
    return path


def test_a_sitting_adds_a_line_and_replaces_the_weights(training, measured, out, averaged):
    command = ["keep", str(training / AVERAGE), "--kid", str(measured), "--weights", str(out)]
    assert shipping.main(command) == 0 and shipping.main(command) == 0
    log = pd.read_csv(out / "tables" / weights.SITTINGS)
    assert log["sitting"].tolist() == [1, 2] and list(log.columns) == list(shipping.COLUMNS)
    last = log.iloc[-1]
    found = last["model"], last["kid"], last["floor"], last["images"], last["hours"]
    assert found == ("upsampler", 22.0, 3.0, 480, 0.025)
    assert last["weights_sha256"] == sha256_file(out / "upsampler" / shipping.UNET)
    said = {"earlier": [], "recipe": RECIPE, "average": "short-0000030", "lesions": "train", "left_out": []}
    assert weights.lineage(out)["upsampler"] == said | {"data_hash": "d", "split": "s", "commit": "c"}
    records, own = weights.training_hours(out / "upsampler")
    assert records["hours"].tolist() == [0.0167, 0.025] and own["kid"].tolist() == [22.0, 22.0]
    again = tensors_of(glide.load(out / "upsampler", glide.GlideUpsamplePipeline))
    assert again.keys() == averaged.keys() and all(torch.equal(again[key], averaged[key]) for key in again)


def test_what_went_before_counts(training, measured, out, capsys):
    command = ["keep", str(training / AVERAGE), "--kid", str(measured), "--weights", str(out)]
    inputs = {"data_hash": "d", "split": "s", "commit": "c"}
    (training / "inputs.json").write_text(json.dumps(inputs | {"start": "of others"}))
    assert shipping.main(command) == 2
    assert "names no upsampler that a training could have started from" in capsys.readouterr().err
    (training / "inputs.json").write_text(json.dumps(inputs))
    assert shipping.main(command) == 0
    started = {"start": sha256_file(out / "upsampler" / shipping.UNET)}
    (training / "inputs.json").write_text(json.dumps(inputs | started | {"device": "a GPU"}))
    assert shipping.main(command) == 0
    last = pd.read_csv(out / "tables" / weights.SITTINGS).iloc[-1]
    assert (last["sitting"], last["steps"], last["images"], last["processor"]) == (2, 60, 960, "a GPU")
    assert (last["hours"], last["gpu_hours"]) == (0.025, 0.025)
    own = {"recipe": RECIPE, "step": 30}
    assert weights.lineage(out)["upsampler"]["earlier"] == [own]
    records, _ = weights.training_hours(out / "upsampler")
    assert records["step"].tolist() == [20, 30, 50, 60] and records["gpu_hours"].is_monotonic_increasing
    (training / "inputs.json").write_text(json.dumps(inputs | {"start": "of others"}))
    assert shipping.main(command) == 2
    assert "did not start from the weights" in capsys.readouterr().err
    assert len(pd.read_csv(out / "tables" / weights.SITTINGS)) == 2


def test_what_does_not_belong_together_is_refused_in_a_line(training, measured, out, tmp_path, capsys):
    average, other = training / AVERAGE, training.parent / "elsewhere" / AVERAGE
    other.parent.mkdir()
    shutil.copy(average, other)
    for path, kid, said in (
        (other, measured, "elsewhere has no inputs.json: give an average in the folder of its training"),
        (training / "inputs.json", measured, "is no file of a long training"),
        (average, tmp_path / "none.txt", "no file"),
        (average, training / "inputs.json", "hold no KID of short-0000030"),
    ):
        assert shipping.main(["keep", str(path), "--kid", str(kid), "--weights", str(out)]) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["base"]
    assert weights.training_hours(out / "base") is None and weights.lineage(out) == {}


def test_a_twin_says_what_it_saw(training, out, tmp_path, capsys):
    (training / "inputs.json").write_text(
        json.dumps({"data_hash": "d", "split": "s", "commit": "c", "lesions": "subset", "left_out": ["mel"]})
    )
    tokenizer = ["--tokenizer", str(out / "base" / "tokenizer")]
    assert folded_weights.main([str(training / AVERAGE), str(tmp_path / "twin" / "upsampler"), *tokenizer]) == 0
    own = weights.lineage(tmp_path / "twin")["upsampler"]
    assert (own["lesions"], own["left_out"], own["recipe"]) == ("subset", ["mel"], RECIPE)
    (training / "inputs.json").unlink()
    assert folded_weights.main([str(training / AVERAGE), str(tmp_path / "none" / "upsampler"), *tokenizer]) == 2
    assert "has no inputs.json" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_the_committed_weights_are_those_of_the_last_sittings():
    log = pd.read_csv(COMMITTED / "tables" / weights.SITTINGS)
    assert set(log["model"]) == {"base", "upsampler"}
    for model, own in log.groupby("model"):
        assert own["weights_sha256"].iloc[-1] == sha256_file(COMMITTED / model / shipping.UNET)
        assert own["sitting"].tolist() == list(range(1, len(own) + 1)) and own["images"].is_monotonic_increasing
        assert own["split"].iloc[-1] == sha256_file(ROOT / "weights" / "ham10000-split.csv")
