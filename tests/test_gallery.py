"""Images to look at: planted copies, closest pairs, the worst by each measure, each for the reason that it gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermstudy.entities import NAMES
from dermstudy.evaluation import gallery


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
    frame["file"] = frame["image_id"] + ".png"
    for file, image in zip(frame["file"], (stranger, pixels, changed), strict=True):
        Image.fromarray(image).save(tmp_path / file)
    made = replace(cohort, root=tmp_path, frame=frame.reset_index(drop=True))
    assert gallery.exact_copies(made, training, 64) == [frame["image_id"].iloc[1]]
    assert gallery.exact_copies(made, training.select(image_id=training.frame["image_id"].head(3)), 64) == []


def test_both_encoders_name_their_closest_pairs_and_a_sheet_shows_them(cohort):
    found = {("one", "synthetic"): nearest([0.5, 0.9, 0.2]), ("one", "real, validation"): nearest([0.1, 0.1, 0.1]),
             ("two", "synthetic"): nearest([0.3, 0.9, 0.8])}  # fmt: skip
    nevi, held_out = cohort.select(dx="nv"), cohort.select(split="test")
    table = gallery.closest_pairs(found, cohort, nevi, held_out, count=2)
    ids, known, others = (side.frame["image_id"] for side in (cohort, nevi, held_out))
    assert table["encoder"].tolist() == ["one", "one", "two", "two"]
    assert table["image_id"].tolist() == [ids[2], ids[0], ids[0], ids[2]]
    assert table["nearest_in_training"].tolist() == [known[0], known[2], known[2], known[0]]
    assert table["nearest_held_out"].tolist() == [others[2], others[0], others[0], others[2]]
    drawn = gallery.pairs_sheet(table, cohort, {"nearest_in_training": nevi}, side=16)
    labels = ["synthetic, by one", "nearest in training", "synthetic, by two", "nearest in training"]
    assert drawn["row_labels"] == labels and [len(row) for row in drawn["rows"]] == [2] * 4
    assert drawn["captions"] == [["ratio 0.20", "ratio 0.50"], [], ["ratio 0.30", "ratio 0.80"], []]
    assert np.array_equal(drawn["rows"][1][1], nevi.images(16, [known[2]])[0])
    assert gallery.pairs_sheet(table, cohort, {}, side=16)["row_labels"] == labels[::2]


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
    (sentence,) = gallery.memorisation_sentences(gallery.memorisation(ratios))
    assert sentence.startswith(f"by one synthetic images lie {words} to training images than real validation")
    assert f"mean ratio {np.mean(made):.3f} and 0.900, least {made[0]:.2f} of {len(made)} and 0.80 of 3" in sentence


def test_the_worst_images_are_the_worst_by_each_measure():
    frame = pd.DataFrame({"image_id": [f"s{place}" for place in range(8)], "dx": ["mel"] * 4 + ["nv"] * 4})
    found = pd.DataFrame({"held_out_distance": [1, 9, 2, 3, 4, 8, 5, 6.0], "ratio": [1, 1, 0.2, 1, 1, 1, 0.9, 1.0]})
    vectors = np.eye(8)
    vectors[5] = vectors[4] + 0.1 * vectors[5]  # a twin of its own entity
    vectors[3] = vectors[7]  # of another entity: not counted
    real = np.tile([60.0, 10.0, 10.0, 0, 0, 0], (10, 1)) + np.arange(10)[:, None]
    made = np.tile(real.mean(axis=0), (8, 1))
    made[6, 1] += 30
    off = gallery.colour_distance(made, frame["dx"], np.vstack([real, real]), pd.Series(["mel"] * 10 + ["nv"] * 10))
    taken = pd.DataFrame({"entity": [NAMES["nv"], "", "", NAMES["bcc"], "", "", "", NAMES["mel"]]})
    taken["confidence"] = [0.5, np.nan, np.nan, 0.9, np.nan, np.nan, np.nan, 0.7]
    table = gallery.worst(frame, found, vectors, taken, off, each=2).set_index(["measure", "place"])
    expected = {
        (gallery.FAR, 1): ["s1", "distance 9.0"], (gallery.FAR, 2): ["s5", "distance 8.0"],
        (gallery.COPY, 1): ["s2", "ratio 0.20"],
        (gallery.NAMED, 1): ["s3", "basal cell carcinoma 0.90"], (gallery.NAMED, 2): ["s7", "melanoma 0.70"],
    }  # fmt: skip
    assert {key: table.loc[key, ["image_id", "why"]].tolist() for key in expected} == expected
    colour = table.loc[(gallery.COLOUR, 1)]
    assert colour["image_id"] == "s6" and colour["why"].startswith("6.0 spreads, a +")
    twins = table.loc[gallery.TWIN]
    assert set(twins["image_id"]) == {"s4", "s5"} == set(twins["beside"])
    assert table.loc[(gallery.FAR, 1), "entity"] == "melanoma"
    alone = taken.assign(confidence=taken["confidence"].where(taken["confidence"] > 0.8))
    fewer = gallery.worst(frame, found, vectors, alone, off, each=2)
    assert (fewer["measure"] == gallery.NAMED).sum() == 1


def test_a_sheet_has_the_reason_over_each_image(cohort):
    ids = cohort.frame["image_id"]
    rows = [(gallery.FAR, 1, ids[2], "", "distance 3.0", ""), (gallery.FAR, 2, ids[0], "", "distance 2.0", ""),
            (gallery.COPY, 1, ids[1], "", "ratio 0.20", "")]  # fmt: skip
    drawn = gallery.worst_sheet(pd.DataFrame(rows, columns=gallery.COLUMNS), cohort, side=16)
    assert drawn["row_labels"] == [gallery.FAR, gallery.COPY]
    assert drawn["captions"] == [["distance 3.0", "distance 2.0"], ["ratio 0.20"]]
    assert np.array_equal(drawn["rows"][0][0], cohort.images(16, [ids[2]])[0]) and len(drawn["rows"][1]) == 1
