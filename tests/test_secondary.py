"""Secondary measures, against scikit-learn and by hand; what a prior alone moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated_trial import simulated
from sklearn.metrics import balanced_accuracy_score, log_loss, recall_score, roc_curve

from dermstudy.classification import protocol, scores, secondary
from dermstudy.classification.predictions import Predictions, joined
from dermstudy.classification.protocol import COMPARISONS, FROZEN, ONCE, ORIGINALS, REPEATED
from dermstudy.entities import CODES
from dermstudy.files import InputError


@pytest.fixture(scope="module")
def runs() -> Predictions:
    return simulated({ONCE: 2.0, REPEATED: 1.8, ORIGINALS: 1.8}, seeds=4)


@pytest.fixture(scope="module")
def one(runs):
    """Probabilities of one run, the true places, and weightings of the images: none, and one drawn."""
    true = runs.images["dx"].map({code: place for place, code in enumerate(CODES)}).to_numpy()
    drawn = np.random.default_rng(0).multinomial(len(true), np.full(len(true), 1 / len(true)))
    return runs.corrected()[0], true, np.vstack([np.ones(len(true)), drawn]).astype(float)


def rows_of(weight):
    return np.repeat(np.arange(len(weight)), weight.astype(int))


def test_measures_are_those_of_the_drawn_images(one):
    probabilities, true, weights = one
    for place, weight in enumerate(weights):
        own = rows_of(weight)
        expected = log_loss(true[own], probabilities[own], labels=range(7))
        assert secondary.log_loss(probabilities, true, weights)[place] == pytest.approx(expected)
        expected = balanced_accuracy_score(true[own], probabilities[own].argmax(axis=1))
        assert secondary.balanced_accuracy(probabilities, true, weights)[place] == pytest.approx(expected)


def test_calibration_error_is_the_reports(runs, one):
    probabilities, true, weights = one
    frame = runs.images.assign(**dict(zip(CODES, probabilities.T, strict=True)))
    frame["answer"] = [CODES[place] for place in probabilities.argmax(axis=1)]
    for place, weight in enumerate(weights):
        expected = scores.calibration_error(frame.iloc[rows_of(weight)])
        assert secondary.calibration_error(probabilities, true, weights)[place] == pytest.approx(expected)


def test_sensitivity_is_the_roc_curves(one):
    probabilities, true, weights = one
    positive, score = true == 0, probabilities[:, 0]
    for place, weight in enumerate(weights):
        own = rows_of(weight)
        false, right, _ = roc_curve(positive[own], score[own], drop_intermediate=False)
        expected = right[false <= 0.1 + 1e-12].max()
        assert secondary.sensitivity(score, positive, weights)[place] == pytest.approx(expected)


def test_sensitivity_by_hand():
    score = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 0.9, 0.95])
    positive = np.array([False] * 10 + [True] * 2)
    # Nine of ten others lie at or under 0.9, so 0.95 alone is above the threshold, and 0.9 is not.
    assert secondary.sensitivity(score, positive, np.ones((1, 12))) == [0.5]
    assert np.isnan(secondary.sensitivity(score, ~positive & positive, np.ones((1, 12)))).all()


def test_a_moved_prior_alone_changes_argmax_and_is_told_apart(runs):
    """The same likelihoods learned with balanced shares: all of argmax's gain is the prior's, nothing else moves."""
    base = runs.select(training_set=REPEATED)
    even = np.full(7, 1 / 7)
    moved = base.log_probabilities + (np.log(even) - np.log(base.priors))[:, None, :]
    moved -= np.log(np.exp(moved).sum(axis=2, keepdims=True))
    balanced = Predictions(
        base.images, base.runs.assign(training_set=ONCE), np.tile(even, (4, 1)), moved.astype(np.float32)
    )
    own = joined([balanced, base, runs.select(training_set=ORIGINALS)])
    table = secondary.secondary_table(own, COMPARISONS[:1], {FROZEN: 4}, resamples=50).set_index("measure")
    argmax, artefact = table.loc[secondary.ARGMAX], table.loc[secondary.ARTEFACT]
    assert argmax["difference"] > 0.01 and artefact["difference"] == pytest.approx(argmax["difference"])
    assert table.loc[secondary.REMAINDER, "difference"] == pytest.approx(0, abs=1e-9)
    for measure in (secondary.LOG_LOSS, secondary.CORRECTED, secondary.SENSITIVITY, secondary.CALIBRATION):
        assert table.loc[measure, "difference"] == pytest.approx(0, abs=1e-6)


def test_the_table_describes_and_its_parts_add_up(runs):
    table = secondary.secondary_table(runs, [COMPARISONS[0], protocol.DESCRIBED[0]], {FROZEN: 4}, resamples=100)
    assert list(table["comparison"].unique()) == [COMPARISONS[0].name, protocol.DESCRIBED[0].name]
    assert not {"p", "verdict"} & set(table)
    assert (table["low"] <= table["difference"]).all() and (table["difference"] <= table["high"]).all()
    np.testing.assert_allclose(table["first"] - table["second"], table["difference"], atol=1e-12)
    own = table[table["comparison"] == COMPARISONS[0].name].set_index("measure")["difference"]
    assert own[secondary.ARTEFACT] + own[secondary.REMAINDER] == pytest.approx(own[secondary.ARGMAX])
    again = secondary.secondary_table(runs, COMPARISONS[:1], {FROZEN: 4}, resamples=100)
    assert again.equals(table[table["comparison"] == COMPARISONS[0].name].reset_index(drop=True))


def test_what_moves_argmax_though_nothing_was_learned():
    """Scores alike in all sets: only the prior moves argmax. Of the subset they are worse, so that access has its price."""
    alike = {ONCE: 1.8, ORIGINALS: 1.8, protocol.BALANCED: 1.8, protocol.SUBSET: 0.5}
    found = simulated(alike, seeds=4)
    even = np.full(7, 1 / 7)
    is_balanced = (found.runs["training_set"] == protocol.BALANCED).to_numpy()[:, None]
    found = replace(found, priors=np.where(is_balanced, even, found.priors))
    table = secondary.gain_table(found, {FROZEN: 4}, resamples=50).set_index("part")
    own = found.select(split="test", training_set=ORIGINALS)
    true = own.images["dx"].map({code: place for place, code in enumerate(CODES)}).to_numpy()
    gain = [
        balanced_accuracy_score(true, own.corrected()[run].argmax(axis=1))
        - balanced_accuracy_score(true, own.log_probabilities[run].argmax(axis=1))
        for run in range(4)
    ]
    prior = table.loc[secondary.PRIOR]
    assert prior["size"] == pytest.approx(np.mean(gain)) and prior["low"] <= prior["size"] <= prior["high"]
    assert table.loc[secondary.ACCESS, "low"] > 0.02
    runs = secondary.run_table(found).query("measure == @secondary.ARGMAX").pivot(
        index="seed", columns="training_set", values="value"
    )  # fmt: skip
    chance = (runs[ONCE] - runs[ORIGINALS]).std() / np.sqrt(3)
    assert table.loc[secondary.CHANCE, "size"] == pytest.approx(chance) and np.isnan(table.loc[secondary.CHANCE, "low"])
    assert secondary.gain_table(found.select(training_set=ORIGINALS), {FROZEN: 4}, 50).empty


def test_every_run_has_every_measure_and_a_failed_one_none(runs):
    failed = runs.log_probabilities.copy()
    failed[2, 0] = np.nan
    table = secondary.run_table(replace(runs, log_probabilities=failed))
    assert len(table) == 12 * (len(protocol.MEASURES) + len(secondary.MEASURES))
    bad = (table["training_set"] == ONCE) & (table["seed"] == 2)
    assert table.loc[bad, "value"].isna().all() and table.loc[~bad, "value"].notna().all()
    first = table[(table["training_set"] == ONCE) & (table["seed"] == 0)].set_index("measure")["value"]
    answer = runs.corrected()[0].argmax(axis=1)
    true = runs.images["dx"].map({code: place for place, code in enumerate(CODES)})
    assert first[secondary.CORRECTED] == pytest.approx(recall_score(true, answer, average="macro"))
    small = secondary.secondary_table(
        replace(runs, log_probabilities=failed), COMPARISONS[:1], {FROZEN: 4}, resamples=20
    )
    assert (small["seeds"] == 3).all()


def test_a_network_without_originals_is_named(runs):
    with pytest.raises(InputError, match="no run on 'all originals'"):
        secondary.secondary_table(runs.select(training_set=[ONCE, REPEATED]), COMPARISONS[:1], {FROZEN: 4})
