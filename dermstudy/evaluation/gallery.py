"""Images to look at: those that may repeat a training image, and the worst by each measure, with the reason.

Distances are those of `metrics.nearest`, by every encoder at hand: what one of them takes for unlike another may not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from dermstudy.data.dataset import Cohort
from dermstudy.entities import NAMES
from dermstudy.workspace import NEGATIVE

SYNTHETIC, REAL = "synthetic", "real, validation"  # the images whose neighbours are asked for, as 04 names them
FAR, COPY, NAMED, COLOUR, TWIN = (
    "farthest from any held-out image",
    "nearer to training than to held-out images",
    "taken for another entity",
    "colour least like its entity's",
    "most like another synthetic one",
)
COLUMNS = ["measure", "place", "image_id", "entity", "why", "beside"]


# Copies of training images


def exact_copies(synthetic: Cohort, training: Cohort, side: int) -> list[str]:
    """The image_id of every synthetic image whose pixels at side x side are those of an image of `training`.

    Pixels are compared by their SHA-256, so that one changed level of one pixel is enough to escape.
    """
    known = set(_digests(training, side))
    named = zip(synthetic.frame["image_id"], _digests(synthetic, side), strict=True)
    return [image_id for image_id, digest in named if digest in known]


def _digests(cohort: Cohort, side: int) -> Iterator[str]:
    for images in cohort.batches(side, 64, "compared"):
        yield from (hashlib.sha256(image.tobytes()).hexdigest() for image in images)


def memorisation(ratios: pd.DataFrame) -> pd.DataFrame:
    """count, mean, min, 5 % and 50 % of `metrics.nearest`'s ratio by encoder and images."""
    found = ratios.groupby(["encoder", "images"])["ratio"].describe(percentiles=[0.05, 0.5])
    return found.drop(columns=["std", "max"])


def memorisation_sentences(table: pd.DataFrame) -> list[str]:
    """One sentence an encoder: whether synthetic images lie nearer to training images than real held-out ones do.

    table: `memorisation`; "throughout" is said where mean, 5 % and median all agree: the least of more images is lower by their
    number alone.
    """
    sentences = []
    for encoder, rows in table.groupby(level="encoder", sort=False):
        made, real = (rows.xs(images, level="images").iloc[0] for images in (SYNTHETIC, REAL))
        nearer = [bool(made[name] < real[name]) for name in ("mean", "5%", "50%")]
        how = "nearer throughout" if all(nearer) else "nearer in part" if any(nearer) else "no nearer"
        sentences.append(
            f"by {encoder} synthetic images lie {how} to training images than real validation images do: mean ratio "
            f"{made['mean']:.3f} and {real['mean']:.3f}, least {made['min']:.2f} of {made['count']:,.0f} "
            f"and {real['min']:.2f} of {real['count']:,.0f}"
        )
    return sentences


def closest_pairs(
    found: Mapping[tuple[str, str], pd.DataFrame],
    synthetic: Cohort,
    searched: Cohort,
    held_out: Cohort,
    count: int = 10,
) -> pd.DataFrame:
    """By each encoder the `count` synthetic images with the smallest ratios, with their neighbours on both sides by name.

    found: `metrics.nearest` by encoder and images (SYNTHETIC among them), as encoders.closest gives it. Columns encoder,
    image_id, nearest_in_training, training_distance, nearest_held_out, held_out_distance, ratio.
    """
    parts = []
    for (encoder, images), table in found.items():
        if images == SYNTHETIC:
            rows = table.nsmallest(count, "ratio")
            sides = ((synthetic, rows.index), (searched, rows["training"]), (held_out, rows["held_out"]))
            ids, training, other = (cohort.frame["image_id"].iloc[places].to_numpy() for cohort, places in sides)
            named = {"image_id": ids, "nearest_in_training": training, "nearest_held_out": other}
            parts.append(rows.assign(encoder=encoder, **named))
    columns = ["encoder", "image_id", "nearest_in_training", "training_distance"]
    return pd.concat(parts, ignore_index=True)[[*columns, "nearest_held_out", "held_out_distance", "ratio"]]


def pairs_sheet(
    pairs: pd.DataFrame, synthetic: Cohort, sides: Mapping[str, Cohort], side: int = 128
) -> dict[str, list]:
    """What `figures.image_grid` draws of `closest_pairs`: rows of uint8 [side, side, 3], row_labels and captions.

    sides: the cohorts of the neighbours by the column that names them, in the order of their rows. The ratio stands over each
    synthetic image.
    """
    rows, labels, captions = [], [], []
    for encoder, found in pairs.groupby("encoder", sort=False):
        rows += [
            list(cohort.images(side, found[column])) for column, cohort in {"image_id": synthetic, **sides}.items()
        ]
        labels += [f"synthetic, by {encoder}", *(column.replace("_", " ") for column in sides)]
        captions += [[f"ratio {ratio:.2f}" for ratio in found["ratio"]], *([] for _ in sides)]
    return {"rows": rows, "row_labels": labels, "captions": captions}


# The worst by each measure


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
    taken_for: `reference_classifier.wrongly_named`, ranked by the confidence in the wrong entity; colour: `colour_distance`.
    why: the measure's value; beside: the other image that it was measured to, where that is a synthetic one. A measure may
    have fewer images, or none.
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


def worst_sheet(table: pd.DataFrame, synthetic: Cohort, side: int = 128) -> dict[str, list]:
    """What `figures.image_grid` draws of `worst`: rows of uint8 [side, side, 3], row_labels and the reason over each image."""
    by_measure = dict(list(table.groupby("measure", sort=False)))
    rows = [list(synthetic.images(side, part["image_id"])) for part in by_measure.values()]
    return {
        "rows": rows,
        "row_labels": list(by_measure),
        "captions": [list(part["why"]) for part in by_measure.values()],
    }


def colour_distance(synthetic: np.ndarray, dx: pd.Series, real: np.ndarray, real_dx: pd.Series) -> pd.DataFrame:
    """How far each synthetic image's mean L, a, b lies from its entity's real images, in their spreads: distance, why.

    synthetic, real: `colour.colours` [n, 6].
    """
    rows = []
    for image, code in zip(synthetic, dx, strict=True):
        known = real[(real_dx == code).to_numpy(), :3]
        z = (image[:3] - known.mean(axis=0)) / np.maximum(known.std(axis=0), 1e-6)
        channel = int(np.abs(z).argmax())
        distance = float(np.sqrt((z**2).mean()))
        rows.append((distance, NEGATIVE.sub("−", f"{distance:.1f} spreads, {'Lab'[channel]} {z[channel]:+.1f}")))
    return pd.DataFrame(rows, columns=["distance", "why"])


def _twins(vectors: np.ndarray, dx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most alike other image of the same entity of each, and the cosine between them (-1 for one without another)."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    twin, likeness = np.zeros(len(unit), int), np.full(len(unit), -1.0)
    for code in np.unique(dx):
        rows = np.flatnonzero(dx == code)
        if len(rows) > 1:
            cosine = unit[rows] @ unit[rows].T
            np.fill_diagonal(cosine, -2)
            twin[rows], likeness[rows] = rows[cosine.argmax(axis=1)], cosine.max(axis=1)
    return twin, likeness
