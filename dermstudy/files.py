"""What every room needs of the disk: whole files or none, content hashes, and the one user-facing error."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import inspect
import os
import shutil
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ASIDE = ".replaced"  # the end of the name of a folder that is being replaced
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class InputError(Exception):
    """Something the user gave cannot be used. The message is one line: what, where, and how to mend it."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`, renamed over it on success and removed on any error.

    Works for a file and for a folder (create it under the yielded name). A reader of `path` therefore sees
    the old content or the new, never a part; where a process died while it replaced a folder, `restore` brings back the
    old one, and is called here first.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        restore(path)
        holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder you may write to") from error
    temporary = holder / path.name
    try:
        yield temporary
        if path.is_dir() and not path.is_symlink():
            _replace_folder(temporary, path)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def restore(path: str | Path) -> None:
    """Bring back the folder `path` where a process was killed while it put another in its place."""
    path = Path(path)
    aside = _aside(path)
    try:
        with _held(aside) as same:
            if same and os.path.lexists(path):
                shutil.rmtree(aside, ignore_errors=True)  # the new one had arrived
            elif same:
                os.rename(aside, path)
    except FileNotFoundError:
        return


def restore_all(folder: str | Path) -> None:
    """`restore` every folder in `folder` that needs it."""
    for aside in Path(folder).glob(f".*{ASIDE}"):
        restore(aside.with_name(aside.name[1 : -len(ASIDE)]))


def _replace_folder(temporary: Path, path: Path) -> None:
    """No system call replaces a folder that is not empty: the old one steps aside under a name that `restore` knows."""
    aside = _aside(path)
    with _held(path):
        os.rename(path, aside)
        try:
            os.replace(temporary, path)
        except OSError:
            os.rename(aside, path)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{ASIDE}")


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, which follows it to another name; whether it is still at this one once it is held."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat())
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def content_hash(path: str | Path) -> str:
    """SHA-256 over the bytes of a file, or over the names and bytes of all files in a folder."""
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return sha256_text(" ".join(f"{file.relative_to(path)} {sha256_file(file)}" for file in files))


def code_hash(*objects) -> str:
    """SHA-256 over the source of functions, classes and modules; comments, docstrings and layout make no difference."""
    trees = []
    for thing in objects:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
        for node in ast.walk(tree):
            if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                node.body.pop(0)
        trees.append(ast.dump(tree))
    return sha256_text("\n".join(trees))
