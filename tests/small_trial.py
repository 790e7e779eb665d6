"""A trial of the phantom with images in place of synthetic ones: shared by the tests of training sets and networks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dermstudy.classification import training_sets as sets
from dermstudy.data import dataset, splits
from dermstudy.data.dataset import Cohort


def with_subset(cohort: Cohort) -> Cohort:
    return replace(cohort, frame=cohort.frame.assign(subset=splits.nested_subset(cohort.frame, 0)))


def in_place_of_synthetic(cohort: Cohort, each: int = 0, times: int = 1) -> Cohort:
    """Training images under other names: `each` of every entity (0: all), as often as `times`."""
    train = cohort.frame[cohort.frame["split"] == "train"]
    train = train.groupby("dx").head(each) if each else train
    made = pd.concat(
        [
            train.assign(image_id=f"synthetic{time}_" + train["image_id"], source_image_id=train["image_id"])
            for time in range(times)
        ]
    )
    columns = ["image_id", "dx", "file", "caption", "source_image_id"]
    return Cohort("synthetic", cohort.root, made[columns].reset_index(drop=True), "s")


def images_of(cohort: Cohort, each: int = 0, **pools: Cohort) -> sets.Images:
    """All originals, or those that lent a caption where `each` is given, and one generator in every pool."""
    made = in_place_of_synthetic(cohort, each)
    pools = {sets.WHOLE: made, sets.SAW_ALL: made, sets.PARTNER: replace(made, data_hash="partner")}
    return sets.gather(with_subset(cohort), pools, sets.CAPTIONED if each else sets.EVERY)


def write_synthetic(cohort: Cohort, folder: Path, each: int = 0) -> Path:
    """`in_place_of_synthetic` in a folder as notebook 03 leaves it."""
    made = in_place_of_synthetic(cohort, each).frame
    made["seed"], old = range(len(made)), made["file"]
    made["file"] = made["image_id"] + ".jpg"
    folder.mkdir(parents=True)
    for before, after in zip(old, made["file"], strict=True):
        shutil.copy(cohort.root / before, folder / after)
    made[list(dataset.SYNTHETIC_COLUMNS)].to_csv(folder / "index.csv", index=False)
    return folder
