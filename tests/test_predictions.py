import numpy as np
import pandas as pd
import pytest

from dermstudy.classification import predictions
from dermstudy.entities import CODES
from dermstudy.files import InputError


def made(seeds=(0, 1), images=12) -> predictions.Predictions:
    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "image_id": [f"image_{i}" for i in range(images)],
            "group": [f"lesion_{i // 2}" for i in range(images)],
            "dx": [CODES[i % 7] for i in range(images)],
            "split": ["validation" if i % 3 == 0 else "test" for i in range(images)],
        }
    )
    runs = pd.DataFrame({"network": "frozen features", "training_set": "originals", "seed": list(seeds)})
    values = random.dirichlet(np.ones(7), (len(seeds), images))
    priors = random.dirichlet(np.ones(7), len(seeds))
    return predictions.Predictions(rows, runs, priors, np.log(values).astype(np.float32))


def test_a_file_gives_back_what_was_saved(tmp_path):
    before = made()
    after = predictions.load_predictions(predictions.save_predictions(before, tmp_path / "predictions.npz"))
    pd.testing.assert_frame_equal(after.images, before.images)
    pd.testing.assert_frame_equal(after.runs, before.runs)
    np.testing.assert_allclose(after.log_probabilities, before.log_probabilities, rtol=1e-3)


def test_correction_by_hand_undoes_a_prior():
    random = np.random.default_rng(1)
    likelihood, prior = random.random((1, 5, 7)), random.dirichlet(np.ones(7))
    posterior = likelihood * prior
    posterior /= posterior.sum(2, keepdims=True)
    own = made(seeds=[0], images=5)
    seen = predictions.Predictions(own.images, own.runs, prior[None], np.log(posterior).astype(np.float32))
    np.testing.assert_allclose(seen.corrected(), likelihood / likelihood.sum(2, keepdims=True), rtol=1e-4)


def test_selection_by_split_and_run():
    own = made().select(split="test", seed=1)
    assert list(own.runs["seed"]) == [1] and set(own.images["split"]) == {"test"}
    assert own.log_probabilities.shape == (1, 8, 7)


def test_runs_are_joined_once_each():
    whole = predictions.joined([made([0]), made([1])])
    assert list(whole.runs["seed"]) == [0, 1]
    with pytest.raises(InputError, match="stands twice"):
        predictions.joined([made([0]), made([0])])
    with pytest.raises(InputError, match="different images"):
        predictions.joined([made([0]), made([1], images=5)])


def test_other_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no predictions"):
        predictions.load_predictions(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match="no file of predictions"):
        predictions.load_predictions(tmp_path / "text.npz")
