"""What maintainers' commands share: the images with their split, a tokenizer, their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from transformers import GPT2Tokenizer

from dermstudy.data import dataset, near_duplicates, splits
from dermstudy.entities import CODES
from dermstudy.files import InputError, write_text


def split_cohort(data: str, split: str) -> dataset.Cohort:
    """The images of a folder in HAM10000's layout with their lesion groups, splits and captions."""
    cohort = dataset.load_folder(data)
    cohort.frame["group"] = near_duplicates.join_groups(cohort.frame, near_duplicates.confirmed_pairs(cohort.frame))
    cohort.frame["split"] = splits.apply_split(cohort.frame, split)
    cohort.frame["caption"] = dataset.captions(cohort.frame, "metadata", 0)
    return cohort


def training_cohort(data: str, split: str, lesions: str = "train", leave_out: Sequence[str] = ()) -> dataset.Cohort:
    """The images of a folder in HAM10000's layout that train, by a split file.

    lesions: "train" for training lesions, "subset" for the nested part of them, "all" for a twin that also sees test
    lesions, as published. leave_out: codes of entities that are not trained on. InputError for an unknown one.
    """
    cohort = dataset.load_folder(data)
    cohort.frame["split"] = splits.apply_split(cohort.frame, split)
    unknown = set(leave_out) - set(CODES)
    if unknown:
        raise InputError(f"no entity {min(unknown)!r} to leave out: choose among {', '.join(CODES)}")
    if lesions == "subset":
        cohort.frame["subset"] = splits.subset_of(cohort.frame, split, 0)
        cohort = cohort.select(subset=[True])
    elif lesions == "train":
        cohort = cohort.select(split="train")
    return cohort.select(dx=[code for code in CODES if code not in leave_out])


def open_tokenizer(folder: str | Path) -> GPT2Tokenizer:
    """The tokenizer that lies beside a model of this study; InputError where `folder` holds none."""
    if not (Path(folder) / "tokenizer.json").is_file():
        raise InputError(f"no tokenizer in {folder}: name the folder `tokenizer` of a model of this study")
    return GPT2Tokenizer.from_pretrained(folder, local_files_only=True)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table of a folder of weights as CSV, to six figures."""
    write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def of_results(module: str, doc: str, profile: str) -> argparse.ArgumentParser:
    """The arguments of a command that adds to a profile's results: profile (`profile` is its help), --results and --data."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc.split("\n\n")[0])
    parser.add_argument("profile", help=profile)
    parser.add_argument("--results", help="the results folder that is added to (default: as dermstudy run has it)")
    parser.add_argument("--data", help="a HAM10000 download")
    return parser


def of_weights(module: str, doc: str, weights: str) -> argparse.ArgumentParser:
    """The arguments of a command that measures a folder of weights on real images: --data, --weights (its help), --split."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="a HAM10000 download")
    parser.add_argument("--weights", default="weights/glide-mini", help=weights)
    parser.add_argument("--split", default="weights/ham10000-split.csv")
    return parser
