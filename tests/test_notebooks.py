"""Notebooks as they are read and worked with: figures named as the paper numbers them, cells that can be run again."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import ROOT

from dermstudy.published import paper
from dermstudy.readers import analysis
from dermstudy.runner import profiles, study

STEMS = [notebook.stem for notebook in profiles.notebooks()]
MEASURED = {"seconds", "peak_megabytes"}  # of the machine, not of the study


def code_cells(stem: str) -> dict[int, str]:
    """The code of each cell by its place in the notebook."""
    cells = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4).cells
    return {place: cell.source for place, cell in enumerate(cells) if cell.cell_type == "code"}


@pytest.mark.parametrize("stem", STEMS)
def test_a_notebook_holds_at_most_150_lines_of_code(stem):
    assert sum(code.count("\n") + 1 for code in code_cells(stem).values()) <= 150


def names_of(code: str) -> tuple[set[str], set[str]]:
    """The names that a cell reads before it binds them, and those that it binds; inner names of comprehensions aside."""
    read, bound = set(), set()

    def visit(node: ast.AST, inner: frozenset = frozenset()) -> None:
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                bound.add(node.id)
            elif node.id not in bound | inner:
                read.add(node.id)
            return
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            targets = [name for part in node.generators for name in ast.walk(part.target) if isinstance(name, ast.Name)]
            inner = inner | {name.id for name in targets}
            values = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            parts = [*values, *(p for g in node.generators for p in (g.iter, *g.ifs))]
        elif isinstance(node, ast.Lambda):
            inner, parts = inner | {argument.arg for argument in node.args.args}, [node.body]
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            visit(ast.Name(node.target.id, ast.Load()), inner)
            parts = [node.value, node.target]
        elif isinstance(node, ast.Assign):
            parts = [node.value, *node.targets]
        elif isinstance(node, ast.For):
            parts = [node.iter, node.target, *node.body, *node.orelse]
        else:
            parts = ast.iter_child_nodes(node)
        for part in parts:
            visit(part, inner)

    visit(ast.parse(code))
    return read, bound


@pytest.mark.parametrize("stem", STEMS)
def test_no_later_cell_rebinds_what_an_earlier_cell_reads(stem):
    """Otherwise the earlier cell, run once more, computes from the later cell's value."""
    names = {place: names_of(code) for place, code in code_cells(stem).items()}
    rebound = [
        f"cell [{reader}] reads {name}, which cell [{later}] binds anew"
        for reader, (read, _) in names.items()
        for later, (_, bound) in names.items()
        if later > reader
        for name in sorted(read & bound)
    ]
    assert not rebound


def loops_and_values(code: str) -> tuple[set[str], set[str]]:
    """The names that a cell's loops bind, and those that its assignments bind."""
    loops, values = set(), set()
    for node in ast.walk(ast.parse(code)):
        targets = [node.target] if isinstance(node, ast.For) else getattr(node, "targets", [])
        own = {name.id for part in targets for name in ast.walk(part) if isinstance(name, ast.Name)}
        (loops if isinstance(node, ast.For) else values).update(own)
    return loops, values


@pytest.mark.parametrize("stem", STEMS)
def test_no_loop_takes_the_name_of_another_cells_value(stem):
    """Otherwise the loop's last item stands where that value is expected; `ax` is every figure's own."""
    names = {place: loops_and_values(code) for place, code in code_cells(stem).items()}
    shadowed = [
        f"the loop in cell [{place}] binds {name}, a value of cell [{other}]"
        for place, (loops, _) in names.items()
        for other, (_, values) in names.items()
        if other != place
        for name in sorted(loops & values - {"ax"})
    ]
    assert not shadowed


def test_a_name_that_is_bound_anew_is_seen():
    assert names_of("a = [b for b in c]\nd += a\nfor e in a:\n    print(e)") == ({"c", "d", "print"}, {"a", "d", "e"})


def test_supplementary_figures_are_named_as_the_paper_numbers_them():
    """The network's matrix of entities is S1, the dermatologist's is S2, and AI against original has no number."""
    assert paper.SUPPLEMENTARY_FIGURES == {"S1": "network", "S2": "dermatologist"}
    place = {"network": "06_cnn_classifier", "dermatologist": "05_dermatologist_study"}
    rows = {line.split(" | ")[0][2:]: line for line in (ROOT / "README.md").read_text().splitlines() if "| 0" in line}
    for number, reader in paper.SUPPLEMENTARY_FIGURES.items():
        for stem in STEMS:
            named = prose(stem), rows[stem]
            assert all((number in text) == (stem == place[reader]) for text in named), (number, stem)
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


@pytest.mark.walk
def test_every_table_of_a_run_was_compared(smoke, doubled):
    once, twice = ({path.name for path in (root / "tables").glob("*.csv")} for root in (smoke, doubled / "results"))
    assert once == twice
