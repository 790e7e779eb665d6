"""The trial's statistics: each computed twice, and tried on simulated networks whose difference is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated_trial import lesion_images, simulated
from sklearn.metrics import roc_auc_score

from dermstudy.classification import effects, forest, inference, protocol, trial
from dermstudy.classification.predictions import Predictions, joined
from dermstudy.classification.protocol import COMPARISONS, FROZEN, KERAS, ONCE, ORIGINALS, REPEATED, TUNED
from dermstudy.entities import CODES
from dermstudy.files import InputError

PRIMARY = COMPARISONS[0]
CONTROL = next(one for one in COMPARISONS if one.role == protocol.CONTROL)
SEEDS = {FROZEN: 6, TUNED: 5, KERAS: 5}


def one(predictions, comparison=PRIMARY, planned=6) -> pd.Series:
    """The row of a single comparison."""
    return trial.trial_table(predictions, [comparison], {comparison.network: planned}, resamples=400).iloc[0]


def with_control(predictions, original: float = 2.6, subset: float = 1.8, noise: float = 1.0) -> pd.DataFrame:
    """The primary comparison and a positive control of further runs on the same images, which these signals let be found."""
    signals = {ORIGINALS: original, protocol.SUBSET: subset}
    control = simulated(signals, images=predictions.images, seed=9, noise=noise)
    return trial.trial_table(joined([predictions, control]), [PRIMARY, CONTROL], {FROZEN: 6}, resamples=200)


def failed(predictions: Predictions, *runs: int) -> Predictions:
    values = predictions.log_probabilities.copy()
    values[list(runs), 5] = np.nan
    return replace(predictions, log_probabilities=values)


@pytest.fixture(scope="module")
def pair() -> Predictions:
    return simulated({ONCE: 2.0, REPEATED: 1.9})


@pytest.fixture(scope="module")
def close() -> Predictions:
    return simulated({ONCE: 2.0, REPEATED: 2.0}, noise=0.1)


@pytest.fixture(scope="module")
def whole() -> Predictions:
    """Every training set of the protocol; more originals help, and nothing else does."""
    images = pd.concat([lesion_images(), lesion_images(1, split="validation")], ignore_index=True)
    parts = []
    for number, (network, seeds) in enumerate(SEEDS.items()):
        signals = {name: 1.4 if name.startswith("30 %") else 2.0 for name in protocol.TRAINING_SETS[network]}
        parts.append(simulated(signals, network, seeds, images, seed=number))
    return joined(parts)


@pytest.fixture(scope="module")
def table(whole) -> pd.DataFrame:
    return trial.trial_table(whole, seeds=SEEDS, resamples=200)


# Areas and the error of their contrasts; by hand from the predictions: a method cell of notebook 07


def test_areas_are_scikit_learns_with_ties_and_an_entity_absent(pair):
    images = pair.images[pair.images["dx"] != "df"]
    probabilities = pair.corrected()[:3, images.index].round(2)
    found, influence = inference.areas(probabilities, images["dx"])
    for place, code in enumerate(CODES):
        if code == "df":
            assert np.isnan(found[:, place]).all() and np.isnan(influence[:, :, place]).all()
            continue
        for run in range(3):
            expected = roc_auc_score(images["dx"] == code, probabilities[run, :, place])
            assert found[run, place] == pytest.approx(expected, abs=1e-12)
    lesions = inference.lesions_of(images.reset_index(drop=True))
    mean, _ = inference.mean_area(probabilities, images["dx"], lesions, protocol.RARE)
    present = [CODES.index(code) for code in protocol.RARE if code != "df"]
    np.testing.assert_allclose(mean, found[:, present].mean(axis=1))


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
    found = simulated({ONCE: 2.0, REPEATED: 1.0}, seeds=2, images=images)
    scores, positive = found.corrected()[[0, 2], :, 0], (images["dx"] == "mel").to_numpy()
    above = [(s[positive, None] > s[None, ~positive]).mean(axis=1) for s in scores]
    under = [(s[positive, None] > s[None, ~positive]).mean(axis=0) for s in scores]
    by_hand = sum(np.var(v[0] - v[1], ddof=1) / len(v[0]) for v in (above, under))
    lesions = inference.lesions_of(images)
    _, influence = inference.mean_area(found.corrected(), images["dx"], lesions, ["mel"])
    change = influence[0] - influence[2]
    linear = sum(len(s) * change[s].var(ddof=1) for s in lesions.strata())
    assert linear == pytest.approx(by_hand, rel=1e-9)


def test_crossed_resamples_hold_lesions_seeds_and_the_interaction(pair):
    """Their variance is what the three parts predict, and that of literal draws."""
    contrast, _, _ = trial.contrast_of(pair, PRIMARY, 6)
    found, weights = inference.estimate(contrast), inference.lesion_weights(contrast.strata, 20_000)
    drawn = inference.crossed_resamples(contrast, weights).var()
    # A resample's variance has n, not n - 1, below.
    lesions = sum(len(s) * contrast.influence[:, s].mean(axis=0).var() for s in contrast.strata)
    both = sum(len(s) * contrast.influence[:, s].var(axis=1).mean() for s in contrast.strata) / 6 - lesions / 6
    assert drawn == pytest.approx(lesions + found.seeds * 5 / 6 + both, rel=0.05)
    literal, random = [], np.random.default_rng(0)
    for weight in weights[:4000]:
        seeds = random.integers(0, 6, 6)
        literal.append(np.mean([contrast.values[s] + contrast.influence[s] @ (weight - 1) for s in seeds]))
    assert np.std(literal) == pytest.approx(np.sqrt(drawn), rel=0.05)


def test_lesions_are_resampled_whole_within_their_entity():
    images = lesion_images()
    lesions = inference.lesions_of(images)
    weights = inference.lesion_weights(lesions.strata(), 50)
    for stratum in lesions.strata():
        assert (weights[:, stratum].sum(axis=1) == len(stratum)).all()
    by_image = pd.DataFrame((weights @ lesions.member.T).T).groupby(images["group"].to_numpy())
    assert (by_image.nunique() == 1).all(axis=None)


def test_an_interval_that_ignores_lesions_is_narrower():
    images = pd.concat([lesion_images(each=1).assign(copy=i) for i in range(4)], ignore_index=True)
    images["image_id"] += "_" + images.pop("copy").astype(str)
    found = simulated({ONCE: 2.0, REPEATED: 1.9}, images=images, noise=2.0)
    alone = replace(found, images=images.assign(group=images["image_id"]))
    assert one(alone)["high"] - one(alone)["low"] < 0.8 * (one(found)["high"] - one(found)["low"])


def test_seeds_are_paired(pair):
    """Shuffled rows change nothing; pairing other seeds changes the seeds' variance and not the difference."""
    pd.testing.assert_series_equal(one(pair.part(np.random.default_rng(0).permutation(12))), one(pair))
    runs = pair.runs.copy()
    runs.loc[6:, "seed"] = np.roll(runs.loc[6:, "seed"], 1)
    crossed = one(replace(pair, runs=runs))
    assert crossed["difference"] == pytest.approx(one(pair)["difference"])
    assert crossed["t_high"] - crossed["t_low"] > 1.2 * (one(pair)["t_high"] - one(pair)["t_low"])


def test_t_interval_over_seeds_is_scipys(pair):
    values = trial.contrast_of(pair, PRIMARY, 6)[0].values
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert inference.over_seeds(values) == pytest.approx((expected.low, expected.high))


def test_swapped_labels_by_hand():
    values = np.array([0.02, 0.01, -0.004, 0.03, 0.012])
    means = [np.mean(np.array(signs) * values) for signs in product([1, -1], repeat=5)]
    assert inference.swapped_labels(values) == pytest.approx(np.mean(np.abs(means) >= values.mean() - 1e-12))
    assert inference.swapped_labels(np.abs(values)) == pytest.approx(2 / 2**5)
    many = np.random.default_rng(0).normal(1, 0.1, 20)
    assert 0 < inference.swapped_labels(many) <= 2 / (inference.FLIPS + 1) + 1e-12
    assert inference.swapped_labels(many - 1, 1) == inference.swapped_labels(many - 1, 1)


def test_equivalence_is_the_interval_inside_the_margin():
    for difference, error, df in product((-0.02, -0.004, 0.0, 0.009), (0.001, 0.003, 0.006), (4, 60)):
        found = inference.Estimate(difference, error, df, 0, 0, 0)
        assert (found.p_equivalence(0.015) <= 0.05) == (-0.015 < found.low and found.high < 0.015)
        assert (found.p <= 0.05) == (found.low > 0 or found.high < 0)
        larger = max(stats.t.sf((0.015 + side * difference) / error, df) for side in (1, -1))
        assert found.p_equivalence(0.015) == pytest.approx(min(1, 2 * larger))


# The table


def test_the_table_has_the_protocols_comparisons(whole, table):
    assert tuple(table.columns[:9]) == trial.COLUMNS
    assert list(table["comparison"]) == [comparison.name for comparison in COMPARISONS]
    assert set(table["verdict"]) <= set(protocol.VERDICTS)
    control = table[table["role"] == protocol.CONTROL].iloc[0]
    assert control["verdict"] == protocol.HELPS and control["difference"] > 0.02
    assert (table["low"] < table["difference"]).all() and (table["difference"] < table["high"]).all()
    pd.testing.assert_frame_equal(table, trial.trial_table(whole, seeds=SEEDS, resamples=200))
    pooled = table[table["comparison"].str.contains("pooled")].iloc[0]
    assert pooled["high"] - pooled["low"] < table.iloc[0]["high"] - table.iloc[0]["low"]


def test_a_known_effect_is_found_and_its_sign(close):
    assert one(simulated({ONCE: 2.6, REPEATED: 1.8}))["verdict"] == protocol.HELPS
    assert one(simulated({ONCE: 1.8, REPEATED: 2.6}))["verdict"] == protocol.HARMS
    row = with_control(close).iloc[0]
    assert row["verdict"] == protocol.EQUIVALENT and row["high"] < 0.015
    assert one(simulated({ONCE: 2.0, REPEATED: 2.0}, noise=4.0))["verdict"] == protocol.NOT_RESOLVED


def test_the_interval_holds_the_truth_of_many_test_sets():
    """The truth is the difference on a test set forty times as large, by many lesions and seeds."""
    contrasts = [
        trial.contrast_of(simulated({ONCE: 2.0, REPEATED: 1.7}, seeds=4, seed=number), PRIMARY, 4)[0]
        for number in range(40)
    ]
    small, truth = [inference.estimate(each) for each in contrasts], [each.values.mean() for each in contrasts]
    assert 0.87 <= np.mean([e.low <= np.mean(truth) <= e.high for e in small])
    assert np.mean([e.standard_error for e in small]) == pytest.approx(np.std(truth, ddof=1), rel=0.25)


def test_training_sets_with_the_same_predictions_are_equivalent(pair):
    same = replace(pair, log_probabilities=np.tile(pair.log_probabilities[:6], (2, 1, 1)))
    row = with_control(same).iloc[0]
    assert (row["difference"], row["verdict"], row["p"]) == (0, protocol.EQUIVALENT, 1)


def test_the_family_alone_is_adjusted_and_counts_members_that_were_not_asked(whole, table):
    # Sorted 0.01, 0.03, 0.04, 1 (the one without numbers): times 4, 3, 2, 1, and never less than the one before.
    np.testing.assert_allclose(trial.holm(np.array([0.04, 0.01, np.nan, 0.03])), [0.09, 0.04, np.nan, 0.09])
    np.testing.assert_allclose(trial.holm(np.array([0.04, 0.01]), 2), [0.12, 0.04])
    family = table["role"] == protocol.FAMILY
    alone = trial.trial_table(whole, [next(c for c in COMPARISONS if c.role == protocol.FAMILY)], SEEDS, 200).iloc[0]
    for p in ("p", "p_equivalence"):
        np.testing.assert_allclose(table.loc[family, f"{p}_holm"], trial.holm(table.loc[family, p].to_numpy()))
        np.testing.assert_array_equal(table.loc[~family, f"{p}_holm"], table.loc[~family, p])
        assert alone[f"{p}_holm"] == pytest.approx(min(1, family.sum() * alone[p]))


def test_a_comparison_that_did_not_run_misses_every_seed(pair):
    table = trial.trial_table(pair, seeds=SEEDS, resamples=200)
    gone = table[table["comparison"] == "second generator"].iloc[0]
    assert (gone["seeds"], gone["missing"], gone["verdict"]) == (0, 6, protocol.NOT_RESOLVED)
    assert np.isnan(gone["p_holm"]) and "6 of 6 seeds are missing" in trial.verdict_sentence(gone)
    drawn = {text.get_text() for text in forest.forest_plot(table).axes[0].texts}
    assert "not run" in drawn and effects.FOUND[table.iloc[0]["verdict"]] in drawn and "harms" not in drawn


def test_without_a_found_positive_control_nothing_is_called_equivalent(close):
    missed = with_control(close, 2.0, 2.0, noise=0.1)
    assert list(missed["verdict"]) == [protocol.NOT_RESOLVED] * 2
    assert "no power" in trial.verdict_sentence(missed.iloc[1])
    alone = trial.trial_table(close, [PRIMARY], {FROZEN: 6}, resamples=200)
    assert alone["p_equivalence_holm"].iloc[0] < 0.05 and alone["verdict"].tolist() == [protocol.NOT_RESOLVED]
    not_run = trial.trial_table(close, [PRIMARY, CONTROL], {FROZEN: 6}, resamples=200)
    assert not_run["verdict"].iloc[0] == protocol.NOT_RESOLVED
    for table in (alone, not_run[not_run["seeds"] > 0]):
        assert trial.sentences(table)[-1] == protocol.NO_CONTROL
    assert protocol.NO_CONTROL not in trial.sentences(missed)


# Planned, missing and failed runs


def test_fewer_seeds_than_the_protocols_give_no_verdict_but_in_a_demonstration():
    given = {FROZEN: 20, TUNED: 0, KERAS: 3}
    assert trial.planned(given) == protocol.SEEDS
    assert trial.planned(given, small=True) == {FROZEN: 20, TUNED: 5, KERAS: 3}
    found = simulated({ONCE: 3.0, protocol.LONGER: 1.0}, KERAS, seeds=3)
    comparison = next(one for one in COMPARISONS if one.network == KERAS)
    row, small = (one(found, comparison, trial.planned(given, demonstration)[KERAS]) for demonstration in (False, True))
    assert row["p"] < 0.05 and row["verdict"] == protocol.NOT_RESOLVED and row["missing_seeds"] == "3, 4"
    assert "2 of 5 seeds are missing" in trial.verdict_sentence(row)
    assert small["missing"] == 0 and small["verdict"] == protocol.HELPS


def test_a_failed_seed_leaves_all_training_sets_and_is_listed():
    found = simulated({ONCE: 2.6, REPEATED: 1.8}, seeds=10)
    row = one(failed(found, 3), planned=10)  # synthetic, seed 3
    assert row["missing"] == 1 and row["missing_seeds"] == "3" and row["seeds"] == 9
    without = found.select(seed=[0, 1, 2, 4, 5, 6, 7, 8, 9])
    assert row["difference"] == pytest.approx(one(without, planned=10)["difference"])
    assert row["verdict"] == protocol.HELPS  # one in ten may be missing
    row = one(failed(found, 3, 14), planned=10)  # and of repeated originals, seed 4
    assert row["missing_seeds"] == "3, 4" and row["p"] < 0.05 and row["verdict"] == protocol.NOT_RESOLVED
    assert trial.verdict_sentence(row).endswith("2 of 10 seeds are missing, more than one in ten.")


def test_seeds_beyond_the_plan_are_left_out(pair):
    row = one(pair, planned=4)
    assert row["seeds"] == 4 and row["missing_seeds"] == "none"
    assert row["difference"] == pytest.approx(one(pair.select(seed=[0, 1, 2, 3]), planned=4)["difference"])


def test_a_comparison_of_fewer_than_two_seeds_has_no_numbers(pair):
    few = failed(pair, 1, 2, 3, 4, 5)
    row, described = one(few), trial.described_table(few, [PRIMARY], {FROZEN: 6}).iloc[0]
    assert np.isnan(row["difference"]) and row["verdict"] == protocol.NOT_RESOLVED
    assert "5 of 6 seeds are missing" in trial.verdict_sentence(row)
    assert described["seeds"] == 1 and np.isnan(described["difference"])
    people = pair.images.assign(sex="all", age=50, localization="back")
    assert trial.exploratory_table(few, PRIMARY, people, {FROZEN: 6}).empty


def test_errors_say_what_and_how_to_mend_it(pair):
    images = pair.images
    lonely = images["dx"].eq("df") & images["group"].ne("test_df_0")
    cases = {
        "no run of frozen features on 'all originals [+] synthetic, dose 1'": pair.select(training_set=REPEATED),
        "no image of the test lesions": replace(pair, images=images.assign(split="validation")),
        "dermatofibroma has one test lesion": pair.part(None, ~lonely.to_numpy()),
        "of another one": pair.part(None, images["dx"].eq("nv").to_numpy()),
        "dose 1' of frozen features holds no image of melanoma": replace(
            pair, priors=np.where(np.eye(12, 7) > 0, 0, pair.priors)
        ),
        "stands twice": replace(pair, runs=pair.runs.assign(seed=0)),
    }
    for said, predictions in cases.items():
        with pytest.raises(InputError, match=said):
            trial.contrast_of(predictions, PRIMARY, 6)


# Other people's images, and parts of the lesions


def lesions_left(predictions: Predictions, counts: dict[str, int]) -> Predictions:
    """The first lesions of the entities in `counts`, as other people's images."""
    number = predictions.images["group"].str.split("_").str[-1].astype(int)
    kept = predictions.part(None, (number < predictions.images["dx"].map(counts).fillna(0)).to_numpy())
    return replace(kept, images=kept.images.assign(split="external"))


def test_entities_without_two_lesions_are_left_out_of_other_peoples_images_by_name(pair):
    asked = [c for c in COMPARISONS if set(c.training_sets) == {ONCE, REPEATED} and c.network == FROZEN]

    def on_lesions(**counts: int) -> tuple[pd.DataFrame, list[str]]:
        return trial.elsewhere(lesions_left(pair, counts), asked, "external", {FROZEN: 6}, resamples=50)

    table, lines = on_lesions(mel=9, nv=9, df=1)
    assert table["comparison"].tolist() == [PRIMARY.name] and table["low"].notna().all()
    assert lines == [
        "left out, for no image shows it: actinic keratosis, benign keratosis, basal cell carcinoma, vascular lesion",
        "left out, for an interval needs two lesions: dermatofibroma",
        "left out, for none of its entities is left: rare entities alone",
    ]
    rare, lines = on_lesions(mel=9, nv=9, df=2)
    assert rare["comparison"].tolist() == [PRIMARY.name, "rare entities alone"] and "dermatofibroma" not in str(lines)
    with pytest.raises(InputError, match="the external images have two lesions of melanoma only"):
        on_lesions(mel=9, nv=1)


def test_parts_of_the_lesion_images(pair):
    even = pair.images["group"].str[-1].isin(list("02468"))
    people = pair.images.assign(sex=np.where(even, "female", "male"), age=None, localization=None)
    table = trial.exploratory_table(pair, PRIMARY, people, {FROZEN: 6})
    assert set(table["by"]) == {"sex"} and list(table["stratum"]) == ["female", "male"] and "p" not in table
    assert (table["low"] < table["high"]).all() and table["images"].sum() == len(pair.images)
    few = people.assign(age=50)[pair.images["dx"].isin(["nv", "mel"])]
    assert trial.exploratory_table(pair, PRIMARY, few, {FROZEN: 6})["entities"].tolist() == [2, 2, 2]


def test_what_is_described_has_the_difference_of_the_mean_areas_and_no_p(pair):
    row, tested = trial.described_table(pair, [PRIMARY], {FROZEN: 6}).iloc[0], one(pair)
    assert list(row.index) == ["comparison", "network", "measure", "seeds", "lesions", "difference", "low", "high"]
    numbers = ["difference", "low", "high"]
    assert row["seeds"] == 6 and row[numbers].tolist() == pytest.approx(tested[numbers].tolist())


# Words and the figure


@pytest.mark.parametrize(
    ("verdict", "numbers", "words"),
    [
        (protocol.HELPS, (0.012, 0.002, 0.022, 0.02), "macro AUC rises by 0.012 (95 % interval +0.002 to +0.022, p = 0.020)."),
        (protocol.HARMS, (-0.012, -0.022, -0.002, 2e-5), "falls by 0.012 (95 % interval −0.022 to −0.002, p < 0.001)."),
        (protocol.EQUIVALENT, (0.001, -0.01, 0.012, 0.83), "−0.010 to +0.012, p = 0.83), inside the margin of ±0.015."),
        (protocol.NOT_RESOLVED, (0.001, -0.02, 0.022, 0.9), "is not resolved: macro AUC changes by +0.001"),
        (protocol.HELPS, (0.006, 0.001, 0.011, 0.02), "the change is real and small."),
    ],
)  # fmt: skip
def test_a_verdict_is_told_in_the_protocols_words(table, verdict, numbers, words):
    row = table.iloc[0].copy()
    row["verdict"] = verdict
    row["difference"], row["low"], row["high"], row["p_holm"] = numbers
    assert words in trial.verdict_sentence(row) and "after Holm" not in trial.verdict_sentence(row)
    assert "after Holm" in trial.verdict_sentence({**row, "role": protocol.FAMILY})
    with pytest.raises(InputError, match="no comparison 'another'"):
        trial.verdict_sentence({**row, "comparison": "another"})


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
    assert trial.answer(table) == alone


def test_the_forest_plot_shows_every_row_inside_the_page(table):
    table = table.copy()
    table.loc[1, ["difference", "low", "high"]] = np.nan
    figure = forest.forest_plot(table)
    figure.canvas.draw()
    texts = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    for _, row in table.iterrows():
        assert any(label.startswith(effects.printed(row["comparison"])) for label in texts)
    for label, box in texts.items():
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, label
    assert "too few seeds" in texts
    plt.close(figure)


@pytest.mark.parametrize("widths", [(0.0, 0.0, 0.0), (0.0, 0.004, 0.006), (0.0, 0.004, 0.6)])
def test_an_axis_for_differences_shows_each_that_is_no_wider_than_most(widths):
    middle = np.array([0.0, -0.003, -0.002])
    bounds = {"difference": middle, "low": middle - np.array(widths) / 2, "high": middle + np.array(widths) / 2}
    named = {"comparison": ["a", "b", "c"], "network": FROZEN, "seeds": 5, "lesions": 100}
    figure = forest.forest_plot(pd.DataFrame(named | bounds))
    left, right = figure.axes[0].get_xlim()
    assert left <= middle.min() and right >= middle.max() and right - left < 0.1
    plt.close(figure)
