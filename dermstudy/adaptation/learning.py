"""How the trainings of 08 and 09 went: training and held-out loss by step, and whether the curve has flattened."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dermstudy import figures
from dermstudy.adaptation.teaching import Trial
from dermstudy.entities import NAMES
from dermstudy.evaluation.verdicts import listed, plain

STILL = 0.1  # the share of the whole fall beyond which the last third of a curve still moves
LEAST = 0.001  # the share of the first loss that a fall has at least
CONSIDERED = 2 / 3  # of the steps: where the last third begins
FALLS, FLAT, RISES, NEVER = "falls", "flat", "rises", "no fall of a thousandth"
COLOURS = ("#332288", "#CC6677", "#117733", "#999933", "#88CCEE", "#AA4499", "#DDCC77")  # Paul Tol's "muted"


def training_log(trials: Sequence[Trial], seed: int) -> pd.DataFrame:
    """One row a trial that was trained, entity where each was taught alone, and record.

    Columns trial, entity, seed, step, loss (of training, the mean since the last record; none at step 0), validation_loss
    (of held-out lesions, always the same noise), held_out (their images).
    """
    logs = [trial.log.assign(trial=trial.name, seed=seed) for trial in trials if trial.log is not None]
    table = pd.concat(logs, ignore_index=True)
    columns = ["trial", "entity", "seed", "step", "loss", "validation_loss", "held_out"]
    return table[[name for name in columns if name in table]]


def last_third(log: pd.DataFrame) -> pd.DataFrame:
    """How each training stood over the last third of its steps: one row a trial and entity of `log`, the mean over seeds.

    Columns: first (held-out loss before training), lowest, before (at the record nearest to two thirds of the steps, the
    last record apart), last, and curve: FALLS or RISES where the loss moves from before to last by more than STILL of the
    whole fall from first to lowest, else FLAT; NEVER where that whole fall is under LEAST of first.
    """
    rows = []
    for keys, own in log.groupby(_ways(log), sort=False):
        mean = own.groupby("step")["validation_loss"].mean()
        earlier = mean.index[:-1].to_numpy()
        turn = earlier[abs(earlier - CONSIDERED * mean.index[-1]).argmin()]
        first, lowest, before, last = mean.iloc[0], mean.min(), mean[turn], mean.iloc[-1]
        whole, moved = first - lowest, before - last
        curve = FLAT if abs(moved) <= STILL * whole else FALLS if moved > 0 else RISES
        if whole < LEAST * first:
            curve = NEVER
        named = dict(zip(_ways(log), keys, strict=True))
        rows.append(named | {"first": first, "lowest": lowest, "before": before, "last": last, "curve": curve})
    return pd.DataFrame(rows)


def learning_sentence(log: pd.DataFrame) -> str:
    """Which trainings of `log` would gain from more steps and which have flattened, by `last_third`."""
    table, counts = last_third(log), log["held_out"]
    n = f"{counts.min()}" if counts.nunique() == 1 else f"{counts.min()} to {counts.max()}"
    words = {
        FALLS: "still falls for {}, so that more steps may teach more",
        FLAT: "has flattened for {}",
        RISES: "rises again for {}",
    }
    said = [words[curve].format(_named(table, curve)) for curve in words if (table["curve"] == curve).any()]
    parts = [f"over the last third of the steps it {'; it '.join(said)}"] if said else []
    if (table["curve"] == NEVER).any():
        parts += [
            f"it never lies a thousandth below that before training for {_named(table, NEVER)}, so that what is painted then "
            "says nothing of having learned the entity"
        ]
    return f"The loss on held-out lesions (n = {n} images a training): {'; '.join(parts)}."


def learning_figure(log: pd.DataFrame) -> Figure:
    """By step, a row an entity that was taught alone: held-out loss as change from before training, and training loss.

    A line a trial, the mean over seeds, each seed a dot where there are several; the last third of the steps is shaded.
    """
    parts = [("", log)]
    if "entity" in log:
        parts = [(f"{NAMES[code]}, ", own) for code, own in log.groupby("entity", sort=False)]
    size = (figures.WIDTH, 0.6 + 1.7 * len(parts))
    figure, axes = plt.subplots(len(parts), 2, squeeze=False, sharex=True, figsize=size)
    for (name, own), (left, right) in zip(parts, axes, strict=True):
        for (trial, curve), colour in zip(own.groupby("trial", sort=False), cycle(COLOURS), strict=False):
            start = curve.groupby("seed")["validation_loss"].transform("first")
            change = curve.assign(change=100 * (curve["validation_loss"] / start - 1))
            _line(left, change, "change", colour, plain(trial))
            _line(right, curve.dropna(subset="loss"), "loss", colour, plain(trial))
        left.axhline(0, color="#BBBBBB", lw=1)
        for ax in (left, right):
            ax.axvspan(CONSIDERED * own["step"].max(), own["step"].max(), color="#EEEEEE", zorder=0)
            ax.set_xlim(0, None)
        left.set(title=f"{name}n = {own['held_out'].max()} held out", ylabel="held-out loss,\nchange in %")
        right.set(title=name.rstrip(", "), ylabel="training loss, mean\nsince the last record")
        right.set_ylim(0, 1.1 * own["loss"].max())
    for ax in axes[-1]:
        ax.set_xlabel("step; shaded: the last third")
    figure.tight_layout()
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.01), ncols=4 if len(labels) == 4 else 3)
    return figure


def _line(ax: Axes, curve: pd.DataFrame, column: str, colour: str, label: str) -> None:
    mean = curve.groupby("step")[column].mean()
    ax.plot(mean.index, mean, ".-", lw=1.2, ms=4, color=colour, label=label)
    if curve["seed"].nunique() > 1:
        ax.plot(curve["step"], curve[column], ".", ms=3, color=colour, alpha=0.5)


def _ways(log: pd.DataFrame) -> list[str]:
    return [name for name in ("trial", "entity") if name in log]


def _named(table: pd.DataFrame, curve: str) -> str:
    """The trainings of one kind in words: a trial alone where all of its entities are of that kind, else with which."""
    if (table["curve"] == curve).all():
        return "every training"
    names = []
    for trial, own in table.groupby("trial", sort=False):
        chosen = own[own["curve"] == curve]
        whole = len(chosen) == len(own)
        of = "" if whole or "entity" not in own else f" of {listed([NAMES[code] for code in chosen['entity']])}"
        names += [plain(trial) + of] * bool(len(chosen))
    return listed(names)
