"""The worst synthetic images by each measure, with the reason: what a table of means does not show."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dermstudy.data.dataset import Cohort
from dermstudy.entities import NAMES
from dermstudy.evaluation.verdicts import signed

FAR, COPY, NAMED, COLOUR, TWIN = (
    "farthest from any held-out image",
    "nearer to training than to held-out images",
    "taken for another entity",
    "colour least like its entity's",
    "most like another synthetic one",
)
COLUMNS = ["measure", "place", "image_id", "entity", "why", "beside"]


def worst(
    frame: pd.DataFrame,
    nearest: pd.DataFrame,
    vectors: np.ndarray,
    taken_for: pd.DataFrame,
    colour: pd.DataFrame,
    each: int = 7,
) -> pd.DataFrame:
    """`each` images a measure, the worst first: COLUMNS, one image once a measure.

    frame: image_id and dx of synthetic images; nearest: `metrics.nearest` of them; vectors [n, d]: their features;
    taken_for: `fidelity.wrongly_named`, ranked by the confidence in the wrong entity; colour: `colour_distance`. why: the
    measure's value; beside: the other image that it was measured to, where that is a synthetic one. A measure may have
    fewer images, or none.
    """
    twin, likeness = _twins(vectors, frame["dx"].to_numpy())
    ids = frame["image_id"].to_numpy()
    wrong = taken_for.reset_index(drop=True)
    named = [f"{entity} {sure:.2f}" for entity, sure in zip(wrong["entity"], wrong["confidence"], strict=True)]
    measures = {
        FAR: (-nearest["held_out_distance"], [f"distance {value:.1f}" for value in nearest["held_out_distance"]]),
        COPY: (nearest["ratio"].where(nearest["ratio"] < 1), [f"ratio {value:.2f}" for value in nearest["ratio"]]),
        NAMED: (-wrong["confidence"], named),
        COLOUR: (-colour["distance"], list(colour["why"])),
        TWIN: (pd.Series(-likeness), [f"cosine {value:.3f}" for value in likeness]),
    }  # fmt: skip
    rows = []
    for measure, (order, why) in measures.items():
        chosen = order.reset_index(drop=True).dropna().sort_values(kind="stable").index[:each]
        for place, index in enumerate(chosen, start=1):
            beside = ids[twin[index]] if measure == TWIN else ""
            rows.append((measure, place, ids[index], NAMES[frame["dx"].iloc[index]], why[index], beside))
    return pd.DataFrame(rows, columns=COLUMNS)


def sheet(table: pd.DataFrame, synthetic: Cohort, side: int = 128) -> dict[str, list]:
    """What `figures.image_grid` draws of `worst`: rows of uint8 [side, side, 3], row_labels and the reason over each image."""
    by_measure = dict(list(table.groupby("measure", sort=False)))
    rows = [list(synthetic.images(side, own["image_id"])) for own in by_measure.values()]
    return {"rows": rows, "row_labels": list(by_measure), "captions": [list(own["why"]) for own in by_measure.values()]}


def colour_distance(synthetic: np.ndarray, dx: pd.Series, real: np.ndarray, real_dx: pd.Series) -> pd.DataFrame:
    """How far each synthetic image's mean L, a, b lies from its entity's real images, in their spreads: distance, why.

    synthetic, real: `colour.colours` [n, 6].
    """
    rows = []
    for own, code in zip(synthetic, dx, strict=True):
        known = real[(real_dx == code).to_numpy(), :3]
        z = (own[:3] - known.mean(axis=0)) / np.maximum(known.std(axis=0), 1e-6)
        channel = int(np.abs(z).argmax())
        distance = float(np.sqrt((z**2).mean()))
        rows.append((distance, signed(f"{distance:.1f} spreads, {'Lab'[channel]} {z[channel]:+.1f}")))
    return pd.DataFrame(rows, columns=["distance", "why"])


def _twins(vectors: np.ndarray, dx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most alike other image of the same entity of each, and the cosine between them (-1 for one without another)."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    place, likeness = np.zeros(len(unit), int), np.full(len(unit), -1.0)
    for code in np.unique(dx):
        own = np.flatnonzero(dx == code)
        if len(own) > 1:
            cosine = unit[own] @ unit[own].T
            np.fill_diagonal(cosine, -2)
            place[own], likeness[own] = own[cosine.argmax(axis=1)], cosine.max(axis=1)
    return place, likeness
