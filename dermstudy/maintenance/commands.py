"""What maintainers' commands share: the images with their split, a tokenizer, and how each of them ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from transformers import GPT2Tokenizer

from dermstudy.data import dataset, near_duplicates, splits
from dermstudy.files import InputError


def split_cohort(data: str, split: str) -> dataset.Cohort:
    """The images of a folder in HAM10000's layout with their lesion groups, splits and captions."""
    cohort = dataset.load_folder(data)
    cohort.frame["group"] = near_duplicates.join_groups(cohort.frame, near_duplicates.confirmed_pairs(cohort.frame))
    cohort.frame["split"] = splits.apply_split(cohort.frame, split)
    cohort.frame["caption"] = dataset.captions(cohort.frame, "metadata", 0)
    return cohort


def open_tokenizer(folder: str | Path) -> GPT2Tokenizer:
    """The tokenizer that lies beside a model of this study; InputError where `folder` holds none."""
    if not (Path(folder) / "tokenizer.json").is_file():
        raise InputError(f"no tokenizer in {folder}: name the folder `tokenizer` of a model of this study")
    return GPT2Tokenizer.from_pretrained(folder, local_files_only=True)


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


def answered(act: Callable[[], object]) -> int:
    """Do `act`; 0, or, for an InputError, its line on standard error and 2: a clear line for what can be mended."""
    try:
        act()
    except InputError as error:
        print(f"dermstudy: {error}", file=sys.stderr)
        return 2
    return 0
