"""The recipe of every training set: the trial's (docs/PROTOCOL.md), the paper's three, and the ladder between the two ends.

What a generator learned from, every set of the trial holds, save "synthetic only" and the subset's. Sources: Shavlokhova et
al., sections 2.4 and 3.4; the trial's sets and the ladder are this study's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from dermstudy.classification import protocol
from dermstudy.classification.predictions import EXTERNAL
from dermstudy.classification.training_sets import (
    AS_PUBLISHED,
    COMPOSITIONS,
    LADDER,
    NATURAL,
    ORIGINALS,
    PARTNER,
    PROTOCOLS,
    RARE_ONLY,
    SAW_ALL,
    STEPS,
    WHOLE,
    Composition,
    Images,
    TrainingSet,
)
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError


def make_training_set(name: str, images: Images) -> TrainingSet:
    """A set of the trial (COMPOSITIONS), as published (AS_PUBLISHED) or of the ladder (STEPS); InputError for another name.

    The trial's: a dose of 1 adds as many images as there are training originals in the set: natural in their own shares,
    balanced the same number of each entity, rare only the balanced ones of protocol.RARE alone (fewer in all). Smaller doses
    are parts of greater ones. A synthetic image counts where its caption is of a training original of the set; each original
    lends its caption once before any lends it twice. Repeated originals stand where synthetic images would, entity by
    entity, evenly. "synthetic only" is a natural dose 1 without the originals; "longer training" is all originals, as many
    an epoch as dose 1 has. Stopped on validation lesions, asked about validation and test originals and other people's.

    As published: the set's own images split at random within each entity, synthetic ones in the test set too, as many as
    `one_an_original` gives; stopped on the test set, for the paper names no other.

    InputError, by name, for a pool that is missing or too small, and an entity without a training or test image.
    """
    if name in AS_PUBLISHED:
        return _checked(_published(AS_PUBLISHED[name], images))
    if name in STEPS:
        return _checked(_ladder(images)[STEPS[name]])
    if name not in COMPOSITIONS:
        raise InputError(f"unknown training set {name!r}: choose one of {'; '.join(COMPOSITIONS)}")
    originals = images.rows(ORIGINALS)
    validation = originals[originals["split"] == "validation"]
    tested = [originals[originals["split"] != "train"], *([images.rows(EXTERNAL)] if images.external else [])]
    longer = len(_train_rows(protocol.ONCE, images)) if name == protocol.LONGER else 0
    train, tested = _train_rows(name, images), pd.concat(tested, ignore_index=True)
    return TrainingSet(PROTOCOLS[1], name, train, validation, tested, COMPOSITIONS[name], longer)


def allowed_sets(names: Sequence[str], images: Images, draws: int = 0) -> tuple[dict[str, TrainingSet], dict[str, str]]:
    """The sets of `names` that `images` allow, and those that they do not, with the reason.

    draws: how often the stronger augmentation is laid over each training original; 0 leaves its set out.
    """
    kept, left_out = {}, {}
    for name in names:
        try:
            if name == protocol.STRONGER and not draws:
                raise InputError("no augmented view is encoded: give AUGMENTED")
            kept[name] = make_training_set(name, images)
        except InputError as error:
            left_out[name] = str(error)
    return kept, left_out


def needed_of(originals: pd.DataFrame, pool: str) -> pd.Series:
    """How many synthetic images of each entity of CODES the trial's sets take from one of TRIAL_POOLS.

    originals: with dx, split and subset. Captions must come from training originals, of the subset's for OWN; for a part of
    WHOLE too, as many as f"{WHOLE}, of the subset" says here. InputError where there is no such pool.
    """
    train, table = originals[originals["split"] == "train"], {}
    for composition in COMPOSITIONS.values():
        if composition.pool and composition.pool != ORIGINALS:
            counts = _counts(train[train["subset"].astype(bool)] if composition.subset else train)
            column = f"{WHOLE}, of the subset" if composition.subset and composition.pool == WHOLE else composition.pool
            table[column] = np.maximum(table.get(column, 0), _added(composition, counts))
    if pool not in table:
        raise InputError(f"no pool {pool!r} of synthetic images in the trial: choose among {', '.join(table)}")
    return pd.Series(table[pool], index=pd.Index(CODES, name="entity"), name=pool)


def one_an_original(images: Images, pool: str) -> pd.DataFrame:
    """The natural dose 1 of a pool as rows: an image for each training original, as protocol.ONCE takes them.

    A pool that was made for the trial holds more, of rare entities above all.
    """
    if pool not in images.synthetic:
        raise InputError(f"no synthetic images of the {pool}: sample them first")
    rows = _train_rows(protocol.ONCE, replace(images, synthetic={WHOLE: images.synthetic[pool]}))
    return rows[rows["pool"] == WHOLE].assign(pool=pool).sort_values("place").reset_index(drop=True)


def _train_rows(name: str, images: Images) -> pd.DataFrame:
    """The rows that a set of the trial is trained on."""
    composition, real = COMPOSITIONS[name], images.rows(ORIGINALS)
    if composition.subset:
        real = real[images.originals.frame["subset"].astype(bool)]
    real = real[real["split"] == "train"]
    counts = _counts(real)
    absent = [NAMES[code] for code, count in zip(CODES, counts, strict=True) if count == 0]
    if absent:
        raise InputError(f"{name}: no training image of {', '.join(absent)}; use a larger cohort")
    if composition.oversampled:
        return _repeated(real, counts.max() - counts, images.seed)
    if composition.pool == ORIGINALS:
        return _repeated(real, _added(composition, counts), images.seed)
    rows = [real] if composition.originals else []
    if composition.pool:
        rows.append(_taken(name, composition, images, real, _added(composition, counts)))
    return pd.concat(rows, ignore_index=True)


def _added(composition: Composition, counts: np.ndarray) -> np.ndarray:
    """How many images of each entity [7] a composition adds to `counts` originals."""
    if composition.shares == NATURAL:
        return np.round(composition.dose * counts).astype(int)
    even = np.full(len(CODES), round(composition.dose * counts.sum() / len(CODES)))
    return np.where(np.isin(CODES, protocol.RARE), even, 0) if composition.shares == RARE_ONLY else even


def _taken(name: str, composition: Composition, images: Images, real: pd.DataFrame, wanted: np.ndarray) -> pd.DataFrame:
    """`wanted` [7] images of each entity for captions of `real`: every caption once before any twice, else by chance."""
    if composition.pool not in images.synthetic:
        raise InputError(f"{name} needs synthetic images of the {composition.pool}: sample them first")
    pool = images.rows(composition.pool)
    pool, kept = pool[pool["source_image_id"].isin(real["image_id"])], []
    for place, count in enumerate(wanted):
        own = pool[pool["dx"] == CODES[place]].sort_values("image_id")
        if len(own) < count:
            raise InputError(
                f"{name} takes {count} synthetic images of {NAMES[CODES[place]]} for captions of its own training "
                f"lesions, and {len(own)} are there: sample more"
            )
        own = own.iloc[np.random.default_rng([images.seed, place, 12]).permutation(len(own))]
        turn = own.groupby("source_image_id").cumcount().to_numpy()
        kept.append(own.iloc[np.argsort(turn, kind="stable")[:count]])
    return pd.concat(kept)


def _repeated(real: pd.DataFrame, added: np.ndarray, seed: int) -> pd.DataFrame:
    """`real` with `added` [7] further repetitions of each entity's images, even but for a rest that chance deals."""
    rows = real.reset_index(drop=True)
    for place, count in enumerate(added):
        own = np.flatnonzero(rows["dx"] == CODES[place])
        extra = np.full(len(own), count // len(own))
        extra[np.random.default_rng([seed, place, 13]).permutation(len(own))[: count % len(own)]] += 1
        rows.loc[own, "repetitions"] += extra
    return rows


def _counts(frame: pd.DataFrame) -> np.ndarray:
    return frame["dx"].value_counts().reindex(CODES, fill_value=0).to_numpy()


# As published, and the ladder


def _published(name: str, images: Images) -> TrainingSet:
    from sklearn.model_selection import train_test_split

    real = images.rows(ORIGINALS).assign(split="original")
    made = [] if name == "original" else [one_an_original(images, SAW_ALL)]
    rows = pd.concat([*([] if name == "synthetic" else [real]), *made], ignore_index=True)
    every = rows.sort_values("image_id")
    try:
        _, tested = train_test_split(
            every["image_id"].to_numpy(), test_size=images.test_fraction, random_state=images.seed, stratify=every["dx"]
        )
    except ValueError as error:
        raise InputError(
            f"as published, {name}: {len(every)} images cannot be split {1 - images.test_fraction:.0%} to "
            f"{images.test_fraction:.0%} with every entity on both sides; use more images"
        ) from error
    test = rows["image_id"].isin(tested)
    tested = rows[test].reset_index(drop=True)
    return TrainingSet(PROTOCOLS[0], name, rows[~test].reset_index(drop=True), tested, tested)


def _ladder(images: Images) -> dict[str, TrainingSet]:
    """The combined set from the published protocol to the audited one, a single change a step; the last where PARTNER is there.

    PARTNER saw training lesions only and painted the captions of SAW_ALL. Every step trains on as many originals of each
    entity, those of the smaller of the two splits, and on the same synthetic images up to the last step. The first three stop
    on their test set, whatever it is: the first step takes its synthetic images out, the second one brings other lesions, and
    the third leaves it for validation lesions.
    """
    pooled, originals = _published("combined", images), images.rows(ORIGINALS)
    # The published split keeps a part of the synthetic images for its test; every step trains on that part's rest.
    real, made = (pooled.train[pooled.train["pool"] == pool] for pool in (ORIGINALS, SAW_ALL))
    apart = originals[originals["split"] == "train"]
    each = pd.concat([side["dx"].value_counts() for side in (real, apart)], axis=1).min(axis=1)
    mixed, split = (pd.concat([_thinned(side, each, images.seed), made], ignore_index=True) for side in (real, apart))
    own_test = pooled.tested[pooled.tested["pool"] == ORIGINALS].reset_index(drop=True)
    test, validation = (originals[originals["split"] == name] for name in ("test", "validation"))
    test = test.assign(split="original")
    steps = [
        TrainingSet("ladder", LADDER[0], mixed, pooled.watched, pooled.tested),
        TrainingSet("ladder", LADDER[1], mixed, own_test, own_test),
        TrainingSet("ladder", LADDER[2], split, test, test),
        TrainingSet("ladder", LADDER[3], split, validation, test),
    ]
    if PARTNER in images.synthetic:
        rows = images.rows(PARTNER)
        rows = rows[rows["image_id"].isin(made["image_id"])]
        if len(rows) < len(made):
            raise InputError(
                f"the partner's generator lacks {len(made) - len(rows)} of the {len(made)} images of the ladder: "
                "make its images for the same captions"
            )
        other = pd.concat([_thinned(apart, each, images.seed), rows], ignore_index=True)
        steps.append(TrainingSet("ladder", LADDER[4], other, validation, test))
    return {step.name: step for step in steps}


def _thinned(rows: pd.DataFrame, each: pd.Series, seed: int) -> pd.DataFrame:
    """`each` images of every entity, by chance."""
    kept = [
        own.sample(each[code], random_state=np.random.default_rng([seed, CODES.index(code), 3]))
        for code, own in rows.groupby("dx")
    ]
    return pd.concat(kept).sort_index().reset_index(drop=True)


def _checked(chosen: TrainingSet) -> TrainingSet:
    for part, rows in (("train", chosen.train), ("test", chosen.tested)):
        absent = [NAMES[code] for code in CODES if code not in set(rows["dx"])]
        if absent:
            raise InputError(
                f"{chosen.protocol}, {chosen.name}: no {part} image of {', '.join(absent)}; "
                "use a larger cohort or more synthetic images"
            )
    return chosen
