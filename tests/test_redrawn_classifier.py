"""05 and 06 drawn again from files alone: answers of readers, and answers by image of every network of 06."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
from conftest import ROOT

from dermstudy.classification import classifier_files, protocol, training, training_sets
from dermstudy.data import dataset, splits
from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.phantom import cohort as phantom
from dermstudy.readers import kit
from dermstudy.workspace import Workspace

SMALL = {"SIDE": 32, "FILTERS": [4, 8, 8], "EPOCHS": 1, "SEEDS": [3], "BOOTSTRAP": 20}
EXECUTED = {"cwd": str(ROOT), "kernel_name": "python3", "progress_bar": False}


@pytest.fixture(scope="module")
def originals(cohort):
    return replace(cohort, frame=cohort.frame.assign(subset=splits.nested_subset(cohort.frame, 0)))


@pytest.fixture(scope="module")
def synthetic(originals, tmp_path_factory):
    """The phantom's training images in the place of synthetic ones, in the folder that 03 leaves."""
    folder = tmp_path_factory.mktemp("synthetic") / "synthetic"
    folder.mkdir()
    rows = []
    for number, row in enumerate(originals.frame[originals.frame["split"] == "train"].itertuples()):
        name = f"synthetic_{number:04d}"
        shutil.copy(originals.root / row.file, folder / f"{name}.png")
        rows.append((name, row.dx, f"{name}.png", row.caption, row.image_id, number))
    pd.DataFrame(rows, columns=dataset.SYNTHETIC_COLUMNS).to_csv(folder / "index.csv", index=False)
    return dataset.open_synthetic(folder)


@pytest.fixture(scope="module")
def sets(originals, synthetic):
    pools = {"generator": synthetic}
    return {
        "as published": training_sets.published_set("combined", originals, synthetic, 0),
        "audited": training_sets.audited_set(protocol.ONCE, originals, pools),
    }


def made_up(chosen, seed: int, failed: bool = False) -> training.Result:
    """A run that learned nothing, without a training."""
    values = np.random.default_rng(seed).dirichlet(np.ones(7), len(chosen.rows("test")))
    history = pd.DataFrame({"epoch": [1, 2], "loss": [1.0, 0.5], "validation_loss": [1.0, 0.75]})
    rows = training._answers(chosen, np.where(failed, np.nan, values))
    return training.Result(rows, history[:0] if failed else history)


def test_files_give_back_the_runs_and_which_of_them_failed(sets, tmp_path, capsys):
    results = {name: [made_up(chosen, 0), made_up(chosen, 1, name == "audited")] for name, chosen in sets.items()}
    classifier_files.save(tmp_path, "classifier", sets, results, [3, 4])
    found, seeds = classifier_files.load(tmp_path, "classifier")
    assert seeds == [3, 4] and list(found) == list(sets) and found["audited"][1].failed
    for name in sets:
        before, after = results[name][0].predictions, found[name][0].predictions
        assert after["image_id"].tolist() == before["image_id"].tolist()
        np.testing.assert_allclose(after[list(CODES)], before[list(CODES)], rtol=5e-3)
        pd.testing.assert_frame_equal(found[name][0].history, results[name][0].history)
    assert found["audited"][1].history.empty and found["audited"][1].predictions["answer"].eq("").all()
    kept, sound = training.finished(found, seeds)
    assert sound == [3] and "seed 4" in capsys.readouterr().out
    (own,) = classifier_files.tested(kept["audited"])
    assert set(own["image_id"]) == set(sets["audited"].rows("test").query("split == 'test'")["image_id"])
    assert set(classifier_files.tested(kept["as published"])[0]["split"]) == {"original", "synthetic"}
    with pytest.raises(InputError, match="no image of external"):
        classifier_files.tested(kept["audited"], classifier_files.OTHERS)


def test_files_that_lack_or_do_not_belong_together_are_named(sets, tmp_path):
    with pytest.raises(InputError, match="no predictions at .*classifier_as_published.npz"):
        classifier_files.load(tmp_path, "classifier")
    with pytest.raises(InputError, match="no counts of images"):
        classifier_files.makeup(tmp_path)
    for name, seeds in (("audited", [1]), ("as published", [2])):
        own = {name: sets[name]}
        classifier_files.save(tmp_path / name, "classifier", own, {name: [made_up(sets[name], 0)]}, seeds)
        for path in (tmp_path / name).glob("*.npz"):
            shutil.copy(path, tmp_path)
    with pytest.raises(InputError, match="other seeds"):
        classifier_files.load(tmp_path, "classifier")
    shutil.rmtree(tmp_path / "as published")
    shutil.copy(tmp_path / "classifier_audited.npz", tmp_path / "classifier_as_published.npz")
    with pytest.raises(InputError, match="no learning curves"):
        classifier_files.load(tmp_path, "classifier")
    classifier_files.save(tmp_path, "classifier", own, {"as published": [made_up(sets["as published"], 0)]}, [2])
    assert not (tmp_path / "classifier_audited.npz").exists()  # of an earlier run


def test_images_are_counted_where_a_set_is_scored(sets, tmp_path):
    classifier_files.describe(sets, tmp_path)
    counts, audited = classifier_files.makeup(tmp_path), sets["audited"]
    test = audited.rows("test")
    assert counts.loc[("audited", "test"), "original"] == (test["split"] == "test").sum()
    assert counts.loc[("audited", "train")].tolist()[:2] == audited.rows("train")["kind"].value_counts().tolist()
    assert counts.loc[("audited", "test"), "lesions_in_training"] == 0
    assert counts.loc[("as published", "test"), "lesions_in_training"] > 0


def test_answers_of_readers_come_back_from_a_file(originals, synthetic, tmp_path):
    held_out = originals.select(split="test").frame
    key = kit.draw(synthetic.frame, held_out, 2, "0")
    answers = kit.simulated_answers(key, "simulated A", 0.7, 0.8, 0)
    kit.save_answers(answers, key, tmp_path / "kit_answers.csv")
    again = kit.open_answers(tmp_path / "kit_answers.csv")
    pd.testing.assert_frame_equal(again[answers.columns], answers, check_dtype=False)
    assert again["original_name"].tolist() == key.sort_values("image")["original_name"].tolist()
    kit.save_answers(again, None, tmp_path / "copy.csv")
    assert (tmp_path / "copy.csv").read_bytes() == (tmp_path / "kit_answers.csv").read_bytes()
    few = again.drop(columns=["confidence", "kit", "provenance", "original_name"])
    kit.save_answers(few, None, tmp_path / "few.csv")
    assert kit.open_answers(tmp_path / "few.csv")["original_name"].eq("").all()
    for text, said in (("", "no answers"), ("reader\nA\n", "needs the columns"), (None, "no answers of readers at")):
        path = tmp_path / "other.csv"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        with pytest.raises(InputError, match=said):
            kit.open_answers(path)
    again.assign(confidence="sure").to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(InputError, match="confidence is no number"):
        kit.open_answers(tmp_path / "other.csv")


def other_peoples(root):
    """Melanomas and nevi of another phantom, under names of their own."""
    made = dataset.load_folder(phantom.write_cohort(root / "phantom", 140, 11, 128, "balanced", 4))
    own = made.frame[made.frame["dx"].isin(["mel", "nv"])]
    (root / "others").mkdir()
    for row in own.itertuples():
        shutil.copy(
            made.root / row.file, (root / "others" / f"OTHER_{row.image_id}").with_suffix(Path(row.file).suffix)
        )
    table = own.assign(image_id="OTHER_" + own["image_id"])[["image_id", "dx", "lesion_id"]]
    table.to_csv(root / "others" / "metadata.csv", index=False)
    return root / "others"


def run(stem: str, results, **given) -> None:
    results.mkdir(exist_ok=True)
    given |= {"RESULTS": str(results)}
    source = ROOT / "notebooks" / f"{stem}.ipynb"
    papermill.execute_notebook(str(source), str(results / f"{stem}.ipynb"), given, **EXECUTED)


@pytest.mark.slow
def test_05_and_06_are_drawn_again_without_an_image(originals, synthetic, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    dataset.save_cohort(originals, first / "artifacts" / "cohort")
    shutil.copytree(synthetic.root, first / "artifacts" / "synthetic")
    others = other_peoples(tmp_path)
    run("05_dermatologist_study", first, KIT_PER_ENTITY=2, BOOTSTRAP=20)
    run("06_cnn_classifier", first, EXTERNAL=str(others), **SMALL)

    predictions = tmp_path / "predictions"  # what is committed, and nothing else
    shutil.copytree(first / "artifacts" / "predictions", predictions)
    written = sorted(path.name for path in (first / "tables").glob("*.csv"))
    shutil.rmtree(first / "artifacts")
    shutil.rmtree(others)
    run("05_dermatologist_study", again, ANSWERS=str(predictions / "kit_answers.csv"), BOOTSTRAP=20)
    run("06_cnn_classifier", again, PREDICTIONS=str(predictions), EXTERNAL=str(others), **SMALL | {"SEEDS": [0]})
    assert sorted(path.name for path in (again / "tables").glob("*.csv")) == written
    assert {"classifier_external.csv", "classifier_ladder.csv", "kit_agreement.csv"} < set(written)
    for name in written:
        assert (again / "tables" / name).read_bytes() == (first / "tables" / name).read_bytes(), name
    for path in Workspace(first).pictures().values():
        assert (again / "figures" / path.name).read_bytes() == path.read_bytes(), path.name
    report = pd.read_csv(again / "tables" / "classifier_report.csv")
    assert report["seed"].eq(3).all()  # of the files, whatever the parameter says
