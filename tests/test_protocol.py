"""The protocol in words, in constants and in numbers: the three agree, and the simulated design keeps its rate."""

from __future__ import annotations

import json
import re
import subprocess

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, committed

from dermstudy.classification import effects, predictions, protocol
from dermstudy.entities import CODES
from dermstudy_commands.maintenance import simulation
from dermstudy_commands.runner import provenance

PAGE = (ROOT / "docs/PROTOCOL.md").read_text()
FOLDER = ROOT / "docs/protocol"
COUNTS = pd.read_csv(FOLDER / "test_lesions.csv")
PRESENT, FIRST = "present split, test", "first split, test"


def table_of(head: str) -> list[list[str]]:
    """The cells of the page's table whose first line starts with `head`."""
    lines = PAGE[PAGE.index(f"| {head} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


RUNS = [folder / "tables" for folder in committed() if (folder / "tables/trial.csv").is_file()]


# Words and constants


def test_the_page_has_the_comparisons_of_the_constants():
    rows = [[cell.strip("*") for cell in row] for row in table_of("comparison")]
    assert [row[0] for row in rows] == [comparison.name for comparison in protocol.COMPARISONS]
    for row, comparison in zip(rows, protocol.COMPARISONS, strict=True):
        assert [row[1], row[2], row[4]] == [comparison.role, comparison.network, comparison.measure]


def test_the_page_names_every_training_set_and_no_other():
    named = set()
    for row in [*table_of("training set"), *table_of("added training set")]:
        for name in re.findall(r"`([^`]+)`", row[0]):
            named.add(name.replace("…", "all originals + synthetic"))
    assert named == {name for sets in protocol.TRAINING_SETS.values() for name in sets}
    assert {row[0]: int(row[1]) for row in table_of("network")} == protocol.SEEDS


def test_every_comparison_is_of_training_sets_that_its_network_has():
    names = [comparison.name for comparison in protocol.COMPARISONS]
    assert len(set(names)) == len(names)
    for comparison in (*protocol.COMPARISONS, *protocol.PAIRS):
        assert set(comparison.training_sets) <= set(protocol.TRAINING_SETS[comparison.network]), comparison.name
        assert sum(coefficient for _, coefficient in comparison.coefficients) == pytest.approx(0)
        assert comparison.margin == protocol.MARGIN
    roles = [comparison.role for comparison in protocol.COMPARISONS]
    assert (roles.count(protocol.PRIMARY), roles.count(protocol.FAMILY), roles.count(protocol.CONTROL)) == (1, 4, 1)
    named = [comparison.name for comparison in (*protocol.COMPARISONS, *protocol.PAIRS)]
    assert len(effects.IN_SHORT) == 5 and all(named.count(name) == 1 for name in (*effects.IN_SHORT, *effects.BESIDE))


def test_the_page_gives_margin_rule_and_words():
    assert f"One rule: ±{protocol.MARGIN} for every comparison" in PAGE and "More than one in ten" in PAGE
    assert protocol.MISSING == 0.1 and protocol.LEVEL == 0.05
    words = {"subject": "…", "Subject": "…", "measure": "macro AUC", "size": "D", "difference": "D", "p": "p = P"}
    for verdict, wording in protocol.WORDING.items():
        assert f'*{verdict}*: "{wording.format(**words, low="L", high="H", margin="M")}"' in PAGE


def test_slopes_of_two_doses_are_a_difference():
    assert protocol.slope({"more": 1.0, "none": 0.0}) == protocol.difference("more", "none")
    x, y = np.array([0, 0.5, 1, 2]), np.array([0.9, 0.92, 0.91, 0.95])
    weights = [weight for _, weight in protocol.slope(dict(zip("abcd", x, strict=True)))]
    assert np.dot(weights, y) == pytest.approx(np.polyfit(x, y, 1)[0])


def test_numbers_in_words():
    assert [protocol.signed(value) for value in (-0.0123, 0.0004, -0.0004, 1)] == ["−0.012", "0.000", "0.000", "+1.000"]
    assert [protocol.bound(end) for end in (-0.00038, 0.00002, -0.012)] == ["−0.0004", "0.000", "−0.012"]
    assert [protocol.p_words(p) for p in (1e-9, 0.0421, 0.5)] == ["< 0.001", "= 0.042", "= 0.50"]


# The committed numbers


def test_what_the_page_says_of_the_tables():
    design, alarms = (pd.read_csv(FOLDER / name) for name in ("power.csv", "false_alarms.csv"))
    present = design[design["split"] == PRESENT].set_index("seeds")
    primary, few = present.loc[20], present.loc[5]
    assert primary["power_0.02"] > 0.97 and primary["power_0.005"] < 0.5 and primary["seeds_share"] < 0.2
    assert primary["equivalent_0.015"] > 0.8 and primary["equivalent_0.01"] < 1 / 3
    assert few["equivalent_0.015"] == pytest.approx(0.5, abs=0.05)
    first = design[design["split"] == FIRST].set_index("seeds")["detectable"].round(3)
    assert first.loc[[5, 10, 20]].tolist() == [0.018, 0.016, 0.015] and 0.022 < first.loc[3] <= 0.025
    many = alarms[(alarms["seeds"] == 20) & ~alarms["scenario"].eq("no effect on any lesion")]
    assert many["t_over_seeds"].between(0.35, 0.46).all()
    assert alarms["crossed_percentiles"].min() < 0.02 and alarms["crossed_percentiles"].max() > 0.08


def test_the_committed_power_is_what_the_simulation_gives():
    """One cell anew, with fewer trials and another seed."""
    committed = pd.read_csv(FOLDER / "power.csv").set_index(["split", "seeds"]).loc[(PRESENT, 5)]
    found = simulation.design(COUNTS[COUNTS["split"] == PRESENT], 5, count=250, seed=9)
    assert found["difference"].std() == pytest.approx(committed["standard_error"], rel=0.15)
    assert simulation.detectable(found) == pytest.approx(committed["detectable"], rel=0.15)
    assert simulation.found_share(found, 0.01) == pytest.approx(committed["power_0.01"], abs=0.1)
    assert simulation.equivalent_share(found, 0.015) == pytest.approx(committed["equivalent_0.015"], abs=0.1)


def test_counts_have_at_least_25_lesions_of_each_entity():
    lesions = COUNTS[COUNTS["split"] == PRESENT].groupby("entity")["lesions"].sum()
    assert set(lesions.index) == set(CODES) and lesions.min() >= 25
    # The variances are told for the lesions of the first split, before pairs of the same skin were joined in it.
    first = COUNTS[COUNTS["split"] == FIRST].groupby("entity")["lesions"].sum()
    reference = pd.Series(dict(simulation.PILOT.reference))
    assert ((reference - first).between(0, 2)).all()


# The simulation


def test_simulated_differences_have_the_components_variance():
    lesions = pd.DataFrame(
        {"entity": CODES, "images": 1, "lesions": [dict(simulation.PILOT.reference)[c] for c in CODES]}
    )
    for seeds in (2, 8):
        contrasts = list(simulation.trials(lesions, seeds, simulation.PILOT, "normal", 1500, 0))
        means = np.array([contrast.values.mean() for contrast in contrasts])
        assert means.var() == pytest.approx(2.5e-5 + 7.5e-5 / seeds, rel=0.12)
        single = np.array([contrast.values[0] - contrast.values[1] for contrast in contrasts])
        assert single.var() / 2 == pytest.approx(7.5e-5, rel=0.12)


def test_the_rule_alarms_as_often_as_it_says():
    """Of today's code, not of the committed table: without an effect one trial in twenty is called one."""
    split = COUNTS[COUNTS["split"] == PRESENT].drop(columns="split")
    found = simulation.design(split, 5, count=1500, seed=3)
    assert 0.035 <= simulation.found_share(found, 0.0) <= 0.065


# Committed runs


@pytest.mark.parametrize("tables", RUNS, ids=lambda path: path.parent.name)
def test_a_committed_trial_asks_what_the_protocol_asks(tables):
    """The whole of it on real images; on the phantom those whose training sets its images allow."""
    rows = pd.read_csv(tables / "trial.csv").set_index("comparison")
    known = {comparison.name: comparison for comparison in protocol.COMPARISONS}
    if tables.parent.name == "ham10000":
        assert list(rows.index) == list(known)
    assert set(rows.index) <= set(known) and rows.index.is_unique
    for name, row in rows.iterrows():
        comparison = known[name]
        assert (row["role"], row["network"], row["measure"], row["margin"]) == (
            comparison.role, comparison.network, comparison.measure, comparison.margin
        )  # fmt: skip
        assert row["verdict"] in protocol.VERDICTS


def test_every_committed_run_was_made_under_an_older_page():
    """predictions/provenance.csv: the code that made the runs of a training set, the page that it stood under, their commit."""
    folder = ROOT / "results" / "ham10000" / "predictions"
    rows = pd.read_csv(folder / "provenance.csv", dtype=str)
    there = predictions.load_predictions(folder / "trial.npz").runs.groupby(["network", "training_set"]).size()
    named = rows.astype({"seeds": int}).set_index(["network", "training_set"])["seeds"]
    assert there.sort_index().to_dict() == named.sort_index().to_dict()

    def older(first: str, then: str) -> bool:
        asked = subprocess.run(["git", "merge-base", "--is-ancestor", first, then], cwd=ROOT, capture_output=True)
        if asked.returncode == 128:
            pytest.skip("this clone does not hold both commits")
        return asked.returncode == 0 and first != then

    for row in rows.drop_duplicates("run").itertuples():
        assert older(row.protocol, row.run) and older(row.run, row.committed), row


def test_what_is_described_is_listed_on_the_page():
    listed = PAGE.split("<!-- described -->\n")[1].split("<!-- end -->")[0].strip().splitlines()[2:]
    told = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in listed]
    assert told == [(one.network, one.name, one.measure) for one in protocol.PAIRS]


@pytest.mark.parametrize("tables", RUNS, ids=lambda path: path.parent.name)
def test_the_protocol_that_a_trial_names_is_older_than_its_run(tables):
    notes = json.loads((tables.parent / "manifest.json").read_text(encoding="utf-8"))
    entry = notes["notebooks"][provenance.TRIAL]
    fixed, ran = entry["protocol"]["commit"], entry["commit"]
    asked = subprocess.run(["git", "merge-base", "--is-ancestor", fixed, ran], cwd=ROOT, capture_output=True, text=True)
    if asked.returncode == 128:
        pytest.skip("this clone does not hold both commits")
    assert asked.returncode == 0 and fixed != ran


@pytest.mark.parametrize("runs", ["curve.npz", "scarce.npz", "design.npz"])
def test_the_plan_of_the_curve_is_older_than_its_runs(runs):
    git, plan = (
        ["git", "-C", str(ROOT), "log", "--format=%H", "--reverse"],
        "what quality helps, scarce data, and the paper",
    )
    asked = (
        [*git, f"-S{plan}", "--", "docs/PROTOCOL.md"],
        [*git, "--diff-filter=A", "--", f"results/ham10000/predictions/{runs}"],
    )
    found = [subprocess.run(command, capture_output=True, text=True).stdout.split() for command in asked]
    if not all(found):
        pytest.skip("this clone does not hold both commits")
    older = subprocess.run(["git", "-C", str(ROOT), "merge-base", "--is-ancestor", found[0][0], found[1][0]])
    assert older.returncode == 0 and found[0][0] != found[1][0]


def test_the_history_of_the_page_is_told_on_it():
    """Every commit that changed what stands above the amendments, but the first, is named below."""
    git = ["git", "-C", str(ROOT)]
    log = subprocess.run(
        [*git, "log", "--reverse", "--format=%H", "--", "docs/PROTOCOL.md"], capture_output=True, text=True
    )
    above, amendments = PAGE.split("## Amendments\n")
    before = None
    for name in log.stdout.split():
        text = subprocess.run([*git, "show", f"{name}:docs/PROTOCOL.md"], capture_output=True, text=True).stdout
        body = text.split("## Amendments\n")[0]
        assert before in (None, body) or name[:7] in amendments, f"{name} edited the page and no amendment says so"
        before = body
    assert before in (None, above), "what stands above the amendments is not edited"
