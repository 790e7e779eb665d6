"""Synthetic images are stored as the originals are, so that no comparison sees the codec."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dermstudy.data import dataset, storage
from dermstudy.files import InputError


def test_a_jpeg_stored_again_by_its_own_tables_hardly_changes(tmp_path, cohort):
    pixels = cohort.images(128)[0]
    for quality, subsampling in ((85, 2), (95, 0)):
        Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=quality, subsampling=subsampling)
        own = replace(cohort, root=tmp_path, frame=cohort.frame.head(1).assign(file="a.jpg"))
        found = storage.storage_of(own)
        assert (found.suffix, found.subsampling) == (".jpg", subsampling)
        once = np.asarray(Image.open(tmp_path / "a.jpg"))
        np.testing.assert_array_equal(found.stored(pixels[None])[0], once)
        again = np.abs(found.stored(once[None])[0].astype(int) - once).mean()
        assert again < 0.3 * np.abs(once.astype(int) - pixels).mean() + 0.2
        found.save(pixels, tmp_path / "b.jpg")
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.jpg")), once)


def test_png_stays_png_and_the_commoner_storage_wins(tmp_path, cohort):
    pixels = cohort.images(64)[0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.jpg", quality=85)
    own = replace(cohort, root=tmp_path, frame=cohort.frame.head(3).assign(file=["a.png", "a.png", "b.jpg"]))
    found = storage.storage_of(own)
    assert found == storage.PNG and found.said == "PNG"
    np.testing.assert_array_equal(found.stored(pixels[None])[0], pixels)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="a.png is not an image"):
        storage.storage_of(own)


def test_ham10000_is_stored_in_one_way(ham10000):
    found = storage.storage_of(dataset.load_folder(ham10000))
    assert found.said == "JPEG, chroma 4:2:0, first quantization steps 5, 3, 3"
