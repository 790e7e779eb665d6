"""What an encoder says of images: one vector an image, its lesion and entity; and how images are drawn for a distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError


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

    def by_entity(self) -> dict[str, Features]:
        """The rows of each entity by its code, in the paper's order."""
        return {code: self.rows(self.entity == code) for code in CODES if (self.entity == code).any()}

    def drawn(self, n: int, random: np.random.Generator) -> np.ndarray:
        """Vectors [n, d] of `n` images drawn without replacement, one image a lesion before any lesion's second."""
        shuffled = self.rows(random.permutation(len(self)))
        turn = pd.Series(shuffled.groups).groupby(shuffled.groups).cumcount().to_numpy()
        return shuffled.values[turn.argsort(kind="stable")[:n]]

    def halves(self, code: str, random: np.random.Generator) -> list[np.ndarray]:
        """The vectors of two random halves of the lesions, in random order; InputError names `code` where it has one."""
        groups = random.permutation(np.unique(self.groups))
        if len(groups) < 2:
            raise InputError(f"{NAMES[code]} has {len(groups)} lesion(s), two halves need at least 2: add images")
        first = np.isin(self.groups, groups[: len(groups) // 2])
        return [random.permutation(self.values[side]) for side in (first, ~first)]


def joined(parts: Sequence[Features]) -> Features:
    """Several sets of features of one encoder as one, row after row."""
    return Features(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "groups", "entity"))
    )
