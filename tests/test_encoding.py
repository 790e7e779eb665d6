from dataclasses import replace

import numpy as np
import pytest

from dermstudy import pretrained
from dermstudy.classification import encoding
from dermstudy.classification.encoding import View
from dermstudy.files import InputError

SMALL = View(64)


def test_depths_end_in_the_last_layer_and_begin_with_the_pixels():
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3)).astype(np.uint8)
    features = pretrained.depth_features(images, batch=2)
    head = features[:, pretrained.depth_columns(("head",))]
    np.testing.assert_allclose(head[:, :1280], pretrained.pooled_features(images), atol=1e-4)
    pixels = (images.reshape(3, -1, 3).astype(float) - 127) / 128
    expected = np.concatenate([pixels.mean(axis=1), pixels.std(axis=1)], axis=1)
    np.testing.assert_allclose(features[:, pretrained.depth_columns(("pixels",))], expected, atol=1e-5)


def test_columns_belong_to_one_depth_each():
    every = np.concatenate([pretrained.depth_columns((depth,)) for depth in pretrained.DEPTHS])
    assert np.array_equal(every, np.arange(6246))
    with pytest.raises(InputError, match="unknown depth 'block 16'"):
        pretrained.depth_columns(("block 16",))


def test_views_are_symmetries_and_parts_of_the_centre_square():
    image = np.random.default_rng(1).integers(0, 255, (90, 120, 3)).astype(np.uint8)
    whole = encoding.looked_at(image, View(90), "a")
    assert np.array_equal(whole, image[:, 15:105])
    assert np.array_equal(encoding.looked_at(image, View(90, symmetry=1), "a"), np.rot90(whole))
    assert np.array_equal(encoding.looked_at(image, View(90, symmetry=4), "a"), whole[:, ::-1])
    seen = {encoding.looked_at(image, View(90, symmetry=symmetry), "a").tobytes() for symmetry in range(8)}
    assert len(seen) == 8
    assert np.array_equal(encoding.looked_at(image, View(30, 1 / 3), "a"), whole[30:60, 30:60])


def test_a_draw_is_random_by_image_and_draw_and_the_same_each_time():
    image = np.random.default_rng(2).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    first = encoding.looked_at(image, View(64, draw=1), "a")
    assert np.array_equal(first, encoding.looked_at(image, View(64, draw=1), "a"))
    for view, name in ((View(64, draw=2), "a"), (View(64, draw=1), "b"), (View(64), "a")):
        assert not np.array_equal(first, encoding.looked_at(image, view, name))


@pytest.fixture(scope="module")
def some(cohort):
    return cohort.select(image_id=list(cohort.frame["image_id"][:6]))


def test_an_image_is_encoded_once_and_known_by_images_view_and_data(some, tmp_path, monkeypatch):
    features = encoding.encode(some, tmp_path, SMALL)
    assert features.shape == (6, 6246) and features.dtype == np.float16 and len(list(tmp_path.iterdir())) == 1
    np.testing.assert_allclose(features.astype(float), pretrained.depth_features(some.images(64)), atol=2e-2)
    computed = []

    def counted(cohort, view, image_ids):
        computed.append(view)
        return np.zeros((len(image_ids), 6246), np.float16)

    monkeypatch.setattr(encoding, "encoded_now", counted)
    assert np.array_equal(encoding.encode(some, tmp_path, SMALL), features) and not computed
    fewer = some.select(image_id=list(some.frame["image_id"][:5]))
    others = (fewer, SMALL), (replace(some, data_hash="0" * 64), SMALL), (some, View(96)), (some, View(64, draw=1))
    for cohort, view in others:
        encoding.encode(cohort, tmp_path, view)
    assert len(computed) == len(others)
    with pytest.raises(InputError, match="selection is empty"):
        encoding.encode(some.select(image_id=[]), tmp_path, SMALL)


def test_a_cut_encoding_goes_on_from_its_last_part(some, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "PART", 2)
    encoder, calls = encoding.encoded_now, []

    def cut(own, view, image_ids):
        calls.append(list(image_ids))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encoder(own, view, image_ids)

    monkeypatch.setattr(encoding, "encoded_now", cut)
    with pytest.raises(KeyboardInterrupt):
        encoding.encode(some, tmp_path, SMALL)
    features = encoding.encode(some, tmp_path, SMALL)
    assert len(calls) == 4 and calls[2] == calls[3]
    expected = np.concatenate([encoder(some, SMALL, ids) for ids in (calls[0], calls[1], calls[3])])
    assert np.array_equal(features, expected)
    assert len(list(tmp_path.iterdir())) == 1


def test_an_augmented_view_is_the_same_whatever_is_drawn_beside_it(cohort):
    ids, drawn = list(cohort.frame["image_id"][:24]), View(32, draw=1)
    together = encoding.pixels(cohort, drawn, ids)
    assert np.array_equal(together, np.concatenate([encoding.pixels(cohort, drawn, [one]) for one in ids]))
