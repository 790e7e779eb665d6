"""How a cohort's images are stored, so that synthetic ones are stored in the same way.

HAM10000's images went through a lossy JPEG; pixels fresh from a network did not, and both an Inception network and a
classifier see the difference. Storing both alike takes it out of every comparison. Source: Parmar et al. (arXiv
2104.11222), sections 3 and 4, for what compression alone does to distances between sets of images.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin

from dermstudy.data.dataset import Cohort
from dermstudy.data.images import opened
from dermstudy.files import atomic_path

LOOKED_AT = 50  # images of a cohort, evenly spaced


@dataclass(frozen=True)
class Storage:
    """PNG, or JPEG with given quantization tables (64 numbers each, in zigzag order) and chroma subsampling (Pillow's 0..2)."""

    tables: tuple[tuple[int, ...], ...] = ()
    subsampling: int = 0

    @property
    def suffix(self) -> str:
        return ".jpg" if self.tables else ".png"

    @property
    def said(self) -> str:
        """For a reader: "PNG", or "JPEG, chroma 4:2:0, first quantization steps 5, 3, 3"."""
        if not self.tables:
            return "PNG"
        chroma = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}[self.subsampling]
        return f"JPEG, chroma {chroma}, first quantization steps {', '.join(map(str, self.tables[0][:3]))}"

    def options(self) -> dict:
        """Of Pillow's `Image.save`."""
        if not self.tables:
            return {"format": "PNG"}
        return {"format": "JPEG", "qtables": [list(table) for table in self.tables], "subsampling": self.subsampling}

    def save(self, image: np.ndarray, path: str | Path) -> None:
        """Write uint8 [h, w, 3], whole or not at all."""
        with atomic_path(path) as temporary:
            Image.fromarray(image).save(temporary, **self.options())

    def stored(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, h, w, 3] as they come back from storage."""
        if not self.tables:
            return images
        return np.stack([self._back(image) for image in images])

    def _back(self, image: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, **self.options())
        return np.asarray(Image.open(stream))


PNG = Storage()


def storage_of(cohort: Cohort) -> Storage:
    """How most of the cohort's images are stored, by LOOKED_AT of them; InputError for an image that cannot be opened."""
    places = np.unique(np.linspace(0, len(cohort) - 1, min(LOOKED_AT, len(cohort))).astype(int))
    found = Counter(_storage(cohort.root / cohort.frame["file"].iloc[place]) for place in places)
    return found.most_common(1)[0][0]


def _storage(path: Path) -> Storage:
    with opened(path) as image:
        tables = getattr(image, "quantization", None)
        sampling = JpegImagePlugin.get_sampling(image) if tables else 0
    if not tables:
        return Storage()
    return Storage(tuple(tuple(tables[key]) for key in sorted(tables)), max(0, sampling))
