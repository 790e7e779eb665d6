"""Folders of labelled images: other people's, with tables of their diagnoses, and a generator's, also a folder an entity.

Sources: those of `image_tables`, for the layouts and for what each entity takes in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dermstudy.data.dataset import Cohort, digests
from dermstudy.data.image_files import Found, files_of, find_images, require_plain_names, survey
from dermstudy.data.image_tables import Described, entity_of, is_dermoscopic, read_tables
from dermstudy.data.images import printable
from dermstudy.data.near_duplicates import across
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError, sha256_text
from dermstudy.intervals import by_image
from dermstudy.tables import read_table

SHOWN, COUNTED = 5, 10  # images that a message names, kinds that it counts
EVERY_NAME = f"{', '.join(NAMES.values())}, or {', '.join(CODES)}"
WAYS = f"name a folder for each entity ({EVERY_NAME}), or add a table image,entity"


@dataclass(frozen=True)
class Labelled:
    """A cohort and what a reader must know of it, in sentences.

    Its frame has image_id, dx, group and file. group is the lesion, else the patient, else the image.
    """

    cohort: Cohort
    lines: tuple[str, ...]


def load_external(folder: str | Path, known: Cohort | None = None, cache_folder: str | Path | None = None) -> Labelled:
    """The images of `folder` whose diagnosis is one of the seven entities, refused where `known` holds any of them.

    The folder holds its images at any depth, and tables in HAM10000's layout, the ISIC archive's or a challenge's, which
    are joined by image (`read_tables`). Where a table names the kind of picture, dermatoscopic images alone are taken. The
    frame has lesion_id ("" where unknown) and caption, too. cache_folder: where features of `known` for the near-duplicate
    search are kept. InputError, in one line, for: no such folder, tables that `read_tables` refuses, no dermatoscopic
    image, an image that is missing, has several files or cannot be read, no image of a known entity, one entity only, and,
    by name, images of `known` (the same id or file, or the same skin in another picture).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: give a folder with images and a table of their diagnoses")
    tables = read_tables(folder)
    frame, where = tables.frame, f"{tables.names} in {folder}"
    dermoscopic = frame["image_type"].map(is_dermoscopic) | (not tables.typed)
    other_types, frame = Counter(frame["image_type"][~dermoscopic]), frame[dermoscopic]
    if frame.empty:
        raise InputError(f"{where}: no dermatoscopic image, but {_counted(other_types, 'no image type')}")
    frame, left_out = _of_entities(frame, where, f"name {EVERY_NAME}")
    if frame["dx"].nunique() == 1:
        raise InputError(f"{where} names {NAMES[frame['dx'][0]]} only: a classifier is scored on two entities or more")
    frame = frame.sort_values("image_id", ignore_index=True)
    group = frame["lesion_id"].where(frame["lesion_id"] != "", frame["patient_id"])
    frame["group"] = group.where(group != "", frame["image_id"])
    frame["file"], of_files = files_of(find_images(folder), list(frame["image_id"]), tables.names)
    seen = survey(folder, frame["file"])
    frame["caption"] = frame["dx"].map(NAMES)
    cohort = _cohort(folder, frame, ["image_id", "lesion_id", "group", "dx", "file", "caption"])
    if known is not None:
        _refuse_known(cohort, known, cache_folder)
    counts = frame["dx"].value_counts()
    present = ", ".join(f"{NAMES[code]} {counts[code]}" for code in CODES if code in counts)
    lines = [
        *tables.notes,
        *of_files,
        seen.line(),
        f"{len(frame)} images {_of_whom(frame)}: {present}",
        *by_image(frame),
    ]
    why = {
        "absent, so in no score": ", ".join(NAMES[code] for code in CODES if code not in counts),
        "left out, for they are no dermatoscopic images": _counted(other_types, "no image type"),
        "left out, for they are none of the seven entities": _counted(left_out, "no diagnosis"),
    }
    lines += [f"{reason}: {which}" for reason, which in why.items() if which]
    return Labelled(cohort, tuple(filter(None, lines)))


def load_labelled(folder: str | Path) -> Labelled:
    """The images of `folder` at any depth whose label is one of the seven entities; the frame has sha256, too.

    The first folder on an image's path names its entity, by name, code or alias. Where no folder does, a table names them:
    one of two columns (image, entity; a header is not needed), or one that `read_tables` reads. What is left out is
    counted in `lines`. InputError, in one line: no folder, no image, no label, images that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder {printable(folder)}: give a folder of labelled images")
    found = find_images(folder)
    if not found.images:
        raise InputError(f"no image in {printable(folder)}: it needs files such as .png or .jpg; {WAYS}")
    named = {file: entity_of([file.split("/")[0]]) if "/" in file else None for file in found.images}
    if any(named.values()):
        kept = [file for file, code in named.items() if code]
        frame = pd.DataFrame({"image_id": kept, "dx": [named[file] for file in kept], "group": kept, "file": kept})
        left_out = Counter(file.rpartition("/")[0].split("/")[0] for file, code in named.items() if not code)
        lines = _left_out(left_out, "their folder names none of the seven entities", "no folder")
    else:
        frame, lines = _by_table(found)
    require_plain_names(frame["file"])
    seen = survey(folder, frame["file"])
    cohort = _cohort(folder, frame, ["image_id", "dx", "group", "file", "sha256"])
    odd = Found(folder, found.images, [file for file in found.others if not file.lower().endswith((".csv", ".txt"))])
    return Labelled(cohort, tuple(filter(None, [seen.line(), odd.left_out(), *lines])))


def _by_table(found: Found) -> tuple[pd.DataFrame, list[str]]:
    paths = sorted(path for path in found.folder.glob("*.csv") if not path.name.startswith("."))
    try:
        described = (_two_columns(paths[0]) if len(paths) == 1 else None) or read_tables(found.folder)
    except InputError as error:
        raise InputError(f"{error}; or {WAYS}") from error
    frame, left_out = _of_entities(described.frame, f"{described.names} in {found.folder}", WAYS)
    frame["file"], lines = files_of(found, list(frame["image_id"]), described.names)
    frame["group"] = frame["lesion_id"].where(frame["lesion_id"] != "", frame["image_id"])
    left = _left_out(left_out, "their label is none of the seven entities", "no label")
    return frame, [*described.notes, *lines, *left]


def _two_columns(path: Path) -> Described | None:
    """What a table of two columns says, whatever their names, or of none; None of another table."""
    table = read_table(path)
    if len(table.frame.columns) != 2:
        return None
    rows = table.frame.to_numpy().tolist()
    header = list(table.printed.values())
    if entity_of([header[1]]):
        rows.insert(0, header)
    frame = pd.DataFrame(rows, columns=["image_id", "diagnosis"])
    double = frame["image_id"][frame["image_id"].duplicated()]
    if len(double):
        raise InputError(f"{path}: {printable(double.iloc[0])} stands twice; remove one of the rows")
    frame = frame.assign(diagnosis=[[name] for name in frame["diagnosis"]], lesion_id="")
    return Described(frame, False, path.name, ())


def _of_entities(frame: pd.DataFrame, where: str, remedy: str) -> tuple[pd.DataFrame, Counter]:
    """The rows whose diagnosis names one of the seven entities, with its code as dx; how often each other name stands there.

    InputError where no row is left.
    """
    frame = frame.assign(dx=[entity_of(names) for names in frame["diagnosis"]])
    unknown = frame["dx"].isna()
    left_out = Counter(next(iter(names), "") for names in frame["diagnosis"][unknown])
    if unknown.all():
        names = ", ".join(printable(name) or "nothing" for name in list(left_out)[:SHOWN])
        raise InputError(f"{where} names no known entity, but {names or 'nothing'}: {remedy}")
    return frame[~unknown].reset_index(drop=True), left_out


def _cohort(folder: Path, frame: pd.DataFrame, columns: Sequence[str]) -> Cohort:
    """The rows as a cohort whose data hash is over ids, entities, groups and the bytes of the files."""
    frame = frame.assign(sha256=digests(folder, frame["file"]))
    table = frame[["image_id", "dx", "group", "sha256"]].to_csv(index=False, lineterminator="\n")
    return Cohort(folder.resolve().name, folder, frame[list(columns)], sha256_text(table))


def _of_whom(frame: pd.DataFrame) -> str:
    """How many lesions, patients and images of neither the rows of an external cohort are of."""
    lesion, patient = frame["lesion_id"] != "", (frame["lesion_id"] == "") & (frame["group"] != frame["image_id"])
    if lesion.all():
        return f"of {frame['group'].nunique()} lesions"
    parts = [
        f"{rows.sum()} of {frame['group'][rows].nunique()} {whose}"
        for rows, whose in ((lesion, "lesions"), (patient, "patients"))
        if rows.any()
    ]
    return f"({', '.join([*parts, f'{(~lesion & ~patient).sum()} of unknown lesions'])})"


def _counted(counts: Mapping[str, int], nothing: str) -> str:
    """The commonest first: "Scar 3, no diagnosis 1"."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    names = [f"{printable(name) or nothing} {count}" for name, count in order[:COUNTED]]
    return ", ".join(names) + " …" * (len(order) > COUNTED)


def _left_out(counts: Mapping[str, int], why: str, nothing: str) -> list[str]:
    return [f"left out, for {why}: {_counted(counts, nothing)}"] if counts else []


def _refuse_known(cohort: Cohort, known: Cohort, cache_folder: str | Path | None) -> None:
    """InputError that names the images of `cohort` that `known` holds: by id, by file, or by the skin that they show."""

    def refuse(same: list[tuple[str, str]], how: str) -> None:
        if same:
            names = ", ".join(f"{image_id} ({other})" for image_id, other in same[:SHOWN]) + " …" * (len(same) > SHOWN)
            raise InputError(
                f"{len(same)} images of {cohort.root} are known from {known.name} by {how}: {names}; remove them, for a "
                "network may have learned from them"
            )

    ids, others = list(cohort.frame["image_id"]), list(known.frame["image_id"])
    keys = {
        "the same image_id": lambda side: side.frame["image_id"].str.lower().str.removesuffix("_downsampled"),
        "the same file": lambda side: digests(side.root, side.frame["file"]),
    }
    for how, key in keys.items():
        there = dict(zip(key(known), others, strict=True))
        refuse([(name, there[value]) for name, value in zip(ids, key(cohort), strict=True) if value in there], how)
    pairs = across(cohort, known, cache_folder=cache_folder)[["image_id", "other_image_id"]]
    refuse(list(pairs.itertuples(index=False, name=None)), "the same skin")
