"""What 08 and 09 found: the figure of their trials, and sentences and small tables made from theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dermstudy import figures
from dermstudy.adaptation.teaching import BASELINE
from dermstudy.diffusion import weights
from dermstudy.entities import COLOURS, NAMES
from dermstudy.evaluation import verdicts
from dermstudy.intervals import wilson

REAL = "real test images"


def overview_figure(overview: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Gain of KID of each trial in `overview`, and the share named as asked by entity, with intervals.

    table: as teaching.judged gives it. The red line is the most that there is to gain: the KID of BASELINE less that of
    real halves. Dashed lines are the shares of real test images that the same network names rightly.
    """
    places = np.arange(len(overview))
    figure, axes = plt.subplots(1, 2, figsize=(figures.WIDTH, 0.8 + 0.28 * len(overview)), sharey=True)
    count = table["n"].max()
    axes[0].hlines(places, overview["gain_low"], overview["gain_high"], color="#88CCEE", lw=3)
    axes[0].plot(overview["gain"], places, "o", color="#332288")
    axes[0].axvline(0, color="#BBBBBB", lw=1)
    axes[0].axvline(overview.loc[BASELINE, "kid"] - overview.loc[BASELINE, "floor"], color="#CC6677", lw=1)
    axes[0].set_yticks(places, overview.index)
    codes = list(table["entity"].unique())
    for shift, code in zip(0.3 * (np.arange(len(codes)) - (len(codes) - 1) / 2), codes, strict=True):
        own = table[table["entity"] == code].set_index("trial").loc[overview.index]
        bounds = pd.DataFrame([wilson(int(row.named), int(row.n)) for row in own.itertuples()])
        axes[1].hlines(places + shift, bounds["low"], bounds["high"], color=COLOURS[code], lw=2, alpha=0.5)
        axes[1].plot(bounds["share"], places + shift, "o", ms=4, color=COLOURS[code], label=NAMES[code])
        axes[1].axvline((own["real_named"] / own["real_n"]).iloc[0], color=COLOURS[code], lw=1, ls="--")
    labels = (
        "KID x 1,000 below the unadapted model's,\nmiddle 95 % of halves; red: all there is to gain",
        f"share named as asked, n = {count} an entity, Wilson's 95 %;\ndashed: share of real test images named rightly",
    )
    for ax, label in zip(axes, labels, strict=True):
        ax.set_xlabel(label, fontsize=8)
        ax.set_ylim(len(overview) - 0.5, -0.5)
    axes[1].set_xlim(-0.02, 1.02)
    axes[1].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(codes))
    return figure


def by_entity(table: pd.DataFrame) -> pd.DataFrame:
    """What teaching.judged found, one row a trial, a pair of columns an entity: "3 of 8" named as asked, KID (x 1,000).

    The last row holds real test images: how many of them the same network names rightly, and the KID between halves.
    """
    columns = {}
    for code, own in table.groupby("entity", sort=False):
        own, name = own.set_index("trial"), NAMES[code]
        first = own.iloc[0]
        named = {row.Index: f"{row.named} of {row.n}" for row in own.itertuples()}
        columns[f"{name}, named as asked"] = named | {REAL: f"{first['real_named']} of {first['real_n']}"}
        columns[f"{name}, KID"] = own["kid"].round(1).to_dict() | {REAL: round(float(first["floor"]), 1)}
    return pd.DataFrame(columns).rename_axis("trial")


def fidelity_sentences(table: pd.DataFrame, ways: Sequence[str]) -> str:
    """A line an entity of teaching.judged's table: images named as asked, unadapted, by the best of `ways`, real ones.

    ways: the trials that were taught; others than these and BASELINE are given one by one. An entity of which none of
    `ways` painted an image that is named so is said to be never painted.
    """
    lines = []
    for code, own in table.groupby("entity", sort=False):
        own, name = own.set_index("trial"), NAMES[code].capitalize()
        taught = own.loc[list(ways)]
        most, n = taught["named"].max(), taught["n"].iloc[0]
        best = _all_or(taught.index[taught["named"] == most], len(taught))
        others = [trial for trial in own.index if trial not in (*ways, BASELINE)]
        also = "".join(f"; {verdicts.plain(trial)} {_right(own.loc[trial])}" for trial in others)
        real = f"{own['real_named'].iloc[0]} of {own['real_n'].iloc[0]}"
        unadapted = _right(own.loc[BASELINE])
        said = f"{unadapted} named as asked unadapted, at most {most} of {n} once taught ({best})"
        if most == 0:
            said = f"never painted, as the network sees it: 0 of {n} named as asked by {best}, {unadapted} unadapted"
        lines.append(f"{name}: {said}{also}; of real test images {real}.")
    return "\n".join(lines)


def chosen(trials: pd.DataFrame) -> str:
    """The trial with the largest gain among those whose interval lies above zero, or among all where there is none.

    trials: rows of teaching.overview that were taught. ValueError for none.
    """
    return next(iter(verdicts.helped(trials)), trials["gain"].idxmax())


def chosen_sentence(trials: pd.DataFrame, table: pd.DataFrame) -> str:
    """That `chosen` of `trials` is the one that the notebook goes on with, and how little its being chosen says.

    table: as teaching.judged gives it, for the number of images.
    """
    best, n = chosen(trials), table["n"].max()
    low, high = trials.loc[best, ["gain_low", "gain_high"]]
    near = [name for name in trials.index if name != best]
    near = [name for name in near if trials.loc[name, "gain_high"] >= low and trials.loc[name, "gain_low"] <= high]
    said = "its gain's interval meets no other's" if len(trials) > 1 else "it is the only trial"
    if near:
        said = f"its gain's interval meets that of {verdicts.listed([verdicts.plain(name) for name in near])}"
    clear = " clear of zero" if low > 0 else ""
    return (
        f"Exploratory: {verdicts.plain(best)} (KID {trials.loc[best, 'kid']:.0f}) has {verdicts.superlative(trials)}{clear}, "
        f"by the test lesions that also judge it, n = {n} images an entity; {said}. "
        "The cells below use it."
    )


def met_sentence(start: str | Path, codes: Sequence[str]) -> str:
    """Whether the weights in `start` have met the entities `codes`, by lineage.json beside their folder.

    There "left_out" under the stage's name holds the codes of the entities that no part of its training saw; weights
    without that record are taken to have met them all.
    """
    record = weights.lineage(Path(start).parent).get(Path(start).name, {}).get("left_out")
    new = [NAMES[code] for code in codes if record is not None and code in record]
    met = [NAMES[code] for code in codes if NAMES[code] not in new]
    if record is None:
        return (
            f"These weights keep no record of entities left out of their training: take them to have met {verdicts.listed(met)}, "
            "so that what follows teaches them again, not for the first time."
        )
    parts = [f"no image of {verdicts.listed(new).replace(' and ', ' or ')}"] * bool(new)
    parts += [f"images of {verdicts.listed(met)}, taught here again and not for the first time"] * bool(met)
    return f"By the lineage of these weights their training held {' but '.join(parts)}."


def _all_or(names: Sequence[str], count: int) -> str:
    """Trials in words; "every way" where they are all of several."""
    return "every way" if len(names) == count > 1 else verdicts.listed([verdicts.plain(name) for name in names])


def _right(row: pd.Series) -> str:
    return f"{row['named']} of {row['n']}"
