"""Workbooks as readers and organisers bring them: read where the meaning is plain, with no number where nothing was asked."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.readers import analysis, kit, statistics, workbook
from dermstudy_commands import cli

READ = ("borders", "capital", "comma_confidence", "confidence_column_empty", "cover_sheet", "good", "header_case",
        "header_space", "merged_reader", "one_confidence_blank", "paper_label", "space_in_blank_row", "title_row")  # fmt: skip


@pytest.fixture(scope="module")
def answers():
    return workbook.reconstruct_published_reader(0)


@pytest.mark.parametrize("name", READ)
def test_a_users_workbook_is_read(cases, name, answers):
    read = workbook.read_workbook(cases / "workbooks" / f"{name}.xlsx")
    given = {"comma_confidence": 140, "one_confidence_blank": 139}.get(name, 0)
    assert ("confidence" in read) == bool(given)
    if given:
        assert read["confidence"].notna().sum() == given and read["confidence"].dropna().eq(4).all()
    pd.testing.assert_frame_equal(read[list(answers)], answers, check_dtype=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ki", r"sheet 'Sheet1', row 2 \(cell F2\): unknown source_answer 'KI'; known are original, AI, unsure"),
        ("sum_row", r"sheet 'answers', row 143 \(cell B143\): image is empty"),
    ],
)
def test_a_users_workbook_that_is_not_plain_is_refused_by_its_cell(cases, name, message):
    with pytest.raises(InputError, match=message):
        workbook.read_workbook(cases / "workbooks" / f"{name}.xlsx")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_a_text_table_of_another_country_is_read(tmp_path, encoding, answers):
    """Semicolons, decimal commas, a mark at the start, titles and blank rows."""
    table = answers.assign(reader="Jörg", confidence="4,5").rename(columns=str.capitalize)
    text = "Lesestudie;;\n\n" + table.to_csv(sep=";", index=False) + ";;;;;;;\n"
    (tmp_path / "answers.csv").write_text(text, encoding=encoding)
    read = workbook.read_workbook(tmp_path / "answers.csv")
    assert len(read) == 140 and set(read["reader"]) == {"Jörg"} and read["confidence"].eq(4.5).all()
    pd.testing.assert_frame_equal(read[list(answers)[1:]], answers[list(answers)[1:]], check_dtype=False)


def test_answers_to_a_kit_have_a_confidence_each_or_none(tmp_path, answers):
    few = answers.assign(confidence=[4.0] * 139 + [np.nan])
    with pytest.raises(
        InputError, match="reader 'published' gave no confidence for image image_140: fill it in, or empty"
    ):
        kit.save_answers(few, None, tmp_path / "kit_answers.csv")
    assert not (tmp_path / "kit_answers.csv").exists()
    kit.save_answers(answers, None, tmp_path / "kit_answers.csv")
    own = kit.open_answers(tmp_path / "kit_answers.csv")
    assert set(statistics.signed_confidence(own)) == {-1.0, 1.0}  # a scale of the bare answers
    assert statistics.entity_auc(own)["auc"].between(0, 1).all()


def without(name: str, answers: pd.DataFrame) -> pd.DataFrame:
    """Answers in which a group has no images."""
    melanomas = answers[answers["entity"] == "mel"]
    return {
        "one entity missing": answers[answers["entity"] != "df"],
        "melanomas alone": melanomas,
        "AI images alone": answers[answers["source"] == "AI"],
        "originals alone": answers[answers["source"] == "original"],
        "one answer": answers.head(1),
        "no common image": pd.concat([melanomas[:9].assign(reader="A"), melanomas[9:].assign(reader="B")]),
    }[name]


EMPTY = ("one entity missing", "melanomas alone", "AI images alone", "originals alone", "one answer", "no common image")


@pytest.mark.parametrize("name", EMPTY)
def test_a_group_without_images_has_n_0_and_no_interval(answers, name):
    """Every share, report, curve and sentence of notebook 05, without a warning; what has images is as it was."""
    own = without(name, answers).assign(confidence=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shares = analysis.proportions(own).set_index("what")
        reports = {"entity": analysis.entity_report(own), "source": analysis.source_report(own)}
        curves = analysis.entity_curves(own) | {"AI": analysis.source_curve(own)}
        figures = analysis.figures_of_section_3_2(own)
        difference, kappa = analysis.source_difference(own), analysis.kappa(own)
        areas = statistics.source_auc(own, 20), statistics.entity_auc(own)
        agreement = statistics.agreement_table(own, 20)
        statistics.cohen_pairs(own, "entity_answer")
        words = analysis.order_of_entities(shares.reset_index()), analysis.difference_words(difference)
    empty = shares[shares["of"] == 0]
    assert empty[["share", "low", "high"]].isna().all(axis=None) and empty["right"].eq(0).all()
    assert shares.loc[shares["of"] > 0, ["share", "low", "high"]].notna().all(axis=None)
    for column, report in reports.items():
        for label in report.index[:-3]:
            count = int((own[column] == label).sum())
            assert report.loc[label, "support"] == count and report.loc[label, "recall":"f1"].isna().all() == (
                count == 0
            )
        shown = report.iloc[:-3].query("support > 0")
        assert report.loc["macro avg", "recall"] == pytest.approx(shown["recall"].mean())
    for code in CODES:
        both = (own["entity"] == code).nunique() == 2
        assert np.isnan(curves[code]["auc"]) != both
    both = own["source"].nunique() == 2
    assert np.isnan(difference["p_value"]) != both and np.isnan(curves["AI"]["auc"]) != both
    assert np.isnan(figures["accuracy", "entities, AI images"]) == (not (own["source"] == "AI").any())
    assert areas[0]["auc"].notna().all() == both and set(kappa) == {"entity", "source"}
    assert ("are not compared" in words[1]) != both and ("have no order" in words[0]) == (own["entity"].nunique() < 2)
    assert agreement["share"].notna().all() and agreement[["low", "high"]].notna().all(axis=None)


def test_a_key_or_workbook_that_is_missing_is_named(tmp_path, capsys):
    with pytest.raises(InputError, match="no key .*: 'kit build' writes it beside the kit"):
        kit.open_key(tmp_path / "kit_key.csv")
    assert cli.main(["kit", "export", str(tmp_path), str(tmp_path / "answers.xlsx")]) == 2
    assert "is not a reader kit" in capsys.readouterr().err
