"""Notebooks as they are read and worked with: figures named as the paper numbers them, cells that can be run again."""

from __future__ import annotations

import ast
import math
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from dermstudy import entities
from dermstudy.diffusion import architecture, finetune, glide, schedules
from dermstudy.diffusion.folded import FOLDED_PRESETS
from dermstudy.readers import analysis
from dermstudy_commands.runner import profiles, study

STEMS = [notebook.stem for notebook in profiles.notebooks()]
METHODS = tuple(stem for stem in STEMS if stem != "00_dataset")  # whose method stands in cells tagged so
MEASURED = {"seconds", "peak_megabytes"}  # of the machine, not of the study


def code_cells(stem: str) -> dict[int, str]:
    """The code of each cell by its place in the notebook."""
    cells = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4).cells
    return {place: cell.source for place, cell in enumerate(cells) if cell.cell_type == "code"}


def method_cells(stem: str) -> list[str]:
    """The code of the cells tagged `method`."""
    cells = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4).cells
    return [cell.source for cell in cells if "method" in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("stem", METHODS)
def test_a_method_stands_beside_its_formula_and_is_asserted(stem):
    cells = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4).cells
    places = [place for place, cell in enumerate(cells) if "method" in cell.metadata.get("tags", [])]
    told = [
        cell.source for cell in cells if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
    ]
    assert places and all(code.count("\n") < 30 for code in told)
    for place in places:
        code, words = cells[place].source, cells[place - 1].source
        assert re.search(r"^\s*assert |\bassert_(allclose|close)\(", code, re.M)
        assert cells[place - 1].cell_type == "markdown" and "$$" in words and "](../dermstudy/" in words
        assert "https://arxiv.org/abs/" in words or "https://doi.org/" in words


@pytest.mark.parametrize("stem", STEMS)
def test_a_notebook_defines_only_its_method(stem):
    methods = method_cells(stem)
    rest = [code for code in code_cells(stem).values() if code not in methods]
    kinds = ast.FunctionDef | ast.ClassDef
    assert not [node for code in rest for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)]
    stored = {name.id for code in methods for name in names_in(code) if isinstance(name.ctx, ast.Store)}
    read = {name.id for code in rest for name in names_in(code) if isinstance(name.ctx, ast.Load)}
    bound = {name.id for code in rest for name in names_in(code) if isinstance(name.ctx, ast.Store)}
    assert not stored & (read - bound), "the notebook runs without it"


def names_in(code: str) -> list[ast.Name]:
    """Every name in a cell's code."""
    return [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]


@pytest.mark.parametrize("stem", METHODS)
def test_links_to_the_checkout_lead_somewhere(stem):
    targets = re.findall(r"\]\((?!https:)([^)#]+)", prose(stem))
    assert targets and [name for name in targets if not (ROOT / "notebooks" / name).exists()] == []


# Method cells, run on small networks


@pytest.fixture(scope="module")
def tokenizer():
    return architecture.train_tokenizer(list(entities.PROMPTS))


def method_run(stem: str, **names) -> dict:
    """The names after the notebook's method cells ran with `names`."""
    names |= {
        "glide": glide,
        "finetune": finetune,
        "architecture": architecture,
        "deepcopy": deepcopy,
        "pd": pd,
        "SEED": 0,
    }
    for code in method_cells(stem):
        exec(compile(code, stem, "exec"), names)
    return names


def network_of(preset, prediction: str, tokenizer):
    """An untrained pipeline whose last convolution is not at zero: its answer depends on what it sees."""
    pipeline = glide.build(preset, tokenizer, prediction, 1)
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.05, generator=torch.Generator().manual_seed(1))
    return pipeline


FOLDED = replace(FOLDED_PRESETS["mini-base"], widths=(32, 32), attention_levels=(1,), text_layers=1)
PAINTERS = [("tiny-base", "epsilon"), ("tiny-base", "v_prediction"), (FOLDED, "v_prediction")]


@pytest.mark.parametrize("preset, prediction", PAINTERS)
def test_one_training_step_by_hand_is_the_helpers(preset, prediction, tokenizer):
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    names = method_run(
        "01_finetune", model=network_of(preset, prediction, tokenizer), side=64, images=images,
        captions=list(entities.PROMPTS[:6]), LEARNING_RATE=1e-3, WEIGHT_DECAY=0.01, CAPTION_DROPOUT=0.3,
    )  # fmt: skip
    assert torch.equal(names["by_hand"], names["helped"]) and not torch.equal(names["by_hand"], names["before"])


class Four:
    """A cohort of four images."""

    def images(self, side: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)


@pytest.mark.parametrize("preset, noise", [("tiny-upsampler", 0.0), ("mini-upsampler", 0.05)])
def test_what_the_upsampler_diffuses_by_hand_is_the_helpers(preset, noise, tokenizer):
    model = network_of(preset, "v_prediction", tokenizer)
    if model.pixels:
        mix = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))[0]
        model.pixels.mix, model.pixels.unmix = mix, mix.T.contiguous()
    names = method_run("02_upsample", model=model, side=256, held_out=Four(), LOW_SIDE=64, NOISE_AUGMENTATION=noise)
    assert names["data"].shape == ((4, 12, 128, 128) if model.pixels else (4, 3, 256, 256))


@pytest.mark.parametrize(
    "sampler, scale, interval", [("dpm-solver", 3.0, (0.0, math.inf)), ("ancestral", 1.5, (0.1, 3.0))]
)
@pytest.mark.parametrize("preset, prediction", PAINTERS)
def test_an_image_painted_by_hand_is_the_pipelines(preset, prediction, sampler, scale, interval, tokenizer):
    base = network_of(preset, prediction, tokenizer)
    if sampler == "dpm-solver" and preset is FOLDED:
        guide = network_of(FOLDED, prediction, tokenizer)
        torch.nn.init.normal_(guide.unet.conv_in.weight, std=0.1, generator=torch.Generator().manual_seed(2))
        base.register_modules(guide_unet=guide.unet, guide_text_encoder=guide.text_encoder)
    base.scheduler = before = schedules.sampler_from(base.scheduler, sampler)
    names = method_run(
        "03_sample", base=base, SAMPLER=sampler, GUIDANCE_SCALE=scale, interval=interval, CAPTION="melanoma",
        PRECISION="fp32",
    )  # fmt: skip
    assert names["theirs"].std() > 1 and base.scheduler is before


def test_the_parts_that_train_are_named_by_hand_as_by_the_helper(tokenizer):
    model = network_of(FOLDED, "v_prediction", tokenizer)
    names = method_run("09_which_parts", model=model, PARTS=["text", "unet", "all", "lora"], LORA_RANK=2, STEPS=1)
    counts = names["counts"]
    assert counts["all"]["numbers"] == counts["unet"]["numbers"] + counts["text"]["numbers"] > counts["lora"]["numbers"]


def test_supplementary_figures_are_named_as_the_paper_numbers_them():
    """The network's matrix of entities is S1, the dermatologist's is S2, and AI against original has no number."""
    page = (ROOT / "README.md").read_text()
    rows = {line[3 : line.index("]")]: line for line in page.splitlines() if line.startswith("- [0")}
    for number, place in {"S1": "06_cnn_classifier", "S2": "05_dermatologist_study"}.items():
        for stem in STEMS:
            named = prose(stem), rows[stem]
            assert all((number in text) == (stem == place) for text in named), (number, stem)
    headings = [line for line in prose("05_dermatologist_study").splitlines() if line.startswith("#")]
    assert "## Which entity? (Figure S2, Table 2)" in headings and "## AI or original?" in headings
    assert "(Figure S2)" in analysis.entity_confusion.__doc__ and "Figure S" not in analysis.source_confusion.__doc__


def prose(stem: str) -> str:
    """The words of a notebook."""
    cells = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


# Every cell twice in a row: ten notebooks through papermill, minutes


@pytest.fixture(scope="module")
def doubled(tmp_path_factory) -> Path:
    """The notebooks with each code cell twice; the parameters cell once, so that the walk's own cell stays the last."""
    folder = tmp_path_factory.mktemp("doubled")
    (folder / "notebooks").mkdir()
    for source in profiles.notebooks():
        notebook = nbformat.read(source, as_version=4)
        cells = []
        for cell in notebook.cells:
            cells.append(cell)
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
                cells.append(nbformat.v4.new_code_cell(cell.source, metadata=cell.metadata))
        notebook.cells = cells
        nbformat.write(notebook, folder / "notebooks" / source.name)
    return folder


@pytest.mark.walk
@pytest.mark.parametrize("stem", STEMS)
def test_every_cell_run_twice_leaves_the_same_tables(stem, smoke, doubled, monkeypatch):
    """In the notebooks' order: each goes on from the artifacts of the doubled notebooks before it."""
    results = doubled / "results"
    known = {path.name for path in results.glob("tables/*.csv")}
    sources = sorted((doubled / "notebooks").glob("*.ipynb"))
    monkeypatch.setattr(study, "notebooks", lambda: sources)
    study.run("smoke", results=str(results), only=stem[:2])
    tables = sorted({path.name for path in results.glob("tables/*.csv")} - known)
    print(f"{stem}: {len(tables)} tables")
    for name in tables:
        once, twice = (pd.read_csv(root / "tables" / name) for root in (smoke, results))
        measured = [column for column in once.columns if column in MEASURED]
        pd.testing.assert_frame_equal(
            twice.drop(columns=measured), once.drop(columns=measured), check_exact=True, obj=name
        )
