"""07 drawn again from a folder of predictions that holds every network's runs, one of them failed, and no image."""

from __future__ import annotations

from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from conftest import ROOT
from simulated_trial import lesion_images, simulated

from dermstudy.classification import predictions, protocol, runs, training_sets
from dermstudy.entities import CODES

SEEDS = {protocol.FROZEN: 6, protocol.TUNED: 5, protocol.KERAS: 5}
NOT_FOUND = "Table 3 as published was not run here"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `runs.save` and `runs.describe` leave, of simulated networks; seed 2 of the longer training has failed."""
    root = tmp_path_factory.mktemp("redrawn") / "predictions"
    root.mkdir()
    images = pd.concat([lesion_images(), lesion_images(1, split="validation")], ignore_index=True)
    parts = [
        simulated(dict.fromkeys(protocol.TRAINING_SETS[network], 2.0), network, seeds, images, number)
        for number, (network, seeds) in enumerate(SEEDS.items())
    ]
    failed = parts[2].log_probabilities.copy()
    failed[(parts[2].runs["training_set"] == protocol.LONGER) & (parts[2].runs["seed"] == 2)] = np.nan
    parts[2] = replace(parts[2], log_probabilities=failed)
    predictions.save(predictions.joined(parts), root / "trial.npz")
    own = lesion_images().assign(split="original")
    for name in training_sets.PUBLISHED:
        predictions.save(simulated({name: 2.0}, protocol.KERAS, 5, own), root / f"published_{name}.npz")
    pd.DataFrame({"entity": CODES, "training originals": 9}).to_csv(root / "counts.csv", index=False)
    people = pd.DataFrame({"image_id": images["image_id"], "sex": "female", "age": 50, "localization": "back"})
    people.to_csv(root / "people.csv", index=False)
    pd.DataFrame(columns=runs.LEFT_OUT_COLUMNS).to_csv(root / "left_out.csv", index=False)
    sets = [("as published", name) for name in training_sets.PUBLISHED]
    sets += [("audited", name) for name in protocol.TRAINING_SETS[protocol.KERAS]]
    rows = [
        (protocol.KERAS, *names, seed, epoch, 1.0, 1.0 + 0.1 * (epoch != 2), 8, None)
        for names in sets
        for seed in range(5)
        for epoch in (1, 2, 3)
    ]
    pd.DataFrame(rows, columns=list(runs.HISTORY_COLUMNS)).to_csv(root / "histories.csv", index=False)
    return root


def drawn(folder, results, **given) -> tuple[str, list[str]]:
    """What the cells of 07 print, and its tables."""
    made = results / "07.ipynb"
    results.mkdir()
    given |= {"RESULTS": str(results), "PREDICTIONS": str(folder), "RESAMPLES": 20}
    papermill.execute_notebook(
        str(ROOT / "notebooks" / "07_ablation.ipynb"), str(made), given, cwd=str(ROOT), kernel_name="python3",
        progress_bar=False,
    )  # fmt: skip
    outputs = [out for cell in nbformat.read(made, as_version=4).cells for out in cell.get("outputs", [])]
    said = "".join(out.get("text", "") + out.get("data", {}).get("text/html", "") for out in outputs)
    assert "Empty DataFrame" not in said and not [out for out in outputs if out.get("name") == "stderr"]
    return said, sorted(path.stem for path in (results / "tables").glob("*.csv"))


@pytest.mark.slow
def test_every_networks_runs_are_drawn_whatever_seeds_the_parameters_name(folder, tmp_path):
    said, tables = drawn(folder, tmp_path / "results", KERAS_SEEDS=0, TUNED_SEEDS=0, FROZEN_SEEDS=6)
    assert "failed: Keras CNN, longer training, seed 2" in said and NOT_FOUND not in said
    table = pd.read_csv(tmp_path / "results" / "tables" / "trial.csv").set_index("comparison")
    primary, keras = table.iloc[0], table.loc["combined against longer training"]
    assert (primary["seeds"], primary["missing"], primary["verdict"]) == (6, 14, protocol.NOT_RESOLVED)
    assert keras["missing_seeds"] == "2" and keras["verdict"] == protocol.NOT_RESOLVED  # of five none may be missing
    every = pd.read_csv(tmp_path / "results" / "tables" / "ablation.csv").query("model == 'Keras CNN'")
    own = every[every["metric"] == "accuracy"].groupby(["protocol", "training_set"])["seed"].apply(list)
    assert own["audited", protocol.LONGER] == [0, 1, 3, 4] and own["as published", "combined"] == list(range(5))
    steps = pd.read_csv(tmp_path / "results" / "tables" / "ablation_steps.csv")
    assert len(steps) == 35 and steps["kept_epoch"].eq(2).all() and steps["steps"].eq(24).all()
    assert "ablation_summary" in tables
    assert "fine-tuned, all originals against the 30 % subset" in said  # no name is cut


@pytest.mark.slow
def test_without_the_small_network_one_sentence_says_so(folder, tmp_path):
    own = tmp_path / "predictions"
    own.mkdir()
    for name in ("counts", "people", "left_out"):
        (own / f"{name}.csv").write_bytes((folder / f"{name}.csv").read_bytes())
    pd.DataFrame(columns=list(runs.HISTORY_COLUMNS)).to_csv(own / "histories.csv", index=False)
    whole = predictions.load(folder / "trial.npz")
    predictions.save(whole.select(network=protocol.FROZEN), own / "trial.npz")
    said, tables = drawn(own, tmp_path / "results", ORIGINALS="captioned", FROZEN_SEEDS=6)
    assert said.count(NOT_FOUND) == 1 and "ablation_steps" not in tables
    primary = pd.read_csv(tmp_path / "results" / "tables" / "trial.csv").iloc[0]
    assert (primary["seeds"], primary["missing"]) == (6, 0)  # a demonstration plans its own number
