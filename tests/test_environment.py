"""pyproject.toml, the locks, the Makefile and environment.yml name the same packages, versions and Pythons."""

from __future__ import annotations

import ast
import importlib.metadata
import platform
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TENSORFLOW = "tensorflow-cpu" if sys.platform == "linux" and platform.machine() == "x86_64" else "tensorflow"
LOCKS = ["requirements.lock", "requirements-test.lock", "requirements-gpu.lock", "requirements-lint.lock"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(*names: str) -> dict[str, str]:
    """The versions that the locks of these `names` (of all where none is given) pin for this Python and platform."""
    pins = {}
    for name in names or LOCKS:
        lines = [line for line in (ROOT / name).read_text().splitlines() if line and line[0] not in " #"]
        requirements = [Requirement(line.removesuffix(" \\")) for line in lines]
        here = [r for r in requirements if r.marker is None or r.marker.evaluate()]
        pins |= {canonical(r.name): str(r.specifier).removeprefix("==") for r in here}
    return pins


def declared(*groups: str) -> set[str]:
    """What pyproject.toml asks for on this Python and platform: to run, and for these optional `groups`."""
    project = PYPROJECT["project"]
    optional = project["optional-dependencies"] | PYPROJECT["dependency-groups"]
    requirements = [
        Requirement(text) for names in [project["dependencies"], *map(optional.get, groups)] for text in names
    ]
    return {canonical(r.name) for r in requirements if r.marker is None or r.marker.evaluate()}


def test_the_locks_pin_every_declared_package_and_are_installed():
    pins = locked("requirements.lock", "requirements-test.lock")
    assert declared("test", "workflow") <= set(pins) and declared() <= set(locked("requirements.lock"))
    assert declared("gpu") <= set(locked())
    assert all(re.fullmatch(r"[0-9][\w.+!]*", version) for version in locked().values())
    for name in declared("test", "workflow"):
        assert importlib.metadata.version(name) == pins[name], name


def test_the_locks_agree_and_the_tests_tools_are_in_their_own():
    for name in LOCKS:
        there = locked(name)
        assert there and all(locked()[package] == version for package, version in there.items()), name
    tools = locked("requirements-test.lock")
    assert not set(tools) & set(locked("requirements.lock"))
    assert {"pytest", "ruff", "nbstripout", "snakemake", "playwright"} <= set(tools)
    assert declared("lint") - declared() <= set(locked("requirements-lint.lock")) <= set(locked())


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_hashes_and_names_no_registry_and_no_address(name):
    text = (ROOT / name).read_text()
    assert "://" not in text and set(re.findall(r"--\S+?\b(?=[= ])", text)) == {"--hash"}
    entries = re.split(r"(?m)^(?=\w)", text)[1:]
    assert entries and all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry) for entry in entries)


def test_the_locks_leave_out_only_what_nothing_imports():
    """Installed without resolving: every requirement of a locked package is locked too, but the ones named in the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    named = {name: set(re.search(rf"^{name} := (.+)$", makefile, re.M)[1].split()) for name in ("UNASKED", "GPU")}
    pins = locked("requirements.lock", "requirements-test.lock")
    left = set()
    for name, version in pins.items():
        distribution = importlib.metadata.distribution(name)
        for text in distribution.requires or []:
            asked = Requirement(text)
            if asked.marker is None or asked.marker.evaluate({"extra": ""}):
                if (asked_name := canonical(asked.name)) not in pins:
                    left.add(asked_name)
                else:
                    assert asked.specifier.contains(pins[asked_name], prereleases=True), f"{name} {version}: {text}"
    assert left <= named["UNASKED"] | named["GPU"]
    assert named["GPU"] == set(locked("requirements-gpu.lock"))
    assert not (named["UNASKED"] | named["GPU"]) & set(pins)


def test_every_import_is_declared():
    # The package, the tests' own modules, and what a user names a copy of.
    own = {"dermstudy", "dermstudy_commands", *(path.stem for path in (ROOT / "tests").glob("*.py")), "glide_text2im"}
    names = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml", "bs4": "beautifulsoup4",
             "imagehash": "imagehash", "torch_fidelity": "torch-fidelity",
             "tensorflow": TENSORFLOW}  # fmt: skip
    declared_names = declared("test")
    for path in [*ROOT.glob("dermstudy*/**/*.py"), *(ROOT / "tests").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in modules:
                top = module.split(".")[0]
                if top not in own and top not in sys.stdlib_module_names:
                    assert canonical(names.get(top, top)) in declared_names, f"{path.name} imports {module}"


@pytest.mark.slow
def test_tensorflow_may_be_imported_before_torch():
    code = "from dermstudy.tensorflow_setup import import_keras; import_keras(); import dermstudy.diffusion.glide"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
