"""The trial in figures: each comparison's interval beside its margin and what was found, doses, stopping."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from dermstudy.classification import effects, protocol
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
NETWORKS = {name: f"{words[0].upper()}{words[1:]}" for name, words in effects.NETWORKS.items()}


def forest_plot(table: pd.DataFrame) -> Figure:
    """Differences with their 95 % intervals, a row a comparison, under the head of its role where it has one, for print.

    table: as trial.trial_table or trial.described_table gives it; rows of the latter stand under their network. A margin is
    shaded, and what was found stands at the right. Intervals that leave the axis end in an arrow; a comparison without
    numbers is not resolved, and one without a seed was not run.
    """
    tested, within = "role" in table, "margin" in table
    lines: list[tuple[str, pd.Series | None]] = []
    heads = table["role"].map(HEADS) if tested else table["network"].map(NETWORKS) if "network" in table else None
    for head, own in table.groupby(heads, sort=False) if heads is not None else [("", table)]:
        lines += [(head, None)] * bool(head)
        names = own["comparison"].map(effects.printed)
        lines += [(name if tested else short(name), row) for name, (_, row) in zip(names, own.iterrows(), strict=True)]
    height = (0.225 if tested else 0.3) * len(lines) + 1.0
    # Where the columns stand, as shares of the figure's width.
    left, right, seeds = (0.40, 0.612, 0.375) if tested else (0.52, 0.80, 0.485)
    figure, ax = plt.subplots(figsize=(WIDTH, height))
    figure.subplots_adjust(left=left, right=right, top=1 - 0.38 / height, bottom=0.62 / height)
    ax.set(xlim=_ends(table), ylim=(len(lines) - 0.4, -0.6), yticks=[])
    ax.spines["left"].set_visible(False)
    ax.tick_params(labelsize=7)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.axvline(0, color="#444444", lw=0.8, zorder=1)
    style = {"transform": blended_transform_factory(figure.transFigure, ax.transData), "va": "center", "fontsize": 7}
    for y, (label, row) in enumerate(lines):
        if row is None:
            ax.text(0.0, y + 0.08, label, fontweight="bold", **style)
            continue
        colour = COLOURS[row["verdict"]] if tested else "#332288"
        _interval(ax, y, row, colour)
        ax.text(0.012, y, label, **style)
        ax.text(seeds, y, f"{row['seeds']:.0f}", ha="center", **style)
        ax.text(right + 0.012, y, _numbers(row), **style)
        if within:
            ax.fill_betweenx([y - 0.5, y + 0.5], -row["margin"], row["margin"], color="#E4E4E4", lw=0, zorder=0)
        if tested:
            p = "" if np.isnan(row["p_holm"]) else protocol.p_words(row["p_holm"]).removeprefix("= ").replace(" ", "")
            ax.text(0.832, y, p, **style)
            found = effects.FOUND[row["verdict"]] if row["seeds"] else "not run"
            ax.text(0.901, y, found, color=colour, fontweight="bold", **style)
    columns = [(seeds, "seeds", "center"), (right + 0.012, "difference (95 % interval)", "left")]
    for x, text, side in columns + [(0.832, "p", "left"), (0.901, "found", "left")] * tested:
        ax.text(x, -0.75, text, style="italic", ha=side, **style)
    for x, text, side in ((-0.04, "← worse", "right"), (0.04, "better →", "left")):
        zero = blended_transform_factory(ax.transData, ax.transAxes)
        ax.text(x * ax.get_xlim()[1], 1.0, text, transform=zero, ha=side, va="bottom", fontsize=7, color="#444444")
    ax.set_xlabel(f"difference of AUC{' (shaded: within the margin)' * within}\n{_lesions(table)}", fontsize=7)
    return figure


def short(name: str) -> str:
    """A training set's or a comparison's name for the side of a figure."""
    return name.replace("all originals + ", "+ ").replace(", dose 1", "").replace(" against ", "\nagainst ")


def _lesions(table: pd.DataFrame) -> str:
    """How many test lesions the differences of a table are over."""
    counts = table["lesions"].dropna().astype(int)
    if counts.empty:
        return "test lesions"
    few, most = counts.min(), counts.max()
    return f"n = {few:,} test lesions" if few == most else f"n = {few:,} to {most:,} lesions"


def _ends(table: pd.DataFrame) -> tuple[float, float]:
    """The axis: the margin and all but unusually far intervals fit."""
    margin = float(table["margin"].max()) if "margin" in table else 0.0
    low, high = table["low"].dropna(), table["high"].dropna()
    apart = [end for end in np.abs([*low, *high]) if end > 1e-6]  # some sets are answered alike
    most = (4.0 if margin else 4.5) * max(margin, float(np.median(apart)) if apart else 0.0)
    most = min(most, 2.6 * np.nan_to_num(table["difference"].abs().max()) + 0.03)
    least = 1.25 * margin or 0.1 * most or 0.01
    left, right = (max(side.max() if len(side) else 0.0, least) for side in (-low, high))
    return -1.06 * min(left, most or left), 1.06 * min(right, most or right)


def _interval(ax, y: int, row: pd.Series, colour: str) -> None:
    if np.isnan(row["difference"]):
        return
    left, right = ax.get_xlim()
    left, right = left + 0.015 * (right - left), right - 0.015 * (right - left)
    ax.plot(np.clip([row["low"], row["high"]], left, right), [y, y], color=colour, lw=1.5, solid_capstyle="butt")
    for end, marker, beyond in ((left, "<", row["low"] < left), (right, ">", row["high"] > right)):
        if beyond:
            ax.plot(end, y, marker, color=colour, ms=4)
    if left <= row["difference"] <= right:
        ax.plot(row["difference"], y, "s", color=colour, ms=4.5 if row.get("role") == protocol.PRIMARY else 3)


def _numbers(row: pd.Series) -> str:
    if np.isnan(row["difference"]):
        return "too few seeds" if row["seeds"] else ""
    return f"{protocol.signed(row['difference'])} ({protocol.bound(row['low'])}, {protocol.bound(row['high'])})"


def _seeds(counts: pd.Series) -> str:
    return f"{counts.max()} seeds" if counts.max() > 1 else "1 seed"


def dose_plot(measured: pd.DataFrame) -> Figure:
    """Macro AUC of the linear probe by dose of synthetic images: a light dot a seed, a dark one their mean.

    measured: as secondary.run_table gives it. A red line marks the 30 % subset, where it ran.
    """
    own = measured[(measured["model"] == protocol.FROZEN) & (measured["metric"] == protocol.MACRO_AUC)]
    own = own.dropna(subset="value").assign(dose=lambda rows: rows["training_set"].map(protocol.DOSES))
    means = own.groupby("dose")["value"].mean()
    figure, ax = plt.subplots(figsize=(WIDTH * 0.6, 2.4))
    ax.plot(own["dose"], own["value"], ".", color="#88CCEE", ms=4)
    ax.plot(means.index, means, "o", color="#332288")
    few = own.loc[own["training_set"] == protocol.SUBSET, "value"].mean()
    if np.isfinite(few):
        ax.axhline(few, color="#CC6677", lw=1)
        ax.annotate("30 % of the originals", (means.index.max(), few), ha="right", va="bottom", color="#CC6677")
    each = _seeds(own.groupby("training_set")["seed"].nunique())
    label = f"synthetic images for each original\n{each} each; the axis is cut"
    ax.set(xlabel=label, ylabel="macro AUC", xticks=list(means.index))
    return figure


def headline_plot(summary: pd.DataFrame, each: pd.DataFrame, headlines: tuple[str, ...]) -> Figure:
    """Means with 95 % intervals, a panel a measure of `headlines`, a row a training set and protocol; seeds as small dots.

    summary: as scores.summary gives it; each: the runs behind it, as scores.every_run gives them.
    """
    figure, axes = plt.subplots(1, len(headlines), sharex=True, sharey=True, figsize=(WIDTH, 2.8))
    labelled = [
        table.assign(label=table["training_set"].map(short) + ", " + table["protocol"])
        for table in (summary, each.rename(columns={"value": "mean"}))
    ]
    for ax, metric in zip(axes, headlines, strict=True):
        own, seeds = (table[table["metric"] == metric] for table in labelled)
        intervals(ax, own, "label", "mean", seeds)
        ax.set(title=metric, xlim=(0, 1))
    figure.supxlabel(f"share, {interval_words(each['seed'].nunique())}", fontsize=9, y=-0.04)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=len(labels))
    return figure


def ladder_plot(table: pd.DataFrame, each: pd.DataFrame) -> Figure:
    """The change that each step of 06's ladder makes, a panel a measure, a colour a network, light dots its seeds.

    table, each: as scores.ladder_table and scores.changes_by_seed give them.
    """
    changes = table[table["difference"].notna()]
    steps, measures = list(dict.fromkeys(changes["step"])), list(dict.fromkeys(changes["measure"]))
    figure, axes = plt.subplots(1, len(measures), figsize=(WIDTH, 0.42 * len(steps) + 1.3), sharey=True)
    for ax, measure in zip(axes, measures, strict=True):
        ax.axvline(0, color="#BBBBBB", lw=1)
        of_measure = changes[changes["measure"] == measure].groupby("network", sort=False)
        for place, ((network, own), colour) in enumerate(zip(of_measure, ("#332288", "#117733"), strict=False)):
            heights = {step: y + 0.26 * (place - (of_measure.ngroups - 1) / 2) for y, step in enumerate(steps)}
            y = own["step"].map(heights)
            ax.hlines(y, own["low"], own["high"], color=colour, lw=2)
            known = "paper's CNN" if network == protocol.KERAS else network
            ax.plot(own["difference"], y, "o", ms=4.5, color=colour, label=f"{known}, {_seeds(own['seeds'])}")
            seeds = each[each["measure"].eq(measure) & each["network"].eq(network)]
            if seeds["seed"].nunique() > 1:
                below = seeds["step"].map(heights) + 0.09  # beside the bar, which would hide them
                ax.plot(seeds["difference"], below, ".", ms=4, color=colour, alpha=0.5, mew=0)
        ax.set(xlabel=f"change of {measure}\n95 % t interval", yticks=range(len(steps)), ylim=(len(steps) - 0.5, -0.5))
    axes[0].set_yticklabels(steps)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=7)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    return figure


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
