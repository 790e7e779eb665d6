"""What quality helps, scarce data and the paper's design: tables of the committed runs and of runs whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from dermstudy.classification import protocol
from dermstudy.classification import quality_curve as curve
from dermstudy.classification.predictions import Predictions
from dermstudy.entities import CODES
from dermstudy.workspace import Workspace


def runs_of(strength: dict[str, float], splits: tuple[str, ...] = ("test",), seeds: int = 20) -> Predictions:
    """Runs whose scores favour the true entity by `strength` of their training set, on 12 lesions an entity and split."""
    random, rows = (
        np.random.default_rng(0),
        [(f"{code} {n} {s}", code, s) for s in splits for code in CODES for n in range(12)],
    )
    images = pd.DataFrame(rows, columns=["image_id", "dx", "split"]).assign(group=lambda frame: frame["image_id"])
    runs = pd.DataFrame([(protocol.FROZEN, name, seed) for name in strength for seed in range(seeds)],
                        columns=["network", "training_set", "seed"])  # fmt: skip
    scores = random.normal(size=(1, len(images), 7)) + 0.3 * random.normal(size=(len(runs), len(images), 7))
    scores += runs["training_set"].map(strength).to_numpy()[:, None, None] * (
        images["dx"].to_numpy()[:, None] == np.array(CODES)
    )
    scores = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
    return Predictions(images[["image_id", "group", "dx", "split"]], runs, np.full((len(runs), 7), 1 / 7), scores)


@pytest.fixture(scope="module")
def falling():
    """Settings of KID 20 to 80 that help the less the farther they are, and real images."""
    images = pd.DataFrame(
        {"images": ["a", "b", "c", "d", f"{curve.REAL}other"], "kid": [20.0, 40, 60, 80, 0], "number": 9}
    )
    runs = runs_of({curve.REPEATED: 1.0, "a": 1.3, "b": 1.1, "c": 0.9, "d": 0.7, f"{curve.REAL}other": 1.5})
    return runs, images, curve.curve(runs, images)


def test_a_point_is_the_mean_difference_of_areas(falling):
    runs, _, points = falling
    areas = {name: np.mean([roc_auc_score(runs.images["dx"], np.exp(own)[:, np.argsort(CODES)], multi_class="ovr",
                                          labels=sorted(CODES)) for own in part])
             for name in ("a", curve.REPEATED) for part in [runs.select(training_set=name).log_probabilities]}  # fmt: skip
    assert points["difference"][0] == pytest.approx(areas["a"] - areas[curve.REPEATED], abs=1e-6)


def test_the_line_falls_and_crosses_inside_the_settings_alone(falling, tmp_path):
    _, _, points = falling
    fitted = curve.line(points)
    assert fitted["high"] < 0 and 40 < fitted["crossing"] < 60 and (fitted["at_least"], fitted["at_most"]) == (20, 80)
    few = pd.DataFrame(columns=["share", "kind", "difference", "low", "high"])
    own_kind = pd.DataFrame(columns=["guidance", "training_set", "tested_on", "mean", "low", "high"])
    space = Workspace(tmp_path)
    assert curve.sentences(space) == []
    for table, name in zip((points, fitted.to_frame().T, few, own_kind), curve.TABLES, strict=True):
        space.save_table(table, name)
    assert "is at KID 4" in curve.sentences(space)[0]
    lower = curve.line(points.assign(difference=points["difference"] - 1))
    space.save_table(lower.to_frame().T, "quality_line")
    assert np.isnan(lower["crossing"]) and "is not reached" in curve.sentences(space)[0]


def test_the_design_tests_each_set_on_its_kind():
    synthetic = curve.of_scale(3)
    runs = runs_of({curve.ORIGINALS: 1.0, curve.both(3): 1.5, curve.alone(3): 0.5}, ("test", synthetic))
    table = curve.design(runs).set_index(["training_set", "tested_on"])["mean"]
    own = runs.select(training_set=curve.both(3))
    by_side = [
        np.mean(
            [
                balanced_accuracy_score(side.images["dx"], np.array(CODES)[answer.argmax(axis=1)])
                for answer in side.log_probabilities
            ]
        )
        for side in (own.select("test"), own.select(synthetic))
    ]
    assert table[curve.both(3), "real"] == pytest.approx(by_side[0]) and table[
        curve.both(3), "synthetic"
    ] == pytest.approx(by_side[1])
    gain = np.mean(by_side) - table[curve.ORIGINALS, "real"]
    assert table[curve.both(3), "gain on both"] == pytest.approx(gain)
    assert table[curve.both(3), "both"] == pytest.approx(np.mean(by_side)) and len(table) == 11
