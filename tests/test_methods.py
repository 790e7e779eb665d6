"""Method cells of 04 to 08, run on prepared names: what they compute by hand is what the helper computes."""

from __future__ import annotations

import ast
import contextlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from test_notebooks import code_cells, method_cells

from dermstudy import entities
from dermstudy.classification import keras_network, predictions, protocol, quality_curve, trial
from dermstudy.diffusion import architecture, finetune, glide
from dermstudy.entities import CODES, PROMPTS
from dermstudy.evaluation.features import Features


def method_run(stem: str, *before: str, **names) -> dict:
    """The names after the notebook's imports, the cells that start with `before` and its method cells ran with `names`."""
    statements = [node for code in code_cells(stem).values() for node in ast.parse(code).body]
    imports = ast.Module([node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)], [])
    needed = [code for code in code_cells(stem).values() if before and code.startswith(before)]
    for code in (imports, *needed, *method_cells(stem)):
        exec(compile(code, stem, "exec"), names)
    return names


def test_kid_by_hand_is_the_helpers():
    random = np.random.default_rng(0)
    sides = {
        name: {code: random.normal(shift, 1, (count, 64)).astype(np.float32) for code in CODES}
        for name, count, shift in (("train", 12, 0.0), ("test", 9, 0.0), ("made", 10, 1.0))
    }
    parts = {
        split: {code: Features(own, np.arange(len(own)), np.full(len(own), code)) for code, own in sides[split].items()}
        for split in ("train", "test")
    }
    found = method_run("04_metrics", parts=parts, generated=sides["made"])["by_hand"]
    assert (found["n"] == 63).all() and found["by hand"].iloc[0] > 10 * abs(found["by hand"].iloc[1])


def test_one_table_of_ai_or_original_fits_what_is_printed():
    assert method_run("05_dermatologist_study")["tables"] == [((66, 4), (1, 69))]


@pytest.mark.parametrize("planned", [6, 2, 1])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # one seed has no standard error
def test_the_primary_difference_by_hand_is_the_tables(planned):
    found = predictions.load_predictions(ROOT / "results" / "demo" / "predictions" / "trial.npz")
    asked, _ = trial.answerable(found)
    seeds = dict.fromkeys(protocol.SEEDS, planned)
    table = trial.trial_table(found, asked[:1], seeds, 10)
    names = method_run("07_ablation", found=found, primary=asked[0], seeds=seeds, table=table, later=False)
    assert len(names["values"]) == planned and pd.notna(names["in_table"]).all() == (planned > 1)


@pytest.mark.parametrize("shift", [0.0, 1e-4])
def test_a_point_of_the_curve_by_hand_is_the_tables(shift):
    folder = ROOT / "results" / "ham10000" / "predictions"
    runs = predictions.load_predictions(folder / "curve.npz")
    points = quality_curve.curve(runs, pd.read_csv(folder / quality_curve.IMAGES))
    points["difference"] += shift
    names = {
        "later": True,
        "curve_runs": runs,
        "points": points,
        "np": np,
        "pd": pd,
        "entities": entities,
        "quality_curve": quality_curve,
    }
    with contextlib.nullcontext() if shift == 0 else pytest.raises(AssertionError):
        exec(compile(method_cells("07_ablation")[-1], "07_ablation", "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("read", [True, False])
def test_the_network_by_hand_is_the_one_that_trains(read, cohort):
    config = keras_network.ClassifierConfig(side=32, filters=(4, 8), batch=8)
    names = method_run(
        "06_cnn_classifier", "if images is None:\n    pixels", SEED=3, SIDE=32, FILTERS=[4, 8], BATCH=8,
        PATIENCE=5, ROTATION=20.0, SHIFT=0.1, ZOOM=0.1, PRECISION="fp32", config=config,
        images=SimpleNamespace(originals=cohort) if read else None,
    )  # fmt: skip
    assert names["pixels"].shape == (8, 32, 32, 3) and len(names["history"]["loss"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_learned_row_by_hand_is_the_helpers(prediction, cohort):
    model = glide.build("tiny-base", architecture.train_tokenizer(list(PROMPTS)), prediction, 1)
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.05, generator=torch.Generator().manual_seed(1))  # else 0
    config = finetune.TrainingConfig(steps=9, batch=4, learning_rate=0.005, trains="tokens", augment=True, seed=0)
    names = method_run(
        "08_textual_inversion", model=model, codes=["mel", "bcc"], cohort=cohort, config=config, LEARNING_RATE=0.005, SEED=0
    )  # fmt: skip
    assert len(names["stepped"]) == len(names["vocabulary"]) + 1
