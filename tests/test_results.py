"""The committed results are those of this code: made by the profile whose folder they lie in, from these sources."""

from __future__ import annotations

import json
import subprocess

import nbformat
import pytest
from conftest import ROOT

from dermstudy import study

LISTED = subprocess.run(["git", "-C", str(ROOT), "ls-files", "results/*/manifest.json"], capture_output=True, text=True)
WHOLE = ("demo", "ham10000")  # results in which every notebook has run
COMMITTED = [(ROOT / name).parent for name in LISTED.stdout.splitlines()]


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_notebooks_ran_this_code(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["profile"] == folder.name
    ran = {path.stem for path in folder.glob("*.ipynb")}
    assert ran == set(manifest["notebooks"])
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if folder.name in WHOLE:
            assert source.stem in ran
        elif source.stem not in ran:
            continue
        executed = nbformat.read(folder / source.name, as_version=4)
        stamp, words = executed.metadata["dermstudy"], nbformat.read(source, as_version=4)
        assert stamp["profile"] == folder.name
        assert stamp["source"] == study.source_hash(source), f"{source.stem} is stale: dermstudy run {folder.name}"
        assert stamp["data_hash"] == manifest["data_hash"]
        assert _prose(executed) == _prose(words), f"{source.stem} has old words: dermstudy prose results/{folder.name}"


def _prose(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_files_are_small_and_clean(folder):
    for notebook in folder.glob("*.ipynb"):
        content = nbformat.read(notebook, as_version=4)
        for cell in content.cells:
            outputs = cell.get("outputs", [])
            assert not [output for output in outputs if output.output_type == "error"], notebook.name
            text = "".join(output.text for output in outputs if output.output_type == "stream")
            assert text.count("\n") <= 100, (notebook.name, cell.source[:60])
            assert "Traceback" not in text and str(ROOT) not in text
            shown = "".join(output.get("data", {}).get("text/plain", "") for output in outputs)
            assert "with 0 Axes" not in shown, f"{notebook.name}: a figure that nobody sees"
    for path in folder.rglob("*"):
        if path.is_file() and "artifacts" not in path.parts:
            assert path.stat().st_size < 3_000_000, path.name
