"""What `dermstudy judge` judges by, how it does on images of known quality, and the table of all judgements.

    python -m dermstudy_commands.maintenance.judged features --data DIR
    python -m dermstudy_commands.maintenance.judged rows --data DIR [--painted DIR] [--only NAME]
    python -m dermstudy_commands.maintenance.judged repeats [--draws 10]
    python -m dermstudy_commands.maintenance.judged table

`features` writes weights/judge. `rows` runs results/judged/demands.csv, written before any of it was run, and adds to
results/judged/calibration.csv; --painted is a folder of `dermstudy synthesize --per-entity 100`. `repeats` judges folders of
repeated originals, drawn anew each time, simulates 2,000 more, and counts intervals off zero. `table` writes docs/JUDGED.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache as cache_calls
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter
from scipy.stats import t
from tqdm import tqdm

from dermstudy import workspace
from dermstudy.classification import inference, predictions, protocol, trial
from dermstudy.data.dataset import Cohort
from dermstudy.data.external import load_labelled
from dermstudy.entities import CODES
from dermstudy.files import InputError, answered, atomic_path, read_json, write_text
from dermstudy.weight_files import drop_checksums, write_checksums
from dermstudy_commands.judge import bank, compare, real, record
from dermstudy_commands.judge.look import look
from dermstudy_commands.maintenance import simulation
from dermstudy_commands.phantom import cohort as phantom

FOLDER, PAGE = "results/judged", "docs/JUDGED.md"
DEMANDS, ROWS, REPEATS = f"{FOLDER}/demands.csv", f"{FOLDER}/calibration.csv", f"{FOLDER}/repeats.csv"
EACH, SEEDS, SEED = 100, 20, 0
SIDE, SMALL, BLUR = 256, 64, 2  # pixels
MEANING = {"interval above zero": lambda row: row["low"] > 0, "interval below zero": lambda row: row["high"] < 0,
           "interval holds zero": lambda row: row["low"] <= 0 <= row["high"], "none": lambda row: None}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m dermstudy_commands.maintenance.judged", description=__doc__.splitlines()[0]
    )
    parser.add_argument("step", choices=("features", "rows", "repeats", "table"))
    parser.add_argument("--data", metavar="DIR", help="a HAM10000 download")
    parser.add_argument("--cache", metavar="DIR", default="build/judge", help="where features are kept")
    parser.add_argument("--painted", metavar="DIR", help="100 images of each entity by glide-mini")
    parser.add_argument("--only", metavar="NAME", help="this row alone")
    parser.add_argument("--draws", type=int, default=10, metavar="N", help="folders of repeated originals")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    cache = workspace.from_root(options.cache)
    if options.step in ("features", "rows") and options.data is None:
        raise InputError(f"{options.step} needs images: give --data DIR")
    if options.step == "features":
        ship(real.make(real.cohort_of(options.data), cache))
    elif options.step == "rows":
        run_rows(options, cache)
    elif options.step == "repeats":
        repeats(bank.load(workspace.from_root(bank.FOLDER)), options.draws)
    else:
        write_text(workspace.from_root(PAGE), page())


def ship(features: bank.Bank) -> None:
    """Write the features, their card and checksums to weights/judge."""
    folder = workspace.from_root(bank.FOLDER)
    drop_checksums(folder)
    bank.save(features, folder)
    write_text(folder / "README.md", card(features, folder))
    write_checksums(folder)


def card(features: bank.Bank, folder: Path) -> str:
    """The card of the features, its figures counted here."""
    text = Path(__file__).with_name("judge_card.md").read_text(encoding="utf-8")
    counts = features.frame["split"].value_counts()
    return text.format(
        size=f"{(folder / bank.FEATURES).stat().st_size / 1e6:.1f}", components=features.components.shape[1],
        numbers=features.basis.axes.shape[0], images=len(features.frame), sides=", ".join(
            f"{len(seen.frame)} of {'training' if side == 'train' else side} lesions" for side, seen in features.seen.items()
        ), **counts,
    )  # fmt: skip


# Rows of known quality


def run_rows(options: argparse.Namespace, cache: Path) -> None:
    """Every row of DEMANDS that is not in ROWS yet, or the one that is named."""
    whole, cohort = bank.load(workspace.from_root(bank.FOLDER)), cache_calls(lambda: real.cohort_of(options.data))
    demands, path = pd.read_csv(workspace.from_root(DEMANDS), keep_default_na=False), workspace.from_root(ROWS)
    found = pd.read_csv(path, keep_default_na=False).to_dict("records") if path.is_file() else []
    for row in demands.to_dict("records"):
        done = row["row"] in [one["row"] for one in found]
        if row["row"] != options.only and (options.only or done) or row["row"] == "glide-mini" and not options.painted:
            continue
        base, dx, inputs = images_of(row["row"], whole, cohort, cache, options.painted)
        runs = compare.both(base, dx.reset_index(drop=True), inputs, SEEDS)
        effect = trial.trial_table(runs, compare.COMPARISONS[:1], {protocol.FROZEN: SEEDS}).iloc[0]
        shown = MEANING[row["demand"]](effect)
        told = {name: float(f"{effect[name]:.6g}") for name in ("difference", "low", "high", "p", "standard_error")}
        found = [one for one in found if one["row"] != row["row"]]
        found.append({"row": row["row"], "images": len(dx), "training_images": int(base.images("train").sum()), **told,
                      "demand": row["demand"], "met": {None: "", True: "yes", False: "no"}[shown]})  # fmt: skip
        order = {name: number for number, name in enumerate(demands["row"])}
        table = pd.DataFrame(sorted(found, key=lambda one: order[one["row"]]))
        with atomic_path(path) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
        print(row["row"], told, found[-1]["met"], flush=True)


def images_of(
    row: str, whole: bank.Bank, cohort: Callable[[], Cohort], cache: Path, painted: str | None
) -> tuple[bank.Bank, pd.Series, np.ndarray]:
    """The bank that a row is judged by, and the entities and components of its images; cohort opens real images."""
    halved, other = halves(whole)
    frame, inputs = whole.frame[other].reset_index(drop=True), whole.components[other]
    wrong = {"half of the labels wrong": 0.5, "10 % of the labels wrong": 0.1}
    if row == "other lesions":
        return halved, frame["dx"], inputs
    if row in wrong:
        return halved, mislabelled(frame["dx"], wrong[row]), inputs
    if row in ("blurred", "64 pixels"):
        files = cohort().select(image_id=frame["image_id"])
        return halved, files.frame["dx"], changed(files, blurred if row == "blurred" else small, cache, whole)
    repeated = repeated_originals(whole, SEED)
    if row == "repeated originals":
        return whole, whole.frame["dx"][repeated], whole.components[repeated]
    settings = real.settings()
    if row == "stronger augmentation":
        drawn = replace(settings, views=tuple(replace(view, draw=1) for view in settings.views))
        changed_images = cohort().select(image_id=whole.frame["image_id"][repeated])
        return (
            whole,
            changed_images.frame["dx"],
            whole.basis.inputs(look(changed_images, cache, drawn, distances=False).features),
        )
    if row == "phantom":
        folder = cache / "phantom"
        if not folder.is_dir():
            phantom.write_cohort(folder, 7 * EACH, SEED, SIDE, "balanced")
        painted = str(folder)
    images = load_labelled(painted).cohort
    return whole, images.frame["dx"], whole.basis.inputs(look(images, cache, settings, distances=False).features)


def halves(whole: bank.Bank) -> tuple[bank.Bank, np.ndarray]:
    """The bank with half of each entity's training lesions, and which rows of `whole` are of the other half."""
    frame, other = whole.frame, set()
    for number, code in enumerate(CODES):
        lesions = np.unique(frame.loc[whole.images("train") & (frame["dx"] == code), "group"])
        other |= set(np.random.default_rng([SEED, number, 31]).permutation(lesions)[: len(lesions) // 2])
    left = (whole.images("train") & frame["group"].isin(other)).to_numpy()
    base = replace(whole, frame=frame[~left].reset_index(drop=True), components=whole.components[~left])
    return replace(base, head=None, originals=None), left


def repeated_originals(whole: bank.Bank, seed: int) -> np.ndarray:
    """Places of EACH training originals of each entity, all where it has fewer, by chance."""
    chosen = []
    for number, code in enumerate(CODES):
        originals = np.flatnonzero(whole.images("train") & (whole.frame["dx"] == code))
        chosen += list(np.random.default_rng([seed, number, 32]).permutation(originals)[:EACH])
    return np.sort(chosen)


def mislabelled(dx: pd.Series, share: float) -> pd.Series:
    """`share` of the labels changed to another entity, each of the six as likely."""
    random = np.random.default_rng([SEED, 33])
    rows = random.permutation(len(dx))[: round(share * len(dx))]
    places = pd.Index(CODES).get_indexer(dx)
    places[rows] = (places[rows] + random.integers(1, len(CODES), len(rows))) % len(CODES)
    return pd.Series(np.array(CODES)[places])


def blurred(image: np.ndarray) -> Image.Image:
    """An image under a Gaussian blur."""
    return Image.fromarray(image).filter(ImageFilter.GaussianBlur(BLUR))


def small(image: np.ndarray) -> Image.Image:
    """An image reduced to SMALL pixels and enlarged again."""
    reduced = Image.fromarray(image).resize((SMALL, SMALL), Image.Resampling.BICUBIC)
    return reduced.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def changed(files: Cohort, change: Callable[[np.ndarray], Image.Image], cache: Path, whole: bank.Bank) -> np.ndarray:
    """Components of images after `change`, which are written as PNG first."""
    folder = cache / change.__name__
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in files.frame["image_id"]:
        if not (folder / f"{image_id}.png").is_file():
            with atomic_path(folder / f"{image_id}.png") as path:
                change(files.image(image_id, SIDE)).save(path, format="PNG")
    frame = files.frame.assign(file=files.frame["image_id"] + ".png")
    looked = look(replace(files, root=folder, frame=frame), cache, real.settings(), distances=False)
    return whole.basis.inputs(looked.features)


# False alarms


def repeats(whole: bank.Bank, draws: int) -> None:
    """Write how often an interval lies above and below zero: of `draws` folders of repeated originals, and simulated.

    Simulated trials have the first folder's variances by lesions, by seeds and by both, and no effect (`simulation`).
    """
    dx = whole.frame["dx"][repeated_originals(whole, SEED)]
    control, _ = compare.runs_of(
        whole, compare.REPEATED, compare.training_set(whole, compare.REPEATED, dx, None), SEEDS
    )
    drawn, first = [], None
    for draw in tqdm(range(draws), "folders of repeated originals"):
        chosen = repeated_originals(whole, draw)
        taught = compare.training_set(whole, compare.ADDED, whole.frame["dx"][chosen], whole.components[chosen])
        runs = predictions.joined([compare.runs_of(whole, compare.ADDED, taught, SEEDS)[0], control])
        contrast, _, _ = trial.contrast_of(runs, compare.COMPARISONS[0], SEEDS)
        first, found = first or contrast, inference.estimate(contrast)
        drawn.append((found.difference, found.standard_error, found.df))
    samples = {"drawn": pd.DataFrame(drawn, columns=["difference", "standard_error", "df"])}
    lesions = whole.frame[whole.images("test")].groupby(["dx", "group"]).size().reset_index(name="images")
    lesions = lesions.groupby(["dx", "images"]).size().reset_index(name="lesions").rename(columns={"dx": "entity"})
    for shape in simulation.SHAPES:
        samples[f"simulated, {shape}"] = simulation.design(lesions, SEEDS, variances(first), shape)
    rows = []
    for how, found in samples.items():
        half = t.ppf(1 - protocol.LEVEL / 2, found["df"]) * found["standard_error"]
        above, below = int((found["difference"] > half).sum()), int((found["difference"] < -half).sum())
        rows.append({"how": how, "folders": len(found), "above": above, "below": below})
    with atomic_path(workspace.from_root(REPEATS)) as path:
        pd.DataFrame(rows).to_csv(path, index=False, lineterminator="\n")


def variances(contrast: inference.Contrast) -> simulation.Components:
    """What a contrast's variance comes from, as `simulation` takes it."""
    found = inference.estimate(contrast)
    variances_of = [
        len(members) * contrast.influence[:, members].mean(axis=0).var(ddof=1) for members in contrast.strata
    ]
    shares = tuple(((code,), part / sum(variances_of)) for code, part in zip(CODES, variances_of, strict=True))
    counts = tuple((code, len(members)) for code, members in zip(CODES, contrast.strata, strict=True))
    lasting, meeting = max(found.lesions - found.interaction, 1e-12), min(1.0, found.interaction / found.seeds)
    return simulation.Components(lasting, found.seeds * len(contrast.values), meeting, shares, counts)


# The table


def page() -> str:
    """docs/JUDGED.md: every judgement, the rows of known quality and what was asked of them."""
    root = workspace.from_root(FOLDER)
    judged = [
        read_json(path, record.Judged, "make it again with dermstudy judge") for path in sorted(root.glob("*.json"))
    ]
    text = Path(__file__).with_name("judged_page.md").read_text(encoding="utf-8")
    return text.format(judged=_judged(judged), rows=_rows(), repeats=_repeats())


def _judged(every: list[dict]) -> str:
    lines = ["| images | the generator saw | number | change of macro AUC | KID (real images) | named as labelled (real) |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for one in every:
        kids = [row for row in one["distances"] if row["entity"] == "overall" and row["metric"] == "kid"]
        named = [row for row in one["fidelity"] if row["entity"] == "overall"]
        kid = f"{kids[0]['value']:.0f} ({kids[0]['baseline']:.0f})" if kids else "–"
        share = f"{named[0]['synthetic']:.0%} ({named[0]['real']:.0%})" if named else "–"
        effect = record.primary(record.Judged(**one))
        lines.append(f"| {one['name']} | {one['saw']} | {sum(one['images'].values())} | {effect} | {kid} | {share} |")
    return "\n".join(lines)


def _rows() -> str:
    demands, path = pd.read_csv(workspace.from_root(DEMANDS), keep_default_na=False), workspace.from_root(ROWS)
    found = pd.read_csv(path, keep_default_na=False).set_index("row").to_dict("index") if path.is_file() else {}
    lines = [
        "| row | added to | images | what it must show | change of macro AUC | met |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in demands.to_dict("records"):
        ran = found.get(row["row"])
        told, met = ("not run", "") if ran is None else (_told(ran), ran["met"])
        lines.append(f"| {row['row']} | {row['base']} | {row['judged']} | {row['demand']} | {told} | {met} |")
    return "\n".join(lines)


def _told(row: dict) -> str:
    difference, low, high = (protocol.bound(row[name]) for name in ("difference", "low", "high"))
    return f"{difference} ({low} to {high}), {row['images']:,} images"


def _repeats() -> str:
    path = workspace.from_root(REPEATS)
    if not path.is_file():
        return "Folders of repeated originals have not been drawn yet."
    lines = ["| repeated originals | folders | interval above zero | below zero |", "| --- | --- | --- | --- |"]
    for row in pd.read_csv(path).itertuples():
        shares = (f"{count} ({count / row.folders:.1%})" for count in (row.above, row.below))
        lines.append(f"| {row.how} | {row.folders:,} | {' | '.join(shares)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
