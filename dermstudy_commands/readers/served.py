"""A reader kit on the disk: its images and key written, the order of each reader, links, and answers joined with the key.

Source: Shavlokhova et al., section 2.3. Images are stored uncompressed, so that no file tells by its size how much there
is to see in it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import BaseModel

from dermstudy.data.dataset import Cohort, verify_images
from dermstudy.files import InputError, atomic_path, locked, read_json, sha256_text
from dermstudy.readers.kit import draw, open_key, refuse_foreign
from dermstudy_commands.readers import store

SIDE = 256  # section 2.3
QUALITY = 90  # of the JPEG encoding that every image passes through
EPOCH = 946_684_800  # 2000-01-01: the date of every file
KEPT_KEY = "key.csv"  # in the kit's folder until both are whole; then it is moved out


class Kit(BaseModel):
    """kit.json: the kit's name, its images' names in alphabetical order, their side in pixels."""

    kit: str
    images: list[str]
    side: int


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
    names of those who get a private link now; whoever comes without one gets it then. A kit whose build was killed
    before its key was in place is built anew.
    InputError for an empty name, and where an entity has too few images, or the kit or its key exists already.
    """
    folder = Path(folder)
    key_path = _key_path(folder)
    with locked(folder.with_name(f".{folder.name}.build"), f"{folder} is being built by another process: wait for it"):
        if (folder / KEPT_KEY).is_file():
            shutil.rmtree(folder)
        for path in (folder, key_path):
            if path.exists():
                raise InputError(
                    f"{path} exists already: a kit that readers may have seen is not replaced; name another"
                )
        salt = secrets.token_hex(16) if seed is None else str(seed)
        key = draw(synthetic.frame, originals.frame, per_entity, salt)
        verify_images(originals.select(image_id=key.loc[key["source"] == "original", "original_name"]))
        with atomic_path(folder) as temporary:
            _write(key, {"AI": synthetic, "original": originals}, readers, temporary)
        _move_key(folder)
    return folder, key_path


def _write(key: pd.DataFrame, cohorts: dict[str, Cohort], readers: Sequence[str], folder: Path) -> None:
    """Write the kit's images, notes, links and, for the time being, its key into a new folder."""
    (folder / "images").mkdir(parents=True)
    for row in key.itertuples():
        pixels = cohorts[row.source].image(row.original_name, SIDE)
        Image.fromarray(same_encoding(pixels)).save(folder / "images" / f"{row.image}.bmp")
    for name in readers:
        store.add_reader(folder, name)
    notes = {"kit": key["kit"].iloc[0], "images": key["image"].tolist(), "side": SIDE}
    (folder / "kit.json").write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")
    for path in (*(folder / "images").iterdir(), folder / "images", folder / "kit.json"):
        os.utime(path, (EPOCH, EPOCH))
    key.to_csv(folder / KEPT_KEY, index=False, lineterminator="\n")


def _key_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}_key.csv")


def _move_key(folder: Path) -> None:
    """Finish a build: one rename puts the kit and its key on disk together, the next one parts them."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder / KEPT_KEY, _key_path(folder))


def same_encoding(pixels: np.ndarray) -> np.ndarray:
    """`pixels`, uint8 [h, w, 3], through one JPEG encoding, so that the last lossy step is every image's own."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=QUALITY, subsampling=0)
    return np.asarray(Image.open(stream).convert("RGB"))


def open_kit(folder: str | Path) -> dict:
    """The kit's notes: kit (its name), images (names in alphabetical order), side. InputError where it is no kit."""
    folder = Path(folder)
    _move_key(folder)
    notes = read_json(folder / "kit.json", Kit, "it is not a reader kit; build one with 'dermstudy kit build'")
    kit, images = notes["kit"], notes["images"]
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


def with_truth(answers: pd.DataFrame, key: pd.DataFrame, partial: bool = False) -> pd.DataFrame:
    """Answers (reader, image, …) joined with the key's source and entity, one row an image and reader.

    InputError for an image that is not in the key, and, unless `partial`, for a reader who skipped images.
    """
    if answers.empty:
        raise InputError("no reader has answered yet: serve the kit first")
    refuse_foreign(answers, key)
    for reader, given in answers.groupby("reader"):
        skipped = len(key) - given["image"].nunique()
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
