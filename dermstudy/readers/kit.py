"""The blinded kit of a reader study: its images, its key, the order of each reader, and its workbook.

Source: Shavlokhova et al., section 2.3 (ten AI and ten original images an entity, names and order without meaning).
Images are stored uncompressed, so that no file tells by its size how much there is to see in it.
"""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dermstudy.data.dataset import Cohort
from dermstudy.entities import CODES
from dermstudy.files import InputError, atomic_path, sha256_text
from dermstudy.readers import store
from dermstudy.readers.workbook import SOURCES

SIDE = 256  # section 2.3
QUALITY = 90  # of the JPEG encoding that every image passes through
EPOCH = 946_684_800  # 2000-01-01: the date of every file
SIMULATED = "simulated reader"
KEY_COLUMNS = ("kit", "image", "source", "entity", "original_name")


def build(
    synthetic: Cohort,
    originals: Cohort,
    folder: str | Path,
    per_entity: int = 10,
    seed: int | None = None,
    readers: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Write a kit and, beside it, its key; returns both paths.

    originals: held-out lesions only (the caller selects them), of which each gives one image at most. seed: None draws
    the names and the choice from the system's randomness, so that nobody can work them out from the data. readers:
    names of those who get a private link now; whoever comes without one gets it then.
    InputError for an empty name, and where an entity has too few images, or the kit or its key exists already.
    """
    folder = Path(folder)
    key_path = folder.with_name(f"{folder.name}_key.csv")
    for path in (folder, key_path):
        if path.exists():
            raise InputError(f"{path} exists already: a kit that readers may have seen is not replaced; name another")
    salt = secrets.token_hex(16) if seed is None else str(seed)
    key = draw(synthetic.frame, originals.frame, per_entity, salt)
    with atomic_path(folder) as temporary:
        (temporary / "images").mkdir(parents=True)
        for row in key.itertuples():
            cohort = synthetic if row.source == "AI" else originals
            pixels = cohort.image(row.original_name, SIDE)
            Image.fromarray(same_encoding(pixels)).save(temporary / "images" / f"{row.image}.bmp")
        for name in readers:
            store.add_reader(temporary, name)
        notes = {"kit": key["kit"].iloc[0], "images": key["image"].tolist(), "side": SIDE}
        (temporary / "kit.json").write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")
        for path in (*(temporary / "images").iterdir(), temporary / "images", temporary / "kit.json"):
            os.utime(path, (EPOCH, EPOCH))
        with atomic_path(key_path) as path:
            key.to_csv(path, index=False, lineterminator="\n")
    return folder, key_path


def draw(synthetic: pd.DataFrame, originals: pd.DataFrame, per_entity: int, salt: str) -> pd.DataFrame:
    """The key of a kit: which images, one a lesion, and under which names; a function of `salt` and the frames.

    Columns KEY_COLUMNS, in the alphabetical order of the names. InputError where an entity has too few images.
    """
    random = np.random.default_rng(int(sha256_text(salt)[:16], 16))
    chosen = [
        *_draw(synthetic, "AI", per_entity, random),
        *_draw(originals.drop_duplicates(_group(originals)), "original", per_entity, random),
    ]
    kit = sha256_text(" ".join([salt, *(name for _, _, name in chosen)]))[:12]
    rows = [(kit, sha256_text(f"{salt} {source} {name}")[:10], source, entity, name) for source, entity, name in chosen]
    return pd.DataFrame(rows, columns=KEY_COLUMNS).sort_values("image", ignore_index=True)


def _group(frame: pd.DataFrame) -> str:
    return next(column for column in ("group", "lesion_id", "image_id") if column in frame)


def _draw(frame: pd.DataFrame, source: str, count: int, random: np.random.Generator) -> list[tuple[str, str, str]]:
    if count < 1:
        raise InputError(f"{count} images an entity: give at least 1")
    chosen = []
    for code in CODES:
        names = np.sort(frame.loc[frame["dx"] == code, "image_id"].to_numpy())
        if len(names) < count:
            what = "synthetic images" if source == "AI" else "held-out lesions"
            raise InputError(f"{code} has {len(names)} {what}, the kit needs {count}: lower --per-entity")
        chosen += [(source, code, str(name)) for name in random.choice(names, count, replace=False)]
    return chosen


def same_encoding(pixels: np.ndarray) -> np.ndarray:
    """`pixels`, uint8 [h, w, 3], through one JPEG encoding, so that the last lossy step is every image's own."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=QUALITY, subsampling=0)
    return np.asarray(Image.open(stream).convert("RGB"))


# Reading a kit


def open_kit(folder: str | Path) -> dict:
    """The kit's notes: kit (its name), images (names in alphabetical order), side. InputError where it is no kit."""
    folder = Path(folder)
    try:
        notes = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
        kit, images = notes["kit"], notes["images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is not a reader kit: build one with 'dermstudy kit build'") from error
    lacking = [image for image in images if not (folder / "images" / f"{image}.bmp").is_file()]
    if lacking:
        raise InputError(f"kit {kit} lacks {len(lacking)} of {len(images)} images, {lacking[0]} first: copy it again")
    return notes


def order(kit: dict, reader: str) -> list[str]:
    """The kit's images in the reader's own order: random, and the same whenever the reader comes back."""
    random = np.random.default_rng(int(sha256_text(f"{kit['kit']} {reader}")[:16], 16))
    return [kit["images"][place] for place in random.permutation(len(kit["images"]))]


def links(folder: str | Path, address: str = "") -> pd.DataFrame:
    """Every reader with the private link: reader, name, answered, of, since, last_answer, link.

    address: where the kit is served; "" leaves the links' own part. InputError where `folder` is no kit.
    """
    images = len(open_kit(folder)["images"])
    known = store.readers(folder)
    start = f"{address.rstrip('/')}/" if address else ""
    table = known.assign(of=images, link=[f"{start}{link(token)}" for token in known["token"]])
    return table[["reader", "name", "answered", "of", "since", "last_answer", "link"]]


def link(token: str) -> str:
    """The end of the address that opens a reader's own answers."""
    return f"?reader={token}"


def open_key(path: str | Path) -> pd.DataFrame:
    """The key: kit, image, source, entity, original_name, one row an image. InputError for any other file."""
    try:
        key = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the key {path}: 'kit build' wrote it beside the kit") from error
    lacking = [column for column in KEY_COLUMNS if column not in key.columns]
    if lacking or key.empty or key["kit"].nunique() != 1:
        raise InputError(f"{path} is not the key of a kit: it needs the columns {', '.join(KEY_COLUMNS)} and one kit")
    if key["image"].duplicated().any() or not key["source"].isin(SOURCES).all() or not key["entity"].isin(CODES).all():
        raise InputError(f"the key {path} was changed: it names an image twice, or an unknown source or entity")
    return key


def with_truth(answers: pd.DataFrame, key: pd.DataFrame, partial: bool = False) -> pd.DataFrame:
    """Answers (reader, image, …) joined with the key's source and entity, one row an image and reader.

    InputError for an image that is not in the key, and, unless `partial`, for a reader who skipped images.
    """
    if answers.empty:
        raise InputError("no reader has answered yet: serve the kit first")
    foreign = answers[~answers["image"].isin(key["image"])]
    if len(foreign):
        raise InputError(
            f"reader {foreign['reader'].iloc[0]!r} answered image {foreign['image'].iloc[0]}, which the key of kit "
            f"{key['kit'].iloc[0]} has not: the answers belong to another kit"
        )
    for reader, own in answers.groupby("reader"):
        skipped = len(key) - own["image"].nunique()
        if skipped and not partial:
            raise InputError(
                f"reader {reader!r} skipped {skipped} of {len(key)} images: finish them, or export with --partial"
            )
    joined = answers.merge(key[["image", "kit", "source", "entity"]], on="image", validate="many_to_one")
    first = ["reader", "image", "source", "entity", "entity_answer", "source_answer", "confidence", "kit"]
    return joined[[*first, *(column for column in joined.columns if column not in first)]]


def export(folder: str | Path, key_path: str | Path, partial: bool = False) -> pd.DataFrame:
    """All answers of a served kit with their truth, for the workbook. InputError as in `with_truth`."""
    kit, key = open_kit(folder), open_key(key_path)
    if key["kit"].iloc[0] != kit["kit"]:
        raise InputError(f"{key_path} is the key of kit {key['kit'].iloc[0]}, not of {kit['kit']}: give its own key")
    return with_truth(store.answers(folder), key, partial)


NAMED_COLUMNS = ("reader", "image", "original_name", "source", "entity", "entity_answer", "source_answer")
FURTHER_COLUMNS = ("confidence", "kit", "provenance")  # where the answers have them


def save_answers(answers: pd.DataFrame, key: pd.DataFrame | None, path: str | Path) -> None:
    """Write answers as a .csv, whole or not at all, with the name that each image has in its own cohort.

    Without a key the names that the answers bring stay, or are empty.
    """
    if key is not None or "original_name" not in answers:
        names = {} if key is None else key.set_index("image")["original_name"].to_dict()
        answers = answers.assign(original_name=[names.get(image, "") for image in answers["image"]])
    table = answers[[*NAMED_COLUMNS, *(column for column in FURTHER_COLUMNS if column in answers)]]
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def open_answers(path: str | Path) -> pd.DataFrame:
    """What `save_answers` wrote: NAMED_COLUMNS and those of FURTHER_COLUMNS that were there, confidence as numbers.

    InputError where the file is missing, holds no answer or lacks a column, and for a confidence that is no number.
    """
    try:
        answers = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"no answers of readers at {path}: notebook 05 writes them") from error
    lacking = [column for column in NAMED_COLUMNS if column not in answers]
    if lacking or answers.empty:
        raise InputError(
            f"{path} holds no answers to a kit: it needs the columns {', '.join(NAMED_COLUMNS)}, and a row"
        )
    if "confidence" in answers:
        try:
            answers["confidence"] = pd.to_numeric(answers["confidence"])
        except ValueError as error:
            raise InputError(f"{path}: a confidence is no number from 1 to 5; mend it") from error
    return answers


# A reader where none has answered


def simulated_answers(key: pd.DataFrame, reader: str, skill: float, eye: float, seed: int) -> pd.DataFrame:
    """Answers of a simulated reader to every image of a key, labelled as simulated in `provenance`.

    skill: probability of naming the entity; eye: probability of telling AI from original, with one image in ten
    answered "unsure". Confidence (1..5) is higher by 0.8 on average for each of the two that is right.
    """
    random = np.random.default_rng([seed, int(sha256_text(reader)[:8], 16)])
    rows = []
    for row in key.sort_values("image").itertuples():
        right, seen = random.random() < skill, random.random() < eye
        others = [code for code in CODES if code != row.entity]
        mistaken = "original" if row.source == "AI" else "AI"
        source = row.source if seen else mistaken
        confidence = int(np.clip(round(random.normal(2.2 + 0.8 * right + 0.8 * seen, 1.0)), 1, 5))
        rows.append(
            {
                "reader": reader,
                "image": row.image,
                "source": row.source,
                "entity": row.entity,
                "entity_answer": row.entity if right else str(random.choice(others)),
                "source_answer": "unsure" if random.random() < 0.1 else source,
                "confidence": confidence,
                "kit": row.kit,
                "provenance": f"{SIMULATED}: entity {skill:.0%}, source {eye:.0%}",
            }
        )
    return pd.DataFrame(rows)
