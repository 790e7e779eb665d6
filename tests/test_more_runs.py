"""Runs added to finished predictions: a generator that came later, Table 3 as published, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dermstudy import cli, workspace
from dermstudy.classification import (
    classifier_files,
    feature_sets,
    predictions,
    protocol,
    runs,
    shipped_head,
    training,
    training_sets,
)
from dermstudy.classification.predictions import Predictions
from dermstudy.data import dataset
from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.maintenance import more_runs
from dermstudy.runner import fingerprints, profiles, study, task

LATER = "later"  # where the generator that came later painted


@pytest.fixture(scope="module")
def finished(cohort, tmp_path_factory):
    """A results folder with the head's predictions, whose generator's images are gone and whose second one has painted."""
    space = workspace.Workspace(tmp_path_factory.mktemp("more") / "results")
    dataset.save_cohort(cohort, space.out("cohort"))
    paint(cohort, space.out("synthetic"))
    own = parameters(space)
    settings = shipped_head.load_head(workspace.from_root(own["HEAD"])).settings
    images = more_runs.images_at_hand(space, own)
    names, _ = runs.frozen_sets(images, 0)
    assert protocol.ONCE in names and protocol.SECOND not in names
    frozen = runs.frozen_runs(images, settings, range(own["FROZEN_SEEDS"]), space.out("features"))
    others = [runs.without(network, "it has no seeds") for network in (protocol.TUNED, protocol.KERAS)]
    folder = runs.save(space.root / "predictions", frozen, *others, {})
    runs.describe(images, folder)
    shutil.move(space.out("synthetic"), space.root / LATER)
    return space


def paint(cohort, folder) -> None:
    """Training images under other names, in the place of synthetic ones: enough for a dose of 1 of all originals."""
    chosen = cohort.frame[cohort.frame["split"] == "train"]
    made = chosen.assign(
        source_image_id=chosen["image_id"], image_id="synthetic_" + chosen["image_id"], seed=range(len(chosen))
    )
    made["file"] = made["image_id"] + ".jpg"
    folder.mkdir(parents=True)
    for old, new in zip(chosen["file"], made["file"], strict=True):
        shutil.copy(cohort.root / old, folder / new)
    made[list(dataset.SYNTHETIC_COLUMNS)].to_csv(folder / "index.csv", index=False)


def parameters(space, **given) -> dict:
    return task.parameters("smoke", str(space.root)) | {"ORIGINALS": runs.EVERY} | given


def copied(finished, tmp_path):
    shutil.copytree(finished.root, tmp_path / "results")
    return workspace.Workspace(tmp_path / "results")


@pytest.mark.slow
def test_a_generator_that_came_later_costs_its_own_runs_alone(finished, tmp_path, capsys):
    space = copied(finished, tmp_path)
    folder, own = space.root / "predictions", parameters(finished, SECOND_SYNTHETIC=str(finished.root / LATER))
    before, counts = predictions.load(folder / "trial.npz"), pd.read_csv(folder / "counts.csv")
    assert more_runs.add_frozen(space, own, folder) == [protocol.SECOND]
    said = capsys.readouterr().out
    assert f"{protocol.ORIGINALS} made again: probabilities within 0.0" in said and f"{protocol.SECOND}: " in said
    after = predictions.load(folder / "trial.npz")
    assert len(after.runs) == len(before.runs) + own["FROZEN_SEEDS"] and after.images.equals(before.images)
    kept = after.select(training_set=before.runs["training_set"].unique())
    assert kept.runs.equals(before.runs) and np.array_equal(kept.log_probabilities, before.log_probabilities)
    order = list(dict.fromkeys(after.runs["training_set"]))
    assert order == [name for name in protocol.TRAINING_SETS[protocol.FROZEN] if name in order]
    # the second generator's images are the first one's here: its runs are those of dose 1
    first, second = (after.select(training_set=name) for name in (protocol.ONCE, protocol.SECOND))
    np.testing.assert_allclose(second.log_probabilities, first.log_probabilities, atol=0.02)
    left_out = pd.read_csv(folder / "left_out.csv").query("network == @protocol.FROZEN")
    assert protocol.SECOND not in set(left_out["training_set"]) and len(left_out)
    penalties = pd.read_csv(folder / "penalties.csv").groupby("training_set", sort=False)["chosen"].sum()
    assert list(penalties.index) == order and penalties.eq(1).all()
    shown = pd.read_csv(folder / "counts.csv")
    assert shown["synthetic, second generator"].sum() == counts["training originals"].sum()
    assert list(shown.columns) == [
        "entity", "training originals", "synthetic, generator", "synthetic, second generator", "validation originals",
        "test originals",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(shown[list(counts.columns)], counts)
    assert more_runs.add_frozen(space, own, folder) == []
    finished_tables = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    predictions.save(before, folder / "trial.npz")  # as a call leaves it that was cut before its last step
    assert more_runs.add_frozen(space, own, folder) == [protocol.SECOND]
    assert {path.name: path.read_bytes() for path in folder.glob("*.csv")} == finished_tables


@pytest.mark.slow
def test_runs_of_another_trial_are_not_added_to(finished, tmp_path):
    space = copied(finished, tmp_path)
    folder, own = space.root / "predictions", parameters(finished, SECOND_SYNTHETIC=str(finished.root / LATER))
    kept = predictions.load(folder / "trial.npz")
    altered = kept.log_probabilities.copy()
    altered[(kept.runs["training_set"] == more_runs.CHECKED).to_numpy()] -= 0.5
    for other, reason in (
        (replace(kept, log_probabilities=altered), "answers differ by up to 0"),
        (replace(kept, images=kept.images.assign(image_id=kept.images["image_id"] + "x")), "their images or seeds"),
    ):
        predictions.save(other, folder / "trial.npz")
        content = (folder / "trial.npz").read_bytes()
        with pytest.raises(InputError, match=f"the kept runs of 'all originals' are not those .*{reason}"):
            more_runs.add_frozen(space, own, folder)
        assert (folder / "trial.npz").read_bytes() == content


@pytest.mark.slow
def test_table_3_is_added_where_its_generator_has_painted(finished, tmp_path):
    space = copied(finished, tmp_path)
    folder, painted = space.root / "predictions", str(finished.root / LATER)
    assert more_runs.add_published(space, parameters(finished, PUBLISHED_SYNTHETIC="no/such/folder"), folder) == []
    assert more_runs.add_published(space, parameters(finished), folder) == []
    own = parameters(finished, PUBLISHED_SYNTHETIC=painted, PUBLISHED_SEEDS=1, EPOCHS=1)
    assert more_runs.add_published(space, own, folder) == [
        f"as published, {name}" for name in ("original", "synthetic", "combined")
    ]
    assert set(runs.published_frames(folder)) == {"original", "synthetic", "combined"}
    histories = pd.read_csv(folder / "histories.csv")
    assert histories["protocol"].eq("as published").sum() == 3
    (folder / "published_combined.npz").unlink()  # as a call leaves it that was cut
    assert len(more_runs.add_published(space, own, folder)) == 3
    pd.testing.assert_frame_equal(pd.read_csv(folder / "histories.csv"), histories)
    assert more_runs.add_published(space, own, folder) == []
    assert len(more_runs.add_published(space, own | {"PUBLISHED_SEEDS": 2}, folder)) == 3
    assert runs.published_predictions(folder)["original"].runs["seed"].tolist() == [0, 1]


@pytest.mark.slow
def test_06_is_added_with_the_audited_network_of_the_trial(finished, tmp_path):
    space = copied(finished, tmp_path)
    folder, painted = space.root / "predictions", str(finished.root / LATER)
    own = profiles.complete("smoke", str(space.root))["06_cnn_classifier"] | {
        "ORIGINALS": runs.EVERY, "EPOCHS": 1, "SEEDS": [0, 1], "WORKERS": 1,
        "PUBLISHED_SYNTHETIC": painted, "PARTNER_SYNTHETIC": painted,
    }  # fmt: skip
    assert more_runs.add_classifier(space, own | {"PUBLISHED_SYNTHETIC": ""}, folder) == []
    assert more_runs.add_classifier(space, own | {"PUBLISHED_SYNTHETIC": "no/such/folder"}, folder) == []
    with pytest.raises(InputError, match="have the seeds none, SEEDS of 06 says"):
        more_runs.add_classifier(space, own, folder)
    kept = predictions.load(folder / "trial.npz")
    keras = made_up_keras(kept)
    predictions.save(predictions.joined([kept, keras]), folder / "trial.npz")
    curve = {"network": protocol.KERAS, "protocol": "audited", "training_set": protocol.ONCE}
    curve |= {"epoch": 1, "loss": 2.0, "validation_loss": 1.5}
    pd.DataFrame([curve | {"seed": seed, "steps": 9} for seed in (0, 1)]).to_csv(folder / "histories.csv", index=False)
    steps = [f"06's ladder, {name}" for name in training_sets.LADDER]
    assert more_runs.add_classifier(space, own, folder) == ["06, as published", "06, audited", *steps]
    of_both, seeds = classifier_files.load(folder, "classifier")
    assert seeds == [0, 1] and of_both["audited"][1].history["validation_loss"].tolist() == [1.5]
    cohort, pool = (dataset.open_cohort(space.out("cohort")), dataset.open_synthetic(finished.root / LATER))
    cohort = runs.gather(cohort, {}).originals
    whole = training_sets.published_set("combined", cohort, training_sets.one_an_original(pool, cohort), own["SEED"])
    steps_first = training_sets.ladder(cohort, pool, None, own["SEED"])[training_sets.LADDER[0]]
    for chosen, found in ((whole, of_both), (steps_first, classifier_files.load(folder, "ladder")[0])):
        again = training.train_once(chosen, task.config_of(own), 0, space.out("classifier"), training.threads_of(1))
        ran = found["as published"][0].predictions  # two sets of one name, and each has its own runs
        np.testing.assert_allclose(ran[list(CODES)], again.predictions[list(CODES)], rtol=5e-3)
    assert len(whole.rows("train")) > len(steps_first.rows("train"))
    shown = keras.images["split"].isin(classifier_files.TESTED).to_numpy()
    for place, frame in enumerate(classifier_files.tested(of_both["audited"])):
        own_rows = np.exp(keras.log_probabilities[place][shown])
        np.testing.assert_allclose(frame[list(CODES)].to_numpy(), own_rows, rtol=5e-3)
    counts = classifier_files.makeup(folder)
    originals = pd.read_csv(folder / "counts.csv")["training originals"].sum()
    assert counts.loc[("audited", "train"), ["original", "synthetic"]].tolist() == [originals, originals]
    assert counts.loc[("audited", "test"), "lesions_in_training"] == 0
    assert list(classifier_files.load(folder, "ladder")[0]) == list(training_sets.LADDER)
    assert more_runs.add_classifier(space, own, folder) == []
    own["PARTNER_SYNTHETIC"] = ""  # the ladder's last step takes the study's own images, as 06 does
    last = folder / "ladder_generator_without_test_lesions.npz"
    content = last.read_bytes()
    last.unlink()  # as 06 leaves it that had no generator that saw all lesions
    with pytest.raises(InputError, match="03_sample"):
        more_runs.add_classifier(space, own, folder)
    shutil.copytree(finished.root / LATER, space.out("synthetic"))
    assert more_runs.add_classifier(space, own, folder) == ["06, as published", "06, audited", *steps]
    assert last.read_bytes() == content


@pytest.mark.slow
def test_the_fine_tuned_network_is_added_and_then_its_epochs_alone(finished, tmp_path, capsys):
    space = copied(finished, tmp_path)
    shutil.copytree(finished.root / LATER, space.out("synthetic"))
    folder, own = space.root / "predictions", parameters(finished, TUNED_SEEDS=1, TUNED_SIDE=64, TUNED_EPOCHS=1)
    names = [f"{protocol.TUNED}, {name}" for name in protocol.TRAINING_SETS[protocol.TUNED]]
    before = predictions.load(folder / "trial.npz")
    assert more_runs.add_tuned(space, own | {"TUNED_SEEDS": 0}, folder) == []
    assert more_runs.add_tuned(space, own, folder) == names and more_runs.add_tuned(space, own, folder) == []
    after = predictions.load(folder / "trial.npz")
    assert len(after.runs) == len(before.runs) + len(names)
    left_out = pd.read_csv(folder / "left_out.csv")
    assert set(left_out["network"]) == {protocol.FROZEN, protocol.KERAS}
    curves = pd.read_csv(folder / "histories.csv")
    assert curves["network"].tolist() == [protocol.TUNED] * len(names) and curves["macro_auc"].notna().all()
    content = (folder / "trial.npz").read_bytes()
    curves[:0].to_csv(folder / "histories.csv", index=False)  # runs of an older code, which kept no epochs
    capsys.readouterr()
    assert more_runs.add_tuned(space, own, folder) == names
    assert "fine-tuned made again: probabilities within 0.0" in capsys.readouterr().out
    pd.testing.assert_frame_equal(pd.read_csv(folder / "histories.csv"), curves)
    assert (folder / "trial.npz").read_bytes() == content
    shutil.rmtree(space.out("synthetic"))
    curves[:0].to_csv(folder / "histories.csv", index=False)
    assert more_runs.add_tuned(space, own, folder) == []  # two of its training sets cannot be made again


def made_up_keras(kept: Predictions) -> Predictions:
    """Two runs of the Keras network on dose 1 that learned nothing, without a training."""
    shape = (2, len(kept.images), len(CODES))
    shares = np.random.default_rng(0).dirichlet(np.ones(len(CODES)), shape[:2]).astype(np.float32)
    ran = pd.DataFrame({"network": protocol.KERAS, "training_set": protocol.ONCE, "seed": [0, 1]})
    return Predictions(kept.images, ran, np.full((2, len(CODES)), 1 / len(CODES)), np.log(shares))


@pytest.mark.slow
def test_07_is_drawn_anew_from_them_without_an_image(finished, tmp_path):
    space = copied(finished, tmp_path)
    shutil.rmtree(space.artifacts)
    whole = {"data_hash": "of the cohort that is gone", "profile": "smoke", "notebooks": {}}
    (space.root / "manifest.json").write_text(json.dumps(whole))
    assert study.run("smoke", results=str(space.root), only="07", redraw=True) == space.root
    notes = json.loads((space.root / "manifest.json").read_text())
    assert notes["data_hash"] == whole["data_hash"] and list(notes["notebooks"]) == ["07_ablation"]
    assert notes["notebooks"]["07_ablation"]["parameters"]["PREDICTIONS"] == f"{space.root}/predictions"
    assert fingerprints.older(space.root) == []  # where its numbers were read from makes it no other notebook
    seeds = pd.read_csv(space.tables / "ablation.csv").query("training_set == @protocol.ORIGINALS")["seed"]
    assert set(seeds) == set(range(parameters(finished)["FROZEN_SEEDS"]))
    assert cli.main(["run", "smoke", "--results", str(space.root), "--only", "04", "--redraw"]) == 2
    shutil.rmtree(space.root / "predictions")
    with pytest.raises(InputError, match="no finished predictions in .*run 06 and 07 and copy theirs"):
        study.run("smoke", results=str(space.root), only="07", redraw=True)


def test_the_command_names_what_is_missing(tmp_path, capsys):
    assert more_runs.main(["smoke", "--results", str(tmp_path / "none")]) == 2
    assert "no predictions in" in capsys.readouterr().err and not (tmp_path / "none").exists()
    assert more_runs.main(["nothing"]) == 2


def test_a_pool_that_no_profile_names_is_not_at_hand(finished):
    assert more_runs.images_at_hand(finished, parameters(finished)).synthetic == {}
    images = more_runs.images_at_hand(finished, parameters(finished, SECOND_SYNTHETIC=str(finished.root / LATER)))
    assert list(images.synthetic) == [feature_sets.SECOND]
