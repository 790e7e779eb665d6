"""No committed picture shows an image of HAM10000: every tile of every picture against all originals.

A perceptual hash finds the tiles that look alike, fine detail tells which are the same: a small spot on plain skin hashes as
another does.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess

import imagehash
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from scipy import ndimage

from dermstudy import figures
from dermstudy.data import dataset

SMALLEST = 32  # pixels: no tile of a figure is smaller
WHITE = 230  # of a channel: what JPEG leaves of the white between two images is not darker
ALIKE = 32  # of 256 bits: an original redrawn differs from itself in up to 18
SAME = 0.7  # correlation of fine detail: an original with its redrawing has 0.86 and more, another spot on plain skin up to 0.5
SIDE = 96  # pixels at which images are compared
SHEET = 256  # the side of the squares of a sheet of images without gaps


def hashed(image: Image.Image) -> np.ndarray:
    return np.packbits(imagehash.phash(image, hash_size=16).hash.ravel()).view(np.uint64)


def tiles(picture: Image.Image) -> list[Image.Image]:
    """The pictures within a figure: rectangles apart by white that no single colour fills; a sheet's squares."""
    pixels = np.asarray(picture.convert("RGB"))
    if not picture.width % SHEET and not picture.height % SHEET:
        squares = (
            pixels.reshape(-1, SHEET, picture.width // SHEET, SHEET, 3).swapaxes(1, 2).reshape(-1, SHEET, SHEET, 3)
        )
        return [Image.fromarray(square) for square in squares]
    labels, _ = ndimage.label(ndimage.binary_fill_holes((pixels < WHITE).any(axis=-1)))
    found = []
    for place, box in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[box] == place
        if min(part.shape) < SMALLEST or part.mean() < 0.9:
            continue
        _, counts = np.unique(pixels[box].reshape(-1, 3), axis=0, return_counts=True)
        if counts.max() < 0.2 * counts.sum():  # else a cell of a table in colours
            found.append(Image.fromarray(pixels[box]))
    return found


def views(tile: Image.Image) -> list[Image.Image]:
    """The tile turned and mirrored in all eight ways."""
    flipped = tile, tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return [side.rotate(90 * turn, expand=True) for side in flipped for turn in range(4)]


def detail(image: Image.Image) -> np.ndarray:
    """What a blur takes from the image in grey, [SIDE * SIDE], of zero mean and unit length."""
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE)), float)
    fine = (grey - ndimage.gaussian_filter(grey, 2)).ravel()
    fine -= fine.mean()
    return fine / (np.linalg.norm(fine) or 1)


def resemblance(tile: Image.Image, images: np.ndarray, hashes: np.ndarray) -> float:
    """The highest correlation of fine detail with an original whose hash is alike; 0 without any."""
    found = [0.0]
    for view in views(tile):
        alike = np.bitwise_count(hashed(view)[None] ^ hashes).sum(axis=-1, dtype=int) < ALIKE
        found += [detail(view) @ detail(Image.fromarray(image)) for image in images[alike]]
    return max(found)


def committed_pictures():
    """(name, picture) of every PNG and JPEG in the repository, those inside executed notebooks too."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
            yield name, Image.open(path)
        elif path.suffix == ".ipynb":
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
                for output in cell.get("outputs", []):
                    for kind in ("image/png", "image/jpeg"):
                        if kind in output.get("data", {}):
                            content = output["data"][kind]
                            yield name, Image.open(io.BytesIO(base64.b64decode("".join(content))))


@pytest.fixture(scope="module")
def originals(ham10000):
    images = dataset.load_folder(ham10000).images(SIDE)
    return images, np.stack([hashed(Image.fromarray(image)) for image in images])


@pytest.mark.slow
def test_an_original_in_a_figure_is_found(originals, ham10000, tmp_path):
    cohort = dataset.load_folder(ham10000)
    shown = list(cohort.images(192, cohort.frame["image_id"].iloc[::500]))
    figures.use_style()
    sheet = figures.image_grid([shown[:7], [image[:, ::-1] for image in shown[7:14]]], ["a", "b"])
    found = tiles(Image.open(figures.save(sheet, tmp_path, "a")))
    assert len(found) == 14
    assert all(resemblance(tile, *originals) >= SAME for tile in found)


@pytest.mark.slow
def test_no_committed_picture_shows_an_original(originals):
    compared = 0
    for name, picture in committed_pictures():
        for number, tile in enumerate(tiles(picture)):
            compared += 1
            assert resemblance(tile, *originals) < SAME, f"{name}: tile {number} is an original"
    assert compared > 1000
