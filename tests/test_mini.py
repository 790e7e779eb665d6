"""How glide-mini was chosen: the recipe comparison's error, and the rule that picks the steps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from dermstudy import architecture, glide, mini, recipes


@pytest.fixture(scope="module")
def tokenizer():
    return architecture.train_tokenizer(["melanoma", "dermatofibroma"] * 4)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_the_clean_error_by_hand(tokenizer, prediction):
    """An untrained model predicts zero, so the clean image follows from the noisy one alone."""
    model = glide.build("tiny-base", tokenizer, prediction)
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)).astype(np.uint8)
    errors = recipes.clean_error(model, images, ["melanoma"] * 8, draws=1, each=8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    signal = model.scheduler.alphas_cumprod[torch.arange(8) * 125].sqrt()[:, None, None, None]
    noisy = signal * pixels + (1 - signal**2).sqrt() * noise
    clean = signal * noisy if prediction == "v_prediction" else noisy / signal
    by_hand = ((clean.clamp(-1, 1) - pixels) ** 2).mean(dim=(1, 2, 3)).reshape(4, 2).mean(dim=1)
    assert errors == pytest.approx(by_hand.numpy(), rel=1e-4)


def test_candidates_train_for_the_same_time(cohort, monkeypatch):
    tiny = {"channels": 8, "head_width": 8, "text_width": 32, "text_layers": 1, "text_heads": 2}
    monkeypatch.setattr(
        recipes,
        "CANDIDATES",
        {"one": recipes.Candidate(sizes=tiny), "two": recipes.Candidate(sizes=tiny, config={"batch": 4}, seed=1)},
    )
    table = recipes.compare(cohort, seconds=1.0)
    assert table["candidate"].tolist() == ["one", "two"] and (table["steps"] >= recipes.PROBE_STEPS).all()
    assert table.filter(like="error").gt(0).all(axis=None)


def test_the_fewest_equal_steps_are_taken():
    table = pd.DataFrame({"sampler": ["dpm-solver"] * 3 + ["ancestral"], "steps": ["5", "10", "25", "250"]})
    assert mini.fewest_steps(table.assign(ratio=[1.4, 1.08, 1.0, 1.0])) == "10"
    assert mini.fewest_steps(table.assign(ratio=[1.4, 1.3, 1.2, 1.0])) == "25"


def test_the_ratio_of_a_sampler_to_itself_is_one():
    random = np.random.default_rng(0)
    first, real = random.normal(1, 1, (40, 16)), random.normal(0, 1, (60, 16))
    same = mini.paired_kid(first, first, real, repeats=20)
    assert (same["ratio"], same["ratio_low"], same["ratio_high"]) == (1.0, 1.0, 1.0)
    worse = mini.paired_kid(first + 1, first, real, repeats=20)
    assert worse["ratio"] > 1 and worse["ratio_low"] > 1
