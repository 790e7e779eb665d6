"""What quality of synthetic images helps the linear probe, what they do where data are scarce, and the paper's own design.

The runs are `python -m dermstudy_commands.maintenance.curve`'s; docs/PROTOCOL.md (2026-12-01) says what they are.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dermstudy.classification import inference, trial
from dermstudy.classification.inference import Contrast
from dermstudy.classification.predictions import Predictions
from dermstudy.classification.protocol import DESCRIBED_ONLY, FROZEN, Comparison, bound, difference
from dermstudy.figures import WIDTH
from dermstudy.workspace import Workspace, changes

IMAGES, TABLES = "curve_images.csv", ("quality_curve", "quality_line", "scarce", "own_kind")
SYNTHETIC, REPEATED, REAL = "synthetic", "repeated originals", "real, "
SHARES, TESTED = (0.03, 0.1, 0.3, 1.0), (0.1, 0.3)
ALL, QUARTER, RIGHT = "all images", "a quarter of the weight", "images named as labelled"
ORIGINALS, GAIN, SEEDS = "originals", "gain", 20


def named(share: float, kind: str, added: str) -> str:
    """The name of a training set of a share of the lesions."""
    return f"{share:.0%} of the lesions + {added}, {kind}"


def of_scale(scale: float) -> str:
    """The split of synthetic test images at a scale of guidance."""
    return f"synthetic, guidance {scale:g}"


def alone(scale: float) -> str:
    """The training set of synthetic images alone."""
    return of_scale(scale)


def both(scale: float) -> str:
    """The training set of originals and synthetic images."""
    return f"originals + {of_scale(scale)}"


def _pairs(runs: Predictions, pairs: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """`trial.described_table` of pairs of training sets by name: the change of macro AUC by the first against the second."""
    asked = [Comparison(name, DESCRIBED_ONLY, FROZEN, difference(*sets), name) for name, sets in pairs.items()]
    return trial.described_table(runs, asked, {FROZEN: SEEDS})


def curve(runs: Predictions, images: pd.DataFrame) -> pd.DataFrame:
    """A row a set of images: those of `images` (images, number, n, kid, recall, named) and the change of macro AUC."""
    found = _pairs(runs, {name: (name, REPEATED) for name in images["images"]})
    return images.merge(found.drop(columns=["network", "measure"]), left_on="images", right_on="comparison").drop(
        columns="comparison"
    )


def line(points: pd.DataFrame) -> pd.Series:
    """The changes of the settings on their KID, with t intervals over settings.

    A mixed model of the seeds with a random intercept for each setting has this line too: every setting has the same seeds.
    slope, low, high: macro AUC for 10 KID x 1,000; at_least, at_most: the settings' KID; at_zero_kid: the line there;
    crossing: the KID at which the line is zero, NaN outside the settings' range.
    """
    import statsmodels.formula.api as models

    settings = points[~points["images"].str.startswith(REAL)]
    fitted = models.ols("difference ~ kid", settings).fit()
    intercept, slope = fitted.params
    least, most, zero = settings["kid"].min(), settings["kid"].max(), -intercept / slope
    low, high = fitted.conf_int().loc["kid"]
    return pd.Series({
        "slope": 10 * slope, "low": 10 * low, "high": 10 * high, "at_least": least, "at_most": most,
        "at_zero_kid": intercept, "crossing": zero if least <= zero <= most else np.nan,
    })  # fmt: skip


def scarce(runs: Predictions) -> pd.DataFrame:
    """A row a share of the lesions and a kind of added images: share, kind, and the change of macro AUC against its control."""
    rows = [(share, kind) for share in SHARES for kind in (ALL, QUARTER, RIGHT) if kind == ALL or share in TESTED]
    found = _pairs(runs, {str(row): (named(*row, SYNTHETIC), named(*row, REPEATED)) for row in rows})
    asked = pd.DataFrame(rows, columns=["share", "kind"])
    return asked.join(found.drop(columns=["comparison", "network", "measure"]))


def design(runs: Predictions) -> pd.DataFrame:
    """Balanced accuracy by argmax in the paper's design: guidance, training_set, tested_on, mean, low, high.

    Tested on real images, on synthetic ones, and on both with half of the weight each. A gain is a set's on its test less
    the originals' on real images.
    """
    images, answers, rows = runs.images, runs.log_probabilities.argmax(axis=2), []
    splits = [split for split in images["split"].unique() if split != "test"]
    before = _recall(answers[runs.runs["training_set"] == ORIGINALS], images, "test")
    for name, own in runs.runs.groupby("training_set", sort=False):
        for split in splits if name == ORIGINALS else [split for split in splits if name.endswith(split)]:
            real, made = (_recall(answers[own.index], images, side) for side in ("test", split))
            tests = {"real": [(1, real)], "synthetic": [(1, made)], "both": [(0.5, real), (0.5, made)]}
            if name.startswith(f"{ORIGINALS} + "):
                tests |= {f"{GAIN} on {kind}": [*tests[kind], (-1, before)] for kind in ("real", "both")}
            for kind, parts in tests.items():
                found = inference.estimate(_sum(parts))
                rows.append((split.rsplit(maxsplit=1)[1], name, kind, found.difference, found.low, found.high))
    return pd.DataFrame(rows, columns=["guidance", "training_set", "tested_on", "mean", "low", "high"])


def _recall(answers: np.ndarray, images: pd.DataFrame, split: str) -> Contrast:
    shown = (images["split"] == split).to_numpy()
    lesions = inference.lesions_of(images[shown].reset_index(drop=True))
    return Contrast(*inference.mean_recall(answers[:, shown], images.loc[shown, "dx"], lesions), lesions.strata())


def _sum(parts: list[tuple[float, Contrast]]) -> Contrast:
    """The weighted sum of contrasts of the same seeds; those of as many lesions are of the same ones."""
    values, influence, strata, start = 0.0, {}, [], 0
    for weight, part in parts:
        size = part.influence.shape[1]
        if size not in influence:
            strata += [own + start for own in part.strata]
            start += size
        values, influence[size] = values + weight * part.values, influence.get(size, 0) + weight * part.influence
    return Contrast(values, np.hstack(list(influence.values())), strata)


def curve_plot(points: pd.DataFrame, fitted: pd.Series) -> Figure:
    """The change of macro AUC over KID: a marker a set of images with its interval, real ones green, and the line."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.0), layout="constrained")
    ax.axhline(0, color="#444444", lw=0.8)
    ends = fitted[["at_least", "at_most"]].to_numpy(float)
    ax.plot(
        ends,
        fitted["at_zero_kid"] + fitted["slope"] / 10 * ends,
        color="#332288",
        lw=1,
        ls="--",
        label="line of the generators",
    )
    for row, marker in zip(points.sort_values("kid").itertuples(), "osD^vP<X>*ph", strict=False):
        ends = [[row.difference - row.low], [row.high - row.difference]]
        colour = "#117733" if row.images.startswith(REAL) else "#332288"
        ax.errorbar(row.kid, row.difference, ends, fmt=marker, color=colour, ms=5, lw=0.8, label=row.images)
    ax.set(xlabel="KID × 1,000 to real test lesions", ylabel="change of macro AUC\nagainst repeated originals")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7)
    return figure


def sentences(space: Workspace) -> list[str]:
    """What TABLES of a results folder say; nothing where the runs were not read."""
    if not (space.tables / f"{TABLES[0]}.csv").is_file():
        return []
    points, fitted, few, own_kind = (space.table(name) for name in TABLES)
    fitted = fitted.iloc[0]
    count = (~points["images"].str.startswith(REAL)).sum()
    slope, low, high = (bound(fitted[name]) for name in ("slope", "low", "high"))
    crossing = "is not reached" if np.isnan(fitted["crossing"]) else f"is at KID {fitted['crossing']:.0f}"
    points = points.assign(images=points["images"] + points["kid"].map(" (KID {:.0f})".format))
    few = few.assign(share=few["share"].map("{:.0%} of the lesions".format))
    told = [
        f"What quality helps: {count} settings of generators have KID {fitted['at_least']:.0f} to {fitted['at_most']:.0f}. A KID "
        f"higher by 10 changes macro AUC by {slope} ({low} to {high}); the KID without a change {crossing} in this range.",
        f"Added to half of the lesions, against repeated originals: {changes(points, 'images')}.",
        *(f"Scarce data, {kind}: {changes(own, 'share')}." for kind, own in few.groupby("kind", sort=False)),
    ]
    named_alike = own_kind.assign(name=own_kind["training_set"].str.replace(r", guidance.*", "", regex=True))
    named_alike["guidance"] = "guidance " + named_alike["guidance"].astype(str)
    for (name, kind), own in named_alike.groupby(["name", "tested_on"], sort=False):
        if not kind.startswith(GAIN) and (name, kind) not in (
            (ORIGINALS, "real"),
            (SYNTHETIC, "real"),
            (SYNTHETIC, SYNTHETIC),
        ):
            continue
        own = own.iloc[:1].assign(guidance="any guidance") if (name, kind) == (ORIGINALS, "real") else own
        form, tested = ("+.3f", kind) if kind.startswith(GAIN) else (".2f", f"tested on {kind}")
        told.append(
            f"The paper's design, balanced accuracy, {name}, {tested}: {changes(own, 'guidance', 'mean', form)}."
        )
    return told
