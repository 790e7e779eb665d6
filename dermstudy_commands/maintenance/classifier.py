"""How the shipped head was made: every image encoded, settings compared on validation lesions, test lesions read once.

    python -m dermstudy_commands.maintenance.classifier encode --data DIR
    python -m dermstudy_commands.maintenance.classifier choose --data DIR
    python -m dermstudy_commands.maintenance.classifier ship --data DIR

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
from dermstudy.classification import encoding, frozen_features, inference, measures, shipped_head
from dermstudy.classification.encoding import Settings, View
from dermstudy.classification.predictions import Predictions, joined
from dermstudy.classification.recipes import make_training_set
from dermstudy.classification.training_sets import ORIGINALS, Images
from dermstudy.data import dataset, near_duplicates, splits
from dermstudy.data.dataset import Cohort
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError, answered, sha256_file, write_text
from dermstudy.source import code_hash
from dermstudy.weight_files import drop_checksums, write_checksums
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
        drop_checksums(out)
        write_text(out / "README.md", card(out))
        write_checksums(out)
        return
    if options.data is None:
        raise InputError(f"{options.step} needs images: give --data DIR")
    cohort = open_data(options.data)
    if options.step == "encode":
        for view in CANDIDATES[CHOSEN].views:
            encoding.encode(cohort, cache, view)
    elif options.step == "choose":
        table = choose(cohort, cache)
        drop_checksums(out)
        Workspace(out).save_table(table, "settings")
    else:
        ship(cohort, cache, out, CANDIDATES[CHOSEN])
        write_checksums(out)


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
    tables, images = [], Images(cohort, {})
    for name, settings in CANDIDATES.items():
        print(name, flush=True)
        probe = frozen_features.Probe(images, settings, cache)
        tables.append(probe.tried(make_training_set(CONTROL[0], images))[1].assign(settings=name))
    table = pd.concat(tables, ignore_index=True)
    return table[["settings", *table.columns.drop("settings")]]


def ship(cohort: Cohort, cache: Path, out: Path, settings: Settings) -> None:
    """Fit the shipped head on training lesions as they are; score it and the control's runs on test lesions."""
    images, space = Images(cohort, {}), Workspace(out)
    probe, started = frozen_features.Probe(images, settings, cache), time.monotonic()
    sets = {name: make_training_set(name, images) for name in CONTROL}
    runs = joined(probe.fit(chosen, seed)[0] for chosen in sets.values() for seed in range(SEEDS))
    print(f"{len(runs.runs)} runs in {time.monotonic() - started:.0f} seconds", flush=True)
    penalties = pd.concat(
        [probe.tried(chosen)[1].assign(training_set=name) for name, chosen in sets.items()], ignore_index=True
    )
    penalties = penalties[["training_set", *penalties.columns.drop("training_set")]]
    mine, chosen = penalties["chosen"] & (penalties["training_set"] == CONTROL[0]), sets[CONTROL[0]]
    penalty = penalties.loc[mine, "penalty"].item()
    drop_checksums(out)
    folded = shipped_head.fold(
        settings, probe.basis(chosen), probe.head(chosen, penalty, None), lineage(cohort, penalty)
    )
    shipped_head.save_head(folded, out / Path(shipped_head.WEIGHTS).name)
    shipped = shipped_head.load_head(out / Path(shipped_head.WEIGHTS).name)
    answers = shipped.log_probabilities(probe.features(ORIGINALS)[chosen.tested["place"]])
    own = Predictions(chosen.images, runs.runs[:1], shipped.prior[None], answers[None].astype("float32"))
    scores = [
        scores_of(predictions.select(split)).assign(model=model, split=split)
        for split in ("validation", "test")
        for model, predictions in (("shipped head", own), ("resampled lesions", runs))
    ]
    table = pd.concat(scores, ignore_index=True).drop(columns="network")
    table.loc[table["model"] == "shipped head", "seed"] = None
    table = table[
        ["model", "training_set", "split", "seed", *table.columns.drop(["model", "training_set", "split", "seed"])]
    ]
    space.save_table(table.astype({"seed": "Int64"}), "scores")
    space.save_table(penalties, "penalties")
    space.save_table(by_entity(own), "entities")
    write_text(out / "README.md", card(out))


def scores_of(found: Predictions) -> pd.DataFrame:
    """Each run with its number of images and its measures, of posteriors corrected to an even prior."""
    named = {"macro_auc": measures.macro_area, "balanced_accuracy": measures.balanced_accuracy,
             "balanced_log_loss": measures.balanced_log_loss}  # fmt: skip
    values = {name: measures.of_runs(measure, found) for name, measure in named.items()}
    return found.runs.assign(images=len(found.images), **values)


def by_entity(found: Predictions) -> pd.DataFrame:
    """AUC and recall of each entity and split of a single run, posteriors corrected to an even prior.

    Columns split, entity (code), images, auc (against the rest), recall (of the largest posterior).
    """
    rows = []
    for split in found.images["split"].unique():
        own = found.select(split)
        areas = inference.areas(own.corrected(), own.images["dx"])[0][0]
        recalls = measures.of_runs(measures.recalls, own)[0]
        counts = own.images["dx"].value_counts()
        rows += [(split, code, counts[code], area, recall) for code, area, recall in zip(CODES, areas, recalls, strict=True)
                 if code in counts]  # fmt: skip
    return pd.DataFrame(rows, columns=["split", "entity", "images", "auc", "recall"])


def lineage(cohort: Cohort, penalty: float) -> dict:
    """What made the head, in plain values."""
    return {
        "commit": workspace.commit(),
        "data_hash": cohort.data_hash,
        "split_sha256": sha256_file(workspace.from_root(SPLIT)),
        "network_sha256": pretrained.WEIGHTS_SHA256,
        "code_sha256": code_hash(frozen_features.__name__),
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
