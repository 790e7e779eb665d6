"""The committed results are what their manifest says: of the profile whose folder they lie in, by commits of the history."""

from __future__ import annotations

import json
import shutil
import subprocess

import nbformat
import papermill
import pytest
from conftest import ROOT, committed

from dermstudy import workspace
from dermstudy_commands.runner import findings, profiles, provenance, verify

WHOLE = ("demo", "ham10000")  # results in which every notebook has run
REDRAWN = {  # by notebook: the parameter that names committed files, what it names, and the file without which it cannot
    "05_dermatologist_study": ("ANSWERS", "predictions/kit_answers.csv", "predictions/kit_answers.csv"),
    "06_cnn_classifier": ("PREDICTIONS", "predictions", "predictions/classifier_images.csv"),
    "07_ablation": ("PREDICTIONS", "predictions", "predictions/trial.npz"),
}
COMMITTED = committed()


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_notebooks_are_those_of_the_manifest(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["profile"] == folder.name
    ran = {path.stem for path in folder.glob("*.ipynb")}
    assert ran == set(manifest["notebooks"])
    if folder.name in WHOLE:
        assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} <= ran
    for stem, entry in manifest["notebooks"].items():
        executed = nbformat.read(folder / f"{stem}.ipynb", as_version=4)
        stamp = executed.metadata["dermstudy"]
        assert stamp["profile"] == folder.name and stamp["data_hash"] == manifest["data_hash"]
        for name in {"source", "fingerprint", "commit", "processor"} & (set(stamp) | set(entry)):
            assert stamp[name] == entry[name], (stem, name)


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_runs_wrote_into_their_own_folder(folder):
    """A run with --results elsewhere would carry a path of the machine that made it."""
    for notebook in folder.glob("*.ipynb"):
        cells = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
        (injected,) = [source for source in cells if source.startswith("# Parameters")]
        assert f'RESULTS = "results/{folder.name}"' in injected, notebook.name


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_every_commit_of_the_manifest_is_in_the_history(folder):
    commits = commits_of(json.loads((folder / "manifest.json").read_text()))
    assert commits and not [name for name in commits if name.endswith("+changes") or name == "unknown"]
    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("the clone's history is not deep enough: git fetch --unshallow")
    for name in commits:
        assert git("merge-base", "--is-ancestor", name, "HEAD").returncode == 0, f"{name} is not in the history"


def commits_of(notes: dict) -> set[str]:
    """Every commit that a manifest names for a notebook, an artifact, a table or a figure."""
    entries = list(notes["notebooks"].values())
    made = [*entries, *notes.get("tables", {}).values(), *notes.get("figures", {}).values()]
    made += [one for entry in entries for one in dict(entry.get("artifacts", {})).values()]
    return {one["commit"] for one in made} - {""}


def git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("stem", REDRAWN)
@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_a_reader_without_images_recomputes_every_table(folder, stem, tmp_path):
    parameter, place, asked = REDRAWN[stem]
    if not (folder / asked).is_file():
        pytest.skip(
            f"results/{folder.name} holds no {asked}: older than what writes it, or not copied (docs/FULL_RUN.md)"
        )
    manifest = json.loads((folder / "manifest.json").read_text())
    notebook, made = ROOT / "notebooks" / f"{stem}.ipynb", tmp_path / f"{stem}.ipynb"
    given = manifest["notebooks"][stem]["parameters"]
    given = {name: value for name, value in given.items() if name in profiles.declared_parameters(notebook)}
    given |= {"RESULTS": str(tmp_path), parameter: f"results/{folder.name}/{place}"}
    papermill.execute_notebook(
        str(notebook), str(made), given, cwd=str(ROOT), kernel_name="python3", progress_bar=False
    )
    drawn = {name for name, table in manifest["tables"].items() if table["notebook"] == stem}
    assert drawn == {path.stem for path in (tmp_path / "tables").glob("*.csv")}
    for name in sorted(drawn):
        paths = folder / "tables" / f"{name}.csv", tmp_path / "tables" / f"{name}.csv"
        assert verify.table_difference(*paths, 1e-6) == "", name


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_a_manifest_names_every_table_and_figure_and_adds_up(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    for kind in ("tables", "figures"):
        assert set(manifest[kind]) == {path.stem for path in (folder / kind).iterdir()}
        makers = {made["notebook"] for made in manifest[kind].values()} - set(manifest["notebooks"])
        assert all(".maintenance." in name for name in makers)
    assert manifest["seconds"] == pytest.approx(sum(one["seconds"] for one in manifest["notebooks"].values()), abs=0.11)


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_a_table_or_figure_is_the_one_that_the_manifest_names(folder):
    """None was edited or put back since a notebook wrote it; what ran before manifests held the hash is not known."""
    manifest, space = json.loads((folder / "manifest.json").read_text()), workspace.Workspace(folder)
    others = [
        name for kind in provenance.KINDS for name, made in manifest[kind].items()
        if not provenance.holds(space, kind, name, made)
    ]  # fmt: skip
    assert others == []
    if folder.name == "demo":  # of HAM10000's notebooks some ran before
        assert all(made["sha256"] for kind in provenance.KINDS for made in manifest[kind].values())


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_findings_are_those_of_the_tables(folder, tmp_path):
    shutil.copytree(folder / "tables", tmp_path / "tables")
    for notebook in folder.glob("*.ipynb"):
        (tmp_path / notebook.name).touch()
    findings.write(workspace.Workspace(tmp_path))
    for path in sorted((tmp_path / "findings").iterdir()):
        assert path.read_text() == (folder / "findings" / path.name).read_text(), (
            f"dermstudy findings --write {folder.name}"
        )


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_files_are_small_and_clean(folder):
    for notebook in folder.glob("*.ipynb"):
        content = nbformat.read(notebook, as_version=4)
        for cell in content.cells:
            outputs = cell.get("outputs", [])
            assert not [output for output in outputs if output.output_type == "error"], notebook.name
            text = "".join(output.text for output in outputs if output.output_type == "stream")
            assert text.count("\n") <= 30, (notebook.name, cell.source[:60])
            assert "Traceback" not in text and str(ROOT) not in text
            shown = "".join(output.get("data", {}).get("text/plain", "") for output in outputs)
            assert "with 0 Axes" not in shown, f"{notebook.name}: a figure that nobody sees"
    for path in folder.rglob("*"):
        if path.is_file() and "artifacts" not in path.parts:
            largest = 15_000_000 if path.suffix == ".npz" else 3_000_000  # probabilities of every run and image
            assert path.stat().st_size < largest, path.name
