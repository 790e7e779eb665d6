import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dermstudy.classification import encoded_trial, feature_sets, frozen_features
from dermstudy.classification.encoding import Settings, View
from dermstudy.data import external, splits
from dermstudy.files import InputError

SETTINGS = Settings((View(64),), ("pixels", "block 2"), 12)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def originals(cohort):
    return replace(cohort, frame=cohort.frame.assign(subset=splits.nested_subset(cohort.frame, 0, 0.6)))


@pytest.fixture(scope="module")
def synthetic(originals):
    """The phantom's training images under other names, as a generator would give them back twice."""
    train = originals.select(split="train").frame
    made = pd.concat([train, train], ignore_index=True)
    made = made.assign(source_image_id=made["image_id"], image_id=[f"made_{i}" for i in range(len(made))])
    columns = ["image_id", "dx", "file", "source_image_id"]
    return replace(originals, frame=made[columns], data_hash="1" * 64)


@pytest.mark.slow
def test_a_trial_is_made_of_cohorts(originals, synthetic, cache):
    trial = encoded_trial.encoded_trial(originals, {feature_sets.WHOLE: synthetic}, SETTINGS, cache, draws=1)
    same = trial.encoded.features[feature_sets.WHOLE][: (originals.frame["split"] == "train").sum()]
    train = (originals.frame["split"] == "train").to_numpy()
    np.testing.assert_allclose(same.astype(float), trial.encoded.features[feature_sets.ORIGINALS][train], atol=5e-3)
    assert (trial.encoded.augmented[0][train] != 0).any() and (trial.encoded.augmented[0][~train] == 0).all()
    names = ["all originals", "all originals + synthetic, dose 1", "stronger augmentation", "30 % subset"]
    runs, _ = frozen_features.run_trial(trial, names, [0])
    assert list(runs.runs["training_set"]) == names
    plain, copied = runs.log_probabilities[0], runs.log_probabilities[1]
    np.testing.assert_allclose(plain, copied, atol=0.05)  # images that are the originals teach nothing more


@pytest.mark.slow
def test_other_peoples_folder_is_scored_and_one_with_a_known_image_is_not(originals, cache, tmp_path):
    """The whole way of EXTERNAL: a folder, its search for known images, predictions of every run, scores."""
    held = originals.select(split="test", dx=["mel", "nv", "vasc"])
    known = originals.select(split=["train", "validation"])
    folder = tmp_path / "clinic"
    folder.mkdir()
    table = pd.DataFrame({"isic_id": [f"CLINIC_{i:03d}" for i in range(len(held))], "diagnosis": held.frame["caption"]})
    for name, file in zip(table["isic_id"], held.frame["file"], strict=True):
        shutil.copy(held.root / file, (folder / name).with_suffix((held.root / file).suffix))
    table.to_csv(folder / "metadata.csv", index=False)
    own = external.load_external(folder, known, cache)
    trial = encoded_trial.encoded_trial(originals, {}, SETTINGS, cache, external=own)
    runs, _ = frozen_features.run_trial(trial, ["all originals", "30 % subset"], [0, 1])
    scores = frozen_features.score_runs(runs, frozen_features.EXTERNAL)
    assert len(scores) == 4 and (scores["images"] == len(held)).all() and scores["macro_auc"].between(0, 1).all()
    assert scores["absent"][0].startswith("actinic keratosis")
    test = runs.select(split="test")
    external_runs = runs.select(split=frozen_features.EXTERNAL)
    places = test.images.set_index("image_id").index.get_indexer(held.frame["image_id"])
    order = external_runs.images["image_id"].argsort()
    np.testing.assert_allclose(
        external_runs.log_probabilities[:, order], test.log_probabilities[:, places], atol=0.02
    )  # the same pictures under other names
    shutil.copy(known.root / known.frame["file"][0], folder / f"CLINIC_000{known.frame['file'][0][-4:]}")
    with pytest.raises(InputError, match=rf"by the same file: CLINIC_000 \({known.frame['image_id'][0]}\)"):
        external.load_external(folder, known, cache)
