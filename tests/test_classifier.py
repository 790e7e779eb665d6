"""The paper's network: its layers, arms that keep their promises, seeds, early stopping, clustered intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermstudy import classifier, dataset, scores
from dermstudy.entities import CODES
from dermstudy.files import InputError

SMALL = classifier.ClassifierConfig(side=32, filters=(4, 8, 8), epochs=2)


@pytest.fixture(scope="module")
def synthetic(cohort):
    """Six images an entity of the phantom itself, in the place of synthetic ones."""
    chosen = cohort.frame.groupby("dx").head(6)
    frame = chosen.assign(source_image_id=chosen["image_id"], image_id="synthetic_" + chosen["image_id"])
    columns = ["image_id", "dx", "file", "caption", "source_image_id"]
    return dataset.Cohort("synthetic", cohort.root, frame[columns].reset_index(drop=True), "s")


def test_the_network_of_section_2_4():
    model = classifier.network(classifier.ClassifierConfig())
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Rescaling", "RandomRotation", "RandomTranslation", "RandomZoom", "RandomFlip"] + [
        "Conv2D", "MaxPooling2D"] * 3 + ["Flatten", "Dense", "Dropout", "Dense"]  # fmt: skip
    assert [layer.filters for layer in model.layers if type(layer).__name__ == "Conv2D"] == [32, 64, 128]
    assert [layer.units for layer in model.layers if type(layer).__name__ == "Dense"] == [64, 7]
    by_hand = 3 * 9 * 32 + 32 + 32 * 9 * 64 + 64 + 64 * 9 * 128 + 128 + 6 * 6 * 128 * 64 + 64 + 64 * 7 + 7
    assert model.count_params() == by_hand
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    assert np.array_equal(model.predict(image, verbose=0), model.predict(image, verbose=0))  # augments in training only
    assert not np.array_equal(model(image, training=True), model(image, training=True))


def test_labels_are_fixed_by_name():
    assert classifier.encoded_codes() == ("akiec", "bcc", "bkl", "df", "nv", "mel", "vasc")
    predictions = pd.DataFrame({"dx": list(CODES), "answer": list(CODES)})
    assert list(scores.report(predictions).index) == [*CODES, "accuracy", "macro avg", "weighted avg"]


@pytest.mark.parametrize("arm", classifier.ARMS)
def test_audited_arms_keep_lesions_and_synthetic_images_apart(cohort, synthetic, arm):
    made = classifier.make_arm("audited", arm, cohort, synthetic, 0)
    test = made.rows("test")
    assert test["kind"].eq("original").all() and test["split"].eq("test").all()
    for part in ("train", "fit_until"):
        assert not set(made.rows(part)["group"]) & set(test["group"])
    assert set(made.rows("train")["kind"]) == {"combined": {"original", "synthetic"}}.get(arm, {arm})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_no_lesion_on_both_sides_of_any_audited_split(seed, most):
    random = np.random.default_rng(seed)
    rows = [(code, f"{code}{lesion}", f"{code}{lesion}{image}") for code in CODES for lesion in range(12)
            for image in range(random.integers(1, most + 1))]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["dx", "lesion_id", "image_id"]).assign(file="", caption="")
    frame["group"] = frame["lesion_id"]
    frame["split"] = dataset.lesion_split(frame, seed, minimum_test_lesions=2)
    originals = dataset.Cohort("random", None, frame, "")
    fakes = frame.assign(source_image_id=frame["image_id"], image_id="s" + frame["image_id"])
    made = dataset.Cohort("synthetic", None, fakes[["image_id", "dx", "file", "caption", "source_image_id"]], "")
    for arm in classifier.ARMS:
        parts = {part: set(classifier.make_arm("audited", arm, originals, made, seed).rows(part)["group"])
                 for part in ("train", "fit_until", "test")}  # fmt: skip
        assert not parts["train"] & parts["test"] and not parts["train"] & parts["fit_until"]


def test_the_published_arm_mixes_and_watches_its_test_set(cohort, synthetic):
    arm = classifier.make_arm("as published", "combined", cohort, synthetic, 0)
    assert arm.fit_until is arm.test and set(arm.rows("test")["kind"]) == {"original", "synthetic"}
    sizes = len(arm.rows("train")), len(arm.rows("test"))
    assert sum(sizes) == len(cohort) + len(synthetic) and abs(sizes[1] / sum(sizes) - 0.2) < 0.01
    assert not set(arm.rows("train")["image_id"]) & set(arm.rows("test")["image_id"])


def test_same_seed_same_predictions_and_kept_runs(cohort, synthetic, tmp_path):
    arm = classifier.make_arm("audited", "original", cohort, synthetic, 0)
    first = classifier.train_once(arm, SMALL, 0, tmp_path)
    again = classifier.train(arm, SMALL, 0, lambda line: None)
    other = classifier.train(arm, SMALL, 1, lambda line: None)
    columns = list(classifier.encoded_codes())
    assert np.array_equal(first.predictions[columns].to_numpy(), again.predictions[columns].to_numpy())
    assert not np.allclose(first.predictions[columns], other.predictions[columns])
    kept = classifier.train_once(arm, SMALL, 0, tmp_path)
    assert np.allclose(kept.predictions[columns], first.predictions[columns], atol=1e-6)
    assert len(list(tmp_path.iterdir())) == 1


def test_early_stopping_restores_the_best_weights(cohort, synthetic):
    """With a learning rate that throws the network about, the kept loss is the smallest, not the last."""
    arm = classifier.make_arm("audited", "original", cohort, synthetic, 0)
    arm = replace(arm, test=arm.fit_until)
    result = classifier.train(arm, replace(SMALL, epochs=8, learning_rate=0.05, patience=2), 3, lambda line: None)
    rows = result.predictions
    probability = np.array([row[row["dx"]] for _, row in rows.iterrows()])
    watched = float(-np.log(np.clip(probability, 1e-7, 1)).mean())
    losses = result.history["validation_loss"]
    assert watched == pytest.approx(losses.min(), rel=1e-3)
    assert losses.idxmin() != losses.index[-1]


def predictions(random, groups=12):
    group = np.repeat([f"L{n}" for n in range(groups)], 3)
    dx = np.repeat(random.choice(["nv", "mel"], groups), 3)
    return pd.DataFrame({"group": group, "dx": dx, "answer": random.choice(["nv", "mel"], len(group))})


def test_clustered_bootstrap_by_hand():
    random = np.random.default_rng(0)
    frames = [predictions(random)] * 2
    low, high = scores.clustered_bootstrap(frames, scores.accuracy, 300, seed=5)
    literal, draw = [], np.random.default_rng(5)
    names = list(dict.fromkeys(frames[0]["group"]))
    for _ in range(300):
        picked = [names[index] for index in draw.integers(0, 12, 12)]
        draw.integers(0, 2)
        rows = pd.concat([frames[0][frames[0]["group"] == name] for name in picked])
        literal.append((rows["dx"] == rows["answer"]).mean())
    assert (low, high) == pytest.approx(tuple(np.quantile(literal, [0.025, 0.975])))
    same = scores.clustered_bootstrap(frames, scores.accuracy, 50, other=frames)
    assert same == (0.0, 0.0)


def test_scores_and_floor_by_hand():
    rows = pd.DataFrame({"dx": ["nv"] * 6 + ["mel"] * 2, "answer": ["nv"] * 5 + ["mel"] * 2 + ["nv"]})
    for code in CODES:
        rows[code] = (rows["answer"] == code).astype(float)
    values = scores.scores(rows)
    assert values["accuracy"] == 6 / 8 and values["balanced accuracy"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert scores.balanced_accuracy(rows) == pytest.approx(values["balanced accuracy"])
    floor = scores.floors(rows)
    assert floor["accuracy"] == 6 / 8 and floor["balanced accuracy"] == 0.5


def test_an_absent_entity_is_named(cohort, synthetic):
    without = cohort.select(dx=[code for code in CODES if code != "df"])
    with pytest.raises(InputError, match="audited, original arm: no train image of dermatofibroma"):
        classifier.make_arm("audited", "original", without, synthetic, 0)
    with pytest.raises(InputError, match="unknown arm 'both'"):
        classifier.make_arm("audited", "both", cohort, synthetic, 0)


def test_one_corrupt_image_is_named_and_nothing_kept(cohort, synthetic, tmp_path):
    frame = cohort.frame.copy()
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8 not an image")
    frame.loc[frame.index[frame["split"] == "train"][3], "file"] = str(bad)
    arm = classifier.make_arm("audited", "original", replace(cohort, frame=frame), synthetic, 0)
    with pytest.raises(InputError, match="bad.jpg is not an image"):
        classifier.train_once(arm, SMALL, 0, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_summary_and_primary_comparison():
    random = np.random.default_rng(1)
    frames = [predictions(random), predictions(random)]
    for frame in frames:
        for code in CODES:
            frame[code] = (frame["answer"] == code).astype(float)
    right = [frame.assign(answer=frame["dx"]) for frame in frames]
    runs = {("audited", "original"): frames, ("audited", "combined"): right, ("as published", "combined"): right}
    table = scores.summary(runs, 30, 0)
    assert list(table.columns) == ["protocol", "arm", "model", "metric", "mean", "low", "high", "always_nevus", "paper"]
    assert table.loc[table["arm"] == "combined", "mean"].eq(1.0).all()
    assert table["paper"].notna().sum() == 2 and table.loc[4, "paper"] == 0.86
    every = scores.every_run({("audited", "original"): frames}, [0, 1])
    assert len(every) == 2 * (4 + 7) and set(every["seed"]) == {0, 1}
    primary = scores.paired_difference(right, frames, 30, 0)
    by_hand = np.mean([1 - scores.balanced_accuracy(frame) for frame in frames])
    assert primary["difference"] == pytest.approx(by_hand) and primary["low"] > 0
