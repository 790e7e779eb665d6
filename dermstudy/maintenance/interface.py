"""What a notebook may import: every public name of the package that a notebook uses, with its signature, as docs/API.md.

`python -m dermstudy.maintenance.interface` writes the page anew, and `--check` compares. Read from the sources, nothing
is imported.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from pathlib import Path

from dermstudy import workspace
from dermstudy.files import InputError, write_text

PAGE = "docs/API.md"
INTRODUCTION = """# What a notebook may import

Every name of the package that a notebook of `notebooks/` uses, by room. These keep their meaning, and take the arguments
below, until the next major version; a name that is not here may change in any. A notebook of your own is safe with these.
`python -m dermstudy.maintenance.interface` writes this page from the sources, and a test compares.
"""


def used(notebooks: list[Path], package: Path) -> dict[str, set[str]]:
    """By dotted module, the names that the notebooks' code takes from it: imported, or as attributes of the module."""
    found: dict[str, set[str]] = {}
    for notebook in notebooks:
        tree = ast.parse(_code(notebook))
        aliases = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package.name:
                for alias in node.names:
                    module = f"{node.module}.{alias.name}"
                    if _file(package, module) is not None:
                        aliases[alias.asname or alias.name] = module
                    else:
                        found.setdefault(node.module, set()).add(alias.name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
                found.setdefault(aliases[node.value.id], set()).add(node.attr)
    return found


def page(root: Path) -> str:
    """docs/API.md. InputError for a name that a notebook uses and no module has, or that is private."""
    package = root / "dermstudy"
    lines = [INTRODUCTION]
    for module, names in sorted(used(sorted((root / "notebooks").glob("*.ipynb")), package).items()):
        path = _file(package, module)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        entries = _entries(tree)
        lines += [f"## {module.removeprefix('dermstudy.')}", "", _first(ast.get_docstring(tree)), ""]
        for name in sorted(names, key=lambda name: (name.lower(), name)):
            if name not in entries or name.startswith("_"):
                raise InputError(
                    f"a notebook uses {module}.{name}, which {path.name} does not offer: mend the notebook"
                )
            lines.append(entries[name])
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dermstudy.maintenance.interface", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where the page is not today's")
    options = parser.parse_args(arguments)
    try:
        root = workspace.project_root()
        text = page(root)
    except InputError as error:
        print(f"dermstudy: {error}", file=sys.stderr)
        return 2
    if not options.check:
        print(workspace.shown(write_text(root / PAGE, text)))
    return int(options.check and (root / PAGE).read_text(encoding="utf-8") != text)


def _code(notebook: Path) -> str:
    """A notebook's code cells as one module, without the lines that only a notebook understands."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)


def _file(package: Path, module: str) -> Path | None:
    """The file of a dotted module of the package; None where there is none."""
    stem = package.parent.joinpath(*module.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def _entries(tree: ast.Module) -> dict[str, str]:
    """One Markdown line for each public name that a module defines, or takes from another module."""
    entries = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            entries[node.name] = f"- `{node.name}({_arguments(node)})`: {_first(ast.get_docstring(node))}"
        elif isinstance(node, ast.ClassDef):
            entries[node.name] = f"- `{node.name}`: {_first(ast.get_docstring(node))}"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(name, ast.Name):
                        entries[name.id] = f"- `{name.id}`: a constant"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                entries[alias.asname or alias.name] = f"- `{alias.asname or alias.name}`: from `{node.module}`"
    return entries


def _arguments(node: ast.FunctionDef) -> str:
    """A function's arguments with their defaults, without types."""
    arguments = ast.parse(f"def f({ast.unparse(node.args)}): pass").body[0].args
    for part in ast.walk(arguments):
        if isinstance(part, ast.arg):
            part.annotation = None
    return ast.unparse(arguments).replace("|", "\\|")


def _first(docstring: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join((docstring or "").split("\n\n")[0].split())
    sentence = paragraph.split(". ")[0].rstrip(".")
    return f"{sentence}." if sentence else ""


if __name__ == "__main__":
    sys.exit(main())
