"""The trial's runs: which images, which training sets they allow, and files from which everything is drawn again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from simulated_trial import simulated

from dermstudy.classification import (
    feature_sets,
    forest,
    networks,
    predictions,
    protocol,
    runs,
    scores,
    secondary,
    training_sets,
    trial,
)
from dermstudy.classification.encoding import Settings, View
from dermstudy.data import dataset
from dermstudy.files import InputError

SMALL = networks.ClassifierConfig(side=32, filters=(4, 8, 8), epochs=1)
SETTINGS = Settings((View(64),), ("pixels",), 6)


@pytest.fixture(scope="module")
def synthetic(cohort):
    """Three training images an entity under other names, in the place of synthetic ones."""
    chosen = cohort.frame[cohort.frame["split"] == "train"].groupby("dx").head(3)
    made = chosen.assign(source_image_id=chosen["image_id"], image_id="synthetic_" + chosen["image_id"])
    columns = ["image_id", "dx", "file", "caption", "source_image_id"]
    return dataset.Cohort("synthetic", cohort.root, made[columns].reset_index(drop=True), "s")


def test_a_small_run_trains_on_the_originals_that_lent_a_caption(cohort, synthetic):
    pools = {feature_sets.WHOLE: synthetic, feature_sets.SECOND: None}
    images = runs.gather(cohort, pools, runs.CAPTIONED)
    train = images.originals.select(split="train").frame
    assert set(train["image_id"]) == set(synthetic.frame["source_image_id"]) and list(images.synthetic) == ["generator"]
    assert train["subset"].groupby(train["dx"]).sum().between(1, 2).all()
    held = cohort.frame["split"] != "train"
    assert len(images.originals) == len(train) + held.sum()
    whole = runs.gather(replace(cohort, frame=cohort.frame.assign(subset=False)), pools)
    assert not whole.originals.frame["subset"].any() and len(whole.originals) == len(cohort)  # the cohort's own column
    with pytest.raises(InputError, match="ORIGINALS is 'some': give 'all', or 'captioned'"):
        runs.gather(cohort, pools, "some")
    elsewhere = replace(synthetic, frame=synthetic.frame.assign(source_image_id="none"))
    with pytest.raises(InputError, match="no training original lent a synthetic image its caption"):
        runs.gather(cohort, {feature_sets.WHOLE: elsewhere}, runs.CAPTIONED)


def test_training_sets_that_the_images_do_not_allow_are_left_out_with_the_reason(cohort, synthetic):
    images = runs.gather(cohort, {feature_sets.WHOLE: synthetic}, runs.CAPTIONED)
    kept, left_out = runs.possible(protocol.FROZEN, images)
    assert {protocol.ORIGINALS, protocol.HALF, protocol.ONCE, protocol.REPEATED, protocol.SUBSET} <= set(kept)
    reasons = left_out.set_index("training_set")["reason"]
    assert set(reasons.index) | set(kept) == set(protocol.TRAINING_SETS[protocol.FROZEN])
    assert "needs synthetic images of the second generator" in reasons[protocol.SECOND]
    assert "takes 6 synthetic images of melanoma" in reasons[protocol.TWICE]
    kept, left_out = runs.possible(protocol.KERAS, images)
    assert kept == list(protocol.TRAINING_SETS[protocol.KERAS]) and left_out.empty
    kept, left_out = runs.possible(protocol.KERAS, runs.gather(cohort, {feature_sets.WHOLE: synthetic}))
    assert kept == [protocol.ORIGINALS, protocol.REPEATED]  # too few images for dose 1 of all originals
    assert set(left_out["training_set"]) == {protocol.ONCE, protocol.LONGER}


@pytest.mark.slow
def test_the_runs_are_kept_in_files_from_which_all_is_drawn_again(cohort, synthetic, tmp_path):
    images = runs.gather(cohort, {feature_sets.WHOLE: synthetic}, runs.CAPTIONED)
    frozen = runs.frozen_runs(images, SETTINGS, range(2), tmp_path / "features")
    assert protocol.STRONGER in set(frozen.left_out["training_set"])
    keras = runs.keras_runs(images, SMALL, range(2), tmp_path / "runs")
    published = runs.published_runs(images.originals, synthetic, SMALL, range(2), tmp_path / "runs", test_fraction=0.4)
    tuned = runs.without(protocol.TUNED, "it has no seeds")
    folder = runs.save(tmp_path / "predictions", frozen, tuned, keras, published)
    found = predictions.load(folder / "trial.npz")
    assert set(found.runs["network"]) == {protocol.FROZEN, protocol.KERAS} and set(found.runs["seed"]) == {0, 1}
    held = cohort.frame[cohort.frame["split"] != "train"]
    assert found.images["image_id"].tolist() == held["image_id"].tolist()
    shares = images.originals.select(split="train").frame["dx"].value_counts(normalize=True)
    prior = found.priors[(found.runs["training_set"] == protocol.REPEATED).to_numpy()]
    np.testing.assert_allclose(prior[-1], [shares[code] for code in feature_sets.CODES])

    answers = runs.frames_of(found, protocol.KERAS)
    assert set(answers) == set(protocol.TRAINING_SETS[protocol.KERAS]) and all(
        len(own) == 2 for own in answers.values()
    )
    kept = found.select(split="test", network=protocol.KERAS)
    first = answers[protocol.ORIGINALS][0]
    assert first["image_id"].tolist() == kept.images["image_id"].tolist() and first["kind"].eq("original").all()
    right = kept.log_probabilities[0].argmax(axis=1) == pd.Index(feature_sets.CODES).get_indexer(kept.images["dx"])
    assert scores.accuracy(first) == pytest.approx(right.mean())

    theirs = runs.frames_of(predictions.load(folder / "published_combined.npz"), protocol.KERAS, None)
    assert set(theirs["combined"][0]["kind"]) == {"original", "synthetic"}
    histories = pd.read_csv(folder / "histories.csv")
    assert set(histories["protocol"]) == set(training_sets.PROTOCOLS) and histories["loss"].notna().all()
    steps = runs.steps_table(histories).set_index(["training_set", "seed"])
    sizes = {
        name: len(training_sets.audited_set(name, images.originals, images.synthetic).rows("train")) for name in answers
    }
    for name in (protocol.ONCE, protocol.LONGER):
        assert steps.loc[(name, 1), "steps"] == -(-sizes[protocol.ONCE] // SMALL.batch) * SMALL.epochs
    assert steps["epochs"].eq(1).all() and steps["kept_steps"].eq(steps["steps"]).all()
    rows = runs.as_run_rows(secondary.run_table(found))
    assert list(rows.columns) == scores.RUN_COLUMNS and set(rows["model"]) == {protocol.FROZEN, protocol.KERAS}


@pytest.mark.slow
def test_a_network_that_did_not_run_is_left_out_by_name(cohort, synthetic, tmp_path):
    images = runs.gather(cohort, {feature_sets.WHOLE: synthetic}, runs.CAPTIONED)
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "published_combined.npz").write_text("of an earlier run")
    frozen = runs.frozen_runs(images, SETTINGS, range(2), tmp_path / "features")
    others = [runs.without(network, "it has no seeds") for network in (protocol.TUNED, protocol.KERAS)]
    folder = runs.save(tmp_path / "predictions", frozen, *others, {})
    found, left_out = predictions.load(folder / "trial.npz"), pd.read_csv(folder / "left_out.csv")
    assert set(found.runs["network"]) == {protocol.FROZEN}
    gone = left_out[left_out["reason"] == "it has no seeds"].groupby("network")["training_set"].agg(tuple)
    assert gone.to_dict() == {name: protocol.TRAINING_SETS[name] for name in (protocol.TUNED, protocol.KERAS)}
    assert runs.published_frames(folder) == {} and runs.frames_of(found, protocol.KERAS) == {}
    runs.describe(images, folder)
    assert pd.read_csv(folder / "counts.csv", index_col="entity").equals(images.counts().rename_axis("entity"))
    people = pd.read_csv(folder / "people.csv")
    assert people["image_id"].tolist() == runs.predicted_images(images)["image_id"].tolist()
    assert list(people.columns) == list(runs.PEOPLE_COLUMNS)
    assert pd.read_csv(folder / "histories.csv").empty and scores.summary({}, 10, 0).empty


@pytest.mark.slow
def test_failed_runs_are_listed_counted_and_left_out_of_every_score(cohort, synthetic, tmp_path):
    """A network made to diverge: its runs are there without a number, and all that 07 computes goes on without them."""
    images = runs.gather(cohort, {feature_sets.WHOLE: synthetic}, runs.CAPTIONED)
    keras = runs.keras_runs(images, replace(SMALL, learning_rate=1e30), range(2), tmp_path / "runs")
    frozen = runs.frozen_runs(images, SETTINGS, range(2), tmp_path / "features")
    folder = runs.save(tmp_path / "predictions", frozen, runs.without(protocol.TUNED, "no seeds"), keras, {})
    found = predictions.load(folder / "trial.npz")
    sets = protocol.TRAINING_SETS[protocol.KERAS]
    assert runs.failed_lines(found) == [f"failed: Keras CNN, {name}, seed {seed}" for name in sets for seed in (0, 1)]
    assert runs.frames_of(found, protocol.KERAS) == {} and scores.every_run({}).empty
    table = trial.trial_table(found, seeds={**protocol.SEEDS, protocol.KERAS: 2}, resamples=20)
    row = table.set_index("comparison").loc["combined against longer training"]
    assert (row["seeds"], row["missing_seeds"], row["verdict"]) == (0, "0, 1", protocol.NOT_RESOLVED)
    told, _ = trial.answerable(found, protocol.DESCRIBED)
    described = trial.described_table(found, told)
    assert described.set_index("network").loc[protocol.KERAS, "difference"].isna().all()
    forest.described_plot(described)
    assert secondary.run_table(found).query("network == 'Keras CNN'")["value"].isna().all()


def test_answers_name_their_seed_and_leave_failed_runs_out():
    own = simulated({protocol.ORIGINALS: 1.0, protocol.ONCE: 1.0}, protocol.KERAS, seeds=3)
    failed = own.log_probabilities.copy()
    failed[1, 4, 2] = np.nan
    answers = runs.frames_of(replace(own, log_probabilities=failed), protocol.KERAS)
    seeds = {name: [frame["seed"].iloc[0] for frame in frames] for name, frames in answers.items()}
    assert seeds == {protocol.ORIGINALS: [0, 2], protocol.ONCE: [0, 1, 2]}
    every = scores.every_run({("audited", name): frames for name, frames in answers.items()})
    assert every.groupby("training_set")["seed"].unique().map(list).to_dict() == seeds


def test_comparisons_are_asked_where_their_runs_are_there():
    names = {protocol.ORIGINALS: 1.0, protocol.ONCE: 1.0, protocol.REPEATED: 1.0}
    asked, lacking = trial.answerable(simulated(names))
    assert [own.name for own in asked] == [
        "synthetic against repeated originals", "rare entities alone", "validation and test lesions pooled"
    ]  # fmt: skip
    lacks = lacking.set_index("comparison")["lacks"]
    assert lacks["all originals against the 30 % subset"] == f"{protocol.FROZEN}: {protocol.SUBSET}"
    moved = trial.on_split(asked, "external")
    assert [own.name for own in moved] == [own.name for own in asked[:2]]  # the pooled one asks the same there
    assert all(own.splits == ("external",) for own in moved)


def test_steps_are_those_up_to_the_end_and_up_to_the_epoch_that_is_kept():
    history = pd.DataFrame({
        "network": protocol.KERAS, "protocol": "audited", "training_set": "a", "seed": [0, 0, 0, 1],
        "epoch": [1, 2, 3, 1], "steps": 10,
        "loss": 1.0, "validation_loss": [0.9, 0.7, 0.8, np.nan],
    })  # fmt: skip
    table = runs.steps_table(history)
    assert table[["epochs", "steps", "kept_epoch", "kept_steps"]].to_numpy().tolist() == [[3, 30, 2, 20], [1, 10, 0, 0]]
    (row,) = runs.steps_ranges(table.assign(steps=30)).to_dict("records")
    assert row == {
        "network": protocol.KERAS, "protocol": "audited", "training_set": "a", "seeds": 2, "epochs": "1 to 3",
        "steps": "30", "kept_epoch": "0 to 2", "kept_steps": "0 to 20",
    }  # fmt: skip


def test_figures_of_the_trial_hold_what_ran(tmp_path):
    names = {
        protocol.ORIGINALS: 1.0,
        protocol.HALF: 1.0,
        protocol.ONCE: 1.5,
        protocol.REPEATED: 1.0,
        protocol.SUBSET: 0.5,
    }
    found = simulated(names)
    (axes,) = forest.dose_plot(secondary.run_table(found)).axes
    assert axes.get_xticks().tolist() == [0.0, 0.5, 1.0] and len(axes.texts) == 1  # no dose 2; the subset's line
    told, _ = trial.answerable(found, protocol.DESCRIBED)
    table = trial.described_table(found, told)
    table.loc[0, ["low", "high"]] = [-40.0, 40.0]
    figure = forest.described_plot(table)
    (axes,) = figure.axes
    assert len(axes.get_yticklabels()) == len(told) and max(map(abs, axes.get_xlim())) < 2
    numbers = [text.get_text() for text in axes.texts]
    assert len(numbers) == len(told) and any("−40.000, +40.000" in text for text in numbers)  # beside its arrows
    figure.canvas.draw()
    heights = [text.get_window_extent().y0 for text in axes.texts]
    labels = [label.get_window_extent().y0 for label in axes.get_yticklabels()]
    assert np.argsort(heights).tolist() == np.argsort(labels).tolist() == list(range(len(told)))
    assert axes.get_yticklabels()[-1].get_text() == forest.short(table["comparison"][0])
    assert forest._numbers(table.iloc[0]) == numbers[-1]
    measured = secondary.secondary_table(found, told, {protocol.FROZEN: 6}, 20)
    parts = secondary.artefact_table(measured)
    assert len(parts) == len(told)
    np.testing.assert_allclose(parts["by argmax"], parts["moved by the prior"] + parts["the rest"], atol=1e-9)
    histories = pd.DataFrame({
        "network": protocol.KERAS, "protocol": ["audited"] * 4,
        "training_set": [protocol.ONCE] * 2 + [protocol.LONGER] * 2, "seed": 0,
        "epoch": [1, 2, 1, 2], "loss": 1.0, "validation_loss": 1.0,
    })  # fmt: skip
    own = pd.DataFrame({"epoch": [1, 2, 3], "loss": 1.0, "validation_loss": [0.9, 0.7, 0.8]})
    figure = forest.stopping_curves({"as published": own, "audited": own}, 4)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["as published, seed 4", "audited, seed 4"] or [
        ax.get_title() for ax in figure.axes
    ] == ["as published, seed 4", "audited, seed 4"]
    assert all(ax.lines[2].get_xdata().tolist() == [2] for ax in figure.axes)
    figure = forest.learning_curves(histories)
    assert [len(ax.lines) for ax in figure.axes] == [3, 3]
    assert [ax.lines[2].get_xdata().tolist() for ax in figure.axes] == [[1], [1]]  # the epoch that is kept
    table = trial.trial_table(found, trial.answerable(found)[0], {protocol.FROZEN: 6}, 50)
    said = trial.sentences(table)
    assert said[0].startswith("primary: ") and said[1].startswith("positive control: ") and len(said) == len(table)
    by = trial.exploratory_by(found, told[0], pd.DataFrame({
        "image_id": found.images["image_id"], "sex": "female", "age": 50, "localization": "back",
    }))  # fmt: skip
    assert list(by["by"]) == ["sex", "age", "site"] and by["difference"].nunique() == 1


def test_a_generator_that_has_not_painted_yet_is_named():
    assert runs.made_by_another("") is None
    with pytest.raises(InputError, match="no images of another generator in results/none: make them .docs/GLIDE.md."):
        runs.made_by_another("results/none")
