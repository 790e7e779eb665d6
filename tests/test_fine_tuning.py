"""The last blocks fine-tuned: what they are given, the same run from the same seed, every training set of the protocol."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_trial import images_of

from dermstudy import pretrained
from dermstudy.classification import encoding, fitting, protocol
from dermstudy.classification.encoding import View
from dermstudy.classification.fine_tuning import EPOCH_COLUMNS, FineTuned, Tuning, tuning_of_side
from dermstudy.classification.recipes import allowed_sets, make_training_set
from dermstudy.entities import CODES

TUNING = Tuning((View(64), View(64, 0.8, 5)), epochs=3, batch=8)


@pytest.fixture(scope="module")
def images(cohort):
    return images_of(cohort, 3)


@pytest.fixture(scope="module")
def network(images, tmp_path_factory) -> FineTuned:
    return FineTuned(images, TUNING, tmp_path_factory.mktemp("tuned"))


def test_the_last_blocks_go_on_where_the_early_activations_end():
    seen = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3)).astype(np.uint8)
    early = pretrained.early_activations(seen)
    assert early.shape == (3, 112, 4, 4) and early.dtype == np.float16
    network = pretrained.LastBlocks(7).eval()
    network.last = torch.nn.Identity()
    whole = pretrained.depth_features(seen)[:, pretrained.depth_columns(("head",))][:, :1280]
    np.testing.assert_allclose(network(torch.from_numpy(early).float()).detach(), whole, atol=0.02)
    assert all(weight.requires_grad for weight in network.parameters())
    assert not any(weight.requires_grad for weight in pretrained.efficientnet().parameters())


def test_activations_of_an_image_are_kept_and_known_by_what_made_them(images, tmp_path):
    some = images.originals.select(image_id=list(images.originals.frame["image_id"][:5]))
    path = encoding.encode_early(some, tmp_path, View(64))
    assert np.load(path, mmap_mode="r").shape == (5, 112, 4, 4)
    before = path.stat().st_mtime_ns
    assert encoding.encode_early(some, tmp_path, View(64)) == path and path.stat().st_mtime_ns == before
    assert encoding.encode_early(some, tmp_path, View(64, symmetry=1)) != path
    encoding.encode(some, tmp_path, View(64))
    assert len(list(tmp_path.glob("*.npy"))) == 3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_training_lowers_the_loss(images, network):
    chosen = make_training_set(protocol.ORIGINALS, images)
    first, epochs = network.fit(chosen, 0)
    again, other = network.fit(chosen, 0)[0], network.fit(chosen, 1)[0]  # in a process that has trained before
    assert np.array_equal(first.log_probabilities, again.log_probabilities)
    assert not np.allclose(first.log_probabilities, other.log_probabilities)
    assert list(epochs.columns) == EPOCH_COLUMNS and epochs["epoch"].tolist() == [1, 2, 3]
    assert epochs["loss"].iloc[-1] < epochs["loss"].iloc[0] and epochs["macro_auc"].between(0, 1).all()
    np.testing.assert_allclose(np.exp(first.log_probabilities[0]).sum(axis=1), 1, atol=1e-4)
    shares = chosen.train["dx"].value_counts(normalize=True).reindex(CODES)
    np.testing.assert_allclose(first.priors[0], shares)


@pytest.mark.slow
def test_every_training_set_that_the_images_allow_is_run_and_kept(images, tmp_path):
    chosen, left_out = allowed_sets(protocol.TRAINING_SETS[protocol.TUNED], images)
    assert list(chosen) == list(protocol.TRAINING_SETS[protocol.TUNED]) and not left_out
    network = FineTuned(images.taken_by(list(chosen.values())), tuning_of_side(64, 1), tmp_path)
    ran = fitting.fit_all(network, {name: chosen[name] for name in list(chosen)[:2]}, [0], workers=2)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.np[yz]")}
    again = fitting.fit_all(network, {name: chosen[name] for name in list(chosen)[:2]}, [0], workers=2)
    for name, runs in ran.items():
        assert runs[0][0].sound.all() and np.array_equal(
            runs[0][0].log_probabilities, again[name][0][0].log_probabilities
        )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.np[yz]")} == stamps


def test_a_network_that_diverges_has_failed(images, network, tmp_path):
    thrown = FineTuned(images, replace(TUNING, rate=1e30, last_rate=1e30, epochs=2), network.folder)
    found, epochs = thrown.fit(make_training_set(protocol.ORIGINALS, images), 0)
    assert not found.sound.any() and epochs["validation_loss"].isna().all()
