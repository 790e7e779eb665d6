"""One definition's code in the form that counts: without docstrings, formatting and names of modules."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator

Unit = tuple[str, str]  # a module and the name of a definition in it, or of what runs whenever it is imported


class Canonical(ast.NodeTransformer):
    """Code without docstrings and imports of the package, its references named by `token`."""

    def __init__(self, package, module, token: Callable[[list[Unit], str], str]):
        self.package, self.module, self.token = package, module, token
        self.steps: list[tuple] = []  # methods of Walk and their arguments
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
                for (base, inner), bound in zip(sources_of(self.module, statement), names_of(statement), strict=True):
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
        if last_name(node.func) in ("import_module", "__import__"):
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
            for alias, (base, _) in zip(node.names, sources_of(self.module, node), strict=True)
            if not self.package.holds(base) and base != "__future__"
        ]
        node.names = names
        return node if names else None

    visit_Import = visit_ImportFrom = _import

    def _function(self, node) -> ast.AST:
        decorators = [self.visit(decorator) for decorator in getattr(node, "decorator_list", [])]
        body = node.body if isinstance(node.body, list) else [node.body]
        scope: dict[str, tuple[str, str] | None] = dict.fromkeys(bound_by(body))
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                scope[argument.arg] = None
        for statement in body:
            for own in imports_in(statement):
                for (base, inner), bound in zip(sources_of(self.module, own), names_of(own), strict=True):
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
        targets = [name for part in node.generators for name in bound_by([part.target])]
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


def imports_in(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements in `node`, those of nested functions left out."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from imports_in(child)


def sources_of(module, statement: ast.Import | ast.ImportFrom) -> list[tuple[str, str]]:
    """For each name of an import statement the module that it comes from and the attribute there, "" for the module."""
    if isinstance(statement, ast.Import):
        return [(alias.name, "") for alias in statement.names]
    base = statement.module or ""
    if statement.level:
        parts = module.name.split(".")
        kept = parts[: len(parts) - statement.level + module.is_package]
        base = ".".join([*kept, *([base] if base else [])])
    return [(base, alias.name) for alias in statement.names]


def names_of(statement: ast.Import | ast.ImportFrom) -> list[str]:
    return [(alias.asname or alias.name).partition(".")[0] for alias in statement.names]


def bound_by(nodes: list[ast.AST]) -> Iterator[str]:
    """The names that `nodes` bind where they stand, not those inside of nested functions and classes."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from names_of(node)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store | ast.Del):
                yield node.id
        elif not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            if isinstance(node, ast.ExceptHandler) and node.name:
                yield node.name
            yield from bound_by(list(ast.iter_child_nodes(node)))


def plain_target(statement: ast.Assign | ast.AnnAssign) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return len(targets) == 1 and isinstance(targets[0], ast.Name) and statement.value is not None


def last_name(node: ast.AST) -> str:
    """`b` for `b`, `a.b` and `a.b(...)`."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'"
