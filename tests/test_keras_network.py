"""The paper's network: its layers, its augmentation, and training that a seed repeats and early stopping ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from small_trial import images_of

from dermstudy.classification import fitting, keras_network, protocol
from dermstudy.classification.keras_network import ClassifierConfig, KerasNetwork
from dermstudy.classification.recipes import make_training_set
from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.tensorflow_setup import import_keras

SMALL = ClassifierConfig(side=32, filters=(4, 8, 8), epochs=2)
SIDE = 16


@pytest.fixture(scope="module")
def images(cohort):
    return images_of(cohort, 3)


@pytest.fixture(scope="module")
def chosen(images):
    return make_training_set(protocol.ORIGINALS, images)


def test_the_network_of_section_2_4():
    model = keras_network.network(ClassifierConfig())
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Rescaling", "RandomAffine"] + [
        "Conv2D", "MaxPooling2D"] * 3 + ["Flatten", "Dense", "Dropout", "Dense"]  # fmt: skip
    assert [layer.filters for layer in model.layers if type(layer).__name__ == "Conv2D"] == [32, 64, 128]
    by_hand = 3 * 9 * 32 + 32 + 32 * 9 * 64 + 64 + 64 * 9 * 128 + 128 + 6 * 6 * 128 * 64 + 64 + 64 * 7 + 7
    assert model.count_params() == by_hand
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    assert np.array_equal(model.predict(image, verbose=0), model.predict(image, verbose=0))  # augments in training only
    assert not np.array_equal(model(image, training=True), model(image, training=True))


def test_half_precision_keeps_the_answers_whole(monkeypatch):
    monkeypatch.setattr(keras_network, "bf16_products", lambda: True)  # slow where the processor has none, and as exact
    model = keras_network.network(replace(SMALL, precision="bf16"))
    kinds = {type(layer).__name__: layer.compute_dtype for layer in model.layers}
    assert kinds["Conv2D"] == "bfloat16" and kinds["RandomAffine"] == kinds["Rescaling"] == "float32"
    assert model.layers[-1].compute_dtype == "float32"
    assert keras_network.network(SMALL).layers[5].compute_dtype == "float32"  # the policy is put back
    with pytest.raises(InputError, match="unknown precision 'fp8': choose fp32 or bf16"):
        keras_network.network(replace(SMALL, precision="fp8"))


# Training


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_another(images, chosen, tmp_path, capsys):
    network = KerasNetwork(images, SMALL, tmp_path)
    first, record = fitting.fit(network, chosen, 0)
    again, other = network.fit(chosen, 0)[0], network.fit(chosen, 1)[0]
    np.testing.assert_allclose(np.exp(first.log_probabilities), np.exp(again.log_probabilities), atol=1e-3)
    assert np.array_equal(network.fit(chosen, 0)[0].log_probabilities, again.log_probabilities)
    assert not np.allclose(again.log_probabilities, other.log_probabilities)
    assert record["steps"].eq(-(-len(chosen.train) // 32)).all() and record["epoch"].tolist() == [1, 2]
    shares = chosen.train["dx"].value_counts(normalize=True).reindex(CODES)
    np.testing.assert_allclose(first.priors[0], shares)
    lines = capsys.readouterr().out
    fitting.fit(network, chosen, 0)
    assert "kept epoch" in lines and capsys.readouterr().out == ""  # kept
    folders = {fitting.kept_run(KerasNetwork(images, SMALL, tmp_path, 1, threads), chosen, 0) for threads in (1, 2, 4)}
    assert len(folders) == 3  # answers depend on threads


@pytest.mark.slow
def test_early_stopping_restores_the_best_weights(images, chosen, tmp_path):
    """With a learning rate that throws the network about, the kept loss is the smallest, not the last."""
    watched = replace(chosen, tested=chosen.watched)
    config = replace(SMALL, epochs=8, learning_rate=0.05, patience=2)
    found, curve = KerasNetwork(images, config, tmp_path).fit(watched, 3)
    true = [CODES.index(code) for code in found.images["dx"]]
    losses = -found.log_probabilities[0][np.arange(len(true)), true].clip(np.log(1e-7))
    assert losses.mean() == pytest.approx(curve["validation_loss"].min(), rel=1e-3)
    assert curve["validation_loss"].idxmin() != curve.index[-1]


@pytest.mark.slow
def test_a_network_that_diverges_is_a_failed_run_and_is_kept_as_one(images, chosen, tmp_path):
    network = KerasNetwork(images, replace(SMALL, learning_rate=1e30), tmp_path)
    for _ in range(2):
        found, curve = fitting.fit(network, chosen, 0)
        assert not found.sound.any() and curve["validation_loss"].isna().all()


@pytest.mark.slow
def test_runs_side_by_side_are_the_runs_one_by_one(images, chosen, tmp_path):
    together = fitting.fit_all(KerasNetwork(images, SMALL, tmp_path / "two", 2, 1), {"a": chosen}, [0, 1], 2)
    alone = [fitting.fit(KerasNetwork(images, SMALL, tmp_path / "one"), chosen, seed)[0] for seed in (0, 1)]
    for (found, _), own in zip(together["a"], alone, strict=True):
        np.testing.assert_allclose(np.exp(found.log_probabilities), np.exp(own.log_probabilities), atol=0.05)


def test_one_corrupt_image_is_named_and_nothing_kept(images, chosen, tmp_path):
    frame = images.originals.frame.copy()
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8 not an image")
    frame.loc[frame.index[frame["split"] == "train"][3], "file"] = str(bad)
    broken = replace(images, originals=replace(images.originals, frame=frame))
    with pytest.raises(InputError, match="bad.jpg is not an image"):
        fitting.fit(KerasNetwork(broken, SMALL, tmp_path / "runs"), chosen, 0)
    assert [path for path in (tmp_path / "runs").rglob("*") if path.is_file()] == []


def test_pixels_are_decoded_once_and_read_from_disk(cohort, tmp_path):
    few = cohort.select(dx="mel")
    pixels = keras_network.decoded(few, 32, tmp_path)
    assert np.array_equal(pixels, few.images(32))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    keras_network.decoded(few, 32, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before and len(before) == 1


# Augmentation


def moved(image, angle=0.0, by=(0.0, 0.0), stretched=(1.0, 1.0)):
    keras = import_keras()
    row = keras_network.affine_rows(keras.ops.convert_to_tensor([angle]), by, stretched, SIDE)
    result = keras.ops.image.affine_transform(
        image[None], row, interpolation="bilinear", fill_mode="nearest", data_format="channels_last"
    )
    return np.asarray(result)[0]


def test_an_affine_transform_is_numpys_and_scipys():
    image = np.random.default_rng(0).random((SIDE, SIDE, 3), np.float32)
    np.testing.assert_allclose(moved(image, np.pi / 2), np.rot90(image), atol=1e-5)
    np.testing.assert_allclose(moved(image, stretched=(-1.0, 1.0)), image[:, ::-1], atol=1e-5)
    shifted = moved(image, by=(3.0, 0.0))
    np.testing.assert_allclose(shifted[:, :-3], image[:, 3:], atol=1e-5)
    np.testing.assert_allclose(shifted[:, -3:], np.repeat(image[:, -1:], 3, axis=1), atol=1e-5)
    angle, by, stretched = 0.3, (1.5, -0.7), (1.1, 0.9)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # of (row, column)
    square, middle = turn @ np.diag([stretched[1], stretched[0]]), np.full(2, (SIDE - 1) / 2)
    offset = middle + np.array([by[1], by[0]]) - square @ middle
    channels = [ndimage.affine_transform(image[..., c], square, offset, order=1, mode="nearest") for c in range(3)]
    inside = slice(3, -3), slice(3, -3)
    np.testing.assert_allclose(moved(image, angle, by, stretched)[inside], np.stack(channels, -1)[inside], atol=1e-4)


def test_augmentation_acts_in_training_only_and_follows_the_seed():
    keras, images = import_keras(), np.random.default_rng(0).random((64, SIDE, SIDE, 3), np.float32)
    found = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        layer = keras_network.random_affine(20.0, 0.1, 0.1)
        assert np.array_equal(np.asarray(layer(images)), images)
        found.append(np.asarray(layer(images, training=True)))
    assert np.array_equal(*found) and np.abs(found[0] - images).mean(axis=(1, 2, 3)).min() > 0.01
    result = np.asarray(keras_network.random_affine(0.0, 0.0, 0.0)(images, training=True))
    mirrored, kept = (
        sum(np.allclose(one, image[:, ::way], atol=1e-5) for one, image in zip(result, images, strict=True))
        for way in (-1, 1)
    )
    assert 16 < mirrored < 48 and mirrored + kept == len(images)


def test_a_run_without_a_finite_epoch_has_no_steps_kept():
    from dermstudy.classification import scores

    curve = pd.DataFrame({
        "network": "n", "protocol": "p", "training_set": "t", "seed": [0, 0, 1], "epoch": [1, 2, 1], "loss": 1.0,
        "steps": 8, "validation_loss": [0.9, 0.7, np.nan],
    })  # fmt: skip
    steps = scores.steps_table(curve)
    assert steps["kept_steps"].tolist() == [16, 0] and steps["steps"].tolist() == [16, 8]
    assert scores.steps_ranges(steps)["kept_epoch"].tolist() == ["0 to 2"]
