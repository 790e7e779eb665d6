import numpy as np
import pytest

from dermstudy import pretrained
from dermstudy.classification import encoding
from dermstudy.classification.encoding import View
from dermstudy.data import dataset
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


def test_an_image_is_encoded_once(cohort, tmp_path, monkeypatch):
    some = cohort.select(image_id=list(cohort.frame["image_id"][:6]))
    features = encoding.encode(some, tmp_path, SMALL)
    assert features.shape == (6, 6246) and features.dtype == np.float16 and len(list(tmp_path.iterdir())) == 1
    expected = pretrained.depth_features(some.images(64))
    np.testing.assert_allclose(features.astype(float), expected, atol=2e-2)

    def no_more(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(encoding, "encoded_now", no_more)
    assert np.array_equal(encoding.encode(some, tmp_path, SMALL), features)


def test_the_cache_knows_its_images_view_and_data(cohort):
    some = cohort.select(image_id=list(cohort.frame["image_id"][:6]))
    fewer = some.select(image_id=list(some.frame["image_id"][:5]))
    other = dataset.Cohort(some.name, some.root, some.frame, "0" * 64)
    names = {
        encoding._identity(*pair, pretrained.depth_features)
        for pair in ((some, SMALL), (fewer, SMALL), (other, SMALL), (some, View(96)))
    }
    assert len(names) == 4


def test_a_cut_encoding_goes_on_from_its_last_part(cohort, tmp_path, monkeypatch):
    some = cohort.select(image_id=list(cohort.frame["image_id"][:6]))
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


def test_an_empty_selection_is_refused(cohort, tmp_path):
    with pytest.raises(InputError, match="selection is empty"):
        encoding.encode(cohort.select(image_id=[]), tmp_path, SMALL)
