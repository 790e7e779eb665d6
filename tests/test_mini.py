"""How glide-mini's sampler was chosen: the rule, what is kept between runs, and that the profiles follow the choice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import ROOT

from dermstudy.diffusion import architecture, glide, schedules, weights
from dermstudy.evaluation import cascade
from dermstudy_commands.maintenance import samplers
from dermstudy_commands.runner import profiles

MINI = ROOT / "weights" / "glide-mini"


@pytest.fixture(scope="module")
def tokenizer():
    return architecture.train_tokenizer(["melanoma", "dermatofibroma"] * 4)


def stirred(pipeline):
    torch.manual_seed(5)
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.1)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = schedules.sampler_from(pipeline.scheduler, "dpm-solver")
    return pipeline


def test_guidance_goes_by_the_lowest_kid_and_steps_by_the_fewest_that_are_as_good(monkeypatch):
    """KID falls with steps, by little after 12 and 6; a scale of 4 in an interval is best."""

    def measure(setting):
        kid = 40 + 10 * abs(setting.guidance_scale - 3) - 15 * (setting.least_noise > 0)
        kid += {8: 20, 12: 1, 20: 0}[setting.base_steps] + {4: 20, 6: 1, 10: 0}[setting.upsampler_steps]
        return {**vars(setting), "n": 70, "kid": kid, "low": kid - 1, "high": kid + 1, "precision": 0.5, "recall": 0.1}

    monkeypatch.setattr(samplers, "measures", lambda *_: measure)
    table = samplers.compare(None, None, None, None, None, None)
    assert table.groupby("comparison")["chosen"].sum().tolist() == [1, 1, 1, 1]
    assert samplers.sampling_of(table) == {
        "GUIDANCE_SCALE": 4.0, "GUIDANCE_INTERVAL": [0.3, 20.0], "SAMPLER": "dpm-solver", "BASE_STEPS": "12",
        "UPSAMPLE_STEPS": "6",
    }  # fmt: skip
    assert len(samplers.figure(table).axes[0].get_yticklabels()) == len(table) == 16
    last = table[table["comparison"] == samplers.FINE]
    assert last["guidance_scale"].tolist() == [4.0, 3.0, 4.0] and last["base_steps"].tolist() == [12, 12, 20]


def test_more_images_may_overrule_what_few_chose(monkeypatch):
    """Of few images a scale of 2 is best; of many the second is, and fewer steps cost more than the margin."""

    def measured(wanted, cost):
        def measure(setting):
            kid = 40 + 10 * abs(setting.guidance_scale - wanted) + 20 * (setting.least_noise > 0)
            kid += cost * (setting.base_steps < 20)
            return {**vars(setting), "n": 70, "kid": kid, "low": kid, "high": kid, "precision": 0.5, "recall": 0.1}

        return measure

    def chosen(*many):
        ways = iter([measured(2.4, 1), measured(*many)])
        monkeypatch.setattr(samplers, "measures", lambda *_: next(ways))
        return samplers.sampling_of(samplers.compare(None, None, None, None, None, None))

    assert chosen(2.4, 0)["GUIDANCE_SCALE"] == 2.0 and chosen(3.0, 0)["GUIDANCE_SCALE"] == 3.0
    assert (chosen(2.0, 2)["BASE_STEPS"], chosen(2.0, 9)["BASE_STEPS"]) == ("8", "20")


@pytest.mark.slow
def test_settings_are_measured_on_kept_images(cohort, tokenizer, tmp_path):
    """A second run paints nothing; other weights are painted anew."""
    models = [stirred(glide.build(name, tokenizer)) for name in ("tiny-base", "tiny-upsampler")]
    parts = cascade.sides(cohort, 14)
    few = replace(parts, enlarged=parts.enlarged.select(image_id=parts.enlarged.frame["image_id"].iloc[::3].tolist()))

    def encode(images):
        return images.reshape(len(images), -1)[:, ::4001].astype(float)

    setting = replace(samplers.START, base_steps=2, upsampler_steps=2)
    measured = samplers.measures(*models, few, tmp_path, encode)(setting)
    assert measured["n"] == len(few.enlarged) and measured["low"] <= measured["high"]
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == 2 and samplers.measures(*models, few, tmp_path, encode)(setting) == measured
    assert kept == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with torch.no_grad():
        models[1].unet.conv_out.weight.add_(0.1)
    assert samplers.measures(*models, few, tmp_path, encode)(setting)["kid"] != measured["kid"]
    assert len(list(tmp_path.iterdir())) == 3


def test_the_profile_samples_as_chosen():
    """What the card measured is what the notebooks of real images take."""
    chosen = weights.lineage(MINI)["sampling"]
    resolved = profiles.resolve(profiles.load_profile("ham10000"), "results/ham10000")
    for stem in ("03_sample", "04_metrics"):
        used = profiles.declared_parameters(ROOT / "notebooks" / f"{stem}.ipynb") | resolved[stem]
        assert {name: used[name] for name in chosen} == chosen, stem
