"""At which noise levels a stage loses what: more noise costs more, texture is told, sittings stand beside each other."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_cascade import cohort, features  # noqa: F401

from dermstudy.evaluation import cascade
from dermstudy_commands.maintenance import noise_levels

SCHEDULE = SimpleNamespace(alphas_cumprod=1 / (1 + (10 ** (4 * np.linspace(0, 1, 100) - 2)) ** 2))


class Smoothing:
    """Stands for a stage that knows nothing: the more noise an image was given, the more of it is averaged away."""

    side = 64

    def __init__(self, low_side: int = 0):
        self.pixels = SimpleNamespace(config=SimpleNamespace(low_side=low_side))
        self.scheduler, self.asked = SCHEDULE, []

    def __call__(self, captions, small=None, num_inference_steps=0, seeds=(), begin=None, guidance_scale=1.0):
        self.asked.append((num_inference_steps, None if begin is None else begin[1]))
        if begin is None:
            return np.full((len(captions), 64, 64, 3), 128, np.uint8)
        images, noise = begin
        mean = images.mean((1, 2), keepdims=True)
        return (mean + (images - mean) / (1 + noise)).round().astype(np.uint8)


@pytest.mark.parametrize(("stage", "low_side"), [("base", 0), ("upsampler", 16)])
def test_a_stage_that_knows_nothing_loses_more_the_more_noise_it_is_given(cohort, stage, low_side, capsys):  # noqa: F811
    pipeline, parts = Smoothing(low_side), cascade.sides(cohort, 14)
    rows = pd.DataFrame(noise_levels.stage_rows(stage, pipeline, parts, features, (0.1, 1.0, 10.0)))
    assert rows["noise"].tolist() == [0, 0.1, 1, 10, np.inf] and (rows["n"] == len(parts.enlarged)).all()
    assert rows["kid"].is_monotonic_increasing and rows["kid"].iloc[-1] > 3 * abs(rows["kid"].iloc[0])
    assert [noise for _, noise in pipeline.asked[::2]] == [0.1, 1.0, 10.0, None]
    steps = [count for count, _ in pipeline.asked[::2]]
    assert steps == sorted(steps) and steps[0] >= noise_levels.LEAST
    assert capsys.readouterr().out.count(f'"model": "{stage}"') == 5
    if stage == "base":
        assert rows["texture"].isna().all()
    else:
        assert rows["texture"].iloc[0] == 1 and rows["texture"].iloc[1] == pytest.approx(1, abs=0.25)


def test_what_a_base_loses_is_measured_enlarged_too(cohort, monkeypatch):  # noqa: F811
    def enlarged(upsampler, small, captions, seeds, steps):
        assert len(captions) == len(seeds) == len(small) and steps == noise_levels.STEPS
        return small.repeat(2, 1).repeat(2, 2)

    monkeypatch.setattr(noise_levels.sample, "enlarged", enlarged)
    parts, upsampler = cascade.sides(cohort, 14), SimpleNamespace(side=128)
    rows = pd.DataFrame(noise_levels.stage_rows("base", Smoothing(), parts, features, (1.0,), upsampler))
    assert rows["kid_enlarged"].is_monotonic_increasing and rows["kid_enlarged"].notna().all()
    table = noise_levels.added(None, [{**row, "texture": 1.0} for row in rows.to_dict("records")], "base", 1)
    table = noise_levels.added(table, rows.to_dict("records"), "upsampler", 1)
    assert len(noise_levels.figure(table).axes[0].get_lines()) == 2


def test_a_sitting_takes_the_place_of_its_earlier_rows_alone():
    rows = [
        {"noise": noise, "n": 9, "kid": 1.0, "low": 0.0, "high": 2.0, "texture": 1.0} for noise in (0.0, 1.0, np.inf)
    ]
    table = noise_levels.added(None, rows, "base", 1)
    table = noise_levels.added(table, rows, "upsampler", 1)
    table = noise_levels.added(table, [row | {"kid": 9.0} for row in rows], "base", 2)
    again = noise_levels.added(table, [row | {"kid": 5.0} for row in rows], "base", 2)
    assert again.groupby(["model", "sitting"])["kid"].mean().tolist() == [1.0, 5.0, 1.0] and len(again) == 9
    drawn = noise_levels.figure(again)
    left = drawn.axes[0]
    assert left.get_title(loc="left") == "base, n = 9" and len(left.get_lines()) == 2
    assert [label.get_text() for label in left.get_xticklabels()] == ["none", "1", "alone"]


def test_what_a_base_hears_is_kept_by_sitting(cohort, monkeypatch):  # noqa: F811
    monkeypatch.setattr(noise_levels, "caption_gains", lambda base, cohort, levels: [0.01 * level for level in levels])
    table = noise_levels.gain_rows(None, cohort, 2, noise_levels.gain_rows(None, cohort, 1, None))
    again = noise_levels.gain_rows(None, cohort, 2, table)
    assert again.equals(table) and table["sitting"].tolist() == [1] * 4 + [2] * 4
    assert table["gain"].tolist() == [0.01 * level for level in noise_levels.GAIN_LEVELS] * 2
