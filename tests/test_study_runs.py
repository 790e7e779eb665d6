"""The table of runs that 06, 07 and an engine read, and the files from which both are drawn again without an image."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
from conftest import ROOT
from small_trial import images_of, with_subset, write_synthetic

from dermstudy.classification import predictions, protocol, study_runs, training_sets
from dermstudy.classification.predictions import Predictions
from dermstudy.classification.recipes import make_training_set
from dermstudy.classification.study_runs import ABLATION, CLASSIFIER
from dermstudy.data import dataset
from dermstudy.files import InputError
from dermstudy.readers import kit
from dermstudy.workspace import Workspace
from dermstudy_commands.phantom import cohort as phantom
from dermstudy_commands.runner import profiles

SMALL = {"SIDE": 32, "FILTERS": [4, 8, 8], "EPOCHS": 1, "SEEDS": [3], "BOOTSTRAP": 20}


@pytest.fixture(scope="module")
def given():
    return profiles.complete("smoke", "results/smoke")


def made_up(task, images, failed: bool = False):
    """Runs that learned nothing, without a training."""
    chosen, runs = make_training_set(task.name, images), []
    for seed in task.seeds:
        values = np.random.default_rng(seed).dirichlet(np.ones(7), (1, len(chosen.images)))
        ran = pd.DataFrame({"network": [task.network], "training_set": [chosen.name], "seed": [seed]})
        logs = np.log(np.where(failed, np.nan, values)).astype(np.float32)
        record = pd.DataFrame({"epoch": [1, 2], "loss": [1.0, 0.5], "validation_loss": [1.0, 0.75], "steps": 8})
        if task.network == protocol.FROZEN:
            record = pd.DataFrame({"penalty": [0.1], "balanced_log_loss": [1.0], "macro_auc": [0.5], "chosen": [True]})
        runs.append((Predictions(chosen.images, ran, chosen.prior()[None], logs), record))
    return runs


def test_the_table_has_every_training_set_of_the_protocol_and_every_step(given):
    own = given[ABLATION]
    tasks = study_runs.tasks_of(ABLATION, own)
    for network, names in protocol.TRAINING_SETS.items():
        asked = [task for task in tasks if task.network == network and task.file == "trial"]
        assert [task.name for task in asked] == list(names)
        assert {len(task.seeds) for task in asked} == {own[study_runs.SEEDS[network]]}
    slugs = [task.slug for task in study_runs.single_tasks(ABLATION, own)]
    assert len(set(slugs)) == len(slugs) and "keras-cnn-all-originals-1" in slugs
    steps = study_runs.tasks_of(CLASSIFIER, given[CLASSIFIER] | {"PUBLISHED_SYNTHETIC": "elsewhere", "FROZEN_SEEDS": 3})
    assert [task.key for task in steps if task.file.startswith("ladder")] == list(training_sets.LADDER)
    assert [task.seeds for task in steps if task.network == protocol.FROZEN] == [(0, 1, 2)] * 5
    alone = study_runs.tasks_of(CLASSIFIER, given[CLASSIFIER] | {"FROZEN_SEEDS": 0})
    assert [task.key for task in alone if task.file.startswith("ladder")] == list(training_sets.LADDER[:4])
    assert not any(task.network == protocol.FROZEN for task in alone)


def test_files_of_07_hold_every_run_in_the_protocols_order(cohort, given, tmp_path):
    images = images_of(cohort)
    tasks = [task for task in study_runs.tasks_of(ABLATION, given[ABLATION]) if task.name not in left_out(images)]
    found = {task: made_up(task, images, task.name == protocol.LONGER) for task in tasks}
    (tmp_path / "published_old.npz").write_text("of an earlier run")
    study_runs.write_predictions(tmp_path, ABLATION, found)
    whole = predictions.load_predictions(tmp_path / "trial.npz")
    assert list(whole.runs["network"].unique()) == list(study_runs.SEEDS)
    assert list(whole.images["image_id"]) == list(cohort.frame.query("split != 'train'")["image_id"])
    assert study_runs.failed_lines(whole)[0] == "failed: Keras CNN, longer training, seed 0"
    by_set = study_runs.of_each_set(whole, protocol.KERAS)
    assert (
        list(by_set) == [protocol.ORIGINALS, protocol.REPEATED, protocol.ONCE] and len(by_set[protocol.ONCE].runs) == 2
    )
    published = study_runs.read_published(tmp_path)
    assert list(published) == list(training_sets.PUBLISHED) and not (tmp_path / "published_old.npz").exists()
    histories = pd.read_csv(tmp_path / "histories.csv")
    assert list(histories.columns) == list(study_runs.HISTORY_COLUMNS)
    assert list(histories["protocol"].unique()) == ["as published", "audited"]
    penalties = pd.read_csv(tmp_path / "penalties.csv")
    assert list(penalties.columns) == ["training_set", "penalty", "balanced_log_loss", "macro_auc", "chosen"]


def left_out(images) -> set[str]:
    names = [name for own in protocol.TRAINING_SETS.values() for name in own]
    return set(study_runs.allowed_sets(names, images)[1])


def test_files_of_06_give_back_the_runs_and_which_of_them_failed(cohort, given, tmp_path, capsys):
    images = images_of(cohort)
    asked = given[CLASSIFIER] | {"SEEDS": [3, 4], "PUBLISHED_SYNTHETIC": "elsewhere", "FROZEN_SEEDS": 2}
    found = {task: made_up(task, images) for task in study_runs.tasks_of(CLASSIFIER, asked)}
    (audited,) = (task for task in found if task.key == "audited")
    found[audited][1][0].log_probabilities[:] = np.nan
    study_runs.write_predictions(tmp_path, CLASSIFIER, found)
    answers = study_runs.read_classifier(tmp_path)
    assert {key: own.runs["seed"].tolist() for key, own in answers.items()} == {"as published": [3], "audited": [3]}
    assert "left out of every set: audited, seed 4" in capsys.readouterr().out
    assert set(answers["audited"].images["split"]) == {"test"}
    assert set(answers["as published"].images["split"]) == {"original", "synthetic"}
    curves = study_runs.read_curves(tmp_path, "classifier")
    assert list(curves.columns) == list(study_runs.CURVE_COLUMNS) and len(curves) == 8
    with pytest.raises(InputError, match="no image of external"):
        study_runs.read_classifier(tmp_path, ["external"])
    climbed = study_runs.read_ladder(tmp_path)
    assert list(climbed[protocol.KERAS]) == [*training_sets.LADDER, study_runs.OWN_SET]
    assert list(climbed[protocol.FROZEN]) == list(training_sets.LADDER)
    assert all(own.runs["seed"].tolist() == [3] for own in climbed[protocol.KERAS].values())
    other = replace(audited, seeds=(5, 6))
    study_runs.write_predictions(tmp_path / "other", CLASSIFIER, {other: made_up(other, images)})
    shutil.copy(tmp_path / "other" / "classifier_audited.npz", tmp_path)
    with pytest.raises(InputError, match="holds other seeds"):
        study_runs.read_classifier(tmp_path)
    with pytest.raises(InputError, match="no predictions at .*classifier_as_published.npz"):
        study_runs.read_classifier(tmp_path / "other")
    with pytest.raises(InputError, match="no classifier_images.csv in"):
        study_runs.read_makeup(tmp_path)


def test_images_are_counted_where_a_set_is_scored(cohort):
    images = images_of(cohort)
    chosen = {key: make_training_set(name, images) for key, name in study_runs.OF_PROTOCOLS.items()}
    counts = study_runs.makeup_of(chosen).set_index(["protocol", "part"])
    train = (cohort.frame["split"] == "train").sum()
    assert counts.loc[("audited", "test"), "original"] == (cohort.frame["split"] == "test").sum()
    assert counts.loc[("audited", "train")].tolist()[:2] == [train, train]
    assert counts.loc[("audited", "test"), "lesions_in_training"] == 0
    assert counts.loc[("as published", "test"), "lesions_in_training"] > 0


def test_answers_of_readers_come_back_from_a_file(cohort, tmp_path):
    images = images_of(cohort)
    key = kit.draw(images.synthetic["generator"].frame, cohort.select(split="test").frame, 2, "0")
    answers = kit.simulated_answers(key, "simulated A", 0.7, 0.8, 0)
    kit.save_answers(answers, key, tmp_path / "kit_answers.csv")
    again = kit.open_answers(tmp_path / "kit_answers.csv")
    pd.testing.assert_frame_equal(again[answers.columns], answers, check_dtype=False)
    kit.save_answers(again, None, tmp_path / "copy.csv")
    assert (tmp_path / "copy.csv").read_bytes() == (tmp_path / "kit_answers.csv").read_bytes()
    for text, said in (("", "it is empty"), ("reader\nA\n", "it needs reader, image, original_name")):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(InputError, match=said):
            kit.open_answers(tmp_path / "other.csv")
    with pytest.raises(InputError, match="no answers of readers at"):
        kit.open_answers(tmp_path / "none.csv")
    again.assign(confidence="sure").to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(InputError, match="confidence 'sure' is not a number from 1 to 5"):
        kit.open_answers(tmp_path / "other.csv")


def other_peoples(root) -> Path:
    """Melanomas and nevi of another phantom, under names of their own."""
    made = dataset.load_folder(phantom.write_cohort(root / "phantom", 56, 11, 128, "balanced", 4))
    own = made.frame[made.frame["dx"].isin(["mel", "nv"])]
    (root / "others").mkdir()
    for row in own.itertuples():
        shutil.copy(
            made.root / row.file, (root / "others" / f"OTHER_{row.image_id}").with_suffix(Path(row.file).suffix)
        )
    table = own.assign(image_id="OTHER_" + own["image_id"])[["image_id", "dx", "lesion_id"]]
    table.to_csv(root / "others" / "metadata.csv", index=False)
    return root / "others"


@pytest.mark.slow
def test_06_is_drawn_from_its_files_without_an_image(cohort, given, tmp_path):
    space, again, kept = Workspace(tmp_path / "first"), tmp_path / "again", tmp_path / "predictions"
    dataset.save_cohort(with_subset(cohort), space.out("cohort"))
    made = dataset.open_synthetic(write_synthetic(cohort, space.out("synthetic")))
    key = kit.draw(made.frame, cohort.select(split="test").frame, 2, "0")
    kit.save_answers(kit.simulated_answers(key, "simulated A", 0.7, 0.8, 0), key, space.out("kit_answers.csv"))
    others = other_peoples(tmp_path)
    own = given[CLASSIFIER] | SMALL | {"EXTERNAL": str(others), "FROZEN_SEEDS": 2, "ORIGINALS": training_sets.EVERY}
    folder, images = study_runs.ensure(space, CLASSIFIER, own)
    assert images.external is not None and study_runs.ensure(space, CLASSIFIER, own)[0] == folder  # kept runs
    shutil.move(folder, kept)  # what is committed, and nothing else
    for gone in (space.root, others):
        shutil.rmtree(gone)
    again.mkdir()
    papermill.execute_notebook(
        str(ROOT / "notebooks" / f"{CLASSIFIER}.ipynb"), str(again / "06.ipynb"),
        SMALL | {"RESULTS": str(again), "PREDICTIONS": str(kept), "EXTERNAL": str(others), "SEEDS": [0]},
        cwd=str(ROOT), kernel_name="python3", progress_bar=False,
    )  # fmt: skip
    written = {path.stem: pd.read_csv(path) for path in (again / "tables").glob("*.csv")}
    assert {"classifier_external", "classifier_ladder", "classifier_readers", "classifier_summary"} < set(written)
    assert written["classifier_report"]["seed"].eq(3).all()  # of the files, whatever the parameter says
    assert set(written["classifier_ladder"]["network"]) == {protocol.KERAS, protocol.FROZEN}
    assert written["classifier_readers"]["reader"].tolist() == ["simulated A"]
