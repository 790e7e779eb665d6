"""Predictions of simulated networks whose difference is known: shared by the tests of the trial."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dermstudy.classification import protocol
from dermstudy.classification.predictions import Predictions
from dermstudy.entities import CODES

LESIONS = {"mel": 25, "nv": 90, "akiec": 14, "bkl": 25, "bcc": 16, "df": 12, "vasc": 12}


def lesion_images(seed: int = 0, each: int = 2, split: str = "test") -> pd.DataFrame:
    """Up to `each` images a lesion, in mixed order."""
    random, rows = np.random.default_rng(seed), []
    for code, lesions in LESIONS.items():
        for lesion in range(lesions):
            for image in range(random.integers(1, each + 1)):
                name = f"{split}_{code}_{lesion}"
                rows.append({"image_id": f"{name}_{image}", "group": name, "dx": code, "split": split})
    return pd.DataFrame(rows).sample(frac=1, random_state=seed).reset_index(drop=True)


def simulated(
    training_sets: dict[str, float], network: str = protocol.FROZEN, seeds: int = 6, images: pd.DataFrame | None = None,
    seed: int = 0, noise: float = 1.0, shared: float = 1.0,
) -> Predictions:  # fmt: skip
    """Runs whose logits are a signal for the true entity (strength by training set), lesions' and seeds' own noise.

    A seed's noise is the same in all training sets but for a part: seeds are pairs. shared: how much images of a lesion
    have in common.
    """
    random = np.random.default_rng(seed)
    images = lesion_images() if images is None else images
    lesion = pd.factorize(images["group"])[0]
    true = np.eye(7)[[CODES.index(code) for code in images["dx"]]]
    prior = (true.sum(axis=0) + 1) / (len(true) + 7)
    base = shared * random.normal(size=(lesion.max() + 1, 7))[lesion] + random.normal(size=(len(images), 7))
    of_seed = [0.5 * random.normal(size=(len(images), 7)) for _ in range(seeds)]
    runs, scores = [], []
    for name, signal in training_sets.items():
        own = 0.3 * noise * random.normal(size=(lesion.max() + 1, 7))[lesion]  # what the set changes on each lesion
        for number in range(seeds):
            random_part = 0.2 * noise * random.normal(size=(len(images), 7))
            scores.append(signal * true + base + own + of_seed[number] + random_part + np.log(prior))
            runs.append({"network": network, "training_set": name, "seed": number})
    scores = np.array(scores)
    scores -= np.log(np.exp(scores).sum(axis=2, keepdims=True))
    return Predictions(images, pd.DataFrame(runs), np.tile(prior, (len(runs), 1)), scores.astype(np.float32))
