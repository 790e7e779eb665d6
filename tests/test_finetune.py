"""The training loop: it learns, draws every timestep, resumes to the same bytes, and shares its work by process."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import in_processes
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dermstudy.diffusion import architecture, batches, checkpoints, finetune, glide, losses
from dermstudy.files import InputError

CAPTIONS = ["melanoma", "dermatofibroma"] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return architecture.train_tokenizer(CAPTIONS)


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    plain = random.integers(60, 200, (8, 1, 1, 3)).astype(np.float64)
    return np.clip(plain + random.normal(0, 8, (8, 64, 64, 3)), 0, 255).astype(np.uint8)


def config(**changes):
    settings = {"steps": 8, "batch": 4, "learning_rate": 2e-3, "caption_dropout": 0.2, "validate_every": 4}
    return finetune.TrainingConfig(**(settings | changes))


@pytest.mark.slow
def test_the_loss_falls_and_the_best_weights_stay(tokenizer, images, tmp_path, capsys):
    model = glide.build("tiny-base", tokenizer, "v_prediction", 0)
    log = finetune.train(
        model, images, CAPTIONS, config(steps=60, validate_every=20, averaged=True, balance=1.0, augment=True),
        tmp_path, validation=(images, CAPTIONS), entities=CAPTIONS,
    )  # fmt: skip
    assert log["step"].tolist() == [0, 20, 40, 60] and log["loss"].isna().tolist() == [True, False, False, False]
    assert log["validation_loss"].iloc[-1] < 0.6 * log["validation_loss"].iloc[0]
    assert log.filter(regex=r"validation_\d").shape[1] == losses.BANDS
    best = log["validation_loss"].min()
    again = losses.validation_loss(model, batches.Pictures(images, [[text] for text in CAPTIONS]), config())
    assert math.isclose(again["validation_loss"], best, rel_tol=1e-5)
    assert "kept the weights of step" in capsys.readouterr().out
    assert not model.unet.training


def test_weights_that_training_does_not_help_stay_as_they_came(tokenizer, images, tmp_path, capsys):
    """At a learning rate that ruins them, and without a single step: the record of step 0 is the best."""
    for name, changes in (("ruined", {"learning_rate": 1.0}), ("none", {"steps": 0})):
        model = glide.build("tiny-base", tokenizer, "v_prediction", 0)
        before = {key: value.clone() for key, value in model.unet.state_dict().items()}
        log = finetune.train(model, images, CAPTIONS, config(**changes), tmp_path / name, validation=(images, CAPTIONS))
        assert log["step"].iloc[0] == 0 and log["validation_loss"].idxmin() == 0
        assert "kept the weights of step 0" in capsys.readouterr().out
        assert all(torch.equal(value, before[key]) for key, value in model.unet.state_dict().items())
    assert len(log) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "number"), [("tiny-base", 5), ("tiny-upsampler", 6)])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, preset, number, capsys):
    """Killed with signal 9 half-way through the writing of weights, and started again."""
    whole = in_processes.train(tmp_path / "whole", preset)
    command = [sys.executable, in_processes.__file__, "train", str(tmp_path / "cut"), preset, str(number)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    resumed = in_processes.train(tmp_path / "cut", preset)
    assert "going on from step" in capsys.readouterr().out
    assert whole.drop(columns="seconds").equals(resumed.drop(columns="seconds"))
    for file, tensors in (("state", 300), ("best", 100)):
        left, right = (load_file(tmp_path / name / f"{file}.safetensors") for name in ("whole", "cut"))
        assert left.keys() == right.keys() and len(left) > tensors
        assert all(torch.equal(left[key], right[key]) for key in left)


def launched(*arguments):
    """What in_processes prints when two processes of torch's launcher run it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, in_processes.__file__, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("of 2 processes") == 2
    return done.stdout


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The training run and the synthetic dataset of in_processes, by two gloo processes."""
    folder = tmp_path_factory.mktemp("together")
    return folder, launched("both", folder)


@pytest.mark.slow
def test_two_processes_train_as_one(together, tmp_path):
    """The same losses at the same global batch, to one part in 10,000, and the same weights to 1e-3 of their norm."""
    alone = in_processes.train(tmp_path / "alone", "tiny-base")
    folder, output = together
    assert output.count("kept the weights") == 1  # the first process alone prints
    log = pd.DataFrame(checkpoints.whole_state(folder / "training" / "state.safetensors")[1]["log"])
    assert log["step"].tolist() == alone["step"].tolist()
    assert np.allclose(log["loss"], alone["loss"], rtol=1e-4, equal_nan=True)  # step 0 has none
    left, right = (load_file(run / "best.safetensors") for run in (tmp_path / "alone", folder / "training"))
    assert all((left[key] - right[key]).norm() <= 1e-3 * left[key].norm() + 1e-4 for key in left)


@pytest.mark.slow
def test_two_processes_sample_the_same_images(together, tmp_path):
    alone, shared = in_processes.synthesise(tmp_path / "alone"), together[0] / "synthetic"
    assert sorted(path.name for path in alone.iterdir()) == sorted(path.name for path in shared.iterdir())
    assert (alone / "index.csv").read_text() == (shared / "index.csv").read_text()
    for path in alone.glob("*.png"):
        left, right = (np.asarray(Image.open(folder / path.name)).astype(int) for folder in (alone, shared))
        assert np.abs(left - right).max() <= 1 and (left != right).mean() < 0.01


@pytest.mark.parametrize("change", [{"micro_batch": 3}, {"gradient_checkpointing": True}])
def test_saving_memory_changes_nothing_else(tokenizer, images, tmp_path, change):
    logs = [
        finetune.train(glide.build("tiny-base", tokenizer, seed=1), images, CAPTIONS, config(**extra), tmp_path / name)
        for name, extra in (("plain", {}), ("sparing", change))
    ]
    assert np.allclose(logs[0]["loss"], logs[1]["loss"], rtol=1e-4)
    left, right = (load_file(tmp_path / name / "state.safetensors") for name in ("plain", "sparing"))
    weights = [key for key in left if key.startswith("weight")]
    assert all((left[key] - right[key]).norm() <= 1e-2 * left[key].norm() + 1e-3 for key in weights)


def test_previews_are_written_after_each_record(tokenizer, images, tmp_path):
    model = glide.build("tiny-base", tokenizer, seed=1)
    preview = finetune.preview_to(tmp_path / "previews", ["melanoma", "dermatofibroma"], steps=2)
    finetune.train(model, images, CAPTIONS, config(), tmp_path / "run", after=preview)
    files = sorted((tmp_path / "previews").iterdir())
    assert [file.name for file in files] == ["step_0000004.png", "step_0000008.png"]
    assert np.asarray(Image.open(files[0])).shape == (64, 128, 3)
    assert model.scheduler.config.variance_type == "learned_range"


def test_every_timestep_is_drawn(tokenizer):
    random, pipeline = np.random.default_rng(0), glide.build("tiny-base", tokenizer)
    sigma, told = batches.noise_levels(pipeline, config(batch=20_000), random)
    assert set(told.tolist()) == set(range(1000)) and torch.equal(
        sigma[told == 999], sigma.max().expand(sum(told == 999))
    )


def test_the_loss_by_hand(tokenizer):
    """Untrained, the network predicts zero: the noise loss is the mean square of the noise itself."""
    model = glide.build("tiny-base", tokenizer)
    denoise = losses.Denoiser(model.unet, model.text_encoder)
    ids, mask = architecture.tokenize(tokenizer, CAPTIONS[:4], 32)
    noise, timesteps = torch.randn(4, 3, 64, 64), torch.tensor([10, 300, 600, 990])
    sigma = ((1 - model.scheduler.alphas_cumprod) / model.scheduler.alphas_cumprod).sqrt()[timesteps]
    batch = batches.Batch(torch.zeros(4, 3, 64, 64), noise, sigma, timesteps)
    loss = losses.diffusion_loss(denoise, model, batch, ids, mask)
    assert torch.allclose(loss, noise.square().mean(dim=(1, 2, 3)))
    velocity = glide.build("tiny-base", tokenizer, "v_prediction")
    denoise = losses.Denoiser(velocity.unet, velocity.text_encoder)
    loss = losses.diffusion_loss(denoise, velocity, batch, ids, mask)
    signal = velocity.scheduler.alphas_cumprod[timesteps]
    weight = torch.clamp(5 * (1 - signal), max=1)  # min(1, 5 / (SNR + 1))
    assert torch.allclose(loss, weight * signal * noise.square().mean(dim=(1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(("part", "frozen"), [("unet", "text_encoder"), ("text", "unet")])
def test_only_the_chosen_part_trains(tokenizer, images, tmp_path, part, frozen):
    model = glide.build("tiny-base", tokenizer)
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    before = {
        name: {k: v.clone() for k, v in getattr(model, name).state_dict().items()} for name in ("unet", "text_encoder")
    }
    finetune.train(model, images, CAPTIONS, config(steps=2, trains=part), tmp_path)
    moved = {
        name: any(not torch.equal(before[name][k], v) for k, v in getattr(model, name).state_dict().items())
        for name in before
    }
    assert moved == {frozen: False, ({"unet", "text_encoder"} - {frozen}).pop(): True}


def test_low_rank_additions_train_alone_and_travel_in_a_small_file(tokenizer, images, tmp_path):
    model = glide.build("tiny-base", tokenizer, seed=1)
    with torch.no_grad():
        model.unet.conv_out.weight.normal_(0, 0.1)
    before = {key: value.clone() for key, value in model.unet.state_dict().items()}
    finetune.train(model, images, CAPTIONS, config(trains="lora", lora_rank=2), tmp_path / "run")
    after = model.unet.state_dict()
    moved = [key for key in after if "lora_B" in key and after[key].abs().sum() > 0]
    assert moved and all(torch.equal(after[key.replace(".base_layer", "")], before[key]) if key in after
                         else torch.equal(after[key.rsplit(".", 1)[0] + ".base_layer." + key.rsplit(".", 1)[1]], value)
                         for key, value in before.items())  # fmt: skip
    model.unet.save_lora_adapter(tmp_path / "adapter")
    file = next((tmp_path / "adapter").glob("*.safetensors"))
    fresh = glide.build("tiny-base", tokenizer, seed=1)
    with torch.no_grad():
        fresh.unet.conv_out.weight.copy_(before["conv_out.weight"])
    settings = {"guidance_scale": 1.0, "num_inference_steps": "3", "seeds": [0]}
    plain = fresh("melanoma", **settings)
    fresh.unet.load_lora_adapter(str(tmp_path / "adapter"), weight_name=file.name, prefix=None)
    adapted = fresh("melanoma", **settings)
    assert np.abs(adapted.astype(int) - model("melanoma", **settings)).max() <= 1
    assert not np.array_equal(plain, adapted) and file.stat().st_size < 100_000


def test_epochs_visit_every_image_once():
    settings = config(batch=3)
    drawn = np.concatenate([batches.by_epochs(9, settings, step) for step in range(6)])
    assert sorted(drawn[:9]) == sorted(drawn[9:]) == list(range(9)) and list(drawn[:9]) != list(drawn[9:])


def test_a_longer_run_goes_on_from_a_shorter_one(tokenizer, images, tmp_path, capsys):
    ends = {}
    for folder, runs in (("in two", (4, 8)), ("at once", (8,))):
        for steps in runs:
            model = glide.build("tiny-base", tokenizer, seed=1)
            finetune.train(model, images, CAPTIONS, config(steps=steps, validate_every=2), tmp_path / folder)
        ends[folder] = load_file(tmp_path / folder / "state.safetensors")
    assert "going on from step 4" in capsys.readouterr().out
    assert all(torch.equal(value, ends["at once"][name]) for name, value in ends["in two"].items())


@pytest.mark.parametrize("content", [b"", "half"])
def test_training_goes_on_from_the_state_before_a_damaged_one(tokenizer, images, tmp_path, capsys, content):
    """The damaged one is named; the end is the same to the bit; where no state is whole, the way out is named."""
    ends = []
    for damaged in (False, True):
        folder = tmp_path / str(damaged)
        finetune.train(glide.build("tiny-base", tokenizer, seed=1), images, CAPTIONS, config(), folder)
        state = folder / "state.safetensors"
        if damaged:
            whole = state.read_bytes()
            state.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
            capsys.readouterr()
            finetune.train(glide.build("tiny-base", tokenizer, seed=1), images, CAPTIONS, config(), folder)
            told = capsys.readouterr().out
            assert f"{state} is empty or cut" in told and "going on from step 4" in told
        ends.append(load_file(state))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    for path in folder.glob("state*"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="state.safetensors is empty or cut, .*remove it to begin anew"):
        finetune.train(glide.build("tiny-base", tokenizer, seed=1), images, CAPTIONS, config(), folder)


def test_a_state_of_other_settings_is_not_resumed(tokenizer, images, tmp_path):
    finetune.train(glide.build("tiny-base", tokenizer), images, CAPTIONS, config(steps=4), tmp_path)
    log = finetune.train(glide.build("tiny-base", tokenizer), images, CAPTIONS, config(steps=4, seed=1), tmp_path)
    assert log["step"].tolist() == [4]


@pytest.mark.parametrize("changed", ["nothing", "weights", "images", "captions"])
def test_a_state_of_another_start_is_not_resumed(tokenizer, images, tmp_path, capsys, changed):
    finetune.train(glide.build("tiny-base", tokenizer), images, CAPTIONS, config(steps=4), tmp_path)
    model = glide.build("tiny-base", tokenizer, seed=int(changed == "weights"))
    pixels = images[::-1].copy() if changed == "images" else images
    captions = CAPTIONS[::-1] if changed == "captions" else CAPTIONS
    capsys.readouterr()
    finetune.train(model, pixels, captions, config(steps=4), tmp_path)
    assert ("going on from step 4" in capsys.readouterr().out) == (changed == "nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, c, s: (i[:, :32], c, s), r"must be uint8 \[n, 64, 64, 3\]"),
        (lambda i, c, s: (i, c[:3], s), "8 training images need as many captions, got 3"),
        (lambda i, c, s: (i[:0], c[:0], s), "the training split is empty"),
        (lambda i, c, s: (i, c, replace(s, trains="vae")), "unknown part to train 'vae'"),
        (lambda i, c, s: (i, c, replace(s, balance=1.0)), "needs the entity of each of the 8 images"),
        (lambda i, c, s: (i, c, replace(s, precision="fp8")), "unknown precision 'fp8'"),
    ],
)
def test_bad_settings(tokenizer, images, tmp_path, change, message):
    images, captions, settings = change(images, CAPTIONS, config())
    with pytest.raises(InputError, match=message):
        finetune.train(glide.build("tiny-base", tokenizer), images, captions, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
