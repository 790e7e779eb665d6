"""The last blocks fine-tuned: what they are given, the same run from the same seed, every training set of the protocol."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from dermstudy import pretrained
from dermstudy.classification import encoding, feature_sets, fine_tuning, predictions, protocol, runs
from dermstudy.classification.encoding import View
from dermstudy.data import dataset
from dermstudy.entities import CODES
from dermstudy.maintenance import tuning_settings

TUNING = fine_tuning.Tuning((View(64), View(64, 0.8, 5)), epochs=3, batch=8)


@pytest.fixture(scope="module")
def images(cohort) -> runs.Images:
    """Three training images an entity under other names, in the place of synthetic ones."""
    chosen = cohort.frame[cohort.frame["split"] == "train"].groupby("dx").head(3)
    made = chosen.assign(source_image_id=chosen["image_id"], image_id="synthetic_" + chosen["image_id"])
    columns = ["image_id", "dx", "file", "caption", "source_image_id"]
    synthetic = dataset.Cohort("synthetic", cohort.root, made[columns].reset_index(drop=True), "s")
    return runs.gather(cohort, {feature_sets.WHOLE: synthetic}, runs.CAPTIONED)


@pytest.fixture(scope="module")
def jobs(images, tmp_path_factory) -> list[fine_tuning.Job]:
    """All originals and repeated originals with two seeds each."""
    folder = tmp_path_factory.mktemp("tuned")
    activations = fine_tuning.encoded(images.originals, images.synthetic, TUNING, folder)
    frames = {pool: own.frame for pool, own in images.synthetic.items()}
    names = [protocol.ORIGINALS, protocol.REPEATED]
    return fine_tuning.jobs(names, range(2), images.originals.frame, frames, activations, TUNING, folder)


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


def test_what_is_predicted_lies_where_it_says(images):
    shown = fine_tuning.predicted(images.originals.frame)
    assert shown["image_id"].tolist() == runs.predicted_images(images)["image_id"].tolist()
    assert (images.originals.frame["image_id"].to_numpy()[shown["place"]] == shown["image_id"]).all()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_training_lowers_the_loss(jobs):
    pretrained.efficientnet.cache_clear()  # as in a new process
    pretrained._folded.cache_clear()
    first, epochs = fine_tuning.train(jobs[0])
    again, _ = fine_tuning.train(jobs[0])  # and in one that has trained before
    other, _ = fine_tuning.train(jobs[1])
    assert np.array_equal(first.log_probabilities, again.log_probabilities)
    assert not np.allclose(first.log_probabilities, other.log_probabilities)
    assert epochs["loss"].iloc[-1] < epochs["loss"].iloc[0] and epochs["epoch"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(np.exp(first.log_probabilities[0]).sum(axis=1), 1, atol=1e-4)
    shares = jobs[0].rows["dx"].value_counts(normalize=True).reindex(CODES)
    np.testing.assert_allclose(first.priors[0], shares)


def test_a_run_is_known_by_all_that_makes_it(jobs, images):
    assert len({job.keeps for job in jobs}) == len(jobs)
    frames = {pool: own.frame for pool, own in images.synthetic.items()}
    asked = [protocol.ORIGINALS], [0], images.originals.frame, frames, jobs[0].activations
    (same,) = fine_tuning.jobs(*asked, TUNING, jobs[0].keeps.parent)
    assert same.keeps == jobs[0].keeps
    (longer,) = fine_tuning.jobs(*asked, replace(TUNING, epochs=4), jobs[0].keeps.parent)
    assert longer.keeps != same.keeps
    moved = asked[2].assign(split=asked[2]["split"].replace("validation", "test"))
    (elsewhere,) = fine_tuning.jobs(*asked[:2], moved, *asked[3:], TUNING, jobs[0].keeps.parent)
    assert elsewhere.keeps != same.keeps


@pytest.mark.slow
def test_every_training_set_that_the_images_allow_is_run_and_kept(images, tmp_path):
    short = fine_tuning.of_side(64, 1)
    ran = runs.tuned_runs(images, short, range(1), tmp_path, workers=2)
    assert ran.predictions.runs["training_set"].tolist() == list(protocol.TRAINING_SETS[protocol.TUNED])
    assert set(ran.predictions.runs["network"]) == {protocol.TUNED} and ran.left_out.empty
    pd.testing.assert_frame_equal(ran.predictions.images, runs.predicted_images(images))
    curves = ran.record
    assert list(curves.columns) == list(runs.HISTORY_COLUMNS) and set(curves["network"]) == {protocol.TUNED}
    assert curves["training_set"].tolist() == list(protocol.TRAINING_SETS[protocol.TUNED])  # one epoch each
    assert (curves["steps"] > 0).all() and curves["macro_auc"].between(0, 1).all()
    assert runs.steps_table(curves)["kept_epoch"].eq(1).all()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.np[yz]")}
    again = runs.tuned_runs(images, short, range(1), tmp_path, workers=2)
    assert np.array_equal(again.predictions.log_probabilities, ran.predictions.log_probabilities)
    pd.testing.assert_frame_equal(again.record, curves)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.np[yz]")} == stamps


@pytest.mark.slow
def test_settings_are_compared_on_validation_lesions_alone(images, tmp_path):
    short = fine_tuning.of_side(64, 1)
    settings = tuning_settings.candidates(short, ({}, {"rate": 1e-4}, {"rate": 1e30, "last_rate": 1e30, "batch": 4}))
    table = tuning_settings.compared(images, settings, tmp_path, workers=2)
    assert table["rate"].tolist() == [short.rate, 1e-4, 1e30] and table["kept_epoch"].tolist()[:2] == [1, 1]
    assert table["balanced_accuracy"][:2].between(0, 1).all() and table.loc[2, "balanced_log_loss":].isna().all()
    assert table["balanced_log_loss"][0] != table["balanced_log_loss"][1]
    for path in (tmp_path / "settings").glob("*.npz"):
        assert set(predictions.load(path).images["split"]) == {"validation"}


def test_a_network_that_diverges_is_a_failed_run_and_is_kept_as_one(jobs, tmp_path, capsys):
    thrown = replace(TUNING, rate=1e30, last_rate=1e30, epochs=2)
    job = replace(jobs[0], tuning=thrown, keeps=tmp_path / "run.npz")
    found = predictions.load(fine_tuning.run_once(job))
    assert np.isnan(found.log_probabilities).all() and found.runs.to_numpy().tolist() == [
        [protocol.TUNED, protocol.ORIGINALS, job.seed]
    ]
    assert capsys.readouterr().out.startswith("all originals, seed 0: failed, no epoch gives numbers")
    found, epochs = fine_tuning.run_all([job])
    assert epochs["balanced_log_loss"].isna().all() and set(epochs["training_set"]) <= {protocol.ORIGINALS}
    assert runs.failed_lines(found) == ["failed: fine-tuned, all originals, seed 0"]


def test_a_run_that_ends_in_an_error_three_times_has_failed(jobs, tmp_path, monkeypatch, capsys):
    tried = []

    def train(job):
        tried.append(job.seed)
        raise RuntimeError("no step")

    monkeypatch.setattr(fine_tuning, "train", train)
    found = predictions.load(fine_tuning.run_once(replace(jobs[1], keeps=tmp_path / "run.npz")))
    assert np.isnan(found.log_probabilities).all() and tried == [1, 1, 1]
    assert capsys.readouterr().out.count("not finished, RuntimeError: no step") == 3
