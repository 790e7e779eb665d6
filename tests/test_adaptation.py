"""Adapting to unseen entities: fair draws of training images, honest sets, measures worked out by hand."""

from __future__ import annotations

import time
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from dermstudy.adaptation import downstream, teaching
from dermstudy.diffusion import finetune, glide
from dermstudy.evaluation import quality, reference_classifier
from dermstudy.files import InputError

MINI = ROOT / "weights" / "glide-mini" / "base"
PAIR = ["mel", "vasc"]


@pytest.fixture(scope="module")
def model():
    return glide.load(MINI)


@pytest.fixture(scope="module")
def few(cohort):
    return teaching.training_images(cohort, PAIR, 4, seed=0)


def test_few_images_are_of_training_lesions_and_many_of_them(cohort, few):
    assert few.frame["dx"].value_counts().to_dict() == {"mel": 4, "vasc": 4} and set(few.frame["split"]) == {"train"}
    for code in PAIR:
        lesions = cohort.select(split="train", dx=code).frame["group"].nunique()
        assert few.select(dx=code).frame["group"].nunique() == min(4, lesions)
    with pytest.raises(InputError, match=r"melanoma has \d+ training images, 10000 are asked for: lower IMAGES"):
        teaching.training_images(cohort, PAIR, 10_000, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["text", "lora"])
def test_a_part_is_trained_on_a_copy(model, few, tmp_path, part):
    before = glide.load(MINI).unet.state_dict()
    config = finetune.TrainingConfig(steps=1, batch=4, learning_rate=1e-3, trains=part, validate_every=1)
    trial = teaching.train_part(model, few, config, tmp_path)
    assert all(np.array_equal(value, before[key]) for key, value in model.unet.state_dict().items())
    numbers = trial.costs["trained_numbers"]
    assert 0 < numbers < glide.parameter_count(model) and trial.costs["megabytes"] == numbers * 4 / 1e6
    assert trial.costs["peak_megabytes"] > 10
    again = teaching.train_part(model, few, config, tmp_path)  # read, not trained: what it cost is remembered
    assert again.costs["peak_megabytes"] == pytest.approx(trial.costs["peak_megabytes"], abs=0.1)
    images = teaching.painted(trial, teaching.Sampling(2, 2.0, "2"))
    assert set(images) == set(PAIR) and images["mel"].shape == (2, 64, 64, 3)


def test_repainting_changes_the_disc_and_nothing_else(model, cohort):
    nevi = cohort.select(split="test", dx="nv").images(64)[:2]
    trial = teaching.unadapted(model, PAIR)
    after, change = downstream.repainted(trial, "vasc", nevi, teaching.Sampling(2, 3.0, "4"))
    assert after.shape == nevi.shape and (change["inside"] > 5).all() and (change["outside"] < 0.6).all()


def test_arms_are_tested_on_real_test_lesions(cohort, few, tmp_path):
    images = {code: np.full((3, 64, 64, 3), 90, np.uint8) for code in PAIR}
    made = downstream.as_cohort(images, tmp_path / "painted")
    sets = downstream.downstream_sets(cohort, few, made)
    assert tuple(sets) == downstream.DOWNSTREAM
    for name, chosen in sets.items():
        test = chosen.rows("test")
        assert set(test["dx"]) == set(PAIR) and set(test["split"]) == {"test"}
        kinds = set(chosen.rows("train")["kind"])
        assert kinds == {"real": {"original"}, "synthetic only": {"synthetic"}}.get(name, {"original", "synthetic"})
        assert not set(chosen.rows("train")["group"]) & set(test["group"])


def test_the_area_of_a_pair_by_hand():
    frame = pd.DataFrame(
        {"dx": ["mel", "mel", "vasc", "vasc"], "mel": [0.6, 0.1, 0.1, 0.3], "vasc": [0.2, 0.1, 0.4, 0.1]}
    )
    assert downstream.pair_area(frame) == 0.625  # 0.8 and 0.25 against 0.25 and 0.5: two of four, and a tie


@pytest.mark.slow
def test_areas_of_training_sets_and_their_gains():
    truth = ["mel"] * 40 + ["vasc"] * 40
    random = np.random.default_rng(0)

    def answers(signal):  # of two seeds
        share = [np.clip(0.5 + signal * (np.array(truth) == "vasc") + random.normal(0, 0.2, 80), 0, 1) for _ in "01"]
        groups = [f"lesion {place // 2}" for place in range(80)]
        return [pd.DataFrame({"dx": truth, "group": groups, "mel": 1 - own, "vasc": own}) for own in share]

    found = {"real": answers(0.1), "real and synthetic": answers(0.6)}
    areas = downstream.pair_areas(found, 100, 0).set_index("training")
    means = {name: np.mean([downstream.pair_area(one) for one in own]) for name, own in found.items()}
    assert areas["auc"].to_dict() == pytest.approx(means)
    assert list(areas.loc["real", ["gain", "gain_low", "gain_high"]]) == [0, 0, 0]
    more = areas.loc["real and synthetic"]
    assert more["gain"] == pytest.approx(means["real and synthetic"] - means["real"])
    assert 0 < more["gain_low"] < more["gain"] < more["gain_high"]


@pytest.mark.slow
def test_every_trial_meets_the_same_seeds_and_the_same_judge(model, cohort, tmp_path):
    training, validation = (cohort.select(split=split) for split in ("train", "validation"))
    reference_classifier.train(training, validation, tmp_path / "reference", steps=3)
    trials = [teaching.unadapted(model, PAIR), teaching.unadapted(model, PAIR)]
    trials[1].name = "again"
    images = {trial.name: teaching.painted(trial, teaching.Sampling(4, 2.0, "2")) for trial in trials}
    known = teaching.features({code: cohort.select(dx=code).images(64)[:8] for code in PAIR})
    seen = {name: teaching.features(own) for name, own in images.items()}
    lesions = {code: cohort.select(dx=code).frame["group"][:8] for code in PAIR}
    table = teaching.judged(images, seen, known, lesions, tmp_path / "reference", seed=0)
    first, second = (own.drop(columns="trial").reset_index(drop=True) for _, own in table.groupby("trial"))
    pd.testing.assert_frame_equal(first, second)
    gained = teaching.gains(seen, known, 5, seed=0)
    assert gained.abs().to_numpy().max() < 1e-6  # the same images on both sides of the difference
    overview = teaching.overview(table, gained, trials)
    assert list(overview.index) == ["unadapted", "again"] and overview["trained_numbers"].eq(0).all()
    assert list(overview.columns[:5]) == ["kid", "floor", "gain", "gain_low", "gain_high"]
    teaching.overview_figure(overview)
    assert not set(teaching.MEASURES) & set(overview.columns)
    assert teaching.measures(trials)["again"] == {"seconds": 0.0, "peak_megabytes": 0.0}
    assert (overview["fidelity_low"] <= overview["fidelity"]).all() and (overview["fidelity"] <= 1).all()


def test_the_reference_classifier_names_images_of_any_side(cohort, tmp_path):
    reference_classifier.train(*(cohort.select(split=split) for split in ("train", "validation")), tmp_path, steps=3)
    images = cohort.images(64)[:20]
    assert (reference_classifier._reduced(images) == images).all()
    large = images.repeat(2, axis=1).repeat(2, axis=2)
    found = reference_classifier.probabilities(tmp_path, large).to_numpy().argmax(axis=1)
    assert reference_classifier.named(tmp_path, large).tolist() == [
        reference_classifier.CODES[place] for place in found
    ]


def test_the_floor_halves_real_images_by_lesion(monkeypatch):
    """Sisters of a lesion never meet across the halves, the seed draws the halves, and the order of files has no say."""
    met, kid = [], quality.kid

    def watched(first, second):
        met.append((first, second))
        return kid(first, second)

    monkeypatch.setattr(quality, "kid", watched)
    monkeypatch.setattr(teaching.reference_classifier, "named", lambda folder, images: np.repeat("mel", len(images)))
    random = np.random.default_rng(0)
    lesions = np.tile(np.arange(12), 2)  # in file order the second half are sisters of the first
    real = random.normal(size=(12, 8))[lesions] + 0.01 * random.normal(size=(24, 8))
    real[:, 0] = lesions

    def floor(order, seed):
        groups = {"mel": [f"lesion {place:02}" for place in lesions[order]]}
        seen = {"a": {"mel": random.normal(size=(6, 8))}}
        images = {"a": {"mel": np.zeros((6, 8, 8, 3), np.uint8)}}
        return teaching.judged(images, seen, {"mel": real[order]}, groups, None, seed)["floor"].item()

    found = floor(np.arange(24), 0)
    assert met and all(not set(first[:, 0]) & set(second[:, 0]) for first, second in met)
    assert floor(random.permutation(24), 0) == pytest.approx(found) and floor(np.arange(24), 1) != found
    with pytest.raises(InputError, match="melanoma has 1 lesion"):
        lesions = np.zeros(24, int)
        floor(np.arange(24), 0)


def test_a_gain_is_found_and_its_interval_holds_it():
    random = np.random.default_rng(0)
    known = {code: random.normal(size=(60, 16)) for code in PAIR}
    far, near = ({code: random.normal(shift, size=(40, 16)) for code in PAIR} for shift in (1.0, 0.3))
    gained = teaching.gains({"unadapted": far, "nearer": near, "farther": far}, known, 40, seed=1)
    assert gained.loc["nearer", "low"] > 0 and gained.loc["farther"].abs().max() < 1e-6
    assert gained.loc["nearer", "low"] < gained.loc["nearer", "gain"] < gained.loc["nearer", "high"]


def test_the_interval_of_a_gain_is_named_after_it():
    """`gain_low` and `gain_high` bracket the gain in a trial's row; no interval is named after the KID."""
    table = pd.DataFrame({"trial": ["unadapted", "a"], "entity": "mel", "n": 4, "kid": [9.0, 5.0], "floor": 1.0,
                          "named": [1, 3]})  # fmt: skip
    gained = pd.DataFrame({"gain": [0.0, 4.0], "low": [0.0, 3.0], "high": [0.0, 5.0]}, ["unadapted", "a"])
    trials = [teaching.Trial(name, None, {}, {"steps": 1}) for name in gained.index]
    own = teaching.overview(table, gained.rename_axis("trial"), trials).loc["a"]
    assert own[["kid", "gain", "gain_low", "gain_high"]].tolist() == [5, 4, 3, 5]
    assert not {"kid_low", "kid_high"} & set(own.index)


def test_the_memory_of_another_run_is_not_remembered(tmp_path, monkeypatch):
    """A peak is kept for the run that took it: the same configuration on other weights or images has its own."""
    config, grown, origins = finetune.TrainingConfig(steps=1), iter([300.0, 1.0, 20.0]), iter("aab")

    @contextmanager
    def peak():
        yield [next(grown)]

    monkeypatch.setattr(teaching, "_peak_memory", peak)
    monkeypatch.setattr(teaching.finetune, "train", lambda *arguments, **more: pd.DataFrame())
    monkeypatch.setattr(teaching, "read_notes", lambda folder: {"origin": next(origins)})
    assert [teaching._train(None, None, None, config, tmp_path)[1] for _ in range(3)] == [300, 300, 20]


def test_memory_is_measured_while_it_is_held():
    with teaching._peak_memory() as peak:
        block = np.ones(25_000_000)  # 200 MB, held for a few looks
        time.sleep(0.2)
        del block
    assert 150 < peak[0] < 400
