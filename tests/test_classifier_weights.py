"""The head in weights/classifier: its lineage, its card and its tables agree, and it still finds what it found."""

import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from dermstudy import pretrained
from dermstudy.classification import encoding, measures, shipped_head
from dermstudy.files import InputError, sha256_file
from dermstudy_commands.maintenance.classifier import CANDIDATES, CHOSEN, card, open_data

SHIPPED = ROOT / "weights/classifier"


def test_the_shipped_head_is_what_its_card_and_tables_say():
    head = shipped_head.load_head(SHIPPED / "head.safetensors")
    assert head.lineage["split_sha256"] == sha256_file(ROOT / "weights/ham10000-split.csv")
    assert head.lineage["network_sha256"] == pretrained.WEIGHTS_SHA256
    assert "+" not in head.lineage["commit"]
    settings = pd.read_csv(SHIPPED / "tables/settings.csv")
    best = settings[(settings["settings"] == CHOSEN) & settings["chosen"]].iloc[0]
    assert best["balanced_log_loss"] < settings["balanced_log_loss"].min() + 0.01
    assert best["penalty"] == pytest.approx(head.lineage["penalty"], rel=1e-3)
    assert head.settings == CANDIDATES[CHOSEN]
    card = (SHIPPED / "README.md").read_text()
    scores = pd.read_csv(SHIPPED / "tables/scores.csv")
    for _, own in scores.groupby(["model", "training_set", "split"]):
        assert f"{own['macro_auc'].mean():.3f} | {own['balanced_accuracy'].mean():.3f}" in card
    assert "Not for diagnosis" in card and "CC BY-NC 4.0" in card
    assert (SHIPPED / "head.safetensors").stat().st_size < 3e6


@pytest.mark.slow
def test_the_shipped_head_still_finds_its_figures(ham10000):
    """A few test images of each entity, encoded anew: the shipped head ranks them far better than chance."""
    cohort = open_data(ham10000)
    rows = cohort.frame[cohort.frame["split"] == "test"].groupby("dx").head(6)
    ids = list(rows["image_id"])
    head = shipped_head.load_head(SHIPPED / "head.safetensors")
    views = [encoding.encoded_now(cohort, view, ids) for view in head.settings.views]
    shares, true = head.probabilities(head.settings.features(views)), measures.places_of(rows["dx"])
    assert measures.macro_area(shares, true, np.ones((1, len(rows))))[0] > 0.85


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda folder: (folder / "tables" / "scores.csv").write_text("x"),
            "scores.csv is not the file that was shipped",
        ),
        (lambda folder: (folder / "tables" / "scores.csv").unlink(), "scores.csv is missing: .*git checkout"),
        (lambda folder: (folder / "other.safetensors").touch(), "other.safetensors did not ship with the model"),
        (lambda folder: (folder / "SHA256SUMS").write_text("x"), "SHA256SUMS cannot be read"),
    ],
)
def test_shipped_weights_are_compared_with_their_checksums_when_they_are_loaded(tmp_path, harm, message):
    folder = shutil.copytree(SHIPPED, tmp_path / "classifier")
    (folder / ".DS_Store").touch()
    shipped_head.load_head(folder / "head.safetensors")
    harm(other := shutil.copytree(SHIPPED, tmp_path / "other"))
    with pytest.raises(InputError, match=message):
        shipped_head.load_head(other / "head.safetensors")
    (other / "SHA256SUMS").unlink()  # weights changed on purpose
    shipped_head.load_head(other / "head.safetensors")


def test_the_card_is_what_its_command_writes():
    assert (SHIPPED / "README.md").read_text(encoding="utf-8") == card(SHIPPED)
