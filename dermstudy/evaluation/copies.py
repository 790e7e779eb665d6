"""Does a generator repeat its training images: pictures that are equal pixel by pixel, and those that lie closest.

Distances are those of `metrics.nearest`, by every encoder at hand: what one of them takes for unlike another may not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import pandas as pd

from dermstudy.data.dataset import Cohort

AT_ONCE = 64  # images that are read together
SYNTHETIC, REAL = "synthetic", "real, validation"  # the images whose neighbours are asked for, as 04 names them
MEASURES = ["mean", "min", "5%", "50%"]


def exact_copies(synthetic: Cohort, training: Cohort, side: int) -> list[str]:
    """The image_id of every synthetic image whose pixels at side x side are those of an image of `training`.

    Pixels are compared by their SHA-256, so that one changed level of one pixel is enough to escape.
    """
    known = {digest for _, digest in _digests(training, side)}
    return [image_id for image_id, digest in _digests(synthetic, side) if digest in known]


def memorisation(ratios: pd.DataFrame) -> pd.DataFrame:
    """count, mean, min, 5 % and 50 % of `metrics.nearest`'s ratio by encoder and images."""
    found = ratios.groupby(["encoder", "images"])["ratio"].describe(percentiles=[0.05, 0.5])
    return found.drop(columns=["std", "max"])


def closest_pairs(found: pd.DataFrame, synthetic: Cohort, searched: Cohort, count: int = 7) -> pd.DataFrame:
    """The `count` synthetic images with the smallest ratios of `metrics.nearest`, with their nearest training image."""
    order = found["ratio"].nsmallest(count).index
    named = found.loc[order].assign(
        image_id=synthetic.frame["image_id"].iloc[order].to_numpy(),
        nearest_in_training=searched.frame["image_id"].iloc[found.loc[order, "training"]].to_numpy(),
    )
    return named[["image_id", "nearest_in_training", "training_distance", "held_out_distance", "ratio", "held_out"]]


def closest_by_encoder(
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
            own = closest_pairs(table, synthetic, searched, count)
            names = held_out.frame["image_id"].iloc[own["held_out"]].to_numpy()
            parts.append(own.assign(encoder=encoder, nearest_held_out=names))
    columns = ["encoder", "image_id", "nearest_in_training", "training_distance"]
    return pd.concat(parts, ignore_index=True)[[*columns, "nearest_held_out", "held_out_distance", "ratio"]]


def sheet(pairs: pd.DataFrame, synthetic: Cohort, sides: Mapping[str, Cohort], side: int = 128) -> dict[str, list]:
    """What `figures.image_grid` draws of `closest_by_encoder`: rows of uint8 [side, side, 3], row_labels and captions.

    sides: the cohorts of the neighbours by the column that names them, in the order of their rows; those left out are not
    drawn. The ratio stands over each synthetic image.
    """
    rows, labels, captions = [], [], []
    for encoder, own in pairs.groupby("encoder", sort=False):
        shown = {"image_id": synthetic, **sides}
        rows += [list(cohort.images(side, own[column])) for column, cohort in shown.items()]
        labels += [f"synthetic, by {encoder}", *(column.replace("_", " ") for column in sides)]
        captions += [[f"ratio {ratio:.2f}" for ratio in own["ratio"]], *([] for _ in sides)]
    return {"rows": rows, "row_labels": labels, "captions": captions}


def said(table: pd.DataFrame) -> list[str]:
    """One sentence an encoder: whether synthetic images lie nearer to training images than real held-out ones do.

    table: `memorisation`; "throughout" is said where mean, 5 % and median all agree: the least of more images is lower by their
    number alone.
    """
    sentences = []
    for encoder, own in table.groupby(level="encoder", sort=False):
        made, real = (own.xs(images, level="images").iloc[0] for images in (SYNTHETIC, REAL))
        nearer = [bool(made[name] < real[name]) for name in MEASURES if name != "min"]
        how = "nearer throughout" if all(nearer) else "nearer in part" if any(nearer) else "no nearer"
        sentences.append(
            f"by {encoder} synthetic images lie {how} to training images than real validation images do: mean ratio "
            f"{made['mean']:.3f} and {real['mean']:.3f}, least {made['min']:.2f} of {made['count']:,.0f} "
            f"and {real['min']:.2f} of {real['count']:,.0f}"
        )
    return sentences


def _digests(cohort: Cohort, side: int) -> Iterator[tuple[str, str]]:
    names = list(cohort.frame["image_id"])
    for start in range(0, len(names), AT_ONCE):
        part = names[start : start + AT_ONCE]
        for image_id, image in zip(part, cohort.images(side, part), strict=True):
            yield image_id, hashlib.sha256(image.tobytes()).hexdigest()
