"""Which images a classifier is trained, stopped and tested on: the paper's arms, controls, and the ladder between protocols.

Source: Shavlokhova et al., sections 2.4 and 3.4. The controls and the ladder are this study's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from dermstudy.data.dataset import Cohort
from dermstudy.data.splits import limit_training
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError

PROTOCOLS = ("as published", "audited")
ARMS = ("original", "synthetic", "combined")
# Without synthetic images, but with as many images an epoch as the combined arm has: what else could have helped.
CONTROLS = ("longer training", "class weights", "oversampling", "stronger augmentation")
RARE_ONLY = "rare entities"  # synthetic images of rare entities only
EVERY = "all originals"  # without synthetic images, whatever `limit` says
RARE_SHARE = 0.1  # rare: less than this share of the commonest entity's training images
LADDER = (
    "as published",
    "tested on real images only",
    "no lesion on both sides",
    "stopped on validation lesions",
    "generator without test lesions",
)


@dataclass(frozen=True)
class TrainingSet:
    """The images of one arm under one protocol; `fit_until` watches validation loss for early stopping."""

    protocol: str
    name: str
    train: list[Cohort]
    fit_until: list[Cohort]
    test: list[Cohort]
    changes: dict = field(default_factory=dict)  # what this arm changes in the classifier's configuration

    def rows(self, part: str) -> pd.DataFrame:
        """The frame of "train", "fit_until" or "test", with `kind` original or synthetic and the lesion `group`."""
        return pd.concat([cohort.frame.assign(kind=_kind(cohort)) for cohort in getattr(self, part)], ignore_index=True)


def make_training_set(
    protocol: str,
    name: str,
    originals: Cohort,
    synthetic: Cohort,
    seed: int,
    test_fraction: float = 0.2,
    limit: int = 0,
) -> TrainingSet:
    """One arm of the ablation: a name of ARMS, or, audited, of CONTROLS, RARE_ONLY, EVERY, or "ratio R".

    As published: the pool (originals, synthetic, or both) split at random within each entity, synthetic images in the
    test set too, early stopping on the test set, for the paper names no other. Audited: trained on originals of training
    lesions and synthetic images made for them, stopped on validation lesions, tested on originals of test lesions alone.
    "ratio R" adds R synthetic images for each original to a fixed part of the originals, small enough for a ratio of 2, and
    trains every dose for as many steps an epoch. limit: how many training originals there are, in whole lesions (0: all); a
    synthetic image may take its caption from any training lesion.
    InputError where an entity is absent from training or test, or the arm is unknown.
    """
    synthetic, every = _grouped(synthetic, originals), originals.select(split="train")
    if name != EVERY:
        originals = replace(originals, frame=limit_training(originals.frame, limit, seed))
    if protocol == "as published" and name in ARMS:
        pool = {"original": [originals], "synthetic": [synthetic], "combined": [originals, synthetic]}[name]
        return _checked(_published(name, pool, seed, test_fraction))
    if protocol != "audited" or not (name in (*ARMS, *CONTROLS, RARE_ONLY, EVERY) or _ratio(name) is not None):
        raise InputError(
            f"unknown arm {name!r} of protocol {protocol!r}: choose {', '.join(ARMS)} of {' or '.join(PROTOCOLS)}, or, "
            f"audited, {', '.join(CONTROLS)}, {RARE_ONLY}, {EVERY} or 'ratio R'"
        )
    real = originals.select(split="train")
    made = synthetic.select(source_image_id=every.frame["image_id"])
    budget = {"images_per_epoch": len(real) + len(made)}
    changes: dict = {}
    if name in ARMS:
        train = {"original": [real], "synthetic": [made], "combined": [real, made]}[name]
    elif name == EVERY:
        train = [real]
    elif name == RARE_ONLY:
        train = [real, made.select(dx=rare_entities(real.frame))]
    elif name in CONTROLS:
        train = [_oversampled(real, seed)] if name == "oversampling" else [real]
        changes = budget | {
            "class weights": {"class_weights": True},
            "stronger augmentation": {"rotation": 180.0, "shift": 0.2, "zoom": 0.3},
        }.get(name, {})
    else:
        part = _part(real, len(made) // 2, seed)
        changes = {"images_per_epoch": len(real)}  # as many steps at every dose
        train = [part]
        if ratio := _ratio(name):
            train.append(_part(made, round(ratio * len(part)), seed))
    validation, test = originals.select(split="validation"), originals.select(split="test")
    return _checked(TrainingSet(protocol, name, train, [validation], [test], changes))


def ladder(
    originals: Cohort, published: Cohort, safe: Cohort | None, seed: int, test_fraction: float = 0.2, limit: int = 0
) -> dict[str, TrainingSet]:
    """The combined arm from the published protocol to the audited one, a single change a step; names of LADDER.

    published: synthetic images of a generator that saw all lesions; safe: of its twin that saw training lesions only, for
    the same captions (None leaves the last step out). The second step changes the test set alone, so its network is the
    first step's. The third trains on the lesion split's share of the originals instead of the published one. limit: as in
    make_training_set.
    """
    first = make_training_set(PROTOCOLS[0], "combined", originals, published, seed, test_fraction, limit)
    published, safe = _grouped(published, originals), safe and _grouped(safe, originals)
    originals = replace(originals, frame=limit_training(originals.frame, limit, seed))
    test = [originals.select(split="test")]
    train = [originals.select(split="train"), published]
    apart = TrainingSet("ladder", LADDER[2], train, test, test)
    stopped = replace(apart, name=LADDER[3], fit_until=[originals.select(split="validation")])
    steps = {LADDER[0]: first, LADDER[2]: apart, LADDER[3]: stopped}
    if safe is not None:
        steps[LADDER[4]] = replace(stopped, name=LADDER[4], train=[train[0], safe])
    return {name: _checked(arm) for name, arm in steps.items()}


def rare_entities(frame: pd.DataFrame) -> list[str]:
    """Entities with fewer than RARE_SHARE of the images of the commonest one, in the paper's order."""
    counts = frame["dx"].value_counts()
    return [code for code in CODES if counts.get(code, 0) < RARE_SHARE * counts.max()]


def _published(name: str, pool: list[Cohort], seed: int, test_fraction: float) -> TrainingSet:
    from sklearn.model_selection import train_test_split

    every = pd.concat([cohort.frame[["image_id", "dx"]] for cohort in pool]).sort_values("image_id")
    try:
        train_ids, test_ids = train_test_split(
            every["image_id"].to_numpy(), test_size=test_fraction, random_state=seed, stratify=every["dx"]
        )
    except ValueError as error:
        raise InputError(
            f"as published, {name} arm: {len(every)} images cannot be split {1 - test_fraction:.0%} to "
            f"{test_fraction:.0%} with every entity on both sides; use more images"
        ) from error
    test = [cohort.select(image_id=test_ids) for cohort in pool]
    return TrainingSet(PROTOCOLS[0], name, [cohort.select(image_id=train_ids) for cohort in pool], test, test)


def _checked(arm: TrainingSet) -> TrainingSet:
    for part in ("train", "test"):
        absent = [NAMES[code] for code in CODES if code not in set(arm.rows(part)["dx"])]
        if absent:
            raise InputError(
                f"{arm.protocol}, {arm.name} arm: no {part} image of {', '.join(absent)}; "
                "use a larger cohort or more synthetic images"
            )
    return arm


def _grouped(synthetic: Cohort, originals: Cohort) -> Cohort:
    """`synthetic` with the lesion group of the original whose caption each image took."""
    groups = originals.frame.set_index("image_id")["group"]
    return replace(synthetic, frame=synthetic.frame.assign(group=synthetic.frame["source_image_id"].map(groups)))


def _ratio(name: str) -> float | None:
    try:
        value = float(name.removeprefix("ratio ")) if name.startswith("ratio ") else None
    except ValueError:
        return None
    return value if value is None or 0 <= value <= 2 else None


def _part(cohort: Cohort, count: int, seed: int) -> Cohort:
    """About `count` images in the entities' own shares, at least one of each."""
    share = min(1.0, count / max(1, len(cohort)))
    kept = [
        own.sample(max(1, round(share * len(own))), random_state=np.random.default_rng([seed, CODES.index(code)]))
        for code, own in cohort.frame.groupby("dx")
    ]
    return replace(cohort, frame=pd.concat(kept).sort_index().reset_index(drop=True))


def _oversampled(cohort: Cohort, seed: int) -> Cohort:
    """Every entity as often as the commonest: its images repeat in turn, then some of them once more."""
    most, kept = cohort.frame["dx"].value_counts().max(), []
    for code, own in cohort.frame.groupby("dx"):
        rest = own.sample(most % len(own), random_state=np.random.default_rng([seed, CODES.index(code)]))
        kept += [own] * (most // len(own)) + [rest]
    return replace(cohort, frame=pd.concat(kept, ignore_index=True))


def _kind(cohort: Cohort) -> str:
    return "synthetic" if "source_image_id" in cohort.frame else "original"
