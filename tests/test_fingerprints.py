"""Fingerprints of meaning: what makes a result old, and what does not."""

from __future__ import annotations

import json

import nbformat
import pytest
from conftest import ROOT

from dermstudy.files import InputError
from dermstudy_commands.runner import fingerprints


def test_another_lock_is_another_source(tmp_path, monkeypatch):
    notebook, hashes = ROOT / "notebooks" / "00_dataset.ipynb", []
    monkeypatch.setattr(fingerprints, "project_root", lambda: tmp_path)
    for pinned in ("numpy==2.4.6\n", "numpy==2.4.6\n", "numpy==2.4.7\n"):
        (tmp_path / "requirements.lock").write_text(pinned)
        hashes.append(fingerprints.source_hash(notebook))
    assert hashes[0] == hashes[1] != hashes[2]


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
    from dermstudy_commands.runner.profiles import declared_parameters, load_profile, notebooks, resolve

    given = resolve(load_profile("smoke"), "results/smoke")
    entries = {
        path.stem: {
            "source": fingerprints.source_hash(path),
            "commit": "",
            "parameters": declared_parameters(path) | given[path.stem],
        }
        for path in notebooks()[:3]
    }
    entries["01_finetune"]["parameters"] |= {"STEPS": 1}
    entries["02_upsample"]["source"] = "another"
    (tmp_path / "manifest.json").write_text(json.dumps({"profile": "smoke", "notebooks": entries}))
    assert fingerprints.older(tmp_path) == ["01_finetune", "02_upsample"]
    with pytest.raises(InputError, match="manifest.json is missing: it is no manifest"):
        fingerprints.older(tmp_path / "nowhere")
