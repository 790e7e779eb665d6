"""What each stage of a generator costs in recall and in entities shown: `python -m dermstudy.maintenance.stage_costs --data DIR`.

Notebook 04's cascade, asked once more, with its images and its network: real images of test lesions reduced and enlarged, and
what the base paints for their captions, enlarged. Nothing is chosen by it. Writes tables/stage_costs.csv of a folder of weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from dermstudy import intervals, workspace
from dermstudy.data.dataset import Cohort
from dermstudy.data.storage import storage_of
from dermstudy.diffusion import glide, sample, weights
from dermstudy.evaluation import cascade, encoders, fidelity, metrics, quality
from dermstudy.evaluation.encoders import Encoder
from dermstudy.evaluation.features import Features
from dermstudy.files import InputError, write_text
from dermstudy.maintenance.commands import answered, of_weights, split_cohort
from dermstudy.runner.profiles import complete

TABLE = "stage_costs.csv"
REAL = "real images"
REPEATS = 100
SEED = 0


def ways(
    parts: cascade.Sides, base, upsampler, sampling: Mapping, seed: int = SEED
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Input, how it was enlarged and the images uint8 [n, side, side, 3] of parts.enlarged, real ones as they are first.

    sampling: the settings of the weights' lineage.json (BASE_STEPS, UPSAMPLE_STEPS, GUIDANCE_SCALE, GUIDANCE_INTERVAL).
    """
    frame, stored = parts.enlarged.frame, storage_of(parts.compared)
    yield REAL, cascade.NONE, parts.enlarged.images(upsampler.side)
    where = glide.interval_of(sampling["GUIDANCE_INTERVAL"])
    steps, scale = sampling["BASE_STEPS"], sampling["GUIDANCE_SCALE"]
    painted = cascade.painted(base, frame, steps, scale, seed, guidance_interval=where)
    seeds, captions = sample.seeds_for(frame["image_id"], seed), frame["caption"].tolist()
    for name, small in ((cascade.REAL, parts.enlarged.images(base.side)), (cascade.PAINTED, painted)):
        yield name, cascade.BICUBIC, stored.stored(sample.bicubic(small, upsampler.side))
        large = sample.enlarged(upsampler, small, captions, seeds, sampling["UPSAMPLE_STEPS"])
        yield name, cascade.UPSAMPLER, stored.stored(large)


def recall_of_halves(made: np.ndarray, real: np.ndarray, seed: int = SEED) -> dict[str, float]:
    """n, and the mean and middle 95 % of recall over as many images of each side, half of the smaller, drawn anew each time.

    made, real: features [n, d], [m, d]. Recall moves with the number of images, so that no other figure has the halves' scale.
    """
    random, draws, size = np.random.default_rng(seed), [], min(len(made), len(real)) // 2
    for _ in range(REPEATS):
        halves = [own[random.permutation(len(own))[:size]] for own in (made, real)]
        draws.append(metrics.precision_recall(*halves)[1])
    low, high = intervals.quantiles(draws)
    return {"n": size, "recall": float(np.mean(draws)), "recall_low": low, "recall_high": high}


def network(cohort: Cohort, most: int, side: int, judge: Encoder) -> fidelity.Namer:
    """04's independent network: fitted on at most 2 * `most` training images an entity, its penalty chosen on validation ones."""
    parts = quality.sides(cohort, most, SEED)["train"], cohort.select(split="validation")
    return fidelity.Namer(*(_features(part, side, judge) for part in parts))


def _features(cohort: Cohort, side: int, judge: Encoder) -> Features:
    frame, rows = cohort.frame, []
    for start in range(0, len(frame), 64):
        rows.append(judge.features(cohort.images(side, list(frame["image_id"].iloc[start : start + 64]))))
    return Features(np.concatenate(rows), frame["group"].to_numpy(), frame["dx"].to_numpy())


def table(
    parts: cascade.Sides,
    made: Sequence[tuple[str, str, np.ndarray]],
    judge: Encoder,
    reader: Encoder,
    namer: fidelity.Namer,
) -> pd.DataFrame:
    """One row a way: input, enlarged_by, n, recall with its bounds, n_named, named, less_real with its bounds.

    made: as `ways` gives them, real images first. judge: whose features recall is measured in; reader: those that `namer`
    takes. named: the share named as the caption asks, the mean of the entities; less_real: less that of the real images, with
    the 95 % percentile interval that resamples images and real lesions within each entity, as if they were no pairs.
    """
    frame, side = parts.enlarged.frame, made[0][2].shape[1]
    compared = cascade.encoded(parts.compared.images(side), judge.features)
    asked, true, rows = frame.drop(columns="group"), None, []
    for given, enlarged_by, images in made:
        row = {"input": given, "enlarged_by": enlarged_by}
        row |= recall_of_halves(cascade.encoded(images, judge.features), compared)
        named = namer(cascade.encoded(images, reader.features))
        true = named if true is None else true
        said = fidelity.fidelity_table({given: (named, true)}, asked, frame, SEED).set_index("entity").loc["overall"]
        row |= {"n_named": said["n"], "named": said["synthetic"]}
        rows.append(row | {"less_real": said["difference"], "named_low": said["low"], "named_high": said["high"]})
        print(f"{given}, enlarged by {enlarged_by}: recall {row['recall']:.2f}, named {row['named']:.2f}", flush=True)
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = of_weights("dermstudy.maintenance.stage_costs", __doc__, "base/, upsampler/ and lineage.json")
    parser.add_argument("--profile", default="ham10000", help="whose 04 says how many images (default ham10000)")
    return answered(lambda: _act(parser.parse_args(arguments)))


def _act(options: argparse.Namespace) -> None:
    folder = workspace.from_root(options.weights)
    sampling = weights.lineage(folder).get("sampling")
    if not sampling:
        raise InputError(f"{folder / weights.LINEAGE} names no sampler: run 'python -m dermstudy.maintenance.samplers'")
    given = complete(options.profile, "results/none", options.data)["04_metrics"]
    cohort = split_cohort(options.data, options.split)
    stages = sample.stages(folder / "base", folder / "upsampler", sampling["SAMPLER"], given["PRECISION"])
    for stage in stages:
        stage.set_progress_bar_config(disable=True)
    parts = cascade.sides(cohort.select(split="test"), given["CASCADE_N"], given["SEED"])
    reader = encoders.lite_encoder()
    namer = network(cohort, given["AUDIT_N"], given["SIDE"], reader)
    print(f"independent network: balanced accuracy {namer.score:.2f} on validation lesions", flush=True)
    found = table(parts, list(ways(parts, *stages, sampling)), encoders.fid_encoder(), reader, namer)
    write_text(folder / "tables" / TABLE, found.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


if __name__ == "__main__":
    sys.exit(main())
