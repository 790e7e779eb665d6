"""Ways to adapt GLIDE to entities that it has not seen, judged alike: what they paint, what they cost, what they weigh.

Sources: de Wilde et al. (arXiv 2303.13430) for learned tokens, interpolation and inpainting; Chambon et al.
(arXiv 2210.04133) for which parts of a model to train.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.adaptation import inversion
from dermstudy.data.dataset import Cohort, in_turn
from dermstudy.diffusion import finetune, schedules
from dermstudy.entities import NAMES, by_code
from dermstudy.evaluation import encoders, metrics, quality, reference_classifier
from dermstudy.evaluation.features import Features
from dermstudy.files import InputError
from dermstudy.intervals import quantiles, wilson

BASELINE = "unadapted"
BATCH = 16  # images painted at once: more are slower an image on a processor
RECORDS, FEWEST_STEPS = 10, 3  # records of a training after its start, and the steps whose mean loss is worth recording
PART_NAMES = {"text": "text encoder", "unet": "U-Net", "all": "both", "lora": "LoRA"}


@dataclass
class Trial:
    """A model, adapted or not: what its captions say for each entity code, what the adaptation cost and how it went."""

    name: str
    model: object
    captions: Mapping[str, str]
    costs: dict = field(default_factory=lambda: {"steps": 0, "trained_numbers": 0, "megabytes": 0.0})
    seconds: float = 0.0  # of training
    log: pd.DataFrame | None = None  # step, loss, validation_loss, held_out; entity where each was taught alone


@dataclass(frozen=True)
class Sampling:
    """How every trial is sampled: the same captions, seeds and settings."""

    count: int  # images an entity
    guidance_scale: float
    steps: int | str
    seed: int = 0

    def arguments(self, model) -> dict:
        """The settings of a call of `model`, which is given the sampler."""
        model.scheduler = schedules.sampler_from(model.scheduler, "dpm-solver")
        model.set_progress_bar_config(disable=True)
        return {"guidance_scale": self.guidance_scale, "num_inference_steps": self.steps}

    def seeds(self, count: int) -> list[int]:
        """The seeds of the first `count` images."""
        return [self.seed + number for number in range(count)]


def few_images(cohort: Cohort, split: str, codes: Sequence[str], count: int, seed: int) -> Cohort:
    """`count` images of each entity in `codes` from a split, of as many lesions as possible.

    InputError where an entity has none, or fewer than `count` for training.
    """
    chosen = []
    for number, code in enumerate(codes):
        rows = cohort.select(split=split, dx=code).frame
        if len(rows) < (count if split == "train" else 1):
            raise InputError(f"{NAMES[code]} has {len(rows)} images for {split}, {count} are asked for: lower IMAGES")
        shuffled = rows.sample(frac=1, random_state=np.random.default_rng([seed, number]))
        chosen += list(in_turn(shuffled)["image_id"].head(count))
    return cohort.select(image_id=chosen)


def inversion_settings(pipeline, vectors: Sequence[int], images: Sequence[int]) -> list[tuple[int, int]]:
    """The trials of textual inversion as (vectors, images an entity): more vectors at most images, then fewer images.

    InputError, before anything trains, where a caption of `pipeline` does not hold as many vectors.
    """
    for count in vectors:
        inversion.check_fits(pipeline, count)
    pairs = [(count, max(images)) for count in vectors] + [(max(vectors), count) for count in images]
    return list(dict.fromkeys(pairs))


def unadapted(pipeline, codes: Sequence[str], name: str = BASELINE) -> Trial:
    """The model as it came, asked for each entity by its plain name."""
    return Trial(name, pipeline, {code: by_code(code).prompt for code in codes})


def learn_tokens(
    pipeline, cohort: Cohort, held_out: Cohort, vectors: int, config: finetune.TrainingConfig, folder: Path
) -> Trial:
    """One trial in which each entity of `cohort` becomes `vectors` learned tokens, kept as folder/CODE.safetensors.

    held_out: images of the same entities, whose loss is recorded while it learns.
    """
    codes, logs = list(cohort.frame["dx"].unique()), []
    name = f"{vectors} vector{'s' * (vectors > 1)}, {len(cohort) // len(codes)} images"
    costs = {"steps": config.steps, "trained_numbers": 0, "megabytes": 0.0}
    trial = Trial(name, copy.deepcopy(pipeline), {}, costs)
    for code in codes:
        token, caption = f"<{code}>", inversion.phrase(f"<{code}>", vectors)
        adapted = inversion.extend(pipeline, token, "a dermatoscopic image", vectors, config.seed)
        learn, judge = (part.select(dx=code).images(adapted.side) for part in (cohort, held_out))
        data = (learn, [caption] * len(learn)), (judge, [caption] * len(judge))
        log, seconds = _train(adapted, *data, config, folder / code, f"{name}, {NAMES[code]}")
        path = inversion.save(inversion.learned(adapted), token, folder / f"{code}.safetensors")
        logs.append(log.assign(entity=code))
        trial.seconds += seconds
        costs["trained_numbers"] += finetune.trained_count(adapted, config.trains)
        costs["megabytes"] += path.stat().st_size / 1e6
        trial.captions[code] = inversion.load(trial.model, path)
    trial.log = pd.concat(logs, ignore_index=True)
    return trial


def train_part(pipeline, cohort: Cohort, held_out: Cohort, config: finetune.TrainingConfig, folder: Path) -> Trial:
    """One trial in which config.trains of a copy of `pipeline` learns the cohort's plain captions.

    held_out: captioned images of the same entities, whose loss is recorded while it learns.
    """
    model, name = copy.deepcopy(pipeline), PART_NAMES[config.trains]
    data = [(part.images(model.side), part.frame["caption"].tolist()) for part in (cohort, held_out)]
    log, seconds = _train(model, *data, config, folder, name, cohort.frame["dx"].tolist())
    numbers = finetune.trained_count(model, config.trains)
    costs = {"steps": config.steps, "trained_numbers": numbers, "megabytes": numbers * 4 / 1e6}
    return Trial(name, model, cohort.frame.groupby("dx")["caption"].first().to_dict(), costs, seconds, log)


def _train(model, training, held_out, config, folder: Path, name: str, entities=None) -> tuple[pd.DataFrame, float]:
    """Train to the last step: the log and the seconds. training, held_out: images and captions."""
    config = replace(config, validate_every=max(FEWEST_STEPS, math.ceil(config.steps / RECORDS)))
    folder = folder / f"training_{len(held_out[0])}_held_out"  # a state knows nothing of what its log was judged by
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "progress.txt").open("w", buffering=1) as stream, redirect_stdout(stream):
        # The weights of the lowest held-out loss would let ways to train differ in their steps.
        log = finetune.train(model, *training, config, folder, held_out, entities=entities, keep="last")
    first, last = log["validation_loss"].iloc[[0, -1]]
    print(f"{name}: held-out loss {first:.4f} before training, {last:.4f} after {config.steps} steps", flush=True)
    return log[["step", "loss", "validation_loss"]].assign(held_out=len(held_out[0])), float(log["seconds"].iloc[-1])


def painted(trial: Trial, sampling: Sampling, **more) -> dict[str, np.ndarray]:
    """Images of each entity, uint8 [count, side, side, 3]; the same seeds in every trial. Prints a line when done."""
    started, settings = time.monotonic(), sampling.arguments(trial.model) | more
    seeds = sampling.seeds(sampling.count)
    batches = [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]
    images = {
        code: np.concatenate([trial.model([caption] * len(part), seeds=part, **settings) for part in batches])
        for code, caption in trial.captions.items()
    }
    print(
        f"{trial.name}: {sampling.count * len(images)} images painted, {time.monotonic() - started:.0f} s", flush=True
    )
    return images


def repainted(
    trial: Trial, code: str, images: np.ndarray, sampling: Sampling, radius: float = 0.3
) -> tuple[np.ndarray, pd.DataFrame]:
    """A lesion of `code` painted into a disc in the middle of each image, and what that changed.

    images: uint8 [n, side, side, 3] at the model's side. Returns the images and one row each: mean absolute change
    inside and outside the disc (levels of 256).
    """
    side = images.shape[1]
    axis = (np.arange(side) + 0.5) / side - 0.5
    inside = np.hypot(*np.meshgrid(axis, axis)) < radius
    settings = {"seeds": sampling.seeds(len(images)), "inpaint_image": images, "inpaint_keep": ~inside}
    result = trial.model([trial.captions[code]] * len(images), **sampling.arguments(trial.model), **settings)
    change = np.abs(result.astype(int) - images).mean(axis=3)
    return result, pd.DataFrame({"inside": change[:, inside].mean(axis=1), "outside": change[:, ~inside].mean(axis=1)})


def judged(
    trials: Sequence[Trial],
    images: Mapping[str, Mapping[str, np.ndarray]],
    test: Cohort,
    reference_folder: Path,
    repeats: int,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the trials painted against real test images: a row a trial and entity, and a row a trial.

    images: by trial and entity, as `painted` gives them; test: real images. The first table has columns trial, entity,
    n, kid (x 1,000, to real images), floor (between halves of the real lesions), named (images that the reference
    classifier names rightly), and real_n, real_named, the same of the real images. The second is `overview`.
    InputError where an entity has one lesion only.
    """
    codes = list(next(iter(images.values())))
    real = {code: test.select(dx=code) for code in codes}
    side = next(iter(images.values()))[codes[0]].shape[1]
    pixels = {code: part.images(side) for code, part in real.items()}

    def encoded(by_entity: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {code: encoders.fid_inception_features(part) for code, part in by_entity.items()}

    def named(part: np.ndarray, code: str) -> int:
        return int((reference_classifier.named(reference_folder, part) == code).sum())

    known, seen = encoded(pixels), {name: encoded(by_entity) for name, by_entity in images.items()}
    floors, of_real = {}, {}
    for code in codes:
        lesions = Features(known[code], real[code].frame["group"].to_numpy(), np.full(len(real[code]), code))
        floors[code] = float(
            quality.kid_matrix({code: lesions}, seed).loc[code, code]
        )  # the mean of ten ways of halving
        of_real[code] = {"real_n": len(real[code]), "real_named": named(pixels[code], code)}
    rows = []
    for name, by_entity in images.items():
        for code, part in by_entity.items():
            counts = {"n": len(part), "kid": metrics.kid(seen[name][code], known[code]), "floor": floors[code]}
            rows.append({"trial": name, "entity": code} | counts | {"named": named(part, code)} | of_real[code])
    table = pd.DataFrame(rows)
    return table, overview(table, gains(seen, known, repeats, seed), trials)


def gains(
    seen: Mapping[str, Mapping[str, np.ndarray]], known: Mapping[str, np.ndarray], repeats: int, seed: int
) -> pd.DataFrame:
    """KID of BASELINE less that of each trial, the mean over entities: columns gain, gain_low, gain_high, a row a trial.

    The interval is the middle 95 % of `repeats` draws of half of the painted and half of the real images, the same halves
    for both sides of a difference: half of all, drawn without replacement, scatters about as all do.
    """
    random, draws = np.random.default_rng(seed), {name: [] for name in seen}
    for _ in range(repeats):
        orders = {code: random.permutation(len(real)) for code, real in known.items()}
        chosen = {code: random.permutation(len(own)) for code, own in seen[BASELINE].items()}
        size = {code: max(2, min(len(orders[code]), len(chosen[code])) // 2) for code in known}
        for name, own in seen.items():
            pairs = [
                (own[code][chosen[code][: size[code]]], real[orders[code][: size[code]]])
                for code, real in known.items()
            ]
            draws[name].append(np.mean([metrics.kid(*pair) for pair in pairs]))
    differences = {name: np.asarray(draws[BASELINE]) - values for name, values in draws.items()}
    rows = {name: [values.mean(), *quantiles(values)] for name, values in differences.items()}
    return pd.DataFrame.from_dict(rows, "index", columns=["gain", "gain_low", "gain_high"]).rename_axis("trial")


def overview(table: pd.DataFrame, gained: pd.DataFrame, trials: Sequence[Trial]) -> pd.DataFrame:
    """One row a trial: KID, its gain over BASELINE with interval, share named rightly with Wilson's, costs."""
    by_trial = table.groupby("trial", sort=False)
    means, sums = by_trial[["kid", "floor"]].mean(), by_trial[["named", "n"]].sum()
    shares = pd.DataFrame({name: wilson(int(row["named"]), int(row["n"])) for name, row in sums.iterrows()}).T
    shares = shares[["share", "low", "high"]].set_axis(["fidelity", "fidelity_low", "fidelity_high"], axis=1)
    costs = pd.DataFrame({trial.name: trial.costs for trial in trials}).T.infer_objects()
    return means.join(gained).join(shares).join(costs)
