"""The arithmetic on the published tables, line by line."""

from __future__ import annotations

import pytest

from dermstudy import audit, paper
from dermstudy.entities import CODES, HAM10000_IMAGES
from dermstudy.files import InputError
from dermstudy.readers import workbook


def test_the_reader_is_determined():
    assert audit.source_matrices() == [workbook.SOURCE_MATRIX]
    assert audit.consistent_margins() == [tuple(zip(workbook.CORRECT, workbook.PREDICTED, strict=True))]
    assert audit.subset_counts() == [(workbook.CORRECT_ON_AI, 28)]


def test_the_two_readings_of_the_classes():
    assert audit.label_encoder_order() == ("akiec", "bcc", "bkl", "df", "nv", "mel", "vasc")
    table = audit.readings().round(2)
    assert table["legend"].tolist() == [0.68, 0.50, 0.69]
    assert table["label_encoder"].tolist() == [0.86, 0.65, 0.81]
    assert table["printed"].tolist() == [0.86, 0.65, 0.80]
    by_hand = sum(
        HAM10000_IMAGES[c] * r
        for c, r in zip(audit.label_encoder_order(), paper.by_class("combined")["recall"], strict=True)
    )
    assert audit.readings().loc["combined", "label_encoder"] == pytest.approx(by_hand / 10_015)


def test_table_1_overall_is_the_unweighted_mean():
    table = paper.table_1()
    assert (table.drop(index="overall").mean() - table.loc["overall"]).abs().max() < 6e-5


def test_tables_2_and_3_share_the_combined_arm_and_their_averages():
    for arm in paper.ARMS:
        rows, summary = paper.by_class(arm), paper.summary(arm)
        assert abs(rows["f1"].mean() - summary["macro f1"]) <= 0.01
        harmonic = 2 * rows["precision"] * rows["recall"] / (rows["precision"] + rows["recall"])
        assert (harmonic - rows["f1"]).abs().max() <= 0.011, arm
    assert list(paper.table_3().index) == list(CODES)


def test_findings_say_what_design_found():
    quality, reader, classifier = (audit.findings(name) for name in ("quality", "reader", "classifier"))
    assert "-0.86" in " ".join(quality["result"])
    assert "class 5 (basal cell carcinoma), 0.48" in " ".join(reader["result"])
    assert "classes 1, 3, 4, 6" in " ".join(classifier["result"]) and "0.67" in " ".join(classifier["result"])
    assert not quality.isna().any().any()
    with pytest.raises(InputError, match="unknown audit section"):
        audit.findings("table")
