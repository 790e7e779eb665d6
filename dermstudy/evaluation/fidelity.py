"""Does an image show the entity that was asked for? Asked of a network that had no part in choosing the generator.

The head is a logistic regression on EfficientNet-Lite0's pooled features, fitted here on training lesions, which are the
generator's own; the recipe and the sampler were chosen by losses and by KID of FID-Inception's features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy import intervals
from dermstudy.data.dataset import Cohort
from dermstudy.entities import CODES, NAMES
from dermstudy.evaluation import reference_classifier
from dermstudy.evaluation.features import Features

STIFFNESS = (0.001, 0.003, 0.01, 0.03, 0.1)  # inverse penalties, the best of which validation lesions choose
SMALL, INDEPENDENT = "small network", "independent network"
COLUMNS = ("network", "entity", "n", "synthetic", "n_real", "real", "difference", "low", "high")
DRAWS = 2000  # resamples of an interval


class Namer:
    """Names the entity of an image from its features [n, d]; every entity counts the same while it learns."""

    def __init__(self, training: Features, validation: Features):
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import balanced_accuracy_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.score = -1.0
        for stiffness in STIFFNESS:
            head = LogisticRegression(C=stiffness, class_weight="balanced", max_iter=2000)
            model = make_pipeline(StandardScaler(), head).fit(training.values, training.entity)
            score = balanced_accuracy_score(validation.entity, model.predict(validation.values))
            if score > self.score:
                self.score, self.model = score, model

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Entity codes [n]."""
        return self.model.predict(values)

    def confidence(self, values: np.ndarray) -> np.ndarray:
        """The probability [n], 0..1, that the network gives the entity which it names."""
        return self.model.predict_proba(values).max(axis=1)


def small_network(
    training: Cohort, validation: Cohort, folder: str | Path, steps: int, seed: int = 0
) -> Callable[[Cohort], pd.Series]:
    """The small residual network that reads pixels of 64 x 64, trained where `folder` holds no such one: it answers a cohort.

    Its answers are entity codes, as reference_classifier.answers gives them.
    """
    reference_classifier.train(training, validation, folder, steps, seed)
    return partial(reference_classifier.answers, folder)


def fidelity_table(
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]], asked: pd.DataFrame, true: pd.DataFrame, seed: int = 0
) -> pd.DataFrame:
    """Shares named as asked by several networks, entities by name, then "overall" (the mean of the entities): COLUMNS.

    answers: by network its answers for synthetic and for real images; asked, true: a row an image with its `dx`, real ones
    with the `group` of their lesion. n and n_real count images; low and high bracket the difference: the 95 % percentile
    interval that resamples synthetic images and real lesions within each entity.
    """
    parts = []
    for network, named in answers.items():
        made, real = (
            _shares(own, frame, np.random.default_rng([seed, place]))
            for place, (own, frame) in enumerate(zip(named, (asked, true), strict=True))
        )
        table = made.merge(real, on="entity", suffixes=("", "_real"))
        drawn = [intervals.quantiles(row.draws - row.draws_real) for row in table.itertuples()]
        table[["low", "high"]] = drawn
        table["difference"] = table["share"] - table["share_real"]
        table = table.rename(columns={"share": "synthetic", "share_real": "real"}).reset_index()
        parts.append(table.assign(network=network, entity=table["entity"].replace(NAMES)))
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]


def _shares(named: np.ndarray, frame: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    """By entity, and over all as the mean of the entities: n, share (0..1), draws (the shares [DRAWS] of resampled lesions)."""
    right = pd.Series(np.asarray(named) == frame["dx"].to_numpy(), index=frame.index)
    lesions = frame["group" if "group" in frame else "image_id"]
    rows = {}
    for code in [code for code in CODES if (frame["dx"] == code).any()]:
        own = right[frame["dx"] == code].groupby(lesions[frame["dx"] == code]).agg(["sum", "size"]).to_numpy()
        times = random.multinomial(len(own), np.full(len(own), 1 / len(own)), DRAWS)
        hits, images = (times @ own).T
        rows[code] = own[:, 1].sum(), own[:, 0].sum() / own[:, 1].sum(), hits / images
    sizes, shares, draws = zip(*rows.values(), strict=True)
    rows["overall"] = sum(sizes), float(np.mean(shares)), np.mean(draws, axis=0)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["n", "share", "draws"]).rename_axis("entity")


def wrongly_named(answers: Mapping[str, np.ndarray], asked: pd.Series, confidence: np.ndarray) -> pd.DataFrame:
    """Which synthetic images no network names as asked: entity, the INDEPENDENT network's answer by name, and confidence.

    answers: by network the entity code of each image; confidence [n]: what the INDEPENDENT network gives its answer. An
    image that some network names rightly has "" and NaN.
    """
    frame = pd.DataFrame({name: np.asarray(own) for name, own in answers.items()})
    wrong = frame.ne(asked.to_numpy(), axis=0).all(axis=1)
    table = pd.DataFrame({"entity": frame[INDEPENDENT].map(NAMES), "confidence": np.asarray(confidence, float)})
    return pd.DataFrame({"entity": table["entity"].where(wrong, ""), "confidence": table["confidence"].where(wrong)})
