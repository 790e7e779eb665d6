"""What a head on frozen features learns from: rows of originals and of synthetic images, with their repetitions and weights.

What a generator learned from, every training set holds, save "synthetic only" and the subset's. A repetition is a weight,
never a copied row. Sources: Shavlokhova et al., section 3.4, for the question; Menon et al. (arXiv 2007.07314) for logit
adjustment; the training sets are this study's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dermstudy.classification import protocol
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError

ORIGINALS, WHOLE, SECOND, OWN = "originals", "generator", "second generator", "subset generator"  # pools of images
NATURAL, BALANCED, RARE_ONLY = "natural", "balanced", "rare only"  # the shares of what is added
RARE = protocol.RARE
LOSSES = ("plain", "class weights", "logit adjustment")


@dataclass(frozen=True)
class Composition:
    """How a training set is made of originals and a pool.

    originals: whether it holds them. subset: the nested part of the training lesions in place of all. pool: where added
    images come from (ORIGINALS repeats originals; empty adds none). dose: how many are added for each original, in which
    shares. oversampled: every entity repeated up to the commonest. loss: one of LOSSES. augmented: the stronger one.
    """

    pool: str = ""
    dose: float = 1.0
    shares: str = NATURAL
    originals: bool = True
    subset: bool = False
    oversampled: bool = False
    loss: str = LOSSES[0]
    augmented: bool = False


TRAINING_SETS = {
    protocol.ORIGINALS: Composition(),
    protocol.HALF: Composition(WHOLE, 0.5),
    protocol.ONCE: Composition(WHOLE),
    protocol.TWICE: Composition(WHOLE, 2.0),
    protocol.BALANCED: Composition(WHOLE, shares=BALANCED),
    protocol.RARE_ONLY: Composition(WHOLE, shares=RARE_ONLY),
    protocol.SECOND: Composition(SECOND),
    protocol.REPEATED: Composition(ORIGINALS),
    protocol.REPEATED_BALANCED: Composition(ORIGINALS, shares=BALANCED),
    protocol.OVERSAMPLING: Composition(oversampled=True),
    protocol.CLASS_WEIGHTS: Composition(loss=LOSSES[1]),
    protocol.LOGIT_ADJUSTMENT: Composition(loss=LOSSES[2]),
    protocol.STRONGER: Composition(augmented=True),
    protocol.SYNTHETIC_ONLY: Composition(WHOLE, originals=False),
    protocol.SUBSET: Composition(subset=True),
    protocol.SUBSET_OWN: Composition(OWN, subset=True),
    protocol.SUBSET_BORROWED: Composition(WHOLE, subset=True),
}


@dataclass(frozen=True)
class FeatureSet:
    """The rows of one training set.

    rows: pool (ORIGINALS or a generator's), place (row of that pool's frame), image_id, dx, group (a synthetic image has the
    lesion of its caption) and repetitions (how often it is seen in an epoch, at least 1).
    """

    name: str
    rows: pd.DataFrame
    composition: Composition

    def weights(self, seed: int | None = None) -> np.ndarray:
        """Weight [rows] of each row in the loss, adding up to 1.

        seed: training lesions are resampled within each entity by a Bayesian bootstrap, whole lesions with every image
        made for them (None: as they are). The same seed weighs lesions alike in every training set of the same lesions, so
        runs are paired.
        """
        weights = self.rows["repetitions"].to_numpy(float)
        if seed is not None:
            weights = weights * self.rows["group"].map(lesion_weights(self.rows, seed)).to_numpy(float)
        if self.composition.loss == "class weights":
            weights = weights / _shares(weights, self.rows["dx"])[_places(self.rows["dx"])]
        return weights / weights.sum()

    def seen_prior(self, weights: np.ndarray) -> np.ndarray:
        """The share [7] of each entity among rows of `weights`."""
        return _shares(weights, self.rows["dx"])

    def prior(self, weights: np.ndarray) -> np.ndarray:
        """The prior [7] that is in the head's posteriors: even where the logits were adjusted for the seen one."""
        return (
            np.full(len(CODES), 1 / len(CODES))
            if self.composition.loss == "logit adjustment"
            else self.seen_prior(weights)
        )


def needed(originals: pd.DataFrame) -> pd.DataFrame:
    """How many synthetic images of each entity the training sets take: a column a pool, index CODES.

    originals as in `make_feature_set`. Captions must come from training originals, of the subset's for OWN; for a part of
    WHOLE too, as many of each entity as the column "WHOLE, of the subset" says.
    """
    train = originals[originals["split"] == "train"]
    table: dict[str, np.ndarray] = {}
    for composition in TRAINING_SETS.values():
        if composition.pool and composition.pool != ORIGINALS:
            counts = _counts(train[train["subset"].astype(bool)] if composition.subset else train)
            column = f"{WHOLE}, of the subset" if composition.subset and composition.pool == WHOLE else composition.pool
            table[column] = np.maximum(table.get(column, 0), _added(composition, counts))
    return pd.DataFrame(table, index=pd.Index(CODES, name="entity"))


def needed_of(originals: pd.DataFrame, pool: str) -> pd.Series:
    """`needed` of one pool of synthetic images; InputError where there is none of that name."""
    table = needed(originals)
    if pool not in table:
        raise InputError(f"no pool {pool!r} of synthetic images in the trial: choose among {', '.join(table)}")
    return table[pool]


def make_feature_set(
    name: str, originals: pd.DataFrame, synthetic: Mapping[str, pd.DataFrame] | None = None, seed: int = 0
) -> FeatureSet:
    """One of TRAINING_SETS.

    originals: image_id, dx, group, split and subset (bool: of the nested part of the training lesions), any split; only
    training rows are taken. synthetic: pools WHOLE, SECOND and OWN, each image_id, dx and source_image_id.

    A dose of 1 adds as many images as there are training originals in the set: natural in their own shares, balanced the
    same number of each entity, rare only the balanced ones of RARE alone (fewer in all). Smaller doses are parts of greater
    ones. A synthetic image counts where its caption is of a training original of the set; each original lends its caption
    once before any lends it twice. Repeated originals stand where synthetic images would, entity by entity, evenly.
    "synthetic only" is a natural dose 1 without the originals. seed: which images, never which lesions.
    InputError for an unknown name, a pool that is missing or too small, and an entity without a training image.
    """
    if name not in TRAINING_SETS:
        raise InputError(f"unknown training set {name!r}: choose one of {'; '.join(TRAINING_SETS)}")
    composition = TRAINING_SETS[name]
    every = originals.assign(pool=ORIGINALS, place=np.arange(len(originals)), repetitions=1.0)
    real = every[every["split"] == "train"]
    if composition.subset:
        real = real[real["subset"].astype(bool)]
    counts = _counts(real)
    absent = [NAMES[code] for code, count in zip(CODES, counts, strict=True) if count == 0]
    if absent:
        raise InputError(f"{name}: no training image of {', '.join(absent)}; use a larger cohort")
    if composition.oversampled:
        return FeatureSet(name, _repeated(real, counts.max() - counts, seed), composition)
    if composition.pool == ORIGINALS:
        return FeatureSet(name, _repeated(real, _added(composition, counts), seed), composition)
    parts = [real] if composition.originals else []
    if composition.pool:
        pool = _pool(name, composition.pool, synthetic or {}, real)
        parts.append(_taken(name, pool, _added(composition, counts), seed))
    return FeatureSet(name, _columns(pd.concat(parts)), composition)


def lesion_weights(rows: pd.DataFrame, seed: int) -> pd.Series:
    """The weight of each group of `rows` in a Bayesian bootstrap within each entity (of the group's first row), mean 1.

    The weights of an entity's lesions are as many times a draw of the flat Dirichlet distribution (Rubin, Annals of
    Statistics 9, 1981). A bootstrap by counts would leave out a third of the few rare lesions in every run.
    """
    entity = rows.drop_duplicates("group").set_index("group")["dx"].sort_index()
    drawn = []
    for code, own in entity.groupby(entity):
        random = np.random.default_rng([seed, CODES.index(code), 11])
        drawn.append(pd.Series(len(own) * random.dirichlet(np.ones(len(own))), index=own.index))
    return pd.concat(drawn)


def _added(composition: Composition, counts: np.ndarray) -> np.ndarray:
    """How many images of each entity [7] a composition adds to `counts` originals."""
    if composition.shares == NATURAL:
        return np.round(composition.dose * counts).astype(int)
    even = np.full(len(CODES), round(composition.dose * counts.sum() / len(CODES)))
    return np.where(np.isin(CODES, RARE), even, 0) if composition.shares == RARE_ONLY else even


def _pool(name: str, pool: str, synthetic: Mapping[str, pd.DataFrame], real: pd.DataFrame) -> pd.DataFrame:
    """The images of one generator whose caption is an image of `real`, with the lesion of that image."""
    if pool not in synthetic:
        raise InputError(f"{name} needs synthetic images of the {pool}: sample them first")
    frame = synthetic[pool]
    frame = frame.assign(pool=pool, place=np.arange(len(frame)), repetitions=1.0)
    groups = real.set_index("image_id")["group"]
    return frame[frame["source_image_id"].isin(groups.index)].assign(group=frame["source_image_id"].map(groups))


def _taken(name: str, pool: pd.DataFrame, wanted: np.ndarray, seed: int) -> pd.DataFrame:
    """`wanted` [7] images of each entity: every caption once before any twice, else by chance."""
    kept = []
    for place, count in enumerate(wanted):
        own = pool[pool["dx"] == CODES[place]].sort_values("image_id")
        if len(own) < count:
            raise InputError(
                f"{name} takes {count} synthetic images of {NAMES[CODES[place]]} for captions of its own training "
                f"lesions, and {len(own)} are there: sample more"
            )
        own = own.iloc[np.random.default_rng([seed, place, 12]).permutation(len(own))]
        turn = own.groupby("source_image_id").cumcount().to_numpy()
        kept.append(own.iloc[np.argsort(turn, kind="stable")[:count]])
    return pd.concat(kept)


def _repeated(real: pd.DataFrame, added: np.ndarray, seed: int) -> pd.DataFrame:
    """`real` with `added` [7] further repetitions of each entity's images, even but for a rest that chance deals."""
    rows = _columns(real)
    for place, count in enumerate(added):
        own = np.flatnonzero(rows["dx"] == CODES[place])
        extra = np.full(len(own), count // len(own))
        extra[np.random.default_rng([seed, place, 13]).permutation(len(own))[: count % len(own)]] += 1
        rows.loc[own, "repetitions"] += extra
    return rows


def _columns(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[["pool", "place", "image_id", "dx", "group", "repetitions"]].reset_index(drop=True)


def _counts(frame: pd.DataFrame) -> np.ndarray:
    return frame["dx"].value_counts().reindex(CODES, fill_value=0).to_numpy()


def _places(dx: pd.Series) -> np.ndarray:
    return pd.Index(CODES).get_indexer(dx)


def _shares(weights: np.ndarray, dx: pd.Series) -> np.ndarray:
    sums = np.bincount(_places(dx), weights, minlength=len(CODES))
    return sums / sums.sum()
