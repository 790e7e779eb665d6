"""The protocol in words, in constants and in numbers: the three agree, and the simulated design keeps its rate."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from dermstudy.classification import described, predictions, protocol, simulation
from dermstudy.data import dataset
from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.maintenance import power
from dermstudy.runner import provenance

PAGE = (ROOT / "docs/PROTOCOL.md").read_text()
FOLDER = ROOT / "docs/protocol"
COUNTS = pd.read_csv(FOLDER / power.COUNTS)
SMALL = pd.DataFrame({"entity": CODES, "images": 1, "lesions": [20, 60, 12, 20, 15, 15, 15]})


def table_of(head: str) -> list[list[str]]:
    """The cells of the page's table whose first line starts with `head`."""
    lines = PAGE[PAGE.index(f"| {head} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


RUNS = [path.parent for path in sorted(ROOT.glob("results/*/tables/trial.csv"))]


# Words and constants


def test_the_page_has_the_comparisons_of_the_constants():
    rows = [[cell.strip("*") for cell in row] for row in table_of("comparison")]
    assert [row[0] for row in rows] == [comparison.name for comparison in protocol.COMPARISONS]
    for row, comparison in zip(rows, protocol.COMPARISONS, strict=True):
        assert [row[1], row[2], row[4]] == [comparison.role, comparison.network, comparison.measure]


def test_the_page_names_every_training_set_and_no_other():
    named = set()
    for row in table_of("training set"):
        for name in re.findall(r"`([^`]+)`", row[0]):
            named.add(name.replace("…", "all originals + synthetic"))
    assert named == {name for sets in protocol.TRAINING_SETS.values() for name in sets}
    assert {row[0]: int(row[1]) for row in table_of("network")} == protocol.SEEDS


def test_every_comparison_is_of_training_sets_that_its_network_has():
    names = [comparison.name for comparison in protocol.COMPARISONS]
    assert len(set(names)) == len(names)
    for comparison in (*protocol.COMPARISONS, *described.PAIRS):
        assert set(comparison.training_sets) <= set(protocol.TRAINING_SETS[comparison.network]), comparison.name
        assert sum(coefficient for _, coefficient in comparison.coefficients) == pytest.approx(0)
        assert comparison.margin == protocol.MARGIN
    roles = [comparison.role for comparison in protocol.COMPARISONS]
    assert (roles.count(protocol.PRIMARY), roles.count(protocol.FAMILY), roles.count(protocol.CONTROL)) == (1, 4, 1)


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
    assert protocol.signed(-0.0123) == "−0.012" and protocol.signed(0.0004) == "0.000"
    assert protocol.signed(-0.0004) == "0.000" and protocol.signed(1) == "+1.000"
    assert [protocol.bound(end) for end in (-0.00038, 0.00002, -0.012)] == ["−0.0004", "0.000", "−0.012"]
    assert [protocol.p_words(p) for p in (1e-9, 0.0421, 0.5)] == ["< 0.001", "= 0.042", "= 0.50"]


# The committed numbers


def test_the_pages_tables_are_the_committed_ones():
    tables = [pd.read_csv(FOLDER / name) for name in (power.POWER, power.FALSE_ALARMS)]
    assert power.filled(PAGE, power.blocks(COUNTS, *tables)) == PAGE
    changed = tables[0].assign(detectable=0.5)
    assert power.filled(PAGE, power.blocks(COUNTS, changed, tables[1])) != PAGE


def test_false_alarms_are_at_the_nominal_rate():
    design, alarms = (pd.read_csv(FOLDER / name) for name in (power.POWER, power.FALSE_ALARMS))
    planned = design[design["seeds"].isin(protocol.SEEDS.values()) & (design["split"] == power.PRESENT)]
    assert len(planned) == 2 and planned["false_alarms"].between(0.03, 0.07).all()
    assert set(alarms["scenario"]) == set(simulation.SCENARIOS) and alarms["the_rule"].between(0.03, 0.07).all()


def test_what_the_page_says_of_the_tables():
    design, alarms = (pd.read_csv(FOLDER / name) for name in (power.POWER, power.FALSE_ALARMS))
    present = design[design["split"] == power.PRESENT].set_index("seeds")
    primary, few = present.loc[20], present.loc[5]
    assert primary["power_0.02"] > 0.97 and primary["power_0.005"] < 0.5 and primary["seeds_share"] < 0.2
    assert primary["equivalent_0.015"] > 0.8 and primary["equivalent_0.01"] < 1 / 3
    assert few["equivalent_0.015"] == pytest.approx(0.5, abs=0.05)
    first = design[design["split"] == power.FIRST].set_index("seeds")["detectable"].round(3)
    assert first.loc[[5, 10, 20]].tolist() == [0.018, 0.016, 0.015] and 0.022 < first.loc[3] <= 0.025
    many = alarms[(alarms["seeds"] == 20) & ~alarms["scenario"].eq("no effect on any lesion")]
    assert many["t_over_seeds"].between(0.35, 0.46).all()
    assert alarms["crossed_percentiles"].min() < 0.02 and alarms["crossed_percentiles"].max() > 0.08


def test_the_committed_power_is_what_the_simulation_gives():
    """One cell anew, with fewer trials and another seed."""
    committed = pd.read_csv(FOLDER / power.POWER).set_index(["split", "seeds"]).loc[(power.PRESENT, 5)]
    found = simulation.design(power.by_split(COUNTS)[power.PRESENT], 5, count=250, seed=9)
    assert found["difference"].std() == pytest.approx(committed["standard_error"], rel=0.15)
    assert simulation.detectable(found) == pytest.approx(committed["detectable"], rel=0.15)
    assert simulation.found_share(found, 0.01) == pytest.approx(committed["power_0.01"], abs=0.1)
    assert simulation.equivalent_share(found, 0.015) == pytest.approx(committed["equivalent_0.015"], abs=0.1)


def test_counts_are_those_of_the_images(ham10000):
    counted = power.count_lesions(dataset.load_folder(ham10000).frame, ROOT)
    pd.testing.assert_frame_equal(counted, COUNTS)


def test_counts_have_at_least_25_lesions_of_each_entity():
    lesions = COUNTS[COUNTS["split"] == power.PRESENT].groupby("entity")["lesions"].sum()
    assert set(lesions.index) == set(CODES) and lesions.min() >= 25
    # The variances are told for the lesions of the first split, before pairs of the same skin were joined in it.
    first = COUNTS[COUNTS["split"] == power.FIRST].groupby("entity")["lesions"].sum()
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


def test_shares_of_the_lesions_variance_by_entity():
    components, counts = simulation.PILOT, dict(simulation.PILOT.reference)
    of_entity = {code: each / counts[code] / 49 for code, each in components.by_lesion().items()}
    assert sum(of_entity.values()) == pytest.approx(components.lesions)
    assert of_entity["df"] == pytest.approx(0.77 * components.lesions)
    rare = sum(of_entity[code] for code in protocol.RARE)
    assert 0.81 < rare / components.lesions < 0.96


def test_shapes_have_variance_one():
    for draw in simulation.SHAPES.values():
        drawn = draw(np.random.default_rng(0), (400_000,))
        assert drawn.mean() == pytest.approx(0, abs=0.01) and drawn.var() == pytest.approx(1, abs=0.03)


def test_influences_of_a_simulated_trial_add_up_to_nothing_in_each_entity():
    contrast = next(iter(simulation.trials(SMALL, 3, simulation.PILOT, simulation.HEAVY, 1, 0)))
    for stratum in contrast.strata:
        np.testing.assert_allclose(contrast.influence[:, stratum].sum(axis=1), 0, atol=1e-12)


def test_more_effect_more_power_and_more_lesions_too():
    few, many = (simulation.design(SMALL.assign(lesions=SMALL["lesions"] * n), 4, count=200) for n in (1, 4))
    for found in (few, many):
        shares = [simulation.found_share(found, effect) for effect in (0.005, 0.01, 0.02, 0.05)]
        assert shares == sorted(shares)
        assert simulation.found_share(found, simulation.detectable(found)) >= 0.8
    assert simulation.detectable(many) < simulation.detectable(few)
    assert simulation.equivalent_share(many, 0.015) >= simulation.equivalent_share(few, 0.015)
    pd.testing.assert_frame_equal(few, simulation.design(SMALL, 4, count=200))


def test_the_rule_alarms_as_often_as_it_says():
    """Of today's code, not of the committed table: without an effect one trial in twenty is called one."""
    split = COUNTS[COUNTS["split"] == power.PRESENT].drop(columns="split")
    found = simulation.design(split, 5, count=1500, seed=3)
    assert 0.035 <= simulation.found_share(found, 0.0) <= 0.065


def test_the_command_writes_tables_and_page(tmp_path, capsys):
    (tmp_path / "docs/protocol").mkdir(parents=True)
    shutil.copy(ROOT / "docs/PROTOCOL.md", tmp_path / "docs")
    assert power.main(["--root", str(tmp_path)]) == 2 and "no counts of lesions" in capsys.readouterr().err
    tiny = pd.concat([SMALL.assign(split=name)[list(COUNTS.columns)] for name in power.FILES])
    tiny.to_csv(tmp_path / "docs/protocol" / power.COUNTS, index=False)
    assert power.main(["--root", str(tmp_path), "--trials", "3"]) == 0
    written = pd.read_csv(tmp_path / "docs/protocol" / power.POWER)
    assert len(written) == len(power.FILES) * len(simulation.SEEDS)
    page = (tmp_path / "docs/PROTOCOL.md").read_text()
    assert f"| {power.FIRST} | 157 | 20 | 60 |" in page
    (tmp_path / "docs/PROTOCOL.md").write_text(page.replace("<!-- power -->", ""))
    assert power.main(["--root", str(tmp_path), "--trials", "3"]) == 2
    assert "no place <!-- power -->" in capsys.readouterr().err
    with pytest.raises(InputError, match="no place"):
        power.filled("", {"power": ""})


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
    there = predictions.load(folder / "trial.npz").runs.groupby(["network", "training_set"]).size()
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
    assert told == [(one.network, one.name, one.measure) for one in described.PAIRS]


@pytest.mark.parametrize("tables", RUNS, ids=lambda path: path.parent.name)
def test_the_protocol_that_a_trial_names_is_older_than_its_run(tables):
    notes = json.loads((tables.parent / "manifest.json").read_text(encoding="utf-8"))
    fixed, ran = provenance.protocol_of(notes), notes["notebooks"][provenance.TRIAL]["commit"]
    assert fixed, "the trial's run names no commit of the protocol"
    asked = subprocess.run(["git", "merge-base", "--is-ancestor", fixed, ran], cwd=ROOT, capture_output=True, text=True)
    if asked.returncode == 128:
        pytest.skip("this clone does not hold both commits")
    assert asked.returncode == 0 and fixed != ran


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
