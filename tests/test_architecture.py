"""The import rules of ARCHITECTURE.md, and the sizes that the helper and its notebooks keep."""

from __future__ import annotations

import ast
import json
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

HELPER, COMMANDS = "dermstudy", "dermstudy_commands"
ROOMS = "published data diffusion evaluation readers classification adaptation".split()  # from the ground up
LONGEST_MODULE, LONGEST_FUNCTION = 370, 60


def modules() -> dict[str, Path]:
    """Every module of both packages by its dotted name."""
    names = {}
    for path in sorted(ROOT.glob("dermstudy*/**/*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(name: str, source: str, known: set[str], is_package: bool) -> set[str]:
    """The modules of this project that `source` imports anywhere in it: lazily, relatively, by name or by string."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if is_package else name.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            found |= {
                part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
    return {module for module in found if module in known and module not in (name, HELPER)}


def floor(module: str) -> int:
    """How high a module stands: single modules of the helper, its rooms in their order, the commands."""
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    return len(ROOMS) + 1 if package == COMMANDS else ROOMS.index(room) + 1 if room in ROOMS else 0


def faults(name: str, source: str, known: set[str], is_package: bool = False) -> list[str]:
    """The imports of one module that climb."""
    return [f"{name} imports {m}" for m in sorted(imported(name, source, known, is_package)) if floor(m) > floor(name)]


def test_imports_go_downward_only():
    known = set(modules())
    found = [
        fault
        for name, path in modules().items()
        if name != "dermstudy.__main__"  # python -m dermstudy is the command line
        for fault in faults(name, path.read_text(), known, path.name == "__init__.py")
    ]
    assert not found


def test_no_modules_import_each_other_in_a_circle():
    known = set(modules())
    graph = {n: imported(n, p.read_text(), known, p.name == "__init__.py") for n, p in modules().items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    "line",
    [
        "from dermstudy.adaptation import teaching",
        "import dermstudy_commands.web.app",
        "def f():\n    from dermstudy_commands.web import app",
        "from ..adaptation.teaching import run",
        "from ..adaptation import teaching as data",
        "import importlib\nimportlib.import_module('dermstudy_commands.runner.study')",
    ],
)
def test_the_rule_sees_an_import_that_climbs(line):
    known = set(modules())
    assert faults("dermstudy.data.dataset", line, known)
    assert not faults("dermstudy_commands.cli", line, known)


def test_no_notebook_imports_the_commands():
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(notebook.read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        found = imported("notebook", code, set(modules()), False)
        assert not [m for m in found if m.startswith(COMMANDS)], notebook.name


def test_modules_and_functions_stay_short():
    for name, path in modules().items():
        source = path.read_text()
        assert source.count("\n") <= LONGEST_MODULE or ".maintenance." in name, name
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < LONGEST_FUNCTION, (name, node.name)


def test_the_page_names_every_room():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    assert page.count("\n") <= 60
    rooms = {name.split(".")[1] for name in modules() if name.count(".") == 1}
    assert not [room for room in rooms if room not in page]


# Lines of Python, to go down only: the aims are 7,500, 6,000 and 8,500.
MOST_LINES = {"dermstudy": 13_785, "dermstudy_commands": 8_560, "tests": 13_655}


@pytest.mark.parametrize("folder", MOST_LINES)
def test_the_code_does_not_grow(folder):
    lines = sum(path.read_text().count("\n") for path in (ROOT / folder).rglob("*.py"))
    assert lines <= MOST_LINES[folder]
