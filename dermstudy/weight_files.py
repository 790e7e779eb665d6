"""Weights that may answer: the files are those that shipped, and every number in them, and in the answer, is finite."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from dermstudy.files import InputError, sha256_file, write_text
from dermstudy.workspace import shown

CHECKSUMS = "SHA256SUMS"  # in a folder of weights that ships: the other files' hashes and names, as sha256sum has them
DAMAGED = "it is damaged: take it from where it came again, or train it anew"


def check_finite(values: Mapping[str, object], source: str | Path, otherwise: str = DAMAGED) -> None:
    """InputError where an array or tensor of `values` holds a number that is not finite; it names `source` and the value.

    otherwise: what that means, and how to mend it.
    """
    import torch

    for name, value in values.items():
        value = torch.as_tensor(value)
        if value.itemsize == 1 and value.is_floating_point():
            value = value.half()
        if not value.isfinite().all():
            raise InputError(f"{source}: {name} holds numbers that are not finite; {otherwise}")


def check_shipped(path: str | Path) -> None:
    """Compare the folder `path` with the checksums in it or beside it, once a process; nothing where there are none.

    InputError names the first file that is missing, changed or new.
    """
    path = Path(path).resolve()
    for folder in (path, path.parent):
        if (folder / CHECKSUMS).is_file():
            _verified_once(folder, path)
            return


@cache
def _verified_once(folder: Path, within: Path) -> int:
    return verify(folder, within)


def verify(folder: str | Path, within: str | Path | None = None) -> int:
    """Compare every file of a shipped folder, or those `within` a part of it, with its checksum; returns their number.

    Hidden files that did not ship are none of the weights. InputError names the first fault.
    """
    folder = Path(folder)
    within = folder if within is None else Path(within)
    again = f"get it again (git checkout -- {shown(folder)}), or remove {CHECKSUMS} there if you changed it on purpose"
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        listed = {folder / name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except OSError as error:
        raise InputError(f"{folder} has no {CHECKSUMS}: it is no shipped model") from error
    except ValueError as error:
        raise InputError(f"{folder / CHECKSUMS} cannot be read: {again}") from error
    listed = {path: digest for path, digest in listed.items() if path.is_relative_to(within)}
    for path, digest in listed.items():
        if not path.is_file():
            raise InputError(f"{path} is missing: {again}")
        if sha256_file(path) != digest:
            raise InputError(f"{path} is not the file that was shipped: {again}")
    new = sorted(path for path in files_of(within) if path not in listed)
    if new:
        raise InputError(f"{new[0]} did not ship with the model: move it elsewhere, or remove {CHECKSUMS}")
    return len(listed)


def write_checksums(folder: str | Path) -> None:
    """Write the checksums of every file in `folder` that is not hidden."""
    folder = Path(folder)
    lines = [f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}" for path in files_of(folder)]
    write_text(folder / CHECKSUMS, "\n".join(lines) + "\n")


def drop_checksums(folder: str | Path) -> None:
    """Before a file of `folder` changes: its checksums hold no more, until they are written again."""
    (Path(folder) / CHECKSUMS).unlink(missing_ok=True)


def files_of(folder: Path) -> list[Path]:
    """What ships of a folder of weights beside its checksums: every file that is not hidden, sorted."""

    def hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS and not hidden(path))
