"""A training set as rows of pools of images: what every network learns from, is stopped on and is asked about.

A repetition is a number, never a copied row. `recipes` says what each set holds. Sources: Menon et al. (arXiv 2007.07314)
for logit adjustment; Rubin (Annals of Statistics 9, 1981) for the bootstrap of lesions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dermstudy.classification import protocol
from dermstudy.classification.measures import places_of
from dermstudy.classification.predictions import EXTERNAL, IMAGE_COLUMNS
from dermstudy.data import splits
from dermstudy.data.dataset import Cohort
from dermstudy.data.external import Labelled
from dermstudy.entities import CODES
from dermstudy.files import InputError

ORIGINALS, WHOLE, SECOND, OWN = "originals", "generator", "second generator", "subset generator"  # pools of images
SAW_ALL, PARTNER = "generator that saw all lesions", "its partner"  # as published, and the ladder's last step
TRIAL_POOLS = (WHOLE, SECOND, OWN)
EVERY, CAPTIONED = "all", "captioned"
NATURAL, BALANCED, RARE_ONLY = "natural", "balanced", "rare only"  # the shares of what is added
CLASS_WEIGHTS, LOGIT_ADJUSTMENT = "class weights", "logit adjustment"
PROTOCOLS = ("as published", "audited")
PUBLISHED = ("original", "synthetic", "combined")  # the three sets of Table 3
LADDER = (
    "as published",
    "tested on real images only",
    "no lesion on both sides",
    "stopped on validation lesions",
    "generator without test lesions",
)
AS_PUBLISHED = {f"as published, {name}": name for name in PUBLISHED}
STEPS = {f"ladder, {name}": name for name in LADDER}


@dataclass(frozen=True)
class Composition:
    """How a training set is made of originals and a pool.

    pool: where added images come from (ORIGINALS repeats originals; empty adds none). dose: how many are added for each
    original, in which shares. originals: whether it holds them. subset: the nested part of the training lesions in place of
    all. oversampled: every entity repeated up to the commonest. loss: "", CLASS_WEIGHTS or LOGIT_ADJUSTMENT. augmented: the
    stronger augmentation.
    """

    pool: str = ""
    dose: float = 1.0
    shares: str = NATURAL
    originals: bool = True
    subset: bool = False
    oversampled: bool = False
    loss: str = ""
    augmented: bool = False


COMPOSITIONS = {
    protocol.ORIGINALS: Composition(),
    protocol.HALF: Composition(WHOLE, 0.5),
    protocol.ONCE: Composition(WHOLE),
    protocol.TWICE: Composition(WHOLE, 2.0),
    protocol.BALANCED: Composition(WHOLE, shares=BALANCED),
    protocol.RARE_ONLY: Composition(WHOLE, shares=RARE_ONLY),
    protocol.SECOND: Composition(SECOND),
    protocol.REPEATED: Composition(ORIGINALS),
    protocol.REPEATED_BALANCED: Composition(ORIGINALS, shares=BALANCED),
    protocol.REPEATED_RARE: Composition(ORIGINALS, shares=RARE_ONLY),
    protocol.OVERSAMPLING: Composition(oversampled=True),
    protocol.CLASS_WEIGHTS: Composition(loss=CLASS_WEIGHTS),
    protocol.LOGIT_ADJUSTMENT: Composition(loss=LOGIT_ADJUSTMENT),
    protocol.STRONGER: Composition(augmented=True),
    protocol.SYNTHETIC_ONLY: Composition(WHOLE, originals=False),
    protocol.LONGER: Composition(),
    protocol.SUBSET: Composition(subset=True),
    protocol.SUBSET_OWN: Composition(OWN, subset=True),
    protocol.SUBSET_BORROWED: Composition(WHOLE, subset=True),
}


@dataclass(frozen=True)
class Images:
    """Every pool that training sets take rows from: originals (group, split, subset), a cohort a generator, other people's.

    seed: which synthetic images and repetitions are taken and how the published split falls, never which lesions train;
    test_fraction: of the published split.
    """

    originals: Cohort
    synthetic: Mapping[str, Cohort]
    external: Labelled | None = None
    seed: int = 0
    test_fraction: float = 0.2

    @property
    def pools(self) -> dict[str, Cohort]:
        others = {} if self.external is None else {EXTERNAL: self.external.cohort}
        return {ORIGINALS: self.originals, **self.synthetic, **others}

    def rows(self, pool: str) -> pd.DataFrame:
        """A pool's images as rows: pool, place (row of its frame), image_id, dx, group, split, source_image_id, repetitions.

        split: "synthetic" of a generator's images, which have the group of the original that lent their caption.
        """
        frame, lesions = self.pools[pool].frame, self.originals.frame.set_index("image_id")["group"]
        made = "source_image_id" in frame
        return pd.DataFrame({
            "pool": pool, "place": np.arange(len(frame)), "image_id": frame["image_id"], "dx": frame["dx"],
            "group": frame["source_image_id"].map(lesions) if made else frame["group"],
            "split": "synthetic" if made else EXTERNAL if pool == EXTERNAL else frame["split"],
            "source_image_id": frame["source_image_id"] if made else "", "repetitions": 1.0,
        })  # fmt: skip

    def counts(self) -> pd.DataFrame:
        """Images by entity code: training originals, each trial pool's synthetic images, validation and test originals."""
        columns = {"training originals": self.originals.select(split="train")}
        columns |= {f"synthetic, {pool}": self.synthetic[pool] for pool in TRIAL_POOLS if pool in self.synthetic}
        columns |= {f"{split} originals": self.originals.select(split=split) for split in ("validation", "test")}
        table = pd.DataFrame({name: cohort.frame["dx"].value_counts() for name, cohort in columns.items()})
        return table.reindex(CODES).fillna(0).astype(int)

    def taken_by(self, sets: Sequence[TrainingSet]) -> Images:
        """These images without the synthetic ones that none of `sets` takes."""
        train = pd.concat([chosen.train for chosen in sets])
        kept = {pool: train.loc[train["pool"] == pool, "image_id"] for pool in self.synthetic}
        return replace(self, synthetic={pool: self.synthetic[pool].select(image_id=ids) for pool, ids in kept.items()})


@dataclass(frozen=True)
class TrainingSet:
    """The rows of one training set under one protocol.

    train: pool, place, image_id, dx, group, repetitions (how often a row is seen in an epoch, at least 1); watched: pool,
    place and IMAGE_COLUMNS of what stopping and penalties are chosen on; tested: the same of what is asked at the end.
    images_per_epoch: 0 for all of them, else how many an epoch of the Keras network has.
    """

    protocol: str
    name: str
    train: pd.DataFrame
    watched: pd.DataFrame
    tested: pd.DataFrame
    composition: Composition = Composition()
    images_per_epoch: int = 0

    @property
    def images(self) -> pd.DataFrame:
        """IMAGE_COLUMNS of what is tested."""
        return self.tested[list(IMAGE_COLUMNS)].reset_index(drop=True)

    @property
    def seen(self) -> pd.DataFrame:
        """The rows of an epoch: `train`, each as often as its repetitions say."""
        return self.train.loc[self.train.index.repeat(self.train["repetitions"].astype(int))].reset_index(drop=True)

    def weights(self, seed: int | None = None) -> np.ndarray:
        """Weight [rows of train] of each row in the loss, adding up to 1.

        seed: training lesions are resampled within each entity by a Bayesian bootstrap, whole lesions with every image
        made for them (None: as they are). The same seed weighs lesions alike in every training set of the same lesions, so
        runs are paired.
        """
        weights = self.train["repetitions"].to_numpy(float)
        if seed is not None:
            weights = weights * self.train["group"].map(lesion_weights(self.train, seed)).to_numpy(float)
        if self.composition.loss == CLASS_WEIGHTS:
            weights = weights / self.prior(weights)[places_of(self.train["dx"])]
        return weights / weights.sum()

    def prior(self, weights: np.ndarray | None = None) -> np.ndarray:
        """The share [7] of each entity among the rows of `weights` (None: those of `weights()`)."""
        weights = self.weights() if weights is None else weights
        sums = np.bincount(places_of(self.train["dx"]), weights, minlength=len(CODES))
        return sums / sums.sum()


def gather(
    originals: Cohort, synthetic: Mapping[str, Cohort | None], which: str = EVERY, seed: int = 0,
    external: Labelled | None = None, test_fraction: float = 0.2,
) -> Images:  # fmt: skip
    """The trial's images. which: EVERY training original, or the CAPTIONED ones that lent a synthetic image its caption.

    The nested subset is the cohort's own column where it has one and all originals train; else it is drawn here. Pools
    that are None are left out. InputError for another `which`, and where no original lent a caption.
    """
    if which not in (EVERY, CAPTIONED):
        raise InputError(f"ORIGINALS is {which!r}: give {EVERY!r}, or {CAPTIONED!r} for a small run")
    pools = {pool: cohort for pool, cohort in synthetic.items() if cohort is not None}
    frame = originals.frame
    if which == CAPTIONED:
        lent = frame["image_id"].isin(pools[WHOLE].frame["source_image_id"])
        frame = frame[lent | (frame["split"] != "train")].reset_index(drop=True)
        if not (frame["split"] == "train").any():
            raise InputError(
                "no training original lent a synthetic image its caption: pair with training lesions in 03"
            )
    if which == CAPTIONED or "subset" not in frame:
        frame = frame.assign(subset=splits.nested_subset(frame, seed))
    return Images(replace(originals, frame=frame), pools, external, seed, test_fraction)


def lesion_weights(rows: pd.DataFrame, seed: int) -> pd.Series:
    """The weight of each group of `rows` in a Bayesian bootstrap within each entity (of the group's first row), mean 1.

    The weights of an entity's lesions are as many times a draw of the flat Dirichlet distribution. A bootstrap by counts
    would leave out a third of the few rare lesions in every run.
    """
    entity = rows.drop_duplicates("group").set_index("group")["dx"].sort_index()
    drawn = []
    for code, own in entity.groupby(entity):
        random = np.random.default_rng([seed, CODES.index(code), 11])
        drawn.append(pd.Series(len(own) * random.dirichlet(np.ones(len(own))), index=own.index))
    return pd.concat(drawn)
