"""Every run that notebooks 06 and 07 read, in one table of tasks, and the files without a pixel that they are drawn from.

Notebook, workflow engine and commands read the table here. A reader without the images computes every table and figure of
06 and 07 from the files. A training set of docs/PROTOCOL.md that asks for images which are not there is left out by name,
with the reason: a small run answers fewer questions by the same code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from dermstudy import workspace
from dermstudy.classification import fine_tuning, fitting, frozen_features, keras_network, protocol, shipped_head
from dermstudy.classification import training_sets as sets
from dermstudy.classification.predictions import EXTERNAL, Predictions, joined, load_predictions, save_predictions
from dermstudy.classification.recipes import allowed_sets, make_training_set
from dermstudy.classification.training_sets import Images, TrainingSet
from dermstudy.data import dataset
from dermstudy.data.external import load_external
from dermstudy.files import InputError, write_text
from dermstudy.readers import kit
from dermstudy.workspace import Workspace

CLASSIFIER, ABLATION = "06_cnn_classifier", "07_ablation"
POOLS = {  # the parameter that names the folder of each generator's images
    sets.SECOND: "SECOND_SYNTHETIC", sets.OWN: "SUBSET_SYNTHETIC", sets.SAW_ALL: "PUBLISHED_SYNTHETIC",
    sets.PARTNER: "PARTNER_SYNTHETIC",
}  # fmt: skip
TRIAL, FROZEN_STEPS = "trial", "frozen_ladder"  # files of predictions
OF_PROTOCOLS = {"as published": "as published, combined", "audited": protocol.ONCE}  # the two sets of 06
TESTED = ("test", "original", "synthetic")  # the values of `split` that the study's own scores are taken on
HISTORY_COLUMNS = (
    "network", "protocol", "training_set", "seed", "epoch", "loss", "validation_loss", "steps", "macro_auc"
)  # fmt: skip
CURVE_COLUMNS = ("set", "seed", "epoch", "loss", "validation_loss")
TABLES = {  # what is kept of trainings beside their answers: columns by file
    ABLATION: {
        "penalties.csv": ("training_set", "penalty", "balanced_log_loss", "macro_auc", "chosen"),
        "histories.csv": HISTORY_COLUMNS,
    },
    CLASSIFIER: {"classifier_histories.csv": CURVE_COLUMNS, "ladder_histories.csv": CURVE_COLUMNS},
}


@dataclass(frozen=True)
class Task:
    """A network learns a training set with some seeds; its answers go into FILE.npz. `key`: the set's, within its file."""

    network: str
    name: str
    seeds: tuple[int, ...]
    file: str
    key: str = ""

    @property
    def slug(self) -> str:
        """A name for an engine: small letters, digits and single dashes; of the seeds, where it is one."""
        seed = self.seeds[0] if len(self.seeds) == 1 and self.network != protocol.FROZEN else ""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.network} {self.name} {seed}".lower()).strip("-")


def tasks_of(stem: str, given: Mapping) -> list[Task]:
    """What 06 or 07 reads with its parameters `given`; a network without seeds has none in its tasks."""
    if stem == ABLATION:
        seeds = {network: tuple(range(given[name])) for network, name in SEEDS.items()}
        audited = [
            Task(network, name, seeds[network], TRIAL) for network in SEEDS for name in protocol.TRAINING_SETS[network]
        ]
        own = tuple(range(given["PUBLISHED_SEEDS"]))
        return audited + [
            Task(protocol.KERAS, name, own, f"published_{kind}", kind)
            for name, kind in sets.AS_PUBLISHED.items()
            if own
        ]
    own, found = tuple(given["SEEDS"]), []
    for key, name in OF_PROTOCOLS.items():
        found.append(Task(protocol.KERAS, name, own, f"classifier_{_file(key)}", key))
    steps = [name for name in sets.STEPS if given["PUBLISHED_SYNTHETIC"] or sets.STEPS[name] != sets.LADDER[-1]]
    for network, prefix, used in (
        (protocol.KERAS, "ladder", own), (protocol.FROZEN, FROZEN_STEPS, tuple(range(given["FROZEN_SEEDS"])))
    ):  # fmt: skip
        found += [Task(network, n, used, f"{prefix}_{_file(sets.STEPS[n])}", sets.STEPS[n]) for n in steps if used]
    return found


SEEDS = {protocol.FROZEN: "FROZEN_SEEDS", protocol.TUNED: "TUNED_SEEDS", protocol.KERAS: "KERAS_SEEDS"}


def single_tasks(stem: str, given: Mapping) -> list[Task]:
    """`tasks_of` for an engine: a task a run, but for the probe, whose seeds share the choice of a penalty."""
    return [
        one
        for task in tasks_of(stem, given)
        for one in (
            [task] * bool(task.seeds)
            if task.network == protocol.FROZEN
            else [replace(task, seeds=(seed,)) for seed in task.seeds]
        )
    ]


def open_images(space: Workspace, given: Mapping, at_hand: bool = False) -> Images:
    """The images that the parameters `given` of 06 or 07 name; at_hand: of generators, those alone that are there.

    Where no other generator is named, the study's own stands in as published, and for its partner in the ladder's last step
    where one is. InputError for a folder that is not there.
    """
    cohort, pools = dataset.open_cohort(space.need("cohort", made_by="00_dataset")), {}
    if not at_hand or space.out("synthetic").is_dir():
        pools[sets.WHOLE] = dataset.open_synthetic(space.need("synthetic", made_by="03_sample"))
    for pool, name in POOLS.items():
        folder = given.get(name, "")
        if folder and workspace.from_root(folder).is_dir():
            pools[pool] = dataset.open_synthetic(workspace.from_root(folder))
        elif folder and not at_hand:
            raise InputError(
                f"no images of another generator in {folder}: make them (docs/GLIDE.md, then "
                f"`{workspace.maker(folder, '03_sample')}`), or give '' to leave out what learns so"
            )
    if not given["PUBLISHED_SYNTHETIC"]:
        pools |= {sets.SAW_ALL: pools.get(sets.WHOLE), sets.PARTNER: None}
    elif "PARTNER_SYNTHETIC" in given and not given["PARTNER_SYNTHETIC"]:
        pools[sets.PARTNER] = pools.get(sets.WHOLE)
    external = None
    if given["EXTERNAL"]:
        external = load_external(workspace.from_root(given["EXTERNAL"]), cohort, space.out("features"))
    return sets.gather(cohort, pools, given["ORIGINALS"], given["SEED"], external, given["TEST_FRACTION"])


def config_of(given: Mapping) -> keras_network.ClassifierConfig:
    """The small convolutional network with the parameters `given` of 06 or 07."""
    names = "side", "filters", "epochs", "batch", "patience", "rotation", "shift", "zoom", "precision"
    values = {name: given[name.upper()] for name in names}
    return keras_network.ClassifierConfig(**values | {"filters": tuple(values["filters"])})


def encoding_of(given: Mapping):
    """How images are encoded for the probe: the settings of the head that HEAD names."""
    return shipped_head.load_head(workspace.from_root(given["HEAD"])).settings


def network_of(name: str, images: Images, space: Workspace, given: Mapping) -> fitting.Network:
    """A network of the protocol as the parameters `given` of 06 or 07 have it."""
    if name == protocol.FROZEN:
        draws = given.get("AUGMENTED", 0)
        return frozen_features.Probe(images, encoding_of(given), space.out("features"), draws)
    if name == protocol.TUNED:
        tuning = fine_tuning.tuning_of_side(given["TUNED_SIDE"], given["TUNED_EPOCHS"], given["PRECISION"])
        chosen, _ = allowed_sets(protocol.TRAINING_SETS[name], images)
        taken = images.taken_by(list(chosen.values())) if chosen else images
        return fine_tuning.FineTuned(taken, tuning, space.out("fine_tuned"))
    return keras_network.KerasNetwork(images, config_of(given), space.out("classifier"), given["WORKERS"])


def run_tasks(
    tasks: Sequence[Task], images: Images, space: Workspace, given: Mapping
) -> tuple[dict[Task, list[fitting.Run]], pd.DataFrame]:
    """The runs of each task, and the trial's sets that were left out: network, training_set, reason.

    InputError, outside of the trial, for a set that the images do not allow.
    """
    found, left_out = {}, []
    for name in dict.fromkeys(task.network for task in tasks):
        own = [task for task in tasks if task.network == name]
        network = network_of(name, images, space, given) if any(task.seeds for task in own) else None
        for task in own:
            reason = f"it has no seeds ({SEEDS[name]})"
            if network is not None:
                allowed, reasons = allowed_sets([task.name], images, given.get("AUGMENTED", 0))
                reason = reasons.get(task.name, "")
                if allowed:
                    chosen = {task: make_training_set(task.name, network.images)}
                    found |= fitting.fit_all(network, chosen, task.seeds, given["WORKERS"])
                    continue
            if task.file != TRIAL:
                raise InputError(reason)
            left_out.append((name, task.name, reason))
    return found, pd.DataFrame(left_out, columns=["network", "training_set", "reason"])


def ensure(space: Workspace, stem: str, given: Mapping) -> tuple[Path, Images | None]:
    """The folder of predictions that 06 or 07 is drawn from, every run that it lacks trained first; and the images.

    given: the notebook's parameters. PREDICTIONS names a finished folder: nothing is trained, no image is read (None). Runs
    are kept by all that they depend on, so that a cut study goes on where it stopped.
    """
    if given["PREDICTIONS"]:
        return workspace.from_root(given["PREDICTIONS"]), None
    folder, images = space.out("predictions"), open_images(space, given)
    found, left_out = run_tasks(tasks_of(stem, given), images, space, given)
    write_predictions(folder, stem, found)
    if stem == ABLATION:
        write_table(left_out, folder / "left_out.csv")
        write_table(images.counts().rename_axis("entity").reset_index(), folder / "counts.csv")
        held = images.originals.frame[images.originals.frame["split"] != "train"]
        write_table(held[["image_id", "sex", "age", "localization"]], folder / "people.csv")
    else:
        write_table(
            makeup_of({key: make_training_set(name, images) for key, name in OF_PROTOCOLS.items()}), folder / MAKEUP
        )
        answers = kit.open_answers(space.need("kit_answers.csv", made_by="05_dermatologist_study"))
        kit.save_answers(answers, None, folder / "kit_answers.csv")
    return folder, images


# Files

MAKEUP = "classifier_images.csv"


def write_predictions(folder: Path, stem: str, found: Mapping[Task, Sequence[fitting.Run]]) -> None:
    """Write FILE.npz of every task, its runs joined in the order of the tasks, and `tables_of`; older files of these kinds go."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("published",) if stem == ABLATION else ("classifier", "ladder", FROZEN_STEPS)
    for stale in (path for kind in kinds for path in folder.glob(f"{kind}_*.npz")):
        stale.unlink()
    for file in dict.fromkeys(task.file for task in found):
        runs = [run for task in found if task.file == file for run, _ in found[task]]
        save_predictions(joined(runs), folder / f"{file}.npz")
    for name, table in tables_of(stem, found).items():
        write_table(table, folder / name)


def tables_of(stem: str, found: Mapping[Task, Sequence[fitting.Run]]) -> dict[str, pd.DataFrame]:
    """The records of tasks as TABLES of 06 or 07: of the probe the penalties tried, of other networks the learning curves."""
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES[stem]}
    networks = (protocol.KERAS, protocol.TUNED, protocol.FROZEN)
    for task in sorted(found, key=lambda task: (task.file == TRIAL, networks.index(task.network))):
        if task.network == protocol.FROZEN:
            if stem == ABLATION:  # the seeds share the choice of a penalty
                parts["penalties.csv"].append(found[task][0][1].assign(training_set=task.name))
            continue
        kind = "audited" if task.file == TRIAL else "as published"
        named = {"network": task.network, "protocol": kind, "training_set": task.key or task.name, "set": task.key}
        file = "histories.csv" if stem == ABLATION else f"{task.file.partition('_')[0]}_histories.csv"
        for seed, (_, record) in zip(task.seeds, found[task], strict=True):
            parts[file].append(record.assign(**named, seed=seed))
    return {
        name: pd.concat(parts[name] or [pd.DataFrame()], ignore_index=True).reindex(columns=list(columns))
        for name, columns in TABLES[stem].items()
    }


def makeup_of(chosen: Mapping[str, TrainingSet]) -> pd.DataFrame:
    """How many images each set is trained, stopped and tested on: protocol (the key), part (train, fit_until, test), original,
    synthetic, lesions_in_training: how many lesions of the part the network learns from."""
    rows = []
    for key, one in chosen.items():
        tested = one.tested[one.tested["split"].isin(TESTED)]
        for part, own in (("train", one.seen), ("fit_until", one.watched), ("test", tested)):
            real = int(own["pool"].isin([sets.ORIGINALS, EXTERNAL]).sum())
            rows.append((key, part, real, len(own) - real, len(set(one.train["group"]) & set(own["group"]))))
    return pd.DataFrame(rows, columns=["protocol", "part", "original", "synthetic", "lesions_in_training"])


def read_makeup(folder: str | Path) -> pd.DataFrame:
    """`makeup_of`, by protocol and part; InputError where it is missing."""
    return _read(Path(folder) / MAKEUP).set_index(["protocol", "part"])


def read_classifier(folder: str | Path, splits: Sequence[str] = TESTED) -> dict[str, Predictions]:
    """06's two networks by protocol, on the images of `splits`, without the seeds that failed in either: a line each.

    InputError where a file is missing, holds other seeds than the other one, or no image of `splits`.
    """
    paths = {key: Path(folder) / f"classifier_{_file(key)}.npz" for key in OF_PROTOCOLS}
    found = {key: load_predictions(path) for key, path in paths.items()}
    first, second = found.values()
    if first.runs["seed"].tolist() != second.runs["seed"].tolist():
        raise InputError(f"{paths['audited']} holds other seeds than the other network's: write both in one run")
    for key, own in found.items():
        for seed in own.runs["seed"][~own.sound]:
            print(f"failed, so its seed is left out of every set: {key}, seed {seed}")
    sound = first.sound & second.sound
    if not sound.any():
        raise InputError("no seed of 06's networks was trained to its end in both: train more seeds")
    chosen = {key: own.part(sound).select(splits) for key, own in found.items()}
    if not len(chosen["audited"].images):
        raise InputError(
            f"the predictions hold no image of {' or '.join(splits)}: run notebook 06 on such images first"
        )
    return chosen


def read_ladder(folder: str | Path) -> dict[str, dict[str, Predictions]]:
    """The answers of each network that climbed, by network and step, on the step's test images; failed seeds left out.

    The Keras network ends on its audited network of 06. InputError where its files are missing.
    """
    folder, found = Path(folder), {}
    for network, prefix in ((protocol.KERAS, "ladder"), (protocol.FROZEN, FROZEN_STEPS)):
        paths = {name: folder / f"{prefix}_{_file(name)}.npz" for name in sets.LADDER}
        needed = sets.LADDER[0] if network == protocol.KERAS else None
        steps = {name: load_predictions(path) for name, path in paths.items() if path.is_file() or name == needed}
        if network == protocol.KERAS:
            steps[OWN_SET] = load_predictions(folder / f"classifier_{_file('audited')}.npz").select("test")
        if steps:
            sound = set.intersection(*(set(own.runs["seed"][own.sound]) for own in steps.values()))
            found[network] = {name: own.select(seed=sorted(sound)) for name, own in steps.items()}
    return found


OWN_SET = "the trial's own set"  # after the last step: all originals, and images of the study's own generator


def read_curves(folder: str | Path, kind: str) -> pd.DataFrame:
    """CURVE_COLUMNS of 06's "classifier" or "ladder"; InputError where they are missing."""
    return _read(Path(folder) / f"{kind}_histories.csv")


def read_published(folder: str | Path) -> dict[str, Predictions]:
    """The Keras network as published, by training set of Table 3, sound runs alone; empty where it did not run."""
    paths = {name: Path(folder) / f"published_{name}.npz" for name in sets.PUBLISHED}
    found = {name: load_predictions(path) for name, path in paths.items() if path.is_file()}
    return {name: own.part(own.sound) for name, own in found.items() if own.sound.any()}


def of_each_set(found: Predictions, network: str, split: str = "test") -> dict[str, Predictions]:
    """A network's sound runs of the trial on the images of a split, by training set."""
    own = found.select(split, network=network)
    own = own.part(own.sound)
    return {name: own.select(training_set=name) for name in own.runs["training_set"].unique()}


def failed_lines(found: Predictions) -> list[str]:
    """A line for each run that failed; a table's `missing_seeds` names it in the comparisons that lack it."""
    failed = found.runs[~found.sound]
    return [f"failed: {run.network}, {run.training_set}, seed {run.seed}" for run in failed.itertuples()]


def _file(name: str) -> str:
    return name.replace(" ", "_")


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except OSError as error:
        raise InputError(f"no {path.name} in {path.parent}: run notebook 06 first") from error


def write_table(table: pd.DataFrame, path: Path) -> None:
    """A table of predictions' folders as CSV, six digits a number."""
    write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
