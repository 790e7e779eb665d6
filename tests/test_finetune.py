"""The training loop: it learns, draws every timestep, resumes to the same bytes, and leaves frozen parts alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dermstudy import finetune, glide
from dermstudy.files import InputError

CAPTIONS = ["melanoma", "dermatofibroma"] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return glide.train_tokenizer(CAPTIONS)


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    plain = random.integers(60, 200, (8, 1, 1, 3)).astype(np.float64)
    return np.clip(plain + random.normal(0, 8, (8, 64, 64, 3)), 0, 255).astype(np.uint8)


def config(**changes):
    settings = {"steps": 8, "batch": 4, "learning_rate": 2e-3, "caption_dropout": 0.2, "validate_every": 4}
    return finetune.TrainingConfig(**(settings | changes))


def test_the_loss_falls_and_the_best_weights_stay(tokenizer, images, tmp_path, capsys):
    model = glide.build("tiny-base", tokenizer, "v_prediction", 0)
    log = finetune.train(
        model, images, CAPTIONS, config(steps=60, validate_every=20, ema_decay=0.9, balanced=True, augment=True),
        tmp_path, validation=(images, CAPTIONS), entities=CAPTIONS,
    )  # fmt: skip
    assert log["step"].tolist() == [20, 40, 60]
    assert log["validation_loss"].iloc[-1] < 0.6 * log["validation_loss"].iloc[0]
    assert log.filter(regex=r"validation_\d").shape[1] == finetune.BANDS
    best = log["validation_loss"].min()
    again = finetune.validation_loss(model, images, CAPTIONS)
    assert math.isclose(again["validation_loss"], best, rel_tol=1e-5)
    assert "kept the weights of step" in capsys.readouterr().out
    assert not model.unet.training


@pytest.mark.parametrize("preset", ["tiny-base", "tiny-upsampler"])
def test_a_resumed_run_ends_with_the_same_bytes(tokenizer, tmp_path, preset):
    side, low = (64, 0) if preset == "tiny-base" else (256, 64)
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (4, side, side, 3), np.uint8)
    settings = config(batch=2, ema_decay=0.9, crop=64 if low else 0, noise_augmentation=0.1 if low else 0.0,
                      gradient_clip=1.0, warmup_steps=3, augment=True)  # fmt: skip

    def run(folder, stop_at=None):
        model = glide.build(preset, tokenizer, seed=3)
        model.unet.register_to_config(dropout=0.1)

        def preview(step, pipeline):
            if step == stop_at:
                raise KeyboardInterrupt

        return finetune.train(model, images, CAPTIONS[:4], settings, folder, low_side=low, preview=preview)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):  # after step 8's best weights, before its state
        run(tmp_path / "cut", stop_at=8)
    resumed = run(tmp_path / "cut")
    assert whole.drop(columns="seconds").equals(resumed.drop(columns="seconds"))
    left, right = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "cut"))
    assert left.keys() == right.keys() and len(left) > 300
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_every_timestep_is_drawn(tokenizer):
    generator = torch.Generator().manual_seed(0)
    model = glide.build("tiny-base", tokenizer)
    seen = set()
    original = model.scheduler.add_noise
    model.scheduler.add_noise = lambda pixels, noise, timesteps: (
        seen.update(timesteps.tolist()) or original(pixels, noise, timesteps)
    )
    model.unet.forward = lambda sample, *_, **__: type("Output", (), {"sample": torch.zeros(len(sample), 6, 8, 8)})
    ids, mask = glide.tokenize(tokenizer, ["melanoma"] * 256, 32)
    for _ in range(60):
        finetune.diffusion_loss(model, torch.zeros(256, 3, 8, 8), ids, mask, generator)
    assert seen == set(range(1000))


def test_the_loss_by_hand(tokenizer):
    """Untrained, the network predicts zero: the noise loss is the mean square of the noise itself."""
    model = glide.build("tiny-base", tokenizer)
    ids, mask = glide.tokenize(tokenizer, CAPTIONS[:4], 32)
    pixels = torch.zeros(4, 3, 64, 64)
    loss = finetune.diffusion_loss(model, pixels, ids, mask, torch.Generator().manual_seed(9))
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(9))
    assert torch.allclose(loss, noise.square().mean(dim=(1, 2, 3)))
    velocity = glide.build("tiny-base", tokenizer, "v_prediction")
    timesteps = torch.tensor([10, 300, 600, 990])
    loss = finetune.diffusion_loss(velocity, pixels, ids, mask, torch.Generator().manual_seed(9), timesteps=timesteps)
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


def test_epochs_visit_every_image_once():
    settings = config(batch=3)
    drawn = np.concatenate([finetune._draw(9, settings, step, None) for step in range(6)])
    assert sorted(drawn[:9]) == sorted(drawn[9:]) == list(range(9)) and list(drawn[:9]) != list(drawn[9:])


def test_a_state_of_other_settings_is_not_resumed(tokenizer, images, tmp_path):
    finetune.train(glide.build("tiny-base", tokenizer), images, CAPTIONS, config(steps=4), tmp_path)
    log = finetune.train(glide.build("tiny-base", tokenizer), images, CAPTIONS, config(steps=4, seed=1), tmp_path)
    assert log["step"].tolist() == [4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, c, s: (i[:, :32], c, s), r"must be uint8 \[n, 64, 64, 3\]"),
        (lambda i, c, s: (i, c[:3], s), "8 training images need as many captions, got 3"),
        (lambda i, c, s: (i[:0], c[:0], s), "the training split is empty"),
        (lambda i, c, s: (i, c, replace(s, trains="vae")), "unknown part to train 'vae'"),
        (lambda i, c, s: (i, c, replace(s, precision="fp8")), "unknown precision 'fp8'"),
    ],
)
def test_bad_settings(tokenizer, images, tmp_path, change, message):
    images, captions, settings = change(images, CAPTIONS, config())
    with pytest.raises(InputError, match=message):
        finetune.train(glide.build("tiny-base", tokenizer), images, captions, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
