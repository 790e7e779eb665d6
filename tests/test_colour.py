"""Colours in CIELAB: known patches, a shift that is found, a bootstrap of lesions that is wider than one of images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dermstudy.evaluation import colour
from dermstudy.files import InputError


def skin(count: int, red: float, seed: int, spread: float = 8.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    base = np.array([200 + red, 150, 120]) + random.normal(0, spread, (count, 1, 1, 3))
    return (base + random.normal(0, 3, (count, 16, 16, 3))).clip(0, 255).astype(np.uint8)


def test_patches_have_their_textbook_colours():
    patches = np.zeros((3, 8, 8, 3), np.uint8)
    patches[1], patches[2] = 255, (255, 0, 0)
    values = colour.colours(patches)
    assert np.allclose(values[:, :3], [[0, 0, 0], [100, 0, 0], [53.24, 80.09, 67.20]], atol=0.05)
    assert np.allclose(values[:, 3:], 0, atol=1e-6)


def test_the_rim_of_the_dermatoscope_is_not_looked_at():
    image = np.full((1, 64, 64, 3), 180, np.uint8)
    image[:, :7], image[:, -7:] = 0, 0
    assert colour.colours(image)[0, 3] == pytest.approx(0, abs=1e-6)


def shown(code: str, colours: np.ndarray, lesions=None) -> tuple[pd.DataFrame, np.ndarray]:
    """A side of `colour_table`: images of one entity, a lesion each unless `lesions` says otherwise."""
    return pd.DataFrame({"dx": code, "group": np.arange(len(colours)) if lesions is None else lesions}), colours


def test_a_shift_to_red_is_found_and_none_is_not():
    real = shown("nv", colour.colours(skin(60, 0, 0)))
    same, red = (
        colour.colour_table(shown("nv", colour.colours(made)), real, ["nv"]).set_index("channel")
        for made in (skin(60, 0, 1), skin(60, 25, 2))
    )
    assert same.loc["a", "low"] < 0 < same.loc["a", "high"] and red.loc["a", "low"] > 3
    assert (same["between"] - 1).abs().max() < 0.5 and list(red["n"]) == [60] * 3


def test_sister_images_do_not_count_as_new_lesions():
    twice, made = np.repeat(colour.colours(skin(30, 0, 0)), 4, axis=0), shown("mel", colour.colours(skin(500, 0, 1)))
    whole, apart = (
        colour.colour_table(made, shown("mel", twice, lesions), ["mel"])
        for lesions in (np.repeat(np.arange(30), 4), None)
    )
    assert ((whole["high"] - whole["low"]) > 1.3 * (apart["high"] - apart["low"])).all()


def test_what_cannot_be_read_is_named():
    with pytest.raises(InputError, match="uint8 images"):
        colour.colours(np.zeros((2, 8, 8, 3)))
    with pytest.raises(InputError, match="need two of each"):
        colour.colour_table(shown("df", np.zeros((1, 6))), shown("df", np.zeros((3, 6))), ["df"])
