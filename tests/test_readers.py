"""The reader study: the published figures to their digits from the workbook, and workbooks refused in one line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog

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


def test_sentences_follow_the_answers(answers):
    swap = {"AI": "original", "original": "AI"}
    for source_answer, found in (
        (answers["source_answer"], "above"), (["AI", "original"] * 70, "around"), (answers["source_answer"].map(swap), "below")
    ):  # fmt: skip
        shares = analysis.proportions(answers.assign(source_answer=source_answer))
        assert f"an interval {found} guessing" in analysis.told_apart(shares)
    assert analysis.order_of_entities(shares).endswith("is not established")
    apart = shares.assign(low=np.arange(len(shares)), high=np.arange(len(shares)) + 0.5)
    assert analysis.order_of_entities(apart).endswith("is established")
    for change, found in (
        ({}, "more often than"), ({"source": answers["source"].map(swap)}, "less often than"),
        ({"entity_answer": answers["entity"]}, "is not shown"),
    ):  # fmt: skip
        assert found in analysis.difference_words(analysis.source_difference(answers.assign(**change)))


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
        (spoil("entity_answer", 3, "freckle"), r"sheet 'Sheet1', row 5 \(cell E5\): unknown entity_answer 'freckle'"),
        (spoil("source", 0, "robot"), r"row 2 \(cell C2\): unknown source 'robot'"),
        (spoil("source_answer", 7, None), r"row 9 \(cell F9\): source_answer is empty"),
        (spoil("image", 7, "image_001"), r"row 9 \(cell B9\): reader published answered image image_001 twice"),
        (lambda f: f.head(0), "has a header but no row"),
        (lambda f: f.assign(confidence=9), r"row 2 \(cell H2\): confidence '9' is not a number from 1 to 5"),
    ],
)
def test_bad_workbooks(tmp_path, change, message):
    good = pd.read_excel(workbook.write_workbook(workbook.reconstruct_published_reader(0), tmp_path / "good.xlsx"))
    change(good).to_excel(tmp_path / "bad.xlsx", index=False)
    with pytest.raises(InputError, match=message) as caught:
        workbook.read_workbook(tmp_path / "bad.xlsx")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_workbook(tmp_path):
    with pytest.raises(InputError, match="no table .*none.xlsx"):
        workbook.read_workbook(tmp_path / "none.xlsx")
    (tmp_path / "text.xlsx").write_text("reader,image")
    with pytest.raises(
        InputError, match="has no column source, entity, entity_answer, source_answer: its header, line 1"
    ):
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


def test_35_of_37_printed_figures_can_be_had_by_one_set_of_answers():
    """Answers with the division of `paper`, counted by scikit-learn: each figure but one of each pair of F1."""
    right, wrong = np.array(paper.RIGHT_ON_AI), np.array(paper.WRONGLY_NAMED_ON_AI)
    correct, predicted = np.array(paper.CORRECT), np.array(paper.PREDICTED)
    rows = []
    for source, own, called in (("AI", right, wrong), ("original", correct - right, predicted - correct - wrong)):
        sums = [np.kron(np.eye(7), np.ones(7)), np.kron(np.ones(7), np.eye(7)), np.diag(np.eye(7).ravel())]
        totals = [10 - own, called, np.zeros(49)]
        cells = (
            linprog(np.zeros(49), A_eq=np.vstack(sums), b_eq=np.concatenate(totals)).x.round().astype(int).reshape(7, 7)
        )
        for place, code in enumerate(CODES):
            named = [code] * own[place] + [CODES[other] for other in range(7) for _ in range(cells[place, other])]
            rows += [{"source": source, "entity": code, "entity_answer": answer} for answer in named]
    answers = pd.DataFrame(rows).sort_values("source", kind="stable", ascending=False).reset_index(drop=True)
    assert len(answers) == 140 and (answers["source"] == "original").sum() == 70
    (original, as_ai), (as_original, ai) = paper.SOURCE_MATRIX
    answers["source_answer"] = ["original"] * original + ["AI"] * as_ai + ["original"] * as_original + ["AI"] * ai
    found, table = analysis.figures_of_section_3_2(answers), analysis.entity_report(answers)
    had = [arithmetic.prints_as(found[what, place], printed) for what, place, printed in paper.READER_FIGURES]
    had += [
        arithmetic.prints_as(table.loc[code, column], printed)
        for code, row in paper.table_2().iterrows()
        for column, printed in row.items()
    ]
    assert (sum(had), len(had)) == arithmetic.figures_to_be_had() == (35, 37)
