"""Runs added to finished predictions: a generator that came later, Table 3 as published, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_trial import write_synthetic

from dermstudy import workspace
from dermstudy.classification import protocol, study_runs, training_sets
from dermstudy.classification.predictions import load_predictions, save_predictions
from dermstudy.classification.study_runs import ABLATION, CLASSIFIER
from dermstudy.data import dataset
from dermstudy.files import InputError
from dermstudy_commands import cli
from dermstudy_commands.maintenance import more_runs
from dermstudy_commands.runner import fingerprints, profiles, study

LATER = "later"  # where the generator that came later painted


def parameters(space, stem: str = ABLATION, **given) -> dict:
    alone = {"TUNED_SEEDS": 0, "KERAS_SEEDS": 0, "PUBLISHED_SEEDS": 0, "AUGMENTED": 0}
    own = profiles.complete("smoke", str(space.root))[stem] | {"ORIGINALS": training_sets.EVERY}
    return own | {name: value for name, value in alone.items() if name in own} | given


@pytest.fixture(scope="module")
def finished(cohort, tmp_path_factory):
    """A results folder with the probe's predictions, whose generator's images are gone and whose second one has painted."""
    space = workspace.Workspace(tmp_path_factory.mktemp("more") / "results")
    dataset.save_cohort(cohort, space.out("cohort"))
    write_synthetic(cohort, space.out("synthetic"))
    study_runs.ensure(space, ABLATION, parameters(space))
    shutil.move(space.out("predictions"), space.root / "predictions")
    shutil.move(space.out("synthetic"), space.root / LATER)
    return space


def copied(finished, tmp_path):
    shutil.copytree(finished.root, tmp_path / "results")
    return workspace.Workspace(tmp_path / "results")


@pytest.mark.slow
def test_a_generator_that_came_later_costs_its_own_runs_alone(finished, tmp_path, capsys):
    space = copied(finished, tmp_path)
    folder, own = space.root / "predictions", parameters(finished, SECOND_SYNTHETIC=str(finished.root / LATER))
    before, counts = load_predictions(folder / "trial.npz"), pd.read_csv(folder / "counts.csv")
    assert more_runs.add_runs(space, ABLATION, own, folder) == [f"{protocol.FROZEN}, {protocol.SECOND}"]
    said = capsys.readouterr().out
    assert f"{protocol.ORIGINALS} made again: probabilities within 0.0" in said and f"{protocol.SECOND}: " in said
    after = load_predictions(folder / "trial.npz")
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
    pd.testing.assert_frame_equal(shown[list(counts.columns)], counts)
    assert more_runs.add_runs(space, ABLATION, own, folder) == []
    tables = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    save_predictions(before, folder / "trial.npz")  # as a call leaves it that was cut before its last step
    assert more_runs.add_runs(space, ABLATION, own, folder) == [f"{protocol.FROZEN}, {protocol.SECOND}"]
    assert {path.name: path.read_bytes() for path in folder.glob("*.csv")} == tables


@pytest.mark.slow
def test_runs_of_another_trial_are_not_added_to(finished, tmp_path):
    space = copied(finished, tmp_path)
    folder, own = space.root / "predictions", parameters(finished, SECOND_SYNTHETIC=str(finished.root / LATER))
    kept = load_predictions(folder / "trial.npz")
    altered = kept.log_probabilities.copy()
    altered[(kept.runs["training_set"] == more_runs.CHECKED).to_numpy()] -= 0.5
    for other, reason in (
        (replace(kept, log_probabilities=altered), "answers differ by up to 0"),
        (replace(kept, images=kept.images.assign(image_id=kept.images["image_id"] + "x")), "their images or seeds"),
    ):
        save_predictions(other, folder / "trial.npz")
        content = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(InputError, match=f"the kept runs of 'frozen features, all originals' are not .*{reason}"):
            more_runs.add_runs(space, ABLATION, own, folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == content


@pytest.mark.slow
def test_table_3_and_06_are_added_where_their_generator_has_painted(finished, tmp_path):
    space = copied(finished, tmp_path)
    folder, painted = space.root / "predictions", str(finished.root / LATER)
    short = {"PUBLISHED_SYNTHETIC": painted, "EPOCHS": 1}
    published = [f"{protocol.KERAS}, {name}" for name in training_sets.AS_PUBLISHED]
    none = parameters(finished, PUBLISHED_SYNTHETIC="no/such/folder", PUBLISHED_SEEDS=0)
    assert more_runs.add_runs(space, ABLATION, none, folder) == []
    own = parameters(finished, PUBLISHED_SEEDS=1, **short)
    assert more_runs.add_runs(space, ABLATION, own, folder) == published
    histories = pd.read_csv(folder / "histories.csv")
    assert histories["protocol"].tolist() == ["as published"] * 3
    (folder / "published_combined.npz").unlink()  # as a call leaves it that was cut
    assert more_runs.add_runs(space, ABLATION, own, folder) == published[2:]
    assert len(pd.read_csv(folder / "histories.csv")) == 3
    assert set(study_runs.read_published(folder)) == set(training_sets.PUBLISHED)
    of_06 = parameters(finished, CLASSIFIER, SEEDS=[0], FROZEN_SEEDS=1, PARTNER_SYNTHETIC=painted, **short)
    added = more_runs.add_runs(space, CLASSIFIER, of_06, folder)
    steps = [f"{network}, {name}" for network in (protocol.KERAS, protocol.FROZEN) for name in training_sets.STEPS]
    assert sorted(added) == sorted([f"{protocol.KERAS}, as published, combined", *steps])  # dose 1 has no images here
    save_predictions(load_predictions(folder / "ladder_as_published.npz"), folder / "classifier_audited.npz")
    assert more_runs.add_runs(space, CLASSIFIER, of_06, folder) == []


@pytest.mark.slow
def test_07_is_drawn_anew_from_them_without_an_image(finished, tmp_path):
    space = copied(finished, tmp_path)
    shutil.rmtree(space.artifacts)
    whole = {"data_hash": "of the cohort that is gone", "profile": "smoke", "notebooks": {}}
    (space.root / "manifest.json").write_text(json.dumps(whole))
    assert study.run("smoke", results=str(space.root), only="07", redraw=True) == space.root
    notes = json.loads((space.root / "manifest.json").read_text())
    assert notes["data_hash"] == whole["data_hash"] and list(notes["notebooks"]) == [ABLATION]
    assert notes["notebooks"][ABLATION]["parameters"]["PREDICTIONS"] == f"{space.root}/predictions"
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
