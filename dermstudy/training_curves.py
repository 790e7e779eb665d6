"""How a training went: losses by step and by noise level, and what long ones bought, drawn as `figures` draws all else.

As wide as figures.use_style sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure


def loss_curves(log: pd.DataFrame) -> Figure:
    """Training and held-out loss by step from zero, the axes uncut, and a line at the step whose weights are kept.

    log: step, loss, validation_loss, as finetune.train gives it; step 0, before training, has no training loss.
    """
    figure, ax = plt.subplots()
    trained = log[log["loss"].notna()]
    ax.plot(trained["step"], trained["loss"], color="#88CCEE", marker=".", label="training, mean since the last record")
    ax.plot(log["step"], log["validation_loss"], color="#332288", marker="o", markersize=3, label="held-out lesions")
    ax.axvline(log.loc[log["validation_loss"].idxmin(), "step"], color="#999933", lw=1, ls="--", label="kept")
    ax.set(xlabel="step", ylabel="loss", xlim=(0, None), ylim=(0, None))
    ax.legend()
    return figure


def loss_bands(log: pd.DataFrame) -> Figure:
    """Held-out loss by step for each quarter of the timesteps, axes uncut; log: as for `loss_curves`."""
    bands = log.filter(regex=r"^validation_\d")
    figure, ax = plt.subplots()
    for colour, (name, own) in zip(seaborn.color_palette("crest", len(bands.columns)), bands.items(), strict=True):
        label = "timesteps " + name.removeprefix("validation_").replace("_", " to ")
        ax.plot(log["step"], own, color=colour, marker="o", markersize=3, label=label)
    ax.set(xlabel="step", ylabel="held-out loss", xlim=(0, None), ylim=(0, None))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    return figure


def training_hours(log: pd.DataFrame, sittings: pd.DataFrame, changes: Sequence[int] = ()) -> Figure:
    """What hours of training bought, by the images seen: the loss, and KID on validation lesions, beside real images'.

    log: step, images, loss; sittings: images, n, kid, low, high, floor, sampler_steps, guidance_scale, as
    weights.training_hours gives them for one network; changes: `noise_changes`. A line joins only what is comparable: losses
    over the same draws of noise, KID of sittings that were sampled alike.
    """
    figure, axes = plt.subplots(1, 2, figsize=(plt.rcParams["figure.figsize"][0], 3.0))
    for _, own in log.groupby(np.searchsorted(changes, log["step"])):
        axes[0].plot(own["images"] / 1000, own["loss"], color="#88CCEE")
    for number, step in enumerate(changes):
        began = log["images"][log["step"] > step].min() / 1000
        named = {"label": "noise drawn at other levels from here"} if not number else {}
        axes[0].axvline(began, color="#999933", lw=1, ls=":", **named)
    axes[0].set(ylabel="training loss", ylim=(0, None))
    bars = f"middle 95 % of halves of n = {sittings['n'].iloc[-1]:.0f} images"
    axes[1].vlines(sittings["images"] / 1000, sittings["low"], sittings["high"], color="#88CCEE", lw=3, label=bars)
    settings = sittings.apply(_sampled, axis=1)
    shades = seaborn.color_palette(["#332288", "#117733", "#AA4499", "#882255"], settings.nunique())
    for shade, (words, own) in zip(shades, sittings.groupby(settings, sort=False), strict=True):
        axes[1].plot(own["images"] / 1000, own["kid"], "o-", color=shade, label=f"after a sitting, {words}")
    axes[1].axhline(sittings["floor"].iloc[-1], color="#CC6677", lw=1, label="real images")
    axes[1].set(ylabel="KID x 1,000, validation lesions")
    for ax in axes:
        ax.set(xlabel="images seen in training (thousands)", xlim=(0, None))
        handles, labels = ax.get_legend_handles_labels()
        if handles:  # below the axes, where it can cross no bar
            ax.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    figure.tight_layout()
    return figure


def noise_changes(training: Mapping, log: pd.DataFrame) -> list[int]:
    """The steps of `log` after which training went on with other draws of noise, in order; none where nobody kept them.

    training: a network's entry of lineage.json: its recipe (noise_mean, noise_spread, high_share) and the earlier ones (recipe,
    step).
    """
    if "recipe" not in training:
        return []
    recipes = [one["recipe"] for one in training.get("earlier", [])] + [training["recipe"]]
    ends = np.cumsum([one["step"] for one in training.get("earlier", [])]).tolist()
    draws = [tuple(recipe.get(name) for name in ("noise_mean", "noise_spread", "high_share")) for recipe in recipes]
    turns = [end for end, (before, after) in zip(ends, pairwise(draws), strict=True) if before != after]
    return [end for end in turns if end < log["step"].max()]


def _sampled(sitting: pd.Series) -> str:
    """With which sampler a sitting's images were painted, in words."""
    guided = pd.notna(sitting["guidance_scale"]) and sitting["guidance_scale"] != 1
    stage = (
        f", guidance {sitting['guidance_scale']:g}" if guided else ", unguided" * pd.notna(sitting["guidance_scale"])
    )
    return f"{sitting['sampler_steps']:.0f} sampler steps{stage}"
