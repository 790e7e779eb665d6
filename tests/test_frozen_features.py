from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from dermstudy.classification import feature_sets as sets
from dermstudy.classification import frozen_features as frozen
from dermstudy.entities import CODES
from dermstudy.files import InputError

WIDTH = 12


def test_a_cut_trial_goes_on_and_a_finished_set_is_known_by_all_that_makes_it(trial, tmp_path, capsys):
    names = ["all originals", "30 % subset"]

    def fitted() -> list[str]:
        return [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]

    whole, penalties = frozen.run_trial(trial, names, [0, 1])
    frozen.run_trial(trial, names[:1], [0, 1], keeps=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 and fitted() == [*names, names[0]]
    again, table = frozen.run_trial(trial, names, [0, 1], keeps=tmp_path)
    assert fitted() == names[1:] and again.images.equals(whole.images) and again.runs.equals(whole.runs)
    np.testing.assert_allclose(again.log_probabilities, whole.log_probabilities, atol=0.01)
    pd.testing.assert_frame_equal(table, penalties)
    moved = {pool: values + 0.5 for pool, values in trial.encoded.features.items()}
    elsewhere = replace(trial, encoded=replace(trial.encoded, features=moved))
    for changed, seeds in ((replace(trial, components=7), [0, 1]), (trial, [0, 2]), (elsewhere, [0, 1])):
        frozen.run_trial(changed, names[:1], seeds, keeps=tmp_path)
        assert fitted() == names[:1]


def test_another_generator_refits_no_set_that_does_not_learn_from_it(trial, tmp_path, capsys):
    names = [name for name in sets.TRAINING_SETS if sets.TRAINING_SETS[name].pool in ("", sets.ORIGINALS, sets.WHOLE)]
    names = [name for name in names if not sets.TRAINING_SETS[name].augmented][:4] + ["synthetic only"]
    frozen.run_trial(trial, names, [0], keeps=tmp_path)
    capsys.readouterr()
    pool = trial.encoded.features[sets.WHOLE]

    def with_pools(**features: np.ndarray) -> frozen.Trial:
        return replace(trial, encoded=replace(trial.encoded, features=trial.encoded.features | features))

    more = replace(
        with_pools(**{sets.SECOND: pool}), synthetic={**trial.synthetic, sets.SECOND: trial.synthetic[sets.WHOLE]}
    )
    frozen.run_trial(more, names, [0], keeps=tmp_path)
    assert capsys.readouterr().out == ""
    frozen.run_trial(with_pools(**{sets.WHOLE: pool + 0.1}), names, [0], keeps=tmp_path)
    refitted = {line.partition(":")[0] for line in capsys.readouterr().out.splitlines()}
    assert refitted == {name for name in names if sets.TRAINING_SETS[name].pool == sets.WHOLE} != set(names)


def drawn(n: int, seed: int = 0, spread: float = 1.5, places: np.ndarray | None = None):
    """Features [n, WIDTH] whose entities lie `spread` apart, and their places."""
    random = np.random.default_rng(seed)
    if places is None:
        places = random.choice(7, n, p=[0.2, 0.4, 0.1, 0.1, 0.1, 0.05, 0.05])
    centres = np.random.default_rng(99).normal(size=(7, WIDTH))
    return (spread * centres[places] + random.normal(size=(len(places), WIDTH))).astype(np.float32), places


@pytest.fixture(scope="module")
def trial() -> frozen.Trial:
    random = np.random.default_rng(3)
    values, places = drawn(700, 1)
    lesions = np.arange(700) // 2
    places = places[lesions * 2]  # both images of a lesion show the same entity
    values, _ = drawn(700, 1, places=places)
    split = np.array(["train", "train", "train", "validation", "test"])[lesions % 5]
    originals = pd.DataFrame(
        {
            "image_id": [f"image_{i}" for i in range(700)],
            "dx": np.array(CODES)[places],
            "group": [f"lesion_{i}" for i in lesions],
            "split": split,
            "subset": (split == "train") & (lesions % 3 == 0),
        }
    )
    train = originals[split == "train"]
    made = pd.concat([train, train]).reset_index(drop=True)
    made = made.assign(source_image_id=made["image_id"], image_id=[f"made_{i}" for i in range(len(made))])
    extra = pd.concat([made[made["dx"] == code].sample(90, replace=True, random_state=0) for code in CODES])
    made = pd.concat([made, extra.assign(image_id=[f"more_{i}" for i in range(len(extra))])], ignore_index=True)
    fake, _ = drawn(len(made), 2, places=pd.Index(CODES).get_indexer(made["dx"]))
    encoded = frozen.Encoded({sets.ORIGINALS: values, sets.WHOLE: fake}, [values + random.normal(size=values.shape)])
    return frozen.Trial(originals, encoded, {sets.WHOLE: made}, components=8, penalties=(1e-3, 1e-2, 1e-1))


def test_the_head_is_scikit_learns_logistic_regression():
    inputs, places = drawn(400)
    weights = np.random.default_rng(5).random(400)
    weights /= weights.sum()
    head = frozen.fit_head(inputs, places, weights, penalty=0.01)
    other = LogisticRegression(C=1 / (0.01 * 400), tol=1e-8, max_iter=5000)
    other.fit(inputs.astype(float), places, sample_weight=weights * 400)
    np.testing.assert_allclose(np.exp(head.log_probabilities(inputs)), other.predict_proba(inputs), atol=2e-3)


def test_a_weight_is_a_repetition():
    inputs, places = drawn(120)
    times = np.random.default_rng(6).integers(0, 4, 120)
    copied = np.repeat(np.arange(120), times)
    first = frozen.fit_head(inputs, places, times / times.sum(), 0.01)
    second = frozen.fit_head(inputs[copied], places[copied], np.full(len(copied), 1 / len(copied)), 0.01)
    np.testing.assert_allclose(first.log_probabilities(inputs), second.log_probabilities(inputs), atol=0.01)
    np.testing.assert_allclose(first.prior, np.bincount(places[copied], minlength=7) / len(copied), atol=1e-5)


def test_adjusted_logits_leave_the_prior_out():
    """Without a penalty the adjusted head and the corrected plain one are the same model."""
    inputs, places = drawn(3000, spread=0.7)
    weights = np.full(3000, 1 / 3000)
    prior = np.bincount(places, minlength=7) / 3000
    plain = frozen.fit_head(inputs, places, weights, 1e-7)
    adjusted = frozen.fit_head(inputs, places, weights, 1e-7, offset=np.log(prior))
    corrected = plain.log_probabilities(inputs) - np.log(prior)
    corrected -= np.log(np.exp(corrected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(np.exp(adjusted.log_probabilities(inputs)), np.exp(corrected), atol=0.02)
    np.testing.assert_allclose(adjusted.prior, np.full(7, 1 / 7))


def test_an_entity_without_a_row_is_hardly_answered():
    inputs, places = drawn(300)
    there = (places != 6).astype(float)
    head = frozen.fit_head(inputs, places, there / there.sum(), 0.01)
    assert np.exp(head.log_probabilities(inputs))[:, 6].max() < 0.01 and head.prior[6] < 1e-5


def test_the_basis_gives_every_block_the_same_variance():
    random = np.random.default_rng(7)
    features = random.normal(size=(200, 10)) * np.array([1.0] * 8 + [100.0] * 2)
    blocks = np.array([0] * 8 + [1] * 2)
    basis = frozen.fit_basis(features, 10, blocks)
    values = (frozen.signed_root(features) - basis.mean) / basis.spread
    assert values[:, :8].var(axis=0).sum() == pytest.approx(values[:, 8:].var(axis=0).sum(), rel=1e-3)
    inputs = basis.inputs(features, block=64)
    assert inputs.shape == (200, 10) and inputs[:, 0].std() == pytest.approx(1, abs=0.01)
    covariance = np.cov(inputs.T)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-4)


def test_no_test_row_and_no_label_enters_the_basis_or_a_choice(trial):
    """Other features and labels of test lesions change their own predictions, and nothing of the validation lesions'."""
    before, table = frozen.run_trial(trial, ["all originals"], [0])
    test = (trial.originals["split"] == "test").to_numpy()
    values = trial.encoded.features[sets.ORIGINALS].copy()
    values[test] = values[test][::-1] * 5
    frame = trial.originals.assign(dx=np.where(test, "nv", trial.originals["dx"]))
    changed = replace(trial, originals=frame, encoded=frozen.Encoded({sets.ORIGINALS: values}))
    after, other = frozen.run_trial(changed, ["all originals"], [0])
    pd.testing.assert_frame_equal(table, other)
    for split, same in (("validation", True), ("test", False)):
        first, second = (run.select(split=split).log_probabilities for run in (before, after))
        assert np.array_equal(first, second) is same


def test_every_training_set_runs_with_its_prior_and_chosen_penalty(trial):
    names = [name for name, own in sets.TRAINING_SETS.items() if own.pool not in (sets.SECOND, sets.OWN)]
    predictions, table = frozen.run_trial(trial, names, [0, 1])
    assert list(predictions.runs["training_set"].unique()) == names and len(predictions.runs) == 2 * len(names)
    np.testing.assert_allclose(np.exp(predictions.log_probabilities).sum(axis=2), 1, atol=1e-5)
    assert set(predictions.images["split"]) == {"validation", "test"}
    chosen = table[table["chosen"]]
    assert list(chosen["training_set"]) == names
    for name, own in table.groupby("training_set"):
        assert own.loc[own["chosen"], "balanced_log_loss"].item() == own["balanced_log_loss"].min(), name
    for place, run in predictions.runs.iterrows():
        own = sets.make_feature_set(run["training_set"], trial.originals, trial.synthetic)
        expected = own.prior(own.weights(run["seed"]))
        np.testing.assert_allclose(predictions.priors[place], expected, atol=1e-5, err_msg=run["training_set"])
    scores = frozen.score_runs(predictions, "test").groupby("training_set")["macro_auc"].mean()
    assert scores["all originals"] > 0.9 and scores["all originals"] >= scores["30 % subset"]
    again, _ = frozen.run_trial(trial, names[:2], [0, 1])
    assert np.array_equal(again.log_probabilities, predictions.select(training_set=names[:2]).log_probabilities)


def test_natural_repetition_changes_nothing_but_the_reader(trial):
    """A full-batch head sees every original twice as it sees it once: what synthetic images add is not their number."""
    once, _ = frozen.run_trial(trial, ["all originals"], [4])
    twice, _ = frozen.run_trial(trial, ["all originals + repeated originals, dose 1"], [4])
    np.testing.assert_allclose(once.log_probabilities, twice.log_probabilities, atol=1e-3)


def test_stronger_augmentation_needs_its_views(trial):
    bare = replace(trial, encoded=frozen.Encoded(trial.encoded.features))
    with pytest.raises(InputError, match="needs the augmented views"):
        frozen.run_trial(bare, ["stronger augmentation"], [0])
    plain, _ = frozen.run_trial(trial, ["all originals"], [0])
    stronger, _ = frozen.run_trial(trial, ["stronger augmentation"], [0])
    assert not np.allclose(plain.log_probabilities, stronger.log_probabilities, atol=1e-2)
    np.testing.assert_allclose(plain.priors, stronger.priors, atol=1e-6)


def test_other_peoples_images_are_predicted_and_scored_over_what_is_there(trial):
    values, places = drawn(90, 8, places=np.arange(90) % 3)
    frame = pd.DataFrame({"image_id": [f"own_{i}" for i in range(90)], "dx": np.array(CODES)[places]})
    frame["group"] = frame["image_id"]
    features = {**trial.encoded.features, frozen.EXTERNAL: values}
    own = replace(trial, encoded=frozen.Encoded(features), external=frame)
    predictions, _ = frozen.run_trial(own, ["all originals"], [0, 1])
    scores = frozen.score_runs(predictions, frozen.EXTERNAL)
    assert (scores["images"] == 90).all() and (scores["macro_auc"] > 0.9).all()
    assert scores["absent"][0] == "benign keratosis, basal cell carcinoma, dermatofibroma, vascular lesion"
    without, _ = frozen.run_trial(trial, ["all originals"], [0, 1])
    for split in ("validation", "test"):
        first, second = (run.select(split=split).log_probabilities for run in (predictions, without))
        assert np.array_equal(first, second)
    with pytest.raises(InputError, match="a score needs two entities"):
        frozen.score_runs(without, frozen.EXTERNAL)


def test_scores_by_hand():
    from dermstudy.classification.predictions import Predictions

    frame = pd.DataFrame(
        {"image_id": list("abcd"), "group": list("abcd"), "dx": ["mel", "mel", "nv", "nv"], "split": "test"}
    )
    p = np.full((1, 4, 7), 1e-9)
    p[0, :, :2] = [[0.8, 0.2], [0.4, 0.6], [0.5, 0.5], [0.1, 0.9]]
    runs = pd.DataFrame({"network": ["n"], "training_set": ["t"], "seed": [0]})
    own = Predictions(frame, runs, np.full((1, 7), 1 / 7), np.log(p).astype(np.float32))
    assert frozen.macro_auc(own)[0] == pytest.approx(0.75)
    assert frozen.balanced_accuracy(own)[0] == pytest.approx((0.5 + 0.5) / 2)
    losses = -np.log([0.8, 0.4, 0.5, 0.9])
    assert frozen.balanced_log_loss(own)[0] == pytest.approx(losses.mean(), rel=1e-4)
