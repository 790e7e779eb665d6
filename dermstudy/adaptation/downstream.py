"""What a taught model is good for: a classifier trained on its images, places repainted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score

from dermstudy import figures
from dermstudy.adaptation.teaching import Sampling, Trial
from dermstudy.classification.training_sets import TrainingSet
from dermstudy.data.dataset import Cohort, open_synthetic
from dermstudy.entities import NAMES
from dermstudy.evaluation import reference_classifier
from dermstudy.files import atomic_path
from dermstudy.intervals import clustered_bootstrap, paired_difference

DOWNSTREAM = ("real", "real and synthetic", "synthetic only")


def as_cohort(images: Mapping[str, np.ndarray], folder: Path) -> Cohort:
    """Painted images as a synthetic dataset on disk, so that a classifier reads them as it reads the originals."""
    rows = []
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        for code, pixels in images.items():
            for place, image in enumerate(pixels):
                name = f"adapted_{code}_{place}"
                Image.fromarray(image).save(temporary / f"{name}.png")
                rows.append((name, code, f"{name}.png", NAMES[code], "", place))
        columns = ["image_id", "dx", "file", "caption", "source_image_id", "seed"]
        pd.DataFrame(rows, columns=columns).to_csv(temporary / "index.csv", index=False)
    return open_synthetic(folder)


def downstream_sets(cohort: Cohort, few: Cohort, synthetic: Cohort) -> dict[str, TrainingSet]:
    """Telling two entities apart from real images (`few`), real and synthetic, synthetic only; tested on test lesions."""
    pair = list(few.frame["dx"].unique())
    held = [cohort.select(split=split, dx=pair) for split in ("validation", "test")]
    made = Cohort(
        synthetic.name, synthetic.root, synthetic.frame.assign(group=synthetic.frame["image_id"]), synthetic.data_hash
    )
    train = {DOWNSTREAM[0]: [few], DOWNSTREAM[1]: [few, made], DOWNSTREAM[2]: [made]}
    return {name: TrainingSet("audited", name, parts, [held[0]], [held[1]]) for name, parts in train.items()}


def pair_area(predictions: pd.DataFrame) -> float:
    """The area under the ROC curve for telling the second entity of a pair from the first, from the network's two shares."""
    first, second = sorted(predictions["dx"].unique())
    share = predictions[second] / (predictions[first] + predictions[second]).clip(lower=1e-12)
    return float(roc_auc_score(predictions["dx"] == second, share))


def pair_areas(answers: Mapping[str, list[pd.DataFrame]], repeats: int, seed: int) -> pd.DataFrame:
    """`pair_area` by training set, the mean over seeds, and its gain over the first one's, with 95 % intervals.

    answers: the predictions of each training seed, over the same test images. Columns: training, auc, low, high, gain,
    gain_low, gain_high, and what was resampled, for the gain pairwise: lesions (of so many images) and seeds.
    """
    rows, reference = [], next(iter(answers.values()))
    for name, own in answers.items():
        low, high = clustered_bootstrap(own, pair_area, repeats, seed)
        gain = paired_difference(own, reference, pair_area, repeats, seed)
        row = {"training": name, "auc": float(np.mean([pair_area(one) for one in own])), "low": low, "high": high}
        row |= {"gain": gain["difference"], "gain_low": gain["low"], "gain_high": gain["high"]}
        rows.append(row | {"images": len(own[0]), "lesions": own[0]["group"].nunique(), "seeds": len(own)})
    return pd.DataFrame(rows)


def seed_areas(answers: Mapping[str, list[pd.DataFrame]], seeds: Sequence[int]) -> pd.DataFrame:
    """`pair_area` of each single network: columns training, seed, auc. answers: as for `pair_areas`, in the order of `seeds`."""
    rows = [
        {"training": name, "seed": seed, "auc": pair_area(one)}
        for name, own in answers.items()
        for seed, one in zip(seeds, own, strict=True)
    ]
    return pd.DataFrame(rows)


def areas_figure(areas: pd.DataFrame, by_seed: pd.DataFrame, first: str, second: str) -> Figure:
    """Areas with intervals from `pair_areas`, each seed of `seed_areas` a dot where there are several.

    first, second: the names of the two entities; the second is told from the first.
    """
    row = areas.iloc[0]
    several = row["seeds"] > 1
    figure, ax = plt.subplots(figsize=(figures.WIDTH * 0.7, 1.6))
    figures.intervals(ax, areas, "training", "auc", by_seed if several else None)
    ax.axvline(0.5, color="#BBBBBB", lw=1)
    over = f"{row['lesions']} test lesions" + (f" and {row['seeds']} seeds (small dots)" if several else ", one seed")
    ax.set_xlabel(f"AUC, {second} against {first}, n = {row['images']} images;\n95 % interval over {over}")
    return figure


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


def interpolation_figure(steps: pd.DataFrame, code: str) -> Figure:
    """The probability of entity `code` by its share, a curve a way; steps: as `interpolated` gives them."""
    figure, ax = plt.subplots(figsize=(figures.WIDTH * 0.6, 2.2))
    for (way, own), colour in zip(steps.groupby("way"), ("#332288", "#CC6677"), strict=True):
        ax.plot(own["share"], own[code], "o-", color=colour, label=way)
    ax.set(
        xlabel=f"share of {NAMES[code]}", ylabel=f"its probability,\nmean of n = {steps['n'].max()} images", ylim=(0, 1)
    )
    ax.legend()
    return figure


def repainted(
    trial: Trial, code: str, skin_images: np.ndarray, sampling: Sampling, radius: float = 0.3
) -> tuple[np.ndarray, pd.DataFrame]:
    """A lesion of `code` painted into a disc in the middle of each image, and what that changed.

    skin_images: uint8 [n, side, side, 3] at the model's side. Returns the images and one row each: mean absolute change
    inside and outside the disc (levels of 256).
    """
    side = skin_images.shape[1]
    places = (np.arange(side) + 0.5) / side - 0.5
    inside = np.hypot(*np.meshgrid(places, places)) < radius
    settings = sampling.of(trial.model, len(skin_images)) | {"inpaint_image": skin_images, "inpaint_keep": ~inside}
    result = trial.model([trial.captions[code]] * len(skin_images), **settings)
    change = np.abs(result.astype(int) - skin_images).mean(axis=3)
    return result, pd.DataFrame({"inside": change[:, inside].mean(axis=1), "outside": change[:, ~inside].mean(axis=1)})
