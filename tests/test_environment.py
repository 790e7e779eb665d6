"""environment.yml, pyproject.toml and requirements.lock name the same packages and versions."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMMIT = "69b530740eb6cef69442d6180579ef5ba9ef063e"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] not in " #"]
    requirements = [Requirement(line) for line in lines]
    here = [r for r in requirements if r.marker is None or r.marker.evaluate()]
    return {canonical(r.name): str(r.specifier).removeprefix("==") for r in here}


def declared() -> set[str]:
    project = PYPROJECT["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return {canonical(Requirement(text).name) for names in lists for text in names}


def test_the_lock_pins_every_declared_package_and_is_installed():
    pins = locked()
    assert declared() <= set(pins)
    assert all(re.fullmatch(r"[0-9][\w.+!]*", version) for version in pins.values())
    for name in declared():
        assert importlib.metadata.version(name) == pins[name], name


def test_the_lock_names_no_registry_and_no_address():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text and "--" not in text


def test_environment_yml_installs_the_lock_and_upstream_at_its_commit():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    assert python == "python=3.11" and PYPROJECT["project"]["requires-python"] == "==3.11.*"
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert "--requirement requirements.lock" in pip
    assert [entry for entry in pip if entry.endswith(f"glide-text2im.git@{COMMIT}")]
    assert not any("glide" in name for name in locked())


def test_every_import_is_declared():
    # The package, the tests' own modules, and what a user names a copy of.
    own = {"dermstudy", *(path.stem for path in (ROOT / "tests").glob("*.py")), "glide_text2im"}
    names = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml", "bs4": "beautifulsoup4",
             "imagehash": "imagehash", "torch_fidelity": "torch-fidelity"}  # fmt: skip
    declared_names = declared()
    for path in [*(ROOT / "dermstudy").rglob("*.py"), *(ROOT / "tests").glob("*.py")]:
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
