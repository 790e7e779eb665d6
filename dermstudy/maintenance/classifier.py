"""How the shipped head was made: every image encoded, settings compared on validation lesions, test lesions read once.

    python -m dermstudy.maintenance.classifier encode --data DIR
    python -m dermstudy.maintenance.classifier choose --data DIR
    python -m dermstudy.maintenance.classifier ship --data DIR

Features lie in build/features. `choose` writes weights/classifier/tables/settings.csv and looks at no test lesion. CHOSEN
are the settings of the least log loss there, or with fewer numbers where they come within 0.01 of it. `ship` writes the
head, the tables of test figures and the model card; `card` the model card alone, from the head and its tables.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import pandas as pd

from dermstudy import pretrained, workspace
from dermstudy.classification import encoding, feature_sets, frozen_features, shipped_head
from dermstudy.classification.encoded_trial import encoded_trial
from dermstudy.classification.encoding import Settings, View
from dermstudy.classification.frozen_features import Encoded, Trial
from dermstudy.data import dataset, near_duplicates, splits
from dermstudy.data.dataset import Cohort
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError, code_hash, sha256_file, write_text
from dermstudy.maintenance.commands import answered
from dermstudy.workspace import Workspace

WHOLE, CENTRE = View(192), View(192, 0.66, 6)
EVERY = tuple(pretrained.DEPTHS)
STAGES = ("block 0", "block 2", "block 4", "block 7", "block 10", "block 14", "block 15", "head")
CANDIDATES = {
    "last layer": Settings((WHOLE,), ("head",), 800),
    "eight depths": Settings((WHOLE,), STAGES, 800),
    "every depth": Settings((WHOLE,), EVERY, 800),
    "every depth, centre": Settings((CENTRE,), EVERY, 800),
    "every depth, whole and centre": Settings((WHOLE, CENTRE), EVERY, 800),
    "every depth, whole and centre, 1200 components": Settings((WHOLE, CENTRE), EVERY, 1200),
}
CHOSEN = "every depth, whole and centre"
CONTROL = ("all originals", "30 % subset")
SEEDS = 20
SPLIT = "weights/ham10000-split.csv"
FOLDER = "weights/classifier"


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("encode", "choose", "ship", "card"))
    parser.add_argument("--data", metavar="DIR", help="a HAM10000 download (card needs none)")
    parser.add_argument("--cache", default="build/features", metavar="DIR", help="where features are kept")
    parser.add_argument("--out", default=FOLDER, metavar="DIR", help=f"the head's folder (default: {FOLDER})")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    cache, out = workspace.from_root(options.cache), workspace.from_root(options.out)
    if options.step == "card":
        write_text(out / "README.md", card(out))
        return
    if options.data is None:
        raise InputError(f"{options.step} needs images: give --data DIR")
    cohort = open_data(options.data)
    if options.step == "encode":
        for view in CANDIDATES[CHOSEN].views:
            encoding.encode(cohort, cache, view)
    elif options.step == "choose":
        Workspace(out).save_table(choose(cohort, cache), "settings")
    else:
        ship(cohort, cache, out, CANDIDATES[CHOSEN])


def open_data(folder: str | Path) -> Cohort:
    """The download with its shipped split, the nested subset of training lesions, and groups of the same skin."""
    cohort = dataset.load_folder(folder)
    path = workspace.from_root(SPLIT)
    frame = cohort.frame
    frame["group"] = near_duplicates.join_groups(frame, near_duplicates.confirmed_pairs(frame))
    frame["split"] = splits.apply_split(frame, path)
    frame["subset"] = splits.subset_of(frame, path, splits.HAM10000_SEED)
    return cohort


def choose(cohort: Cohort, cache: Path) -> pd.DataFrame:
    """Each candidate with each penalty on validation lesions: settings, penalty, balanced_log_loss, macro_auc, chosen."""
    tables = []
    for name, settings in CANDIDATES.items():
        trial = encoded_trial(cohort, {}, settings, cache)
        kept = (trial.originals["split"] != "test").to_numpy()
        features = {pool: values[kept] for pool, values in trial.encoded.features.items()}
        originals = trial.originals[kept].reset_index(drop=True)
        trial = Trial(originals, Encoded(features), {}, settings.components, blocks=settings.blocks)
        print(name, flush=True)
        tables.append(frozen_features.run_trial(trial, CONTROL[:1], [])[1].assign(training_set=name))
    return pd.concat(tables, ignore_index=True).rename(columns={"training_set": "settings"})


def ship(cohort: Cohort, cache: Path, out: Path, settings: Settings) -> None:
    """Fit the shipped head on training lesions as they are; score it and the control's runs on test lesions."""
    trial, space = encoded_trial(cohort, {}, settings, cache), Workspace(out)
    started = time.monotonic()
    runs, penalties = frozen_features.run_trial(trial, CONTROL, range(SEEDS))
    print(f"{len(runs.runs)} runs in {time.monotonic() - started:.0f} seconds", flush=True)
    mine = penalties["chosen"] & (penalties["training_set"] == CONTROL[0])
    penalty = penalties.loc[mine, "penalty"].item()
    basis, head = frozen_features.plain_head(trial, CONTROL[0], penalty)
    shipped = shipped_head.fold(settings, basis, head, lineage(cohort, penalty))
    shipped_head.save_head(shipped, out / Path(shipped_head.WEIGHTS).name)
    shipped = shipped_head.load_head(out / Path(shipped_head.WEIGHTS).name)
    evaluated = (trial.originals["split"] != "train").to_numpy()
    own = frozen_features.predictions_of(
        shipped.log_probabilities(trial.encoded.features[feature_sets.ORIGINALS][evaluated]),
        shipped.prior,
        trial.images,
    )
    scores = [
        frozen_features.score_runs(predictions, split).assign(model=model, split=split)
        for split in ("validation", "test")
        for model, predictions in (("shipped head", own), ("resampled lesions", runs))
    ]
    table = pd.concat(scores, ignore_index=True).drop(columns=["network", "absent"])
    table.loc[table["model"] == "shipped head", "seed"] = None
    table = table[
        ["model", "training_set", "split", "seed", *table.columns.drop(["model", "training_set", "split", "seed"])]
    ]
    space.save_table(table.astype({"seed": "Int64"}), "scores")
    space.save_table(penalties, "penalties")
    space.save_table(frozen_features.by_entity(own), "entities")
    write_text(out / "README.md", card(out))


def lineage(cohort: Cohort, penalty: float) -> dict:
    """What made the head, in plain values."""
    return {
        "commit": workspace.commit(),
        "data_hash": cohort.data_hash,
        "split_sha256": sha256_file(workspace.from_root(SPLIT)),
        "network_sha256": pretrained.WEIGHTS_SHA256,
        "code_sha256": code_hash(encoding, frozen_features, pretrained.depth_features, pretrained._activations),
        "penalty": penalty,
        "training_images": int((cohort.frame["split"] == "train").sum()),
    }


def card(out: Path) -> str:
    """The model card of the head in `out`, its figures from the tables beside it."""
    head = shipped_head.load_head(out / Path(shipped_head.WEIGHTS).name)
    scores = pd.read_csv(out / "tables/scores.csv")
    entities = pd.read_csv(out / "tables/entities.csv")
    rows = []
    for (model, training_set, split), own in scores.groupby(["model", "training_set", "split"], sort=False):
        figures = " | ".join(
            f"{own[name].mean():.3f}" for name in ("macro_auc", "balanced_accuracy", "balanced_log_loss")
        )
        rows.append(
            f"| {model}{f', {len(own)} seeds' if len(own) > 1 else ''} | {training_set} | {split} | {figures} |"
        )
    own = entities[entities["split"] == "test"]
    areas = [
        f"| {NAMES[row.entity]} | {head.prior[CODES.index(row.entity)]:.3f} | {row.images} | {row.auc:.3f} | {row.recall:.3f} |"
        for row in own.itertuples()
    ]
    text = Path(__file__).with_name("classifier_card.md").read_text(encoding="utf-8")
    views = "\n".join(
        f"- {view.share:.0%} of the centre square's edge, at {view.side} pixels"
        + (f", turned and mirrored (symmetry {view.symmetry} of 0..7)" if view.symmetry else "")
        for view in head.settings.views
    )
    return text.format(
        views=views, depths=len(head.settings.depths), numbers=len(head.weights), components=head.settings.components,
        scores="\n".join(rows), entities="\n".join(areas), **head.lineage,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
