"""Adapting to unseen entities: fair draws of training images, honest sets, measures worked out by hand."""

from __future__ import annotations

import time
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from dermstudy.adaptation import downstream, findings, teaching
from dermstudy.diffusion import finetune, glide
from dermstudy.evaluation import quality, reference_classifier
from dermstudy.files import InputError

MINI = ROOT / "weights" / "glide-mini" / "base"
PAIR = ["mel", "vasc"]


@pytest.fixture(scope="module")
def model():
    return glide.load(MINI, with_guide=False)


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
def test_a_part_is_trained_on_a_copy(model, cohort, few, tmp_path, part):
    before = glide.load(MINI).unet.state_dict()
    config = finetune.TrainingConfig(steps=1, batch=4, learning_rate=1e-3, trains=part)
    held_out = teaching.held_out_images(cohort, PAIR, 1, seed=0)
    trial = teaching.train_part(model, few, held_out, config, tmp_path)
    assert all(np.array_equal(value, before[key]) for key, value in model.unet.state_dict().items())
    numbers = trial.costs["trained_numbers"]
    assert 0 < numbers < glide.parameter_count(model) and trial.costs["megabytes"] == numbers * 4 / 1e6
    assert trial.costs["peak_megabytes"] > 10
    again = teaching.train_part(model, few, held_out, config, tmp_path)  # read, not trained: what it cost is remembered
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
    real = {code: cohort.select(dx=code).images(64)[:8] for code in PAIR}
    known = teaching.features(real)
    seen = {name: teaching.features(own) for name, own in images.items()}
    lesions = {code: cohort.select(dx=code).frame["group"][:8] for code in PAIR}
    table = teaching.judged(images, seen, real, known, lesions, tmp_path / "reference", seed=0)
    first, second = (own.drop(columns="trial").reset_index(drop=True) for _, own in table.groupby("trial"))
    pd.testing.assert_frame_equal(first, second)
    gained = teaching.gains(seen, known, 5, seed=0)
    assert gained.abs().to_numpy().max() < 1e-6  # the same images on both sides of the difference
    overview = teaching.overview(table, gained, trials)
    assert list(overview.index) == ["unadapted", "again"] and overview["trained_numbers"].eq(0).all()
    assert list(overview.columns[:5]) == ["kid", "floor", "gain", "gain_low", "gain_high"]
    findings.overview_figure(overview, table)
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
        return teaching.judged(images, seen, images["a"], {"mel": real[order]}, groups, None, seed)["floor"].item()

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
    log = pd.DataFrame({"step": [0], "loss": [0.1], "validation_loss": [0.1], "seconds": [0.0]})
    monkeypatch.setattr(teaching.finetune, "train", lambda *arguments, **more: log)
    monkeypatch.setattr(teaching, "_take_last_step", lambda *arguments: None)
    monkeypatch.setattr(teaching, "read_notes", lambda folder: {"origin": next(origins)})
    run = (None, None, None, ([1], ["a"]), config, tmp_path, "U-Net")
    assert [teaching._train(*run)[1] for _ in range(3)] == [300, 300, 20]


def test_memory_is_measured_while_it_is_held():
    with teaching._peak_memory() as peak:
        block = np.ones(25_000_000)  # 200 MB, held for a few looks
        time.sleep(0.2)
        del block
    assert 150 < peak[0] < 400


@pytest.mark.slow
@pytest.mark.parametrize("part", ["text", "all", "lora"])
def test_the_weights_of_the_last_step_are_judged_though_others_lose_less(cohort, few, tmp_path, monkeypatch, part):
    """As long as the held-out loss only rises, finetune.train keeps the start; the trial holds what the last step left."""
    rising = iter(range(1, 9))
    monkeypatch.setattr(finetune, "validation_loss", lambda *arguments: {"validation_loss": float(next(rising))})
    monkeypatch.setattr(teaching, "FEWEST_STEPS", 1)
    config = finetune.TrainingConfig(steps=2, batch=2, learning_rate=1e-3, trains=part)
    held_out = teaching.held_out_images(cohort, PAIR, 2, seed=0)
    trial = teaching.train_part(glide.load(MINI), few, held_out, config, tmp_path)
    assert trial.log["step"].tolist() == [0, 1, 2] and trial.log["loss"].isna().tolist() == [True, False, False]
    assert trial.log["held_out"].eq(len(held_out)).all()
    modules = {"text": trial.model.text_encoder, "unet": trial.model.unet}
    (state,) = tmp_path.glob("*/state.safetensors")
    left, kept = load_file(state), load_file(state.with_name("best.safetensors"))
    numbers = [value for key, value in left.items() if key.startswith("weight.")]
    mine = {f"{name}.{key}": value for name, own in modules.items() for key, value in own.named_parameters()}
    moved = [value for key, value in mine.items() if key in kept and not torch.equal(value, kept[key])]
    assert moved and sum(value.numel() for value in numbers) == trial.costs["trained_numbers"]
    assert all(any(value.shape == own.shape and torch.equal(value, own) for own in numbers) for value in moved)


def test_held_out_images_are_of_validation_lesions(cohort):
    held_out = teaching.held_out_images(cohort, PAIR, 2, seed=0)
    assert set(held_out.frame["split"]) == {"validation"} and set(held_out.frame["dx"]) == set(PAIR)
    assert held_out.frame["dx"].value_counts().max() <= 2
    with pytest.raises(InputError, match="melanoma has no validation image"):
        teaching.held_out_images(cohort.select(split="train"), PAIR, 2, seed=0)


def test_a_training_of_any_length_is_recorded_about_ten_times(tmp_path, monkeypatch, capsys):
    seen = []

    def train(model, images, captions, config, folder, held_out, **more):
        seen.append((config.validate_every, folder))
        print("step after step")
        return pd.DataFrame({"step": [0, 12], "loss": [np.nan, 0.2], "validation_loss": [0.3, 0.25], "seconds": [0, 1]})

    monkeypatch.setattr(teaching.finetune, "train", train)
    monkeypatch.setattr(teaching, "read_notes", lambda folder: {"origin": "a"})
    monkeypatch.setattr(teaching, "_take_last_step", lambda *arguments: None)
    for steps in (12, 150, 2000):
        config = finetune.TrainingConfig(steps=steps)
        log, _ = teaching._train(None, None, None, ([1, 2], ["a", "b"]), config, tmp_path, "U-Net")
    assert [every for every, _ in seen] == [3, 15, 200] and log["held_out"].tolist() == [2, 2]
    assert (seen[0][1] / "progress.txt").read_text() == "step after step\n"
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "U-Net: loss on held-out lesions 0.3000 before training, 0.2500 after 12 steps" and len(said) == 3
    teaching._train(None, None, None, ([1], ["a"]), config, tmp_path, "U-Net")
    assert seen[-1][1] != seen[0][1]  # judged by other images: another training, not a log of the former


def test_real_images_are_judged_by_the_same_network(monkeypatch):
    """The bound of fidelity is that network's own rate on real images of each entity."""
    monkeypatch.setattr(teaching.reference_classifier, "named", lambda folder, images: np.repeat("mel", len(images)))
    random, codes = np.random.default_rng(0), ("mel", "bcc")
    known = {code: random.normal(size=(8, 4)) for code in codes}
    lesions = {code: [f"lesion {place}" for place in range(8)] for code in codes}
    pixels = {code: np.zeros((8, 4, 4, 3), np.uint8) for code in codes}
    painted = {"unadapted": {code: own[:3] for code, own in pixels.items()}}
    seen = {"unadapted": {code: own[:3] for code, own in known.items()}}
    table = teaching.judged(painted, seen, pixels, known, lesions, None, 0).set_index("entity")
    assert table.loc["mel", ["named", "n", "real_named", "real_n"]].tolist() == [3, 3, 8, 8]
    assert table.loc["bcc", ["named", "n", "real_named", "real_n"]].tolist() == [0, 3, 0, 8]


def test_each_seed_is_a_dot_where_there_are_several():
    def frame(right):
        share = np.where(np.arange(8) % 2 == right, 0.9, 0.1)
        groups = [f"lesion {place // 2}" for place in range(8)]
        return pd.DataFrame({"dx": ["mel", "vasc"] * 4, "group": groups, "mel": 1 - share, "vasc": share})

    for answers in ({"real": [frame(1), frame(0)]}, {"real": [frame(1)]}):
        seeds = range(len(answers["real"]))
        areas = downstream.pair_areas(answers, 5, 0)
        by_seed = downstream.seed_areas(answers, seeds)
        assert by_seed["auc"].tolist() == [1.0, 0.0][: len(seeds)] and by_seed["seed"].tolist() == list(seeds)
        (ax,) = downstream.areas_figure(areas, by_seed, "melanoma", "vascular lesion").axes
        label, dots = ax.get_xlabel(), [line for line in ax.get_lines() if line.get_label() == "each seed"]
        assert label.startswith(
            "AUC, vascular lesion against melanoma, n = 8 images;\n95 % interval over 4 test lesions"
        )
        assert ("and 2 seeds" in label, len(dots)) == ((True, 1) if len(seeds) > 1 else (False, 0))
        assert label.endswith(", one seed") == (len(seeds) == 1)
        plt.close("all")


def test_a_strip_is_read_by_way_and_share(monkeypatch):
    def probabilities(folder, images):
        return pd.DataFrame({"mel": 1 - images[:, 0, 0, 0] / 100, "bcc": images[:, 0, 0, 0] / 100, "nv": 0.0})

    monkeypatch.setattr(downstream.reference_classifier, "probabilities", probabilities)
    strip = [np.full((2, 1, 1, 3), level, np.uint8) for level in (0, 50)]
    steps = downstream.interpolated({"guidance": strip, "vectors": strip[::-1]}, [0, 1], ["mel", "bcc"], None)
    assert list(steps.columns) == ["way", "share", "n", "mel", "bcc"] and steps["bcc"].tolist() == [0, 0.5, 0.5, 0]
    (ax,) = downstream.interpolation_figure(steps, "bcc").axes
    assert ax.get_ylabel() == "its probability,\nmean of n = 2 images" and len(ax.get_lines()) == 2
    plt.close("all")
