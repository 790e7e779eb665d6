"""Two networks name what images show: what they learn, what is kept of them, and the shares that are said of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from dermstudy.entities import CODES
from dermstudy.evaluation import reference_classifier
from dermstudy.evaluation.features import Features
from dermstudy.files import InputError


@pytest.fixture(scope="module")
def kept(cohort, tmp_path_factory):
    """Twenty training images, all validation images, and the folder of a network of one step."""
    training, validation = (cohort.select(split=split) for split in ("train", "validation"))
    few = training.select(image_id=training.frame["image_id"][:20])
    folder = tmp_path_factory.mktemp("classifier") / "one"
    reference_classifier.train(few, validation, folder, steps=1)
    return few, validation, folder


@pytest.mark.parametrize("change", ["nothing", "images", "entities", "code"])
def test_a_network_is_known_by_all_that_trains_it(cohort, kept, change, monkeypatch):
    """As many images of the same cohort in as many steps: other images, labels or code train anew."""
    few, validation, folder = kept
    before = (folder / "made_by.txt").read_text(), folder.stat().st_ino
    if change == "images":
        few = cohort.select(image_id=cohort.select(split="train").frame["image_id"][20:40])
    elif change == "entities":
        few = replace(few, frame=few.frame.assign(dx=few.frame["dx"].to_numpy()[::-1]))
    elif change == "code":
        monkeypatch.setattr(reference_classifier, "code_hash", lambda name: "another")
    reference_classifier.train(few, validation, folder, steps=1)
    after = (folder / "made_by.txt").read_text(), folder.stat().st_ino
    assert [one == other for one, other in zip(before, after, strict=True)] == [change == "nothing"] * 2


@pytest.mark.slow
def test_the_small_network_learns(cohort, kept, tmp_path):
    sides = [cohort.select(split=split) for split in ("train", "validation")]
    before = reference_classifier.train(*sides, tmp_path / "none", steps=1, seed=1)
    assert reference_classifier.train(*sides, tmp_path / "some", steps=60, seed=1) > before + 0.1
    images = sides[1].images(96)
    seen = reference_classifier.probabilities(tmp_path / "some", images)
    assert list(seen.columns) == list(CODES) and np.allclose(seen.sum(axis=1), 1)
    assert seen.idxmax(axis=1).tolist() == reference_classifier.named(tmp_path / "some", images).tolist()
    with pytest.raises(InputError, match="needs steps and images"):
        reference_classifier.train(*sides, tmp_path / "none", steps=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [("nan", "fc.bias holds numbers that are not finite"), ("cut", "is damaged"), ("gone", "no ref")],
)
def test_a_broken_network_names_no_entity(kept, tmp_path, damage, message):
    path = tmp_path / "weights.safetensors"
    tensors = load_file(kept[2] / path.name)
    tensors["fc.bias"][0] = float("nan")
    if damage != "gone":
        save_file(tensors, path)
    if damage == "cut":
        path.write_bytes(b"")
    with pytest.raises(InputError, match=f"{message}.*run notebook 04_metrics again"):
        reference_classifier.named(tmp_path, np.zeros((1, 8, 8, 3), np.uint8))


def entity_features(random, each: int, apart: float = 4.0) -> Features:
    """Features of `each` images an entity, the entities `apart` from each other."""
    entity = np.repeat(CODES, each)
    values = random.normal(size=(len(entity), 12)) + apart * np.eye(12)[[CODES.index(code) for code in entity]]
    return Features(values.astype(np.float32), np.arange(len(entity)), entity)


def test_the_independent_network_names_what_it_can_tell():
    random = np.random.default_rng(0)
    namer = reference_classifier.Namer(entity_features(random, 12), entity_features(random, 5))
    held = entity_features(random, 10)
    assert namer.score > 0.9 and (namer(held.values) == held.entity).mean() > 0.9
    blind = reference_classifier.Namer(entity_features(random, 12, 0.0), entity_features(random, 5, 0.0))
    assert blind.score < 0.5
    sure = namer.confidence(held.values)
    assert sure.shape == (70,) and (sure > 1 / 7).all() and (sure <= 1).all()
    assert sure.mean() > namer.confidence(np.zeros_like(held.values)).mean()


def test_fidelity_of_two_networks_by_hand():
    small, independent = reference_classifier.SMALL, reference_classifier.INDEPENDENT
    asked = pd.DataFrame({"image_id": list("abcd"), "dx": ["mel", "mel", "nv", "nv"]})
    true = pd.DataFrame({"image_id": list("xyz"), "dx": ["mel", "nv", "nv"], "group": ["one", "two", "two"]})
    answers = {
        small: (np.array(["mel", "nv", "nv", "nv"]), np.array(["mel", "mel", "nv"])),
        independent: (np.array(["bcc", "nv", "nv", "mel"]), np.array(["mel", "nv", "nv"])),
    }
    table = reference_classifier.fidelity_table(answers, asked, true).set_index(["network", "entity"])
    columns = ["n", "synthetic", "n_real", "real", "difference", "low", "high"]
    # Both images wrong, or both right; one lesion of nevi leaves nothing to resample.
    assert table.loc[(small, "melanoma"), columns].tolist() == [2, 0.5, 1, 1.0, -0.5, -1, 0]
    assert table.loc[(small, "melanocytic nevus"), columns[2:4] + columns[5:]].tolist() == [2, 0.5, 0.5, 0.5]
    assert table.loc[(independent, "overall"), columns[:5]].tolist() == [4, 0.25, 3, 1.0, -0.75]
    made = {name: codes[0] for name, codes in answers.items()}
    wrong = reference_classifier.wrongly_named(made, asked["dx"], np.array([0.9, 0.8, 0.7, 0.6]))
    assert wrong["entity"].tolist() == ["", "melanocytic nevus", "", ""]  # both networks wrong about the second alone
    assert wrong["confidence"].tolist() == pytest.approx([np.nan, 0.8, np.nan, np.nan], nan_ok=True)


@pytest.mark.parametrize(("sisters", "error"), [(1, 0.032), (4, 0.047)])
def test_the_interval_of_a_difference_of_shares_counts_lesions(sisters, error):
    """400 images on each side, half and four fifths of them right: the binomial standard error, lesions whole."""
    made, real = pd.DataFrame({"image_id": range(400), "dx": "mel"}), pd.DataFrame({"dx": ["mel"] * 400})
    right = np.arange(400) // sisters % 5 < 4
    answers = {"network": (np.where(np.arange(400) % 2, "mel", "nv"), np.where(right, "mel", "nv"))}
    table = reference_classifier.fidelity_table(answers, made, real.assign(group=np.arange(400) // sisters))
    overall = table.iloc[-1]
    assert overall["difference"] == pytest.approx(-0.3)
    assert (overall["high"] - overall["low"]) / 2 / 1.96 == pytest.approx(error, rel=0.05)
