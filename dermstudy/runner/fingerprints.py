"""What a notebook's results depend on, by meaning: the code that it reaches, parameters, data, weights, locked versions.

Code is parsed, and followed from the notebook definition by definition; comments, docstrings, blank lines, formatting
and whatever it does not reach make no difference, nor does where a module lies or what it is called.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dermstudy.files import InputError, sha256_file, sha256_text
from dermstudy.runner.profiles import declared_parameters, notebooks, read_notebook
from dermstudy.workspace import from_root, project_root, shown

# Decorators that do nothing when a module is imported but wrap what they stand above; others may enter it somewhere.
WRAPPERS = {"dataclass", "contextmanager", "cache", "lru_cache", "wraps", "no_grad", "inference_mode", "overload"}
NAMED_OTHERWISE = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml"}
Unit = tuple[str, str]  # a module and the name of a definition in it, or of what runs whenever it is imported
LOOSE = ""  # the statements of a module that define nothing, in their order
MAIN = ""  # the notebook among the modules


def source_hash(notebook: Path) -> str:
    """SHA-256 of the meaning of a notebook's code, its parameters' defaults among it; prose left out."""
    return sha256_text("\n".join(_meaning(notebook, "\n".join(_code(notebook)))))


def dependencies(notebook: Path) -> list[str]:
    """The notebooks whose artifacts this one reads, from its `made_by=` arguments."""
    return sorted(set(re.findall(r"made_by\s*=\s*[\"'](\w+)[\"']", "\n".join(_code(notebook)))))


def fingerprints(parameters: dict[str, dict], data: str) -> dict[str, str]:
    """One hash a notebook: the meaning of its code, its parameters, data, weights, and what it depends on in turn.

    parameters: what each notebook is given beyond its defaults, by stem; data: as data_token has it.
    """
    prints: dict[str, str] = {}
    seen: dict[str, str] = {}
    for notebook in notebooks():
        own = declared_parameters(notebook) | parameters[notebook.stem]
        named = {name: value for name, value in own.items() if name not in ("RESULTS", "DATA")}
        parts = _meaning(notebook, "\n".join(_code(notebook, parameters=False)))
        parts += [json.dumps(named, sort_keys=True), weights_hash(named, seen)]
        if "DATA" in own:
            parts.append(data)
        parts += [prints[stem] for stem in dependencies(notebook) if stem in prints]
        prints[notebook.stem] = sha256_text("\n".join(parts))
    return prints


def data_token(data: str | None) -> str:
    """What lies in a data folder, by its bytes (seconds for HAM10000, read once a run); or the word itself."""
    if not data or not from_root(data).is_dir():
        return str(data)
    rows = []
    for folder, _, names in sorted(os.walk(from_root(data), followlinks=True)):
        paths = [Path(folder, name) for name in sorted(names)]
        rows += [f"{path.relative_to(from_root(data))} {sha256_file(path)}" for path in paths]
    return sha256_text("\n".join(rows))


def weights_hash(parameters: dict, seen: dict[str, str] | None = None) -> str:
    """One hash of the bytes at every path that `parameters` name: weights, a split, another run's images.

    seen: the hashes of paths read before, which spares reading them for each notebook.
    """
    seen, rows = {} if seen is None else seen, []
    for name, value in sorted(parameters.items()):
        path = from_root(value) if isinstance(value, str) and "/" in value else None
        if path is None or not path.exists():
            continue
        if value not in seen:
            files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
            seen[value] = sha256_text(" ".join(f"{file.relative_to(path)} {sha256_file(file)}" for file in files))
        rows.append(f"{name} {seen[value]}")
    return sha256_text("\n".join(rows))


def older(results: Path) -> list[str]:
    """The notebooks of a results folder that other code, other versions or other parameters made than those of today.

    InputError where the folder has no manifest, or its profile is no more.
    """
    from dermstudy.runner.profiles import load_profile, resolve

    notes = manifest(results)
    sources = {notebook.stem: notebook for notebook in notebooks()}
    given = resolve(load_profile(notes["profile"]), str(results))
    stale = []
    for stem, entry in sorted(notes["notebooks"].items()):
        if stem not in sources or entry["source"] != source_hash(sources[stem]):
            stale.append(stem)
            continue
        today = declared_parameters(sources[stem]) | given[stem]
        if any(entry["parameters"].get(name) != today[name] for name in today if name not in ("RESULTS", "DATA")):
            stale.append(stem)
    return stale


def manifest(results: Path) -> dict:
    """The manifest of a results folder; InputError where it has none that can be read."""
    path = results / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(path)} is no manifest of a run: name a folder that 'dermstudy run' wrote") from error


def _code(notebook: Path, parameters: bool = True) -> list[str]:
    """The code cells; without the one tagged `parameters` where that is not wanted."""
    cells = [cell for cell in read_notebook(notebook).cells if cell.cell_type == "code"]
    return [cell.source for cell in cells if parameters or "parameters" not in cell.metadata.get("tags", [])]


def _meaning(notebook: Path, code: str) -> list[str]:
    """What `code` does, as parsed bodies in a fixed order, and the versions of the packages that it takes."""
    package = sys.modules[__name__.partition(".")[0]]
    try:
        bodies, packages = reached(code, Path(package.__file__).parent)
    except SyntaxError as error:
        raise InputError(f"{shown(notebook)} cannot be parsed: {error}") from error
    return bodies + locked_versions(packages, project_root() / "requirements.lock")


# Versions


def locked_versions(packages: set[str], lock: Path) -> list[str]:
    """`name==version` of the distributions that hold the imported `packages`, as `lock` pins them."""
    pins: dict[str, list[str]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines() if lock.is_file() else []:
        found = re.match(r"([\w.-]+)==([^\s;]+)", line)
        if found:
            pins.setdefault(_distribution(found[1]), []).append(found[2])
    names = set()
    for package in packages:
        own = _distribution(NAMED_OTHERWISE.get(package, package))
        names |= {own} if own in pins else set(map(_distribution, _distributions().get(package, [package])))
    return sorted(f"{name}=={' '.join(sorted(pins.get(name, ['unlocked'])))}" for name in names)


@functools.cache
def _distributions() -> dict[str, list[str]]:
    """Every installed distribution by the packages in it; seconds, so it is asked last."""
    return dict(importlib.metadata.packages_distributions())


def _distribution(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# Reach: which definitions of a package some code comes to


def reached(code: str, root: Path) -> tuple[list[str], set[str]]:
    """The parsed bodies that `code` reaches in the package at `root`, sorted, its own among them; the other packages.

    A name, an attribute of a module, a relative or lazy import and a package's re-export are each followed to the
    definition; a class is taken whole, and a module that is handled as a value, or got at by star, too. Statements that
    define nothing, calls of assignments and unknown decorators run on import, and count in every module that is loaded.
    Raises SyntaxError.
    """
    files = sorted(Path(root).rglob("*.py"))
    package = _parsed(Path(root), tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))
    package.modules[MAIN] = _Module(MAIN, True, ast.parse(code), whole=True)
    package.forget((MAIN, LOOSE))
    walk = _Walk(package)
    walk.reach((MAIN, LOOSE))
    for statement in package.modules[MAIN].imports:
        walk.take(package.modules[MAIN], statement)
    walk.finish()
    return sorted({package.body(unit) for unit in walk.found} - {""}), walk.packages


@functools.lru_cache(maxsize=4)
def _parsed(root: Path, files: tuple) -> _Package:
    """The package at `root`, kept from one notebook to the next while its files stay as they are."""
    return _Package(root)


@dataclass
class _Module:
    """One parsed module: its definitions by name, what runs on import, and what its imports bind."""

    name: str
    is_package: bool
    tree: ast.Module
    whole: bool = False  # a notebook: one body, in its order
    units: dict[str, ast.AST] = field(default_factory=dict)
    on_import: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.imports = list(_imports(self.tree))
        if self.whole:
            self.units[LOOSE] = self.tree
            return
        loose, names = [], [name for statement in self.tree.body for name in _bound([statement])]
        for statement in self.tree.body:
            own = list(_bound([statement]))
            once = len(own) == 1 and names.count(own[0]) == 1
            if isinstance(statement, ast.Import | ast.ImportFrom):
                for alias in statement.names:  # one unit a name, so that an unused import makes no difference
                    single = copy.copy(statement)
                    single.names = [alias]
                    self.units.setdefault((alias.asname or alias.name).partition(".")[0], single)
            elif once and isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.units[own[0]] = statement
                if any(_last_name(decorator) not in WRAPPERS for decorator in statement.decorator_list):
                    self.on_import.add(own[0])
            elif once and isinstance(statement, ast.Assign | ast.AnnAssign) and _plain_target(statement):
                self.units[own[0]] = statement
                if any(isinstance(node, ast.Call) for node in ast.walk(statement)):
                    self.on_import.add(own[0])
            elif not _is_main_guard(statement):
                loose.append(statement)
        if loose:
            self.units[LOOSE] = ast.Module(body=loose, type_ignores=[])
            self.on_import.add(LOOSE)


class _Walk:
    """Follows references from unit to unit until none is new."""

    def __init__(self, package: _Package):
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

    def take(self, module: _Module, statement: ast.Import | ast.ImportFrom) -> None:
        """Load, or note as another package, what an import statement in `module` names."""
        for base, attribute in _sources(module, statement):
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


class _Package:
    """The parsed modules of a package: where its names lead, and each unit's body as text."""

    def __init__(self, root: Path):
        self.root = root
        self.modules: dict[str, _Module | None] = {}
        self.shallow: dict[Unit, tuple[str, list[tuple]]] = {}
        self.bodies: dict[Unit, str] = {}

    def holds(self, name: str) -> bool:
        return name.partition(".")[0] == self.root.name

    def module(self, name: str) -> _Module | None:
        """The module `name` of the package, parsed; None where there is none."""
        if name not in self.modules:
            place = self.root.joinpath(*name.split(".")[1:])
            path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            self.modules[name] = None
            if self.holds(name) and path.is_file():
                tree = ast.parse(path.read_text(encoding="utf-8"))
                self.modules[name] = _Module(name, path.name == "__init__.py", tree)
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
        reader = _Canonical(self, module, token)
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
            for (base, inner), bound in zip(_sources(module, statement), _names(statement), strict=True):
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


class _Canonical(ast.NodeTransformer):
    """Code without docstrings and imports of the package, its references named by `token`."""

    def __init__(self, package: _Package, module: _Module, token: Callable[[list[Unit], str], str]):
        self.package, self.module, self.token = package, module, token
        self.steps: list[tuple] = []  # methods of _Walk and their arguments
        self.scopes: list[dict[str, tuple[str, str] | None]] = []

    def _resolve(self, name: str) -> tuple[str, list[Unit], str]:
        """Where a plain name leads: a module, or units and the name of their definition; nothing for a local one."""
        for scope in reversed(self.scopes):
            if name in scope:
                if scope[name] is None:
                    return "", [], name
                base, inner = scope[name]
                target, units = self.package.find(base, inner) if inner else (base, [])
                return target, units, inner or name
        if self.module.whole:
            for statement in self.module.imports:
                for (base, inner), bound in zip(_sources(self.module, statement), _names(statement), strict=True):
                    if bound == name and self.package.holds(base):
                        if not inner:
                            return (base if statement.names[0].asname else self.package.root.name), [], name
                        return *self.package.find(base, inner), inner
            return "", [], name
        target, units = self.package.find(self.module.name, name)
        return target, units, units[0][1] if units else name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if not isinstance(node.ctx, ast.Load):
            return node
        target, units, name = self._resolve(node.id)
        if target:
            self.steps.append(("all_of", target))
            return ast.Name(id="a module", ctx=node.ctx)
        return self._named(units, name, node.ctx) if units else node

    def _named(self, units: list[Unit], name: str, context: ast.expr_context) -> ast.Name:
        self.steps.append(("follow", units))
        return ast.Name(id=self.token(units, name), ctx=context)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        chain, base = [], node
        while isinstance(base, ast.Attribute):
            chain.insert(0, base)
            base = base.value
        target = self._resolve(base.id)[0] if isinstance(base, ast.Name) and isinstance(base.ctx, ast.Load) else ""
        if not target:
            return self.generic_visit(node)
        for place, link in enumerate(chain):
            inner, units = self.package.find(target, link.attr)
            if inner:
                target = inner
                continue
            name = units[0][1] if len(units) == 1 and units[0][1] != "__getattr__" else link.attr
            if not units:  # bound by a loose statement, or not at all
                self.steps.append(("load", target))
            value: ast.AST = self._named(units, name, ast.Load())
            for rest in chain[place + 1 :]:
                value = ast.Attribute(value=value, attr=rest.attr, ctx=rest.ctx)
            return value
        self.steps.append(("all_of", target))
        return ast.Name(id="a module", ctx=ast.Load())

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _last_name(node.func) in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            name = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""
            if not name or name.startswith("."):
                self.steps.append(("everything",))
            elif self.package.holds(name):
                self.steps.append(("all_of", name))
                node.args[0] = ast.Constant("a module")
            else:
                self.steps.append(("other", name))
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> ast.AST | None:
        self.steps.append(("take", self.module, copy.copy(node)))
        names = [
            alias
            for alias, (base, _) in zip(node.names, _sources(self.module, node), strict=True)
            if not self.package.holds(base) and base != "__future__"
        ]
        node.names = names
        return node if names else None

    visit_Import = visit_ImportFrom = _import

    def _function(self, node) -> ast.AST:
        decorators = [self.visit(decorator) for decorator in getattr(node, "decorator_list", [])]
        body = node.body if isinstance(node.body, list) else [node.body]
        scope: dict[str, tuple[str, str] | None] = dict.fromkeys(_bound(body))
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                scope[argument.arg] = None
        for statement in body:
            for own in _imports(statement):
                for (base, inner), bound in zip(_sources(self.module, own), _names(own), strict=True):
                    if self.package.holds(base):
                        named = inner or isinstance(own, ast.Import) and own.names[0].asname
                        scope[bound] = (base, inner) if named else (self.package.root.name, "")
        for declared in (inner for statement in body for inner in ast.walk(statement)):
            if isinstance(declared, ast.Global):
                for name in declared.names:
                    scope.pop(name, None)
        node.args = self.visit(node.args)
        if getattr(node, "returns", None):
            node.returns = self.visit(node.returns)
        self.scopes.append(scope)
        if isinstance(node.body, list):
            kept = [self.visit(statement) for statement in node.body]
            node.body = [statement for statement in kept if statement is not None] or [ast.Pass()]
        else:
            node.body = self.visit(node.body)
        self.scopes.pop()
        if decorators:
            node.decorator_list = decorators
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _function

    def _comprehension(self, node) -> ast.AST:
        targets = [name for part in node.generators for name in _bound([part.target])]
        self.scopes.append(dict.fromkeys(targets))
        node = self.generic_visit(node)
        self.scopes.pop()
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def generic_visit(self, node: ast.AST) -> ast.AST:
        node = super().generic_visit(node)
        if hasattr(node, "body") and node.body == []:
            node.body = [ast.Pass()]
        return node


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements in `node`, those of nested functions left out."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _imports(child)


def _sources(module: _Module, statement: ast.Import | ast.ImportFrom) -> list[tuple[str, str]]:
    """For each name of an import statement the module that it comes from and the attribute there, "" for the module."""
    if isinstance(statement, ast.Import):
        return [(alias.name, "") for alias in statement.names]
    base = statement.module or ""
    if statement.level:
        parts = module.name.split(".")
        kept = parts[: len(parts) - statement.level + module.is_package]
        base = ".".join([*kept, *([base] if base else [])])
    return [(base, alias.name) for alias in statement.names]


def _names(statement: ast.Import | ast.ImportFrom) -> list[str]:
    return [(alias.asname or alias.name).partition(".")[0] for alias in statement.names]


def _bound(nodes: list[ast.AST]) -> Iterator[str]:
    """The names that `nodes` bind where they stand, not those inside of nested functions and classes."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from _names(node)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store | ast.Del):
                yield node.id
        elif not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            if isinstance(node, ast.ExceptHandler) and node.name:
                yield node.name
            yield from _bound(list(ast.iter_child_nodes(node)))


def _plain_target(statement: ast.Assign | ast.AnnAssign) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return len(targets) == 1 and isinstance(targets[0], ast.Name) and statement.value is not None


def _last_name(node: ast.AST) -> str:
    """`b` for `b`, `a.b` and `a.b(...)`."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'"
