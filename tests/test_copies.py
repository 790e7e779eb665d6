"""Copies of training images: a planted one is found to the pixel, and every encoder names its closest pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermstudy.evaluation import copies


def nearest(ratios: list[float]) -> pd.DataFrame:
    places = list(range(len(ratios)))
    return pd.DataFrame({"training": places[::-1], "held_out": places, "ratio": ratios}).assign(
        training_distance=1.0, held_out_distance=2.0
    )


def test_a_planted_copy_is_found_and_a_changed_pixel_is_none(cohort, tmp_path):
    training = cohort.select(split="train")
    frame = cohort.select(split="test").frame.head(3).copy()
    pixels = training.images(64, [training.frame["image_id"].iloc[5]])[0]
    changed = pixels.copy()
    changed[0, 0, 0] ^= 1
    stranger = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    for name, image in zip(frame["image_id"], (stranger, pixels, changed), strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    frame["file"] = [f"{name}.png" for name in frame["image_id"]]
    made = replace(cohort, root=tmp_path, frame=frame.reset_index(drop=True))
    assert copies.exact_copies(made, training, 64) == [frame["image_id"].iloc[1]]
    assert copies.exact_copies(made, training.select(image_id=training.frame["image_id"].head(3)), 64) == []


def test_both_encoders_name_their_closest_pairs(cohort):
    found = {("one", "synthetic"): nearest([0.5, 0.9, 0.2]), ("one", "real, validation"): nearest([0.1, 0.1, 0.1]),
             ("two", "synthetic"): nearest([0.3, 0.9, 0.8])}  # fmt: skip
    held_out = cohort.select(split="test")
    table = copies.closest_by_encoder(found, cohort, cohort.select(dx="nv"), held_out, count=2)
    ids, nevi, others = (own.frame["image_id"] for own in (cohort, cohort.select(dx="nv"), held_out))
    assert table["encoder"].tolist() == ["one", "one", "two", "two"]
    assert table["image_id"].tolist() == [ids[2], ids[0], ids[0], ids[2]]
    assert table["nearest_in_training"].tolist() == [nevi[0], nevi[2], nevi[2], nevi[0]]
    assert table["nearest_held_out"].tolist() == [others[2], others[0], others[0], others[2]]


def test_a_sheet_shows_each_pair_with_its_ratio(cohort):
    ids = cohort.frame["image_id"]
    pairs = pd.DataFrame({"encoder": ["one", "one", "two"], "image_id": ids[:3], "nearest_in_training": ids[3:6].to_numpy(),
                          "ratio": [0.2, 0.5, 0.3]})  # fmt: skip
    drawn = copies.sheet(pairs, cohort, {"nearest_in_training": cohort}, side=16)
    assert drawn["row_labels"] == [
        "synthetic, by one",
        "nearest in training",
        "synthetic, by two",
        "nearest in training",
    ]
    assert drawn["captions"] == [["ratio 0.20", "ratio 0.50"], [], ["ratio 0.30"], []]
    assert [len(row) for row in drawn["rows"]] == [2, 2, 1, 1]
    assert np.array_equal(drawn["rows"][1][1], cohort.images(16, [ids[4]])[0])
    alone = copies.sheet(pairs, cohort, {}, side=16)
    assert alone["row_labels"] == ["synthetic, by one", "synthetic, by two"]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ([0.5, 0.6, 0.7], "nearer throughout"),
        ([0.5, 0.9, 2.9], "nearer in part"),
        ([0.1, *[1.5] * 40], "no nearer"),
        ([1.5, 1.6, 1.7], "no nearer"),
    ],
)
def test_what_an_encoder_finds_is_said_of_it(made, words):
    parts = {("one", "synthetic"): nearest(made), ("one", "real, validation"): nearest([0.8, 0.9, 1.0])}
    ratios = pd.concat(parts, names=["encoder", "images"]).reset_index(["encoder", "images"])
    (sentence,) = copies.said(copies.memorisation(ratios))
    assert sentence.startswith(f"by one synthetic images lie {words} to training images than real validation")
    assert f"mean ratio {np.mean(made):.3f} and 0.900, least {made[0]:.2f} of {len(made)} and 0.80 of 3" in sentence
