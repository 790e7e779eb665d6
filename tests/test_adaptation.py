"""Adapting to unseen entities: fair draws of images, the same judge for all, learning curves and areas by hand."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from dermstudy.adaptation import findings, teaching
from dermstudy.diffusion import finetune, glide, losses, training
from dermstudy.evaluation import reference_classifier
from dermstudy.files import InputError

MINI = ROOT / "weights" / "glide-mini" / "base"
PAIR = ["mel", "vasc"]
STEPS = [0, 3, 6, 9, 12]


@pytest.fixture(scope="module")
def model():
    return glide.load(MINI, with_guide=False)


@pytest.fixture(scope="module")
def few(cohort):
    return teaching.few_images(cohort, "train", PAIR, 4, seed=0)


def test_few_images_are_of_one_split_and_of_many_lesions(cohort, few):
    assert few.frame["dx"].value_counts().to_dict() == {"mel": 4, "vasc": 4} and set(few.frame["split"]) == {"train"}
    for code in PAIR:
        lesions = cohort.select(split="train", dx=code).frame["group"].nunique()
        assert few.select(dx=code).frame["group"].nunique() == min(4, lesions)
    held_out = teaching.few_images(cohort, "validation", PAIR, 1000, seed=0)
    assert set(held_out.frame["split"]) == {"validation"} and set(held_out.frame["dx"]) == set(PAIR)
    with pytest.raises(InputError, match=r"melanoma has \d+ images for train, 10000 are asked for: lower IMAGES"):
        teaching.few_images(cohort, "train", PAIR, 10_000, seed=0)
    with pytest.raises(InputError, match="melanoma has 0 images for validation"):
        teaching.few_images(cohort.select(split="train"), "validation", PAIR, 2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["text", "all", "lora"])
def test_a_copy_is_trained_to_its_last_step_though_others_lose_less(model, cohort, few, tmp_path, monkeypatch, part):
    """The held-out loss only rises; the trial holds what the last step left."""
    rising = iter(range(1, 9))
    monkeypatch.setattr(training, "validation_loss", lambda *arguments: {"validation_loss": float(next(rising))})
    monkeypatch.setattr(teaching, "FEWEST_STEPS", 1)
    before = {key: value.clone() for key, value in model.unet.state_dict().items()}
    config = finetune.TrainingConfig(steps=2, batch=2, learning_rate=1e-3, trains=part)
    held_out = teaching.few_images(cohort, "validation", PAIR, 2, seed=0)
    trial = teaching.train_part(model, few, held_out, config, tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.unet.state_dict().items())
    assert trial.log["step"].tolist() == [0, 1, 2] and trial.log["loss"].isna().tolist() == [True, False, False]
    assert trial.log["held_out"].eq(len(held_out)).all()
    numbers = trial.costs["trained_numbers"]
    assert numbers > 0 and trial.costs["megabytes"] == numbers * 4 / 1e6
    (state,) = tmp_path.glob("*/state.safetensors")
    left = {key[7:]: value for key, value in load_file(state).items() if key.startswith("weight.")}
    mine = dict(losses.Denoiser(trial.model.unet, trial.model.text_encoder).named_parameters())
    assert left and all(torch.equal(mine[name], value) for name, value in left.items())
    assert not any(value.requires_grad for value in mine.values())


def test_repainting_changes_the_disc_and_nothing_else(model, cohort):
    nevi = cohort.select(split="test", dx="nv").images(64)[:2]
    trial = teaching.unadapted(model, PAIR)
    after, change = teaching.repainted(trial, "vasc", nevi, teaching.Sampling(2, 3.0, "4"))
    assert after.shape == nevi.shape and (change["inside"] > 5).all() and (change["outside"] < 0.6).all()


@pytest.mark.slow
def test_every_trial_meets_the_same_seeds_and_the_same_judge(model, cohort, tmp_path):
    training, validation = (cohort.select(split=split) for split in ("train", "validation"))
    reference_classifier.train(training, validation, tmp_path, steps=3)
    trials = [teaching.unadapted(model, PAIR), teaching.unadapted(model, PAIR, "again")]
    images = {trial.name: teaching.painted(trial, teaching.Sampling(4, 2.0, "2")) for trial in trials}
    table, overview = teaching.judged(trials, images, cohort, tmp_path, repeats=5, seed=0)
    first, second = (rows.drop(columns="trial").reset_index(drop=True) for _, rows in table.groupby("trial"))
    pd.testing.assert_frame_equal(first, second)
    real = cohort.select(dx="mel").images(64)
    found = (reference_classifier.named(tmp_path, real) == "mel").sum()
    assert table.loc[0, ["n", "real_n", "real_named"]].tolist() == [4, len(real), found]
    assert overview[["gain", "gain_low", "gain_high"]].abs().to_numpy().max() < 1e-6  # the same images on both sides
    assert list(overview.index) == ["unadapted", "again"] and overview["trained_numbers"].eq(0).all()
    assert (overview["fidelity_low"] <= overview["fidelity"]).all() and (overview["fidelity"] <= 1).all()
    assert findings.overview_figure(overview, table).axes[0].get_yticklabels()[1].get_text() == "again"
    shown = findings.by_entity(table)
    assert shown.loc[findings.REAL, "melanoma, caption fidelity"] == f"{found} of {len(real)}"
    assert findings.fidelity_sentences(table, ["again"]).count("\n") == 1
    plt.close("all")


def test_a_gain_is_found_and_its_interval_holds_it():
    random = np.random.default_rng(0)
    known = {code: random.normal(size=(60, 16)) for code in PAIR}
    far, near = ({code: random.normal(shift, size=(40, 16)) for code in PAIR} for shift in (1.0, 0.3))
    gained = teaching.gains({"unadapted": far, "nearer": near, "farther": far}, known, 40, seed=1)
    assert gained.loc["nearer", "gain_low"] > 0 and gained.loc["farther"].abs().max() < 1e-6
    assert gained.loc["nearer", "gain_low"] < gained.loc["nearer", "gain"] < gained.loc["nearer", "gain_high"]


# Learning curves and what is chosen


def log_of(**curves) -> pd.DataFrame:
    """A log with the held-out losses of each trial at STEPS."""
    rows = {"step": STEPS, "loss": np.nan, "held_out": 8}
    return pd.concat(pd.DataFrame({"trial": name, "validation_loss": loss} | rows) for name, loss in curves.items())


@pytest.mark.parametrize(
    ("losses", "curve"),
    [
        ([1.0, 0.9, 0.8, 0.7, 0.6], "falls"),
        ([1.0, 0.7, 0.6, 0.58, 0.56], "flat"),
        ([1.0, 0.6, 0.6, 0.6, 0.7], "rises"),
        ([1.0, 1.1, 1.2, 1.3, 1.4], "no fall of a thousandth"),
        ([1.0, 0.9999, 0.9998, 0.9997, 0.9996], "no fall of a thousandth"),
        ([1.0, 0.9, 0.8, 0.5, 0.45], "flat"),  # 0.05 of a fall of 0.55
        ([1.0, 0.9, 0.8, 0.5, 0.44], "falls"),  # 0.06 of 0.56
    ],
)
def test_the_last_third_by_hand(losses, curve):
    found = findings.last_third(log_of(a=losses))
    assert found["curve"].item() == curve and found["last"].item() == losses[-1]
    assert f"of 1 trainings: {'falls: 1' if curve == 'falls' else 'falls: 0'}" in findings.learning_sentence(
        log_of(a=losses)
    )


def test_each_entity_that_was_taught_alone_has_its_curve():
    losses = [1.0, 0.7, 0.6, 0.58, 0.56]
    log = pd.concat([log_of(a=losses).drop(columns="trial").assign(entity=code) for code in PAIR])
    trials = [teaching.unadapted(None, PAIR), *(teaching.Trial(name, None, {}, log=log) for name in ("a", "b"))]
    log = findings.training_log(trials)
    assert len(findings.last_third(log)) == 4
    figure = findings.learning_figure(log)
    assert len(figure.axes) == 2 and figure.axes[0].get_lines()[0].get_ydata()[-1] == pytest.approx(-44)
    plt.close(figure)


def test_a_gain_that_may_be_none_is_chosen_only_where_all_may_be():
    columns = ["kid", "gain", "gain_low", "gain_high"]
    trials = pd.DataFrame({"wide": (70, 30, -5, 65), "narrow": (90, 10, 2, 18)}, index=columns).T
    assert findings.chosen(trials) == "narrow" and findings.chosen(trials.loc[["wide"]]) == "wide"
    assert "narrow (gain of KID 10, 2 to 18)" in findings.chosen_sentence(trials)


@pytest.mark.parametrize(
    ("record", "found"),
    [(None, "take them to have met these"), (["mel"], "left out melanoma and had images of basal cell carcinoma")],
)
def test_what_the_weights_have_met_is_read_from_their_lineage(tmp_path, record, found):
    if record is not None:
        (tmp_path / "lineage.json").write_text(json.dumps({"base": {"left_out": record}}))
    assert found in findings.met_sentence(tmp_path / "base", ["mel", "bcc"])


# A classifier on what was painted


def test_training_sets_are_tested_on_real_test_lesions(cohort, few, tmp_path):
    images = {code: np.full((3, 64, 64, 3), 90, np.uint8) for code in PAIR}
    _, sets = findings.downstream_sets(cohort, few, findings.as_cohort(images, tmp_path / "painted"))
    pools = {"real": {"originals"}, "synthetic only": {"adapted"}, "real and synthetic": {"originals", "adapted"}}
    assert {name: set(chosen.train["pool"]) for name, chosen in sets.items()} == pools
    for chosen in sets.values():
        test = chosen.tested
        assert set(test["dx"]) == set(PAIR) and set(test["split"]) == {"test"}
        assert not set(chosen.train["group"]) & set(test["group"])


def test_the_area_of_a_pair_by_hand():
    frame = pd.DataFrame(
        {"dx": ["mel", "mel", "vasc", "vasc"], "mel": [0.6, 0.1, 0.1, 0.3], "vasc": [0.2, 0.1, 0.4, 0.1]}
    )
    assert findings.pair_area(frame) == 0.625  # 0.8 and 0.25 against 0.25 and 0.5: two of four, and a tie


def test_areas_of_training_sets_and_their_gains():
    truth = ["mel"] * 40 + ["vasc"] * 40
    random = np.random.default_rng(0)

    def answers(signal):  # of two seeds
        share = [np.clip(0.5 + signal * (np.array(truth) == "vasc") + random.normal(0, 0.2, 80), 0, 1) for _ in "01"]
        groups = [f"lesion {number // 2}" for number in range(80)]
        return [pd.DataFrame({"dx": truth, "group": groups, "mel": 1 - one, "vasc": one}) for one in share]

    found = {"real": answers(0.1), "real and synthetic": answers(0.6)}
    areas = findings.pair_areas(found, 20, 0)
    means = [np.mean([findings.pair_area(one) for one in seeds]) for seeds in found.values()]
    assert areas["auc"].tolist() == pytest.approx(means) and areas["gain"].tolist() == pytest.approx(means - means[0])
    assert (areas["gain_low"] <= areas["gain"]).all() and (areas["gain"] <= areas["gain_high"]).all()
    (ax,) = findings.areas_figure(areas, "melanoma", "vascular lesion").axes
    assert "n = 80 images" in ax.get_xlabel()
    plt.close("all")


def test_a_strip_is_read_by_way_and_share(monkeypatch):
    def probabilities(folder, images):
        return pd.DataFrame({"mel": 1 - images[:, 0, 0, 0] / 100, "bcc": images[:, 0, 0, 0] / 100, "nv": 0.0})

    monkeypatch.setattr(reference_classifier, "probabilities", probabilities)
    strip = [np.full((2, 1, 1, 3), level, np.uint8) for level in (0, 50)]
    steps = findings.interpolated({"guidance": strip, "vectors": strip[::-1]}, [0, 1], ["mel", "bcc"], None)
    assert list(steps.columns) == ["way", "share", "n", "mel", "bcc"] and steps["bcc"].tolist() == [0, 0.5, 0.5, 0]
