"""The trial's statistics: each computed twice, and tried on simulated networks whose difference is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated_trial import LESIONS, lesion_images, simulated
from sklearn.metrics import roc_auc_score

from dermstudy.classification import forest, inference, protocol, trial
from dermstudy.classification.predictions import Predictions, joined
from dermstudy.classification.protocol import COMPARISONS, FROZEN, KERAS, ONCE, ORIGINALS, REPEATED, TUNED
from dermstudy.entities import CODES
from dermstudy.files import InputError

PRIMARY = COMPARISONS[0]
CONTROL = next(own for own in COMPARISONS if own.role == protocol.CONTROL)
SEEDS = {FROZEN: 6, TUNED: 5, KERAS: 5}


def one(predictions, comparison=PRIMARY, planned=6):
    return trial.trial_table(predictions, [comparison], {comparison.network: planned}, resamples=400).iloc[0]


def beside_control(predictions) -> pd.DataFrame:
    """The primary comparison's row and, from further runs on the same images, that of a positive control that is found."""
    control = simulated({ORIGINALS: 2.6, protocol.SUBSET: 1.8}, images=predictions.images, seed=9)
    return trial.trial_table(joined([predictions, control]), [PRIMARY, CONTROL], {FROZEN: 6}, resamples=200)


@pytest.fixture(scope="module")
def pair() -> Predictions:
    return simulated({ONCE: 2.0, REPEATED: 1.9})


@pytest.fixture(scope="module")
def whole() -> Predictions:
    """Every training set of the protocol; more originals help, and nothing else does."""
    validation = pd.concat([lesion_images(), lesion_images(1, split="validation")], ignore_index=True)
    parts = []
    for number, (network, seeds) in enumerate(SEEDS.items()):
        signals = {name: 1.4 if name.startswith("30 %") else 2.0 for name in protocol.TRAINING_SETS[network]}
        parts.append(simulated(signals, network, seeds, validation, seed=number))
    return joined(parts)


@pytest.fixture(scope="module")
def table(whole) -> pd.DataFrame:
    return trial.trial_table(whole, seeds=SEEDS, resamples=200)


# Areas


def test_areas_are_scikit_learns_with_ties_and_an_entity_absent(pair):
    images = pair.images[pair.images["dx"] != "df"]
    probabilities = pair.corrected()[:3, images.index].round(2)
    found, influence = inference.areas(probabilities, images["dx"])
    for place, code in enumerate(CODES):
        if code == "df":
            assert np.isnan(found[:, place]).all() and np.isnan(influence[:, :, place]).all()
            continue
        for run in range(3):
            own = roc_auc_score(images["dx"] == code, probabilities[run, :, place])
            assert found[run, place] == pytest.approx(own, abs=1e-12)
    lesions = inference.lesions_of(images.reset_index(drop=True))
    mean, _ = inference.mean_area(probabilities, images["dx"], lesions, protocol.RARE)
    present = [CODES.index(code) for code in protocol.RARE if code != "df"]
    np.testing.assert_allclose(mean, found[:, present].mean(axis=1))


def test_placement_values_by_hand():
    scores = np.zeros((1, 5, 7))
    scores[0, :, 0] = [0.9, 0.4, 0.5, 0.4, 0.1]
    dx = ["mel", "mel", "nv", "nv", "nv"]
    found, influence = inference.areas(scores, dx)
    above, below = np.array([1.0, 0.5]), np.array([0.5, 0.75, 1.0])  # the second melanoma ties with one nevus: half
    above[1] = (0 + 0.5 + 1) / 3
    assert found[0, 0] == pytest.approx(above.mean())
    np.testing.assert_allclose(influence[0, :2, 0], (above - above.mean()) / 2)
    np.testing.assert_allclose(influence[0, 2:, 0], (below - above.mean()) / 3)


def test_resampled_influences_follow_the_recomputed_area(pair):
    """The linearisation against the bootstrap that computes every area anew on the drawn lesions."""
    contrast, ran, _ = trial.contrast_of(pair, PRIMARY, 6)
    weights = inference.lesion_weights(contrast.strata, 200, seed=3)
    linear = (contrast.values[:, None] + contrast.influence @ (weights - 1).T).mean(axis=0)
    lesion, probabilities, direct = pd.factorize(pair.images["group"])[0], pair.corrected(), []
    for weight in weights:
        rows = np.repeat(np.arange(len(lesion)), weight[lesion].astype(int))
        area = inference.areas(probabilities[:, rows], pair.images["dx"].to_numpy()[rows])[0].mean(axis=1)
        direct.append(area[:6].mean() - area[6:].mean())
    assert np.corrcoef(linear, direct)[0, 1] > 0.98
    assert np.std(linear) == pytest.approx(np.std(direct), rel=0.06)
    np.testing.assert_allclose(np.quantile(linear, [0.025, 0.975]), np.quantile(direct, [0.025, 0.975]), atol=0.004)
    assert ran == list(range(6))


def test_the_lesions_variance_is_delongs_where_each_has_one_image():
    """Two entities, one run a training set: the paired variance of DeLong et al. from its structural components."""
    images = lesion_images(each=1)
    images = images[images["dx"].isin(["mel", "bkl"])].reset_index(drop=True)
    own = simulated({ONCE: 2.0, REPEATED: 1.0}, seeds=2, images=images)
    scores, positive = own.corrected()[[0, 2], :, 0], (images["dx"] == "mel").to_numpy()
    above = [(s[positive, None] > s[None, ~positive]).mean(axis=1) for s in scores]
    under = [(s[positive, None] > s[None, ~positive]).mean(axis=0) for s in scores]
    by_hand = sum(np.var(v[0] - v[1], ddof=1) / len(v[0]) for v in (above, under))
    lesions = inference.lesions_of(images)
    _, influence = inference.mean_area(own.corrected(), images["dx"], lesions, ["mel"])
    change = influence[0] - influence[2]
    linear = sum(len(s) * change[s].var(ddof=1) for s in lesions.strata())
    assert linear == pytest.approx(by_hand, rel=1e-9)


# The estimate


def literal(contrast: inference.Contrast) -> tuple[float, float]:
    """Standard error and degrees of freedom in loops, as the formulas are written."""
    n, lesions, interaction, spread = len(contrast.values), 0.0, 0.0, 0.0
    for stratum in contrast.strata:
        count = len(stratum)
        psi = [[contrast.influence[s, lesion] for lesion in stratum] for s in range(n)]
        of_lesion = [sum(psi[s][i] for s in range(n)) / n for i in range(count)]
        of_seed = [sum(psi[s]) / count for s in range(n)]
        grand = sum(of_lesion) / count
        part = count * sum((value - grand) ** 2 for value in of_lesion) / (count - 1)
        square = 0.0
        for s, i in product(range(n), range(count)):
            square += (psi[s][i] - of_lesion[i] - of_seed[s] + grand) ** 2
        both = count * square / ((n - 1) * (count - 1)) / n
        lesions, interaction = lesions + part, interaction + both
        spread += part**2 / (count - 1) + both**2 / ((n - 1) * (count - 1))
    mean = sum(contrast.values) / n
    seeds = sum((value - mean) ** 2 for value in contrast.values) / (n - 1) / n
    variance = max(lesions - interaction, 0) + max(seeds - interaction, 0) + interaction
    return variance**0.5, variance**2 / (spread + seeds**2 / (n - 1))


def test_the_standard_error_is_its_formula(pair):
    contrast, _, _ = trial.contrast_of(pair, PRIMARY, 6)
    found = inference.estimate(contrast)
    error, df = literal(contrast)
    assert found.standard_error == pytest.approx(error) and found.df == pytest.approx(df)
    half = stats.t.ppf(0.975, df) * error
    assert (found.low, found.high) == pytest.approx((found.difference - half, found.difference + half))


def test_crossed_resamples_hold_lesions_seeds_and_the_interaction(pair):
    """Their variance is what the three parts predict: the interaction stands in it three times, and once in the rule."""
    contrast, _, _ = trial.contrast_of(pair, PRIMARY, 6)
    found, weights = inference.estimate(contrast), inference.lesion_weights(contrast.strata, 20_000)
    drawn = inference.crossed_resamples(contrast, weights).var()
    shrunk = {len(s): (len(s) - 1) / len(s) for s in contrast.strata}  # a resample's variance has n, not n - 1, below
    lesions = sum(len(s) * contrast.influence[:, s].mean(axis=0).var() for s in contrast.strata)
    both = sum(len(s) * contrast.influence[:, s].var(axis=1).mean() for s in contrast.strata) / 6 - lesions / 6
    assert drawn == pytest.approx(lesions + found.seeds * 5 / 6 + both, rel=0.05)
    assert lesions == pytest.approx(found.lesions, rel=1 - min(shrunk.values()))
    literal_draws = []
    random = np.random.default_rng(0)
    for weight in weights[:4000]:
        seeds = random.integers(0, 6, 6)
        literal_draws.append(np.mean([contrast.values[s] + contrast.influence[s] @ (weight - 1) for s in seeds]))
    assert np.std(literal_draws) == pytest.approx(np.sqrt(drawn), rel=0.05)


def test_lesions_are_resampled_whole_within_their_entity():
    images = lesion_images()
    lesions = inference.lesions_of(images)
    weights = inference.lesion_weights(lesions.strata(), 50)
    for stratum in lesions.strata():
        assert (weights[:, stratum].sum(axis=1) == len(stratum)).all()
    by_image = weights @ lesions.member.T
    first = images.groupby("group")["image_id"].transform("first")
    columns = pd.DataFrame(by_image.T).groupby(first.to_numpy())
    assert (columns.nunique() == 1).all(axis=None)


def test_an_interval_that_ignores_lesions_is_narrower():
    images = pd.concat([lesion_images(each=1).assign(copy=i) for i in range(4)], ignore_index=True)
    images["image_id"] += "_" + images.pop("copy").astype(str)
    own = simulated({ONCE: 2.0, REPEATED: 1.9}, images=images, noise=2.0)
    alone = replace(own, images=images.assign(group=images["image_id"]))
    assert one(alone)["high"] - one(alone)["low"] < 0.8 * (one(own)["high"] - one(own)["low"])


def test_seeds_are_paired(pair):
    """Shuffled rows change nothing; pairing other seeds changes the seeds' variance and not the difference."""
    order = np.random.default_rng(0).permutation(12)
    shuffled = Predictions(
        pair.images, pair.runs.loc[order].reset_index(drop=True), pair.priors[order], pair.log_probabilities[order]
    )
    pd.testing.assert_series_equal(one(shuffled), one(pair))
    runs = pair.runs.copy()
    runs.loc[6:, "seed"] = np.roll(runs.loc[6:, "seed"], 1)
    crossed = one(replace(pair, runs=runs))
    assert crossed["difference"] == pytest.approx(one(pair)["difference"])
    assert crossed["t_high"] - crossed["t_low"] > 1.2 * (one(pair)["t_high"] - one(pair)["t_low"])


def test_t_interval_over_seeds_is_scipys(pair):
    values = trial.contrast_of(pair, PRIMARY, 6)[0].values
    own = stats.ttest_1samp(values, 0).confidence_interval()
    assert inference.over_seeds(values) == pytest.approx((own.low, own.high))


def test_swapped_labels_by_hand():
    values = np.array([0.02, 0.01, -0.004, 0.03, 0.012])
    means = [np.mean(np.array(signs) * values) for signs in product([1, -1], repeat=5)]
    by_hand = np.mean(np.abs(means) >= values.mean() - 1e-12)
    assert inference.swapped_labels(values) == pytest.approx(by_hand)
    assert inference.swapped_labels(np.abs(values)) == pytest.approx(2 / 2**5)
    many = np.abs(np.random.default_rng(0).normal(1, 0.1, 20))
    assert 0 < inference.swapped_labels(many) <= 2 / (inference.FLIPS + 1) + 1e-12
    assert inference.swapped_labels(many - 1, 1) == inference.swapped_labels(many - 1, 1)


def test_equivalence_is_the_interval_inside_the_margin():
    for difference, error, df in product((-0.02, -0.004, 0.0, 0.009), (0.001, 0.003, 0.006), (4, 60)):
        own = inference.Estimate(difference, error, df, 0, 0, 0)
        assert (own.p_equivalence(0.015) <= 0.05) == (-0.015 < own.low and own.high < 0.015)
        assert (own.p <= 0.05) == (own.low > 0 or own.high < 0)
        upper = stats.t.sf((0.015 - difference) / error, df)
        lower = stats.t.sf((difference + 0.015) / error, df)
        assert own.p_equivalence(0.015) == pytest.approx(min(1, 2 * max(upper, lower)))


def test_slope_is_the_least_squares_one(whole):
    comparison = next(c for c in COMPARISONS if c.name == "linear trend of dose")
    contrast = trial.contrast_of(whole, comparison, 6)[0]
    own = whole.select(network=FROZEN, split="test")
    for number in range(6):
        areas = []
        for name in protocol.DOSES:
            run = own.select(training_set=name, seed=number)
            probabilities = run.corrected()[0]
            areas.append(
                np.mean([roc_auc_score(run.images["dx"] == c, probabilities[:, i]) for i, c in enumerate(CODES)])
            )
        assert contrast.values[number] == pytest.approx(np.polyfit(list(protocol.DOSES.values()), areas, 1)[0])


# The table


def test_the_table_has_the_protocols_comparisons(whole, table):
    assert tuple(table.columns[:9]) == trial.COLUMNS
    assert list(table["comparison"]) == [comparison.name for comparison in COMPARISONS]
    assert list(table["role"]).count(protocol.PRIMARY) == 1 and list(table["role"]).count(protocol.FAMILY) == 4
    assert set(table["verdict"]) <= set(protocol.VERDICTS)
    control = table[table["role"] == protocol.CONTROL].iloc[0]
    assert control["verdict"] == protocol.HELPS and control["difference"] > 0.02
    assert (table["low"] < table["difference"]).all() and (table["difference"] < table["high"]).all()
    pd.testing.assert_frame_equal(table, trial.trial_table(whole, seeds=SEEDS, resamples=200))
    pooled = table[table["comparison"].str.contains("pooled")].iloc[0]
    assert pooled["high"] - pooled["low"] < table.iloc[0]["high"] - table.iloc[0]["low"]


def test_a_known_effect_is_found_and_its_sign():
    assert one(simulated({ONCE: 2.6, REPEATED: 1.8}))["verdict"] == protocol.HELPS
    assert one(simulated({ONCE: 1.8, REPEATED: 2.6}))["verdict"] == protocol.HARMS
    close = beside_control(simulated({ONCE: 2.0, REPEATED: 2.0}, noise=0.1)).iloc[0]
    assert close["verdict"] == protocol.EQUIVALENT and close["high"] < 0.015
    assert one(simulated({ONCE: 2.0, REPEATED: 2.0}, noise=4.0))["verdict"] == protocol.NOT_RESOLVED


def test_the_interval_holds_the_truth_of_many_test_sets():
    """The truth is the difference on a test set forty times as large, by many lesions and seeds."""
    small, truth = [], []
    for number in range(40):
        own = simulated({ONCE: 2.0, REPEATED: 1.7}, seeds=4, seed=number)
        contrast = trial.contrast_of(own, PRIMARY, 4)[0]
        small.append(inference.estimate(contrast))
        truth.append(contrast.values.mean())
    held = np.mean([e.low <= np.mean(truth) <= e.high for e in small])
    assert 0.87 <= held <= 1.0
    assert np.mean([e.standard_error for e in small]) == pytest.approx(np.std(truth, ddof=1), rel=0.25)


def test_training_sets_with_the_same_predictions_are_equivalent(pair):
    same = replace(pair, log_probabilities=np.tile(pair.log_probabilities[:6], (2, 1, 1)))
    row = beside_control(same).iloc[0]
    assert row["difference"] == 0 and row["verdict"] == protocol.EQUIVALENT and row["p"] == 1
    assert one(same)["verdict"] == protocol.NOT_RESOLVED and one(same)["p"] == 1  # no control was asked


def test_holm_by_hand():
    p = np.array([0.04, 0.01, np.nan, 0.03])
    # Sorted 0.01, 0.03, 0.04, 1 (the one without numbers): times 4, 3, 2, 1, and never less than the one before.
    np.testing.assert_allclose(trial.holm(p), [0.09, 0.04, np.nan, 0.09])


def test_the_family_alone_is_adjusted(table):
    family = table["role"] == protocol.FAMILY
    for p in ("p", "p_equivalence"):
        np.testing.assert_allclose(table.loc[family, f"{p}_holm"], trial.holm(table.loc[family, p].to_numpy()))
        np.testing.assert_array_equal(table.loc[~family, f"{p}_holm"], table.loc[~family, p])


def test_a_member_of_the_family_that_was_not_asked_stays_in_holms_count(whole, table):
    members = [own for own in COMPARISONS if own.role == protocol.FAMILY]
    alone = trial.trial_table(whole, members[:1], SEEDS, 200).iloc[0]
    assert alone["p_holm"] == pytest.approx(min(1, len(members) * alone["p"]))
    assert alone["p_equivalence_holm"] == pytest.approx(min(1, len(members) * alone["p_equivalence"]))
    np.testing.assert_allclose(trial.holm(np.array([0.04, 0.01]), 2), [0.12, 0.04])


def test_a_comparison_that_did_not_run_misses_every_seed(pair):
    table = trial.trial_table(pair, seeds=SEEDS, resamples=200)
    assert table["comparison"].tolist() == [own.name for own in COMPARISONS]
    gone = table[table["comparison"] == "second generator"].iloc[0]
    assert (gone["seeds"], gone["missing"], gone["verdict"]) == (0, 6, protocol.NOT_RESOLVED)
    assert np.isnan(gone["p_holm"]) and "6 of 6 seeds are missing" in trial.verdict_sentence(gone)
    drawn = {text.get_text() for text in forest.forest_plot(table).axes[0].texts}
    assert "not run" in drawn and table.iloc[0]["verdict"] in drawn


def test_a_missed_control_takes_the_word_equivalent(whole):
    control = next(c for c in COMPARISONS if c.role == protocol.CONTROL)
    close = simulated({ONCE: 2.0, REPEATED: 2.0}, noise=0.1)
    dull = simulated({ORIGINALS: 2.0, protocol.SUBSET: 2.0}, noise=0.1, seed=1)
    table = trial.trial_table(joined([close, dull]), [PRIMARY, control], {FROZEN: 6}, resamples=200)
    assert list(table["verdict"]) == [protocol.NOT_RESOLVED] * 2
    assert "no power" in trial.verdict_sentence(table.iloc[1])


def test_without_a_positive_control_nothing_is_called_equivalent_and_it_is_said():
    close = simulated({ONCE: 2.0, REPEATED: 2.0}, noise=0.1)
    alone, beside = trial.trial_table(close, [PRIMARY], {FROZEN: 6}, resamples=200), beside_control(close)
    assert alone["p_equivalence_holm"].iloc[0] < 0.05 and alone["verdict"].tolist() == [protocol.NOT_RESOLVED]
    assert trial.sentences(alone)[-1] == protocol.NO_CONTROL and protocol.NO_CONTROL not in trial.sentences(beside)
    not_run = trial.trial_table(close, [PRIMARY, CONTROL], {FROZEN: 6}, resamples=200)
    assert not_run["verdict"].iloc[0] == protocol.NOT_RESOLVED
    assert trial.sentences(not_run[not_run["seeds"] > 0])[-1] == protocol.NO_CONTROL


def test_a_second_generator_of_another_verdict_is_told_in_the_next_sentence(table):
    table = table.copy()
    second = table.index[table["comparison"] == protocol.SECOND_GENERATOR][0]
    table.loc[0, "verdict"] = table.loc[second, "verdict"] = protocol.HARMS
    alone = trial.verdict_sentence(table.loc[0])
    assert trial.answer(table) == alone and trial.sentences(table)[0] == f"primary: {alone}"
    table.loc[second, ["verdict", "difference", "low", "high", "p_holm"]] = protocol.HELPS, 0.01, 0.002, 0.018, 0.01
    said = (
        f"{alone} With the second generator the verdict is another, helps: macro AUC changes by +0.010 (95 % interval +0.002 "
        "to +0.018, p = 0.010)."
    )
    assert trial.answer(table) == said and trial.sentences(table)[0] == f"primary: {said}"
    table.loc[second, ["verdict", "seeds", "missing"]] = protocol.NOT_RESOLVED, 4, 2
    assert trial.answer(table).endswith("the verdict is another, not resolved: 2 of 6 seeds are missing.")
    table.loc[second, ["seeds", "missing"]] = 0, 6  # it did not run: no verdict that could differ
    assert trial.answer(table) == alone and trial.answer(table.drop(index=second)) == alone


# Planned, missing and failed runs


def test_fewer_seeds_than_the_protocols_give_no_verdict_but_in_a_demonstration():
    given = {FROZEN: 20, TUNED: 0, KERAS: 3}
    assert trial.planned(given) == protocol.SEEDS
    assert trial.planned(given, small=True) == {FROZEN: 20, TUNED: 5, KERAS: 3}
    own = simulated({ONCE: 3.0, protocol.LONGER: 1.0}, KERAS, seeds=3)
    comparison = next(one for one in COMPARISONS if one.network == KERAS)
    row = trial.trial_table(own, [comparison], trial.planned(given), resamples=200).iloc[0]
    assert row["p"] < 0.05 and row["verdict"] == protocol.NOT_RESOLVED and row["missing_seeds"] == "3, 4"
    assert "2 of 5 seeds are missing" in trial.verdict_sentence(row)
    small = trial.trial_table(own, [comparison], trial.planned(given, small=True), resamples=200).iloc[0]
    assert small["missing"] == 0 and small["verdict"] == protocol.HELPS


def test_described_differences_of_too_few_seeds_have_no_numbers(pair):
    failed = pair.log_probabilities.copy()
    failed[1:6] = np.nan
    row = trial.described_table(replace(pair, log_probabilities=failed), [PRIMARY], {FROZEN: 6}).iloc[0]
    assert row["seeds"] == 1 and np.isnan(row["difference"])
    strata = pd.Series("all", pair.images["image_id"])
    assert trial.exploratory_table(replace(pair, log_probabilities=failed), PRIMARY, strata, {FROZEN: 6}).empty


def test_a_failed_seed_leaves_all_training_sets_and_is_listed():
    own = simulated({ONCE: 2.6, REPEATED: 1.8}, seeds=10)
    failed = own.log_probabilities.copy()
    failed[3, 5] = np.nan  # synthetic, seed 3
    row = one(replace(own, log_probabilities=failed), planned=10)
    assert row["missing"] == 1 and row["missing_seeds"] == "3" and row["seeds"] == 9
    without = own.select(seed=[0, 1, 2, 4, 5, 6, 7, 8, 9])
    assert row["difference"] == pytest.approx(one(without, planned=10)["difference"])
    assert row["verdict"] == protocol.HELPS  # one in ten may be missing
    failed[14] = np.nan  # repeated originals, seed 4
    row = one(replace(own, log_probabilities=failed), planned=10)
    assert row["missing_seeds"] == "3, 4" and row["p"] < 0.05 and row["verdict"] == protocol.NOT_RESOLVED
    assert trial.verdict_sentence(row).endswith("2 of 10 seeds are missing, more than one in ten.")


def test_seeds_beyond_the_plan_are_left_out(pair):
    row = one(pair, planned=4)
    assert row["seeds"] == 4 and row["missing_seeds"] == "none"
    assert row["difference"] == pytest.approx(one(pair.select(seed=[0, 1, 2, 3]), planned=4)["difference"])


def test_a_comparison_without_seeds_has_no_numbers(pair):
    failed = pair.log_probabilities.copy()
    failed[1:6] = np.nan
    row = one(replace(pair, log_probabilities=failed))
    assert np.isnan(row["difference"]) and row["verdict"] == protocol.NOT_RESOLVED
    assert "5 of 6 seeds are missing" in trial.verdict_sentence(row)


def test_errors_say_what_and_how_to_mend_it(pair):
    with pytest.raises(InputError, match="no run of frozen features on 'all originals [+] synthetic, dose 1'"):
        trial.contrast_of(pair.select(training_set=REPEATED), PRIMARY, 6)
    with pytest.raises(InputError, match="no image of the validation lesions"):
        one(pair, replace(PRIMARY, splits=("validation",)))
    lonely = pair.images["dx"].eq("df") & pair.images["group"].ne("test_df_0")
    kept = pair.images[~lonely].index
    few = Predictions(
        pair.images.loc[kept].reset_index(drop=True), pair.runs, pair.priors, pair.log_probabilities[:, kept]
    )
    with pytest.raises(InputError, match="dermatofibroma has one test lesion"):
        one(few)
    nevi = pair.images[pair.images["dx"] == "nv"].index
    single = Predictions(
        pair.images.loc[nevi].reset_index(drop=True), pair.runs, pair.priors, pair.log_probabilities[:, nevi]
    )
    with pytest.raises(InputError, match="of another one"):
        one(single)
    priors = np.where(np.eye(12, 7) > 0, 0, pair.priors)
    with pytest.raises(InputError, match="dose 1' of frozen features holds no image of melanoma"):
        one(replace(pair, priors=priors))
    with pytest.raises(InputError, match="stands twice"):
        one(replace(pair, runs=pair.runs.assign(seed=0)))


# Other people's images


def lesions_left(predictions: Predictions, counts: dict[str, int]) -> Predictions:
    """The first lesions of the entities in `counts`, as other people's images."""
    number = predictions.images["group"].str.split("_").str[-1].astype(int)
    kept = np.flatnonzero(number < predictions.images["dx"].map(counts).fillna(0))
    images = predictions.images.iloc[kept].reset_index(drop=True).assign(split="external")
    return replace(predictions, images=images, log_probabilities=predictions.log_probabilities[:, kept])


def test_entities_without_two_lesions_are_left_out_of_other_peoples_images_by_name(pair):
    asked = [own for own in COMPARISONS if set(own.training_sets) == {ONCE, REPEATED} and own.network == FROZEN]
    table, lines = trial.elsewhere(
        lesions_left(pair, {"mel": 9, "nv": 9, "df": 1}), asked, "external", {FROZEN: 6}, resamples=50
    )
    assert table["comparison"].tolist() == [PRIMARY.name] and table["low"].notna().all()
    assert lines == [
        "left out, for no image shows it: actinic keratosis, benign keratosis, basal cell carcinoma, vascular lesion",
        "left out, for an interval needs two lesions: dermatofibroma",
        "left out, for none of its entities is left: rare entities alone",
    ]
    assert trial.sentences(table)[-1] == protocol.NO_CONTROL
    rare, lines = trial.elsewhere(
        lesions_left(pair, {"mel": 9, "nv": 9, "df": 2}), asked, "external", {FROZEN: 6}, resamples=50
    )
    assert rare["comparison"].tolist() == [PRIMARY.name, "rare entities alone"] and "dermatofibroma" not in str(lines)
    with pytest.raises(InputError, match="the external images have two lesions of melanoma only"):
        trial.elsewhere(lesions_left(pair, {"mel": 9, "nv": 1}), asked, "external", {FROZEN: 6})


# Words and the figure


def test_sentences_follow_the_table(table):
    for _, row in table.iterrows():
        sentence = trial.verdict_sentence(row)
        assert (
            f"{row['low']:+.3f}".replace("-", "−") in sentence and f"{row['high']:+.3f}".replace("-", "−") in sentence
        )
        assert ("after Holm" in sentence) == (row["role"] == protocol.FAMILY)
    row = table.iloc[0].copy()
    found = "(95 % interval +0.002 to +0.022, p = 0.020)."
    said = {
        protocol.HELPS: (0.012, 0.002, 0.022, 0.02, f"helps: macro AUC rises by 0.012 {found}"),
        protocol.HARMS: (-0.012, -0.022, -0.002, 2e-5, "falls by 0.012 (95 % interval −0.022 to −0.002, p < 0.001)."),
        protocol.EQUIVALENT: (0.001, -0.01, 0.012, 0.83, "−0.010 to +0.012, p = 0.83), inside the margin of ±0.015."),
        protocol.NOT_RESOLVED: (0.001, -0.02, 0.022, 0.9, "is not resolved: macro AUC changes by +0.001"),
    }
    for verdict, (row["difference"], row["low"], row["high"], row["p_holm"], words) in said.items():
        row["verdict"] = verdict
        assert words in trial.verdict_sentence(row)
    row["verdict"], row["difference"], row["low"], row["high"] = protocol.HELPS, 0.006, 0.001, 0.011
    assert trial.verdict_sentence(row).endswith("the change is real and small.")
    with pytest.raises(InputError, match="no comparison 'another'"):
        trial.verdict_sentence({**row, "comparison": "another"})


def test_a_table_read_back_gives_the_same_sentences(table, tmp_path):
    table.to_csv(tmp_path / "trial.csv", index=False)
    again = pd.read_csv(tmp_path / "trial.csv")
    for number, row in table.iterrows():
        assert trial.verdict_sentence(again.loc[number]) == trial.verdict_sentence(row)


def test_the_forest_plot_shows_every_row_inside_the_page(table):
    table = table.copy()
    table.loc[1, ["difference", "low", "high"]] = np.nan
    figure = forest.forest_plot(table)
    figure.canvas.draw()
    texts = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    for _, row in table.iterrows():
        assert any(label.startswith(row["comparison"]) for label in texts)
    page = figure.bbox
    for label, box in texts.items():
        assert page.x0 <= box.x0 and box.x1 <= page.x1, label
    assert "too few seeds" in texts
    plt.close(figure)


def test_parts_of_the_lesion_images(pair):
    strata = pd.Series(
        np.where(pair.images["group"].str[-1].isin(list("02468")), "female", "male"), pair.images["image_id"]
    )
    table = trial.exploratory_table(pair, PRIMARY, strata, {FROZEN: 6})
    assert list(table["stratum"]) == ["female", "male"] and table["images"].sum() == len(pair.images)
    assert (table["low"] < table["high"]).all() and "p" not in table
    few = strata[pair.images["dx"].isin(["nv", "mel"]).to_numpy()]
    assert trial.exploratory_table(pair, PRIMARY, few, {FROZEN: 6})["entities"].tolist() == [2, 2]
    assert len(LESIONS) == 7


def test_what_is_described_has_the_difference_of_the_mean_areas_and_no_p(pair):
    table = trial.described_table(pair, [PRIMARY], {FROZEN: 6})
    row = table.iloc[0]
    tested = trial.trial_table(pair, [PRIMARY], {FROZEN: 6}).iloc[0]
    assert list(table.columns) == ["comparison", "network", "measure", "seeds", "lesions", "difference", "low", "high"]
    assert row["seeds"] == 6 and row["difference"] == pytest.approx(tested["difference"])
    assert (row["low"], row["high"]) == pytest.approx((tested["low"], tested["high"]))


@pytest.mark.parametrize("widths", [(0.0, 0.0, 0.0), (0.0, 0.004, 0.006), (0.0, 0.004, 0.6)])
def test_an_axis_for_differences_shows_each_that_is_no_wider_than_most(widths):
    middle = np.array([0.0, -0.003, -0.002])
    table = pd.DataFrame(
        {"difference": middle, "low": middle - np.array(widths) / 2, "high": middle + np.array(widths) / 2}
    )
    left, right = forest._close_ends(table)
    assert left <= middle.min() and right >= middle.max() and np.isfinite([left, right]).all()
    assert left < right and (max(widths) < 0.1 or right - left < 0.3)
