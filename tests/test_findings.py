"""What was found: computed by each notebook's last cell from tables alone, kept as a file, joined for pages."""

from __future__ import annotations

import re
import shutil

import pandas as pd
import pytest
from conftest import ROOT

from dermstudy import workspace
from dermstudy.files import InputError
from dermstudy_commands import cli
from dermstudy_commands.runner import findings


def test_a_finding_is_a_headline_with_details(tmp_path):
    space = workspace.Workspace(tmp_path)
    space.finding("00_dataset", "It fell by -0.5 (-1 to +2), 2e-09, b-3.", "more", "")
    space.finding("01_finetune", "It rose.")
    assert findings.markdown(space, headlines=True).splitlines() == [
        "- **00_dataset.** It fell by −0.5 (−1 to +2), 2e-09, b-3.", "- **01_finetune.** It rose.",
    ]  # fmt: skip
    assert findings.markdown(space).endswith("b-3.\n\n- more\n\n### 01_finetune\n\nIt rose.")


def test_a_value_stands_with_its_interval():
    row = {"a": 0.0001, "low": -0.25, "high": 0.5, "gain": -1.5, "gain_low": -2, "gain_high": -1, "c": 3}
    assert workspace.bounds(row, "a") == "0.000 (-0.250 to +0.500)"
    assert workspace.bounds(row, "gain", ".1f") == "-1.5 (-2.0 to -1.0)"
    frame = pd.DataFrame([{"name": "a", "c": 3.0, "low": float("nan"), "high": float("nan")}])
    assert workspace.changes(frame, "name", "c", ".0f") == "a 3"


def test_a_finding_that_cannot_be_computed_is_an_error(tmp_path):
    space = workspace.Workspace(tmp_path)
    with pytest.raises(InputError, match="holds no executed notebooks"):
        findings.write(space)
    with pytest.raises(InputError, match="holds no findings"):
        findings.markdown(space)
    shutil.copy(ROOT / "notebooks" / "00_dataset.ipynb", tmp_path)
    with pytest.raises(InputError, match="leak.csv is missing"):
        findings.write(space)


def test_the_headline_of_the_trial_has_the_numbers_of_its_table():
    trial = pd.read_csv(ROOT / "results" / "demo" / "tables" / "trial.csv").query("role == 'primary'").iloc[0]
    said = findings.found(workspace.Workspace(ROOT / "results" / "demo"))["07_ablation"]
    numbers = re.findall(r"[+−]?\d+\.\d+", said)[:3]
    assert [float(number.replace("−", "-")) for number in numbers] == [
        pytest.approx(abs(trial["difference"]), abs=5e-4), *(pytest.approx(trial[end], abs=5e-4) for end in ("low", "high")),
    ]  # fmt: skip


def test_a_run_on_the_phantom_says_so():
    text = {name: findings.markdown(workspace.Workspace(ROOT / "results" / name)) for name in ("demo", "ham10000")}
    assert text["demo"].startswith("What is called real here is the phantom's") and "phantom" not in text["ham10000"]


@pytest.mark.parametrize("page", ["results/ham10000/README.md"])
def test_a_page_shows_the_committed_findings(page, capsys):
    text = (ROOT / page).read_text(encoding="utf-8")
    results, headlines, block = re.search(
        r"<!-- dermstudy findings (\S+)( --headlines)? -->\n(.+?)\n<!-- end -->", text, re.S
    ).groups()
    assert cli.main(["findings", results, *(headlines or "").split()]) == 0
    assert capsys.readouterr().out.strip() == block
    assert not re.search(r"\bharms\b", text)
