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


def test_fidelity_of_two_networks_by_hand():
    asked, true = pd.Series(["mel", "mel", "nv", "nv"]), pd.Series(["mel", "nv"])
    answers = {
        fidelity.CHOOSER: (np.array(["mel", "nv", "nv", "nv"]), np.array(["mel", "mel"])),
        fidelity.INDEPENDENT: (np.array(["bcc", "nv", "nv", "mel"]), np.array(["mel", "nv"])),
    }
    table = fidelity.fidelity_table(answers, asked, true).set_index(["network", "entity"])
    assert table.loc[(fidelity.CHOOSER, "melanoma"), ["synthetic", "real"]].tolist() == [0.5, 1.0]
    assert table.loc[(fidelity.INDEPENDENT, "overall"), ["synthetic", "real"]].tolist() == [0.25, 1.0]
    wrong = fidelity.wrongly_named({name: own[0] for name, own in answers.items()}, asked)
    assert wrong.tolist() == ["", "melanocytic nevus", "", ""]  # both networks wrong about the second alone


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
    taken = pd.Series(["", "", "", NAMES["bcc"], "", "", "", ""])
    table = gallery.worst(frame, nearest, vectors, taken, off, each=2).set_index(["measure", "place"])
    assert table.loc[(gallery.FAR, 1), "image_id"] == "s1" and table.loc[(gallery.FAR, 2), "why"] == "distance 8.0"
    assert table.loc[(gallery.COPY, 1), "image_id"] == "s2" and table.loc[(gallery.COPY, 1), "why"] == "ratio 0.20"
    assert table.loc[(gallery.NAMED, 1), ["image_id", "why"]].tolist() == ["s3", "basal cell carcinoma"]
    assert (gallery.NAMED, 2) not in table.index  # one alone was taken for another entity
    assert table.loc[(gallery.COLOUR, 1), "image_id"] == "s6" and table.loc[(gallery.COLOUR, 1), "why"].startswith(
        "a +"
    )
    assert {table.loc[(gallery.TWIN, place), "image_id"] for place in (1, 2)} == {"s4", "s5"}
    assert "to s" in table.loc[(gallery.TWIN, 1), "why"] and table.loc[(gallery.FAR, 1), "entity"] == "melanoma"
