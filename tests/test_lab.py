"""The lab: working copies that hold their profile's values and keep what a user changed, and JupyterLab in a browser."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import nbformat
import numpy as np
import pytest
from browser import CHROMIUM, FLAGS
from conftest import ROOT
from PIL import Image

from dermstudy.workspace import open_workspace
from dermstudy_commands import cli
from dermstudy_commands.runner import lab, study


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A results folder with a few artifacts that pretend to be a finished run; what is asked to run is noted."""
    space = open_workspace(tmp_path / "results")
    for name in ("cohort", "glide_base", "glide_upsampler", "glide_base_training", "synthetic"):
        (space.artifacts / name).mkdir()
        (space.artifacts / name / "content").write_text(name)
    (space.tables / "finetune_log.csv").write_text("step\n12\n")
    asked = []
    monkeypatch.setattr(study, "run", lambda *places, only: asked.append((places, only)))
    return space, asked


def prepared(space, number="03", **more):
    return lab.prepare("smoke", number, results=str(space.root), **more)


def first_code(notebook):
    return next(cell for cell in notebook.cells if cell.cell_type == "code")


def test_a_copy_holds_the_profiles_values_and_finds_what_it_reads(made):
    space, asked = made
    folder, copy = prepared(space)
    assert asked == [(("smoke", None, str(space.root)), ["00", "01", "02"])]
    assert folder == space.root.with_name("results-lab") and copy == folder / "03_sample.ipynb"
    notebook = nbformat.read(copy, as_version=4)
    injected = [cell.source for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    values = {}
    exec(injected[0], values)
    assert len(injected) == 1 and values["COUNT"] == 56 and values["RESULTS"] == str(folder)
    assert (folder / "artifacts" / "glide_base" / "content").read_text() == "glide_base"
    assert not (folder / "artifacts" / "glide_base_training").exists()  # 03 neither reads nor makes it
    assert (folder / "tables" / "finetune_log.csv").is_file()
    (folder / "artifacts" / "glide_base" / "content").write_text("played with")
    assert (space.artifacts / "glide_base" / "content").read_text() == "glide_base"
    assert len(list(folder.glob("*.ipynb"))) == 10


def test_a_changed_copy_is_kept_under_its_name(made, capsys):
    space, _ = made
    folder, copy = prepared(space)
    assert prepared(space) == (folder, copy) and "was changed" not in capsys.readouterr().out
    notebook = nbformat.read(copy, as_version=4)
    first_code(notebook).source += "\nCAPTION = 'nevus'"
    nbformat.write(notebook, copy)
    changed = copy.read_bytes()
    for _ in range(2):  # the second time, the fresh copy is still fresh
        assert prepared(space)[1] == folder / "03_sample-2.ipynb"
        assert "03_sample.ipynb was changed and stays; the fresh copy is 03_sample-2.ipynb" in capsys.readouterr().out
    assert copy.read_bytes() == changed and len(list(folder.glob("*.ipynb"))) == 11


def test_a_copy_that_only_ran_stays_and_an_old_one_is_renewed(made, monkeypatch):
    space, _ = made
    folder, copy = prepared(space)
    notebook = nbformat.read(copy, as_version=4)
    first_code(notebook).outputs = [nbformat.v4.new_output("stream", text="ran")]
    nbformat.write(notebook, copy)
    assert prepared(space)[1] == copy and first_code(nbformat.read(copy, as_version=4)).outputs
    resolved = lab.resolve
    monkeypatch.setattr(
        lab, "resolve", lambda *given: {stem: own | {"SEED": 7} for stem, own in resolved(*given).items()}
    )
    assert prepared(space)[1] == folder / "03_sample-2.ipynb"  # its outputs belong to the older values
    assert "SEED = 7" in (folder / "04_metrics.ipynb").read_text() and not (folder / "04_metrics-2.ipynb").exists()


def test_artifacts_are_renewed_unless_they_are_the_users_own(made, capsys):
    space, _ = made
    folder, _ = prepared(space)
    (folder / "artifacts" / "synthetic" / "content").write_text("my own")
    for name in ("cohort", "synthetic"):
        (space.artifacts / name / "content").write_text(f"another {name}")
    prepared(space)
    assert (folder / "artifacts" / "cohort" / "content").read_text() == "another cohort"
    assert (folder / "artifacts" / "synthetic" / "content").read_text() == "my own"
    out = capsys.readouterr().out
    assert "results-lab/artifacts/synthetic is your own and stays" in out and out.count("stays") == 1


def test_without_a_run_the_lab_makes_its_own(made):
    space, asked = made
    shutil.rmtree(space.artifacts)
    folder, _ = prepared(space, "01")
    assert asked == [(("smoke", None, str(folder / "run")), ["00"])]


def test_results_are_taken_as_they_are(made, capsys):
    space, asked = made
    prepared(space, as_is=True)
    assert not asked
    (space.artifacts / "cohort" / "content").unlink()
    (space.artifacts / "cohort").rmdir()
    folder = space.root.with_name("none")
    arguments = ["lab", "smoke", "03", "--as-is", "--results", str(folder)]
    assert cli.main(arguments) == 2 and not folder.with_name("none-lab").exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "has no cohort, glide_base, glide_upsampler: leave out --as-is" in error


@pytest.mark.parametrize(("arguments", "message"), [(["nope"], "unknown profile"), (["smoke", "42"], "no notebook '42'"),
                                                    (["42"], "no notebook '42'")])  # fmt: skip
def test_bad_arguments_end_in_one_line(arguments, message, capsys):
    assert cli.main(["lab", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# In a browser


@pytest.fixture
def served(tmp_path):
    """`dermstudy lab smoke 03` from nothing, and its address once it serves."""
    command = [sys.executable, "-m", "dermstudy", "lab", "smoke", "03", "--no-browser", "--port", "9180"]
    process = subprocess.Popen(
        [*command, "--results", str(tmp_path / "results")], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_DATA_DIR": str(tmp_path / "data")},
    )  # fmt: skip
    started, lines = time.monotonic(), []
    for line in process.stdout:  # JupyterLab's own among them, which name its address in the end
        lines.append(line)
        if "127.0.0.1" in line:
            break
    assert lines and "/lab/tree/03_sample.ipynb?token=" in lines[-1], lines
    print(f"served after {time.monotonic() - started:.0f} s")
    threading.Thread(target=process.stdout.read, daemon=True).start()
    yield process, lines[-1].split()[-1], tmp_path / "results-lab"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


@pytest.mark.walk
@pytest.mark.skipif(not CHROMIUM, reason="needs Debian's chromium: apt-get install chromium")
def test_a_changed_caption_paints_another_image_in_jupyterlab(served, tmp_path):
    """From `dermstudy lab smoke 03` to another image than before, by clicks and keys alone."""
    from playwright.sync_api import sync_playwright

    _, address, folder = served
    shots = os.environ.get("DERMSTUDY_SCREENSHOTS", str(tmp_path))
    started = time.monotonic()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
        page.set_default_timeout(600_000)
        page.goto(address)
        page.locator(".jp-Notebook .cm-line", has_text="CAPTION =").first.wait_for()
        before = painted(page)
        page.screenshot(path=f"{shots}/lab_before.png")
        line = page.locator(".jp-Notebook .cm-line", has_text="CAPTION =").first
        line.scroll_into_view_if_needed()
        line.click()
        page.keyboard.press("Home")
        page.keyboard.press("Shift+End")
        page.keyboard.insert_text('CAPTION = "vascular lesion on the face"')
        after = painted(page, before)
        page.screenshot(path=f"{shots}/lab_after.png")
        page.keyboard.press("Control+s")
        copy, until = folder / "03_sample.ipynb", time.monotonic() + 60
        while "vascular lesion on the face" not in copy.read_text() and time.monotonic() < until:
            page.wait_for_timeout(500)
        browser.close()
    print(f"both runs in the browser took {time.monotonic() - started:.0f} s")
    one, other = (np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")) for png in (before, after))
    rows = min(len(one), len(other)) // 2  # the lower halves, where no title stands
    width = min(one.shape[1], other.shape[1])
    assert (one[-rows:, :width] != other[-rows:, :width]).any()
    saved = copy.read_text()
    assert "vascular lesion on the face" in saved
    errors = [output for cell in json.loads(saved)["cells"] for output in cell.get("outputs", [])
              if output["output_type"] == "error"]  # fmt: skip
    assert not errors and (folder / "figures" / "caption.jpg").is_file()


def painted(page, but: str = "") -> str:
    """Run all cells and return the PNG, in base64, beneath the cell that saves it; another than `but`."""
    page.get_by_text("| Idle").first.wait_for()  # the menu's entry does nothing before the kernel is there
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    found = page.wait_for_function(
        """but => {
            const cells = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')];
            const cell = cells.find(cell => cell.textContent.includes('"caption")'));
            const source = cell?.querySelector('.jp-OutputArea img')?.src ?? '';
            const png = source.split('base64,')[1] ?? '';
            return png && png !== but ? png : null;
        }""",
        arg=but,
    )
    return found.json_value()
