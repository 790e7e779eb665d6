"""Adapting to unseen entities: fair draws of training images, honest arms, measures worked out by hand."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from dermstudy import adaptation, finetune, glide, skin
from dermstudy.files import InputError

MINI = ROOT / "weights" / "glide-mini" / "base"
PAIR = ["mel", "vasc"]


@pytest.fixture(scope="module")
def model():
    return glide.load(MINI)


@pytest.fixture(scope="module")
def few(cohort):
    return adaptation.training_images(cohort, PAIR, 4, seed=0)


def test_few_images_are_of_training_lesions_and_many_of_them(cohort, few):
    assert few.frame["dx"].value_counts().to_dict() == {"mel": 4, "vasc": 4} and set(few.frame["split"]) == {"train"}
    for code in PAIR:
        lesions = cohort.select(split="train", dx=code).frame["group"].nunique()
        assert few.select(dx=code).frame["group"].nunique() == min(4, lesions)
    with pytest.raises(InputError, match=r"melanoma has \d+ training images, 10000 are asked for: lower IMAGES"):
        adaptation.training_images(cohort, PAIR, 10_000, seed=0)


@pytest.mark.parametrize("part", ["text", "lora"])
def test_a_part_is_trained_on_a_copy(model, few, tmp_path, part):
    before = glide.load(MINI).unet.state_dict()
    config = finetune.TrainingConfig(steps=1, batch=4, learning_rate=1e-3, trains=part, validate_every=1)
    trial = adaptation.train_part(model, few, config, tmp_path)
    assert all(np.array_equal(value, before[key]) for key, value in model.unet.state_dict().items())
    numbers = trial.costs["trained_numbers"]
    assert 0 < numbers < glide.parameter_count(model) and trial.costs["megabytes"] == numbers * 4 / 1e6
    assert trial.costs["peak_megabytes"] > 10
    again = adaptation.train_part(model, few, config, tmp_path)  # read, not trained: what it cost is remembered
    assert again.costs["peak_megabytes"] == pytest.approx(trial.costs["peak_megabytes"], abs=0.1)
    images = adaptation.painted(trial, adaptation.Sampling(2, 2.0, "2"))
    assert set(images) == set(PAIR) and images["mel"].shape == (2, 64, 64, 3)


def test_repainting_changes_the_disc_and_nothing_else(model, cohort):
    nevi = cohort.select(split="test", dx="nv").images(64)[:2]
    trial = adaptation.unadapted(model, PAIR)
    after, change = adaptation.repainted(trial, "vasc", nevi, adaptation.Sampling(2, 3.0, "4"))
    assert after.shape == nevi.shape and (change["inside"] > 5).all() and (change["outside"] < 0.6).all()


def test_arms_are_tested_on_real_test_lesions(cohort, few, tmp_path):
    images = {code: np.full((3, 64, 64, 3), 90, np.uint8) for code in PAIR}
    made = adaptation.as_cohort(images, tmp_path / "painted")
    arms = adaptation.downstream_arms(cohort, few, made)
    assert tuple(arms) == adaptation.DOWNSTREAM
    for name, arm in arms.items():
        test = arm.rows("test")
        assert set(test["dx"]) == set(PAIR) and set(test["split"]) == {"test"}
        kinds = set(arm.rows("train")["kind"])
        assert kinds == {"real": {"original"}, "synthetic only": {"synthetic"}}.get(name, {"original", "synthetic"})
        assert not set(arm.rows("train")["group"]) & set(test["group"])


def test_the_area_of_a_pair_by_hand():
    frame = pd.DataFrame(
        {"dx": ["mel", "mel", "vasc", "vasc"], "mel": [0.6, 0.1, 0.1, 0.3], "vasc": [0.2, 0.1, 0.4, 0.1]}
    )
    assert adaptation.pair_area(frame) == 0.625  # 0.8 and 0.25 against 0.25 and 0.5: two of four, and a tie


def test_areas_of_training_sets_and_their_gains():
    truth = ["mel"] * 40 + ["vasc"] * 40
    random = np.random.default_rng(0)

    def answers(signal):  # of two seeds
        share = [np.clip(0.5 + signal * (np.array(truth) == "vasc") + random.normal(0, 0.2, 80), 0, 1) for _ in "01"]
        groups = [f"lesion {place // 2}" for place in range(80)]
        return [pd.DataFrame({"dx": truth, "group": groups, "mel": 1 - own, "vasc": own}) for own in share]

    found = {"real": answers(0.1), "real and synthetic": answers(0.6)}
    areas = adaptation.pair_areas(found, 100, 0).set_index("training")
    means = {name: np.mean([adaptation.pair_area(one) for one in own]) for name, own in found.items()}
    assert areas["auc"].to_dict() == pytest.approx(means)
    assert list(areas.loc["real", ["gain", "gain_low", "gain_high"]]) == [0, 0, 0]
    more = areas.loc["real and synthetic"]
    assert more["gain"] == pytest.approx(means["real and synthetic"] - means["real"])
    assert 0 < more["gain_low"] < more["gain"] < more["gain_high"]


def test_every_trial_meets_the_same_seeds_and_the_same_judge(model, cohort, tmp_path):
    training, validation = (cohort.select(split=split) for split in ("train", "validation"))
    skin.train(training, validation, tmp_path / "skin", steps=3)
    trials = [adaptation.unadapted(model, PAIR), adaptation.unadapted(model, PAIR)]
    trials[1].name = "again"
    images = {trial.name: adaptation.painted(trial, adaptation.Sampling(4, 2.0, "2")) for trial in trials}
    known = adaptation.features({code: cohort.select(dx=code).images(64)[:8] for code in PAIR})
    seen = {name: adaptation.features(own) for name, own in images.items()}
    table = adaptation.judged(images, seen, known, tmp_path / "skin")
    first, second = (own.drop(columns="trial").reset_index(drop=True) for _, own in table.groupby("trial"))
    pd.testing.assert_frame_equal(first, second)
    gained = adaptation.gains(seen, known, 5, seed=0)
    assert gained.abs().to_numpy().max() < 1e-6  # the same images on both sides of the difference
    overview = adaptation.overview(table, gained, trials)
    assert list(overview.index) == ["unadapted", "again"] and overview["trained_numbers"].eq(0).all()
    assert not set(adaptation.MEASURES) & set(overview.columns)
    assert adaptation.measures(trials)["again"] == {"seconds": 0.0, "peak_megabytes": 0.0}
    assert (overview["fidelity_low"] <= overview["fidelity"]).all() and (overview["fidelity"] <= 1).all()


def test_a_gain_is_found_and_its_interval_holds_it():
    random = np.random.default_rng(0)
    known = {code: random.normal(size=(60, 16)) for code in PAIR}
    far, near = ({code: random.normal(shift, size=(40, 16)) for code in PAIR} for shift in (1.0, 0.3))
    gained = adaptation.gains({"unadapted": far, "nearer": near, "farther": far}, known, 40, seed=1)
    assert gained.loc["nearer", "low"] > 0 and gained.loc["farther"].abs().max() < 1e-6
    assert gained.loc["nearer", "low"] < gained.loc["nearer", "gain"] < gained.loc["nearer", "high"]


def test_memory_is_measured_while_it_is_held():
    with adaptation._peak_memory() as peak:
        block = np.ones(25_000_000)  # 200 MB, held for a few looks
        time.sleep(0.2)
        del block
    assert 150 < peak[0] < 400
