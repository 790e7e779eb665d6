"""The reader study: the published figures to their digits from the workbook, and workbooks refused in one line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dermstudy import intervals
from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.published import arithmetic, paper
from dermstudy.readers import analysis, workbook


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    path = tmp_path_factory.mktemp("reader") / "workbook.xlsx"
    return workbook.read_workbook(workbook.write_workbook(workbook.reconstruct_published_reader(0), path))


def test_the_reconstruction_has_the_papers_design(answers):
    assert len(answers) == 140 and answers.groupby(["entity", "source"]).size().eq(10).all()
    assert answers["provenance"].eq(workbook.RECONSTRUCTION).all() and answers["image"].is_unique
    assert analysis.source_confusion(answers).tolist() == [[66, 4], [1, 69]]
    matrix = analysis.entity_confusion(answers)
    assert tuple(matrix.diagonal()) == paper.CORRECT and tuple(matrix.sum(axis=0)) == paper.PREDICTED
    right = answers["entity"] == answers["entity_answer"]
    assert right.groupby(answers["source"]).sum().to_dict() == {"AI": 62, "original": 28}


def test_table_2_to_the_printed_digit(answers):
    report = analysis.entity_report(answers)
    for code, row in paper.table_2().iterrows():
        for column, printed in row.items():
            assert f"{report.loc[code, column]:.2f}" == f"{printed:.2f}", (code, column)  # as sklearn prints it
    summary = paper.summary("dermatologist")
    assert round(report.loc["accuracy", "recall"], 2) == summary["accuracy"]
    for average in ("macro", "weighted"):
        for column in ("precision", "recall", "f1"):
            assert round(report.loc[f"{average} avg", column], 2) == summary[f"{average} {column}"]


def test_section_3_2_agrees_but_for_the_three_that_contradict_the_design(answers):
    recomputed = analysis.figures_of_section_3_2(answers)
    disagree = [(what, place) for what, place, printed in paper.READER_FIGURES
                if not arithmetic.prints_as(recomputed[what, place], printed)]  # fmt: skip
    # With ten images an entity macro and weighted F1 are one number; each pair of printed ones differs.
    assert disagree == [("weighted F1", "entities, AI images"), ("macro F1", "entities, original images"),
                        ("weighted F1", "entities, original images")]  # fmt: skip
    for place in ("entities, AI images", "entities, original images"):
        assert recomputed["macro F1", place] == pytest.approx(recomputed["weighted F1", place])


@pytest.mark.parametrize("seed", range(5))
def test_any_seed_prints_the_same_margins(seed):
    report = analysis.entity_report(workbook.reconstruct_published_reader(seed))
    by_hand = np.mean([2 * c / (20 + p) for c, p in zip(paper.CORRECT, paper.PREDICTED, strict=True)])
    assert report.loc["macro avg", "f1"] == pytest.approx(by_hand)


def test_reports_by_hand(answers):
    report = analysis.entity_report(answers)
    for code in CODES:
        right = ((answers["entity"] == code) & (answers["entity_answer"] == code)).sum()
        precision, recall = right / (answers["entity_answer"] == code).sum(), right / (answers["entity"] == code).sum()
        by_hand = (precision, recall, 2 * precision * recall / (precision + recall))
        assert tuple(report.loc[code, ["precision", "recall", "f1"]]) == pytest.approx(by_hand)


def test_a_hard_label_roc_is_one_point(answers):
    curves = analysis.entity_curves(answers)
    for code, curve in curves.items():
        assert len(curve["true_positive_rate"]) == 3
        own = answers["entity"] == code
        said = answers["entity_answer"] == code
        assert curve["auc"] == pytest.approx((said[own].mean() + (~said[~own]).mean()) / 2)
    assert analysis.source_curve(answers)["auc"] == pytest.approx((69 / 70 + 66 / 70) / 2)


def test_wilson_and_kappa_against_published_values():
    # Newcombe, Stat. Med. 17 (1998), Table I: 81 of 263, Wilson score method.
    interval = intervals.wilson(81, 263)
    assert (round(interval["low"], 4), round(interval["high"], 4)) == (0.2553, 0.3662)
    # Cohen's kappa of 20 / 5 / 10 / 15 of 50 grants: 0.40.
    answers = pd.DataFrame({"entity": ["nv"] * 25 + ["mel"] * 25,
                            "entity_answer": ["nv"] * 20 + ["mel"] * 5 + ["nv"] * 10 + ["mel"] * 15})  # fmt: skip
    answers["source"] = answers["source_answer"] = ["AI", "original"] * 25
    assert analysis.kappa(answers)["entity"] == pytest.approx(0.40)


def test_the_difference_by_hand(answers):
    from math import comb

    difference = analysis.source_difference(answers)
    ways = lambda k: comb(70, k) * comb(70, 90 - k)  # noqa: E731
    extreme = sum(ways(k) for k in range(20, 71) if ways(k) <= ways(62))
    assert difference["p_value"] == pytest.approx(extreme / comb(140, 90))
    assert difference["difference"] == pytest.approx(34 / 70)


def test_the_shares_name_entities_and_whose_answers_they_are(answers):
    shares = analysis.proportions(answers)
    assert not shares["what"].str.contains(r"\b(?:mel|nv|akiec|bkl|bcc|df|vasc)\b").any()
    assert "entity, vascular lesion" in set(shares["what"]) and set(shares["answers"]) == {workbook.RECONSTRUCTION}
    own = analysis.proportions(answers.drop(columns="provenance"))
    assert set(own["answers"]) == {"readers' own workbook"}


def test_what_is_said_of_a_reader_is_what_the_answers_say(answers):
    shares = analysis.proportions(answers)
    assert analysis.told_apart(shares).startswith("AI and original told apart in 135 of 140 images (0.96, Wilson's")
    assert "an interval above guessing" in analysis.told_apart(shares)
    guessed = answers.assign(source_answer=["AI", "original"] * 70)
    assert "an interval around guessing" in analysis.told_apart(analysis.proportions(guessed))
    swapped = answers["source_answer"].map({"AI": "original", "original": "AI"})
    assert "below guessing" in analysis.told_apart(analysis.proportions(answers.assign(source_answer=swapped)))
    assert analysis.order_of_entities(shares).endswith(
        "of 21 pairs of entities overlap: the order of the entities is not established"
    )
    apart = shares.assign(low=np.arange(len(shares)), high=np.arange(len(shares)) + 0.5)
    assert analysis.order_of_entities(apart) == (
        "the intervals of 0 of 21 pairs of entities overlap: the order of the entities is established"
    )


def test_a_difference_is_said_in_its_direction(answers):
    found = analysis.difference_words(analysis.source_difference(answers))
    assert found == (
        "the entity of AI images is named rightly more often than that of originals: 88.6% and 40.0%, Fisher's exact p < 0.001"
    )
    turned = answers.assign(source=answers["source"].map({"AI": "original", "original": "AI"}))
    assert "is named rightly less often" in analysis.difference_words(analysis.source_difference(turned))
    right = answers.assign(entity_answer=answers["entity"])
    none = analysis.difference_words(analysis.source_difference(right))
    assert "is not shown to be named rightly more or less often" in none and "p = 1.000" in none


def test_unsure_is_never_right(answers):
    unsure = answers.copy()
    unsure.loc[unsure.index[unsure["source"] == "AI"][:10], "source_answer"] = "unsure"
    report = analysis.source_report(unsure)
    assert report.loc["AI", "recall"] <= 60 / 70 and report.loc["accuracy", "support"] == 140
    assert analysis.source_confusion(unsure).sum() == 130


def spoil(column, row, value):
    def change(frame):
        frame = frame.astype(object)
        frame.loc[row, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="entity_answer"), "has no column entity_answer"),
        (spoil("entity_answer", 3, "freckle"), "row 5: unknown entity_answer 'freckle'"),
        (spoil("source", 0, "robot"), "row 2: unknown source 'robot'"),
        (spoil("source_answer", 7, None), "row 9: source_answer is empty"),
        (spoil("image", 7, "image_001"), "row 9: reader published answered image image_001 twice"),
        (lambda f: f.head(0), "holds no answers"),
        (lambda f: f.assign(confidence=9), "row 2: confidence must be a number from 1 to 5"),
    ],
)
def test_bad_workbooks(tmp_path, change, message):
    good = pd.read_excel(workbook.write_workbook(workbook.reconstruct_published_reader(0), tmp_path / "good.xlsx"))
    change(good).to_excel(tmp_path / "bad.xlsx", index=False)
    with pytest.raises(InputError, match=message) as caught:
        workbook.read_workbook(tmp_path / "bad.xlsx")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_workbook(tmp_path):
    with pytest.raises(InputError, match="no workbook"):
        workbook.read_workbook(tmp_path / "none.xlsx")
    (tmp_path / "text.xlsx").write_text("reader,image")
    with pytest.raises(InputError, match="not an Excel workbook"):
        workbook.read_workbook(tmp_path / "text.xlsx")


def test_most_arrangements_against_every_division():
    from itertools import product
    from math import comb

    correct, total = (14, 10, 8), 20
    ranges = [range(max(0, c - 10), min(10, c) + 1) for c in correct]
    best = max((np.prod([comb(10, a) * comb(10, c - a) for a, c in zip(choice, correct, strict=True)]), choice)
               for choice in product(*ranges) if sum(choice) == total)  # fmt: skip
    chosen = workbook.most_arrangements(correct, total)
    assert np.prod([comb(10, a) * comb(10, c - a) for a, c in zip(chosen, correct, strict=True)]) == best[0]
