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

from dermstudy.data.dataset import Cohort
from dermstudy.entities import NAMES
from dermstudy.evaluation import reference_classifier
from dermstudy.evaluation.features import Features
from dermstudy.evaluation.quality import condition_fidelity

STIFFNESS = (0.001, 0.003, 0.01, 0.03, 0.1)  # inverse penalties, the best of which validation lesions choose
SMALL, INDEPENDENT = "small network", "independent network"


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
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]], asked: pd.Series, true: pd.Series
) -> pd.DataFrame:
    """`condition_fidelity` of several networks: network, entity, synthetic, real, difference, entities by name.

    answers: by network its answers for synthetic and for real images; asked, true: the entities they should give.
    """
    parts = []
    for network, (synthetic, real) in answers.items():
        table = condition_fidelity(pd.Series(synthetic), asked, pd.Series(real), true).reset_index()
        parts.append(table.assign(network=network, entity=table["entity"].replace(NAMES)))
    whole = pd.concat(parts, ignore_index=True)
    return whole[["network", "entity", "synthetic", "real", "difference"]]


def wrongly_named(answers: Mapping[str, np.ndarray], asked: pd.Series, confidence: np.ndarray) -> pd.DataFrame:
    """Which synthetic images no network names as asked: entity, the INDEPENDENT network's answer by name, and confidence.

    answers: by network the entity code of each image; confidence [n]: what the INDEPENDENT network gives its answer. An
    image that some network names rightly has "" and NaN.
    """
    frame = pd.DataFrame({name: np.asarray(own) for name, own in answers.items()})
    wrong = frame.ne(asked.to_numpy(), axis=0).all(axis=1)
    table = pd.DataFrame({"entity": frame[INDEPENDENT].map(NAMES), "confidence": np.asarray(confidence, float)})
    return pd.DataFrame({"entity": table["entity"].where(wrong, ""), "confidence": table["confidence"].where(wrong)})
