"""One hash of code: what keys a cache, and what tells that a notebook's results are older than the code.

It covers the parsed source of each module of this project that is imported, followed from import to import, and the tables
that lie beside these modules. Comments, docstrings and layout make no difference. It is coarse: any change in an imported
module counts, whether its function is called or not, so no dependency can be forgotten.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

from dermstudy.files import sha256_file, sha256_text

ROOT = Path(__file__).parents[1]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
TABLES = (".csv", ".json")  # beside a module: data that it reads


def code_hash(name: str, root: Path = ROOT) -> str:
    """SHA-256 of the module `name` (its `__name__`) with all that it imports from this project."""
    return source_hash(f"import {name}", root)


def source_hash(code: str, root: Path = ROOT) -> str:
    """SHA-256 of `code`, such as a notebook's, with all that it imports from this project. Raises SyntaxError."""
    bodies = [_parsed(code)]
    for path in imported(code, root)[0]:
        bodies.append(_read(path, path.stat().st_mtime_ns)[0])
    for folder in sorted({path.parent for path in imported(code, root)[0]}):
        bodies += [f"{path.name} {sha256_file(path)}" for path in sorted(folder.iterdir()) if path.suffix in TABLES]
    return sha256_text("\n".join(bodies))


def imported(code: str, root: Path = ROOT) -> tuple[list[Path], set[str]]:
    """The files of this project that `code` imports, directly or not, sorted; the other packages, less Python's own."""
    waiting, files, packages = list(_names(ast.parse(code), "")), set(), set()
    while waiting:
        name = waiting.pop()
        path = _file_of(name, root)
        if path is None:
            if not (root / name.partition(".")[0]).is_dir():
                packages.add(name.partition(".")[0])
        elif path not in files:
            files.add(path)
            waiting += [name.rpartition(".")[0]] * ("." in name)  # importing a module runs its packages
            waiting += _read(path, path.stat().st_mtime_ns)[1]
    return sorted(files), packages - set(sys.stdlib_module_names)


def _file_of(name: str, root: Path) -> Path | None:
    """The file of the module `name` under `root`; None where it is no module of this project."""
    if not (root / name.partition(".")[0] / "__init__.py").is_file():
        return None
    path = root.joinpath(*name.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@functools.lru_cache(maxsize=1024)
def _read(path: Path, changed: int) -> tuple[str, tuple[str, ...]]:
    """The parsed source of a file and the names that it imports; `changed`: its time, for a file that is edited."""
    code, parts = path.read_text(encoding="utf-8"), [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts, folder = [folder.name, *parts], folder.parent
    package = ".".join(parts[:-1])
    return _parsed(code), tuple(_names(ast.parse(code), package))


def _parsed(code: str) -> str:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body.pop(0)
    return ast.dump(tree)


def _names(tree: ast.AST, package: str) -> Iterator[str]:
    """The modules that code in `package` may import anywhere in it, inside of functions too: each name and its source."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                kept = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*kept, *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module" and node.args:
            yield ast.literal_eval(node.args[0])
