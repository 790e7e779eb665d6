"""The trial in figures: each comparison's interval beside its margin and its verdict, doses, learning curves."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from dermstudy.classification import protocol
from dermstudy.classification.scores import interval_words
from dermstudy.figures import WIDTH, intervals

COLOURS = {
    protocol.HELPS: "#117733",
    protocol.HARMS: "#CC6677",
    protocol.EQUIVALENT: "#332288",
    protocol.NOT_RESOLVED: "#777777",
}
HEADS = {
    protocol.PRIMARY: "Primary comparison",
    protocol.FAMILY: "Family of four (p after Holm)",
    protocol.CONTROL: "Positive control",
    protocol.SENSITIVITY: "Sensitivity analyses (p not adjusted)",
}


# Where the columns begin, as shares of the figure's width.
HEAD, LABEL, SEEDS, AXIS, NUMBERS, P, VERDICT = 0.0, 0.012, 0.375, (0.40, 0.612), 0.618, 0.832, 0.901


def forest_plot(table: pd.DataFrame) -> Figure:
    """Differences with their 95 % intervals, a row a comparison under the head of its role, for print.

    table: as trial.trial_table gives it. The margin is shaded, the verdict stands at the right. Intervals that leave the
    axis end in an arrow; a comparison without numbers has its verdict only, and one without a seed was not run.
    """
    lines: list[tuple[str, pd.Series | None]] = []
    for role, head in HEADS.items():
        own = table[table["role"] == role]
        if len(own):
            lines += [(head, None), *((row["comparison"], row) for _, row in own.iterrows())]
    height = 0.225 * len(lines) + 0.87
    figure, ax = plt.subplots(figsize=(WIDTH, height))
    figure.subplots_adjust(left=AXIS[0], right=AXIS[1], top=1 - 0.25 / height, bottom=0.62 / height)
    ax.set(xlim=_ends(table), ylim=(len(lines) - 0.4, -0.6), yticks=[])
    ax.spines["left"].set_visible(False)
    ax.tick_params(labelsize=7)
    ax.axvline(0, color="#444444", lw=0.8, zorder=1)
    where = blended_transform_factory(figure.transFigure, ax.transData)
    style = {"transform": where, "va": "center", "fontsize": 7}
    for y, (label, row) in enumerate(lines):
        if row is None:
            ax.text(HEAD, y + 0.08, label, fontweight="bold", **style)
            continue
        ax.fill_betweenx([y - 0.5, y + 0.5], -row["margin"], row["margin"], color="#E4E4E4", lw=0, zorder=0)
        _interval(ax, y, row)
        verdict = {"color": COLOURS[row["verdict"]], "fontweight": "bold"}
        words = ((LABEL, label), (SEEDS, f"{row['seeds']:.0f}"), (NUMBERS, _numbers(row)), (P, _p(row)))
        for x, text in words:
            ax.text(x, y, text, ha="center" if x == SEEDS else "left", **style)
        ax.text(VERDICT, y, row["verdict"] if row["seeds"] else "not run", **verdict, **style)
    heads = ((SEEDS, "seeds"), (NUMBERS, "difference (95 % interval)"), (P, "p"), (VERDICT, "verdict"))
    for x, text in heads:
        ax.text(x, -0.75, text, style="italic", ha="center" if x == SEEDS else "left", **style)
    ax.set_xlabel(f"difference of AUC (shaded: within the margin)\n{_lesions(table)}", fontsize=7)
    return figure


def short(name: str) -> str:
    """A training set's or a comparison's name for the side of a figure."""
    return name.replace("all originals + ", "+ ").replace(", dose 1", "").replace(" against ", "\nagainst ")


def described_plot(table: pd.DataFrame) -> Figure:
    """Described differences with their intervals, and both in numbers beside each row.

    table: as trial.described_table gives it. An interval that is far wider than the differences is cut at the axis, where
    an arrow stands for the rest; a row without numbers has none.
    """
    figure, ax = plt.subplots(figsize=(WIDTH * 0.62, 0.6 + 0.34 * len(table)))
    labels = table["comparison"].map(short) + np.where(
        table["network"] == protocol.FROZEN, "", " (" + table["network"] + ")"
    )
    intervals(ax, table.assign(label=labels), "label", "difference")
    ax.set_ylim(-0.5, len(table) - 0.5)
    left, right = _close_ends(table.dropna(subset=["difference"]))
    ax.set(
        xlabel=f"difference of AUC, 95 % t interval\nover {_lesions(table)} and seeds",
        xlim=(left, right),
        yticks=range(len(table)),
        yticklabels=labels[::-1],
    )
    beside = blended_transform_factory(ax.transAxes, ax.transData)
    for place, (_, row) in enumerate(table[::-1].iterrows()):
        ax.text(1.03, place, _numbers(row), transform=beside, va="center", fontsize=7)
        for end, marker, beyond in ((left, "<", row["low"] < left), (right, ">", row["high"] > right)):
            if beyond:
                ax.plot(end, place, marker, color="#88CCEE", ms=5, clip_on=False)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
    ax.tick_params(labelsize=7)
    return figure


def _lesions(table: pd.DataFrame) -> str:
    """How many test lesions the differences of a table are over."""
    counts = table["lesions"].dropna().astype(int)
    if counts.empty:
        return "test lesions"
    few, most = counts.min(), counts.max()
    return f"n = {few:,} test lesions" if few == most else f"n = {few:,} to {most:,} lesions"


def _close_ends(table: pd.DataFrame) -> tuple[float, float]:
    """An axis that holds every difference, and intervals as far as its longer side: those of few seeds would leave no room."""
    if table.empty:
        return -1.0, 1.0
    widths = (table["high"] - table["low"]).to_numpy()
    apart = widths > 1e-6  # not of sets that one network answers alike
    close = table[widths <= 4 * np.median(widths[apart])] if apart.any() else table
    furthest = 1.3 * table["difference"].abs().max() + 0.02
    ends = np.clip([close["low"].min(), close["high"].max()], -2 * furthest, 2 * furthest)
    reach = max(*abs(ends), table["difference"].abs().max())
    low = min(table["difference"].min(), table["low"].clip(-reach, reach).min())
    high = max(table["difference"].max(), table["high"].clip(-reach, reach).max())
    room = 0.05 * (high - low) or 0.01
    return float(low - room), float(high + room)


def dose_plot(measured: pd.DataFrame) -> Figure:
    """Macro AUC of the head on frozen features by dose of synthetic images: a light dot a seed, a dark one their mean.

    measured: as secondary.run_table gives it. A red line marks the 30 % subset, where it ran.
    """
    own = measured[(measured["network"] == protocol.FROZEN) & (measured["measure"] == protocol.MACRO_AUC)]
    own = own.dropna(subset="value")  # runs that failed
    values = own.groupby("training_set")["value"].apply(list)
    doses = {name: dose for name, dose in protocol.DOSES.items() if name in values}
    figure, ax = plt.subplots(figsize=(WIDTH * 0.6, 2.4))
    for name, dose in doses.items():
        ax.plot([dose] * len(values[name]), values[name], ".", color="#88CCEE", ms=4)
        ax.plot(dose, np.mean(values[name]), "o", color="#332288")
    if protocol.SUBSET in values:
        few = np.mean(values[protocol.SUBSET])
        ax.axhline(few, color="#CC6677", lw=1)
        ax.annotate("30 % of the originals", (max(doses.values()), few), ha="right", va="bottom", color="#CC6677")
    each = _seeds(own.groupby("training_set")["seed"].nunique())
    ax.set(
        xlabel=f"synthetic images for each original\n{each} each; the axis is cut",
        ylabel="macro AUC",
        xticks=list(doses.values()),
    )
    return figure


def headline_plot(summary: pd.DataFrame, each: pd.DataFrame, headlines: tuple[str, ...]) -> Figure:
    """Means with 95 % intervals, a panel a measure of `headlines`, a row a training set and protocol; seeds as small dots.

    summary: as scores.summary gives it; each: the runs behind it, as scores.every_run gives them.
    """
    figure, axes = plt.subplots(1, len(headlines), sharex=True, sharey=True, figsize=(WIDTH, 2.8))
    runs = each.rename(columns={"value": "mean"})
    for ax, metric in zip(axes, headlines, strict=True):
        own, seeds = (
            table[table["metric"] == metric].assign(
                label=lambda rows: rows["training_set"].map(short) + ", " + rows["protocol"]
            )
            for table in (summary, runs)
        )
        intervals(ax, own, "label", "mean", seeds)
        ax.set(title=metric, xlim=(0, 1))
    figure.supxlabel(f"share, {interval_words(each['seed'].nunique())}", fontsize=9, y=-0.04)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=len(labels))
    return figure


def ladder_plot(table: pd.DataFrame, each: pd.DataFrame) -> Figure:
    """The change that each step of 06's ladder makes, a panel a measure, a colour a network, light dots its seeds.

    table, each: as ladder.table and ladder.by_seed give them.
    """
    changes = table[table["difference"].notna()]
    steps, networks = list(dict.fromkeys(changes["step"])), list(dict.fromkeys(changes["network"]))
    measures = list(dict.fromkeys(changes["measure"]))
    figure, axes = plt.subplots(1, len(measures), figsize=(WIDTH, 0.42 * len(steps) + 1.3), sharey=True)
    for ax, measure in zip(axes, measures, strict=True):
        ax.axvline(0, color="#BBBBBB", lw=1)
        for place, (network, colour) in enumerate(zip(networks, ("#332288", "#117733"), strict=False)):
            own = changes[changes["measure"].eq(measure) & changes["network"].eq(network)]
            y = own["step"].map(steps.index) + 0.26 * (place - (len(networks) - 1) / 2)
            lines = own["low"].notna()  # an entity of one lesion has none
            ax.hlines(y[lines], own["low"][lines], own["high"][lines], color=colour, lw=2)
            known = "small network" if network == protocol.KERAS else network
            label = f"{known}, {_seeds(own['seeds'])}"
            ax.plot(own["difference"], y, "o", ms=4.5, color=colour, label=label)
            seeds = each[each["measure"].eq(measure) & each["network"].eq(network)]
            if seeds["seed"].nunique() > 1:
                at = dict(zip(own["step"], y, strict=True))
                below = seeds["step"].map(at) + 0.09  # beside the bar, which would hide them
                ax.plot(seeds["difference"], below, ".", ms=4, color=colour, alpha=0.5, mew=0)
        ax.set(xlabel=f"change of {measure}\n95 % t interval", yticks=range(len(steps)), ylim=(len(steps) - 0.5, -0.5))
    axes[0].set_yticklabels(steps)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=7)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    return figure


def _seeds(counts: pd.Series) -> str:
    return f"{counts.max()} seeds" if counts.max() > 1 else "1 seed"


def stopping_curves(histories: Mapping[str, pd.DataFrame], seed: int) -> Figure:
    """Training and watched loss of one run a protocol, side by side, and a dot at the epoch whose weights are kept.

    histories: epoch, loss and validation_loss by protocol; seed: of these runs, named above.
    """
    figure, axes = plt.subplots(1, len(histories), sharey=True, figsize=(WIDTH, 2.6), squeeze=False)
    for ax, (kind, history) in zip(axes.flat, histories.items(), strict=True):
        best = history.loc[history["validation_loss"].idxmin()]
        ax.plot(history["epoch"], history["loss"], color="#88CCEE", label="training")
        ax.plot(history["epoch"], history["validation_loss"], color="#332288", label="watched for stopping")
        ax.plot(best["epoch"], best["validation_loss"], "o", color="#332288", label="kept")
        ax.set(title=f"{kind}, seed {seed}", xlabel="epoch", ylabel="cross-entropy")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].legend()
    return figure


def learning_curves(histories: pd.DataFrame) -> Figure:
    """Training (light) and watched loss (dark) by epoch, a panel a training set, a line a seed; a dot where it was kept.

    histories: network, protocol, training_set, seed, epoch, loss, validation_loss.
    """
    groups = histories.groupby(["network", "protocol", "training_set"], sort=False)
    rows = -(-len(groups) // 4)
    size = (WIDTH, 0.3 + 1.65 * rows)
    figure, axes = plt.subplots(rows, -(-len(groups) // rows), sharey=True, figsize=size, squeeze=False)
    for ax in axes.flat[len(groups) :]:
        ax.set_axis_off()
    for ax, ((network, kind, name), own) in zip(axes.flat, groups, strict=False):
        for _, curve in own.groupby("seed"):
            ax.plot(curve["epoch"], curve["loss"], color="#88CCEE", lw=1)
            ax.plot(curve["epoch"], curve["validation_loss"], color="#332288", lw=1)
            kept = curve[curve["validation_loss"] == curve["validation_loss"].min()][:1]
            ax.plot(kept["epoch"], kept["validation_loss"], "o", color="#332288", ms=3)
        ax.set_title(f"{short(name)}\n{network}, {kind}", fontsize=7)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        ax.tick_params(labelsize=7)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("cross-entropy (light: training, dark: watched, dot: kept)", fontsize=9)
    figure.tight_layout()
    return figure


def _ends(table: pd.DataFrame) -> tuple[float, float]:
    """The axis: the margin and all but unusually far intervals fit."""
    margin = float(table["margin"].max())
    low, high = table["low"].dropna(), table["high"].dropna()
    ends = np.abs([*low, *high])
    most = 3.2 * max([margin, *([np.median(ends)] if len(ends) else [])])
    left = max([-low.min() if len(low) else 0.0, 1.25 * margin])
    right = max([high.max() if len(high) else 0.0, 1.25 * margin])
    return -1.06 * min(left, most), 1.06 * min(right, most)


def _interval(ax, y: int, row: pd.Series) -> None:
    if np.isnan(row["difference"]):
        return
    colour, (left, right) = COLOURS[row["verdict"]], ax.get_xlim()
    left, right = left + 0.015 * (right - left), right - 0.015 * (right - left)
    ax.plot(np.clip([row["low"], row["high"]], left, right), [y, y], color=colour, lw=1.5, solid_capstyle="butt")
    if row["low"] < left:
        ax.plot(left, y, "<", color=colour, ms=4)
    if row["high"] > right:
        ax.plot(right, y, ">", color=colour, ms=4)
    if left <= row["difference"] <= right:
        ax.plot(row["difference"], y, "s", color=colour, ms=4.5 if row["role"] == protocol.PRIMARY else 3)


def _numbers(row: pd.Series) -> str:
    if np.isnan(row["difference"]):
        return "too few seeds" if row["seeds"] else ""
    return f"{protocol.signed(row['difference'])} ({protocol.bound(row['low'])}, {protocol.bound(row['high'])})"


def _p(row: pd.Series) -> str:
    return "" if np.isnan(row["p_holm"]) else protocol.p_words(row["p_holm"]).removeprefix("= ").replace(" ", "")
