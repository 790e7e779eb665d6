"""The arithmetic on the published tables, line by line."""

from __future__ import annotations

import numpy as np
import pytest

from dermstudy.entities import CODES, HAM10000_IMAGES
from dermstudy.files import InputError
from dermstudy.published import arithmetic, paper


def test_the_reader_is_determined():
    assert arithmetic.source_matrices() == [paper.SOURCE_MATRIX]
    assert arithmetic.consistent_margins() == [tuple(zip(paper.CORRECT, paper.PREDICTED, strict=True))]
    assert arithmetic.subset_counts() == [(paper.CORRECT_ON_AI, 28)]


def test_the_two_readings_of_the_classes():
    assert arithmetic.label_encoder_order() == ("akiec", "bcc", "bkl", "df", "nv", "mel", "vasc")
    table = arithmetic.readings().round(2)
    assert table["legend"].tolist() == [0.68, 0.50, 0.69]
    assert table["label_encoder"].tolist() == [0.86, 0.65, 0.81]
    assert table["printed"].tolist() == [0.86, 0.65, 0.80]
    by_hand = sum(
        HAM10000_IMAGES[c] * r
        for c, r in zip(arithmetic.label_encoder_order(), paper.by_class("combined")["recall"], strict=True)
    )
    assert arithmetic.readings().loc["combined", "label_encoder"] == pytest.approx(by_hand / 10_015)


def test_table_1_overall_is_the_unweighted_mean():
    table = paper.table_1()
    assert (table.drop(index="overall").mean() - table.loc["overall"]).abs().max() < 6e-5


def test_tables_2_and_3_share_the_combined_arm_and_their_averages():
    for name in paper.TRAINING_SETS:
        rows, summary = paper.by_class(name), paper.summary(name)
        assert abs(rows["f1"].mean() - summary["macro f1"]) <= 0.01
        harmonic = 2 * rows["precision"] * rows["recall"] / (rows["precision"] + rows["recall"])
        assert (harmonic - rows["f1"]).abs().max() <= 0.011, name
    assert list(paper.table_3().index) == list(CODES)


def test_findings_say_what_design_found():
    quality, reader, classifier, ablation = (
        arithmetic.findings(name) for name in ("quality", "reader", "classifier", "ablation")
    )
    assert "-0.86" in " ".join(quality["result"])
    assert "class 5 (basal cell carcinoma), 0.48" in " ".join(reader["result"])
    assert "class 5 holds 52% to 74% of the test images, any other at most 44%" in " ".join(classifier["result"])
    higher = "actinic keratosis (class 1), benign keratosis (class 3), dermatofibroma (class 4), melanoma (class 6)"
    assert higher in " ".join(ablation["result"]) and "0.67" in " ".join(ablation["result"])
    assert not quality.isna().any().any()
    with pytest.raises(InputError, match="unknown audit section"):
        arithmetic.findings("table")


def test_share_bounds_hold_every_share_that_prints_the_table():
    """Against a literal search: random shares that print the averages never leave the bounds of linear programming."""
    bounds, table, summary = arithmetic.share_bounds("combined"), paper.by_class("combined"), paper.summary("combined")
    random = np.random.default_rng(0)
    shares = random.dirichlet([0.6] * 4 + [4] + [0.6] * 2, 200_000)
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
