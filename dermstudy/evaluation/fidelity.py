"""Does an image show the entity that was asked for? Asked of a network from another family than any that chose something.

The head is a logistic regression on EfficientNet-Lite0's pooled features, fitted here on training lesions; neither it nor
its features had a part in choosing a sampler or a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dermstudy.entities import NAMES
from dermstudy.evaluation.features import Features
from dermstudy.evaluation.quality import condition_fidelity

STIFFNESS = (0.001, 0.003, 0.01, 0.03, 0.1)  # inverse penalties, the best of which validation lesions choose
CHOOSER, INDEPENDENT = "network that chose", "independent network"


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


def wrongly_named(answers: Mapping[str, np.ndarray], asked: pd.Series) -> pd.Series:
    """For each synthetic image what every network took it for, "nevus and melanoma", or "" where one named it rightly."""
    frame = pd.DataFrame({name: np.asarray(own) for name, own in answers.items()})
    wrong = frame.ne(asked.to_numpy(), axis=0).all(axis=1)
    words = frame.apply(lambda row: " and ".join(dict.fromkeys(NAMES[code] for code in row)), axis=1)
    return words.where(wrong, "")
