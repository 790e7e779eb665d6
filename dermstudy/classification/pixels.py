"""Decoded images on disk, which all runs of one side share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.data.dataset import Cohort, read_image
from dermstudy.files import atomic_path, code_hash, sha256_text


class Pixels:
    """The images of several cohorts, decoded once into files at one side and read from there as they are needed.

    Memory does not grow with the number of images. An image that stands in several rows is decoded once.
    """

    def __init__(self, cohorts: list[Cohort], side: int, folder: Path):
        self.parts = []
        for cohort in cohorts:
            each = replace(cohort, frame=cohort.frame.drop_duplicates("image_id"))
            stored = np.load(_decoded(each, side, folder), mmap_mode="r")
            place = pd.Series(range(len(each)), index=each.frame["image_id"])
            self.parts.append((stored, place[cohort.frame["image_id"]].to_numpy()))
        self.starts = np.cumsum([0] + [len(rows) for _, rows in self.parts])
        self.side = side

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, counted through all cohorts: uint8 [n, side, side, 3]."""
        out = np.empty((len(indices), self.side, self.side, 3), np.uint8)
        owners = np.searchsorted(self.starts, indices, side="right") - 1
        for place, (index, owner) in enumerate(zip(indices, owners, strict=True)):
            stored, rows = self.parts[owner]
            out[place] = stored[rows[index - self.starts[owner]]]
        return out


def _decoded(cohort: Cohort, side: int, folder: Path, chunk: int = 256) -> Path:
    """The file of a cohort's pixels, uint8 [n, side, side, 3]; written in chunks where it is not there."""
    names = cohort.frame["image_id"]
    code = code_hash(read_image, Cohort.images)
    path = folder / f"{sha256_text(' '.join([cohort.data_hash, code, str(side), *names]))[:16]}.npy"
    if not path.is_file():
        with atomic_path(path) as temporary:
            shape = (len(names), side, side, 3)
            stored = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            for start in range(0, len(names), chunk):
                stored[start : start + chunk] = cohort.images(side, list(names[start : start + chunk]))
            stored.flush()
    return path
