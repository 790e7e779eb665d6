"""The one import rule of ARCHITECTURE.md: a room imports only from rooms below it, whichever way it imports."""

from __future__ import annotations

import ast
import json
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "dermstudy"
GROUND = (
    "files entities processor tensorflow_setup pretrained figures training_curves intervals workspace serving".split()
)
ROOMS = "published data phantom diffusion evaluation readers classification adaptation runner web maintenance".split()
TOP = ["cli", "__main__"]
LONGEST_MODULE, LONGEST_FUNCTION = 370, 60
# Functions that grew before the bound and are rewritten with what they do.


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(name: str, source: str, known: set[str], is_package: bool) -> set[str]:
    """The dermstudy modules that `source` imports anywhere in it: lazily, relatively, by name or by string."""
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
    return {module for module in found if module in known and module not in (name, "dermstudy")}


def floor(module: str) -> int:
    """The floor of a module: the ground is one, each room has its own, the command line is on top."""
    room = module.split(".")[1]
    return {**dict.fromkeys(GROUND, 0), **{r: i for i, r in enumerate(ROOMS, 1)}, **dict.fromkeys(TOP, 99)}[room]


def faults(name: str, source: str, known: set[str], is_package: bool = False) -> list[str]:
    """The imports of one module that climb, or that go to another room of its floor."""
    return [
        f"{name} imports {other}"
        for other in sorted(imported(name, source, known, is_package))
        if floor(other) > floor(name) or (floor(other) == floor(name) == 99 and name != "dermstudy.__main__")
    ]


def test_every_module_has_a_floor():
    for name in modules():
        if name != "dermstudy":
            floor(name)


def test_imports_go_downward_only():
    known = set(modules())
    found = []
    for name, path in modules().items():
        if name == "dermstudy":
            assert not imported(name, path.read_text(), known, True)
            continue
        found += faults(name, path.read_text(), known, path.name == "__init__.py")
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
        "from dermstudy.runner import study",
        "import dermstudy.web.app",
        "def f():\n    from dermstudy.web import app",
        "from ..runner.study import run",
        "from ..runner import study as data",
        "import importlib\nimportlib.import_module('dermstudy.runner.study')",
    ],
)
def test_the_rule_sees_an_import_that_climbs(line):
    known = set(modules())
    assert faults("dermstudy.data.dataset", line, known)
    assert not faults("dermstudy.cli", line, known)


def test_the_rule_sees_a_climbing_re_export():
    assert faults("dermstudy.data", "from ..web.app import serve", set(modules()), is_package=True)


def test_the_runner_knows_no_stage():
    """It runs notebooks by name; what the walk computes is no part of running it, but for its tables of findings."""
    known = set(modules())
    for name in ("study", "profiles", "progress", "parallel", "fingerprints", "executed", "provenance"):
        path = PACKAGE / "runner" / f"{name}.py"
        for other in imported(f"dermstudy.runner.{name}", path.read_text(), known, False):
            assert other.split(".")[1] in {"runner", *GROUND}, (name, other)


def test_no_notebook_imports_a_maintainers_room():
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(notebook.read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        assert not [
            m for m in imported("notebook", code, set(modules()), False) if floor(m) >= floor("dermstudy.runner")
        ]


def test_modules_and_functions_stay_short():
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text()
        name = str(path.relative_to(PACKAGE))
        assert source.count("\n") <= LONGEST_MODULE or name.startswith("maintenance/"), name
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < LONGEST_FUNCTION, (name, node.name)


def test_the_page_names_every_room():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    assert page.count("\n") <= 60
    for room in [*GROUND, *ROOMS]:
        assert f"{room}" in page, room
