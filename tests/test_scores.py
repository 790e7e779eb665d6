"""Tables of the Keras network's runs: reports, floors, intervals over lesions and seeds, readers; what each step is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from simulated_trial import lesion_images, simulated
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from dermstudy import intervals
from dermstudy.classification import forest, predictions, scores, training_sets
from dermstudy.classification.predictions import Predictions
from dermstudy.classification.protocol import KERAS, ORIGINALS
from dermstudy.entities import CODES


@pytest.fixture(scope="module")
def found() -> Predictions:
    return simulated({ORIGINALS: 1.5}, KERAS, seeds=3, images=lesion_images())


def certain(dx: list[str], answers: list[str], groups: list[str] | None = None) -> Predictions:
    """One run that is sure of its answers."""
    images = pd.DataFrame({"image_id": [f"i{n}" for n in range(len(dx))], "group": groups or range(len(dx)), "dx": dx})
    runs = pd.DataFrame({"network": [KERAS], "training_set": [ORIGINALS], "seed": [0]})
    p = np.array([[answer == code for code in CODES] for answer in answers], np.float32).clip(1e-9)
    return Predictions(images.assign(split="test"), runs, np.full((1, 7), 1 / 7), np.log(p)[None])


def test_scores_floor_and_report_by_hand():
    own = certain(["nv"] * 6 + ["mel"] * 2, ["nv"] * 5 + ["mel"] * 2 + ["nv"])
    table = scores.summary({("audited", ORIGINALS): own}, 20, 0).set_index("metric")
    assert table.loc["accuracy", "mean"] == 6 / 8
    assert table.loc["balanced accuracy", "mean"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert table.loc["accuracy", "always_nevus"] == 6 / 8 and table.loc["balanced accuracy", "always_nevus"] == 0.5
    assert np.isnan(table.loc["calibration error", "low"]) and table["paper"].isna().all()
    report = scores.report(own)
    assert list(report.index) == [*CODES, "accuracy", "macro avg", "weighted avg"]
    assert report.loc["mel", "recall"] == 0.5 and report.loc["accuracy", "support"] == 8
    assert scores.confusion(own)[1, 0] == 1 and scores.confusion(own).sum() == 8
    rows = scores.report_rows({("audited", ORIGINALS): report}, 0)
    assert len(rows) == report.size and rows["model"].eq(KERAS).all()
    printed = scores.summary({("as published", "combined"): own}, 5, 0).set_index("metric")["paper"]
    assert printed["accuracy"] == 0.86


def test_an_interval_is_that_of_the_bootstrap_of_lesions_and_seeds(found):
    table = scores.summary({("audited", ORIGINALS): found}, 60, 5).set_index("metric")
    frames = [found.frame(run) for run in range(3)]

    def right(rows: pd.DataFrame) -> float:
        return float((rows["dx"] == rows["answer"]).mean())

    expected = intervals.clustered_bootstrap(frames, right, 60, 5)
    assert tuple(table.loc["accuracy", ["low", "high"]]) == pytest.approx(expected)
    every = scores.every_run({("audited", ORIGINALS): found})
    assert every.query("metric == 'accuracy'")["value"].tolist() == pytest.approx([right(own) for own in frames])
    assert len(every) == 3 * (5 + 7) and list(every.columns) == scores.RUN_COLUMNS
    assert scores.interval_words(1).endswith("(one seed)") and scores.interval_words(5).endswith("lesions and seeds")


def test_more_seeds_narrow_the_interval_of_their_mean():
    """Only seeds differ here, so a resample's mean is normal with the seeds' spread divided by the root of their number."""

    def seeds_of(number: int, sign: int) -> list[pd.DataFrame]:
        values = norm.ppf((np.arange(number) + 0.5) / number)
        values = 0.5 + sign * 0.1 * values / values.std()
        return [pd.DataFrame({"group": ["A", "B"], "value": value}) for value in values]

    def mean(rows: pd.DataFrame) -> float:
        return float(rows["value"].mean())

    for number in (4, 16):
        expected = 2 * norm.ppf(0.975) * 0.1 / np.sqrt(number)
        low, high = intervals.clustered_bootstrap(seeds_of(number, 1), mean, 600)
        assert high - low == pytest.approx(expected, rel=0.12) and (low + high) / 2 == pytest.approx(0.5, abs=0.01)
        pair = intervals.paired_difference(seeds_of(number, 1), seeds_of(number, -1), mean, 600, 0)
        assert pair["high"] - pair["low"] == pytest.approx(2 * expected, rel=0.12)  # pairs: one is the other's mirror


def test_a_network_beside_readers_by_hand():
    own = certain(["nv", "nv", "mel", "mel"], ["nv", "nv", "mel", "nv"])
    answers = pd.DataFrame({
        "reader": "R", "original_name": ["i0", "i1", "i2", "synthetic"], "source": ["original"] * 3 + ["AI"],
        "entity": ["nv", "nv", "mel", "nv"], "entity_answer": ["nv", "mel", "nv", "nv"],
    })  # fmt: skip
    row = scores.beside_readers(own, answers, 100, 0).iloc[0]
    assert (row["n"], row["reader_accuracy"], row["network_accuracy"]) == (3, pytest.approx(1 / 3), 1.0)
    assert row["difference"] == pytest.approx(2 / 3) and row["low"] <= 2 / 3 <= row["high"]
    assert scores.beside_readers(own, answers.assign(original_name=""), 10, 0).empty


# The ladder of 06

BALANCED, AREA = scores.STEP_MEASURES


def made_up(images: pd.DataFrame, skill: float, seeds: int, first: int = 0) -> Predictions:
    """Answers that are right the oftener the greater `skill`, each seed with noise of its own."""
    right = np.array([np.array(CODES) == code for code in images["dx"]], float)
    noise = [np.random.default_rng([first + seed, 5]).normal(size=right.shape) for seed in range(seeds)]
    scores = np.stack([skill * right + own for own in noise])
    logs = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
    ran = pd.DataFrame({"network": KERAS, "training_set": "x", "seed": range(seeds)})
    return Predictions(images, ran, np.full((seeds, 7), 1 / 7), logs.astype(np.float32))


def of_lesions(count: int, each: int, kind: str, lesion: str) -> pd.DataFrame:
    rows = [(f"{kind}{lesion}{n}-{k}", f"{lesion}{n}", CODES[n % 7], kind) for n in range(count) for k in range(each)]
    return pd.DataFrame(rows, columns=list(predictions.IMAGE_COLUMNS))


def test_a_change_pairs_the_lesions_that_both_tests_share():
    real = of_lesions(140, 2, "original", "lesion")
    pooled = pd.concat([real, of_lesions(140, 1, "synthetic", "lesion")], ignore_index=True)
    after, before = made_up(real, 1.2, 4), made_up(pooled, 1.2, 4)
    before.log_probabilities[:, : len(real)] = after.log_probabilities  # the same network, asked about more images
    for measure in scores.STEP_MEASURES:
        shared = scores.change_of(after, before, measure)
        apart = scores.change_of(after, replace(before, images=pooled.assign(group="other" + pooled["group"])), measure)
        assert shared.difference == pytest.approx(apart.difference) and shared.standard_error < apart.standard_error
        nothing = scores.change_of(after, after, measure)
        assert nothing.difference == 0 and nothing.high - nothing.low < 1e-6
        assert nothing.low <= 0 <= nothing.high


@pytest.mark.parametrize("seeds", [1, 5])
def test_the_standard_error_is_that_of_resampled_lesions_and_seeds(seeds):
    images = of_lesions(210, 2, "original", "lesion")
    after, before = made_up(images, 1.4, seeds), made_up(images, 1.0, seeds, first=50)
    found = scores.change_of(after, before, BALANCED)
    frames = [[own.frame(run) for run in range(seeds)] for own in (after, before)]

    def recall(rows):
        return (rows["dx"] == rows["answer"]).groupby(rows["dx"].to_numpy()).mean().mean()

    drawn = intervals.paired_difference(*frames, recall, 200, 0)
    assert found.difference == pytest.approx(drawn["difference"])
    assert (found.high - found.low) / 2 == pytest.approx(drawn["detectable"], rel=0.4)
    assert found.p < 0.05


def test_values_are_scikit_learns_and_each_step_is_compared_with_the_one_before():
    images = of_lesions(70, 2, "original", "lesion")
    steps = {name: made_up(images, 1.0 + place / 5, 2) for place, name in enumerate(training_sets.LADDER)}
    table, each = (make({KERAS: steps}) for make in (scores.ladder_table, scores.changes_by_seed))
    values = table.pivot(index="step", columns="measure", values="value")
    for name, own in steps.items():
        answers = np.array(CODES)[own.log_probabilities.argmax(axis=2)]
        right = [balanced_accuracy_score(images["dx"], run) for run in answers]
        areas = [
            np.mean([roc_auc_score(images["dx"] == code, run[:, place]) for place, code in enumerate(CODES)])
            for run in own.corrected()
        ]
        assert values.loc[name, BALANCED] == pytest.approx(np.mean(right))
        assert values.loc[name, AREA] == pytest.approx(np.mean(areas))
    changes = table.query("measure == @AREA")["difference"].to_numpy()[1:]
    assert changes == pytest.approx(np.diff(values[AREA].reindex(list(training_sets.LADDER))))
    assert each.query("measure == @AREA").groupby("step", sort=False)["difference"].mean().tolist() == pytest.approx(
        list(changes)
    )
    assert len(forest.ladder_plot(table, each).axes) == 2 and scores.ladder_to_read(table)["p"].iloc[0] == ""


def test_an_entity_of_one_lesion_has_no_interval():
    rare, others = of_lesions(7, 3, "original", "b"), of_lesions(21, 2, "original", "a")
    images = pd.concat([others.query("dx != 'df'"), rare.query("dx == 'df'")], ignore_index=True)
    steps = {"as published": made_up(images, 1.0, 2), "tested on real images only": made_up(images, 2.0, 2)}
    table = scores.ladder_table({KERAS: steps}).query("step == 'tested on real images only'")
    assert table["difference"].notna().all() and table[["low", "high", "p"]].isna().all(axis=None)
