"""A cohort of dermatoscopic images: read from a folder in HAM10000's layout, captioned, saved.

Sources: Tschandl et al., Scientific Data 5, 180161 (2018) for the layout and the metadata; Shavlokhova et al.,
section 2.1 (captions).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel

from dermstudy.data import images
from dermstudy.data.image_files import THREADS, files_of, find_images, survey
from dermstudy.data.image_tables import COLUMNS, read_folder
from dermstudy.data.images import read_image
from dermstudy.entities import CODES, NAMES, by_code
from dermstudy.files import InputError, atomic_path, progress, read_json, sha256_file, sha256_text
from dermstudy.tables import read_table
from dermstudy.workspace import shown

SYNTHETIC_TABLES = ("index.csv", "metadata.csv")  # of notebook 03, and of a set to pass on
SYNTHETIC_COLUMNS = ("image_id", "dx", "file", "caption", "source_image_id", "seed")
PHANTOMS = "phantom-data"  # the folder in which the runner draws the phantom of a profile
ARCHIVE = "https://api.isic-archive.com/images/?query=isic_id:NAME"  # a real image, by its name


@dataclass(frozen=True)
class Cohort:
    """Images under `root` with one row each in `frame` (image_id, dx, file relative to root, caption, …)."""

    name: str
    root: Path
    frame: pd.DataFrame
    data_hash: str

    def __len__(self) -> int:
        return len(self.frame)

    def select(self, **columns) -> Cohort:
        """The rows whose columns equal the given value, or are among the given list, in the same order."""
        kept = pd.Series(True, index=self.frame.index)
        for column, value in columns.items():
            kept &= self.frame[column].isin([value] if isinstance(value, str) else list(value))
        return replace(self, frame=self.frame[kept].reset_index(drop=True))

    def image(self, image_id: str, side: int | None = None) -> np.ndarray:
        """One image by its name, as `read_image` gives it. InputError for a missing or broken one."""
        return read_image(self.root / self.frame["file"][self.frame["image_id"] == image_id].iloc[0], side)

    def images(self, side: int, image_ids: Sequence[str] | None = None) -> np.ndarray:
        """Pixels uint8 [n, side, side, 3]: the centre square of each image, reduced with antialiasing.

        image_ids: which images, in that order (all by default). InputError for a missing or broken image.
        """
        files = self.frame["file"] if image_ids is None else self.frame.set_index("image_id").loc[image_ids, "file"]
        pixels = np.empty((len(files), side, side, 3), np.uint8)
        with ThreadPoolExecutor(THREADS) as pool:
            for index, image in enumerate(pool.map(lambda file: read_image(self.root / file, side), files)):
                pixels[index] = image
        return pixels

    def batches(self, side: int, size: int, doing: str) -> Iterator[np.ndarray]:
        """`images` of all, `size` at a time; a line every ten seconds tells how many are `doing` ("encoded")."""
        names = list(self.frame["image_id"])
        for start in progress(range(0, len(names), size), len(names), f"images {doing}", size):
            yield self.images(side, names[start : start + size])


def paired_with(cohort: Cohort, whose: str) -> Cohort:
    """The originals that lend captions: "all", those of a split ("train", ...), or the nested "subset" of training lesions.

    InputError for another `whose`, or where the cohort has no such originals.
    """
    if whose == "all":
        return cohort
    known = "subset" in cohort.frame if whose == "subset" else whose in set(cohort.frame["split"])
    if not known:
        raise InputError(f"no originals {whose!r} to pair with: choose all, train, validation, test or subset")
    return cohort.select(subset=[True]) if whose == "subset" else cohort.select(split=whose)


# Reading


def load_folder(folder: str | Path) -> Cohort:
    """Read a folder in HAM10000's layout: Dataverse or Kaggle names, images in part_1/part_2 or in one folder.

    The frame is sorted by image_id and has the metadata columns, `file` and the entity's plain name as `caption`.
    InputError, in one line, for: no such folder, metadata that `read_folder` refuses, and images that are missing or have
    several files that differ.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: give the folder of a HAM10000 download (the README says how to get it)")
    metadata, frame = read_folder(folder)
    frame["file"], lines = files_of(find_images(folder), list(frame["image_id"]), metadata.name)
    print(*(f"{line}\n" for line in lines), sep="", end="")
    frame["caption"] = frame["dx"].map(NAMES)
    return Cohort(folder.name, folder, frame, _data_hash(folder, frame))


def open_source(folder: str | Path, max_per_entity: int = 0, seed: int = 0) -> Cohort:
    """The cohort that a study starts from: `load_folder`, then `subsample`.

    InputError for what these refuse, and for a folder that lacks an entity.
    """
    folder = Path(folder)
    if folder.parent.name == PHANTOMS and not folder.is_dir():
        command = f"dermstudy data phantom {shown(folder)} --profile {folder.name}"
        raise InputError(f"no phantom in {shown(folder)}: draw it first (`{command}`)")
    cohort = load_folder(folder)
    if absent := [NAMES[code] for code in CODES if code not in set(cohort.frame["dx"])]:
        raise InputError(
            f"{shown(folder)} holds no image of {', '.join(absent)}: the study is about all seven entities"
        )
    return subsample(cohort, max_per_entity, seed)


def _data_hash(folder: Path, frame: pd.DataFrame) -> str:
    """SHA-256 over metadata rows and image bytes in order of image_id: the same for any layout of the same download."""
    table = frame[list(COLUMNS)].assign(sha256=digests(folder, frame["file"]))
    return sha256_text(table.to_csv(index=False, lineterminator="\n"))


def digests(folder: Path, files: pd.Series) -> list[str]:
    """The SHA-256 of each file, where it is there."""

    def digest(file: str) -> str:
        path = folder / file
        return sha256_file(path) if os.path.isfile(path) else "missing"  # not Path.is_file: it raises for a long name

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(digest, files))


def verify_images(cohort: Cohort) -> dict[str, int]:
    """Decode every image once: counts of images and of greyscale ones (read as RGB); a line says what was converted.

    InputError names the images that cannot be read truly, or whose shorter side has fewer than 64 pixels.
    """
    seen = survey(cohort.root, cohort.frame["file"])
    if seen.converted:
        print(seen.line())
    return {
        "images": seen.images,
        "greyscale": sum(n for kind, n in seen.kinds.items() if kind.startswith(images.GREY)),
    }


def subsample(cohort: Cohort, max_per_entity: int, seed: int) -> Cohort:
    """At most `max_per_entity` images an entity, in whole lesions drawn at random; 0 keeps everything.

    InputError where the cap is negative, or so small that an entity keeps no lesion.
    """
    if max_per_entity < 0:
        raise InputError(f"{max_per_entity} images an entity: give a positive cap, or 0 to keep every image")
    if max_per_entity == 0:
        return cohort
    order = np.random.default_rng(seed).permutation(np.sort(cohort.frame["lesion_id"].unique()))
    lesions = cohort.frame.groupby("lesion_id", sort=False)["dx"].agg(["first", "size"]).loc[order]
    room = dict.fromkeys(CODES, max_per_entity)
    kept_lesions = set()
    for lesion_id, dx, size in lesions.itertuples():
        if size <= room[dx]:
            room[dx] -= size
            kept_lesions.add(lesion_id)
    kept = cohort.frame[cohort.frame["lesion_id"].isin(kept_lesions)].reset_index(drop=True)
    lost = set(cohort.frame["dx"]) - set(kept["dx"])
    if lost:
        raise InputError(f"no lesion of {', '.join(sorted(lost))} has as few as {max_per_entity} images: raise the cap")
    return replace(cohort, frame=kept, data_hash=sha256_text(cohort.data_hash + " ".join(kept["image_id"])))


def in_turn(frame: pd.DataFrame, column: str = "group") -> pd.DataFrame:
    """The rows dealt over the values of `column`: one of every lesion (group) before a second one of any, else in order."""
    return frame.loc[frame.groupby(column).cumcount().sort_values(kind="stable").index]


def spread(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """`count` rows of `frame` (all where it has fewer), dealt over the entities in turn, in the frame's order."""
    return in_turn(frame, "dx").head(count).sort_index()


def some_of_each(cohort: Cohort, count: int, seed: int) -> Cohort:
    """`cohort` with up to `count` images of each entity, drawn by chance and in its order; 0 keeps all."""
    if not count:
        return cohort
    drawn = cohort.frame.sample(frac=1, random_state=seed).groupby("dx").head(count)
    return cohort.select(image_id=drawn["image_id"])


# Captions


CAPTION_STYLES = ("entity", "metadata")


def where_to_see(frame: pd.DataFrame) -> str:
    """Real images that a run does not draw (DRAW_REAL): their names, a line an entity, and where the archive shows them."""
    named = {NAMES[code]: own["image_id"] for code, own in frame.groupby("dx", sort=False)}
    lines = [f"{entity}: {', '.join(names)}" for entity, names in named.items()]
    return "\n".join([f"real images are drawn in your own run only; each is at {ARCHIVE}", *lines])


def captions(frame: pd.DataFrame, style: str = "entity", seed: int = 0) -> pd.Series:
    """One caption a row: the entity's plain name, or one of several templates from entity, site, age and sex.

    The choice of template is a function of seed and image_id. dx_type, which tells how a diagnosis was confirmed,
    never enters a caption. Source: section 2.2, where text files name the entity of each image.
    """
    if style not in CAPTION_STYLES:
        raise InputError(f"unknown caption style {style!r}: choose one of {', '.join(CAPTION_STYLES)}")
    if style == "entity":
        return frame["dx"].map(lambda code: by_code(code).prompt)
    return frame.apply(lambda row: _caption(row, seed), axis=1)


def _caption(row: pd.Series, seed: int) -> str:
    name = by_code(row["dx"]).prompt
    person = {"male": "man", "female": "woman"}.get(row["sex"], "person")
    who = f"a {row['age']:.0f} year old {person}" if pd.notna(row["age"]) else f"a {person}"
    where = f" on the {row['localization']}" if row["localization"] not in ("", "unknown") else ""
    templates = (
        name,
        f"a dermatoscopic image of {name}",
        f"{name}{where}",
        f"{name}{where} of {who}",
        f"a dermatoscopic image of {name}{where} of {who}",
    )
    return templates[int(sha256_text(f"{seed} {row['image_id']}")[:8], 16) % len(templates)]


# Saving


class Saved(BaseModel):
    """cohort.json: the cohort's name, the folder of its images, the hash of its data."""

    name: str
    root: str
    data_hash: str


def save_cohort(cohort: Cohort, folder: str | Path) -> Path:
    """Write cohort.csv and cohort.json (name, image folder, data hash) for the notebooks that follow; no pixels."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        cohort.frame.to_csv(temporary / "cohort.csv", index=False, lineterminator="\n")
        notes = {"name": cohort.name, "root": str(cohort.root.resolve()), "data_hash": cohort.data_hash}
        (temporary / "cohort.json").write_text(json.dumps(notes, indent=1), encoding="utf-8")
    return Path(folder)


def open_cohort(folder: str | Path) -> Cohort:
    """The cohort that `save_cohort` wrote; InputError where it is missing or its images have moved."""
    folder = Path(folder)
    try:
        notes = read_json(folder / "cohort.json", Saved, "run notebook 00_dataset again")
        frame = pd.read_csv(folder / "cohort.csv", dtype=str, keep_default_na=False)
        frame["age"] = pd.to_numeric(frame["age"])
        if "subset" in frame:
            frame["subset"] = frame["subset"].eq("True")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} holds no saved cohort: run notebook 00_dataset again") from error
    if not Path(notes["root"]).is_dir():
        raise InputError(f"the images of the cohort have moved from {notes['root']}: run notebook 00_dataset again")
    return Cohort(notes["name"], Path(notes["root"]), frame, notes["data_hash"])


def open_synthetic(folder: str | Path) -> Cohort:
    """The synthetic dataset that sample.py or synthetic_set.py wrote (a table, one PNG and one caption file an image).

    Its data hash is over the index and the images: two generators give the same captions and seeds other pixels.
    """
    folder = Path(folder)
    path = next((folder / name for name in SYNTHETIC_TABLES if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"{folder} has no index.csv with labels: run notebook 03_sample again")
    table = read_table(path, SYNTHETIC_COLUMNS)
    table.require(*SYNTHETIC_COLUMNS)
    frame = table.frame.reset_index(drop=True)
    for column, wrong in (("dx", ~frame["dx"].isin(CODES)), ("seed", ~frame["seed"].str.fullmatch("[0-9]{1,18}"))):
        if wrong.any():
            line, cell = table.frame.index[wrong][0], frame[column][wrong].iloc[0]
            raise InputError(f"{table.where(line)}: unknown {column} {cell!r}; run notebook 03_sample again")
    frame["seed"] = frame["seed"].astype("int64")
    content = path.read_text(encoding="utf-8", errors="replace")
    return Cohort("synthetic", folder, frame, sha256_text(" ".join([content, *digests(folder, frame["file"])])))
