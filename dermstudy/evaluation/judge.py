"""How good the images of any folder are beside real ones: KID, precision, recall, colour, each with its real-vs-real baseline.

    from dermstudy.evaluation import judge
    judge.folders("real", "synthetic")

The measures are those of `quality` and `colour`, as notebook 04 calls them. A figure for which there are too few images is
left out by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.data.dataset import Cohort
from dermstudy.data.external import load_labelled
from dermstudy.entities import CODES, NAMES
from dermstudy.evaluation import colour, encoders, quality
from dermstudy.evaluation.features import Features
from dermstudy.files import InputError

SIDE, COLOUR_SIDE = 256, 128  # pixels at which features and colours are read
MOST = 100  # images an entity on each side, as the committed results have it
FEWEST_COLOURS = 10  # images and lesions of an entity from which its colour is told
COLUMNS = ["encoder", "entity", "n", "metric", "value", "low", "high", "baseline"]


@dataclass(frozen=True)
class Seen:
    """What was read of labelled images: frame (image_id, dx, group), vectors [n, d] by encoder, colours [n, 6]."""

    frame: pd.DataFrame
    vectors: Mapping[str, np.ndarray]
    colours: np.ndarray

    def rows(self, chosen: np.ndarray) -> Seen:
        """The images at places or under a mask `chosen`."""
        vectors = {name: values[chosen] for name, values in self.vectors.items()}
        return Seen(self.frame[chosen].reset_index(drop=True), vectors, self.colours[chosen])

    def by_entity(self, encoder: str, codes: Iterable[str]) -> dict[str, Features]:
        """The features of one encoder by entity code."""
        every = Features(self.vectors[encoder], self.frame["group"].to_numpy(), self.frame["dx"].to_numpy())
        return {code: part for code, part in every.by_entity().items() if code in codes}


@dataclass(frozen=True)
class Quality:
    """distances: COLUMNS, entities by code ("overall" pools them); colours: `colour.colour_table`; left_out: sentences."""

    distances: pd.DataFrame
    colours: pd.DataFrame
    left_out: tuple[str, ...]


def folders(
    real: str | Path, synthetic: str | Path, cache_folder: str | Path | None = None, repeats: int = 20, seed: int = 0
) -> Quality:
    """`measured` of two folders of labelled images (`load_labelled`); real lesions are halved for the baseline.

    cache_folder: where features are kept (default: the folder .judge in `synthetic`). Without lesions in a table, each real
    image counts as one.
    """
    sides = [load_labelled(folder).cohort for folder in (real, synthetic)]
    seen, made = (look(cohort, cache_folder or Path(synthetic) / ".judge") for cohort in sides)
    first = _half(seen.frame, seed)
    return measured(made, seen.rows(~first), seen.rows(first), repeats=repeats, seed=seed)


def look(cohort: Cohort, cache_folder: str | Path) -> Seen:
    """Features by FID-Inception and EfficientNet-Lite0, cached, and colours of every image."""
    judges = (encoders.fid_encoder(), encoders.lite_encoder())
    vectors = {judge.name: encoders.encode(cohort, cache_folder, judge, SIDE) for judge in judges}
    return Seen(cohort.frame[["image_id", "dx", "group"]], vectors, colour.colours(cohort.images(COLOUR_SIDE)))


def measured(
    made: Seen, real: Seen, reference: Seen, most: int = MOST, repeats: int = 20, seed: int = 0,
    fewest: int = quality.FEWEST,
) -> Quality:  # fmt: skip
    """Distances of `made` to `real`, and of `reference` (other real lesions) to `real` as their baseline.

    At most `most` images of an entity, and half of what its smallest side has, are compared (`quality.audited`). Figures
    that rest on fewer than `fewest` images are left out, FID on fewer than quality.UNBIASED_FID.
    """
    counts = pd.DataFrame({name: side.frame["dx"].value_counts() for name, side in
                           (("synthetic", made), ("real", real), ("baseline", reference))}).reindex(CODES).fillna(0)  # fmt: skip
    codes = [code for code in CODES if counts.loc[code].min() >= 2]
    each = [min(most, int(counts.loc[code].min() // 2)) for code in codes]
    left_out = []
    alone = [code for code in CODES if code not in codes or each[codes.index(code)] < fewest]
    if sum(each) < fewest:
        left_out.append(f"KID, precision and recall: {sum(each)} images on each side, and {fewest} are needed")
        codes = []
    elif alone:
        needed = f"for {fewest} images on each side are needed"
        left_out.append(f"KID, precision and recall by entity, {needed}: {_names(alone)}")
    if codes and sum(each) < quality.UNBIASED_FID:
        left_out.append(f"FID: {sum(each)} images on each side, and {quality.UNBIASED_FID} are needed")
    distances = [_distances(name, made, real, reference, codes, (most, repeats, seed, fewest)) for name in made.vectors]
    colours, lines = _colours(made, real, seed)
    kept = pd.concat(distances, ignore_index=True) if codes else pd.DataFrame(columns=COLUMNS)
    return Quality(kept, colours, (*left_out, *lines))


def _distances(
    encoder: str, made: Seen, real: Seen, reference: Seen, codes: Sequence[str], settings: tuple
) -> pd.DataFrame:
    if not codes:
        return pd.DataFrame()
    sides = [side.by_entity(encoder, codes) for side in (made, reference, real)]
    table = quality.audited(encoders.vectors(sides[0]), *sides[1:], *settings)
    biased = (table["metric"] == "fid") & (table["n"] < quality.UNBIASED_FID)
    return table[~biased].rename(columns={"floor": "baseline"}).assign(encoder=encoder)[COLUMNS]


def _colours(made: Seen, real: Seen, seed: int) -> tuple[pd.DataFrame, list[str]]:
    lesions = real.frame.groupby("dx")["group"].nunique().reindex(CODES).fillna(0)
    images = made.frame["dx"].value_counts().reindex(CODES).fillna(0)
    codes = [code for code in CODES if min(lesions[code], images[code]) >= FEWEST_COLOURS]
    few = [code for code in CODES if code not in codes]
    left_out = [f"colour, for {FEWEST_COLOURS} images on each side are needed: {_names(few)}"] if few else []
    if not codes:
        return pd.DataFrame(), left_out
    sides = ((side.frame, side.colours) for side in (made, real))
    return colour.colour_table(*sides, codes, seed=seed), left_out


def _half(frame: pd.DataFrame, seed: int) -> np.ndarray:
    """Which rows are of a half of each entity's lesions, drawn by chance: bool [n]."""
    random, chosen = np.random.default_rng([seed, 21]), set()
    for code in CODES:
        lesions = np.unique(frame.loc[frame["dx"] == code, "group"])
        chosen |= set(random.permutation(lesions)[: len(lesions) // 2])
    if not chosen:
        raise InputError("the real folder has one lesion of each entity: its baseline needs two")
    return frame["group"].isin(chosen).to_numpy()


def _names(codes: Sequence[str]) -> str:
    return ", ".join(NAMES[code] for code in codes)
