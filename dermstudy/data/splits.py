"""Which image is for training, validation or test: by lesion, as published, or as a file says; what leaks between them.

Source: Shavlokhova et al., section 2.4 (80/20 split); the split by lesion and the count of sisters are this study's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.data.image_tables import image_names
from dermstudy.entities import CODES, ENTITIES
from dermstudy.files import InputError
from dermstudy.tables import read_table

SPLITS = ("train", "validation", "test")
HAM10000_SEED = 1  # of weights/ham10000-split.csv
AGES = (0, 30, 45, 60, 75)  # years at which a band of `demographics` begins
UNKNOWN = "unknown"


def lesion_split(
    frame: pd.DataFrame, seed: int, fractions: Sequence[float] = (0.7, 0.1, 0.2), minimum_test_lesions: int = 25
) -> pd.Series:
    """The audited split: "train", "validation" or "test" for each row, whole groups together, by entity.

    A group's entity is its first image's. Each entity gives its share of groups, at least `minimum_test_lesions` to
    the test set and one to validation, and keeps at least one for training; InputError where it has too few.
    """
    if len(fractions) != 3 or not np.isclose(sum(fractions), 1) or min(fractions) <= 0:
        raise InputError(f"split fractions {list(fractions)} must be three positive numbers that add up to 1")
    groups = frame.sort_values("image_id").groupby("group" if "group" in frame else "lesion_id")["dx"].first()
    chosen: dict[str, str] = {}
    for entity in ENTITIES:
        members = np.sort(groups.index[groups == entity.code].to_numpy())
        if len(members) == 0:
            continue
        test = max(minimum_test_lesions, round(fractions[2] * len(members)))
        validation = max(1, round(fractions[1] * len(members)))
        if test + validation >= len(members):
            raise InputError(
                f"{entity.name} ({entity.code}) has {len(members)} lesions; the split needs {test} for test, "
                f"{validation} for validation and one for training: add images or lower MIN_TEST_LESIONS"
            )
        random = np.random.default_rng([seed, entity.paper_class])
        for place, member in enumerate(random.permutation(members)):
            chosen[member] = "test" if place < test else "validation" if place < test + validation else "train"
    return frame["group" if "group" in frame else "lesion_id"].map(chosen)


def names_images(path: str | Path, frame: pd.DataFrame) -> bool:
    """Whether the split file `path` names any image of `frame`; where it names none it belongs to another cohort."""
    return bool(frame["image_id"].isin(_read_split(path).index).any())


def _read_split(path: str | Path) -> pd.DataFrame:
    table = read_table(path, ("image_id", "split", "subset"))
    table.require("image_id", "split")
    return table.frame.assign(image_id=image_names(table, "image_id")).set_index("image_id")


def apply_split(frame: pd.DataFrame, path: str | Path) -> pd.Series:
    """The split that a CSV file (image_id, split) gives each row: the same lesions stay apart in any subset."""
    shipped = _read_split(path)["split"].str.lower()
    split = frame["image_id"].map(shipped)
    unknown = frame["image_id"][~split.isin(SPLITS)]
    if len(unknown):
        raise InputError(
            f"{path} gives no split for {len(unknown)} images, {unknown.iloc[0]} first: "
            "use the split file that belongs to this cohort"
        )
    return split


def subset_of(frame: pd.DataFrame, path: str | Path | None, seed: int) -> pd.Series:
    """The nested subset of the training lesions, bool [n]: the split file's column `subset` where it has one, else drawn."""
    if path is not None:
        table = _read_split(path)
        if "subset" in table:
            return frame["image_id"].isin(table.index[table["subset"].str.lower() == "true"])
    return nested_subset(frame, seed)


def published_split(frame: pd.DataFrame, seed: int, test_fraction: float = 0.2) -> pd.Series:
    """The paper's split, 80/20 by image at random (section 2.4): "train" or "test" for each row."""
    from sklearn.model_selection import train_test_split

    order = frame["image_id"].sort_values()
    _, test = train_test_split(order, test_size=test_fraction, random_state=seed)
    return pd.Series(np.where(frame["image_id"].isin(test), "test", "train"), index=frame.index)


def nested_subset(frame: pd.DataFrame, seed: int, share: float = 0.3) -> pd.Series:
    """Whether each row belongs to a part of the training lesions: bool [n], `share` of each entity's, at least one.

    What few images teach is asked with it, of a classifier and of a generator alike.
    """
    training = frame[frame["split"] == "train"]
    kept: list[str] = []
    for code, own in training.groupby("dx"):
        groups = np.sort(own["group"].unique())
        order = np.random.default_rng([seed, CODES.index(code), 7]).permutation(groups)
        kept += list(order[: max(1, round(share * len(groups)))])
    return (frame["split"] == "train") & frame["group"].isin(kept)


def sister_leak(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Test images with a sister image of the same lesion in training, by entity and over all.

    Columns: test_images, leaked, share (0..1); index: entity codes, then "all".
    """
    group = frame["group"] if "group" in frame else frame["lesion_id"]
    in_training = set(group[frame[column] == "train"])
    test = frame[frame[column] == "test"].assign(leaked=group[frame[column] == "test"].isin(in_training))
    counts = test.groupby("dx")["leaked"].agg(test_images="size", leaked="sum").reindex(CODES, fill_value=0)
    counts.loc["all"] = counts.sum()
    counts["share"] = counts["leaked"] / counts["test_images"]  # NaN of no image
    return counts.rename_axis("entity")


def demographics(frame: pd.DataFrame) -> pd.DataFrame:
    """Age, sex and body site of the lesions of each part of the audited split, a lesion counted once, by its first image.

    Index: characteristic ("age in years", "sex", "body site") and its value, `UNKNOWN` last; a column a part of SPLITS, in
    lesions. HAM10000 names no patient: a person with two lesions counts twice.
    """
    lesions = frame.sort_values("image_id").drop_duplicates("group" if "group" in frame else "lesion_id")
    ages = pd.to_numeric(lesions["age"], errors="coerce")
    bands = [f"{low} to {high - 1}" for low, high in pairwise(AGES)] + [f"{AGES[-1]} and over"]
    told = {
        "age in years": pd.cut(ages, [*AGES, np.inf], right=False, labels=bands).astype(object),
        "sex": lesions["sex"],
        "body site": lesions["localization"],
    }
    tables = {}
    for name, values in told.items():
        counts = pd.crosstab(values.replace("", UNKNOWN).fillna(UNKNOWN), lesions["split"])
        order = [*(bands if name == "age in years" else sorted(set(counts.index) - {UNKNOWN})), UNKNOWN]
        tables[name] = counts.reindex(index=order, columns=list(SPLITS), fill_value=0)
    return pd.concat(tables, names=["characteristic", "value"]).rename_axis(columns=None)
