"""Which definitions of a package a piece of code reaches, followed from its names, import by import."""

from __future__ import annotations

import ast
import copy
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dermstudy.files import sha256_text
from dermstudy.runner.canonical import (
    Canonical,
    Unit,
    bound_by,
    imports_in,
    is_main_guard,
    last_name,
    names_of,
    plain_target,
    sources_of,
)

# Decorators that do nothing when a module is imported but wrap what they stand above; others may enter it somewhere.
WRAPPERS = {"dataclass", "contextmanager", "cache", "lru_cache", "wraps", "no_grad", "inference_mode", "overload"}


LOOSE = ""  # the statements of a module that define nothing, in their order


MAIN = ""  # the notebook among the modules


def reached(code: str, root: Path) -> tuple[list[str], set[str]]:
    """The parsed bodies that `code` reaches in the package at `root`, sorted, its own among them; the other packages.

    A name, an attribute of a module, a relative or lazy import and a package's re-export are each followed to the
    definition; a class is taken whole, and a module that is handled as a value, or got at by star, too. Statements that
    define nothing, calls of assignments and unknown decorators run on import, and count in every module that is loaded.
    Raises SyntaxError.
    """
    files = sorted(Path(root).rglob("*.py"))
    package = _parsed(Path(root), tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))
    package.modules[MAIN] = Module(MAIN, True, ast.parse(code), whole=True)
    package.forget((MAIN, LOOSE))
    walk = Walk(package)
    walk.reach((MAIN, LOOSE))
    for statement in package.modules[MAIN].imports:
        walk.take(package.modules[MAIN], statement)
    walk.finish()
    return sorted({package.body(unit) for unit in walk.found} - {""}), walk.packages


@functools.lru_cache(maxsize=4)
def _parsed(root: Path, files: tuple) -> Package:
    """The package at `root`, kept from one notebook to the next while its files stay as they are."""
    return Package(root)


@dataclass
class Module:
    """One parsed module: its definitions by name, what runs on import, and what its imports bind."""

    name: str
    is_package: bool
    tree: ast.Module
    whole: bool = False  # a notebook: one body, in its order
    units: dict[str, ast.AST] = field(default_factory=dict)
    on_import: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.imports = list(imports_in(self.tree))
        if self.whole:
            self.units[LOOSE] = self.tree
            return
        loose, names = [], [name for statement in self.tree.body for name in bound_by([statement])]
        for statement in self.tree.body:
            own = list(bound_by([statement]))
            once = len(own) == 1 and names.count(own[0]) == 1
            if isinstance(statement, ast.Import | ast.ImportFrom):
                for alias in statement.names:  # one unit a name, so that an unused import makes no difference
                    single = copy.copy(statement)
                    single.names = [alias]
                    self.units.setdefault((alias.asname or alias.name).partition(".")[0], single)
            elif once and isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.units[own[0]] = statement
                if any(last_name(decorator) not in WRAPPERS for decorator in statement.decorator_list):
                    self.on_import.add(own[0])
            elif once and isinstance(statement, ast.Assign | ast.AnnAssign) and plain_target(statement):
                self.units[own[0]] = statement
                if any(isinstance(node, ast.Call) for node in ast.walk(statement)):
                    self.on_import.add(own[0])
            elif not is_main_guard(statement):
                loose.append(statement)
        if loose:
            self.units[LOOSE] = ast.Module(body=loose, type_ignores=[])
            self.on_import.add(LOOSE)


class Walk:
    """Follows references from unit to unit until none is new."""

    def __init__(self, package: Package):
        self.package = package
        self.loaded: set[str] = set()
        self.found: set[Unit] = set()
        self.waiting: list[Unit] = []
        self.packages: set[str] = set()

    def load(self, name: str) -> None:
        """Whatever an import of `name` runs: its parents, itself, and what these import in turn."""
        parts = name.split(".")
        for name in [".".join(parts[: count + 1]) for count in range(len(parts))]:
            module = self.package.module(name)
            if module is None or name in self.loaded:
                continue
            self.loaded.add(name)
            for attribute in module.on_import:
                self.reach((name, attribute))
            for statement in module.imports:
                self.take(module, statement)

    def take(self, module: Module, statement: ast.Import | ast.ImportFrom) -> None:
        """Load, or note as another package, what an import statement in `module` names."""
        for base, attribute in sources_of(module, statement):
            if not self.package.holds(base):
                self.other(base)
                continue
            self.load(base)
            if attribute == "*":
                self.all_of(base)
            elif attribute:
                self.load(f"{base}.{attribute}")

    def other(self, name: str) -> None:
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names:
            self.packages.add(top)

    def reach(self, unit: Unit) -> None:
        if unit not in self.found:
            self.found.add(unit)
            self.waiting.append(unit)

    def follow(self, units: list[Unit]) -> None:
        for unit in units:
            self.load(unit[0])
            self.reach(unit)

    def all_of(self, name: str) -> None:
        """Every definition of a module that is handled as a value."""
        self.load(name)
        module = self.package.module(name)
        for attribute in module.units if module else ():
            self.reach((name, attribute))
            self.follow(self.package.find(name, attribute)[1])

    def everything(self) -> None:
        """The whole package: an import whose name is worked out at run time may lead anywhere."""
        for path in sorted(self.package.root.rglob("*.py")):
            parts = (self.package.root.name, *path.relative_to(self.package.root).with_suffix("").parts)
            self.all_of(".".join(part for part in parts if part != "__init__"))

    def finish(self) -> None:
        while self.waiting:
            for name, *arguments in self.package.read(self.waiting.pop())[1]:
                getattr(self, name)(*arguments)


class Package:
    """The parsed modules of a package: where its names lead, and each unit's body as text."""

    def __init__(self, root: Path):
        self.root = root
        self.modules: dict[str, Module | None] = {}
        self.shallow: dict[Unit, tuple[str, list[tuple]]] = {}
        self.bodies: dict[Unit, str] = {}

    def holds(self, name: str) -> bool:
        return name.partition(".")[0] == self.root.name

    def module(self, name: str) -> Module | None:
        """The module `name` of the package, parsed; None where there is none."""
        if name not in self.modules:
            place = self.root.joinpath(*name.split(".")[1:])
            path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            self.modules[name] = None
            if self.holds(name) and path.is_file():
                tree = ast.parse(path.read_text(encoding="utf-8"))
                self.modules[name] = Module(name, path.name == "__init__.py", tree)
        return self.modules[name]

    def forget(self, unit: Unit) -> None:
        self.shallow.pop(unit, None)
        self.bodies.pop(unit, None)

    def read(self, unit: Unit) -> tuple[str, list[tuple]]:
        """The body of `unit`, its references by name alone, and what has to be followed from it."""
        if unit not in self.shallow:
            self.shallow[unit] = self._text(unit, lambda units, name: name)
        return self.shallow[unit]

    def body(self, unit: Unit) -> str:
        """The body of `unit`, each reference in it by the definition that it leads to and not by a module's name."""

        def token(units: list[Unit], name: str) -> str:
            return f"{name}:{' '.join(sorted(sha256_text(self.read(own)[0]) for own in units))}"

        if unit not in self.bodies:
            self.bodies[unit] = self._text(unit, token)[0]
        return self.bodies[unit]

    def _text(self, unit: Unit, token: Callable[[list[Unit], str], str]) -> tuple[str, list[tuple]]:
        module = self.modules[unit[0]]
        reader = Canonical(self, module, token)
        node = reader.visit(copy.deepcopy(module.units[unit[1]]))
        return "" if node is None else ast.dump(node), reader.steps

    def find(self, name: str, attribute: str, tried: frozenset = frozenset()) -> tuple[str, list[Unit]]:
        """Where `attribute` of module `name` leads: a module's name and no unit, or "" and its units."""
        module = self.module(name)
        if module is None or (name, attribute) in tried:
            return "", []
        tried = tried | {(name, attribute)}
        node = module.units.get(attribute)
        statements = [node] if isinstance(node, ast.Import | ast.ImportFrom) else [] if node else module.imports
        for statement in statements:
            for (base, inner), bound in zip(sources_of(module, statement), names_of(statement), strict=True):
                if not self.holds(base):
                    continue
                if inner == "*":
                    target, units = self.find(base, attribute, tried)
                    if target or units:
                        return target, units
                elif bound == attribute:
                    if not inner:
                        return (base if statement.names[0].asname else self.root.name), []
                    target, units = self.find(base, inner, tried)
                    return (target, units) if target or units else (self._submodule(base, inner), [])
        if node is not None:
            return "", [(name, attribute)]
        if self._submodule(name, attribute):
            return self._submodule(name, attribute), []
        if "__getattr__" in module.units:
            return "", [(name, "__getattr__")]
        return "", []

    def _submodule(self, name: str, attribute: str) -> str:
        return f"{name}.{attribute}" if self.module(f"{name}.{attribute}") else ""
