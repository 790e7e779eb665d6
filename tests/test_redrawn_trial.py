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

from dermstudy.classification import predictions, protocol, study_runs, training_sets
from dermstudy.entities import CODES

SEEDS = {protocol.FROZEN: 6, protocol.TUNED: 5, protocol.KERAS: 5}


def written(root):
    """What `study_runs.ensure` leaves, of simulated networks; seed 2 of the longer training has failed."""
    root.mkdir()
    images = pd.concat([lesion_images(), lesion_images(1, split="validation")], ignore_index=True)
    frozen, tuned, keras = (
        simulated(dict.fromkeys(protocol.TRAINING_SETS[network], 2.0), network, seeds, images, number)
        for number, (network, seeds) in enumerate(SEEDS.items())
    )
    failed = keras.log_probabilities.copy()
    failed[(keras.runs["training_set"] == protocol.LONGER) & (keras.runs["seed"] == 2)] = np.nan
    whole = predictions.joined([frozen, tuned, replace(keras, log_probabilities=failed)])
    predictions.save_predictions(whole, root / "trial.npz")
    mixed = lesion_images().assign(split="original")
    for name in training_sets.PUBLISHED:
        predictions.save_predictions(simulated({name: 2.0}, protocol.KERAS, 5, mixed), root / f"published_{name}.npz")
    sets = [("as published", name) for name in training_sets.PUBLISHED]
    sets += [("audited", name) for name in protocol.TRAINING_SETS[protocol.KERAS]]
    rows = [
        (protocol.KERAS, *names, seed, epoch, 1.0, 1.0 + 0.1 * (epoch != 2), 8, None)
        for names in sets for seed in range(5) for epoch in (1, 2, 3)
    ]  # fmt: skip
    tables = {
        "counts": pd.DataFrame({"entity": CODES, "training originals": 9}),
        "people": images[["image_id"]].assign(sex="female", age=50, localization="back"),
        "left_out": pd.DataFrame(columns=["network", "training_set", "reason"]),
        "histories": pd.DataFrame(rows, columns=list(study_runs.HISTORY_COLUMNS)),
    }
    for name, table in tables.items():
        table.to_csv(root / f"{name}.csv", index=False)


@pytest.mark.slow
def test_every_networks_runs_are_drawn_whatever_seeds_the_parameters_name(tmp_path):
    results, made = tmp_path / "results", tmp_path / "results" / "07.ipynb"
    written(tmp_path / "predictions")
    results.mkdir()
    seeds = {"KERAS_SEEDS": 0, "TUNED_SEEDS": 0, "FROZEN_SEEDS": 6}
    given = seeds | {"RESULTS": str(results), "PREDICTIONS": str(tmp_path / "predictions"), "RESAMPLES": 20}
    papermill.execute_notebook(
        str(ROOT / "notebooks" / "07_ablation.ipynb"), str(made), given, cwd=str(ROOT), kernel_name="python3",
        progress_bar=False,
    )  # fmt: skip
    outputs = [out for cell in nbformat.read(made, as_version=4).cells for out in cell.get("outputs", [])]
    said = "".join(out.get("text", "") + out.get("data", {}).get("text/html", "") for out in outputs)
    assert "Empty DataFrame" not in said and not [out for out in outputs if out.get("name") == "stderr"]
    assert "failed: Keras CNN, longer training, seed 2" in said
    assert "fine-tuned, all originals against the 30 % subset" in said  # no name is cut
    tables = {path.stem: pd.read_csv(path) for path in (results / "tables").glob("*.csv")}
    primary = tables["trial"].iloc[0]
    assert (primary["seeds"], primary["missing"], primary["verdict"]) == (6, 14, protocol.NOT_RESOLVED)
    keras = tables["trial"].set_index("comparison").loc["combined against longer training"]
    assert keras["missing_seeds"] == "2" and keras["verdict"] == protocol.NOT_RESOLVED  # of five none may be missing
    every = tables["ablation"].query("model == 'Keras CNN' and metric == 'accuracy'")
    ran = every.groupby(["protocol", "training_set"])["seed"].apply(list)
    assert ran["audited", protocol.LONGER] == [0, 1, 3, 4] and ran["as published", "combined"] == list(range(5))
    steps = tables["ablation_steps"]
    assert len(steps) == 35 and steps["kept_epoch"].eq(2).all() and steps["steps"].eq(24).all()
    assert "ablation_summary" in tables
