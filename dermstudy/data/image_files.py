"""The image files of a folder: found at any depth, matched with the ids of a table, and each read once to know all of them."""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from dermstudy.data.images import FORMATS, converted, printable
from dermstudy.files import InputError, progress

SMALLEST = 64  # pixels of an image's shorter side: GLIDE's base model paints as many
THREADS = 4
NAMED = 10  # files that a message names with what is wrong
SHOWN = 3  # ids that a message names


@dataclass(frozen=True)
class Found:
    """The files under `folder`, as paths relative to it: images by their suffix, and the others; hidden files are in neither."""

    folder: Path
    images: list[str]
    others: list[str]

    def left_out(self) -> str:
        """A sentence on the other files, counted by suffix; "" where there is none."""
        counts = Counter(PurePosixPath(file).suffix.lower() or "without a suffix" for file in self.others)
        named = ", ".join(f"{count} {printable(suffix)}" for suffix, count in counts.most_common())
        return f"left out, for their names are not those of images: {named}" if counts else ""


@dataclass(frozen=True)
class Survey:
    """What reading every image has shown: how many there are, how many were converted, and how many in each way."""

    images: int
    converted: int
    kinds: Counter

    def line(self) -> str:
        """A sentence on the images that were converted; "" where none was."""
        named = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        were = "was" if self.converted == 1 else "were"
        return (
            f"{self.converted} of {self.images} images {were} converted to upright 8-bit sRGB: {named}" if named else ""
        )


def suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of the formats that `images` reads: .jpg, .png, .tif, ..."""
    return frozenset(suffix for suffix, form in Image.registered_extensions().items() if form in (*FORMATS, "MPO"))


def find_images(folder: str | Path) -> Found:
    """Every file under `folder`, in the order of its path. Links to folders are followed, each real folder is read once.

    Left out without a word: names that begin with a dot, and __MACOSX, where macOS keeps what is no image. InputError where
    a folder cannot be listed.
    """
    folder, known = Path(folder), suffixes()
    files = sorted(_walk(folder), key=lambda file: file.split("/"))
    images = [file for file in files if PurePosixPath(file).suffix.lower() in known]
    return Found(folder, images, [file for file in files if PurePosixPath(file).suffix.lower() not in known])


def _walk(folder: Path) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{printable(error.filename)} cannot be listed: {error.strerror}") from error

    seen = set()
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # A folder before links, which may lead to it: its files keep their plain paths.
        shown = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        folders[:] = sorted(shown, key=lambda name: (os.path.islink(os.path.join(root, name)), name))
        base = Path(root).relative_to(folder)
        yield from ((base / name).as_posix() for name in names if not name.startswith("."))


def files_of(found: Found, image_ids: Sequence[str], table: str) -> tuple[list[str], list[str]]:
    """The file of each image id, and sentences on what else lies there.

    A file belongs to an id by its name without the suffix, whatever the case; an id may have an image's suffix itself. Copies
    with the same bytes are one image. InputError, in one line, for ids without a file, and for ids with several files that
    differ (a mask beside an image): which is meant is not for us to choose.
    """
    stems: dict[str, list[str]] = {}
    for file in found.images:
        stems.setdefault(PurePosixPath(file).stem.casefold(), []).append(file)
    known, bare = suffixes(), set(image_ids)
    files, missing, several, copies = [], [], [], 0
    for image_id in image_ids:
        name = image_id.replace("\\", "/").rpartition("/")[2]
        stem = PurePosixPath(name).stem if PurePosixPath(name).suffix.lower() in known else name
        those = stems.get(name.casefold()) or stems.get(stem.casefold(), [])
        # Where ids differ by case alone, each has the file of its very name.
        those = [
            file for file in those if PurePosixPath(file).stem in (name, stem) or PurePosixPath(file).stem not in bare
        ]
        if not those:
            missing.append(image_id)
        elif not all(_same(found.folder / those[0], found.folder / other) for other in those[1:]):
            several.append(those)
        else:
            copies += len(those) - 1
        files.append(those[0] if those else "")
    _refuse_missing(found, missing, len(image_ids), table)
    if several:
        first, other = several[0][:2]
        raise InputError(
            f"{len(several)} of {len(image_ids)} images of {table} have several files that differ, such as {first} and "
            f"{other} in {found.folder}: keep one file an image there, and move masks elsewhere"
        )
    require_plain_names(files)
    further = len(found.images) - len(set(files)) - copies
    lines = {
        f"copies of other images, byte for byte, so each image is read once: {copies} files": copies,
        f"left out, for no row that is used names them: {further} image files": further,
    }
    return files, [line for line, count in lines.items() if count]


def _same(first: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(first, other, shallow=False)
    except OSError:  # a link that leads nowhere
        return False


def _refuse_missing(found: Found, missing: Sequence[str], count: int, table: str) -> None:
    if not missing:
        return
    names = {PurePosixPath(image_id).stem.casefold() for image_id in missing}
    unread = next((file for file in found.others if PurePosixPath(file).stem.casefold() in names), None)
    there = f" ({printable(unread)} is there, in a format that is not read: export it as JPEG or PNG)" if unread else ""
    named = ", ".join(map(printable, missing[:SHOWN])) + (" …" if len(missing) > SHOWN else "")
    raise InputError(
        f"{len(missing)} of {count} images of {table} are not in {found.folder}: {named}{there}; complete the download, or "
        "remove their rows"
    )


def require_plain_names(files: Sequence[str]) -> None:
    """InputError for the first file whose name has bytes that are not UTF-8, or control characters."""
    for file in files:
        if not file.isprintable():
            raise InputError(f"{printable(file)} has a name that no table can hold: rename it")


def survey(root: Path, files: Sequence[str]) -> Survey:
    """Read every file once; a line every ten seconds. InputError names the files that cannot be used, and why each."""

    def look(file: str) -> tuple[str, tuple[str, ...]]:
        try:
            picture, told = converted(root / file)
            if min(picture.size) >= SMALLEST:
                return "", told
            wide = f"{printable(root / file)} has {picture.width} x {picture.height} pixels"
            return f"{wide}, and the study needs {SMALLEST} on its shorter side: replace it", ()
        except InputError as error:
            return str(error), ()

    faults, kinds, count = [], Counter(), 0
    with ThreadPoolExecutor(THREADS) as pool:
        for fault, told in progress(pool.map(look, files), len(files), "images decoded"):
            faults += [fault] * bool(fault)
            kinds.update(told)
            count += bool(told)
    if faults:
        more = f" …, {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        every = f"{len(faults)} of {len(files)} images cannot be used: " if len(faults) > 1 else ""
        raise InputError(every + "; ".join(faults[:NAMED]) + more)
    return Survey(len(files), count, kinds)
