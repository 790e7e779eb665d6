"""What an encoder says of images: one vector an image, with the lesion that it shows and its entity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Features:
    """Vectors of several images, row by row. Half of the lesions, or one image a lesion, are drawn by `groups`."""

    values: np.ndarray  # float32 [n, d]
    groups: np.ndarray  # [n], the lesion group of each image
    entity: np.ndarray  # [n], entity codes

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, chosen: np.ndarray) -> Features:
        """The rows at places or under a mask `chosen`."""
        return Features(self.values[chosen], self.groups[chosen], self.entity[chosen])


def joined(parts: Sequence[Features]) -> Features:
    """Several sets of features of one encoder as one, row after row."""
    return Features(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "groups", "entity"))
    )
