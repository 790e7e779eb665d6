"""What the trial learns from and is asked about, and which training sets of docs/PROTOCOL.md that allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from dermstudy.classification import feature_sets, protocol
from dermstudy.data.dataset import Cohort
from dermstudy.data.external import External
from dermstudy.entities import CODES
from dermstudy.files import InputError

LEFT_OUT_COLUMNS = ("network", "training_set", "reason")


@dataclass(frozen=True)
class Images:
    """What the trial learns from and is asked about: originals (with `subset`), a cohort a pool, other people's images."""

    originals: Cohort
    synthetic: Mapping[str, Cohort]
    external: External | None = None

    def counts(self) -> pd.DataFrame:
        """Images by entity code: training originals, each pool's synthetic images, validation and test originals."""
        columns = {"training originals": self.originals.select(split="train")}
        columns |= {f"synthetic, {pool}": cohort for pool, cohort in self.synthetic.items()}
        columns |= {f"{split} originals": self.originals.select(split=split) for split in ("validation", "test")}
        table = pd.DataFrame({name: cohort.frame["dx"].value_counts() for name, cohort in columns.items()})
        return table.reindex(CODES).fillna(0).astype(int)


def possible(network: str, images: Images) -> tuple[list[str], pd.DataFrame]:
    """The training sets of `network` that `images` allow, and those that they do not, with the reason (LEFT_OUT_COLUMNS)."""
    frames = {pool: cohort.frame for pool, cohort in images.synthetic.items()}
    kept, left_out = [], []
    for name in protocol.TRAINING_SETS[network]:
        asked = protocol.ONCE if name == protocol.LONGER else name  # as many images an epoch as dose 1 has
        try:
            feature_sets.make_feature_set(asked, images.originals.frame, frames)
            kept.append(name)
        except InputError as error:
            left_out.append((network, name, str(error)))
    return kept, pd.DataFrame(left_out, columns=list(LEFT_OUT_COLUMNS))


def frozen_sets(images: Images, draws: int) -> tuple[list[str], pd.DataFrame]:
    """`possible` for the head on frozen features, whose stronger augmentation wants `draws` of it encoded."""
    names, left_out = possible(protocol.FROZEN, images)
    if not draws and protocol.STRONGER in names:
        names.remove(protocol.STRONGER)
        left_out.loc[len(left_out)] = protocol.FROZEN, protocol.STRONGER, "no augmented view is encoded: give AUGMENTED"
    return names, left_out
