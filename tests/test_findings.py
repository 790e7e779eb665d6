"""The table of what was found: read from a run's tables, whole and as the first page shows it."""

from __future__ import annotations

import re
import shutil

import pandas as pd
import pytest
from conftest import ROOT

from dermstudy import cli, workspace
from dermstudy.classification import protocol
from dermstudy.files import InputError
from dermstudy.published import paper
from dermstudy.runner import findings

DEMO = workspace.Workspace(ROOT / "results" / "demo")
AUDITED = "audited (95 % interval)"
PAGES = ("README.md", "results/ham10000/README.md")


def test_the_table_reads_what_the_notebooks_wrote():
    found = findings.table(DEMO).set_index("question")
    answer = found.loc["**Does adding synthetic images help?**"]
    trial = pd.read_csv(DEMO.tables / "trial.csv")
    primary = trial[trial["role"] == protocol.PRIMARY].iloc[0]
    assert answer[AUDITED].startswith(f"**{primary['verdict']}**: macro AUC ")
    assert [float(value) for value in re.findall(r"[+-]\d+\.\d+", answer[AUDITED])] == [
        pytest.approx(primary[name], abs=5e-4) for name in ("difference", "low", "high")
    ]
    printed = paper.by_class("combined")["recall"].mean() - paper.by_class("original")["recall"].mean()
    assert float(answer["the paper"].split()[0]) == pytest.approx(printed, abs=5e-3)
    network = found.loc["The paper's network on both: accuracy"]
    assert network["the paper"] == "0.86" and "always nevus" in network[AUDITED]
    family = found[found.index.str.startswith(("Would the trial see", "Of the protocol's family: ", "Sensitivity: "))]
    assert len(family) == len(trial) - 1 and len(findings.table(DEMO, headlines=True)) <= 10
    given = (found[AUDITED] + found["as published, rerun"]).str.contains(r"\([^)]+ to [^)]+\)")
    assert (given == (found["interval over"] != findings.NONE)).all()  # a row with an interval says what it is over


def test_a_run_without_the_trial_says_so(tmp_path):
    shutil.copytree(DEMO.root, tmp_path / "run", ignore=shutil.ignore_patterns("artifacts"))
    (tmp_path / "run" / "tables" / "trial.csv").unlink()
    found = findings.table(workspace.Workspace(tmp_path / "run")).set_index("question")
    assert "waits for its run" in found.loc["**Does adding synthetic images help?**", AUDITED]


def test_a_missing_table_is_named(tmp_path, capsys):
    shutil.copytree(DEMO.root, tmp_path / "run", ignore=shutil.ignore_patterns("artifacts"))
    (tmp_path / "run" / "tables" / "ablation_summary.csv").unlink()
    assert cli.main(["findings", str(tmp_path / "run")]) == 2
    assert "ablation_summary.csv is missing" in capsys.readouterr().err
    with pytest.raises(InputError, match="leak.csv is missing"):
        findings.table(workspace.Workspace(tmp_path))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_the_table_of_a_committed_run(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    block = re.search(r"<!-- dermstudy findings (\S+)( --headlines)? -->\n(.+?)\n<!-- end -->", text, re.S)
    assert block[3].strip() == findings.markdown(workspace.Workspace(ROOT / block[1]), bool(block[2]))


def test_the_first_page_is_read_in_a_minute():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1800
    first = text[: text.index("## ")]
    assert "make study" in first and "results/ham10000/figures/trial.png" in first and len(first.split()) < 300
