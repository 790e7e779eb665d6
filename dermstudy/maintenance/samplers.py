"""How glide-mini's sampler was chosen on validation lesions, and how its weights are packed to ship.

`python -m dermstudy.maintenance.samplers samplers` follows notebooks 01 and 02 of the ham10000 profile, and
`python -m dermstudy.maintenance.samplers pack weights/glide-mini` follows 03 and 04. Test lesions have no part in it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dermstudy import figures, workspace
from dermstudy.data import dataset
from dermstudy.diffusion import glide, sample, schedules
from dermstudy.diffusion.identity import identity
from dermstudy.evaluation import encoders, metrics, reference_classifier
from dermstudy.files import atomic_path, code_hash, sha256_text
from dermstudy.intervals import quantiles
from dermstudy.maintenance import packing
from dermstudy.maintenance.commands import answered
from dermstudy.runner import study

STEPS = (("dpm-solver", "5"), ("dpm-solver", "10"), ("dpm-solver", "25"))
SCALES = (1.0, 2.0, 3.0, 4.0, 8.0)
UPSAMPLER_STEPS = (("ancestral", "fast27"), ("dpm-solver", "4"), ("dpm-solver", "8"), ("dpm-solver", "15"))
TRIAL = ("dpm-solver", "15")  # the sampler of the guidance comparison


@dataclass(frozen=True)
class Reference:
    """Validation images that samples are compared with, and the captions that the samples take."""

    features: np.ndarray  # [n, 2048]
    rows: pd.DataFrame  # the images whose captions are sampled


def reference(cohort: dataset.Cohort, cache: Path, count: int, side: int) -> Reference:
    """Validation images dealt over the entities, three times `count` where there are as many; each third lends its caption."""
    validation = cohort.select(split="validation")
    chosen = validation.select(image_id=dataset.spread(validation.frame, 3 * count)["image_id"])
    rows = chosen.frame.sort_values(["dx", "image_id"]).iloc[:: max(1, len(chosen) // count)].head(count)
    return Reference(encoders.encode(chosen, cache, side=side), rows)


def base_samples(model, rows: pd.DataFrame, folder: Path, sampler: tuple[str, str], scale: float) -> np.ndarray:
    """One 64 x 64 image for each row's caption, uint8 [n, 64, 64, 3]; kept in `folder`, so that a cut run goes on."""
    model.scheduler = schedules.sampler_from(model.scheduler, sampler[0])
    seeds, captions = sample.seeds_for(rows["image_id"], 0), rows["caption"].tolist()

    def paint() -> np.ndarray:
        parts = []
        for start in range(0, len(rows), 35):
            part = slice(start, start + 35)
            parts.append(model(captions[part], guidance_scale=scale, num_inference_steps=sampler[1], seeds=seeds[part]))
        return np.concatenate(parts)

    made_by = [identity(model), code_hash(base_samples), captions, seeds, sampler, scale]
    return _kept(folder, f"{sampler[0]}-{sampler[1]}-{scale:g}-{len(rows)}", made_by, paint)


def _kept(folder: Path, name: str, made_by: list, paint: Callable[[], np.ndarray]) -> np.ndarray:
    """The images in `folder` under `name` and the hash of all that makes them, painted where they are not there."""
    path = folder / f"{name}-{sha256_text(repr(made_by))[:16]}.npy"
    if not path.is_file():
        images = paint()
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.save(stream, images)
        print(f"{path.stem}: {len(images)} images", flush=True)
    return np.load(path)


def paired_kid(first: np.ndarray, second: np.ndarray, real: np.ndarray, repeats: int = 200) -> dict[str, float]:
    """KID of `first`, and its ratio to the KID of `second`, with the middle 95 % over half-size subsamples.

    Both feature sets [n, d] come from the same captions and seeds; a subsample takes the same rows of both.
    """
    random, ratios = np.random.default_rng(0), []
    for _ in range(repeats):
        rows = random.permutation(len(first))[: len(first) // 2]
        against = real[random.permutation(len(real))[: len(rows)]]
        ratios.append(metrics.kid(first[rows], against) / metrics.kid(second[rows], against))
    low, high = quantiles(ratios)
    own, other = metrics.kid(first, real), metrics.kid(second, real)
    return {"kid": own, "ratio": own / other, "ratio_low": low, "ratio_high": high}


def guidance_table(
    model, against: Reference, folder: Path, reference_folder: Path, sampler: tuple[str, str]
) -> pd.DataFrame:
    """One row a guidance scale: KID, precision and recall against validation images, and condition fidelity.

    The fidelity is the share of images in which the reference classifier names the entity asked for, the mean of the entities.
    """
    rows = []
    for scale in SCALES:
        images = base_samples(model, against.rows, folder, sampler, scale)
        features = _features(images)
        asked = against.rows["dx"].reset_index(drop=True)
        right = asked == reference_classifier.named(reference_folder, images)
        precision, recall = metrics.precision_recall(features, against.features)
        rows.append(
            {
                "guidance_scale": scale,
                "n": len(images),
                "kid": metrics.kid(features, against.features),
                "precision": precision,
                "recall": recall,
                "condition_fidelity": right.groupby(asked).mean().mean(),
            }
        )
    return pd.DataFrame(rows)


def guidance_figure(table: pd.DataFrame) -> Figure:
    """KID, recall and condition fidelity of `guidance_table` against the guidance scale."""
    figures.use_style()
    figure, axes = plt.subplots(1, 3, figsize=(figures.WIDTH, 2.0))
    shown = {"kid": "KID x 1,000", "recall": "recall", "condition_fidelity": "condition fidelity"}
    for ax, (column, label) in zip(axes, shown.items(), strict=True):
        ax.plot(table["guidance_scale"], table[column], "o-", color="#332288", clip_on=False)
        ax.set(xlabel="guidance scale", title=label, ylim=(0, None if column == "kid" else 1))
    figure.tight_layout()
    return figure


def steps_table(model, against: Reference, folder: Path, scale: float, ancestral: int) -> pd.DataFrame:
    """One row a sampler and number of steps: KID, and its ratio to that of `ancestral` steps of upstream's sampler.

    All are sampled from the same captions and seeds.
    """
    last = ("ancestral", str(ancestral))
    many = _features(base_samples(model, against.rows, folder, last, scale))
    rows = []
    for sampler in (*STEPS, last):
        own = _features(base_samples(model, against.rows, folder, sampler, scale))
        rows.append({"sampler": sampler[0], "steps": sampler[1], "guidance_scale": scale, "n": len(own)})
        rows[-1] |= paired_kid(own, many, against.features)
    return pd.DataFrame(rows)


def upsampler_table(model, small: np.ndarray, rows: pd.DataFrame, real: np.ndarray, folder: Path) -> pd.DataFrame:
    """As steps_table, for the upsampler: `small` uint8 [n, 64, 64, 3] enlarged by each of UPSAMPLER_STEPS.

    The first is the reference; bicubic enlargement stands last. real: features of validation images at 256 pixels.
    """
    seeds, captions, features = sample.seeds_for(rows["image_id"], 0), rows["caption"].tolist(), {}
    for sampler in UPSAMPLER_STEPS:
        model.scheduler = schedules.sampler_from(model.scheduler, sampler[0])
        paint = partial(sample.enlarged, model, small, captions, seeds, sampler[1])
        code = code_hash(sample.enlarged, sample.upsample_seeds)
        made_by = [identity(model), code, hashlib.sha256(small.tobytes()).hexdigest(), captions, seeds, sampler]
        images = _kept(folder, f"upsampler-{sampler[0]}-{sampler[1]}-{len(rows)}", made_by, paint)
        features[sampler] = _features(images)
    features["bicubic", "-"] = _features(sample.bicubic(small, 4 * small.shape[1]))
    table = [
        {"sampler": name, "steps": steps, "n": len(own), **paired_kid(own, features[UPSAMPLER_STEPS[0]], real)}
        for (name, steps), own in features.items()
    ]
    return pd.DataFrame(table)


def fewest_steps(table: pd.DataFrame, margin: float = packing.MARGIN) -> str:
    """The fewest DPM-Solver++ steps whose KID is at most 1 + margin times the reference's; the most tried if none is."""
    solver = table[table["sampler"] == "dpm-solver"]
    equal = solver[solver["ratio"] <= 1 + margin]
    return str((equal if len(equal) else solver.tail(1))["steps"].iloc[0])


def choose_samplers(
    space: workspace.Workspace,
    count: int,
    reference_steps: int,
    scale: float | None = None,
    ancestral: int = 250,
    precision: str = "fp32",
) -> None:
    """Fill tables/mini_guidance.csv, mini_steps.csv and mini_upsampler_steps.csv of `space` from validation lesions."""
    cohort = dataset.open_cohort(space.need("cohort", made_by="00_dataset"))
    base = glide.load(space.need("glide_base", made_by="01_finetune"))
    upsampler = glide.load(space.need("glide_upsampler", made_by="02_upsample"), glide.GlideUpsamplePipeline)
    for model in (base, upsampler):
        model.set_progress_bar_config(disable=True)
        glide.cast(model, precision)
    folder = space.out("samplers")
    folder.mkdir(exist_ok=True)
    small = reference(cohort, space.out("features"), count, base.side)
    accuracy = reference_classifier.train(
        cohort.select(split="train"),
        cohort.select(split="validation"),
        space.out("reference_classifier"),
        reference_steps,
    )
    print(f"reference classifier: balanced accuracy {accuracy:.2f} on validation lesions", flush=True)
    guidance = guidance_table(base, small, folder, space.out("reference_classifier"), TRIAL)
    space.save_table(guidance, "mini_guidance")
    space.save_figure(guidance_figure(guidance), "mini_guidance")
    print(guidance.round(3).to_string(index=False), flush=True)
    scale = scale or float(guidance.loc[guidance["kid"].idxmin(), "guidance_scale"])
    steps = space.save_table(steps_table(base, small, folder, scale, ancestral), "mini_steps")
    print(steps.round(3).to_string(index=False), flush=True)
    painted = base_samples(base, small.rows, folder, ("dpm-solver", fewest_steps(steps)), scale)
    large = reference(cohort, space.out("features"), count, upsampler.side)
    half = slice(None, None, 2)
    table = upsampler_table(upsampler, painted[half], small.rows.iloc[half], large.features, folder)
    space.save_table(table, "mini_upsampler_steps")
    print(table.round(3).to_string(index=False), flush=True)


def _features(images: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [encoders.fid_inception_features(part) for part in np.array_split(images, -(-len(images) // 14))]
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dermstudy.maintenance.samplers", description=__doc__.split("\n\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    samplers = commands.add_parser("samplers", help="guidance scale and steps compared on validation lesions")
    samplers.add_argument("--count", type=int, default=140, help="images a setting (default 140)")
    samplers.add_argument(
        "--reference-steps", type=int, default=2000, help="as notebook 04's REFERENCE_STEPS (default 2000)"
    )
    samplers.add_argument("--scale", type=float, help="guidance scale of the step comparison (default: the lowest KID)")
    samplers.add_argument("--ancestral", type=int, default=250, help="steps of the reference (default 250)")
    samplers.add_argument("--precision", choices=list(glide.PRECISIONS), default="fp32", help="default fp32")
    pack = commands.add_parser("pack", help="the weights, the split, the tables and the model card as one folder")
    pack.add_argument("out")
    for command in (samplers, pack):
        command.add_argument("--results", default="results/ham10000", help="default results/ham10000")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    space = workspace.open_workspace(options.results)
    with study.locked(space):
        if options.command == "samplers":
            choose_samplers(
                space, options.count, options.reference_steps, options.scale, options.ancestral, options.precision
            )
        else:
            packing.pack(space, Path(options.out))


if __name__ == "__main__":
    sys.exit(main())
