"""The trial's answer: each comparison of the protocol with interval, p, margin and verdict, from committed predictions.

docs/PROTOCOL.md gives the rules. Holm's adjustment is statsmodels'; a positive control that is missed takes the word
equivalent from every row (assay sensitivity: ICH guideline E10, section 1.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from dermstudy.classification import protocol
from dermstudy.classification.inference import (
    RESAMPLES,
    Contrast,
    crossed_resamples,
    estimate,
    lesion_weights,
    lesions_of,
    mean_area,
    over_seeds,
    swapped_labels,
)
from dermstudy.classification.predictions import Predictions
from dermstudy.classification.protocol import Comparison
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError
from dermstudy.intervals import by_image, quantiles

COLUMNS = ("comparison", "measure", "difference", "low", "high", "p", "p_holm", "margin", "verdict")
FURTHER = (
    "role", "network", "seeds", "missing", "missing_seeds", "interval", "standard_error", "df", "p_equivalence",
    "p_equivalence_holm", "crossed_low", "crossed_high", "t_low", "t_high", "p_permutation", "lesions_share", "lesions",
)  # fmt: skip
INTERVAL = "t, lesions and seeds"
STRATUM_LESIONS = 5  # an entity with fewer test lesions in a stratum is left out of it


def trial_table(
    predictions: Predictions,
    comparisons: Sequence[Comparison] = protocol.COMPARISONS,
    seeds: Mapping[str, int] = protocol.SEEDS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """A row a comparison: COLUMNS, then FURTHER. seeds: how many were planned for each network, numbered from 0.

    `low` to `high` is the interval that decides; crossed_low, crossed_high: percentiles of resampled lesions and seeds;
    t_low, t_high: over seeds alone; lesions_share: what the lesions, of which there are `lesions`, carry of the variance;
    missing: how many seeds failed or are not there, missing_seeds: which ("3, 7", "none"). Outside the family the adjusted p is
    the p; a member of the protocol's family that is not among `comparisons` stays in Holm's count. A comparison of fewer than
    two whole seeds has no numbers, and one whose training sets did not run misses them all. Without a positive control among
    `comparisons` nothing is called equivalent. InputError where the images cannot be compared.
    """
    rows = [_row(predictions, comparison, seeds[comparison.network], resamples, seed) for comparison in comparisons]
    table = pd.DataFrame(rows)
    family = (table["role"] == protocol.FAMILY).to_numpy()
    absent = max(0, sum(one.role == protocol.FAMILY for one in protocol.COMPARISONS) - family.sum())
    for p in ("p", "p_equivalence"):
        table[f"{p}_holm"] = table[p]
        if family.any():
            table.loc[family, f"{p}_holm"] = holm(table.loc[family, p].to_numpy(), absent)
    controls = table[table["role"] == protocol.CONTROL]
    found = len(controls) > 0 and all(_verdict(row, True) == protocol.HELPS for _, row in controls.iterrows())
    table["verdict"] = [_verdict(row, found) for _, row in table.iterrows()]
    return table[[*COLUMNS, *FURTHER]]


def planned(given: Mapping[str, int], small: bool = False) -> dict[str, int]:
    """How many seeds are planned for each network: the protocol's, however many a run is `given`.

    small: a demonstration on captioned originals alone plans what it is given (0, a network left out: the protocol's).
    """
    return {network: (small and given[network]) or count for network, count in protocol.SEEDS.items()}


def answerable(
    predictions: Predictions, comparisons: Sequence[Comparison] = protocol.COMPARISONS
) -> tuple[list[Comparison], pd.DataFrame]:
    """The comparisons whose training sets all have runs, and the others: columns comparison, role, lacks (training sets)."""
    kept, left_out = [], []
    for comparison in comparisons:
        lacks = _lacking(predictions, comparison)
        if lacks:
            left_out.append((comparison.name, comparison.role, "; ".join(f"{comparison.network}: {x}" for x in lacks)))
        else:
            kept.append(comparison)
    return kept, pd.DataFrame(left_out, columns=["comparison", "role", "lacks"])


def elsewhere(
    predictions: Predictions, comparisons: Sequence[Comparison], split: str,
    seeds: Mapping[str, int] = protocol.SEEDS, resamples: int = RESAMPLES, seed: int = 0,
) -> tuple[pd.DataFrame, list[str]]:  # fmt: skip
    """`trial_table` on the images of another split, such as other people's, and lines that its reader must know.

    They name what is left out: entities without two lesions there (one lesion gives no interval), and comparisons whose
    measure has none of its entities left; and say where intervals are by image (`by_image`). A comparison of the same training
    sets and measure stands once. InputError where no run was asked about such an image, and where fewer than two entities are
    left.
    """
    shown = predictions.images[predictions.images["split"] == split]
    if not len(shown):
        raise InputError(f"no run was asked about an {split} image: train with EXTERNAL, without PREDICTIONS")
    entity = shown.groupby("group")["dx"].transform("first")  # a lesion's entity is its first image's
    lesions = shown.groupby(entity)["group"].nunique().reindex(list(CODES), fill_value=0)
    kept, lines = lesions.index[lesions > 1], []
    for number, reason in enumerate(("no image shows it", "an interval needs two lesions")):
        if names := [NAMES[code] for code in lesions.index[lesions == number]]:
            lines.append(f"left out, for {reason}: {', '.join(names)}")
    if len(kept) < 2:
        raise InputError(
            f"the {split} images have two lesions of {', '.join(NAMES[code] for code in kept) or 'no entity'} only: "
            "a comparison needs two lesions each of two entities; add images"
        )
    found = predictions.part(None, shown.index[entity.isin(kept)].to_numpy())
    asked, here = {}, set(found.images["dx"])
    for one in comparisons:
        asked.setdefault((one.network, one.coefficients, one.measure), replace(one, splits=(split,)))
    answered = [one for one in asked.values() if here & set(protocol.MEASURES[one.measure] or CODES)]
    lines += [
        f"left out, for none of its entities is left: {one.name}" for one in asked.values() if one not in answered
    ]
    return trial_table(found, answered, seeds, resamples, seed), lines + by_image(found.images)


def holm(p: np.ndarray, absent: int = 0) -> np.ndarray:
    """Holm's adjusted p (statsmodels); a comparison without numbers stays in the count, as a p of 1, and so do `absent` ones."""
    from statsmodels.stats.multitest import multipletests

    counted = np.concatenate([np.nan_to_num(p, nan=1.0), np.ones(absent)])
    return np.where(np.isnan(p), np.nan, multipletests(counted, method="holm")[1][: len(p)])


def contrast_of(
    predictions: Predictions, comparison: Comparison, planned: int
) -> tuple[Contrast, list[int], list[int]]:
    """The comparison's contrast in each seed that ran in all its training sets; those seeds, and the missing ones.

    Seeds beyond the planned ones are left out.
    """
    own = predictions.select(network=comparison.network, training_set=list(comparison.training_sets))
    for name in comparison.training_sets:
        if not (own.runs["training_set"] == name).any():
            raise InputError(
                f"the predictions hold no run of {comparison.network} on {name!r}, which the comparison "
                f"{comparison.name!r} needs: train it, or name the comparisons that are wanted"
            )
    if own.runs.duplicated(["training_set", "seed"]).any():
        raise InputError(f"a run of {comparison.network} stands twice in the predictions: keep one of each seed")
    kept = own.images["split"].isin(comparison.splits).to_numpy()
    images = own.images[kept].reset_index(drop=True)
    if images.empty:
        raise InputError(f"the predictions hold no image of the {' and '.join(comparison.splits)} lesions")
    if not (own.priors > 0).all():
        run, entity = np.argwhere(own.priors <= 0)[0]
        raise InputError(
            f"{own.runs['training_set'][run]!r} of {comparison.network} holds no image of {NAMES[CODES[entity]]}: its prior "
            "cannot be corrected"
        )
    lesions, sound = lesions_of(images), own.sound & own.runs["seed"].isin(range(planned)).to_numpy()
    runs, probabilities = own.runs[sound].reset_index(drop=True), own.corrected()[np.ix_(sound, kept)]
    place = runs.reset_index().pivot(index="seed", columns="training_set", values="index")
    place = place.reindex(index=range(planned), columns=comparison.training_sets)
    whole = place.dropna().astype(int)
    values, influence = np.zeros(len(whole)), np.zeros((len(whole), len(lesions.entity)))
    if len(whole):
        area, moved = mean_area(probabilities, images["dx"], lesions, protocol.MEASURES[comparison.measure])
        for name, coefficient in comparison.coefficients:
            values += coefficient * area[whole[name]]
            influence += coefficient * moved[whole[name]]
    missing = [number for number in range(planned) if number not in whole.index]
    return Contrast(values, influence, lesions.strata()), list(whole.index), missing


def verdict_sentence(row: Mapping | pd.Series) -> str:
    """The protocol's sentence for a row of `trial_table`; a change that is real and small is told in a second one."""
    words, verdict = _words(row), row["verdict"]
    if _lost(row):
        sentence = protocol.LOST
    elif row["role"] == protocol.CONTROL:
        sentence = protocol.CONTROL_FOUND if verdict == protocol.HELPS else protocol.CONTROL_MISSED
    else:
        sentence = protocol.WORDING[verdict]
        if verdict in (protocol.HELPS, protocol.HARMS) and max(-row["low"], row["high"]) < row["margin"]:
            sentence += " " + protocol.SMALL
    return sentence.format(**words)


def answer(table: pd.DataFrame) -> str:
    """The trial's answer: `verdict_sentence` of the primary comparison and, where the second generator's verdict differs, that.

    table: as `trial_table` gives it. A second generator that did not run has no verdict to differ.
    """
    primary = table[table["role"] == protocol.PRIMARY].iloc[0]
    said = [verdict_sentence(primary)]
    for _, row in table[(table["comparison"] == protocol.SECOND_GENERATOR) & (table["seeds"] > 0)].iterrows():
        if row["verdict"] != primary["verdict"]:
            sentence = protocol.OTHER_LOST if _lost(row) else protocol.OTHER_GENERATOR
            said.append(sentence.format(**_words(row)))
    return " ".join(said)


def sentences(table: pd.DataFrame) -> list[str]:
    """What each row of `trial_table` says, after its role: the `answer` first; last, where it is so, that no control ran."""
    roles = (protocol.PRIMARY, protocol.CONTROL, protocol.FAMILY, protocol.SENSITIVITY)
    said = []
    for role in roles:
        for _, row in table[table["role"] == role].iterrows():
            said.append(f"{role}: {answer(table) if role == protocol.PRIMARY else verdict_sentence(row)}")
    controls = table[(table["role"] == protocol.CONTROL) & (table["seeds"] > 0)]
    return said + ([] if len(controls) else [protocol.NO_CONTROL])


def _words(row: Mapping | pd.Series) -> dict[str, object]:
    """What the protocol's sentences put in their braces, from a row of `trial_table`; InputError for an unknown comparison."""
    known = {comparison.name: comparison for comparison in protocol.COMPARISONS}
    if row["comparison"] not in known:
        raise InputError(f"the protocol has no comparison {row['comparison']!r}")
    subject, adjusted = known[row["comparison"]].subject, " after Holm" if row["role"] == protocol.FAMILY else ""
    return {
        "subject": subject, "Subject": subject[0].upper() + subject[1:], "measure": row["measure"],
        "verdict": row["verdict"], "p": f"p {protocol.p_words(row['p_holm'])}{adjusted}",
        "size": protocol.unsigned(row["difference"]), "margin": protocol.unsigned(row["margin"]),
        "missing": row["missing"], "planned": row["seeds"] + row["missing"], "difference": protocol.signed(row["difference"]),
        **{end: protocol.bound(row[end]) for end in ("low", "high")},
    }  # fmt: skip


def described_table(
    predictions: Predictions,
    comparisons: Sequence[Comparison] = protocol.PAIRS,
    seeds: Mapping[str, int] = protocol.SEEDS,
) -> pd.DataFrame:
    """Differences that are described and not tested: comparison, network, measure, seeds, lesions, difference, low, high.

    One of fewer than two whole seeds has no numbers.
    """
    rows = []
    for comparison in comparisons:
        contrast, ran, _ = contrast_of(predictions, comparison, seeds[comparison.network])
        numbers = dict.fromkeys(("difference", "low", "high"), np.nan)
        if len(ran) > 1:
            found = estimate(contrast)
            numbers = {"difference": found.difference, "low": found.low, "high": found.high}
        rows.append({
            "comparison": comparison.name, "network": comparison.network, "measure": comparison.measure,
            "seeds": len(ran), "lesions": contrast.influence.shape[1], **numbers,
        })  # fmt: skip
    return pd.DataFrame(rows)


def exploratory_table(
    predictions: Predictions, comparison: Comparison, people: pd.DataFrame, seeds: Mapping[str, int] = protocol.SEEDS
) -> pd.DataFrame:
    """One comparison within parts of the test images, by sex, age and site, described and not tested.

    people: image_id, sex, age, localization; images without a value are left out, and so are, within a stratum, entities of
    fewer than STRATUM_LESIONS lesions. Columns by, stratum, images, lesions, entities, difference, low, high; a stratum with
    fewer than two entities has no row, and none has one where fewer than two seeds are whole.
    """
    known, rows = people.set_index("image_id"), []
    age = pd.cut(
        pd.to_numeric(known["age"], errors="coerce"), [0, 40, 60, 120], labels=["to 40", "41 to 60", "over 60"]
    )
    tested = predictions.images[predictions.images["split"].isin(comparison.splits)]
    for by, strata in {"sex": known["sex"], "age": age.astype(object), "site": known["localization"]}.items():
        for stratum, shown in tested.groupby(tested["image_id"].map(strata)):
            count = shown.groupby("dx")["group"].nunique()
            shown = shown[shown["dx"].isin(count.index[count >= STRATUM_LESIONS])]
            entities = set(protocol.MEASURES[comparison.measure] or CODES) & set(shown["dx"])
            if shown["dx"].nunique() < 2 or not entities:
                continue
            part = predictions.part(None, shown.index.to_numpy())
            contrast, ran, _ = contrast_of(part, comparison, seeds[comparison.network])
            if len(ran) > 1:
                found = estimate(contrast)
                counts = len(shown), shown["group"].nunique(), len(entities)
                rows.append((by, stratum, *counts, found.difference, found.low, found.high))
    columns = ["by", "stratum", "images", "lesions", "entities", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _lacking(predictions: Predictions, comparison: Comparison) -> list[str]:
    """The training sets of `comparison` without a single run."""
    ran = set(predictions.runs[["network", "training_set"]].itertuples(index=False, name=None))
    return [name for name in comparison.training_sets if (comparison.network, name) not in ran]


def _row(predictions: Predictions, comparison: Comparison, planned: int, resamples: int, seed: int) -> dict:
    contrast, ran, missing = None, [], list(range(planned))
    if not _lacking(predictions, comparison):
        contrast, ran, missing = contrast_of(predictions, comparison, planned)
    row = dict.fromkeys((*COLUMNS, *FURTHER), np.nan) | {
        "comparison": comparison.name, "measure": comparison.measure, "margin": comparison.margin,
        "role": comparison.role, "network": comparison.network, "seeds": len(ran),
        "missing": len(missing), "missing_seeds": ", ".join(map(str, missing)) or "none", "interval": INTERVAL,
    }  # fmt: skip
    if len(ran) < 2:
        return row
    found = estimate(contrast)
    weights = lesion_weights(contrast.strata, resamples, seed)
    crossed = quantiles(crossed_resamples(contrast, weights, seed))
    alone = over_seeds(contrast.values)
    return row | {
        "difference": found.difference, "low": found.low, "high": found.high, "p": found.p, "df": found.df,
        "standard_error": found.standard_error,
        "p_equivalence": found.p_equivalence(comparison.margin), "crossed_low": crossed[0], "crossed_high": crossed[1],
        "t_low": alone[0], "t_high": alone[1], "p_permutation": swapped_labels(contrast.values, seed),
        "lesions_share": max(0.0, found.lesions - found.interaction) / found.standard_error**2,
        "lesions": contrast.influence.shape[1],
    }  # fmt: skip


def _lost(row: Mapping) -> bool:
    return row["missing"] > protocol.MISSING * (row["seeds"] + row["missing"]) or row["seeds"] < 2


def _verdict(row: Mapping, control_found: bool) -> str:
    if _lost(row):
        return protocol.NOT_RESOLVED
    if row["p_holm"] <= protocol.LEVEL:
        return protocol.HELPS if row["difference"] > 0 else protocol.HARMS
    if row["p_equivalence_holm"] <= protocol.LEVEL and control_found:
        return protocol.EQUIVALENT
    return protocol.NOT_RESOLVED
