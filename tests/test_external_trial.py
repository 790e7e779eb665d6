"""Other people's images in 07: a folder without rare entities and with an overlap, through the notebook's own cells."""

from __future__ import annotations

import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from dermstudy import workspace
from dermstudy.classification import feature_sets, frozen_features, predictions, protocol, runs, trial
from dermstudy.classification.encoding import Settings, View
from dermstudy.data import dataset, external
from dermstudy.files import InputError
from dermstudy.phantom import cohort as phantom

SETTINGS = Settings((View(64),), ("pixels",), 6)
EXTERNAL_CELL = "80ae3794"


@pytest.fixture(scope="module")
def folder(cohort, tmp_path_factory):
    """Melanomas, nevi and one dermatofibroma of another phantom, and one image that the cohort holds too."""
    root = tmp_path_factory.mktemp("others")
    other = dataset.load_folder(phantom.write_cohort(root / "phantom", 140, 11, 128, "balanced", 4))
    frame = other.frame
    lesion = frame.loc[frame["dx"] == "df", "lesion_id"].iloc[0]
    kept = pd.concat([frame[frame["dx"].isin(["mel", "nv"])], frame[frame["lesion_id"] == lesion]])
    known = cohort.frame.iloc[[0]]
    rows = []
    (root / "own").mkdir()
    for source, own in ((other.root, kept), (cohort.root, known)):
        for row in own.itertuples():
            name = f"OTHER_{len(rows):04d}"
            shutil.copy(source / row.file, (root / "own" / name).with_suffix((source / row.file).suffix))
            rows.append((name, row.dx, row.lesion_id))
    pd.DataFrame(rows, columns=["image_id", "dx", "lesion_id"]).to_csv(root / "own" / "metadata.csv", index=False)
    return root / "own"


@pytest.mark.slow
def test_the_trial_is_asked_on_a_folder_without_rare_entities(cohort, folder, tmp_path, capsys):
    with pytest.raises(InputError, match=r"by the same file: OTHER_\d+ \("):
        external.load_external(folder, cohort, tmp_path / "features")
    table = pd.read_csv(folder / "metadata.csv")
    table[:-1].to_csv(folder / "metadata.csv", index=False)
    others = external.load_external(folder, cohort, tmp_path / "features")
    chosen = cohort.frame[cohort.frame["split"] == "train"].groupby("dx").head(3)
    made = chosen.assign(source_image_id=chosen["image_id"], image_id="synthetic_" + chosen["image_id"])
    columns = ["image_id", "dx", "file", "caption", "source_image_id"]
    pool = {feature_sets.WHOLE: dataset.Cohort("synthetic", cohort.root, made[columns].reset_index(drop=True), "s")}
    images = runs.gather(cohort, pool, runs.CAPTIONED, external=others)
    frozen = runs.frozen_runs(images, SETTINGS, range(2), tmp_path / "features")
    without = [runs.without(network, "no seeds") for network in (protocol.TUNED, protocol.KERAS)]
    found = predictions.load(runs.save(tmp_path / "predictions", frozen, *without, {}) / "trial.npz")
    asked, _ = trial.answerable(found)
    capsys.readouterr()

    cells = {cell.id: cell.source for cell in nbformat.read(ROOT / "notebooks" / "07_ablation.ipynb", 4).cells}
    space = {
        "EXTERNAL": str(folder), "PREDICTIONS": "", "RESAMPLES": 20, "SEED": 0, "others": others, "found": found,
        "asked": asked, "seeds": trial.planned({protocol.FROZEN: 2, protocol.TUNED: 0, protocol.KERAS: 0}, small=True),
        "ws": workspace.open_workspace(tmp_path / "results"), "trial": trial, "frozen_features": frozen_features,
    }  # fmt: skip
    exec(compile(cells[EXTERNAL_CELL], "07_ablation", "exec"), space)
    said = capsys.readouterr().out
    assert "left out, for an interval needs two lesions: dermatofibroma" in said
    assert (
        "left out, for no image shows it: actinic keratosis, benign keratosis, basal cell carcinoma, vascular" in said
    )
    assert "left out, for none of its entities is left: rare entities alone" in said
    written = pd.read_csv(tmp_path / "results" / "tables" / "trial_external.csv")
    assert written["comparison"].iloc[0] == "synthetic against repeated originals" and written["low"].notna().all()
    assert "rare entities alone" not in set(written["comparison"])


def test_predictions_that_were_never_asked_about_such_images_say_so(cohort):
    images = cohort.frame[cohort.frame["split"] == "test"].reset_index(drop=True)[list(predictions.IMAGE_COLUMNS)]
    ran = pd.DataFrame({"network": [protocol.FROZEN], "training_set": [protocol.ORIGINALS], "seed": [0]})
    own = predictions.Predictions(
        images, ran, np.full((1, 7), 1 / 7), np.full((1, len(images), 7), np.log(1 / 7), np.float32)
    )
    with pytest.raises(
        InputError, match="no run was asked about an external image: train with EXTERNAL, without PREDICTIONS"
    ):
        trial.elsewhere(own, protocol.COMPARISONS, "external")
