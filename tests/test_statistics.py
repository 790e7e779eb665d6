"""Reader statistics, each twice: the library or our function against a literal version, and published examples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from dermstudy import intervals
from dermstudy.data import splits
from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.readers import kit, statistics

# Hanley and McNeil, Radiology 143 (1982), Table I: ratings 1 to 5 of 58 normal and 51 abnormal CT images.
NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)
# Fleiss' kappa as worked out in its encyclopaedia entry: 14 raters, 10 subjects, 5 categories; kappa 0.210.
FOURTEEN_RATERS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def ratings():
    true = np.repeat([False, True], [58, 51])
    score = np.concatenate([np.repeat(np.arange(1, 6), NORMAL), np.repeat(np.arange(1, 6), ABNORMAL)])
    return true, score.astype(float)


def literal_delong(true, score):
    """The definition: kernel 1, 1/2 or 0 for each pair of a positive and a negative case."""
    positive, negative = score[true], score[~true]
    kernel = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in negative] for x in positive])
    by_positive, by_negative = kernel.mean(axis=1), kernel.mean(axis=0)
    return kernel.mean(), np.sqrt(by_positive.var(ddof=1) / len(positive) + by_negative.var(ddof=1) / len(negative))


def test_auc_interval_of_a_published_example():
    """Hanley and McNeil print an area of 0.893 and a standard error of 0.032 by their own approximation."""
    result = intervals.auc_delong(*ratings())
    assert round(result["auc"], 3) == 0.893
    assert result["standard_error"] == pytest.approx(0.032, abs=0.002)
    half = norm.ppf(0.975) * result["standard_error"]
    assert result["low"] == pytest.approx(result["auc"] - half) and result["high"] == pytest.approx(
        0.893 + half, abs=1e-3
    )
    second = intervals.auc_bootstrap(*ratings())
    assert second["auc"] == pytest.approx(result["auc"])
    assert abs(second["low"] - result["low"]) < 0.02 and abs(second["high"] - result["high"]) < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_delong_against_its_definition(seed):
    random = np.random.default_rng(seed)
    true = random.random(60) < 0.4
    score = np.round(random.normal(true * 0.8, 1), 1)  # with ties
    result = intervals.auc_delong(true, score)
    area, error = literal_delong(true, score)
    assert result["auc"] == pytest.approx(area) and result["standard_error"] == pytest.approx(error)
    with pytest.raises(InputError, match="two cases of each class"):
        intervals.auc_delong(true & (np.cumsum(true) == 1), score)


def test_fleiss_kappa_of_a_published_example():
    rows = [
        (f"subject {subject}", f"rater {rater}", category)
        for subject, counts in enumerate(FOURTEEN_RATERS)
        for rater, category in enumerate(np.repeat(range(5), counts))
    ]
    answers = pd.DataFrame(rows, columns=["image", "reader", "answer"])
    assert round(statistics.fleiss_kappa(answers, "answer"), 3) == 0.210
    with pytest.raises(InputError, match="at least two readers"):
        statistics.fleiss_kappa(answers[answers["reader"] == "rater 0"], "answer")


@pytest.fixture(scope="module")
def answers():
    rows = [
        ("k", f"{source}{code}{n}", source, code, "x")
        for code in CODES
        for source in ("AI", "original")
        for n in range(10)
    ]
    key = pd.DataFrame(rows, columns=kit.KEY_COLUMNS)
    return pd.concat([kit.simulated_answers(key, name, skill, eye, 0) for name, skill, eye in
                      (("A", 0.8, 0.9), ("B", 0.6, 0.7))], ignore_index=True)  # fmt: skip


def test_cohens_kappa_by_hand(answers):
    pair = statistics.cohen_pairs(answers, "entity_answer")
    table = answers.pivot(index="image", columns="reader", values="entity_answer")
    agree = (table["A"] == table["B"]).mean()
    chance = sum((table["A"] == code).mean() * (table["B"] == code).mean() for code in CODES)
    assert len(pair) == 1 and pair["images"][0] == 140
    assert pair["kappa"][0] == pytest.approx((agree - chance) / (1 - chance))


def test_simulated_readers_have_their_stated_abilities(answers):
    assert answers["provenance"].str.startswith("simulated reader").all()
    right = (answers["entity"] == answers["entity_answer"]).groupby(answers["reader"]).mean()
    assert right["A"] == pytest.approx(0.8, abs=0.08) and right["B"] == pytest.approx(0.6, abs=0.1)
    sure = answers[answers["source_answer"] != "unsure"]
    seen = (sure["source"] == sure["source_answer"]).groupby(sure["reader"]).mean()
    assert seen["A"] == pytest.approx(0.9, abs=0.07) and seen["B"] == pytest.approx(0.7, abs=0.1)
    again = kit.simulated_answers(answers[answers["reader"] == "A"].assign(original_name="x"), "A", 0.8, 0.9, 0)
    assert (
        again["entity_answer"].tolist()
        == answers.loc[answers["reader"] == "A"].sort_values("image")["entity_answer"].tolist()
    )


def test_confidence_adds_points_to_the_curve(answers):
    areas = statistics.source_auc(answers, 200).set_index(["reader", "score"])
    for reader, own in answers.groupby("reader"):
        called = own["source_answer"] == "AI"
        hard = (called[own["source"] == "AI"].mean() + (~called[own["source"] == "original"]).mean()) / 2
        assert areas.loc[(reader, "answer"), "auc"] == pytest.approx(hard)
        assert areas.loc[(reader, "signed confidence"), "auc"] > hard
    assert (areas["low"] < areas["auc"]).all() and (areas["auc"] < areas["high"]).all()
    assert set(np.unique(statistics.signed_confidence(answers))) == set(range(-5, 6))


def test_entity_score_by_hand(answers):
    own = answers[answers["reader"] == "A"]
    area = statistics.entity_auc(answers).set_index(["reader", "entity"]).loc[("A", "mel"), "auc"]
    signed = [row.confidence if row.entity_answer == "mel" else -row.confidence for row in own.itertuples()]
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, first in zip(signed, own["entity"], strict=True)
        for b, second in zip(signed, own["entity"], strict=True)
        if first == "mel" and second != "mel"
    ]
    assert area == pytest.approx(np.mean(pairs))


def test_source_answers_count_unsure_apart(answers):
    table = statistics.source_answers(answers)
    assert table.sum(axis=1).eq(70).all() and list(table.columns) == ["right", "wrong", "unsure"]
    assert table["unsure"].sum() == (answers["source_answer"] == "unsure").sum()


def test_readers_and_cases_widens_with_disagreeing_readers(answers):
    right = answers["entity"] == answers["entity_answer"]
    both = statistics.readers_and_cases(answers, right, 500)
    one = answers["reader"] == "A"
    alone = statistics.readers_and_cases(answers[one], right[one], 500)
    assert both["readers"] == 2 and both["share"] == pytest.approx(right.mean())
    assert both["high"] - both["low"] > alone["high"] - alone["low"]
    # With one reader it is the plain bootstrap of a proportion: close to the normal interval.
    half = 1.96 * np.sqrt(alone["share"] * (1 - alone["share"]) / 140)
    assert alone["high"] - alone["low"] == pytest.approx(2 * half, rel=0.15)


def test_a_group_without_rows_has_no_share_and_no_interval(recwarn):
    """n = 0, and NaN for whatever is of nothing: no ZeroDivisionError, and no resampling that never ends."""
    found = intervals.wilson(0, 0)
    assert (found["right"], found["of"]) == (0, 0)
    assert all(np.isnan(found[name]) for name in ("share", "low", "high"))
    some = pd.DataFrame({"group": ["a", "b"], "dx": ["mel", "nv"], "answer": "nv", **dict.fromkeys(CODES, 1 / 7)})
    none = some[:0]

    def right(rows: pd.DataFrame) -> float:
        return float((rows["dx"] == rows["answer"]).mean())

    assert np.isnan(intervals.quantiles([])).all() and np.isnan(intervals.mean_interval([])["mean"])
    assert np.isnan(intervals.clustered_bootstrap([none], right)).all()
    for sides in (([some], [none]), ([none], [some]), ([none], [none])):
        change = intervals.paired_difference(*sides, right, repeats=5, seed=0)
        assert all(np.isnan(value) for value in change.values())
    leak = splits.sister_leak(some.assign(lesion_id=["1", "2"], image_id=["a", "b"], part="test"), "part")
    assert leak.loc["df", ["test_images", "leaked"]].tolist() == [0, 0] and np.isnan(leak.loc["df", "share"])
    assert leak.loc["all", "share"] == 0 and not recwarn.list
