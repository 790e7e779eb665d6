"""Real images at hand as a bank: HAM10000 for what ships, or any folder in its layout (`--data`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dermstudy import workspace
from dermstudy.classification import shipped_head
from dermstudy.classification.encoding import Settings
from dermstudy.classification.frozen_features import Basis, fit_basis
from dermstudy.data import dataset, near_duplicates, splits
from dermstudy.data.dataset import Cohort
from dermstudy.evaluation import judge, quality
from dermstudy.evaluation.judge import Seen
from dermstudy.files import sha256_text
from dermstudy.source import code_hash
from dermstudy_commands.judge import bank, compare
from dermstudy_commands.judge.bank import Bank
from dermstudy_commands.judge.look import Looked, look

SPLIT = "weights/ham10000-split.csv"
FEWEST_LESIONS = 2  # test lesions of an entity where the images have no shipped split
SEEDS = 20


def settings() -> Settings:
    """How the trial's probe looks at an image: the shipped head's views and depths."""
    return shipped_head.load_head(workspace.from_root(shipped_head.WEIGHTS)).settings


def cohort_of(folder: str | Path) -> Cohort:
    """Real images with group, split and subset: HAM10000's shipped split, or one by lesion where the images are others."""
    cohort, path = dataset.load_folder(folder), workspace.from_root(SPLIT)
    frame = cohort.frame
    frame["group"] = near_duplicates.join_groups(frame, near_duplicates.confirmed_pairs(frame))
    known = splits.names_images(path, frame)
    seed = splits.HAM10000_SEED
    split = None if known else splits.lesion_split(frame, seed, minimum_test_lesions=FEWEST_LESIONS)
    frame["split"] = splits.apply_split(frame, path) if known else split
    frame["subset"] = splits.subset_of(frame, path if known else None, seed)
    return cohort


def make(cohort: Cohort, cache_folder: str | Path, components: int = 0) -> Bank:
    """The bank of `cohort_of`'s images, each read once. components: of the probe (0: as the shipped head has them)."""
    views = settings()
    looked = look(cohort, cache_folder, views, distances=False)
    sides = quality.sides(cohort, judge.MOST)
    seen = {name: look(side, cache_folder, views, probe=False) for name, side in sides.items()}
    return of_features(cohort, looked, {name: side.seen for name, side in seen.items()}, components or views.components)


def of_features(cohort: Cohort, looked: Looked, seen: Mapping[str, Seen], components: int) -> Bank:
    """The bank of what `look` says of all images, and of the two sides whose distances are measured."""
    frame = cohort.frame[["image_id", "dx", "group", "split", "subset"]].reset_index(drop=True)
    sides = {image_id: name for name, side in seen.items() for image_id in side.frame["image_id"]}
    frame = frame.assign(side=frame["image_id"].map(sides).fillna(""), pixels=looked.pixels)
    train = (frame["split"] == "train").to_numpy()
    basis = fit_basis(looked.features[train], components, settings().blocks)
    basis = Basis(basis.mean, basis.spread, bank.rounded(basis.axes))
    made = Bank(cohort.name, frame, basis, bank.rounded(basis.inputs(looked.features)), seen)
    return compare.with_originals(made, SEEDS)


def of_data(folder: str | Path, cache_folder: Path) -> Bank:
    """The bank of the real images in `folder`, made once and kept in `cache_folder`, in eight bits as the shipped one."""
    cohort = cohort_of(folder)
    kept = cache_folder / f"bank-{sha256_text(cohort.data_hash + code_hash(__name__))[:24]}"
    if not (kept / bank.FEATURES).is_file():
        print(f"features of {len(cohort)} real images are made once and kept in {kept}", flush=True)
        bank.save(make(cohort, cache_folder), kept)
    return bank.load(kept)
