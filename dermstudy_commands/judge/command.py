"""The command `dermstudy judge`: any folder of labelled images in, one page on whether they help out."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.files import InputError

SAW = ("none", "training", "all", "unknown")
FEWEST = 50  # images from which the comparison is made
FEWEST_NEIGHBOURS = 20
NEAR = 0.1  # of the median distance of real validation images: as good as equal
OUT = "build/judged"


def add(commands) -> None:
    """Add `judge` to the command line's subparsers."""
    judge = commands.add_parser("judge", help="measure whether any generator's images help a classifier")
    judge.add_argument("folder", metavar="FOLDER", help="a folder an entity, or images with a table image,entity")
    judge.add_argument(
        "--data", metavar="DIR", help="real images in HAM10000's layout (default: shipped features of them)"
    )
    judge.add_argument(
        "--saw", choices=SAW, default="unknown", help="on which of HAM10000's lesions the generator was trained"
    )
    judge.add_argument("--name", help="what the images are called (default: the folder's name)")
    judge.add_argument("--out", metavar="DIR", help=f"where the page is written (default: {OUT}/NAME)")
    judge.add_argument("--seeds", type=int, default=20, metavar="N", help="seeds of the comparison (default: 20)")
    interrupted = "dermstudy: interrupted; run the same command again to continue after the last images"
    judge.set_defaults(act=_judge, interrupted=interrupted)


def cache() -> Path:
    """Where features are kept: dermstudy/judge in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dermstudy" / "judge"


def _judge(options: argparse.Namespace) -> None:
    from dermstudy import workspace
    from dermstudy.data.external import load_labelled
    from dermstudy_commands.judge import bank, page, real

    if options.seeds < 2:
        raise InputError(f"--seeds {options.seeds}: an interval needs 2 or more")
    labelled = load_labelled(options.folder)
    name = options.name or labelled.cohort.name
    if not re.fullmatch(r"[\w.+ -]{1,60}", name) or name.startswith("."):
        raise InputError(f"--name {name!r}: give up to 60 letters, digits, spaces, dots and hyphens")
    out = Path(options.out) if options.out else workspace.from_root(OUT) / name
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: name a folder for the page")
    print(*labelled.lines, sep="\n", end="\n" * bool(labelled.lines))
    counts = labelled.cohort.frame["dx"].value_counts()
    print(f"{len(labelled.cohort)} images:", ", ".join(f"{code} {count}" for code, count in counts.items()), flush=True)
    shipped = options.data is None
    originals = bank.load(workspace.from_root(bank.FOLDER)) if shipped else real.of_data(options.data, cache())
    judged = judgement(labelled, originals, name, options.saw, options.seeds, cache())
    print(page.write(judged, out))
    print(judged.verdict)


def judgement(labelled, real, name: str, saw: str, seeds: int, cache_folder: Path):
    """The `record.Judged` of labelled images beside a bank of real ones."""
    from dermstudy.evaluation import judge
    from dermstudy_commands.judge.look import look
    from dermstudy_commands.judge.real import settings

    looked = look(labelled.cohort, cache_folder, settings())
    quality = judge.measured(looked.seen, real.seen["test"], real.seen["train"])
    return of_features(looked, real, quality, (name, saw, labelled.lines), seeds)


def of_features(looked, real, quality, called: tuple, seeds: int):
    """`judgement` of images that were read. called: name, what the generator saw, notes."""
    from dermstudy import workspace
    from dermstudy_commands.judge import compare, record

    frame, inputs = looked.seen.frame, real.basis.inputs(looked.features)
    left_out, (name, saw, notes) = list(quality.left_out), called
    counts = {code: int(count) for code, count in frame["dx"].value_counts().items()}
    effect, controls, areas, fidelity = None, [], {}, pd.DataFrame()
    if len(frame) < FEWEST:
        left_out.append(f"the comparison and how images are named: {len(frame)} images, and {FEWEST} are needed")
    else:
        compared = compare.compare(real, frame["dx"], inputs, seeds)
        (effect, controls), areas = record.effect_of(compared), compared.areas
        fidelity = _fidelity(compared.reference, real, frame, inputs)
    neighbours, copies, lines = _neighbours(looked.pixels, inputs, real)
    train = int(real.images("train").sum())
    verdict = "Too few images for a verdict."
    if effect is not None:
        verdict = record.sentence(len(frame), train, effect, controls, saw, record.copies_said(copies))
    return record.Judged(
        name=name, saw=saw, verdict=verdict, images=counts, real=real.name, training_images=train,
        test_images=int(real.images("test").sum()), effect=effect, controls=controls, areas=areas,
        distances=record.rows(quality.distances), colours=record.rows(quality.colours),
        fidelity=record.rows(fidelity), neighbours=record.rows(neighbours), copies=copies,
        lacks=record.lacks(counts, quality, fidelity), left_out=[*left_out, *lines], notes=list(notes),
        version=workspace.versions("dermstudy")["dermstudy"],
    )  # fmt: skip


def _fidelity(head, real, frame: pd.DataFrame, inputs: np.ndarray) -> pd.DataFrame:
    """How often the probe on all originals names an image as labelled, beside real test images."""
    from dermstudy.evaluation.reference_classifier import fidelity_table
    from dermstudy_commands.judge.compare import answers

    test = real.images("test")
    named = answers(real, head, inputs), answers(real, head, real.components[test])
    asked, true = frame[["image_id", "dx"]], real.frame[test].reset_index(drop=True)
    return fidelity_table({"linear probe": named}, asked, true).drop(columns="network")


def _neighbours(pixels: np.ndarray, inputs: np.ndarray, real) -> tuple[pd.DataFrame, dict[str, int], list[str]]:
    """Ratios of nearest distances beside those of real validation images; copies by pixels and by distance."""
    from dermstudy.evaluation.metrics import nearest

    train, test, validation = (real.components[real.images(split)] for split in ("train", "test", "validation"))
    found = {"judged": nearest(inputs, train, test), "real, validation": nearest(validation, train, test)}
    near = NEAR * found["real, validation"][["training_distance", "held_out_distance"]].min(axis=1).median()
    copies = {}
    for split, column in (("training", "training_distance"), ("test", "held_out_distance")):
        known = set(real.frame["pixels"][real.images({"training": "train"}.get(split, split))])
        equal = pd.Series(pixels).isin(known).to_numpy()
        copies[f"equal to, {split}"] = int(equal.sum())
        copies[f"as good as equal to, {split}"] = int(((found["judged"][column] < near) & ~equal).sum())
    if len(inputs) < FEWEST_NEIGHBOURS:
        return (
            pd.DataFrame(),
            copies,
            [f"ratios of nearest images: {len(inputs)} images, and {FEWEST_NEIGHBOURS} are needed"],
        )
    rows = []
    for images, ratios in found.items():
        low, middle, high = ratios["ratio"].quantile([0.05, 0.5, 0.95])
        rows.append({
            "images": images, "count": len(ratios), "mean ratio": ratios["ratio"].mean(), "5 %": low, "median": middle,
            "95 %": high, "nearest training": ratios["training_distance"].median(),
            "nearest test": ratios["held_out_distance"].median(),
        })  # fmt: skip
    return pd.DataFrame(rows), copies, []
