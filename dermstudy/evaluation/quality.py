"""Image quality by entity, under both protocols: Table 1 as published, and with one n on all sides, an interval and a floor.

Sources: Shavlokhova et al., sections 2.2 and 3.1, Table 1; Odena et al. (arXiv 1610.09585) for diversity.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from dermstudy.data.dataset import Cohort
from dermstudy.entities import CODES, NAMES
from dermstudy.evaluation.features import Features
from dermstudy.evaluation.metrics import feature_metrics, fid, inception_score, kid, ms_ssim, pair_metrics
from dermstudy.evaluation.metrics import psnr as true_psnr
from dermstudy.files import InputError, progress
from dermstudy.intervals import quantiles
from dermstudy.published import paper

PIXEL_METRICS = ("ssim", "psnr", "mse")
FEATURE_METRICS = ("kid", "fid", "precision", "recall")
UNBIASED_FID = 500  # images below which FID mostly measures their number
FEWEST = 50  # images on each side from which an entity has a row of its own: below, its interval spans all others
ALIKE = 0.1  # by how much a number of images may differ for two FIDs to stand beside each other
BY_NUMBER = ("fid", "inception_score")  # what moves with the number of images, whatever their quality
PAIRS_AT_ONCE = 64  # pairs whose images are read together


def pair_table(originals: Cohort, synthetic: Cohort, side: int) -> pd.DataFrame:
    """SSIM, published PSNR and MSE of each synthetic image and the original whose caption it took, at side x side.

    One row a synthetic image: image_id, dx, source_image_id and the metrics. Prints a line every ten seconds.
    """
    rows, frame = [], synthetic.frame
    starts = range(0, len(frame), PAIRS_AT_ONCE)
    for start in progress(starts, len(frame), "pairs compared", PAIRS_AT_ONCE):
        batch = frame.iloc[start : start + PAIRS_AT_ONCE]
        reals = originals.images(side, batch["source_image_id"].tolist())
        fakes = synthetic.images(side, batch["image_id"].tolist())
        names = batch[["image_id", "dx", "source_image_id"]].to_dict("records")
        rows += [
            name | pair_metrics(real[None], fake[None]) for name, real, fake in zip(names, reals, fakes, strict=True)
        ]
    return pd.DataFrame(rows)


def real_pairs(cohort: Cohort, side: int, pairs: int = 20, seed: int = 0) -> pd.DataFrame:
    """The pixel metrics of random pairs of originals of one entity and different lesions; index: entity codes."""
    random, rows = np.random.default_rng(seed), {}
    for code, images in cohort.frame.groupby("dx"):
        one_a_lesion = images.drop_duplicates("group")["image_id"].to_numpy()
        chosen = random.permutation(one_a_lesion)[: 2 * min(pairs, len(one_a_lesion) // 2)]
        halves = np.split(cohort.images(side, chosen), 2)
        rows[code] = {"n": len(halves[0]), **pair_metrics(*halves)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("entity")


def unpaired_table(pairs: pd.DataFrame, cohort: Cohort, side: int, seed: int = 0) -> pd.DataFrame:
    """SSIM, MSE and true PSNR of the pairs beside those of random real pairs of the same entity; index: entity codes."""
    table = pd.merge(
        pairs.groupby("dx")[["ssim", "mse"]].mean(),
        real_pairs(cohort, side, seed=seed)[["ssim", "mse"]],
        left_index=True,
        right_index=True,
        suffixes=("", " of real pairs"),
    )
    for name in ("", " of real pairs"):
        table[f"true psnr{name}"] = table[f"mse{name}"].map(true_psnr)
    return table.reindex(CODES).rename_axis("entity")


def sides(cohort: Cohort, most: int, seed: int = 0) -> dict[str, Cohort]:
    """Training and test images for `audited`: by chance at most 2 * `most` an entity, the order as in the cohort."""
    shuffled = cohort.frame.groupby(["dx", "split"]).sample(frac=1, random_state=seed)
    chosen = shuffled.groupby(["dx", "split"]).head(2 * most)
    return {
        split: cohort.select(image_id=chosen.loc[chosen["split"] == split, "image_id"]) for split in ("train", "test")
    }


def beside_paper(published: pd.DataFrame, printed: pd.DataFrame, images: Mapping[str, int]) -> pd.DataFrame:
    """`as_published` with the paper's columns (`paper_`) and numbers of images beside it; index entity codes, "overall".

    printed: `paper.table_1()`; images: the paper's number of them by entity code. What moves with that number (BY_NUMBER) is
    NaN where ours differs by more than ALIKE of it: two such figures are not to be compared.
    """
    counts = pd.Series(images)
    counts["overall"] = counts.sum()
    table = published.join(printed.add_prefix("paper_"))
    table.insert(1, "paper_n", counts.reindex(table.index))
    apart = (table["n"] / table["paper_n"] - 1).abs() > ALIKE
    table.loc[apart, [f"paper_{name}" for name in BY_NUMBER]] = np.nan
    return table


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of entities by name (the index) in the study's order, "overall" last; absent ones are left out."""
    return table.reindex([name for name in (*NAMES.values(), "overall") if name in table.index])


def by_metric(table: pd.DataFrame) -> pd.DataFrame:
    """`audited` for a reader: a row an entity by name, "overall" last, value and floor of every metric beside each other."""
    shown = table.assign(entity=table["entity"].replace(NAMES))
    return in_order(shown.pivot(index="entity", columns="metric", values=["value", "floor"]))


def places(ssim: pd.Series, excess: pd.DataFrame) -> pd.DataFrame:
    """The entities' places, 1 is best: by the paper's SSIM, by this run's, and by KID above its floor of each encoder.

    ssim: by entity code; excess: entities by name, a column an encoder.
    """
    by_code = excess.rename({name: code for code, name in NAMES.items()})
    columns = {
        "paper, SSIM": -paper.table_1()["ssim"].drop("overall"),
        "here, SSIM": -ssim.drop("overall"),
        **{f"here, KID above its floor, {encoder}": by_code[encoder] for encoder in by_code},
    }
    return pd.DataFrame(columns).rank(method="min").reindex(CODES).rename_axis("entity")


def above_floors(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """KID, its floor and their difference, and recall with its floor, by encoder and entity ("overall" last).

    tables: `audited` by encoder. Columns encoder, entity (by name), n, kid, floor, excess, recall, recall_floor.
    """
    parts = []
    for encoder, table in tables.items():
        kids, recalls = (table[table["metric"] == name].set_index("entity") for name in ("kid", "recall"))
        rows = kids[["n", "floor"]].assign(encoder=encoder, kid=kids["value"], excess=kids["value"] - kids["floor"])
        rows = rows.assign(recall=recalls["value"], recall_floor=recalls["floor"]).reset_index()
        parts.append(rows.assign(entity=rows["entity"].replace(NAMES)))
    columns = ["encoder", "entity", "n", "kid", "floor", "excess", "recall", "recall_floor"]
    return pd.concat(parts, ignore_index=True)[columns]


def order_by_kid(both: pd.DataFrame) -> pd.DataFrame:
    """The entities' KID above its floor, a column an encoder, by name; no column unless each encoder has every entity.

    both: `above_floors`. An order of seven is a claim about seven.
    """
    excess = both[both["entity"] != "overall"].pivot(index="entity", columns="encoder", values="excess")
    whole = len(excess) == len(CODES) and excess.notna().all(axis=None)
    return excess if whole else excess[[]]


def fid_curve(parts: list[np.ndarray], seed: int = 0, points: int = 6) -> pd.DataFrame:
    """FID of random subsets of two halves of the same real images, whose true distance is zero, by the subsets' size.

    parts: features [n, d] of several entities. Columns n, value: three rows a size.
    """
    everything = np.concatenate(parts)
    halves = np.array_split(everything[np.random.default_rng(seed).permutation(len(everything))], 2)
    random, sizes = np.random.default_rng(seed), sorted({int(n) for n in np.geomspace(4, len(halves[1]), points)})
    rows = [
        (size, fid(*(half[random.permutation(len(half))[:size]] for half in halves)))
        for size in sizes
        for _ in range(3)
    ]
    return pd.DataFrame(rows, columns=["n", "value"])


def as_published(pairs: pd.DataFrame, real: dict[str, np.ndarray], synthetic: dict[str, np.ndarray]) -> pd.DataFrame:
    """Table 1's columns by entity, and "overall" as the unweighted mean of the entities.

    pairs: dx with ssim, psnr and mse of each original and its synthetic image; real, synthetic: features by entity
    code. Index: entity codes in the paper's order, then "overall"; columns n, ssim, psnr, mse, fid, inception_score.
    """
    _both_sides(real, synthetic)
    rows = {}
    for code in [code for code in CODES if code in real]:
        paired = pairs[pairs["dx"] == code]
        rows[code] = {"n": len(paired)} | {name: paired[name].mean() for name in PIXEL_METRICS}
        rows[code] |= {"fid": fid(synthetic[code], real[code]), "inception_score": inception_score(synthetic[code])}
    table = pd.DataFrame.from_dict(rows, orient="index")
    overall = table.mean()
    overall["n"] = table["n"].sum()
    table.loc["overall"] = overall
    return table.astype({"n": int}).rename_axis("entity")


def audited(
    synthetic: dict[str, np.ndarray],
    train: dict[str, Features],
    test: dict[str, Features],
    most: int,
    repeats: int = 20,
    seed: int = 0,
    fewest: int = FEWEST,
) -> pd.DataFrame:
    """KID, FID, precision and recall over all entities and of those with enough images, with interval and floor.

    synthetic: vectors [k, d] by entity; train, test: features with their lesions by entity. An entity enters with half of
    the images that its smallest side has, `most` at most, as many on all sides; the rows "overall" pool these, and an
    entity has rows of its own where they are `fewest` or more. Each repetition draws synthetic images and test images, at
    most one a lesion while lesions last, without replacement; value is the mean over repetitions and low, high the 2.5 and
    97.5 % quantiles. The floor compares training with test lesions in the same way; `others`, for KID, compares an
    entity's test lesions with training lesions of all other entities, what a generator scores that ignores the caption's
    word. Intervals show the spread of half-size subsamples, not of new lesions. FID is left out for entities at fewer than
    UNBIASED_FID images, where it mostly measures their number; the pooled row has it beside its floor.
    Raises InputError where an entity has fewer than two images on one side.
    """
    _both_sides(test, synthetic)
    codes = [code for code in CODES if code in test]
    sizes = {code: _count(synthetic, train, test, code, most) for code in codes}
    wanted = {
        code: [name for name in FEATURE_METRICS if name != "fid" or sizes[code] >= UNBIASED_FID]
        for code in codes
        if sizes[code] >= fewest
    } | {"overall": list(FEATURE_METRICS)}
    sizes["overall"] = sum(sizes.values())
    found = defaultdict(list)  # by entity, metric and column: a value a repetition
    for repeat in range(repeats):
        drawn = {}
        for code in codes:
            random = np.random.default_rng([seed, CODES.index(code), repeat])
            made = synthetic[code][random.permutation(len(synthetic[code]))[: sizes[code]]]
            drawn[code] = made, test[code].drawn(sizes[code], random), train[code].drawn(sizes[code], random)
        drawn["overall"] = tuple(np.concatenate(parts) for parts in zip(*drawn.values(), strict=True))
        for entity, names in wanted.items():
            made, real, reference = drawn[entity]
            for column, images in (("value", made), ("floor", reference)):
                for name, value in feature_metrics(images, real, names).items():
                    found[entity, name, column].append(value)
            if entity != "overall":
                rest = np.concatenate([drawn[other][2] for other in codes if other != entity])
                random = np.random.default_rng([seed, CODES.index(entity), repeat, 1])
                found[entity, "kid", "others"].append(kid(rest[random.permutation(len(rest))[: sizes[entity]]], real))
    rows = []
    for entity, name in ((entity, name) for entity, names in wanted.items() for name in names):
        value, floor, others = (found.get((entity, name, column)) for column in ("value", "floor", "others"))
        low, high = quantiles(value)
        row = {"entity": entity, "n": sizes[entity], "metric": name, "value": np.mean(value), "low": low, "high": high}
        rows.append(row | {"floor": np.mean(floor), "others": np.nan if others is None else np.mean(others)})
    return pd.DataFrame(rows)


def _count(synthetic: dict, train: dict, test: dict, code: str, most: int) -> int:
    """How many images of an entity are compared: at most `most`, and half of what its smallest side has.

    Half, because subsamples of nearly everything hardly differ and their spread would say nothing. InputError where a side
    has fewer than two images.
    """
    counts = {"synthetic": len(synthetic[code]), "test": len(test[code]), "training": len(train[code])}
    if short := [name for name, count in counts.items() if count < 2]:
        raise InputError(
            f"{NAMES[code]}: {counts[short[0]]} {short[0]} images, the audited table needs two of an entity on each "
            "side: add images"
        )
    return min(most, min(counts.values()) // 2)


def diversity(
    synthetic: dict[str, np.ndarray], real: dict[str, np.ndarray], pairs: int = 20, repeats: int = 200, seed: int = 0
) -> pd.DataFrame:
    """How alike the images of an entity are to each other: mean MS-SSIM of random pairs, in the audited table's form.

    synthetic, real: pixels uint8 [n, h, w, 3] by entity. Higher means less diverse; the floor is that of real images of
    different lesions. The interval resamples the pairs. Source: Odena et al. (arXiv 1610.09585), section 4.2.
    """
    _both_sides(real, synthetic)
    rows = []
    for code in [code for code in CODES if code in real]:
        random = np.random.default_rng([seed, CODES.index(code), 9])
        values = {}
        for name, images in (("value", synthetic[code]), ("floor", real[code])):
            if len(images) < 2:
                raise InputError(f"{NAMES[code]}: MS-SSIM within an entity needs two images, got {len(images)}")
            chosen = np.array([random.choice(len(images), 2, replace=False) for _ in range(pairs)])
            values[name] = ms_ssim(images[chosen[:, 0]], images[chosen[:, 1]])
        low, high = quantiles([random.choice(values["value"], pairs).mean() for _ in range(repeats)])
        row = {"entity": code, "n": len(synthetic[code]), "metric": "ms_ssim", "value": values["value"].mean()}
        rows.append(row | {"low": low, "high": high, "floor": values["floor"].mean()})
    return pd.DataFrame(rows)


def diversity_of(synthetic: Cohort, real: Cohort, n: int, seed: int = 0) -> pd.DataFrame:
    """`diversity` of the first `n` images an entity at 256 pixels, by at most as many pairs, real ones of different lesions."""
    apart = replace(real, frame=real.frame.drop_duplicates("group"))
    chosen = [{code: side.select(dx=code) for code in CODES} for side in (synthetic, apart)]
    pixels = [{code: few.images(256, few.frame["image_id"].head(n)) for code, few in side.items()} for side in chosen]
    return diversity(*pixels, pairs=min(20, n), seed=seed)


def kid_matrix(parts: dict[str, Features], seed: int = 0, repeats: int = 10) -> pd.DataFrame:
    """KID between two halves of the lesions of every entity, [k, k]: rows first halves, columns second halves.

    parts: features with their lesions by entity. The mean over `repeats` ways of halving;
    all halves have the size that the smallest entity allows (`attrs["n"]`). Where the encoder tells the entities apart,
    the diagonal holds each row's smallest value. InputError where an entity has one lesion only.
    """
    random, tables, sizes = np.random.default_rng(seed), [], []
    for _ in range(repeats):
        halves = {code: part.halves(code, random) for code, part in parts.items()}
        sizes.append(min(len(half) for pair in halves.values() for half in pair))
        cut = {code: [half[: sizes[-1]] for half in pair] for code, pair in halves.items()}
        tables.append([[kid(cut[row][0], cut[column][1]) for column in cut] for row in cut])
    result = pd.DataFrame(np.mean(tables, axis=0), list(parts), list(parts)).rename_axis("entity")
    result.attrs["n"] = int(min(sizes))
    return result


def _both_sides(real: dict, synthetic: dict) -> None:
    for name, side, other in (("synthetic", synthetic, real), ("real", real, synthetic)):
        absent = [NAMES[code] for code in CODES if code in other and code not in side]
        if absent:
            raise InputError(f"no {name} image of {', '.join(absent)}: every entity must stand on both sides")
