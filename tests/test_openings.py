"""An executed notebook opens with its finding: a sentence from its tables, and the figure that shows it."""

from __future__ import annotations

import json

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dermstudy.runner import article, openings
from dermstudy.workspace import Workspace


@pytest.fixture
def space(tmp_path):
    """A results folder with two tables and a figure."""
    own = Workspace(tmp_path)
    for folder in (own.tables, own.figures):
        folder.mkdir()
    rows = [("as published", "all", 160, 42, 0.2625), ("audited", "all", 204, 0, 0.0), ("audited", "mel", 28, 0, 0.0)]
    leak = pd.DataFrame(rows, columns=["protocol", "entity", "test_images", "leaked", "share"])
    own.save_table(leak, "leak")
    own.save_table(pd.DataFrame({"step": [10, 20, 30], "validation_loss": [0.5, 0.3, 0.4]}), "finetune_log")
    (own.figures / "split.png").write_bytes(b"png")
    return own


def test_sentences_are_read_from_the_tables(space):
    assert openings.sentence("00_dataset", space) == (
        "Dealt at random as published, 42 of 160 test images (26%) have an image of their own lesion in training; dealt by "
        "lesion, 0 of 204."
    )
    assert "is 0.3000 at its lowest, after 20 of 30 steps, beside 0.5000 after 10" in openings.sentence(
        "01_finetune", space
    )
    space.save_table(pd.DataFrame({"step": [0, 10], "validation_loss": [0.5, 0.3]}), "finetune_log")
    assert "after 10 of 10 steps, beside 0.5000 before training" in openings.sentence("01_finetune", space)
    assert openings.sentence("04_metrics", space) == ""  # its tables are not there
    space.save_table(pd.DataFrame({"step": [0], "validation_loss": [0.5]}), "finetune_log")
    said = openings.sentence("01_finetune", space)
    assert said.startswith("Nothing is trained here: the weights are taken as they came") and "is 0.5000." in said
    space.save_table(pd.DataFrame({"step": [10, 20], "validation_loss": [0.5, 0.6]}), "finetune_log")
    assert "does not fall below its 0.5000 after 10" in openings.sentence("01_finetune", space)


@pytest.mark.parametrize(("data", "told"), [("phantom", True), ("data/ham10000", False)])
def test_a_finding_on_the_phantom_says_so(space, data, told):
    manifest = {"notebooks": {"00_dataset": {"parameters": {"DATA": data}}}}
    (space.root / "manifest.json").write_text(json.dumps(manifest))
    notebook = new_notebook(cells=[new_markdown_cell("# 01")])
    first = openings.opened(notebook, "01_finetune", space).cells[1].source
    assert first.startswith("**Finding.** The base model") and (openings.DRAWN in first) == told
    assert openings.DRAWN not in openings.opened(notebook, "00_dataset", space).cells[1].source


def test_every_notebook_has_a_sentence_and_a_figure_that_it_saves():
    stems = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert list(openings.SENTENCES) == stems and list(openings.FIGURES) == stems
    for stem, names in openings.FIGURES.items():
        cells = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4).cells
        source = "".join(cell.source for cell in cells)
        assert names and all(f'"{figure}"' in source for figure in names), stem


def test_real_images_that_are_not_drawn_are_named():
    """DRAW_REAL = False names the real images in place of drawing them: every cell that asks for it does."""
    asked = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if (
                cell.cell_type == "code"
                and "DRAW_REAL" in cell.source
                and "parameters" not in cell.metadata.get("tags", [])
            ):
                asked[path.stem, cell.id] = "where_to_see(" in cell.source
    assert {stem for stem, _ in asked} >= {"00_dataset", "02_upsample", "03_sample", "04_metrics"}
    assert not [place for place, names in asked.items() if not names]


def test_the_finding_follows_the_first_cell_and_is_replaced(space):
    notebook = new_notebook(cells=[new_markdown_cell("# 00 · Title"), new_code_cell("1")])
    once = openings.opened(notebook, "00_dataset", space)
    assert [cell.cell_type for cell in once.cells] == ["markdown", "markdown", "code"]
    said = openings.sentence("00_dataset", space)
    assert once.cells[1].source == f"**Finding.** {said}\n\n![{said}](figures/split.png)"  # one sentence, told whole
    nbformat.validate(once)
    nbformat.write(once, space.root / "00_dataset.ipynb")
    once = nbformat.read(space.root / "00_dataset.ipynb", as_version=4)
    space.save_table(pd.read_csv(space.tables / "leak.csv").assign(leaked=1, share=np.float64(0.01)), "leak")
    again = openings.opened(once, "00_dataset", space)
    nbformat.write(again, space.root / "00_dataset.ipynb")
    cells = again.cells
    assert len(cells) == 3 and "dealt by lesion, 1 of 204" in cells[1].source
    page = article.read(space.root / "00_dataset.ipynb", space, {"notebooks": {}})
    assert page.finding.startswith("Dealt at random") and "figures/split.png" not in page.article


@pytest.mark.parametrize("stem", list(openings.SENTENCES))
def test_every_notebook_of_the_demo_opens_with_a_finding_and_its_figure(stem):
    demo = Workspace(ROOT / "results" / "demo")
    assert openings.sentence(stem, demo).endswith(".")
    assert set(openings.FIGURES[stem]) & set(demo.pictures())
