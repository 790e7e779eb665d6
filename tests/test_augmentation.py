"""One affine transform an image: nothing at test time, the drawn parts within their ranges, the same as numpy's and scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from dermstudy.classification import augmentation
from dermstudy.tensorflow_setup import import_keras

SIDE = 16


@pytest.fixture(scope="module")
def keras():
    return import_keras()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((64, SIDE, SIDE, 3), np.float32)


def moved(keras, image, angle=0.0, by=(0.0, 0.0), stretched=(1.0, 1.0)):
    row = augmentation.matrix(keras.ops.convert_to_tensor([angle]), by, stretched, SIDE)
    result = keras.ops.image.affine_transform(
        image[None], row, interpolation="bilinear", fill_mode="nearest", data_format="channels_last"
    )
    return np.asarray(result)[0]


def test_turns_mirrors_and_shifts_are_numpys(keras, images):
    image = images[0]
    np.testing.assert_allclose(moved(keras, image, np.pi / 2), np.rot90(image), atol=1e-5)
    np.testing.assert_allclose(moved(keras, image, stretched=(-1.0, 1.0)), image[:, ::-1], atol=1e-5)
    shifted = moved(keras, image, by=(3.0, 0.0))
    np.testing.assert_allclose(shifted[:, :-3], image[:, 3:], atol=1e-5)
    np.testing.assert_allclose(shifted[:, -3:], np.repeat(image[:, -1:], 3, axis=1), atol=1e-5)


def test_all_parts_together_are_scipys(keras, images):
    angle, by, stretched = 0.3, (1.5, -0.7), (1.1, 0.9)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # of (row, column)
    square = turn @ np.diag([stretched[1], stretched[0]])
    middle = np.full(2, (SIDE - 1) / 2)
    offset = middle + np.array([by[1], by[0]]) - square @ middle
    channels = [ndimage.affine_transform(images[0][..., c], square, offset, order=1, mode="nearest") for c in range(3)]
    np.testing.assert_allclose(
        moved(keras, images[0], angle, by, stretched)[3:-3, 3:-3], np.stack(channels, -1)[3:-3, 3:-3], atol=1e-4
    )


def test_it_acts_in_training_only_and_follows_the_seed(keras, images):
    keras.utils.set_random_seed(3)
    layer = augmentation.random_affine(20.0, 0.1, 0.1)
    assert np.array_equal(np.asarray(layer(images)), images)
    first = np.asarray(layer(images, training=True))
    keras.utils.set_random_seed(3)
    again = augmentation.random_affine(20.0, 0.1, 0.1)
    assert np.array_equal(np.asarray(again(images, training=True)), first)
    assert np.abs(first - images).mean(axis=(1, 2, 3)).min() > 0.01


def test_without_ranges_only_the_mirror_is_left(keras, images):
    result = np.asarray(augmentation.random_affine(0.0, 0.0, 0.0)(images, training=True))
    mirrored = [np.allclose(one, image[:, ::-1], atol=1e-5) for one, image in zip(result, images, strict=True)]
    kept = [np.allclose(one, image, atol=1e-5) for one, image in zip(result, images, strict=True)]
    assert 16 < sum(mirrored) < 48 and sum(mirrored) + sum(kept) == len(images)
