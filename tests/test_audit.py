"""The arithmetic on the published tables, line by line."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import ROOT
from sklearn.preprocessing import LabelEncoder

from dermstudy.entities import CODES, ENTITIES, HAM10000_IMAGES
from dermstudy.files import InputError
from dermstudy.published import arithmetic, paper

SETS = list(paper.TRAINING_SETS)


def test_the_reader_is_determined():
    assert arithmetic.source_matrices() == [paper.SOURCE_MATRIX]
    assert arithmetic.consistent_margins() == [tuple(zip(paper.CORRECT, paper.PREDICTED, strict=True))]
    assert arithmetic.subset_counts() == [(paper.CORRECT_ON_AI, 28)]


def test_the_two_readings_of_the_classes():
    order = arithmetic.label_encoder_order()
    assert order == ("akiec", "bcc", "bkl", "df", "nv", "mel", "vasc")
    names = {entity.code: entity.paper_label for entity in ENTITIES}
    assert [names[code] for code in order] == list(LabelEncoder().fit(list(names.values())).classes_)
    table = arithmetic.readings()
    assert table["legend"].round(2).tolist() == [0.68, 0.50, 0.69]
    assert table["label_encoder"].round(2).tolist() == [0.86, 0.65, 0.81]
    assert table["printed"].tolist() == [0.86, 0.65, 0.80]
    recalls = paper.by_class("combined")["recall"]
    by_hand = sum(HAM10000_IMAGES[code] * recall for code, recall in zip(order, recalls, strict=True))
    assert table.loc["combined", "label_encoder"] == pytest.approx(by_hand / 10_015)


def test_class_5_is_nevi_in_every_order_that_fits_as_well():
    encoded, fitting, others = arithmetic.as_good()
    assert len(fitting) == 372 and len(fitting) + len(others) == 5_040 and set(fitting["class_5"]) == {"nv"}
    assert encoded["accuracy_miss"] == pytest.approx(0.0129, abs=5e-5)
    assert others.loc[others["class_5"] != "nv", "accuracy_miss"].min() > 0.13


def test_the_share_of_images_that_are_called_anything_is_one_in_labelencoders_order():
    checks = arithmetic.class_checks()
    called = checks.pivot(index="training_set", columns="order", values="answered").round(3).loc[SETS]
    assert called[arithmetic.OF_NAMES].tolist() == [1.001, 0.997, 0.984]
    assert called[arithmetic.LEGEND].tolist() == [0.816, 0.899, 0.897]
    fifth = checks.groupby("order")["class_5"].first()
    assert fifth[arithmetic.OF_CODES] == "melanoma" and fifth[arithmetic.OF_NAMES] == "melanocytic nevus"


def test_the_names_and_parameters_are_the_papers_words():
    path = ROOT.parent / "shared" / "seeds" / "001_60b2a44632185095.txt"
    if not path.is_file():
        pytest.skip("the paper's text is not at hand")
    page = path.read_text(encoding="utf-8")
    sections = {name: page[page.index(f"\n{name} ") :] for name in ("3.3.", "3.4.")}
    sections["3.3."] = sections["3.3."].split("\n3.4. ")[0]
    sections["3.4."] = sections["3.4."].split("\n4. ")[0]
    words = {"akiec": "Actinic keratoses and intraepithelial carcinoma", "bkl": "benign keratosis-like lesions"}
    numbers = {(0.91, 0.55): 4, (0.87, 0.97): 5}
    legend = page[page.index("in classifying the entities") :]
    for place, precision, recall, code in paper.NAMED_ROWS:
        number = numbers[precision, recall]
        assert paper.by_class("combined").loc[number, ["precision", "recall"]].tolist() == [precision, recall]
        if place == "the legend":
            named = re.search(rf"Class {number}: ([^;]+);", legend)[1]
            assert named.startswith({"bkl": "benign keratosis", "bcc": "basal cell carcinoma"}[code])
        else:
            text = sections[place.removeprefix("section ") + "."]
            before = text[: re.search(rf"precision = {precision}, recall = {recall}\)", text).start()]
            quoted = re.findall(r"[“\"](.+?)[”\"]", before)[-1]
            assert quoted.lower().startswith(words[code].lower()), (place, quoted)
    assert f"trained a {paper.SAID_PARAMETERS / 1e9} billion parameter diffusion model" in page
    assert "which we used as the baseline model" in page


def test_tables_2_and_3_give_their_averages():
    for name in SETS:
        rows = paper.by_class(name)
        assert abs(rows["f1"].mean() - paper.summary(name)["macro f1"]) <= 0.01
        harmonic = 2 * rows["precision"] * rows["recall"] / (rows["precision"] + rows["recall"])
        assert (harmonic - rows["f1"]).abs().max() <= 0.011, name


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("quality", ["-0.86", "385, not 3,500", "cannot tell the two apart"]),
        ("reader", ["class 5 (basal cell carcinoma), 0.48", "35 of 37 printed figures"]),
        ("classifier", ["combined 52% to 74%, any other class at most 44%", "original 45% to 83%", "synthetic 33% to 76%",
                        "(0.87, 0.97) is benign keratosis in section 3.3", "misses by at most 0.0129",
                        "Of all 5,040 orders 372 fit", "would make class 5 melanoma", "By both checks 2 orders fit"]),
        ("ablation", ["actinic keratosis (class 1), benign keratosis (class 3), dermatofibroma (class 4), melanoma (class 6)",
                      "0.67"]),
    ],
)  # fmt: skip
def test_findings_say_what_the_tables_give(section, words):
    table = arithmetic.findings(section)
    told = " ".join(table["result"] + " " + table["verdict"])
    assert not [part for part in words if part not in told] and not table.isna().any(axis=None)
    with pytest.raises(InputError, match="unknown audit section"):
        arithmetic.findings("table")


def test_share_bounds_hold_every_share_that_prints_the_table():
    """Against a literal search: random shares that print the averages never leave the bounds of linear programming."""
    bounds, table, summary = (give("combined") for give in (arithmetic.share_bounds, paper.by_class, paper.summary))
    shares = np.random.default_rng(0).dirichlet([0.6] * 4 + [4] + [0.6] * 2, 200_000)
    fits = np.ones(len(shares), bool)
    for column, name in (("recall", "accuracy"), ("precision", "weighted precision"), ("f1", "weighted f1")):
        fits &= np.abs(shares @ table[column].to_numpy() - summary[name]) <= 0.01
    assert fits.sum() > 100
    assert (shares[fits].min(axis=0) >= bounds["low"].to_numpy() - 1e-9).all()
    assert (shares[fits].max(axis=0) <= bounds["high"].to_numpy() + 1e-9).all()


def test_printed_psnr_follows_from_printed_mse_by_a_peak_of_255():
    table = arithmetic.psnr_columns()
    assert list(table.index) == list(CODES)
    assert (table["peak 255, unit errors"] - table["true PSNR"]).round(2).eq(48.13).all()
    assert (table["printed"] - table["peak 255, unit errors"]).between(0, 1.2).all()
