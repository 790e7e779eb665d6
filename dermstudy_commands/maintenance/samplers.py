"""How glide-mini's sampler was chosen on validation lesions: `python -m dermstudy_commands.maintenance.samplers --data DIR`.

Settings are compared at 256 pixels, end to end, stored as the originals are. The rule, fixed beforehand: guidance by the
lowest KID; then the fewest steps of the base, and of the upsampler, whose KID is at most MARGIN above the lowest of its
comparison. Then, of as many images as there are lesions for, three candidates: what was chosen, the same with the guidance
that came second, and the same with the most steps; of them again the fewest steps within MARGIN of the lowest. Test lesions
have no part in it. Fills tables/samplers.csv and lineage.json in the folder of weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dermstudy import figures, workspace
from dermstudy.data.storage import storage_of
from dermstudy.diffusion import glide, sample, weights
from dermstudy.entities import CODES, NAMES
from dermstudy.evaluation import cascade, encoders, metrics
from dermstudy.files import answered, atomic_path, sha256_text, write_text
from dermstudy.source import code_hash
from dermstudy.weight_files import drop_checksums
from dermstudy_commands.maintenance.commands import of_weights, split_cohort, write_table

TABLE = "samplers.csv"
MARGIN = 0.1  # the share of the lowest KID within which fewer steps count as equal
SAMPLER = "dpm-solver"
GUIDANCE, BASE, UPSAMPLER = "guidance", "base steps", "upsampler steps"  # the comparisons, in their order
FINE = "candidates"  # the last comparison, of more images


@dataclass(frozen=True)
class Setting:
    """How an image is sampled."""

    guidance_scale: float
    least_noise: float  # guidance acts from here
    largest_noise: float  # to here
    base_steps: int
    upsampler_steps: int

    @property
    def interval(self) -> tuple[float, float]:
        """The noise at which guidance acts."""
        return self.least_noise, self.largest_noise


START = Setting(1.0, *glide.EVERYWHERE, base_steps=20, upsampler_steps=6)
CLASSIFIER_FREE = (  # scale, least and largest noise
    *((scale, *glide.EVERYWHERE) for scale in (1.0, 2.0, 3.0, 4.0, 6.0)), (4.0, 0.3, 20.0), (6.0, 0.3, 20.0),
)  # fmt: skip
BY_GUIDE = (  # whose answers differ from the own ones mostly where detail is decided
    *((scale, *glide.EVERYWHERE) for scale in (1.0, 1.5, 2.0)), *((scale, 0.0, 1.0) for scale in (1.5, 2.0, 2.5)),
    (2.0, 0.0, 3.0),
)  # fmt: skip
STEPS = {BASE: (8, 12, 20), UPSAMPLER: (4, 6, 10)}


def compare(
    base, upsampler, parts: cascade.Sides, more: cascade.Sides, folder: Path, encode: cascade.Encode,
    start: Setting = START, guidance: Sequence[tuple[float, float, float]] = CLASSIFIER_FREE,
) -> pd.DataFrame:  # fmt: skip
    """One row a setting: comparison, the setting, n, kid, low, high, precision, recall, chosen.

    parts: validation images on two sides; captions and seeds are those of the side that is enlarged. more: the same of more
    images, for the last comparison. folder: keeps painted images, so that a cut run goes on. encode: images to features.
    guidance: scale, least and largest noise of each setting of the first comparison.
    """
    measure = measures(base, upsampler, parts, folder, encode)
    settings = [replace(start, guidance_scale=s, least_noise=low, largest_noise=high) for s, low, high in guidance]
    rows = [{"comparison": GUIDANCE} | measure(setting) for setting in settings]
    best = settings[_choose(rows, [row["kid"] for row in rows], 0.0)]
    second = min((row["kid"], place) for place, row in enumerate(rows) if not row["chosen"])[1]
    guided = settings[second]
    for name, steps in STEPS.items():
        column = "base_steps" if name == BASE else "upsampler_steps"
        settings = [replace(best, **{column: count}) for count in steps]
        own = [{"comparison": name} | measure(setting) for setting in settings]
        best = settings[_choose(own, [row["kid"] for row in own], MARGIN)]
        rows += own
    few = [best, replace(guided, base_steps=best.base_steps, upsampler_steps=best.upsampler_steps)]
    most = replace(best, base_steps=max(STEPS[BASE]), upsampler_steps=max(STEPS[UPSAMPLER]))
    measure = measures(base, upsampler, more, folder, encode)
    own = sorted(({"comparison": FINE} | measure(setting) for setting in few), key=lambda row: row["kid"])
    own.append({"comparison": FINE} | measure(most))
    _choose(own, [row["kid"] for row in own], MARGIN)
    return pd.DataFrame(rows + own)


def _choose(rows: list[dict], kids: list[float], margin: float) -> int:
    """The first row whose KID is at most 1 + `margin` times the lowest; every row is marked."""
    place = next(index for index, kid in enumerate(kids) if kid <= min(kids) + margin * abs(min(kids)))
    for index, row in enumerate(rows):
        row["chosen"] = index == place
    return place


def measures(base, upsampler, parts, folder, encode) -> Callable[[Setting], dict]:
    """A function that measures a setting, each once."""
    frame, stored = parts.enlarged.frame, storage_of(parts.compared)
    seeds, captions = sample.seeds_for(frame["image_id"], 0), frame["caption"].tolist()
    real = cascade.encoded(parts.compared.images(upsampler.side), encode)
    known: dict[Setting, dict] = {}

    def measured(setting: Setting) -> dict:
        if setting not in known:
            options = {"guidance_interval": setting.interval}
            asked = [glide.identity(base), captions, seeds, *astuple(setting)[:-1]]
            small = _kept(
                folder, "small", [code_hash(cascade.__name__), *asked],
                lambda: cascade.painted(base, frame, setting.base_steps, setting.guidance_scale, 0, **options),
            )  # fmt: skip
            digest = hashlib.sha256(small.tobytes()).hexdigest()
            seen = [glide.identity(upsampler), digest, captions, setting.upsampler_steps]
            large = _kept(
                folder, "large", [code_hash(sample.__name__), *seen],
                lambda: sample.enlarged(upsampler, small, captions, seeds, setting.upsampler_steps),
            )  # fmt: skip
            features = cascade.encoded(stored.stored(large), encode)
            precision, recall = metrics.precision_recall(features, real)
            known[setting] = cascade.against(features, real) | {"precision": precision, "recall": recall}
            print(json.dumps(asdict(setting) | known[setting]), flush=True)
        return asdict(setting) | known[setting]

    return measured


def _kept(folder: Path, name: str, made_by: list, paint: Callable[[], np.ndarray]) -> np.ndarray:
    """The images in `folder` under the hash of all that makes them, painted where they are not there."""
    path = folder / f"{name}-{sha256_text(repr(made_by))[:16]}.npy"
    if not path.is_file():
        images = paint()
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.save(stream, images)
    return np.load(path)


def figure(table: pd.DataFrame) -> Figure:
    """KID with interval, precision and recall of every setting of `compare`; the chosen of each comparison filled."""
    figures.use_style()
    drawn, axes = plt.subplots(1, 2, figsize=(figures.WIDTH, 0.25 * len(table) + 0.8), sharey=True)
    place = np.arange(len(table))
    axes[0].hlines(place, table["low"], table["high"], color="#88CCEE", lw=3)
    filled = np.where(table["chosen"], "#332288", "white")
    axes[0].scatter(table["kid"], place, color=filled, edgecolor="#332288", zorder=3)
    axes[0].set(xlabel="KID x 1,000, validation lesions", ylim=(len(table) - 0.5, -0.5))
    axes[0].set_yticks(place, [_label(row) for row in table.itertuples()])
    for column, colour in (("precision", "#117733"), ("recall", "#CC6677")):
        axes[1].plot(table[column], place, "o", color=colour, label=column)
    axes[1].set(xlim=(0, 1), xlabel="share")
    axes[1].legend(loc="best")
    drawn.tight_layout()
    return drawn


def _label(row) -> str:
    if row.comparison == FINE:
        return f"{_guidance(row)}, {row.base_steps} + {row.upsampler_steps} steps, n = {row.n}"
    if row.comparison == GUIDANCE:
        return _guidance(row)
    return f"{row.base_steps} base steps" if row.comparison == BASE else f"{row.upsampler_steps} upsampler steps"


def _guidance(row) -> str:
    where = "" if np.isinf(row.largest_noise) else f" at noise {row.least_noise:g} to {row.largest_noise:g}"
    return f"guidance {row.guidance_scale:g}{where}"


def sampling_of(table: pd.DataFrame) -> dict:
    """The parameters of notebook 03 that the last chosen row of `compare` stands for."""
    row = table[table["chosen"]].iloc[-1]
    everywhere = row["guidance_scale"] == 1.0 or (row["least_noise"], row["largest_noise"]) == glide.EVERYWHERE
    return {
        "GUIDANCE_SCALE": float(row["guidance_scale"]),
        "GUIDANCE_INTERVAL": [] if everywhere else [float(row["least_noise"]), float(row["largest_noise"])],
        "SAMPLER": SAMPLER,
        "BASE_STEPS": str(row["base_steps"]),
        "UPSAMPLE_STEPS": str(row["upsampler_steps"]),
    }


def image_counts(frame: pd.DataFrame) -> pd.DataFrame:
    """Images by entity (rows, by name) and split."""
    counts = pd.crosstab(frame["dx"], frame["split"]).reindex(CODES)
    return counts.rename(index=NAMES).rename_axis("entity")[["train", "validation", "test"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = of_weights("dermstudy_commands.maintenance.samplers", __doc__, "base/ and upsampler/")
    parser.add_argument("--count", type=int, default=150, help="images a setting, at most (default 150)")
    parser.add_argument("--more", type=int, default=500, help="images a candidate at the end, at most (default 500)")
    parser.add_argument(
        "--precision", choices=glide.PRECISIONS, default="bf16", help="of the arithmetic (default bf16)"
    )
    parser.add_argument("--cache", type=Path, default=Path("build/samplers"), help="painted images are kept here")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    folder = workspace.from_root(options.weights)
    cohort = split_cohort(options.data, options.split)
    stages = sample.stages(folder / "base", folder / "upsampler", SAMPLER, options.precision)
    for stage in stages:
        stage.set_progress_bar_config(disable=True)
    validation = cohort.select(split="validation")
    parts, more = cascade.sides(validation, options.count), cascade.sides(validation, options.more, share=0.5)
    options.cache.mkdir(parents=True, exist_ok=True)
    guidance = CLASSIFIER_FREE if stages[0].guide_unet is None else BY_GUIDE
    table = compare(*stages, parts, more, options.cache, encoders.fid_inception_features, guidance=guidance)
    drop_checksums(folder)
    tables = folder / "tables"
    write_table(table, tables / TABLE)
    write_text(tables / "images.csv", image_counts(cohort.frame).to_csv(lineterminator="\n"))
    figures.save(figure(table), folder / "figures", "samplers")
    write_text(
        folder / weights.LINEAGE,
        json.dumps(weights.lineage(folder) | {"sampling": sampling_of(table)}, indent=1) + "\n",
    )
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
