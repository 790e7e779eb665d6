"""What every room needs of the disk: whole files or none, JSON of a known shape, hashes; and how errors are told."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

# Ends of the names beside a path that is being written: a folder that steps aside, what is half written, the lock.
ASIDE, SAVING, LOCK = ".replaced", ".saving", ".lock"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # what no other name or permission mends
REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "choose a folder you may write to",
    errno.EACCES: "mend its permissions or choose a folder you may write to",
    errno.EPERM: "mend its permissions or choose a folder you may write to",
    errno.EFBIG: "raise the limit of `ulimit -f`",
    errno.EMFILE: "raise the limit of `ulimit -n`",
    errno.ENAMETOOLONG: "shorten the name",
}


class InputError(Exception):
    """Something the user gave cannot be used. The message is one line: what, where, and how to mend it."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # a name or cell that it quotes may hold line breaks


def answered(act: Callable[[], object], interrupted: str = "dermstudy: interrupted") -> int:
    """Do `act` as a command does; its exit code: what `act` returns, 0 where that is no number.

    2, after one line on standard error: InputError, and what the system refuses (no space, no permission, a name that is
    too long or not UTF-8). 1: too little memory; also, silently, a reader of the output that left (`| head`). 130: an
    interrupt, with the line `interrupted`. Every other error keeps its traceback.
    """
    try:
        status = act()
        _flush()  # a reader that left is noticed here, and not when Python ends
        return status if isinstance(status, int) else 0
    except BrokenPipeError:
        _discard_output()
        return 1
    except (InputError, OSError, UnicodeError, MemoryError) as error:
        print(f"dermstudy: {line_of(error)}", file=sys.stderr)
        try:
            _flush()
        except OSError:  # it was the output that could not be written
            _discard_output()
        return 1 if isinstance(error, MemoryError) else 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130


def _flush() -> None:
    if sys.stdout is not None:  # closed by `>&-`
        sys.stdout.flush()


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def line_of(error: BaseException) -> str:
    """An error in one line: for what the system refuses its reason, the file and a remedy."""
    if isinstance(error, OSError) and error.strerror:
        files = [str(name) for name in (error.filename, error.filename2) if name is not None]
        text = ": ".join([*files, _reason(error)])
    elif isinstance(error, UnicodeEncodeError):
        text = f"not UTF-8: {error.object[max(error.start - 40, 0) : error.end + 40]!r} (rename it)"
    elif isinstance(error, UnicodeDecodeError):
        text = f"a file is no UTF-8 text: byte {error.object[error.start]:#x} at {error.start} (save it as UTF-8)"
    elif isinstance(error, MemoryError):
        text = f"too little memory: {error}"
    else:
        text = str(error)
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


def _reason(error: OSError) -> str:
    remedy = REMEDIES.get(error.errno)
    return (error.strerror or str(error)) + (f"; {remedy}" if remedy else "")


def progress(items: Iterable, count: int, doing: str, each: int = 1) -> Iterator:
    """`items`, `each` of `count` things apiece, with a line "300 of 1000 images encoded" (doing) every ten seconds."""
    told = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{min(done * each, count)} of {count} {doing}", flush=True)


def read_json(path: str | Path, shape: Any, mend: str) -> Any:
    """What the JSON file at `path` holds, once it is known to have the `shape` of a type, such as a pydantic model.

    InputError names the file and the first field that differs, and says how to `mend` it.
    """
    from pydantic import ValidationError

    try:
        if not Path(path).is_file():  # a named pipe would be waited for without end
            raise InputError(f"{path} is {'no file' if os.path.lexists(path) else 'missing'}: {mend}")
        content = Path(path).read_bytes()
        _adapter(shape).validate_json(content, strict=True)
        return json.loads(content)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({_reason(error)}): {mend}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ", ".join([str(path), *(str(part) for part in first["loc"])])
        raise InputError(f"{where}: {first['msg'].lower()}: {mend}") from error


@functools.cache
def _adapter(shape: Any):
    from pydantic import TypeAdapter

    return TypeAdapter(shape)


@contextmanager
def locked(path: str | Path, refused: str = "") -> Iterator[None]:
    """Hold the lock file `path`, which is there only meanwhile or after a kill; one holder among all processes.

    Waits for another holder; InputError with the text `refused`, where one is given, in place of waiting.
    """
    path = Path(path)
    lock = FileLock(path, timeout=0 if refused else -1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise InputError(refused) from error
    except OSError as error:
        raise InputError(f"cannot write in {path.parent}: {_reason(error)}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # whoever waits sees that its file has no name any more, and takes a new one
        lock.release()


@contextmanager
def atomic_path(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path for `path`, renamed over it on success and removed on any error.

    Works for a file and for a folder (create it under the yielded name). A reader of `path` therefore sees
    the old content or the new, never a part; where a process died meanwhile, `restore` brings back the old content, and
    is called here first. Two writers of one path take turns.
    durable: the content is on the disk before the rename, so that a power failure leaves the old or the new, too.
    """
    path = Path(path)
    holder = _beside(path, SAVING)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(_beside(path, LOCK)))
        try:
            _restore(path)
            holder.mkdir()
        except OSError as error:
            raise InputError(f"cannot write {path}: {_reason(error)}") from error
        stack.callback(shutil.rmtree, holder, ignore_errors=True)
        temporary = holder / path.name
        try:
            yield temporary
            if durable:
                _sync(temporary)
            _replace(temporary, path)
            if durable:
                _sync(path.parent, deep=False)
        except Exception as error:
            reason = _why_not_written(error, holder)
            if reason:
                raise InputError(f"cannot write {path}: {reason}") from error
            raise


def _why_not_written(error: Exception, holder: Path) -> str:
    """The reason where `error` says that files in `holder` could not be written; "" for any other error.

    A library may tell of a full disk in an error of its own: safetensors in the system's words, numpy by its counts.
    """
    if isinstance(error, InputError):
        return ""
    own = isinstance(error, OSError) and str(holder) in str(error.filename) and error.errno != errno.ENOENT
    if own or isinstance(error, OSError) and error.errno in FULL:
        return _reason(error)
    counted = re.fullmatch(r"\d+ requested and \d+ written", str(error))
    number = next((number for number in FULL if os.strerror(number) in str(error)), errno.ENOSPC if counted else None)
    return _reason(OSError(number, os.strerror(number))) if number else ""


def replace_folder(new: str | Path, path: str | Path) -> None:
    """Rename the folder `new` to `path`, in place of what is there; a death meanwhile loses neither (`restore`)."""
    with locked(_beside(Path(path), LOCK)):
        _restore(Path(path))
        _replace(Path(new), Path(path))


def restore(path: str | Path) -> None:
    """Bring back what `path` held where a process was killed while it wrote, and remove what it left half written."""
    path = Path(path)
    if any(os.path.lexists(_beside(path, end)) for end in (ASIDE, SAVING)):
        with locked(_beside(path, LOCK)):
            _restore(path)


def restore_all(folder: str | Path) -> None:
    """`restore` every path in `folder` that nobody writes now."""
    ends = "|".join(re.escape(end) for end in (ASIDE, SAVING, LOCK))
    names = {found[1] for path in Path(folder).glob(".*") if (found := re.fullmatch(rf"\.(.+)(?:{ends})", path.name))}
    for name in names:
        with contextlib.suppress(InputError), locked(_beside(Path(folder) / name, LOCK), "being written"):
            _restore(Path(folder) / name)


def _beside(path: Path, end: str) -> Path:
    return path.with_name(f".{path.name}{end}")


def _restore(path: Path) -> None:
    """As `restore`, by the holder of the lock."""
    aside, holder = _beside(path, ASIDE), _beside(path, SAVING)
    if os.path.lexists(holder):
        shutil.rmtree(holder, ignore_errors=True)
    if not os.path.lexists(aside):
        return
    if os.path.lexists(path):
        shutil.rmtree(aside, ignore_errors=True)  # the new one had arrived
    else:
        os.rename(aside, path)


def _replace(temporary: Path, path: Path) -> None:
    """No system call replaces a folder that is not empty: the old one steps aside under a name that `restore` knows."""
    if not path.is_dir() or path.is_symlink():
        os.replace(temporary, path)
        return
    aside = _beside(path, ASIDE)
    os.rename(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        os.rename(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path, deep: bool = True) -> None:
    """Wait until a file, or a folder (deep: with all that is in it), is on the disk."""
    for each in [*(path.rglob("*") if deep and path.is_dir() else ()), path]:
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
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
    """SHA-256 over the bytes of a file, or over the names and bytes of all files in a folder, links to folders followed."""
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    found = (Path(folder, name) for folder, _, names in os.walk(path, followlinks=True) for name in names)
    files = sorted(file for file in found if file.is_file())
    return sha256_text(" ".join(f"{file.relative_to(path)} {sha256_file(file)}" for file in files))
