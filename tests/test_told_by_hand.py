"""Figures that a page tells in its own words stand in the tables that they are read from."""

from __future__ import annotations

import re

import pandas as pd
from conftest import ROOT

from dermstudy.classification import frozen_features, predictions, protocol, secondary
from dermstudy.entities import CODES

TABLES = ROOT / "results" / "ham10000" / "tables"


def test_what_became_of_the_first_gain_is_told_with_todays_figures():
    page = " ".join((ROOT / "results" / "ham10000" / "README.md").read_text(encoding="utf-8").split())
    told = page[page.index("**What became of +0.099.**") : page.index("<!-- dermstudy findings")]
    size = pd.read_csv(TABLES / "trial_gain.csv").set_index(["part", "network"])["size"]
    said = {
        "gains this network": size[secondary.PRIOR, protocol.KERAS],
        "30 % gains": size[secondary.ACCESS, protocol.FROZEN],
        "of three runs today": size[secondary.CHANCE, protocol.KERAS],
    }
    for words, value in said.items():
        assert re.search(rf"{words} {value:.3f}\b", told), (words, value)


def test_the_standard_errors_that_the_protocol_tells_are_those_of_the_run_and_of_the_plan():
    page = " ".join((ROOT / "docs" / "PROTOCOL.md").read_text(encoding="utf-8").split())
    told = page[page.index("*Planned and had.*") :]
    had = pd.read_csv(TABLES / "trial.csv").set_index("comparison")["standard_error"]
    planned = pd.read_csv(ROOT / "docs" / "protocol" / "power.csv").query("split == 'present split, test'")
    planned = planned.set_index("seeds")["standard_error"]
    assert f"plans a standard error of {planned[20]:.4f} for the primary comparison" in told
    assert f"the trial's was {had['synthetic against repeated originals']:.4f} " in told
    assert f"{had[protocol.TUNED_PRIMARY]:.4f} in place of {planned[5]:.4f}" in told


def test_where_the_fine_tuned_network_falls_short_is_told_with_its_figures():
    page = " ".join((ROOT / "docs" / "PROTOCOL.md").read_text(encoding="utf-8").split())
    told = page[page.index("*Balanced accuracy.* 0.76") :]
    kept = predictions.load(ROOT / "results" / "ham10000" / "predictions" / "trial.npz")
    own = kept.select(network=protocol.TUNED, training_set=protocol.ORIGINALS)
    reached = {split: frozen_features.balanced_accuracy(own.select(split=split)) for split in ("test", "validation")}
    assert f"The mean of five seeds is {reached['test'].mean():.3f} on test lesions" in told and len(own.runs) == 5
    assert f"{reached['validation'].mean():.3f} on validation lesions" in told
    images = own.select(split="test")
    right = images.corrected().argmax(axis=2) == pd.Index(CODES).get_indexer(images.images["dx"])
    recalls = pd.Series(right.mean(axis=0)).groupby(images.images["dx"]).mean().sort_values()
    assert list(recalls.index[:2]) == ["bkl", "mel"]
    assert f"benign keratosis (recall {recalls['bkl']:.2f}) and melanoma ({recalls['mel']:.2f})" in told


def test_the_epochs_and_settings_that_the_protocol_tells_are_those_of_the_tables():
    page = " ".join((ROOT / "docs" / "PROTOCOL.md").read_text(encoding="utf-8").split())
    told, folder = page[page.index("*Epochs of all runs.*") :], ROOT / "results" / "ham10000"
    curves = pd.read_csv(folder / "predictions" / "histories.csv").query("network == @protocol.TUNED")
    runs = curves.groupby(["training_set", "seed"])
    assert len(runs) == 20 and (runs.size() == 6).all()
    kept = curves.loc[runs["validation_loss"].idxmin()].groupby("training_set")["epoch"].agg(["min", "max"])
    assert {name: tuple(own) for name, own in kept.T.items()} == {
        protocol.ORIGINALS: (5, 6), protocol.ONCE: (5, 6), protocol.REPEATED: (3, 4), protocol.SUBSET: (4, 5),
    }  # fmt: skip
    rows = pd.read_csv(folder / "tables" / "fine_tuning_settings.csv")
    assert rows["balanced_log_loss"].idxmin() == 0 and rows[["rate", "epochs"]].iloc[0].tolist() == [0.0003, 6]
    for row in rows.itertuples():
        assert f"{row.balanced_log_loss:.3f}" in told and f"{row.balanced_accuracy:.3f}" in told
    seeds = curves[curves["training_set"] == protocol.ORIGINALS].groupby("seed")["validation_loss"].min()
    assert "the one of the five with which the trial's setting does best by that loss" in told and seeds.idxmin() == 0
