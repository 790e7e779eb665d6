"""The table of what was found: read from a run's tables, whole and as the first page shows it."""

from __future__ import annotations

import re
import shutil

import pandas as pd
import pytest
from conftest import ROOT

from dermstudy import cli, workspace
from dermstudy.classification import protocol, secondary
from dermstudy.files import InputError
from dermstudy.published import paper
from dermstudy.runner import findings

DEMO = workspace.Workspace(ROOT / "results" / "demo")
AUDITED, KIND = "audited", "interval in brackets"
PAGES = ("README.md", "results/ham10000/README.md")


def test_the_table_reads_what_the_notebooks_wrote():
    found = findings.table(DEMO).set_index("question")
    answer = found.loc["**Does adding synthetic images help?**"]
    trial = pd.read_csv(DEMO.tables / "trial.csv")
    primary = trial[trial["role"] == protocol.PRIMARY].iloc[0]
    assert answer[AUDITED].startswith(f"**{primary['verdict']}**: macro AUC ")
    numbers = re.findall(r"[+−]?\d+\.\d+", answer[AUDITED])
    assert [float(number.replace("−", "-")) for number in numbers] == [
        pytest.approx(primary[name], abs=5e-4) for name in ("difference", "low", "high")
    ]
    printed = paper.by_class("combined")["recall"].mean() - paper.by_class("original")["recall"].mean()
    assert float(answer["the paper"].split()[0]) == pytest.approx(printed, abs=5e-3)
    network = found.loc["How does a small convolutional network, in place of the paper's, do on both? Accuracy"]
    assert network["the paper"] == "0.86" and "always nevus" in network[AUDITED]
    family = found[found.index.str.startswith(("Would the trial see", "Of the protocol's family: ", "Sensitivity: "))]
    assert len(family) == len(trial) - 1 and len(findings.table(DEMO, headlines=True)) <= 10
    given = (found[AUDITED] + found["as published, rerun"]).str.contains(r"\([^)]+ to [^)]+\)")
    assert (given == (found[KIND] != findings.NONE)).all()  # a row with an interval says of which kind it is
    assert not (found[AUDITED] + found["as published, rerun"]).str.contains(r"(?:^|[ (])-\d").any()


def test_an_interval_is_called_what_it_is():
    found = findings.table(DEMO).set_index("question")
    subsampled = found.index.str.startswith(("FID of", "How far are", "How much of the real variety"))
    assert (subsampled == (found[KIND] == findings.SUBSAMPLES)).all() and subsampled.sum() == 3
    assert "95 %" not in " ".join(found.columns)  # not all of them are 95 % intervals over new lesions
    assert found.loc["The paper's reader: synthetic or original?", KIND] == findings.WILSON


@pytest.mark.parametrize(("leaked", "cell"), [(0, "0 of 2,046"), (1, "1 of 2,046"), (205, "205 of 2,046 (10%)")])
def test_a_leak_is_counted(tmp_path, leaked, cell):
    shutil.copytree(DEMO.root, tmp_path / "run", ignore=shutil.ignore_patterns("artifacts"))
    rows = [("as published", "all", 2003, 774, 774 / 2003), ("audited", "all", 2046, leaked, leaked / 2046)]
    leak = pd.DataFrame(rows, columns=["protocol", "entity", "test_images", "leaked", "share"])
    leak.to_csv(tmp_path / "run" / "tables" / "leak.csv", index=False)
    row = findings.table(workspace.Workspace(tmp_path / "run")).iloc[0]
    assert row["as published, rerun"] == "774 of 2,003 (39%)" and row[AUDITED] == cell


def test_a_network_that_did_not_run_is_no_dash(tmp_path):
    shutil.copytree(DEMO.root, tmp_path / "run", ignore=shutil.ignore_patterns("artifacts"))
    answer = "**Does adding synthetic images help?**"
    ran = findings.table(workspace.Workspace(tmp_path / "run")).set_index("question").loc[answer]
    assert ran["as published, rerun"] == findings.OWN_TESTS  # no difference of two tests is told as a gain
    summary = tmp_path / "run" / "tables" / "ablation_summary.csv"
    pd.read_csv(summary).head(0).to_csv(summary, index=False)
    waits = findings.table(workspace.Workspace(tmp_path / "run")).set_index("question").loc[answer]
    assert waits["as published, rerun"] == "not run yet"


def test_a_run_without_the_trial_says_so(tmp_path):
    shutil.copytree(DEMO.root, tmp_path / "run", ignore=shutil.ignore_patterns("artifacts"))
    (tmp_path / "run" / "tables" / "trial.csv").unlink()
    found = findings.table(workspace.Workspace(tmp_path / "run")).set_index("question")
    assert "waits for its run" in found.loc["**Does adding synthetic images help?**", AUDITED]


def test_how_good_a_network_is_without_synthetic_images_is_the_mean_of_its_runs():
    runs = pd.read_csv(DEMO.tables / "ablation.csv").query("training_set == 'all originals' and protocol == 'audited'")
    asked = findings.table(DEMO).set_index("question")[AUDITED].filter(like="taught by all originals alone")
    assert len(asked) == runs["model"].nunique() == 3
    for network, own in runs.groupby("model"):
        (said,) = asked.filter(like=f"({findings._network(network)})")
        means = own.groupby("metric")["value"].mean()
        assert f"macro AUC {means['macro AUC']:.3f}" in said and said.endswith(f"mean of {own['seed'].nunique()} seeds")
        assert f"balanced accuracy {means['prior-corrected balanced accuracy']:.3f};" in said


def test_what_a_moved_prior_gives_alone_stands_beside_what_the_images_give(tmp_path):
    table = pd.read_csv(DEMO.tables / "trial_secondary.csv")
    own = table[table["comparison"] == f"{protocol.BALANCED} against {protocol.ORIGINALS}"].set_index("measure")
    whole = own.loc["balanced accuracy by argmax", "difference"]
    row = findings.table(DEMO).set_index("question").loc[findings.MOVED]
    said, moved, rest = (float(value.replace("−", "-")) for value in re.findall(r"[+−]?\d\.\d+(?= \()", row[AUDITED]))
    assert moved + rest == pytest.approx(whole, abs=2e-3) and said == pytest.approx(whole, abs=5e-4)
    assert row[KIND] == findings.DRAWN
    shutil.copytree(DEMO.root, tmp_path / "run", ignore=shutil.ignore_patterns("artifacts"))
    (tmp_path / "run" / "tables" / "trial_secondary.csv").unlink()
    assert findings.MOVED not in findings.table(workspace.Workspace(tmp_path / "run"))["question"].tolist()


def test_what_moves_balanced_accuracy_has_a_row_a_part():
    told = pd.read_csv(DEMO.tables / "trial_gain.csv")
    found = findings.table(DEMO)
    found = found[found["question"].str.startswith("What moves balanced accuracy")].reset_index(drop=True)
    assert len(found) == len(told) > 4
    for row, part in zip(found.to_dict("records"), told.to_dict("records"), strict=True):
        assert row["question"].endswith(f"{part['part']} ({findings._network(part['network'])})")
        assert float(row[AUDITED].split()[0].replace("−", "-")) == pytest.approx(part["size"], abs=5e-4)
        assert (row[KIND] == findings.DRAWN) == (part["part"] != secondary.CHANCE)


def test_what_needs_no_generator_stands_beside_it():
    table = pd.read_csv(DEMO.tables / "trial_secondary.csv").query("measure == 'balanced accuracy by argmax'")
    own = table.set_index("comparison")["difference"]
    found = findings.table(DEMO).set_index("question")[AUDITED]
    for name in (protocol.LOGIT_ADJUSTMENT, protocol.CLASS_WEIGHTS, protocol.OVERSAMPLING):
        said = found[f"{findings.NEED_NONE} ({name})"].split()[0].replace("−", "-")
        assert float(said) == pytest.approx(own[f"{name} against {protocol.ORIGINALS}"], abs=5e-4)


def test_both_networks_climb_the_ladder_and_an_open_step_is_called_so():
    table = pd.read_csv(DEMO.tables / "classifier_ladder.csv").dropna(subset="difference")
    found = findings.table(DEMO)
    found = found[found["question"].str.startswith(("From as published", "And from its end"))].reset_index(drop=True)
    assert len(found) == len(table) and {"frozen features", "Keras CNN"} == set(table["network"])
    for row, step in zip(found.to_dict("records"), table.to_dict("records"), strict=True):
        assert step["step"] in row["question"] and step["measure"] in row["question"]
        assert float(row[AUDITED].split()[0].replace("−", "-")) == pytest.approx(step["difference"], abs=5e-4)
        clear = step["low"] > 0 or step["high"] < 0
        assert row[AUDITED].endswith(("not resolved", "no change")) == (not clear)
        assert row[AUDITED].endswith("no change") == (not clear and max(-step["low"], step["high"]) < 5e-4)


@pytest.mark.parametrize(
    ("waiting", "low", "said"), [(True, 0.001, True), (False, 0.001, False), (True, -0.001, False)]
)
def test_a_verdict_that_holms_count_may_change_is_called_provisional(waiting, low, said):
    family = {"role": protocol.FAMILY, "verdict": protocol.EQUIVALENT, "high": 0.005, "p": 0.02}
    trial = pd.DataFrame([family | {"seeds": 20, "low": low}, {"role": protocol.FAMILY, "seeds": 0 if waiting else 20}])
    assert ("unadjusted p = 0.020" in findings._provisional(trial.iloc[0], trial)) == said


def test_the_first_answer_stays_beside_a_second_one(tmp_path, monkeypatch):
    asked = "The same, asked first with images of an earlier generator (docs/PROTOCOL.md, amendments)"
    trial = pd.read_csv(DEMO.tables / "trial.csv").assign(profile="demo", generator="an earlier generator")
    (tmp_path / "docs/protocol").mkdir(parents=True)
    monkeypatch.setattr(findings, "project_root", lambda: tmp_path)
    for profile, moved, shown in (("demo", 0.0, False), ("demo", -0.02, True), ("ham10000", -0.02, False)):
        first = trial.assign(profile=profile, difference=trial["difference"] + moved, verdict="harms")
        first.to_csv(tmp_path / findings.FIRST_RUN, index=False)
        found = findings.table(DEMO).set_index("question")
        assert (asked in found.index) == shown
        assert not shown or found.loc[asked, AUDITED].startswith("harms: macro AUC ")


def test_the_first_answer_is_that_of_the_commit_which_the_protocol_names():
    first = pd.read_csv(ROOT / findings.FIRST_RUN)
    primary = first[first["role"] == protocol.PRIMARY].iloc[0]
    page = (ROOT / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")
    said = f"macro AUC −{-primary['difference']:.3f}, 95 % interval −{-primary['low']:.3f} to −{-primary['high']:.3f}"
    assert said in " ".join(page.split()) and first["commit"].iloc[0][:7] in page


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


def test_the_first_page_promises_table_3_where_it_ran():
    summary = pd.read_csv(ROOT / "results" / "ham10000" / "tables" / "ablation_summary.csv")
    ran = summary["protocol"].eq("as published").any()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("| 07_ablation")]
    assert ("not run yet on HAM10000" in row) == (not ran)
    assert ("*not run yet*" in text) == (
        "not run yet" in findings.markdown(workspace.Workspace(ROOT / "results/ham10000"), True)
    )


def test_the_first_page_is_read_in_a_minute():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1800
    first = text[: text.index("## ")]
    assert "make study" in first and "results/ham10000/figures/trial.png" in first and len(first.split()) < 300
