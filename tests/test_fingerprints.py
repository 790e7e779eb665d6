"""Fingerprints of meaning: what makes a result old, and what does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

from dermstudy.files import InputError
from dermstudy.runner import fingerprints

NOTEBOOK = """
from study import figures
from study.data import cohort as cohorts, fractions

table = cohorts.load("folder", fractions())
figures.draw(table)
"""
PACKAGE = {
    "__init__.py": '"""The study."""',
    "data/__init__.py": "from .splits import shares as fractions\n",
    "data/splits.py": "import numpy as np\nSHARES = (0.7, 0.3)\n\ndef shares():\n    return np.array(SHARES)\n\n"
    "def unused():\n    return 1\n",
    "data/cohort.py": "from . import words\nfrom ..figures import WIDTH as width\n\ndef load(folder, shares):\n"
    "    return words.split(folder), shares, width\n",
    "data/words.py": "def split(text):\n    return text.split()\n\ndef join(text):\n    return ' '.join(text)\n",
    "figures.py": "WIDTH = 3\n\ndef draw(table):\n    from .late import paint\n\n    return paint(table)\n",
    "late.py": "import PIL\n\nclass Brush:\n    def stroke(self):\n        return PIL.Image\n\n\ndef paint(table):\n"
    "    return Brush().stroke()\n",
    "alone.py": "import torch\n\ndef nothing():\n    return torch\n",
}  # fmt: skip


def written(root: Path, package: dict[str, str]) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    for name, text in package.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def meaning(tmp_path):
    """What NOTEBOOK means with some files of PACKAGE changed: parsed bodies and other packages."""
    places = iter(range(100))

    def of(changes: dict[str, str] | None = None, notebook: str = NOTEBOOK):
        return fingerprints.reached(
            notebook, written(tmp_path / str(next(places)) / "study", PACKAGE | (changes or {}))
        )

    return of


def test_only_what_is_reached_counts(meaning):
    bodies, packages = meaning()
    text = "\n".join(bodies)
    assert packages == {"numpy", "PIL"}
    for name in ("load", "shares", "SHARES", "split", "WIDTH", "draw", "paint", "Brush"):
        assert f"'{name}'" in text, name
    for name in ("unused", "join", "nothing"):
        assert f"'{name}'" not in text, name


@pytest.mark.parametrize(
    "changes",
    [
        {"data/words.py": '"""Words."""\n\n\ndef split(text):\n    """The words."""\n    # a blank parts them\n    return (\n'
         "        text.split()\n    )\n"},
        {"data/words.py": PACKAGE["data/words.py"].replace("' '.join(text)", "''.join(text)")},
        {"data/splits.py": PACKAGE["data/splits.py"].replace("return 1", "return 2")},
        {"alone.py": "import torch\n\ndef nothing():\n    return torch.nn\n", "more.py": "import keras\n"},
        {"data/splits.py": PACKAGE["data/splits.py"] + "\nif __name__ == '__main__':\n    print(unused())\n"},
    ],
    ids=["comments and formatting", "a function beside", "another beside", "a module beside", "a command"],
)  # fmt: skip
def test_what_has_no_meaning_changes_nothing(meaning, changes):
    assert meaning(changes) == meaning()


@pytest.mark.parametrize(
    "changes",
    [
        {"data/words.py": PACKAGE["data/words.py"].replace("text.split()", "text.split(',')")},
        {"data/splits.py": PACKAGE["data/splits.py"].replace("0.7", "0.8")},
        {"figures.py": PACKAGE["figures.py"].replace("WIDTH = 3", "WIDTH = 4")},
        {"late.py": PACKAGE["late.py"].replace("PIL.Image", "PIL.ImageDraw")},
        {"data/__init__.py": PACKAGE["data/__init__.py"] + "import warnings\nwarnings.simplefilter('ignore')\n"},
        {"data/cohort.py": PACKAGE["data/cohort.py"].replace("words.split", "words.join")},
        {"data/splits.py": PACKAGE["data/splits.py"].replace("import numpy as np", "import torch as np")},
        {"data/splits.py": PACKAGE["data/splits.py"] + "\nprint(unused())\n"},
        {"data/splits.py": PACKAGE["data/splits.py"] + "\nKEPT = unused()\n"},
        {"data/splits.py": PACKAGE["data/splits.py"] + "\nSHARES = (0.5, 0.5)\n"},
        {"data/words.py": PACKAGE["data/words.py"].replace("def split", "@registered\ndef split")},
    ],
    ids=["relative import", "constant", "a name as another", "lazy import", "package's own", "another of the module",
         "another package", "on import", "a call on import", "bound twice", "decorated"],
)  # fmt: skip
def test_what_has_meaning_changes_it(meaning, changes):
    assert meaning(changes)[0] != meaning()[0]


def test_the_same_names_for_swapped_functions_are_another_meaning(meaning):
    calls = "from study.data import words\nfirst, second = words.{}('a b'), words.{}('c d')\n"
    texts = [
        calls.format("split", "join"),
        "from study.data.words import split as a, join as b\nfirst, second = a('a b'), b('c d')\n",
        "from study.data.words import split as b, join as a\nfirst, second = a('a b'), b('c d')\n",
    ]
    plain, aliased, swapped = (meaning(notebook=text) for text in texts)
    assert plain == aliased != swapped


def test_a_move_and_new_names_of_modules_change_nothing(meaning):
    moved = {name: text for name, text in PACKAGE.items() if name.startswith(("__init__", "data/__init__", "alone"))}
    moved |= {
        "data/__init__.py": "from .parts import shares as fractions\n",
        "data/parts.py": PACKAGE["data/splits.py"],
        "data/text/__init__.py": "",
        "data/text/phrases.py": PACKAGE["data/words.py"],
        "entry.py": PACKAGE["data/cohort.py"]
        .replace("from . import words", "from study.data.text import phrases")
        .replace("words.", "phrases.")
        .replace("from ..figures", "from .views.pictures"),
        "views/__init__.py": "",
        "views/pictures.py": PACKAGE["figures.py"].replace("from .late", "from study.paint.brush"),
        "paint/__init__.py": "",
        "paint/brush.py": PACKAGE["late.py"],
    }
    for name in ("data/splits.py", "data/words.py", "data/cohort.py", "figures.py", "late.py"):
        moved[name] = "raise ImportError('moved')\n"
    notebook = NOTEBOOK.replace(
        "from study import figures", "from study import entry\nfrom study.views import pictures"
    )
    notebook = notebook.replace("import cohort as cohorts, fractions", "import fractions")
    notebook = notebook.replace("cohorts.", "entry.").replace("figures.", "pictures.")
    assert meaning(moved, notebook) == meaning()


@pytest.mark.parametrize(
    ("notebook", "found"),
    [
        ("from study.data.words import *\nsplit('a')\n", {"split", "join"}),
        ("from study.data import words\ngetattr(words, 'join')('a')\n", {"split", "join"}),
        ("import study.data.words\nstudy.data.words.join('a')\n", {"join"}),
        ("import importlib\nimportlib.import_module('study.data.words').join('a')\n", {"split", "join"}),
        ("import importlib\nimportlib.import_module(name)\n", {"split", "join", "nothing", "unused"}),
        ("import study.data.words as words\nwords.join('a')\n", {"join"}),
        ("import study.data.words as words\nkept = [words.join(words) for words in 'ab']\n", set()),  # a local name
        ("def late():\n    from study.data import words\n\n    return words.join('a')\nlate()\n", {"join"}),
    ],
)
def test_every_way_to_a_module_is_followed(meaning, notebook, found):
    text = "\n".join(meaning(notebook=notebook)[0])
    names = ("split", "join", "nothing", "unused")
    assert {name for name in names if f"FunctionDef(name='{name}'" in text} == found


def test_versions_are_those_of_the_lock(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==2.4.6\n    # via pandas\nPillow==12.0 ; python_version < '3.13'\ntorch-fidelity==0.4.0\n")
    packages = {"numpy", "PIL", "torch_fidelity", "nowhere"}
    assert fingerprints.locked_versions(packages, lock) == [
        "nowhere==unlocked", "numpy==2.4.6", "pillow==12.0", "torch-fidelity==0.4.0",
    ]  # fmt: skip


def test_every_package_of_the_notebooks_is_locked():
    for notebook in fingerprints.notebooks():
        versions = fingerprints._meaning(notebook, "\n".join(fingerprints.code_cells(notebook)))
        pinned = [line for line in versions if "==" in line and "(" not in line]
        assert len(pinned) > 5 and not [line for line in pinned if "unlocked" in line], notebook.stem


def test_a_comment_in_a_cell_is_no_other_source(tmp_path):
    source = ROOT / "notebooks" / "00_dataset.ipynb"
    content = nbformat.read(source, as_version=4)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    code[1].source += "\n# a remark\n"
    nbformat.write(content, tmp_path / "remark.ipynb")
    assert fingerprints.source_hash(tmp_path / "remark.ipynb") == fingerprints.source_hash(source)
    code[1].source += "\nprint(1)"
    nbformat.write(content, tmp_path / "more.ipynb")
    assert fingerprints.source_hash(tmp_path / "more.ipynb") != fingerprints.source_hash(source)
    code[1].source += "\n(("
    nbformat.write(content, tmp_path / "broken.ipynb")
    with pytest.raises(InputError, match="broken.ipynb cannot be parsed"):
        fingerprints.source_hash(tmp_path / "broken.ipynb")


def test_older_results_are_named(tmp_path):
    from dermstudy.runner.profiles import declared_parameters, load_profile, notebooks, resolve

    given = resolve(load_profile("smoke"), "results/smoke")
    entries = {
        path.stem: {
            "source": fingerprints.source_hash(path),
            "parameters": declared_parameters(path) | given[path.stem],
        }
        for path in notebooks()[:3]
    }
    entries["01_finetune"]["parameters"] |= {"STEPS": 1}
    entries["02_upsample"]["source"] = "another"
    (tmp_path / "manifest.json").write_text(json.dumps({"profile": "smoke", "notebooks": entries}))
    assert fingerprints.older(tmp_path) == ["01_finetune", "02_upsample"]
    with pytest.raises(InputError, match="is no manifest of a run"):
        fingerprints.older(tmp_path / "nowhere")
