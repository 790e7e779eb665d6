"""The one table of what was found: read from a run's tables, and the one that the README shows."""

from __future__ import annotations

import re
import shutil

import pandas as pd
import pytest
from conftest import ROOT

from dermstudy import cli, workspace
from dermstudy.files import InputError
from dermstudy.published import paper
from dermstudy.runner import findings

DEMO = workspace.Workspace(ROOT / "results" / "demo")


def test_the_table_reads_what_the_notebooks_wrote():
    found = findings.table(DEMO).set_index("question")
    gain = found.filter(like="Gain of balanced accuracy", axis=0).iloc[0]
    primary = pd.read_csv(DEMO.tables / "ablation_primary.csv").iloc[0]
    assert [float(value) for value in re.findall(r"[+-]\d+\.\d+", gain["audited"])] == [
        pytest.approx(primary[name], abs=5e-4) for name in ("difference", "low", "high")
    ]
    printed = paper.by_class("combined")["recall"].mean() - paper.by_class("original")["recall"].mean()
    assert float(gain["the paper"]) == pytest.approx(printed, abs=5e-3)
    network = found.loc["The paper's network on both: accuracy"]
    assert network["the paper"] == "0.86" and "always nevus" in network["audited"]
    assert not any("residual" in question for question in found.index)  # the demo leaves the second network out


def test_a_second_network_has_rows_of_its_own():
    run = workspace.Workspace(ROOT / "results" / "ham10000")
    shares = pd.read_csv(run.tables / "ablation_summary.csv").set_index(["model", "protocol", "arm", "metric"])
    every = shares.loc["residual network", "audited", "all originals", "accuracy"]
    stronger = findings.table(run).set_index("question").loc["A residual network on all originals: accuracy"]
    assert stronger["the paper"] == "0.65" and stronger["audited"].startswith(f"{every['mean']:.2f} (")


def test_a_missing_table_is_named(tmp_path, capsys):
    shutil.copytree(DEMO.root, tmp_path / "run", ignore=shutil.ignore_patterns("artifacts"))
    (tmp_path / "run" / "tables" / "ablation_primary.csv").unlink()
    assert cli.main(["findings", str(tmp_path / "run")]) == 2
    assert "ablation_primary.csv is missing" in capsys.readouterr().err
    with pytest.raises(InputError, match="leak.csv is missing"):
        findings.table(workspace.Workspace(tmp_path))


def test_the_readme_shows_the_table_of_a_committed_run():
    block = re.search(r"<!-- dermstudy findings (\S+) -->\n(.+?)\n<!-- end -->", (ROOT / "README.md").read_text(), re.S)
    assert block[2].strip() == findings.markdown(workspace.Workspace(ROOT / block[1]))
