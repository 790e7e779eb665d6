"""Each measure against scikit-learn on the drawn images, and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated_trial import simulated
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from dermstudy.classification import measures, protocol, secondary
from dermstudy.classification.predictions import Predictions, joined
from dermstudy.classification.protocol import COMPARISONS, FROZEN, ONCE, ORIGINALS, REPEATED
from dermstudy.files import InputError


@pytest.fixture(scope="module")
def runs() -> Predictions:
    return simulated({ONCE: 2.0, REPEATED: 1.8, ORIGINALS: 1.8}, seeds=4)


@pytest.fixture(scope="module")
def one(runs):
    """Probabilities of one run with ties, the true places, and weightings of the images: all once, and one drawn."""
    true = measures.places_of(runs.images["dx"])
    drawn = np.random.default_rng(0).multinomial(len(true), np.full(len(true), 1 / len(true)))
    return runs.corrected()[0].round(2), true, np.vstack([np.ones(len(true)), drawn]).astype(float)


def area(true, scores):
    return np.mean([roc_auc_score(true == place, scores[:, place]) for place in np.unique(true)])


def best_sensitivity(true, scores):
    false, right, _ = roc_curve(true == 0, scores[:, 0], drop_intermediate=False)
    return right[false <= 0.1 + 1e-12].max()


THEIRS = {
    measures.accuracy: lambda true, p: accuracy_score(true, p.argmax(axis=1)),
    measures.balanced_accuracy: lambda true, p: balanced_accuracy_score(true, p.argmax(axis=1)),
    measures.macro_f1: lambda true, p: f1_score(true, p.argmax(axis=1), average="macro"),
    measures.macro_area: area,
    measures.log_loss: lambda true, p: log_loss(true, p.clip(1e-12), labels=range(7)),
    measures.sensitivity: best_sensitivity,
}


@pytest.mark.parametrize("measure", THEIRS, ids=lambda measure: measure.__name__)
def test_a_measure_is_scikit_learns_of_the_drawn_images(one, measure):
    probabilities, true, weights = one
    if measure is measures.log_loss:
        probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    for place, weight in enumerate(weights):
        rows = np.repeat(np.arange(len(weight)), weight.astype(int))
        expected = THEIRS[measure](true[rows], probabilities[rows])
        assert measure(probabilities, true, weights)[place] == pytest.approx(expected, abs=1e-9)


def test_measures_by_hand():
    true = np.array([0, 0, 1, 1])
    p = np.full((4, 7), 1e-9)
    p[:, :2] = [[0.8, 0.2], [0.4, 0.6], [0.5, 0.5], [0.1, 0.9]]
    once = np.ones((1, 4))
    assert measures.macro_area(p, true, once) == pytest.approx(0.75)
    assert measures.balanced_accuracy(p, true, once) == pytest.approx(0.5)
    assert measures.balanced_log_loss(p, true, once) == pytest.approx(-np.log([0.8, 0.4, 0.5, 0.9]).mean(), rel=1e-4)
    uneven = np.array([[1.0, 1.0, 1.0, 0.0]])
    assert measures.balanced_accuracy(p, true, uneven) == pytest.approx((0.5 + 0) / 2)  # a tie goes to the first entity
    assert np.isnan(measures.macro_area(p[:2], true[:2], once[:, :2])).all()


def test_calibration_error_by_hand():
    p = np.zeros((10, 7))
    p[:, :2] = [0.3, 0.7]
    true, once = np.ones(10, int), np.ones((1, 10))
    assert measures.calibration_error(p, true, once) == pytest.approx(0.3)
    p[:3, :2] = [0.7, 0.3]
    assert measures.calibration_error(p, true, once) == pytest.approx(0.0)
    table = measures.reliability(p, true)
    assert table["n"].tolist() == [10] and table["accuracy"].tolist() == [0.7]


# Secondary measures of the trial


def test_a_moved_prior_alone_changes_argmax_and_is_told_apart(runs):
    """The same likelihoods learned with balanced shares: all of argmax's gain is the prior's, nothing else moves."""
    base = runs.select(training_set=REPEATED)
    even = np.full(7, 1 / 7)
    moved = base.log_probabilities + (np.log(even) - np.log(base.priors))[:, None, :]
    moved -= np.log(np.exp(moved).sum(axis=2, keepdims=True))
    named = base.runs.assign(training_set=ONCE)
    balanced = Predictions(base.images, named, np.tile(even, (4, 1)), moved.astype(np.float32))
    own = joined([balanced, base, runs.select(training_set=ORIGINALS)])
    table = secondary.secondary_table(own, COMPARISONS[:1], {FROZEN: 4}, resamples=50).set_index("measure")
    argmax, artefact = table.loc[secondary.ARGMAX], table.loc[secondary.ARTEFACT]
    assert argmax["difference"] > 0.01 and artefact["difference"] == pytest.approx(argmax["difference"])
    assert table.loc[secondary.REMAINDER, "difference"] == pytest.approx(0, abs=1e-9)
    for measure in (secondary.LOG_LOSS, secondary.CORRECTED, secondary.SENSITIVITY, secondary.CALIBRATION):
        assert table.loc[measure, "difference"] == pytest.approx(0, abs=1e-6)


def test_the_table_describes_and_its_parts_add_up(runs):
    pairs = [COMPARISONS[0], protocol.PAIRS[0]]
    table = secondary.secondary_table(runs, pairs, {FROZEN: 4}, resamples=100)
    assert list(table["comparison"].unique()) == [one.name for one in pairs] and not {"p", "verdict"} & set(table)
    assert (table["low"] <= table["difference"]).all() and (table["difference"] <= table["high"]).all()
    np.testing.assert_allclose(table["first"] - table["second"], table["difference"], atol=1e-12)
    own = table[table["comparison"] == COMPARISONS[0].name].set_index("measure")["difference"]
    assert own[secondary.ARTEFACT] + own[secondary.REMAINDER] == pytest.approx(own[secondary.ARGMAX])
    with pytest.raises(InputError, match="no run on 'all originals'"):
        secondary.secondary_table(runs.select(training_set=[ONCE, REPEATED]), COMPARISONS[:1], {FROZEN: 4})


def test_what_moves_argmax_though_nothing_was_learned():
    """Scores alike in all sets: only the prior moves argmax. Of the subset they are worse, so that access has its price."""
    alike = {ONCE: 1.8, ORIGINALS: 1.8, protocol.BALANCED: 1.8, protocol.SUBSET: 0.5}
    found = simulated(alike, seeds=4)
    is_balanced = (found.runs["training_set"] == protocol.BALANCED).to_numpy()[:, None]
    found = replace(found, priors=np.where(is_balanced, np.full(7, 1 / 7), found.priors))
    table = secondary.gain_table(found, {FROZEN: 4}, resamples=50).set_index("part")
    own = found.select("test", training_set=ORIGINALS)
    even, raw = (measures.of_runs(measures.balanced_accuracy, own, scores)
                 for scores in (own.corrected(), own.log_probabilities))  # fmt: skip
    prior = table.loc[secondary.PRIOR]
    assert prior["size"] == pytest.approx(np.mean(even - raw)) and prior["low"] <= prior["size"] <= prior["high"]
    assert table.loc[secondary.ACCESS, "low"] > 0.02
    by_run = secondary.run_table(found).query("metric == @secondary.ARGMAX").pivot(
        index="seed", columns="training_set", values="value"
    )  # fmt: skip
    chance = (by_run[ONCE] - by_run[ORIGINALS]).std() / np.sqrt(3)
    assert table.loc[secondary.CHANCE, "size"] == pytest.approx(chance) and np.isnan(table.loc[secondary.CHANCE, "low"])
    assert secondary.gain_table(found.select(training_set=ORIGINALS), {FROZEN: 4}, 50).empty


def test_every_run_has_every_measure_and_a_failed_one_none(runs):
    failed = runs.log_probabilities.copy()
    failed[2, 0] = np.nan
    table = secondary.run_table(replace(runs, log_probabilities=failed))
    assert len(table) == 12 * (len(protocol.MEASURES) + len(secondary.MEASURES))
    bad = (table["training_set"] == ONCE) & (table["seed"] == 2)
    assert table.loc[bad, "value"].isna().all() and table.loc[~bad, "value"].notna().all()
    first = table[(table["training_set"] == ONCE) & (table["seed"] == 0)].set_index("metric")["value"]
    answer, true = runs.corrected()[0].argmax(axis=1), measures.places_of(runs.images["dx"])
    assert first[secondary.CORRECTED] == pytest.approx(recall_score(true, answer, average="macro"))
    few = secondary.secondary_table(replace(runs, log_probabilities=failed), COMPARISONS[:1], {FROZEN: 4}, 20)
    assert (few["seeds"] == 3).all()
