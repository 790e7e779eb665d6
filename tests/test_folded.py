"""Folded diffusion: lossless folds, preconditioning by hand, crops without copies, training that resumes exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dermstudy.diffusion import architecture, folded, folded_sampling
from dermstudy.files import InputError
from dermstudy.maintenance import long_training

BASE = folded.FoldedPreset(16, 2, 0, (16, 32), 1, (1,), 16, 16, 1, 2, 8, 0.0, 1.6, 80.0, 0.01)
UPSAMPLER = replace(BASE, side=32, low_side=8)
CAPTIONS = ["melanoma", "a dermatoscopic image of melanoma"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(folded.FOLDED_PRESETS, "tiny-base", BASE)
    monkeypatch.setitem(folded.FOLDED_PRESETS, "tiny-upsampler", UPSAMPLER)


@pytest.fixture(scope="module")
def tokenizer():
    return architecture.train_tokenizer(CAPTIONS)


@pytest.fixture
def pictures():
    random = np.random.default_rng(0)
    large = random.integers(0, 256, (6, 32, 32, 3), np.uint8)
    small = large.reshape(6, 8, 4, 8, 4, 3).mean((2, 4)).round().astype(np.uint8)
    captions = [CAPTIONS * (long_training.CAPTION_VARIANTS // 2)] * 6
    return long_training.Pictures(large, small, captions, np.full(6, 1 / 6), (np.zeros(3), np.ones(3)))


@pytest.mark.parametrize("factor", [2, 4])
def test_a_fold_loses_nothing(factor):
    pixels = torch.randn(2, 3, 16, 24)
    channels = folded.fold(pixels, factor)
    assert channels.shape == (2, 3 * factor**2, 16 // factor, 24 // factor)
    assert torch.equal(folded.unfold(channels, factor), pixels)


def test_tempered_components_keep_their_order_and_span_the_root():
    values = np.array([0.1, 0.01, 0.001]) ** 2
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    mix, unmix = folded.tempered((turn * values) @ turn.T)
    assert np.allclose(mix @ unmix, np.eye(3)) and np.allclose(mix, mix.T)
    spread = np.sqrt(np.linalg.eigvalsh(mix @ (turn * values) @ turn.T @ mix.T))[::-1]
    assert np.allclose(spread / spread[0], np.sqrt([1, 0.1, 0.01])) and np.isclose((spread**2).mean(), 1)


def test_the_target_is_what_gives_the_clean_data_back():
    """Equation 7 of Karras et al. with unit data variance, against its literal form."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 12, 8, 8, generator=generator) for _ in range(2))
    sigma = torch.tensor([0.05, 1.0, 40.0])
    noisy = clean + sigma.view(-1, 1, 1, 1) * noise
    target = folded.training_target(clean, noisy, sigma)
    assert torch.allclose(folded.clean_estimate(target, noisy, sigma), clean, atol=1e-4)
    for place, value in enumerate(sigma.tolist()):
        skip, out = 1 / (value**2 + 1), value / (1 + value**2) ** 0.5
        by_hand = (clean[place] - skip * noisy[place]) / out
        assert torch.allclose(target[place], by_hand, atol=1e-3)
    assert target.var(dim=(1, 2, 3)).sub(1).abs().max() < 0.2


def test_crops_are_the_eight_symmetries_of_a_square():
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)
    seen = set()
    for flags in np.ndindex(2, 2, 2):
        crop = long_training.turned_crops(images, np.array([1]), np.array([2]), np.array([3]), 5, np.array([flags]) > 0)
        pixels = ((crop[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        square = images[1, 2:7, 3:8]
        turned = [np.rot90(part, turn) for part in (square, square[:, ::-1]) for turn in range(4)]
        (match,) = [place for place, one in enumerate(turned) if np.array_equal(one, pixels)]
        seen.add(match)
    assert seen == set(range(8))


@pytest.mark.parametrize("preset", ["tiny-base", "tiny-upsampler"])
def test_a_sitting_that_was_cut_goes_on_as_if_it_had_not_been(preset, pictures, tokenizer, tmp_path):
    if preset == "tiny-base":
        pictures = replace(pictures, small=pictures.large[:, ::2, ::2], large=None)
    recipe = long_training.Recipe(preset, 6, batch=2, warmup_steps=2, crop=16 if preset == "tiny-upsampler" else 0)
    long_training.run(tmp_path / "whole", recipe, pictures, tokenizer)
    long_training.run(tmp_path / "cut", replace(recipe, limit=3), pictures, tokenizer)
    long_training.run(tmp_path / "cut", recipe, pictures, tokenizer)
    whole, cut = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)
    assert any("optimizer" in key for key in whole) and (tmp_path / "whole" / "long-0000006.safetensors").is_file()
    with pytest.raises(InputError, match="another recipe"):
        long_training.run(tmp_path / "cut", replace(recipe, learning_rate=0.1), pictures, tokenizer)


def test_an_image_depends_on_its_own_seed_alone(tokenizer):
    torch.manual_seed(0)
    encoder = architecture.GlideTextEncoder(len(tokenizer), 8, 16, 1, 2, 64)
    model = folded.FoldedDenoiser(folded.folded_unet(BASE), encoder).eval()
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.02)
    scale = {"mean": [0.1, 0.0, -0.1], "spread": [0.5, 0.4, 0.3]}
    settings = {"steps": 4, "guidance_scale": 2.0, "interval": (0.2, 5.0)}
    both = folded_sampling.paint(model, tokenizer, BASE, scale, CAPTIONS, [3, 4], **settings)
    alone = folded_sampling.paint(model, tokenizer, BASE, scale, CAPTIONS[1:], [4], **settings)
    assert both.shape == (2, 16, 16, 3) and both.dtype == np.uint8
    assert np.abs(both[1].astype(int) - alone[0]).max() <= 1 and not np.array_equal(both[0], both[1])


def test_an_untrained_upsampler_adds_noise_of_the_residuals_spread(pictures, tokenizer):
    """Its prediction, zero, is right for normal data of unit variance, and such data the solver draws."""
    encoder = architecture.GlideTextEncoder(len(tokenizer), 8, 16, 1, 2, 64)
    model = folded.FoldedDenoiser(folded.folded_unet(UPSAMPLER), encoder).eval()
    scale = {"unmix": (np.eye(12) * 0.05).tolist()}
    large = folded_sampling.upsample(model, tokenizer, UPSAMPLER, scale, pictures.small, CAPTIONS * 3, range(6), 20)
    bicubic = folded.enlarge_bicubic(torch.from_numpy(pictures.small).permute(0, 3, 1, 2).float() / 127.5 - 1, 4)
    expected = ((bicubic.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert large.shape == (6, 32, 32, 3) and np.std(large - expected) == pytest.approx(0.05 * 127.5, rel=0.1)
