"""The trial's primary comparison with a folder's images: does a linear probe learn more from them than from its originals?

Each training set chooses its penalty on validation lesions, then weighs lesions anew in each seed, as in the trial
(docs/PROTOCOL.md). Of a judged image no lesion is known: a seed weighs each by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from tqdm import tqdm

from dermstudy.classification import measures, predictions, protocol, trial
from dermstudy.classification.frozen_features import PENALTIES, Head, fit_head, one_run
from dermstudy.classification.predictions import IMAGE_COLUMNS, Predictions
from dermstudy.classification.protocol import Comparison, difference
from dermstudy.classification.training_sets import lesion_weights
from dermstudy.entities import CODES
from dermstudy_commands.judge.bank import Bank, images_of

ADDED, REPEATED = "all originals + judged images", "all originals + repeated originals"
ORIGINALS, SUBSET = protocol.ORIGINALS, protocol.SUBSET
BAR_AFTER = 10  # seconds
EFFECT, CONTROL = "judged images against repeated originals", "all originals against the 30 % subset"
COMPARISONS = (
    Comparison(EFFECT, protocol.PRIMARY, protocol.FROZEN, difference(ADDED, REPEATED), ADDED),
    Comparison(CONTROL, protocol.CONTROL, protocol.FROZEN, difference(ORIGINALS, SUBSET), ORIGINALS),
    Comparison(
        "repeated originals against all originals", protocol.SENSITIVITY, protocol.FROZEN, difference(REPEATED, ORIGINALS),
        REPEATED,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Taught:
    """What a head learns from. rows: dx, group, again, judged (bool), aligned with inputs float32 [n, k].

    again: how often an original is repeated beside itself, a fraction where an entity repeats fewer than it has. scale: of
    the weight of judged images [n] or of repetitions.
    """

    rows: pd.DataFrame
    inputs: np.ndarray
    scale: np.ndarray | float = 1.0

    def weights(self, seed: int | None) -> np.ndarray:
        """Weight [n] of each row, adding up to 1: repetitions, and lesions as `seed` weighs them (None: all alike)."""
        once, again = np.ones(len(self.rows)), 1.0
        if seed is not None:
            for judged, rows in self.rows.groupby("judged"):  # originals are weighed as without judged images
                once[rows.index] = rows["group"].map(lesion_weights(rows, seed + 1000 * judged))
            # A judged image has a weight of its own, so a repeated original has one too: else the control varies more.
            images = self.rows.assign(group=self.rows.index)
            again = images["group"].map(lesion_weights(images, seed + 1000)).to_numpy(float)
        judged = self.rows["judged"].to_numpy()
        weights = once * ~judged + self.scale * (once * judged + self.rows["again"].to_numpy(float) * again)
        return weights / weights.sum()

    def fitted(self, penalty: float, seed: int | None = None, start: Head | None = None) -> Head:
        """The head of one penalty and seed."""
        places = pd.Index(CODES).get_indexer(self.rows["dx"])
        return fit_head(self.inputs, places, self.weights(seed), penalty, start=start)


@dataclass(frozen=True)
class Compared:
    """table: `trial.trial_table` of COMPARISONS; reference: the head on all originals as they are, at its penalty."""

    table: pd.DataFrame
    reference: Head
    areas: dict[str, float]


def training_set(bank: Bank, name: str, dx: pd.Series, inputs: np.ndarray | None) -> Taught:
    """One of the four training sets. dx, inputs: the judged images' entities [m] and components [m, k],
    which ADDED alone takes."""
    train = bank.images("train") & (bank.frame["subset"].to_numpy() if name == SUBSET else True)
    rows = bank.frame.loc[train, ["dx", "group"]].assign(again=0.0, judged=False)
    if name == REPEATED:  # a repetition is a weight: even over an entity's originals
        rows["again"] = rows["dx"].map(dx.value_counts() / rows["dx"].value_counts()).fillna(0)
    if name != ADDED:
        return Taught(rows.reset_index(drop=True), bank.components[train])
    judged = pd.DataFrame({"dx": dx.to_numpy(), "group": [f"judged {number}" for number in range(len(dx))]})
    rows = pd.concat([rows, judged.assign(again=0.0, judged=True)], ignore_index=True)
    return Taught(rows, np.concatenate([bank.components[train], inputs]))


def compare(bank: Bank, dx: pd.Series, inputs: np.ndarray, seeds: int) -> Compared:
    """Fit what the judged images change with `seeds` seeds, and compare it on the bank's test lesions with originals alone."""
    original = bank if bank.originals is not None and _has(bank.originals, seeds) else with_originals(bank, seeds)
    runs = both(bank, dx, inputs, seeds)
    whole = predictions.joined([runs, original.originals.select(seed=list(range(seeds)))])
    table = trial.trial_table(whole, COMPARISONS, {protocol.FROZEN: seeds})
    return Compared(table, original.head, _areas(whole))


def both(bank: Bank, dx: pd.Series, inputs: np.ndarray, seeds: int) -> Predictions:
    """The runs of ADDED and of REPEATED."""
    steps = tqdm(total=2 * (seeds + len(PENALTIES)), desc="fitting the probe", delay=BAR_AFTER, unit=" fits")
    runs = [runs_of(bank, name, training_set(bank, name, dx, inputs), seeds, steps)[0] for name in (ADDED, REPEATED)]
    steps.close()
    return predictions.joined(runs)


def with_originals(bank: Bank, seeds: int) -> Bank:
    """The bank with its probe on all originals, and the runs of originals alone, which no judged image changes."""
    steps = tqdm(
        total=2 * (seeds + len(PENALTIES)), desc="fitting the probe on originals", delay=BAR_AFTER, unit=" fits"
    )
    nobody = pd.Series([], dtype=object)
    found = {n: runs_of(bank, n, training_set(bank, n, nobody, None), seeds, steps) for n in (ORIGINALS, SUBSET)}
    steps.close()
    return replace(bank, head=found[ORIGINALS][1], originals=predictions.joined(runs for runs, _ in found.values()))


def _has(runs: Predictions, seeds: int) -> bool:
    return set(range(seeds)) <= set(runs.runs["seed"])


def answers(bank: Bank, head: Head, inputs: np.ndarray) -> np.ndarray:
    """The entity codes [n] that a head names, for entities equally common."""
    scores = head.log_probabilities(inputs) - np.log(head.prior)
    return np.array(CODES)[scores.argmax(axis=1)]


def chosen(bank: Bank, taught: Taught, steps: tqdm | None = None) -> tuple[Head, float]:
    """The head with the least balanced log loss on validation lesions, and its penalty."""
    validation = bank.images("validation")
    images = bank.frame.loc[validation, list(IMAGE_COLUMNS)].reset_index(drop=True)
    found, head = [], None
    for penalty in sorted(PENALTIES, reverse=True):  # from the stiffest on, each from the one before
        head = taught.fitted(penalty, start=head)
        answered = one_run(head, bank.components[validation], images)
        found.append((measures.of_runs(measures.balanced_log_loss, answered)[0], penalty, head))
        if steps is not None:
            steps.update()
    _, penalty, head = min(found, key=lambda one: one[0])
    return head, penalty


def runs_of(bank: Bank, name: str, taught: Taught, seeds: int, steps: tqdm | None = None) -> tuple[Predictions, Head]:
    """What each seed's head says of validation and test lesions, and the head of lesions as they are; steps: a bar."""
    evaluated, images = bank.components[~bank.images("train")], images_of(bank.frame)
    start, penalty = chosen(bank, taught, steps)
    runs = []
    for seed in range(seeds):
        head = taught.fitted(penalty, seed, start)
        runs.append(one_run(head, evaluated, images, name, seed))
        if steps is not None:
            steps.update()
    return predictions.joined(runs), start


def _areas(whole: Predictions) -> dict[str, float]:
    """Macro AUC on test lesions of each training set, the mean of its seeds."""
    test = whole.select(split="test")
    return (
        pd.Series(measures.of_runs(measures.macro_area, test))
        .groupby(test.runs["training_set"].to_numpy())
        .mean()
        .to_dict()
    )
