"""The paper's network: its layers, training sets that keep their promises, seeds, early stopping, clustered intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from dermstudy import intervals
from dermstudy.classification import encoding, feature_sets, networks, pixels, protocol, scores, training, training_sets
from dermstudy.classification.pixels import Pixels
from dermstudy.data import dataset, near_duplicates, splits
from dermstudy.entities import CODES
from dermstudy.files import InputError

SMALL = networks.ClassifierConfig(side=32, filters=(4, 8, 8), epochs=2)


@pytest.fixture(scope="module")
def cohort(cohort):
    return replace(cohort, frame=cohort.frame.assign(subset=splits.nested_subset(cohort.frame, 0)))


@pytest.fixture(scope="module")
def synthetic(cohort):
    """Every image of the phantom itself, in the place of a synthetic one."""
    return in_place_of_synthetic(cohort.frame, cohort.root)


def in_place_of_synthetic(frame, root):
    made = frame.assign(source_image_id=frame["image_id"], image_id="synthetic_" + frame["image_id"])
    columns = ["image_id", "dx", "file", "caption", "source_image_id"]
    return dataset.Cohort("synthetic", root, made[columns].reset_index(drop=True), "s")


def audited(name, cohort, synthetic):
    return training_sets.audited_set(name, cohort, {feature_sets.WHOLE: synthetic})


def test_the_network_of_section_2_4():
    model = networks.network(networks.ClassifierConfig())
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Rescaling", "RandomAffine"] + [
        "Conv2D", "MaxPooling2D"] * 3 + ["Flatten", "Dense", "Dropout", "Dense"]  # fmt: skip
    assert [layer.filters for layer in model.layers if type(layer).__name__ == "Conv2D"] == [32, 64, 128]
    assert [layer.units for layer in model.layers if type(layer).__name__ == "Dense"] == [64, 7]
    by_hand = 3 * 9 * 32 + 32 + 32 * 9 * 64 + 64 + 64 * 9 * 128 + 128 + 6 * 6 * 128 * 64 + 64 + 64 * 7 + 7
    assert model.count_params() == by_hand
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    assert np.array_equal(model.predict(image, verbose=0), model.predict(image, verbose=0))  # augments in training only
    assert not np.array_equal(model(image, training=True), model(image, training=True))


def test_labels_are_fixed_by_name():
    assert networks.encoded_codes() == ("akiec", "bcc", "bkl", "df", "nv", "mel", "vasc")
    predictions = pd.DataFrame({"dx": list(CODES), "answer": list(CODES)})
    assert list(scores.report(predictions).index) == [*CODES, "accuracy", "macro avg", "weighted avg"]


@pytest.mark.parametrize("name", protocol.TRAINING_SETS[protocol.KERAS])
def test_audited_sets_keep_lesions_and_synthetic_images_apart(cohort, synthetic, name):
    made = audited(name, cohort, synthetic)
    test = made.rows("test")
    assert test["kind"].eq("original").all() and set(test["split"]) == {"validation", "test"}
    assert not set(made.rows("train")["group"]) & set(test["group"])
    assert made.rows("fit_until")["split"].eq("validation").all()
    kinds = {"original", "synthetic"} if name == protocol.ONCE else {"original"}
    assert set(made.rows("train")["kind"]) == kinds


def test_dose_1_repeated_and_longer_training_have_the_same_images_an_epoch(cohort, synthetic):
    once, twice, longer = (
        audited(name, cohort, synthetic) for name in (protocol.ONCE, protocol.REPEATED, protocol.LONGER)
    )
    counts = once.rows("train")["dx"].value_counts()
    pd.testing.assert_series_equal(counts, twice.rows("train")["dx"].value_counts(), check_like=True)
    assert twice.rows("train")["image_id"].value_counts().eq(2).all()
    assert longer.changes == {"images_per_epoch": counts.sum()}
    assert len(longer.rows("train")) == counts.sum() / 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_no_lesion_on_both_sides_of_any_audited_split(seed, most):
    random = np.random.default_rng(seed)
    rows = [(code, f"{code}{lesion}", f"{code}{lesion}{image}") for code in CODES for lesion in range(12)
            for image in range(random.integers(1, most + 1))]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["dx", "lesion_id", "image_id"]).assign(file="", caption="")
    frame["group"] = frame["lesion_id"]
    frame["split"] = splits.lesion_split(frame, seed, minimum_test_lesions=2)
    frame["subset"] = splits.nested_subset(frame, seed)
    originals = dataset.Cohort("random", None, frame, "")
    fakes = frame.assign(source_image_id=frame["image_id"], image_id="s" + frame["image_id"])
    made = dataset.Cohort("synthetic", None, fakes[["image_id", "dx", "file", "caption", "source_image_id"]], "")
    for name in protocol.TRAINING_SETS[protocol.KERAS]:
        chosen = audited(name, originals, made)
        parts = {part: set(chosen.rows(part)["group"]) for part in ("train", "fit_until", "test")}
        assert not parts["train"] & parts["test"] and not parts["train"] & parts["fit_until"]


def test_the_published_set_mixes_and_watches_its_test_set(cohort, synthetic):
    chosen = training_sets.published_set("combined", cohort, synthetic, 0)
    assert chosen.fit_until is chosen.test and set(chosen.rows("test")["kind"]) == {"original", "synthetic"}
    sizes = len(chosen.rows("train")), len(chosen.rows("test"))
    assert sum(sizes) == len(cohort) + len(synthetic) and abs(sizes[1] / sum(sizes) - 0.2) < 0.01
    assert not set(chosen.rows("train")["image_id"]) & set(chosen.rows("test")["image_id"])


@pytest.mark.slow
def test_same_seed_same_predictions_and_kept_runs(cohort, synthetic, tmp_path):
    chosen = audited(protocol.ORIGINALS, cohort, synthetic)
    first = training.train_once(chosen, SMALL, 0, tmp_path)
    again = training.train(chosen, SMALL, 0, lambda line: None)
    other = training.train(chosen, SMALL, 1, lambda line: None)
    columns = list(networks.encoded_codes())
    assert np.array_equal(first.predictions[columns].to_numpy(), again.predictions[columns].to_numpy())
    assert not np.allclose(first.predictions[columns], other.predictions[columns])
    kept = training.train_once(chosen, SMALL, 0, tmp_path)
    assert np.allclose(kept.predictions[columns], first.predictions[columns], atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "pixels") == [
        path.parent.name for path in tmp_path.glob("*/predictions.csv")
    ]


def test_early_stopping_restores_the_best_weights(cohort, synthetic):
    """With a learning rate that throws the network about, the kept loss is the smallest, not the last."""
    chosen = audited(protocol.ORIGINALS, cohort, synthetic)
    chosen = replace(chosen, test=chosen.fit_until)
    result = training.train(chosen, replace(SMALL, epochs=8, learning_rate=0.05, patience=2), 3, lambda line: None)
    rows = result.predictions
    probability = np.array([row[row["dx"]] for _, row in rows.iterrows()])
    watched = float(-np.log(np.clip(probability, 1e-7, 1)).mean())
    losses = result.history["validation_loss"]
    assert watched == pytest.approx(losses.min(), rel=1e-3)
    assert losses.idxmin() != losses.index[-1]


def test_a_network_that_diverges_is_a_failed_run_and_is_kept_as_one(cohort, synthetic, tmp_path):
    chosen = audited(protocol.ORIGINALS, cohort, synthetic)
    thrown = replace(SMALL, learning_rate=1e30)
    result = training.train_once(chosen, thrown, 0, tmp_path)
    columns = list(CODES)
    assert (
        result.failed
        and result.predictions[columns].isna().all(axis=None)
        and result.predictions["answer"].eq("").all()
    )
    assert len(result.history) >= 1 and result.history["validation_loss"].isna().all()
    kept = training.train_once(chosen, thrown, 0, tmp_path)
    assert kept.failed and kept.predictions["answer"].eq("").all()
    sound = training.Result(result.predictions.assign(**{code: 1 / 7 for code in columns}), result.history)
    lines: list[str] = []
    own, seeds = training.finished({"a": [sound, sound], "b": [result, sound]}, [3, 4], lines.append)
    assert seeds == [4] and own == {"a": [sound], "b": [sound]}
    assert lines == ["failed, so its seed is left out of every set: b, seed 3"]
    with pytest.raises(InputError, match="no seed of 3 was trained to its end in every set: b failed"):
        training.finished({"b": [result]}, [3])


def test_a_run_that_ends_in_an_error_has_three_attempts_with_its_own_seed(
    cohort, synthetic, tmp_path, monkeypatch, capsys
):
    chosen, seen = audited(protocol.ORIGINALS, cohort, synthetic), []
    sound = training.Result(
        training._answers(chosen, np.full((len(chosen.rows("test")), 7), 1 / 7)), pd.DataFrame({"epoch": [1]})
    )

    def train(_, __, seed, *___):
        seen.append(seed)
        if len(seen) in errors:
            raise errors[len(seen)]
        return sound

    errors = {1: ValueError("not\nfinite"), 2: RuntimeError("again")}
    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "code_hash", lambda *_: "")
    assert not training.train_once(chosen, SMALL, 7, tmp_path).failed and seen == [7, 7, 7]
    assert "seed 7: attempt 1 of 3 not finished, ValueError: not finite" in capsys.readouterr().out
    seen.clear()
    errors[3] = ValueError("and again")
    failed = training.train_once(chosen, SMALL, 8, tmp_path)
    assert failed.failed and seen == [8, 8, 8] and failed.history.empty
    assert training.train_once(chosen, SMALL, 8, tmp_path).failed and len(seen) == 3  # it is not tried again
    full = type("ResourceExhaustedError", (Exception,), {})("OOM")  # TensorFlow's, which needs an operation to be made
    torchs = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    for outside in (OSError("no space left"), MemoryError(), InputError("no images"), full, torchs):
        seen.clear()
        errors[1] = outside
        with pytest.raises(type(outside)):
            training.train_once(chosen, SMALL, 9, tmp_path)
        assert seen == [9]


def predictions(random, groups=12):
    group = np.repeat([f"L{n}" for n in range(groups)], 3)
    dx = np.repeat(random.choice(["nv", "mel"], groups), 3)
    return pd.DataFrame({"group": group, "dx": dx, "answer": random.choice(["nv", "mel"], len(group))})


def test_clustered_bootstrap_by_hand():
    random = np.random.default_rng(0)
    first = predictions(random)
    frames = [first, first.assign(answer=random.permutation(first["answer"]))]
    low, high = intervals.clustered_bootstrap(frames, scores.accuracy, 300, seed=5)
    literal, draw = [], np.random.default_rng(5)
    names = list(dict.fromkeys(first["group"]))
    for _ in range(300):
        picked = [names[index] for index in draw.integers(0, 12, 12)]
        chosen, values = draw.integers(0, 2, 2), []
        for frame in (frames[place] for place in chosen):
            rows = pd.concat([frame[frame["group"] == name] for name in picked])
            values.append((rows["dx"] == rows["answer"]).mean())
        literal.append(np.mean(values))
    assert (low, high) == pytest.approx(tuple(np.quantile(literal, [0.025, 0.975])))
    same = intervals.paired_difference(frames, frames, scores.accuracy, 50, 0)
    assert (same["difference"], same["low"], same["high"]) == (0.0, 0.0, 0.0)


def test_more_seeds_narrow_the_interval_of_their_mean():
    """Only seeds differ here, so a resample's mean is normal with the seeds' spread divided by the root of their number."""

    def seeds_of(number: int, sign: int) -> list[pd.DataFrame]:
        values = norm.ppf((np.arange(number) + 0.5) / number)
        values = 0.5 + sign * 0.1 * values / values.std()
        return [pd.DataFrame({"group": ["A", "B"], "value": value}) for value in values]

    def mean(rows: pd.DataFrame) -> float:
        return float(rows["value"].mean())

    for number in (4, 16):
        expected = 2 * norm.ppf(0.975) * 0.1 / np.sqrt(number)
        low, high = intervals.clustered_bootstrap(seeds_of(number, 1), mean, 600)
        assert high - low == pytest.approx(expected, rel=0.12) and (low + high) / 2 == pytest.approx(0.5, abs=0.01)
        pair = intervals.paired_difference(seeds_of(number, 1), seeds_of(number, -1), mean, 600, 0)
        assert pair["high"] - pair["low"] == pytest.approx(2 * expected, rel=0.12)  # pairs: one is the other's mirror


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
    with pytest.raises(InputError, match="all originals: no training image of dermatofibroma"):
        audited(protocol.ORIGINALS, without, synthetic)
    with pytest.raises(InputError, match="as published, original: no train image of dermatofibroma"):
        training_sets.published_set("original", without, synthetic, 0)
    with pytest.raises(InputError, match="unknown training set 'both' of the Keras CNN"):
        audited("both", cohort, synthetic)
    with pytest.raises(InputError, match="unknown training set 'both' as published"):
        training_sets.published_set("both", cohort, synthetic, 0)


def test_one_corrupt_image_is_named_and_nothing_kept(cohort, synthetic, tmp_path):
    frame = cohort.frame.copy()
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8 not an image")
    frame.loc[frame.index[frame["split"] == "train"][3], "file"] = str(bad)
    chosen = audited(protocol.ORIGINALS, replace(cohort, frame=frame), synthetic)
    with pytest.raises(InputError, match="bad.jpg is not an image"):
        training.train_once(chosen, SMALL, 0, tmp_path / "runs")
    assert [path for path in (tmp_path / "runs").rglob("*") if path.is_file()] == []


def test_summary_and_primary_comparison():
    random = np.random.default_rng(1)
    frames = [predictions(random), predictions(random)]
    for frame in frames:
        for code in CODES:
            frame[code] = (frame["answer"] == code).astype(float)
    right = [frame.assign(answer=frame["dx"]) for frame in frames]
    answers = {
        ("audited", protocol.ORIGINALS): frames,
        ("audited", "combined"): right,
        ("as published", "combined"): right,
    }
    table = scores.summary(answers, 30, 0)
    assert list(table.columns) == ["protocol", "training_set", "metric", "mean", "low", "high", "always_nevus", "paper"]
    combined = table[table["training_set"] == "combined"].set_index(["protocol", "metric"])
    assert combined.loc[("audited", "accuracy"), "mean"] == 1.0 and combined.loc[("audited", "macro F1"), "mean"] == 1.0
    assert table["paper"].notna().sum() == 2 and combined.loc[("as published", "accuracy"), "paper"] == 0.86
    every = scores.every_run({("audited", protocol.ORIGINALS): frames}, [0, 1])
    assert len(every) == 2 * (5 + 7) and set(every["seed"]) == {0, 1} and list(every.columns) == scores.RUN_COLUMNS
    primary = intervals.paired_difference(right, frames, scores.balanced_accuracy, 30, 0)
    by_hand = np.mean([1 - scores.balanced_accuracy(frame) for frame in frames])
    assert primary["difference"] == pytest.approx(by_hand) and primary["low"] > 0


def probabilities(random, n=400):
    values = random.dirichlet(np.full(7, 0.4), n)
    true = [CODES[random.choice(7, p=row)] for row in 0.5 * values + 0.5 / 7]
    frame = pd.DataFrame(values, columns=list(CODES)).assign(dx=true)
    return frame.assign(answer=np.array(CODES)[values.argmax(axis=1)], group=np.arange(n) // 2)


def test_metrics_are_those_of_scikit_learn():
    frame = probabilities(np.random.default_rng(3))
    assert scores.balanced_accuracy(frame) == pytest.approx(balanced_accuracy_score(frame["dx"], frame["answer"]))
    assert scores.macro_f1(frame) == pytest.approx(f1_score(frame["dx"], frame["answer"], average="macro"))
    tied = frame.assign(**{code: frame[code].round(1) for code in CODES})
    for own in (frame, tied):
        areas = [roc_auc_score(own["dx"] == code, own[code]) for code in CODES]
        assert scores.area(own) == pytest.approx(np.mean(areas))


def test_calibration_error_by_hand():
    rows = pd.DataFrame(0.0, index=range(10), columns=list(CODES)).assign(dx="nv", answer="nv", nv=0.7, mel=0.3)
    assert scores.calibration_error(rows) == pytest.approx(0.3)
    rows.loc[:2, ["answer", "nv", "mel"]] = ["mel", 0.3, 0.7]
    assert scores.calibration_error(rows) == pytest.approx(0.0)
    assert scores.floors(rows)["calibration error"] == 0.0


def test_each_step_of_the_ladder_changes_one_thing(cohort, synthetic):
    """What a step trains on (originals, synthetic images), is tested on and stops on: one of them moves, and what hangs on it."""
    other = replace(synthetic, data_hash="of the twin")
    steps = training_sets.ladder(cohort, synthetic, other, 0)
    assert list(steps) == list(training_sets.LADDER)

    def parts(chosen) -> dict[str, object]:
        train, test, watched = (chosen.rows(part) for part in ("train", "test", "fit_until"))
        ids = {kind: set(train.loc[train["kind"] == kind, "image_id"]) for kind in ("original", "synthetic")}
        own = "its test set" if set(watched["image_id"]) == set(test["image_id"]) else set(watched["image_id"])
        return {
            "originals": ids["original"], "synthetic images": ids["synthetic"], "generator": chosen.train[1].data_hash,
            "test kinds": set(test["kind"]), "real test images": set(test.loc[test["kind"] == "original", "image_id"]),
            "stopping": own,
        }  # fmt: skip

    held = [parts(chosen) for chosen in steps.values()]
    changed = [{key for key in now if now[key] != before[key]} for before, now in zip(held, held[1:], strict=False)]
    assert changed == [{"test kinds"}, {"originals", "real test images"}, {"stopping"}, {"generator"}]
    assert held[0]["stopping"] == "its test set" and held[1]["test kinds"] == {"original"}
    trained = [chosen.rows("train") for chosen in steps.values()]
    for rows in trained:  # the same number of originals of each entity
        assert rows.groupby(["kind", "dx"]).size().equals(trained[0].groupby(["kind", "dx"]).size())
    originals = trained[2].query("kind == 'original'")
    assert not set(originals["group"]) & set(steps[training_sets.LADDER[2]].rows("test")["group"])
    assert set(steps[training_sets.LADDER[3]].rows("fit_until")["split"]) == {"validation"}
    assert list(training_sets.ladder(cohort, synthetic, None, 0)) == list(training_sets.LADDER[:4])
    fewer = replace(other, frame=other.frame.iloc[::2])
    with pytest.raises(InputError, match="the partner's generator lacks .* images of the ladder"):
        training_sets.ladder(cohort, synthetic, fewer, 0)


def test_the_published_end_holds_one_synthetic_image_an_original(cohort):
    train = cohort.frame[cohort.frame["split"] == "train"]
    made = pd.concat([in_place_of_synthetic(train, cohort.root).frame.assign(draw=draw) for draw in range(3)])
    made["image_id"] += "_" + made.pop("draw").astype(str)
    pool = dataset.Cohort("synthetic", cohort.root, made.reset_index(drop=True), "s")
    taken = training_sets.one_an_original(pool, cohort)
    assert sorted(taken.frame["source_image_id"]) == sorted(train["image_id"])
    rows = audited(protocol.ONCE, cohort, pool).rows("train")
    assert set(taken.frame["image_id"]) == set(rows.loc[rows["kind"] == "synthetic", "image_id"])
    assert taken.frame["image_id"].tolist() == [
        name for name in pool.frame["image_id"] if name in set(taken.frame["image_id"])
    ]


def test_a_network_beside_readers_by_hand():
    tests = pd.DataFrame({"image_id": list("abcd"), "group": list("abcd"), "dx": ["nv", "nv", "mel", "mel"]})
    run = tests.assign(answer=["nv", "nv", "mel", "nv"], kind="original")
    answers = pd.DataFrame({
        "reader": "R", "original_name": ["a", "b", "c", "synthetic_a"], "source": ["original"] * 3 + ["AI"],
        "entity": ["nv", "nv", "mel", "nv"], "entity_answer": ["nv", "mel", "nv", "nv"],
    })  # fmt: skip
    row = scores.beside_readers([run, run], answers, 100, 0).iloc[0]
    assert (row["n"], row["reader_accuracy"], row["network_accuracy"]) == (3, pytest.approx(1 / 3), 1.0)
    assert row["difference"] == pytest.approx(2 / 3) and row["low"] <= 2 / 3 <= row["high"]
    assert scores.beside_readers([run], answers.assign(original_name=""), 10, 0).empty


@pytest.mark.slow
def test_runs_side_by_side_are_the_runs_one_by_one(cohort, synthetic, tmp_path):
    sets = {name: audited(name, cohort, synthetic) for name in (protocol.ORIGINALS, protocol.ONCE)}
    settings = replace(SMALL, precision="bf16")
    together = training.train_all(sets, settings, [0, 1], tmp_path / "two", workers=2)
    columns = list(networks.encoded_codes())
    for name, chosen in sets.items():
        assert len(together[name]) == 2
        alone = training.train_once(chosen, settings, 1, tmp_path / "one")
        assert np.allclose(together[name][1].predictions[columns], alone.predictions[columns], atol=0.05)
        assert together[name][1].predictions["image_id"].tolist() == alone.predictions["image_id"].tolist()


def test_the_one_run_that_is_missing_has_the_threads_of_all_others(cohort, synthetic, tmp_path, monkeypatch):
    asked = []

    class Pool:
        def __init__(self, workers, context, initializer, initargs):
            asked.append((initializer, initargs))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def map(self, _, *jobs):
            for chosen, config, seed, folder, threads in zip(*jobs, strict=True):
                kept(training._kept(chosen, config, seed, folder, threads))
            return []

    def kept(folder):
        folder.mkdir()
        pd.DataFrame({"image_id": [folder.name], "answer": "nv"}).to_csv(folder / "predictions.csv")
        pd.DataFrame({"epoch": [1]}).to_csv(folder / "history.csv")

    monkeypatch.setattr(training, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(training.os, "cpu_count", lambda: 4)
    chosen = audited(protocol.ORIGINALS, cohort, synthetic)
    kept(training._kept(chosen, SMALL, 0, tmp_path, 2))
    training.train_all({"a": chosen}, SMALL, [0, 1], tmp_path, workers=2)
    assert asked == [(training.limit_threads, (2,))]


def test_kept_runs_are_told_apart_by_their_threads(cohort, synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr(training.os, "cpu_count", lambda: 4)
    chosen = audited(protocol.ORIGINALS, cohort, synthetic)
    names = {training._kept(chosen, SMALL, 0, tmp_path, threads) for threads in (1, 2, 4)}
    assert len(names) == 3 and training._kept(chosen, SMALL, 0, tmp_path) in names  # by itself a run has all four


def test_kept_runs_are_told_apart_by_the_code_that_made_them(cohort, synthetic, tmp_path, monkeypatch):
    chosen = audited(protocol.ORIGINALS, cohort, synthetic)
    before = training._kept(chosen, SMALL, 0, tmp_path)
    monkeypatch.setattr(training, "code_hash", lambda *parts: "another" if training.networks in parts else "")
    assert training._kept(chosen, SMALL, 0, tmp_path) != before


def read_otherwise(path, side=None):
    return dataset.read_image(path, side)[::-1]


def test_what_is_kept_of_images_is_known_by_the_code_that_reads_them(cohort, synthetic, tmp_path, monkeypatch):
    """Pixels, finished runs, features and the search for look-alikes: each under another name once images are read otherwise."""

    def features(own):
        return np.zeros((len(own), 2))

    monkeypatch.setattr(near_duplicates, "_features", features)
    few = cohort.select(image_id=list(cohort.frame["image_id"][:3]))
    chosen = audited(protocol.ORIGINALS, cohort, synthetic)

    def names():
        near_duplicates._kept_features(few, tmp_path)
        searched = {path.name for path in tmp_path.glob("near-duplicates-*")}
        return [
            pixels._decoded(few, 8, tmp_path).name, training._kept(chosen, SMALL, 0, tmp_path).name,
            encoding._identity(few, encoding.View(96), features), searched,
        ]  # fmt: skip

    before = names()
    for room in (pixels, training, encoding, near_duplicates):
        monkeypatch.setattr(room, "read_image", read_otherwise)
    after = names()
    assert all(first != second for first, second in zip(before, after, strict=True)), (before, after)


def test_half_precision_keeps_the_answers_whole(monkeypatch):
    monkeypatch.setattr(networks, "bf16_products", lambda: True)  # slow where the processor has none, and as exact
    model = networks.network(replace(SMALL, precision="bf16"))
    kinds = {type(layer).__name__: layer.compute_dtype for layer in model.layers}
    assert kinds["Conv2D"] == "bfloat16" and kinds["RandomAffine"] == kinds["Rescaling"] == "float32"
    assert model.layers[-1].compute_dtype == "float32" and {str(w.dtype) for w in model.weights} >= {"float32"}
    assert networks.network(SMALL).layers[5].compute_dtype == "float32"  # the policy is put back
    with pytest.raises(InputError, match="unknown precision 'fp8': choose fp32 or bf16"):
        networks.network(replace(SMALL, precision="fp8"))


def test_an_interval_says_over_what_it_is():
    assert scores.interval_words(1).endswith("(one seed)") and scores.interval_words(5).endswith("lesions and seeds")


def test_pixels_are_decoded_once_and_read_from_disk(cohort, tmp_path):
    twice = replace(cohort, frame=pd.concat([cohort.frame.head(5), cohort.frame.head(3)], ignore_index=True))
    pixels = Pixels([twice, cohort.select(dx="mel")], 32, tmp_path)
    assert np.array_equal(pixels.take(np.array([6, 1])), cohort.images(32)[[1, 1]])
    assert np.array_equal(pixels.take(np.array([8])), cohort.select(dx="mel").images(32)[:1])
    assert sorted(len(np.load(path)) for path in tmp_path.iterdir()) == [5, len(cohort.select(dx="mel"))]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    Pixels([twice], 32, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
