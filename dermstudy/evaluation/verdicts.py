"""What a table of trials says in words: which are shown to come nearer to real images, which are named rightly most often.

A gain of KID counts as shown where its whole interval lies above zero.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

HYPHEN_MINUS = re.compile(r"(?<![\w−-])-(?=\d)")


def helped(trials: pd.DataFrame) -> list[str]:
    """The trials (index; columns gain, gain_low) whose whole interval lies above zero, the largest gain first."""
    clear = trials[trials["gain_low"] > 0]
    return list(clear["gain"].sort_values(ascending=False, kind="stable").index)


def nearest(trials: pd.DataFrame) -> str:
    """One sentence on which of `trials` are shown to come nearer to real images than the unadapted model, and which farther.

    trials: index names; columns kid, gain, gain_low, gain_high; without the unadapted model. ValueError for no trial.
    """
    farther = trials.index[trials["gain_high"] < 0]
    lost = f"; farther from them: {listed([_gain(trials, name) for name in farther])}" if len(farther) else ""
    return _nearer(trials) + lost


def _nearer(trials: pd.DataFrame) -> str:
    shown, largest, lowest = helped(trials), trials["gain"].idxmax(), trials["kid"].idxmin()
    if not shown:
        where = "below" if trials.loc[largest, "gain_high"] < 0 else "that holds"
        return f"none is shown to help: {superlative(trials)} is that of {_gain(trials, largest)}, with an interval {where} zero"
    verb = "is" if len(shown) == 1 else "are"
    said = f"{listed([_gain(trials, name) for name in shown])} {verb} shown to help"
    if lowest not in shown:
        said += f"; {_gain(trials, lowest)} has the lowest KID, {trials.loc[lowest, 'kid']:.0f}, but an interval that holds zero"
    return said


def superlative(trials: pd.DataFrame) -> str:
    """What the trial with the largest gain has: "the largest gain", or "the smallest rise of KID" where no trial gains."""
    return "the smallest rise of KID" if trials["gain"].max() < 0 else "the largest gain"


def most_often_named(trials: pd.DataFrame) -> str:
    """The trials with the largest share named rightly (column fidelity), all of them where several have it, and the share."""
    most = trials["fidelity"].max()
    names = [plain(name) for name in trials.index[trials["fidelity"] == most]]
    return f"{listed(names)}, {most:.0%}" + " each" * (len(names) > 1)


def listed(names: Sequence[str]) -> str:
    """Several names in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def plain(name: str) -> str:
    """A trial's name without a comma, so that it can stand in a list: "8 vectors from 100 images"."""
    return name.replace(", ", " from ")


def signed(text: str) -> str:
    """`text` with a minus sign in place of the hyphen before each negative number."""
    return HYPHEN_MINUS.sub("−", text)


def _gain(trials: pd.DataFrame, name: str) -> str:
    row = trials.loc[name]
    return signed(f"{plain(name)} (gain {row['gain']:z.0f}, {row['gain_low']:z.0f} to {row['gain_high']:z.0f})")
