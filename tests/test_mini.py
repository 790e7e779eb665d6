"""How glide-mini was chosen: the recipe comparison's error, and the rule that picks the steps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from dermstudy.diffusion import architecture, glide
from dermstudy.maintenance import candidates, samplers


@pytest.fixture(scope="module")
def tokenizer():
    return architecture.train_tokenizer(["melanoma", "dermatofibroma"] * 4)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_the_clean_error_by_hand(tokenizer, prediction):
    """An untrained model predicts zero, so the clean image follows from the noisy one alone."""
    model = glide.build("tiny-base", tokenizer, prediction)
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)).astype(np.uint8)
    errors = candidates.clean_error(model, images, ["melanoma"] * 8, draws=1, each=8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    signal = model.scheduler.alphas_cumprod[torch.arange(8) * 125].sqrt()[:, None, None, None]
    noisy = signal * pixels + (1 - signal**2).sqrt() * noise
    clean = signal * noisy if prediction == "v_prediction" else noisy / signal
    by_hand = ((clean.clamp(-1, 1) - pixels) ** 2).mean(dim=(1, 2, 3)).reshape(4, 2).mean(dim=1)
    assert errors == pytest.approx(by_hand.numpy(), rel=1e-4)


@pytest.mark.slow
def test_candidates_train_for_the_same_time(cohort, monkeypatch):
    tiny = {"channels": 8, "head_width": 8, "text_width": 32, "text_layers": 1, "text_heads": 2}
    monkeypatch.setattr(
        candidates,
        "CANDIDATES",
        {"one": candidates.Candidate(sizes=tiny), "two": candidates.Candidate(sizes=tiny, config={"batch": 4}, seed=1)},
    )
    table = candidates.compare(cohort, seconds=1.0)
    assert table["candidate"].tolist() == ["one", "two"] and (table["steps"] >= candidates.PROBE_STEPS).all()
    assert table.filter(like="error").gt(0).all(axis=None)


def test_the_fewest_equal_steps_are_taken():
    table = pd.DataFrame({"sampler": ["dpm-solver"] * 3 + ["ancestral"], "steps": ["5", "10", "25", "250"]})
    assert samplers.fewest_steps(table.assign(ratio=[1.4, 1.08, 1.0, 1.0])) == "10"
    assert samplers.fewest_steps(table.assign(ratio=[1.4, 1.3, 1.2, 1.0])) == "25"


def test_the_ratio_of_a_sampler_to_itself_is_one():
    random = np.random.default_rng(0)
    first, real = random.normal(1, 1, (40, 16)), random.normal(0, 1, (60, 16))
    same = samplers.paired_kid(first, first, real, repeats=20)
    assert (same["ratio"], same["ratio_low"], same["ratio_high"]) == (1.0, 1.0, 1.0)
    worse = samplers.paired_kid(first + 1, first, real, repeats=20)
    assert worse["ratio"] > 1 and worse["ratio_low"] > 1


def test_kept_samples_are_known_by_all_that_paints_them(tokenizer, tmp_path):
    """The same sampler, scale and number of images; other weights, captions or images are painted anew."""
    rows = pd.DataFrame({"image_id": ["a", "b"], "caption": ["melanoma", "dermatofibroma"]})
    model = stirred(glide.build("tiny-base", tokenizer))

    def paint(rows=rows):
        return samplers.base_samples(model, rows, tmp_path, ("dpm-solver", "2"), 2.0)

    first = paint()
    assert np.array_equal(paint(), first) and len(list(tmp_path.iterdir())) == 1
    assert not np.array_equal(paint(rows.assign(image_id=["c", "d"])), first)
    paint(rows.assign(caption="melanoma"))
    with torch.no_grad():
        model.text_encoder.projection.weight.add_(0.1)  # the U-Net is as it was
    paint()
    assert len(list(tmp_path.iterdir())) == 4


def test_kept_enlargements_follow_the_upsampler_and_what_it_enlarges(tokenizer, tmp_path, monkeypatch):
    rows = pd.DataFrame({"image_id": ["a", "b"], "caption": ["melanoma", "dermatofibroma"]})
    model = stirred(glide.build("tiny-upsampler", tokenizer))
    seen = []
    monkeypatch.setattr(samplers, "UPSAMPLER_STEPS", (("dpm-solver", "2"),))
    monkeypatch.setattr(samplers, "_features", lambda images: seen.append(images) or np.zeros((len(images), 4)))
    monkeypatch.setattr(samplers, "paired_kid", lambda *features: {"kid": 0.0, "ratio": 1.0})
    small = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    samplers.upsampler_table(model, small, rows, np.zeros((2, 4)), tmp_path)
    samplers.upsampler_table(model, small[::-1], rows, np.zeros((2, 4)), tmp_path)
    with torch.no_grad():
        model.unet.conv_out.weight.add_(0.1)
    samplers.upsampler_table(model, small, rows, np.zeros((2, 4)), tmp_path)
    assert not any(np.array_equal(seen[0], other) for other in seen[2::2])


def stirred(pipeline):
    torch.manual_seed(5)
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.1)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
