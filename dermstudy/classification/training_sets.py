"""What the Keras network is trained, stopped and tested on: the paper's three sets, the trial's, and the ladder between.

Source: Shavlokhova et al., sections 2.4 and 3.4. The trial's sets are those of docs/PROTOCOL.md; the ladder is this
study's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from dermstudy.classification import feature_sets, protocol
from dermstudy.data.dataset import Cohort
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError

PROTOCOLS = ("as published", "audited")
PUBLISHED = ("original", "synthetic", "combined")  # the three sets of Table 3
IN_TRIAL = {"original": protocol.ORIGINALS, "synthetic": None, "combined": protocol.ONCE}  # their likes in the trial
LADDER = (
    "as published",
    "tested on real images only",
    "no lesion on both sides",
    "stopped on validation lesions",
    "generator without test lesions",
)


@dataclass(frozen=True)
class TrainingSet:
    """The images of one training set under one protocol; `fit_until` watches validation loss for early stopping."""

    protocol: str
    name: str
    train: list[Cohort]
    fit_until: list[Cohort]
    test: list[Cohort]
    changes: dict = field(default_factory=dict)  # what this set changes in the classifier's configuration

    def rows(self, part: str) -> pd.DataFrame:
        """The frame of "train", "fit_until" or "test", with `kind` original or synthetic and the lesion `group`."""
        return pd.concat([cohort.frame.assign(kind=_kind(cohort)) for cohort in getattr(self, part)], ignore_index=True)


def published_set(
    name: str, originals: Cohort, synthetic: Cohort, seed: int, test_fraction: float = 0.2
) -> TrainingSet:
    """One of PUBLISHED: its own images split at random within each entity, synthetic ones in the test set too.

    It is stopped on the test set, for the paper names no other. InputError for another name, and where an entity is absent
    from either side.
    """
    if name not in PUBLISHED:
        raise InputError(f"unknown training set {name!r} as published: choose {', '.join(PUBLISHED)}")
    synthetic = _grouped(synthetic, originals)
    pool = {"original": [originals], "synthetic": [synthetic], "combined": [originals, synthetic]}[name]
    return _checked(_split(name, pool, seed, test_fraction))


def audited_set(
    name: str, originals: Cohort, synthetic: Mapping[str, Cohort], seed: int = 0, external: Cohort | None = None
) -> TrainingSet:
    """One of protocol.TRAINING_SETS[KERAS]: the rows of `feature_sets`, a repetition a row, stopped on validation lesions.

    Its test part is every image that the trial predicts: originals of validation and test lesions, then other people's.
    originals: with group, split and subset; synthetic: a cohort a pool. "longer training" is all originals, as many an
    epoch as dose 1 has. InputError as `make_feature_set`, and for a name that is not the network's.
    """
    if name not in protocol.TRAINING_SETS[protocol.KERAS]:
        known = "; ".join(protocol.TRAINING_SETS[protocol.KERAS])
        raise InputError(f"unknown training set {name!r} of the {protocol.KERAS}: choose {known}")
    frames = {pool: cohort.frame for pool, cohort in synthetic.items()}
    longer = name == protocol.LONGER
    rows = feature_sets.make_feature_set(protocol.ORIGINALS if longer else name, originals.frame, frames, seed).rows
    changes = {}
    if longer:
        changes["images_per_epoch"] = len(
            feature_sets.make_feature_set(protocol.ONCE, originals.frame, frames, seed).rows
        )
    train = []
    for pool, own in rows.groupby("pool", sort=False):
        cohort = originals if pool == feature_sets.ORIGINALS else synthetic[pool]
        places = np.repeat(own["place"].to_numpy(), own["repetitions"].to_numpy().astype(int))
        groups = np.repeat(own["group"].to_numpy(), own["repetitions"].to_numpy().astype(int))
        frame = cohort.frame.iloc[places].assign(group=groups).reset_index(drop=True)
        train.append(replace(cohort, frame=frame))
    tested = [originals.select(split=["validation", "test"])] + ([] if external is None else [external])
    return TrainingSet(PROTOCOLS[1], name, train, [originals.select(split="validation")], tested, changes)


def one_an_original(synthetic: Cohort, originals: Cohort, seed: int = 0) -> Cohort:
    """The natural dose 1 of `synthetic`: an image for each training original, as protocol.ONCE takes them from the pool.

    A pool that was made for the trial holds more, of rare entities above all. InputError as `make_feature_set`.
    """
    pools = {feature_sets.WHOLE: synthetic.frame}
    rows = feature_sets.make_feature_set(protocol.ONCE, originals.frame, pools, seed).rows
    places = np.sort(rows.loc[rows["pool"] == feature_sets.WHOLE, "place"])
    return replace(synthetic, frame=synthetic.frame.iloc[places].reset_index(drop=True))


def ladder(
    originals: Cohort, published: Cohort, safe: Cohort | None, seed: int, test_fraction: float = 0.2
) -> dict[str, TrainingSet]:
    """The combined set from the published protocol to the audited one, a single change a step; names of LADDER.

    published: synthetic images of a generator that saw all lesions, as many as `one_an_original` gives; safe: of its partner
    that saw training lesions only, for the same captions (None leaves the last step out). Every step trains on as many
    originals of each entity, those of the smaller of the two splits, and on the same synthetic images up to the last step.
    The first three stop on their test set, whatever it is: the first step takes its synthetic images out, the second one
    brings other lesions, and the third leaves it for validation lesions. InputError where `safe` lacks one of the captions.
    """
    pooled = published_set("combined", originals, published, seed, test_fraction)
    published, safe = _grouped(published, originals), safe and _grouped(safe, originals)
    sides = [pooled.train[0], originals.select(split="train")]
    each = pd.concat([side.frame["dx"].value_counts() for side in sides], axis=1).min(axis=1)
    own, apart = (_thinned(side, each, seed) for side in sides)
    real, test = [pooled.test[0]], [originals.select(split="test")]
    # The published split keeps a part of the synthetic images for its test; every step trains on that part's rest.
    kept = pooled.train[1].frame["image_id"]
    first = replace(pooled, protocol="ladder", name=LADDER[0], train=[own, pooled.train[1]])
    second = replace(first, name=LADDER[1], fit_until=real, test=real)
    third = TrainingSet("ladder", LADDER[2], [apart, published.select(image_id=kept)], test, test)
    stopped = replace(third, name=LADDER[3], fit_until=[originals.select(split="validation")])
    steps = {step.name: step for step in (first, second, third, stopped)}
    if safe is not None:
        other = safe.select(image_id=kept)  # a caption may have been lent more than once
        if len(other.frame) < len(kept):
            raise InputError(
                f"the partner's generator lacks {len(kept) - len(other.frame)} of the {len(kept)} images of the ladder: "
                "make its images for the same captions"
            )
        steps[LADDER[4]] = replace(stopped, name=LADDER[4], train=[apart, other])
    return {name: _checked(chosen) for name, chosen in steps.items()}


def _thinned(cohort: Cohort, each: pd.Series, seed: int) -> Cohort:
    """`each` images of every entity, by chance."""
    kept = [
        own.sample(each[code], random_state=np.random.default_rng([seed, CODES.index(code), 3]))
        for code, own in cohort.frame.groupby("dx")
    ]
    return replace(cohort, frame=pd.concat(kept).sort_index().reset_index(drop=True))


def _split(name: str, pool: list[Cohort], seed: int, test_fraction: float) -> TrainingSet:
    from sklearn.model_selection import train_test_split

    every = pd.concat([cohort.frame[["image_id", "dx"]] for cohort in pool]).sort_values("image_id")
    try:
        train_ids, test_ids = train_test_split(
            every["image_id"].to_numpy(), test_size=test_fraction, random_state=seed, stratify=every["dx"]
        )
    except ValueError as error:
        raise InputError(
            f"as published, {name}: {len(every)} images cannot be split {1 - test_fraction:.0%} to "
            f"{test_fraction:.0%} with every entity on both sides; use more images"
        ) from error
    test = [cohort.select(image_id=test_ids) for cohort in pool]
    return TrainingSet(PROTOCOLS[0], name, [cohort.select(image_id=train_ids) for cohort in pool], test, test)


def _checked(chosen: TrainingSet) -> TrainingSet:
    for part in ("train", "test"):
        absent = [NAMES[code] for code in CODES if code not in set(chosen.rows(part)["dx"])]
        if absent:
            raise InputError(
                f"{chosen.protocol}, {chosen.name}: no {part} image of {', '.join(absent)}; "
                "use a larger cohort or more synthetic images"
            )
    return chosen


def _grouped(synthetic: Cohort, originals: Cohort) -> Cohort:
    """`synthetic` with the lesion group of the original whose caption each image took."""
    groups = originals.frame.set_index("image_id")["group"]
    return replace(synthetic, frame=synthetic.frame.assign(group=synthetic.frame["source_image_id"].map(groups)))


def _kind(cohort: Cohort) -> str:
    return "synthetic" if "source_image_id" in cohort.frame else "original"
