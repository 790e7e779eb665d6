"""The trial in one figure: each comparison's interval beside its margin, and the verdict in a word."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from dermstudy.classification import protocol
from dermstudy.figures import WIDTH

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
HEAD, LABEL, SEEDS, AXIS, NUMBERS, P, VERDICT = 0.0, 0.012, 0.375, (0.40, 0.635), 0.645, 0.838, 0.897


def forest_plot(table: pd.DataFrame) -> Figure:
    """Differences with their 95 % intervals, a row a comparison under the head of its role, for print.

    table: as trial.trial_table gives it. The margin is shaded, the verdict stands at the right. Intervals that leave the
    axis end in an arrow; a comparison without numbers has its verdict only.
    """
    lines: list[tuple[str, pd.Series | None]] = []
    for role, head in HEADS.items():
        own = table[table["role"] == role]
        if len(own):
            lines += [(head, None), *((row["comparison"], row) for _, row in own.iterrows())]
    height = 0.225 * len(lines) + 0.75
    figure, ax = plt.subplots(figsize=(WIDTH, height))
    figure.subplots_adjust(left=AXIS[0], right=AXIS[1], top=1 - 0.25 / height, bottom=0.5 / height)
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
        ax.text(VERDICT, y, row["verdict"], **verdict, **style)
    heads = ((SEEDS, "seeds"), (NUMBERS, "difference (95 % interval)"), (P, "p"), (VERDICT, "verdict"))
    for x, text in heads:
        ax.text(x, -0.75, text, style="italic", ha="center" if x == SEEDS else "left", **style)
    ax.set_xlabel("difference of AUC (shaded: within the margin)", fontsize=7)
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
        ax.plot(row["difference"], y, "s", color=colour, ms=6 if row["role"] == protocol.PRIMARY else 4)


def _numbers(row: pd.Series) -> str:
    if np.isnan(row["difference"]):
        return "too few seeds"
    return "{} ({}, {})".format(*(protocol.signed(row[name]) for name in ("difference", "low", "high")))


def _p(row: pd.Series) -> str:
    return "" if np.isnan(row["p_holm"]) else protocol.p_words(row["p_holm"]).removeprefix("= ").replace(" ", "")
