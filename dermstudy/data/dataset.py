"""A cohort of dermatoscopic images: read from a folder in HAM10000's layout, captioned, saved.

Sources: Tschandl et al., Scientific Data 5, 180161 (2018) for the layout and the metadata; Shavlokhova et al.,
section 2.1 (captions).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from dermstudy.entities import CODES, NAMES, by_code
from dermstudy.files import InputError, atomic_path, sha256_text

METADATA_NAMES = ("HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata")
COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset")
SYNTHETIC_TABLES = ("index.csv", "metadata.csv")  # of notebook 03, and of a set to pass on
SYNTHETIC_COLUMNS = ("image_id", "dx", "file", "caption", "source_image_id", "seed")
ARCHIVE = "https://api.isic-archive.com/images/?query=isic_id:NAME"  # a real image, by its name
NO_AGE = ("", "unknown", "NA", "nan")
SMALLEST = 64  # pixels of a picture's shorter side: GLIDE's base model paints as many
THREADS = 4


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


def read_image(path: Path, side: int | None = None) -> np.ndarray:
    """One image as uint8 [h, w, 3], or its centre square at [side, side, 3]. InputError where it cannot be decoded."""
    try:
        with Image.open(path) as image:
            image = image.convert("RGB")  # whole: a JPEG decoded at a part of its size is shifted by up to 1.5 pixels
    except FileNotFoundError as error:
        raise InputError(f"image {path} is missing: complete the download") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not an image: replace it from the download") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder, not an image: replace it from the download") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"image {path} is broken ({error}): replace it from the download") from error
    if side is None:
        return np.asarray(image)
    edge = min(image.size)
    left, top = (image.width - edge) / 2, (image.height - edge) / 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))


# Reading


def load_folder(folder: str | Path, name: str | None = None) -> Cohort:
    """Read a folder in HAM10000's layout: Dataverse or Kaggle names, images in part_1/part_2 or in one folder.

    The frame is sorted by image_id and has the metadata columns, `file` and the entity's plain name as `caption`.
    InputError, in one line, for: no such folder, no metadata, a missing column, an empty cell, an unknown dx, a
    duplicate image_id, and images that are missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: give the folder of a HAM10000 download (the README says how to get it)")
    metadata = next((folder / name for name in METADATA_NAMES if (folder / name).is_file()), None)
    if metadata is None:
        raise InputError(f"no metadata in {folder}: it needs one of {', '.join(METADATA_NAMES)} beside the images")
    frame = _read_metadata(metadata)
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png") and not path.name.startswith("."):
            found.setdefault(path.stem, path.relative_to(folder).as_posix())
    missing = [image_id for image_id in frame["image_id"] if image_id not in found]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(frame)} images of {metadata.name} are not in {folder}: "
            f"{', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}; complete the download"
        )
    frame["file"] = frame["image_id"].map(found)
    frame["caption"] = frame["dx"].map(NAMES)
    return Cohort(name or folder.name, folder, frame, _data_hash(folder, frame))


def _read_metadata(path: Path) -> pd.DataFrame:
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = "\t" if "\t" in text.partition("\n")[0] else ","
        # index_col=False: a row with a cell too many would otherwise shift every column by one.
        frame = pd.read_csv(StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error
    frame = frame.rename(columns=str.strip).map(str.strip, na_action="ignore").fillna("")
    lacking = [column for column in COLUMNS if column not in frame.columns]
    if lacking:
        raise InputError(f"{path} has no column {', '.join(lacking)}: HAM10000's metadata has {', '.join(COLUMNS)}")
    if frame.empty:
        raise InputError(f"{path} has a header but no row: download it again")
    frame = frame[list(COLUMNS)].copy()
    for column in ("lesion_id", "image_id", "dx"):
        empty = frame.index[frame[column] == ""]
        if len(empty):
            raise InputError(f"{path}, line {empty[0] + 2}: {column} is empty; fill it in")
    unknown = frame.index[~frame["dx"].isin(CODES)]
    if len(unknown):
        row = unknown[0]
        raise InputError(
            f"{path}, line {row + 2}: unknown dx {frame['dx'][row]!r} of {frame['image_id'][row]}; "
            f"known are {', '.join(CODES)}"
        )
    double = frame.index[frame["image_id"].duplicated()]
    if len(double):
        raise InputError(
            f"{path}, line {double[0] + 2}: image_id {frame['image_id'][double[0]]} stands twice; "
            "remove one of the rows"
        )
    age = pd.to_numeric(frame["age"], errors="coerce")
    wrong = frame.index[(age.isna() & ~frame["age"].isin(NO_AGE)) | (age < 0) | (age > 120)]
    if len(wrong):
        raise InputError(
            f"{path}, line {wrong[0] + 2}: age {frame['age'][wrong[0]]!r} is not a number of years; "
            "mend it, or leave the cell empty"
        )
    frame["age"] = age
    mixed = frame.groupby("lesion_id")["dx"].nunique()
    if (mixed > 1).any():
        lesion_id = mixed.index[mixed > 1][0]
        entities = ", ".join(sorted(set(frame.loc[frame["lesion_id"] == lesion_id, "dx"])))
        raise InputError(f"{path}: lesion {lesion_id} has images of several entities ({entities}); mend its dx")
    return frame.sort_values("image_id").reset_index(drop=True)


def _data_hash(folder: Path, frame: pd.DataFrame) -> str:
    """SHA-256 over metadata rows and image bytes in order of image_id: the same for any layout of the same download."""
    table = frame[list(COLUMNS)].assign(sha256=_digests(folder, frame["file"]))
    return sha256_text(table.to_csv(index=False, lineterminator="\n"))


def _digests(folder: Path, files: pd.Series) -> list[str]:
    """The SHA-256 of each file, where it is there."""

    def digest(file: str) -> str:
        path = folder / file
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(digest, files))


def verify_images(cohort: Cohort) -> dict[str, int]:
    """Decode every image once: counts of images and of greyscale ones (read as RGB).

    InputError for the first one that cannot be decoded, or whose shorter side has fewer than 64 pixels.
    """

    def mode(file: str) -> str:
        height, width, _ = read_image(cohort.root / file).shape
        if min(height, width) < SMALLEST:
            raise InputError(
                f"{cohort.root / file} has {width} x {height} pixels, and the study needs {SMALLEST} on its shorter "
                "side: replace it from the download"
            )
        with Image.open(cohort.root / file) as image:
            return image.mode

    greyscale = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for index, value in enumerate(pool.map(mode, cohort.frame["file"]), start=1):
            greyscale += value not in ("RGB", "RGBA")
            if index % 2500 == 0:
                print(f"{index} of {len(cohort)} images decoded", flush=True)
    if greyscale:
        print(f"{greyscale} greyscale images are read as RGB with three equal channels")
    return {"images": len(cohort), "greyscale": greyscale}


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


def spread(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """`count` rows of `frame` (all where it has fewer), dealt over the entities in turn, in the frame's order."""
    turn = frame.groupby("dx").cumcount().rename("turn")
    return frame.loc[turn.sort_values(kind="stable").index[:count]].sort_index()


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
        notes = json.loads((folder / "cohort.json").read_text(encoding="utf-8"))
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
    table = next(
        (folder / name for name in SYNTHETIC_TABLES if (folder / name).is_file()), folder / SYNTHETIC_TABLES[0]
    )
    try:
        frame = pd.read_csv(table, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} has no index.csv with labels: run notebook 03_sample again") from error
    lacking = [column for column in SYNTHETIC_COLUMNS if column not in frame.columns]
    if lacking:
        raise InputError(f"{table} has no column {', '.join(lacking)}: run notebook 03_sample again")
    unknown = frame.index[~frame["dx"].isin(CODES)]
    if len(unknown):
        raise InputError(f"{table}, line {unknown[0] + 2}: unknown dx {frame['dx'][unknown[0]]!r}")
    if not frame["seed"].str.fullmatch("[0-9]+").all():
        raise InputError(f"{table} has a seed that is no whole number: run notebook 03_sample again")
    frame["seed"] = frame["seed"].astype("int64")
    index = table.read_text(encoding="utf-8")
    return Cohort("synthetic", folder, frame, sha256_text(" ".join([index, *_digests(folder, frame["file"])])))
