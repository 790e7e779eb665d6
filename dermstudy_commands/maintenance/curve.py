"""What quality helps, how it is with scarce data, and the paper's design: runs of the linear probe on shipped features.

    python -m dermstudy_commands.maintenance.curve PART --data DIR --painted DIR

--painted holds a folder of `dermstudy synthesize --per-entity 60` for each name in SETTINGS and SCALES. The protocol
(docs/PROTOCOL.md, 2026-12-01) was written before any of it ran. Answers go to results/ham10000/predictions, for notebook 07.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy import workspace
from dermstudy.classification import predictions
from dermstudy.classification import quality_curve as curve
from dermstudy.classification.frozen_features import one_run
from dermstudy.classification.predictions import IMAGE_COLUMNS, Predictions
from dermstudy.data.dataset import Cohort
from dermstudy.data.external import load_labelled
from dermstudy.entities import CODES
from dermstudy.evaluation import judge
from dermstudy.files import answered, atomic_path
from dermstudy_commands.judge import bank, compare, real
from dermstudy_commands.judge.look import look
from dermstudy_commands.maintenance import judged

FOLDER = "results/ham10000/predictions"
EACH, SEEDS = 60, range(20)
SETTINGS = {  # folders of --painted, and what the curve calls them
    "session-3": "third session", "session-5": "fifth session", "shipped": "as shipped", "other-draws": "other draws of noise",
    "scale-1": "no guide, guidance 1", "scale-3": "no guide, guidance 3",
}  # fmt: skip
SCALES = {"scale-1": 1, "scale-3": 3, "scale-8": 8}
CHANGES = {f"{curve.REAL}blurred": judged.blurred, f"{curve.REAL}64 pixels": judged.small}


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m dermstudy_commands.maintenance.curve", description=__doc__.splitlines()[0]
    )
    parser.add_argument("part", choices=("curve", "scarce", "design"))
    parser.add_argument("--data", metavar="DIR", required=True, help="a HAM10000 download")
    parser.add_argument("--painted", metavar="DIR", type=Path, required=True, help="folders of synthetic images")
    parser.add_argument("--cache", metavar="DIR", default="build/judge", help="where features are kept")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    whole, cache = bank.load(workspace.from_root(bank.FOLDER)), workspace.from_root(options.cache)
    folder, nobody = workspace.from_root(FOLDER), pd.Series([], dtype=object)
    whole = replace(whole, head=compare.chosen(whole, compare.training_set(whole, compare.ORIGINALS, nobody, None))[0])
    if options.part == "curve":
        runs = the_curve(whole, options.painted, real.cohort_of(options.data), cache, folder / curve.IMAGES)
    else:
        runs = (scarce if options.part == "scarce" else design)(whole, options.painted, cache)
    predictions.save_predictions(predictions.joined(list(runs)), folder / f"{options.part}.npz")


def the_curve(whole: bank.Bank, painted: Path, cohort: Cohort, cache: Path, table: Path) -> Iterator[Predictions]:
    """Runs on half of the training lesions with images of each setting, and with real ones of the other half.

    table: where the number, KID, recall and share named as labelled of each set of images are written.
    """
    base, left = judged.halves(whole)
    frame = whole.frame[left].reset_index(drop=True)
    real_images = frame.sample(frac=1, random_state=0)
    real_images = real_images[first(real_images, frame["dx"].value_counts())]
    counts, rows = real_images["dx"].value_counts(), []
    files = cohort.select(image_id=real_images["image_id"])
    read = {
        name: look(load_labelled(painted / folder).cohort, cache, real.settings()) for folder, name in SETTINGS.items()
    }
    read[curve.REAL + "other lesions"] = look(files, cache, real.settings())
    for name, change in CHANGES.items():
        judged.changed(files, change, cache, whole)
        made = files.frame.assign(file=files.frame["image_id"] + ".png").drop(columns="sha256", errors="ignore")
        read[name] = look(replace(files, root=cache / change.__name__, frame=made), cache, real.settings())
    for name, looked in read.items():
        chosen = first(looked.seen.frame, counts)
        dx, inputs = looked.seen.frame["dx"][chosen], whole.basis.inputs(looked.features[chosen])
        if not rows:
            yield from learned(base, curve.REPEATED, compare.training_set(base, compare.REPEATED, dx, None), SEEDS)
        rows.append({"images": name, "number": len(dx)} | distances(looked.seen.rows(chosen), whole, inputs))
        print(rows[-1], flush=True)
        yield from learned(base, name, compare.training_set(base, compare.ADDED, dx, inputs), SEEDS)
    with atomic_path(table) as path:
        pd.DataFrame(rows).round(4).to_csv(path, index=False, lineterminator="\n")


def distances(seen: judge.Seen, whole: bank.Bank, inputs: np.ndarray) -> dict[str, float]:
    """KID x 1,000 and recall by FID-Inception, and the share that the probe on all originals names as labelled."""
    found = judge.measured(seen, whole.seen["test"], whole.seen["train"]).distances
    found = found[(found["encoder"] == found["encoder"].iloc[0]) & (found["entity"] == "overall")].set_index("metric")
    named = (compare.answers(whole, whole.head, inputs) == seen.frame["dx"]).groupby(seen.frame["dx"]).mean().mean()
    return {"n": found["n"]["kid"], "kid": found["value"]["kid"], "recall": found["value"]["recall"], "named": named}


def scarce(whole: bank.Bank, painted: Path, cache: Path) -> Iterator[Predictions]:
    """Runs on shares of the training lesions, drawn anew in each seed, with images of the shipped setting."""
    looked = look(load_labelled(painted / "shipped").cohort, cache, real.settings(), distances=False)
    dx, inputs = looked.seen.frame["dx"], whole.basis.inputs(looked.features)
    every, right = dx.notna(), compare.answers(whole, whole.head, inputs) == dx
    kinds = {curve.ALL: (every, 1.0), curve.QUARTER: (every, 0.25), curve.RIGHT: (right, 1.0)}
    for share, seed in product(curve.SHARES, SEEDS):
        part = of_share(whole, share, seed)
        for kind in kinds if share in curve.TESTED else [curve.ALL]:
            chosen, scale = kinds[kind]
            for side, name in ((compare.ADDED, curve.SYNTHETIC), (compare.REPEATED, curve.REPEATED)):
                taught = compare.training_set(part, side, dx[chosen], inputs[chosen])
                yield from learned(part, curve.named(share, kind, name), replace(taught, scale=scale), [seed])
        print(f"{share:.0%} of the lesions, seed {seed}", flush=True)


def of_share(whole: bank.Bank, share: float, seed: int) -> bank.Bank:
    """The bank with a share of each entity's training lesions, at least two, drawn by `seed`."""
    frame, kept = whole.frame, set()
    for number, code in enumerate(CODES):
        lesions = np.unique(frame.loc[whole.images("train") & (frame["dx"] == code), "group"])
        drawn = np.random.default_rng([seed, number, 34]).permutation(lesions)
        kept |= set(drawn[: max(2, round(share * len(lesions)))])
    rows = (~whole.images("train") | frame["group"].isin(kept)).to_numpy()
    return replace(
        whole, frame=frame[rows].reset_index(drop=True), components=whole.components[rows], head=None, originals=None
    )


def design(whole: bank.Bank, painted: Path, cache: Path) -> Iterator[Predictions]:
    """Runs on originals, on synthetic images of each scale of guidance, and on both; asked about real and synthetic tests."""
    test, train = whole.images("test"), whole.images("train")
    shown, taught_by, evaluated = [_shown(whole.frame[test])], {}, [whole.components[test]]
    originals = compare.training_set(whole, compare.ORIGINALS, pd.Series([], dtype=object), None)
    counts = whole.frame.loc[train, "dx"].value_counts()
    for folder, scale in SCALES.items():
        looked = look(load_labelled(painted / folder).cohort, cache, real.settings(), distances=False)
        frame, inputs = looked.seen.frame, whole.basis.inputs(looked.features)
        halves = (frame.groupby("dx").cumcount() < frame.groupby("dx")["dx"].transform("size") / 2).to_numpy()
        tested = frame[~halves].assign(split=curve.of_scale(scale))
        shown.append(
            _shown(tested.assign(image_id=tested["image_id"] + f" at {scale}", group=tested["group"] + f" at {scale}"))
        )
        evaluated.append(inputs[~halves])
        dx = frame.loc[halves, "dx"].reset_index(drop=True)
        both = compare.training_set(whole, compare.ADDED, dx, inputs[halves])
        weight = both.rows["dx"].map(counts / dx.value_counts()).to_numpy()
        taught_by[curve.both(scale)] = replace(both, scale=weight)
        alone = both.rows["judged"].to_numpy()
        taught_by[curve.alone(scale)] = compare.Taught(
            both.rows[alone].reset_index(drop=True), both.inputs[alone], weight[alone]
        )
    images, inputs = pd.concat(shown, ignore_index=True), np.concatenate(evaluated)
    for name, taught in {curve.ORIGINALS: originals, **taught_by}.items():
        print(name, flush=True)
        yield from learned(whole, name, taught, SEEDS, images, inputs)


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[list(IMAGE_COLUMNS)].reset_index(drop=True)


def first(frame: pd.DataFrame, counts: pd.Series) -> np.ndarray:
    """Which rows are the first of their entity: EACH, or as many as `counts` has."""
    return (frame.groupby("dx").cumcount() < frame["dx"].map(counts.clip(upper=EACH))).to_numpy()


def learned(
    base: bank.Bank, name: str, taught: compare.Taught, seeds: Iterable[int], images: pd.DataFrame | None = None,
    inputs: np.ndarray | None = None,
) -> Iterator[Predictions]:  # fmt: skip
    """A run a seed, asked about the test lesions of `base`, or about `images` (IMAGE_COLUMNS) with components `inputs`."""
    if images is None:
        test = base.images("test")
        images, inputs = _shown(base.frame[test]), base.components[test]
    start, penalty = compare.chosen(base, taught)
    for seed in seeds:
        yield one_run(taught.fitted(penalty, seed, start), inputs, images, name, seed)


if __name__ == "__main__":
    sys.exit(main())
