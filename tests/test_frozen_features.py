"""The linear probe: scikit-learn's regression, a basis that sees no label and no held-out row, other people's images."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from sklearn.linear_model import LogisticRegression
from small_trial import images_of

from dermstudy import workspace
from dermstudy.classification import frozen_features as frozen
from dermstudy.classification import measures, predictions, protocol, trial
from dermstudy.classification import training_sets as sets
from dermstudy.classification.encoding import Settings, View
from dermstudy.classification.frozen_features import Probe
from dermstudy.classification.predictions import joined
from dermstudy.classification.recipes import allowed_sets, make_training_set
from dermstudy.data import dataset, external
from dermstudy.data.dataset import Cohort
from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy_commands.phantom import cohort as phantom

WIDTH = 12
SETTINGS = Settings((View(64),), ("pixels",), 6)


def drawn(n: int, seed: int = 0, spread: float = 1.5, places: np.ndarray | None = None):
    """Features [n, WIDTH] whose entities lie `spread` apart, and their places."""
    random = np.random.default_rng(seed)
    if places is None:
        places = random.choice(7, n, p=[0.2, 0.4, 0.1, 0.1, 0.1, 0.05, 0.05])
    centres = np.random.default_rng(99).normal(size=(7, WIDTH))
    return (spread * centres[places] + random.normal(size=(len(places), WIDTH))).astype(np.float32), places


@dataclass(frozen=True)
class Plain:
    """Settings of features without views or depths."""

    components: int = 8
    blocks = None


class Given(Probe):
    """A probe whose features are given, not encoded. features: by pool [n, WIDTH]."""

    def __init__(self, images, features, draws=1):
        super().__init__(images, Plain(), "", draws, (1e-3, 1e-2, 1e-1))
        self.given = features

    def features(self, pool, draw=0):
        values = self.given[pool]
        return values + np.random.default_rng(3).normal(size=values.shape) if draw else values


@pytest.fixture(scope="module")
def probe() -> Given:
    lesions = np.arange(700) // 2
    _, places = drawn(700, 1)
    places = places[lesions * 2]  # both images of a lesion show the same entity
    values, _ = drawn(700, 1, places=places)
    split = np.array(["train", "train", "train", "validation", "test"])[lesions % 5]
    frame = pd.DataFrame({
        "image_id": [f"image_{i}" for i in range(700)], "dx": np.array(CODES)[places],
        "group": [f"lesion_{i}" for i in lesions], "split": split, "subset": (split == "train") & (lesions % 3 == 0),
    })  # fmt: skip
    made = pd.concat([frame[split == "train"]] * 2)
    extra = [made[made["dx"] == code].sample(90, replace=True, random_state=0) for code in CODES]
    made = pd.concat([made, *extra], ignore_index=True)
    made = made.assign(source_image_id=made["image_id"], image_id=[f"made_{i}" for i in range(len(made))])
    fake, _ = drawn(len(made), 2, places=pd.Index(CODES).get_indexer(made["dx"]))
    images = sets.Images(Cohort("o", None, frame, "o"), {sets.WHOLE: Cohort("s", None, made, "s")})
    return Given(images, {sets.ORIGINALS: values, sets.WHOLE: fake})


def run(probe: Probe, name: str, seed: int | None = 0):
    return probe.fit(make_training_set(name, probe.images), seed)


# The head and its basis


def test_the_head_is_scikit_learns_logistic_regression():
    inputs, places = drawn(400)
    weights = np.random.default_rng(5).random(400)
    weights /= weights.sum()
    head = frozen.fit_head(inputs, places, weights, penalty=0.01)
    other = LogisticRegression(C=1 / (0.01 * 400), tol=1e-8, max_iter=5000)
    other.fit(inputs.astype(float), places, sample_weight=weights * 400)
    np.testing.assert_allclose(np.exp(head.log_probabilities(inputs)), other.predict_proba(inputs), atol=2e-3)


def test_a_weight_is_a_repetition_and_an_entity_without_one_is_hardly_answered():
    inputs, places = drawn(120)
    times = np.random.default_rng(6).integers(0, 4, 120)
    copied = np.repeat(np.arange(120), times)
    first = frozen.fit_head(inputs, places, times / times.sum(), 0.01)
    second = frozen.fit_head(inputs[copied], places[copied], np.full(len(copied), 1 / len(copied)), 0.01)
    np.testing.assert_allclose(first.log_probabilities(inputs), second.log_probabilities(inputs), atol=0.01)
    np.testing.assert_allclose(first.prior, np.bincount(places[copied], minlength=7) / len(copied), atol=1e-5)
    there = (places != 6).astype(float)
    head = frozen.fit_head(inputs, places, there / there.sum(), 0.01)
    assert np.exp(head.log_probabilities(inputs))[:, 6].max() < 0.01 and head.prior[6] < 1e-5


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


def test_the_basis_gives_every_block_the_same_variance():
    random = np.random.default_rng(7)
    features = random.normal(size=(200, 10)) * np.array([1.0] * 8 + [100.0] * 2)
    basis = frozen.fit_basis(features, 10, np.array([0] * 8 + [1] * 2))
    values = (frozen.signed_root(features) - basis.mean) / basis.spread
    assert values[:, :8].var(axis=0).sum() == pytest.approx(values[:, 8:].var(axis=0).sum(), rel=1e-3)
    inputs = basis.inputs(features, block=64)
    assert inputs.shape == (200, 10) and inputs[:, 0].std() == pytest.approx(1, abs=0.01)
    covariance = np.cov(inputs.T)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-4)


# The probe on training sets


def test_no_test_row_and_no_label_enters_the_basis_or_a_choice(probe):
    """Other features and labels of test lesions change their own predictions, and nothing of the validation lesions'."""
    before, table = run(probe, protocol.ORIGINALS)
    frame = probe.images.originals.frame
    test = (frame["split"] == "test").to_numpy()
    values = probe.given[sets.ORIGINALS].copy()
    values[test] = values[test][::-1] * 5
    cohort = replace(probe.images.originals, frame=frame.assign(dx=np.where(test, "nv", frame["dx"])))
    changed = Given(replace(probe.images, originals=cohort), probe.given | {sets.ORIGINALS: values})
    after, other = run(changed, protocol.ORIGINALS)
    pd.testing.assert_frame_equal(table, other)
    for split, same in (("validation", True), ("test", False)):
        assert np.array_equal(*(own.select(split).log_probabilities for own in (before, after))) is same


def test_every_training_set_runs_with_its_prior_and_chosen_penalty(probe):
    chosen, _ = allowed_sets(protocol.TRAINING_SETS[protocol.FROZEN], probe.images, 1)
    assert len(chosen) == len(protocol.TRAINING_SETS[protocol.FROZEN]) - 2  # of generators that are not there
    runs = []
    for name, own in chosen.items():
        for seed in (0, 1):
            found, table = probe.fit(own, seed)
            adjusted = own.composition.loss == sets.LOGIT_ADJUSTMENT
            expected = np.full(7, 1 / 7) if adjusted else own.prior(own.weights(seed))
            np.testing.assert_allclose(found.priors[0], expected, atol=1e-5, err_msg=name)
            runs.append(found)
        assert table.loc[table["chosen"], "balanced_log_loss"].tolist() == [table["balanced_log_loss"].min()]
    whole = joined(runs)
    np.testing.assert_allclose(np.exp(whole.log_probabilities).sum(axis=2), 1, atol=1e-5)
    areas = measures.of_runs(measures.macro_area, whole.select("test"))
    scores = pd.Series(areas).groupby(whole.runs["training_set"]).mean()
    assert scores[protocol.ORIGINALS] > 0.9 and scores[protocol.ORIGINALS] >= scores[protocol.SUBSET]
    once, twice, stronger = (
        whole.select(training_set=name, seed=0).log_probabilities
        for name in (protocol.ORIGINALS, protocol.REPEATED, protocol.STRONGER)
    )
    np.testing.assert_allclose(once, twice, atol=1e-3)  # seen at once: what synthetic images add is not their number
    assert not np.allclose(once, stronger, atol=1e-2)
    with pytest.raises(InputError, match="needs the augmented views"):
        run(Given(probe.images, probe.given, 0), protocol.STRONGER)


@pytest.mark.slow
def test_a_probe_encodes_each_pool_once(cohort, tmp_path):
    images = images_of(cohort, 3)
    probe = Probe(images, SETTINGS, tmp_path, 1)
    chosen, _ = allowed_sets([protocol.ORIGINALS, protocol.ONCE, protocol.STRONGER], images, 1)
    probe.prepare(list(chosen.values()))
    plain, copied, _ = (probe.fit(own, 0)[0].log_probabilities for own in chosen.values())
    np.testing.assert_allclose(plain, copied, atol=0.05)  # images that are the originals teach nothing more
    assert len(list(tmp_path.glob("*.npy"))) == 3  # originals, the generator's, and a draw of the training originals
    train = (images.originals.frame["split"] == "train").to_numpy()
    draw = probe.features(sets.ORIGINALS, 1)
    assert (draw[train] != 0).any() and (draw[~train] == 0).all()


# Other people's images


@pytest.fixture(scope="module")
def folder(cohort, tmp_path_factory):
    """Melanomas, nevi and one dermatofibroma of another phantom, and one image that the cohort holds too."""
    root = tmp_path_factory.mktemp("others")
    other = dataset.load_folder(phantom.write_cohort(root / "phantom", 56, 11, 128, "balanced", 4))
    frame = other.frame
    lesion = frame.loc[frame["dx"] == "df", "lesion_id"].iloc[0]
    kept = pd.concat([frame[frame["dx"].isin(["mel", "nv"])], frame[frame["lesion_id"] == lesion]])
    rows = []
    (root / "own").mkdir()
    for source, own in ((other.root, kept), (cohort.root, cohort.frame.iloc[[0]])):
        for row in own.itertuples():
            name = f"OTHER_{len(rows):04d}"
            shutil.copy(source / row.file, (root / "own" / name).with_suffix((source / row.file).suffix))
            rows.append((name, row.dx, row.lesion_id))
    pd.DataFrame(rows, columns=["image_id", "dx", "lesion_id"]).to_csv(root / "own" / "metadata.csv", index=False)
    return root / "own"


@pytest.mark.slow
def test_the_trial_is_asked_on_a_folder_without_rare_entities(cohort, folder, tmp_path, capsys):
    """Through the notebook's own cell; an image that the cohort holds is refused."""
    with pytest.raises(InputError, match=r"by the same file: OTHER_\d+ \("):
        external.load_external(folder, cohort, tmp_path / "features")
    pd.read_csv(folder / "metadata.csv")[:-1].to_csv(folder / "metadata.csv", index=False)
    others = external.load_external(folder, cohort, tmp_path / "features")
    images = replace(images_of(cohort, 3), external=others)
    probe = Probe(images, SETTINGS, tmp_path, penalties=(1e-2,))
    names = (protocol.ONCE, protocol.REPEATED, protocol.ORIGINALS, protocol.SUBSET)
    found = joined(run(probe, name, seed)[0] for name in names for seed in (0, 1))
    asked, _ = trial.answerable(found)
    capsys.readouterr()
    cells = {cell.id: cell.source for cell in nbformat.read(ROOT / "notebooks" / "07_ablation.ipynb", 4).cells}
    space = {
        "EXTERNAL": str(folder), "RESAMPLES": 20, "SEED": 0, "images": images, "found": found, "asked": asked,
        "seeds": trial.planned({protocol.FROZEN: 2, protocol.TUNED: 0, protocol.KERAS: 0}, small=True),
        "ws": workspace.open_workspace(tmp_path / "results"), "trial": trial, "predictions": predictions,
    }  # fmt: skip
    exec(compile(cells["80ae3794"], "07_ablation", "exec"), space)
    said = capsys.readouterr().out
    for line in (
        "an interval needs two lesions: dermatofibroma", "none of its entities is left: rare entities alone",
        "no image shows it: actinic keratosis, benign keratosis, basal cell carcinoma, vascular",
    ):  # fmt: skip
        assert f"left out, for {line}" in said
    written = pd.read_csv(tmp_path / "results" / "tables" / "trial_external.csv")
    assert written["comparison"].iloc[0] == "synthetic against repeated originals" and written["low"].notna().all()
    assert "rare entities alone" not in set(written["comparison"])


def test_predictions_that_were_never_asked_about_such_images_say_so(probe):
    found, _ = run(probe, protocol.ORIGINALS)
    with pytest.raises(InputError, match="no run was asked about an external image: train with EXTERNAL, without"):
        trial.elsewhere(found, protocol.COMPARISONS, "external")
