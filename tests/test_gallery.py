"""Fidelity by two networks, and the gallery of the worst images: each is there for the reason that it gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dermstudy.entities import CODES, NAMES
from dermstudy.evaluation import fidelity, gallery
from dermstudy.evaluation.features import Features


def entity_features(random, each: int, apart: float = 4.0) -> Features:
    """Features of `each` images an entity, the entities `apart` from each other."""
    entity = np.repeat(CODES, each)
    values = random.normal(size=(len(entity), 12)) + apart * np.eye(12)[[CODES.index(code) for code in entity]]
    return Features(values.astype(np.float32), np.arange(len(entity)), entity)


def test_the_independent_network_names_what_it_can_tell():
    random = np.random.default_rng(0)
    namer = fidelity.Namer(entity_features(random, 12), entity_features(random, 5))
    assert namer.score > 0.9
    held = entity_features(random, 10)
    assert (namer(held.values) == held.entity).mean() > 0.9
    blind = fidelity.Namer(entity_features(random, 12, 0.0), entity_features(random, 5, 0.0))
    assert blind.score < 0.5
    sure = namer.confidence(held.values)
    assert sure.shape == (70,) and (sure > 1 / 7).all() and (sure <= 1).all()
    assert sure.mean() > namer.confidence(np.zeros_like(held.values)).mean()


def test_fidelity_of_two_networks_by_hand():
    asked = pd.DataFrame({"image_id": list("abcd"), "dx": ["mel", "mel", "nv", "nv"]})
    true = pd.DataFrame({"image_id": list("xyz"), "dx": ["mel", "nv", "nv"], "group": ["one", "two", "two"]})
    answers = {
        fidelity.SMALL: (np.array(["mel", "nv", "nv", "nv"]), np.array(["mel", "mel", "nv"])),
        fidelity.INDEPENDENT: (np.array(["bcc", "nv", "nv", "mel"]), np.array(["mel", "nv", "nv"])),
    }
    table = fidelity.fidelity_table(answers, asked, true).set_index(["network", "entity"])
    own = table.loc[(fidelity.SMALL, "melanoma")]
    assert own[["n", "synthetic", "n_real", "real", "difference"]].tolist() == [2, 0.5, 1, 1.0, -0.5]
    assert own[["low", "high"]].tolist() == [-1, 0]  # both images wrong, or both right
    nevi = table.loc[(fidelity.SMALL, "melanocytic nevus")]
    assert nevi[["n_real", "real", "low", "high"]].tolist() == [2, 0.5, 0.5, 0.5]  # one lesion: nothing to resample
    overall = table.loc[(fidelity.INDEPENDENT, "overall")]
    assert overall[["n", "synthetic", "n_real", "real", "difference"]].tolist() == [4, 0.25, 3, 1.0, -0.75]
    sure = np.array([0.9, 0.8, 0.7, 0.6])
    wrong = fidelity.wrongly_named({name: own[0] for name, own in answers.items()}, asked["dx"], sure)
    assert wrong["entity"].tolist() == ["", "melanocytic nevus", "", ""]  # both networks wrong about the second alone
    assert wrong["confidence"].tolist() == pytest.approx([np.nan, 0.8, np.nan, np.nan], nan_ok=True)


@pytest.mark.parametrize(("sisters", "error"), [(1, 0.032), (4, 0.047)])
def test_the_interval_of_a_difference_of_shares_counts_lesions(sisters, error):
    """400 images on each side, half and four fifths of them right: the binomial standard error, lesions whole."""
    made, real = pd.DataFrame({"image_id": range(400), "dx": "mel"}), pd.DataFrame({"dx": ["mel"] * 400})
    right = np.arange(400) // sisters % 5 < 4
    answers = {"network": (np.where(np.arange(400) % 2, "mel", "nv"), np.where(right, "mel", "nv"))}
    overall = fidelity.fidelity_table(answers, made, real.assign(group=np.arange(400) // sisters)).iloc[-1]
    assert overall["difference"] == pytest.approx(-0.3)
    assert (overall["high"] - overall["low"]) / 2 / 1.96 == pytest.approx(error, rel=0.05)


@pytest.fixture
def frame():
    dx = ["mel"] * 4 + ["nv"] * 4
    return pd.DataFrame({"image_id": [f"s{place}" for place in range(8)], "dx": dx})


def test_the_worst_images_are_the_worst_by_each_measure(frame):
    nearest = pd.DataFrame({"held_out_distance": [1, 9, 2, 3, 4, 8, 5, 6.0], "ratio": [1, 1, 0.2, 1, 1, 1, 0.9, 1.0]})
    vectors = np.eye(8)
    vectors[5] = vectors[4] + 0.1 * vectors[5]  # a twin of its own entity
    vectors[3] = vectors[7]  # of another entity: not counted
    real = np.tile([60.0, 10.0, 10.0, 0, 0, 0], (10, 1)) + np.arange(10)[:, None]
    made = np.tile(real.mean(axis=0), (8, 1))
    made[6, 1] += 30
    off = gallery.colour_distance(made, frame["dx"], np.vstack([real, real]), pd.Series(["mel"] * 10 + ["nv"] * 10))
    taken = pd.DataFrame({"entity": [NAMES["nv"], "", "", NAMES["bcc"], "", "", "", NAMES["mel"]]})
    taken["confidence"] = [0.5, np.nan, np.nan, 0.9, np.nan, np.nan, np.nan, 0.7]
    table = gallery.worst(frame, nearest, vectors, taken, off, each=2).set_index(["measure", "place"])
    assert table.loc[(gallery.FAR, 1), "image_id"] == "s1" and table.loc[(gallery.FAR, 2), "why"] == "distance 8.0"
    assert table.loc[(gallery.COPY, 1), "image_id"] == "s2" and table.loc[(gallery.COPY, 1), "why"] == "ratio 0.20"
    assert table.loc[(gallery.NAMED, 1), ["image_id", "why"]].tolist() == ["s3", "basal cell carcinoma 0.90"]
    assert table.loc[(gallery.NAMED, 2), ["image_id", "why"]].tolist() == [
        "s7",
        "melanoma 0.70",
    ]  # not the file's first
    alone = taken.assign(confidence=taken["confidence"].where(taken["confidence"] > 0.8))
    fewer = gallery.worst(frame, nearest, vectors, alone, off, each=2)
    assert (fewer["measure"] == gallery.NAMED).sum() == 1
    assert table.loc[(gallery.COLOUR, 1), "image_id"] == "s6" and table.loc[(gallery.COLOUR, 1), "why"].startswith(
        "6.0 spreads, a +"
    )
    assert {table.loc[(gallery.TWIN, place), "image_id"] for place in (1, 2)} == {"s4", "s5"}
    assert (
        table.loc[(gallery.TWIN, 1), "beside"] in ("s4", "s5") and table.loc[(gallery.FAR, 1), "entity"] == "melanoma"
    )


def test_a_sheet_has_the_reason_over_each_image(cohort):
    ids = cohort.frame["image_id"]
    rows = [(gallery.FAR, 1, ids[2], "", "distance 3.0", ""), (gallery.FAR, 2, ids[0], "", "distance 2.0", ""),
            (gallery.COPY, 1, ids[1], "", "ratio 0.20", "")]  # fmt: skip
    drawn = gallery.sheet(pd.DataFrame(rows, columns=gallery.COLUMNS), cohort, side=16)
    assert drawn["row_labels"] == [gallery.FAR, gallery.COPY]
    assert drawn["captions"] == [["distance 3.0", "distance 2.0"], ["ratio 0.20"]]
    assert np.array_equal(drawn["rows"][0][0], cohort.images(16, [ids[2]])[0]) and len(drawn["rows"][1]) == 1
