"""What notebooks 08 and 09 show of their trials: learning curves, tables and sentences, and a classifier's gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score

from dermstudy import figures
from dermstudy.adaptation.teaching import BASELINE, Trial
from dermstudy.classification.fitting import fit_all
from dermstudy.classification.keras_network import ClassifierConfig, KerasNetwork
from dermstudy.classification.training_sets import ORIGINALS, Images, TrainingSet
from dermstudy.data.dataset import Cohort, open_synthetic
from dermstudy.diffusion import weights
from dermstudy.entities import COLOURS, NAMES
from dermstudy.evaluation import reference_classifier
from dermstudy.files import InputError, atomic_path
from dermstudy.intervals import clustered_bootstrap, paired_difference, wilson

REAL = "real test images"
GAIN = "Gain is the fall of KID with the middle 95 % over halves of images. The unadapted model has a KID of"
EXERCISED = "The method runs here on a small model. The authors' claim about a large pretrained one is not tested."
STILL = 0.1  # the share of the whole fall beyond which the last third of a curve still moves
LEAST = 0.001  # the share of the first loss that a fall has at least
FALLS, FLAT, RISES, NEVER = "falls", "flat", "rises", "no fall of a thousandth"
LINES = ("#332288", "#CC6677", "#117733", "#999933", "#88CCEE", "#AA4499", "#DDCC77")  # Paul Tol's "muted"


def met_sentence(start: str | Path, codes: Sequence[str]) -> str:
    """Whether the weights in `start` were trained on the entities `codes`, by "left_out" in the lineage beside them."""
    left_out = weights.lineage(Path(start).parent).get(Path(start).name, {}).get("left_out")
    if left_out is None:
        return "These weights do not say which entities their training left out: take them to have met these."
    new = [NAMES[code] for code in codes if code in left_out]
    met = [NAMES[code] for code in codes if code not in left_out]
    return f"The training of these weights left out {listed(new) or 'none'} and had images of {listed(met) or 'none'}."


def training_log(trials: Sequence[Trial]) -> pd.DataFrame:
    """The records of every trial that was trained: trial, step, loss, validation_loss, held_out; entity where alone."""
    return pd.concat([trial.log.assign(trial=trial.name) for trial in trials if trial.log is not None])


def last_third(log: pd.DataFrame) -> pd.DataFrame:
    """How each training of `log` stood over the last third of its steps: one row a trial, and entity where alone.

    Columns: first (held-out loss before training), lowest, before (at the record nearest to two thirds of the steps, the
    last record apart), last, and curve: FALLS or RISES where the loss moves from before to last by more than STILL of the
    whole fall from first to lowest, else FLAT; NEVER where that whole fall is under LEAST of first.
    """
    rows, keys = [], [name for name in ("trial", "entity") if name in log]
    for key, records in log.groupby(keys, sort=False):
        loss = records.set_index("step")["validation_loss"]
        turn = abs(loss.index[:-1] - 2 / 3 * loss.index[-1]).argmin()
        first, lowest, before, last = loss.iloc[0], loss.min(), loss.iloc[turn], loss.iloc[-1]
        whole, moved = first - lowest, before - last
        curve = FLAT if abs(moved) <= STILL * whole else FALLS if moved > 0 else RISES
        curve = NEVER if whole < LEAST * first else curve
        rows.append([*key, first, lowest, before, last, curve])
    return pd.DataFrame(rows, columns=[*keys, "first", "lowest", "before", "last", "curve"])


def learning_sentence(log: pd.DataFrame) -> str:
    """How many trainings of `log` still fall over their last third, are flat, rise or never fell."""
    counts = last_third(log)["curve"].value_counts().reindex([FALLS, FLAT, RISES, NEVER], fill_value=0)
    found = ", ".join(f"{curve}: {count}" for curve, count in counts.items())
    return f"Held-out loss over the last third of the steps, of {counts.sum()} trainings: {found}."


def learning_figure(log: pd.DataFrame) -> Figure:
    """Held-out loss by step as change from before training, a line a trial, a panel an entity that was taught alone."""
    panels = list(log.groupby("entity", sort=False)) if "entity" in log else [("all", log)]
    size = (figures.WIDTH, 2.6)
    figure, axes = plt.subplots(1, len(panels), squeeze=False, sharey=True, figsize=size)
    for ax, (code, records) in zip(axes[0], panels, strict=True):
        for (trial, curve), colour in zip(records.groupby("trial", sort=False), cycle(LINES), strict=False):
            change = 100 * (curve["validation_loss"] / curve["validation_loss"].iloc[0] - 1)
            ax.plot(curve["step"], change, ".-", lw=1.2, ms=4, color=colour, label=plain(trial))
        ax.axhline(0, color="#BBBBBB", lw=1)
        ax.axvspan(2 / 3 * records["step"].max(), records["step"].max(), color="#EEEEEE", zorder=0)
        title = f"{NAMES.get(code, 'both entities')}, n = {records['held_out'].max()} held out"
        ax.set(title=title, xlabel="step; shaded: the last third", xlim=(0, None))
    axes[0, 0].set_ylabel("held-out loss, change in %")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def overview_figure(overview: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Gain of KID of each trial in `overview`, and the caption fidelity by entity, with intervals.

    overview, table: as teaching.judged gives them. The red line is the most that there is to gain: the KID of BASELINE
    less that of real halves. Dashed lines are the shares of real test images that the same network names rightly.
    """
    heights = np.arange(len(overview))
    figure, axes = plt.subplots(1, 2, figsize=(figures.WIDTH, 0.8 + 0.28 * len(overview)), sharey=True)
    axes[0].hlines(heights, overview["gain_low"], overview["gain_high"], color="#88CCEE", lw=3)
    axes[0].plot(overview["gain"], heights, "o", color="#332288")
    axes[0].axvline(0, color="#BBBBBB", lw=1)
    axes[0].axvline(overview.loc[BASELINE, "kid"] - overview.loc[BASELINE, "floor"], color="#CC6677", lw=1)
    axes[0].set_yticks(heights, overview.index)
    codes = list(table["entity"].unique())
    for shift, code in zip(0.3 * (np.arange(len(codes)) - (len(codes) - 1) / 2), codes, strict=True):
        rows, colour = table[table["entity"] == code].set_index("trial").loc[overview.index], COLOURS[code]
        bounds = pd.DataFrame([wilson(int(row.named), int(row.n)) for row in rows.itertuples()])
        axes[1].hlines(heights + shift, bounds["low"], bounds["high"], color=colour, lw=2, alpha=0.5)
        axes[1].plot(bounds["share"], heights + shift, "o", ms=4, color=colour, label=NAMES[code])
        axes[1].axvline((rows["real_named"] / rows["real_n"]).iloc[0], color=colour, lw=1, ls="--")
    axes[0].set_xlabel("KID x 1,000 below the unadapted model's,\nmiddle 95 % of halves; red: all there is to gain")
    share = f"caption fidelity, n = {table['n'].max()} an entity, Wilson's 95 %;\ndashed: of real test images"
    axes[1].set(xlabel=share, ylim=(len(overview) - 0.5, -0.5), xlim=(-0.02, 1.02))
    axes[1].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(codes))
    return figure


def by_entity(table: pd.DataFrame) -> pd.DataFrame:
    """What teaching.judged found, one row a trial, a pair of columns an entity: caption fidelity, "3 of 8", and KID (x 1,000).

    The last row holds real test images: how many of them the same network names rightly, and the KID between halves.
    """
    columns = {}
    for code, rows in table.groupby("entity", sort=False):
        rows, name = rows.set_index("trial"), NAMES[code]
        first = rows.iloc[0]
        named = {row.Index: f"{row.named} of {row.n}" for row in rows.itertuples()}
        columns[f"{name}, caption fidelity"] = named | {REAL: f"{first['real_named']} of {first['real_n']}"}
        columns[f"{name}, KID"] = rows["kid"].round(1).to_dict() | {REAL: round(float(first["floor"]), 1)}
    return pd.DataFrame(columns).rename_axis("trial")


def fidelity_sentences(table: pd.DataFrame, taught: Sequence[str]) -> str:
    """A line an entity: caption fidelity before training, of the best of `taught`, and of real images."""
    lines = []
    for code, rows in table.groupby("entity", sort=False):
        rows = rows.set_index("trial")
        before, best = rows.loc[BASELINE], rows.loc[list(taught)].nlargest(1, "named").iloc[0]
        lines.append(
            f"{NAMES[code].capitalize()}, images that the reference classifier gives their entity: {before['named']} of "
            f"{before['n']} before training, at most {best['named']} of {best['n']} after it ({plain(best.name)}), and "
            f"{best['real_named']} of {best['real_n']} real test images."
        )
    return "\n".join(lines)


def nearer_sentences(trials: pd.DataFrame, what: str) -> str:
    """Which of `trials` are shown to bring images closer to real ones than the unadapted model's, and which farther away.

    trials: index names; columns kid, gain, gain_low, gain_high; without the unadapted model. what: a trial, in words. A gain
    of KID counts as shown where its whole interval lies above zero. ValueError for no trial.
    """
    gains = {
        row.Index: f"{plain(row.Index)} (gain {row.gain:z.0f}, {row.gain_low:z.0f} to {row.gain_high:z.0f})"
        for row in trials.itertuples()
    }
    helped, farther = trials[trials["gain_low"] > 0], trials.index[trials["gain_high"] < 0]
    lowest = trials["kid"].idxmin()
    if helped.empty:
        best = gains[trials["gain"].idxmax()]
        said = [f"No {what} is shown to bring images closer to real ones. The best result is {best}."]
    else:
        order = helped["gain"].sort_values(ascending=False, kind="stable").index
        said = [f"Closer to real images by KID: {listed([gains[name] for name in order])}."]
        if lowest not in order:
            said.append(f"The lowest KID is that of {gains[lowest]}, but its interval holds zero.")
    return " ".join(said + [f"Farther away: {listed([gains[name] for name in farther])}."] * bool(len(farther)))


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


def chosen(trials: pd.DataFrame) -> str:
    """The trial with the largest gain among those whose interval lies above zero, or among all where there is none.

    trials: rows of teaching.overview that were taught. ValueError for none.
    """
    helped = trials[trials["gain_low"] > 0]
    return (trials if helped.empty else helped)["gain"].idxmax()


def chosen_sentence(trials: pd.DataFrame) -> str:
    """Which of `trials` the notebook goes on with, and that the test lesions that judge it also chose it."""
    best = trials.loc[chosen(trials)]
    gain = f"{best['gain']:.0f}, {best['gain_low']:.0f} to {best['gain_high']:.0f}"
    return f"Exploratory, chosen by the test lesions that also judge it: {plain(best.name)} (gain of KID {gain})."


def interpolated(
    strips: Mapping[str, Sequence[np.ndarray]], shares: Sequence[float], codes: Sequence[str], folder: Path
) -> pd.DataFrame:
    """What the reference classifier in `folder` sees along each strip: the mean probability of each of `codes`.

    strips: by way, uint8 images [n, side, side, 3] at each of `shares`. Columns way, share, n and an entity code each.
    """
    rows = []
    for way, strip in strips.items():
        for share, images in zip(shares, strip, strict=True):
            seen = reference_classifier.probabilities(folder, images)[list(codes)].mean()
            rows.append({"way": way, "share": share, "n": len(images), **seen})
    return pd.DataFrame(rows)


def as_cohort(images: Mapping[str, np.ndarray], folder: Path) -> Cohort:
    """Painted images as a synthetic dataset on disk, so that a classifier reads them as it reads the originals."""
    rows = []
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        for code, pixels in images.items():
            for number, image in enumerate(pixels):
                name = f"adapted_{code}_{number}"
                Image.fromarray(image).save(temporary / f"{name}.png")
                rows.append((name, code, f"{name}.png", NAMES[code], "", number))
        columns = ["image_id", "dx", "file", "caption", "source_image_id", "seed"]
        pd.DataFrame(rows, columns=columns).to_csv(temporary / "index.csv", index=False)
    return open_synthetic(folder)


def downstream_sets(cohort: Cohort, few: Cohort, synthetic: Cohort) -> tuple[Images, dict[str, TrainingSet]]:
    """Telling two entities apart from real images (`few`), real and synthetic, synthetic only; tested on test lesions.

    The images too, which a network is trained on with these sets.
    """
    made = replace(synthetic, frame=synthetic.frame.assign(group=synthetic.frame["image_id"], split="train"))
    images = Images(cohort, {"adapted": replace(made, frame=made.frame.drop(columns="source_image_id"))})
    real, painted = images.rows(ORIGINALS), images.rows("adapted")
    of_pair = real[real["dx"].isin(few.frame["dx"])]
    held = [of_pair[of_pair["split"] == split] for split in ("validation", "test")]
    taught = real.set_index("image_id", drop=False).loc[few.frame["image_id"]]
    train = {"real": [taught], "real and synthetic": [taught, painted], "synthetic only": [painted]}
    return images, {
        name: TrainingSet("audited", name, pd.concat(parts, ignore_index=True), *held) for name, parts in train.items()
    }


def trained_answers(
    images: Images, sets: Mapping[str, TrainingSet], config: ClassifierConfig, seeds: Sequence[int], folder: Path
) -> tuple[dict[str, list[pd.DataFrame]], list[int]]:
    """The CNN's answers to the test images by set, a frame a seed, and the seeds that failed in no set.

    A line for each run that failed; InputError where no seed is left.
    """
    runs = fit_all(KerasNetwork(images, config, folder), sets, seeds)
    failed = {seed: [name for name in sets if not runs[name][at][0].sound.all()] for at, seed in enumerate(seeds)}
    for seed, names in failed.items():
        print(
            *(f"failed, so its seed is left out of every set: {name}, seed {seed}\n" for name in names), sep="", end=""
        )
    kept = [at for at, seed in enumerate(seeds) if not failed[seed]]
    if not kept:
        raise InputError("no seed was trained to its end in every set: give more SEEDS")
    return {name: [runs[name][at][0].frame(0) for at in kept] for name in sets}, [seeds[at] for at in kept]


def pair_area(predictions: pd.DataFrame) -> float:
    """The area under the ROC curve for telling the second entity of a pair from the first, by the network's two shares."""
    first, second = sorted(predictions["dx"].unique())
    share = predictions[second] / (predictions[first] + predictions[second]).clip(lower=1e-12)
    return float(roc_auc_score(predictions["dx"] == second, share))


def pair_areas(answers: Mapping[str, list[pd.DataFrame]], repeats: int, seed: int) -> pd.DataFrame:
    """`pair_area` by training set, the mean over seeds, and its gain over the first one's, with 95 % intervals.

    answers: the predictions of each training seed, over the same test images. Columns: training, auc, low, high, gain,
    gain_low, gain_high, and what was resampled, for the gain pairwise: lesions (of so many images) and seeds.
    """
    rows, reference = [], next(iter(answers.values()))
    for name, seeds in answers.items():
        low, high = clustered_bootstrap(seeds, pair_area, repeats, seed)
        gain = paired_difference(seeds, reference, pair_area, repeats, seed)
        row = {"training": name, "auc": np.mean([pair_area(one) for one in seeds]), "low": low, "high": high}
        row |= {"gain": gain["difference"], "gain_low": gain["low"], "gain_high": gain["high"]}
        rows.append(row | {"images": len(seeds[0]), "lesions": seeds[0]["group"].nunique(), "seeds": len(seeds)})
    return pd.DataFrame(rows)


def areas_figure(areas: pd.DataFrame, first: str, second: str) -> Figure:
    """The table of `pair_areas`; first, second: the names of the two entities; the second is told from the first."""
    row = areas.iloc[0]
    figure, ax = plt.subplots(figsize=(figures.WIDTH * 0.7, 1.6))
    figures.intervals(ax, areas, "training", "auc")
    ax.axvline(0.5, color="#BBBBBB", lw=1)
    over = f"{row['lesions']} test lesions and {row['seeds']} seed(s)"
    ax.set_xlabel(f"AUC, {second} against {first}, n = {row['images']} images;\n95 % interval over {over}")
    return figure
