"""Ways to adapt GLIDE to entities that it has not seen, judged alike: what they paint, what they cost, what they weigh.

Sources: de Wilde et al. (arXiv 2303.13430) for learned tokens, interpolation and inpainting, and for the question whether
a classifier gains; Chambon et al. (arXiv 2210.04133) for which parts of a model to train.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from dermstudy.adaptation import inversion
from dermstudy.data.dataset import Cohort
from dermstudy.diffusion import finetune, schedules
from dermstudy.diffusion.checkpoints import read_notes
from dermstudy.entities import NAMES, by_code
from dermstudy.evaluation import encoders, metrics, quality, reference_classifier
from dermstudy.evaluation.features import Features
from dermstudy.files import InputError, sha256_text, write_text
from dermstudy.intervals import quantiles, wilson

EntityFeatures = Mapping[str, np.ndarray]  # entity code -> [n, 2048]
BASELINE = "unadapted"
BATCH = 16  # images painted at once: more are slower an image on a processor
MEASURES = ("seconds", "peak_megabytes")  # costs that no two runs share: noted beside the tables, not in them
RECORDS, FEWEST_STEPS = 10, 3  # records of a training after its start, and the steps whose mean loss is worth recording


@dataclass
class Trial:
    """A model, adapted or not: what its captions say for each entity code, what the adaptation cost and how it went."""

    name: str
    model: object
    captions: Mapping[str, str]
    costs: dict = field(default_factory=dict)  # steps, seconds, trained_numbers, megabytes, peak_megabytes
    log: pd.DataFrame | None = None  # step, loss, validation_loss, held_out; entity where each was taught alone


@dataclass(frozen=True)
class Sampling:
    """How every trial is sampled: the same captions, seeds and settings."""

    count: int  # images an entity
    guidance_scale: float
    steps: int | str
    seed: int = 0
    sampler: str = "dpm-solver"

    def of(self, model, count: int) -> dict:
        """The arguments for `count` images of `model`, which is given the sampler."""
        model.scheduler = schedules.sampler_from(model.scheduler, self.sampler)
        model.set_progress_bar_config(disable=True)
        seeds = [self.seed + place for place in range(count)]
        return {"guidance_scale": self.guidance_scale, "num_inference_steps": self.steps, "seeds": seeds}


def training_images(cohort: Cohort, codes: Sequence[str], count: int, seed: int) -> Cohort:
    """`count` training images of each entity in `codes`, of as many lesions as it has; InputError where it has fewer."""
    chosen = []
    for place, code in enumerate(codes):
        own = cohort.select(split="train", dx=code).frame
        if len(own) < count:
            raise InputError(f"{NAMES[code]} has {len(own)} training images, {count} are asked for: lower IMAGES")
        chosen += _of_many_lesions(own, count, [seed, place])
    return cohort.select(image_id=chosen)


def held_out_images(cohort: Cohort, codes: Sequence[str], count: int, seed: int) -> Cohort:
    """Up to `count` images of validation lesions of each entity in `codes`, of as many lesions as it has.

    InputError where an entity has none.
    """
    chosen = []
    for place, code in enumerate(codes):
        own = cohort.select(split="validation", dx=code).frame
        if not len(own):
            raise InputError(f"{NAMES[code]} has no validation image by which its training could be judged")
        chosen += _of_many_lesions(own, count, [seed, place])
    return cohort.select(image_id=chosen)


def _of_many_lesions(own: pd.DataFrame, count: int, seed: list[int]) -> list[str]:
    """The names of up to `count` images: one of each lesion, in a drawn order, before a second of any."""
    shuffled = own.sample(frac=1, random_state=np.random.default_rng(seed))
    order = shuffled.groupby("group").cumcount().sort_values(kind="stable").index
    return list(own.loc[order[:count], "image_id"])


def inversion_settings(pipeline, vectors: Sequence[int], images: Sequence[int]) -> list[tuple[int, int]]:
    """The trials of textual inversion as (vectors, images an entity): more vectors at most images, then fewer images.

    InputError, before anything trains, where a caption of `pipeline` does not hold as many vectors.
    """
    for count in vectors:
        inversion.check_fits(pipeline, count)
    pairs = [(count, max(images)) for count in vectors] + [(max(vectors), count) for count in images]
    return list(dict.fromkeys(pairs))


def learn_tokens(
    pipeline,
    cohort: Cohort,
    held_out: Cohort,
    vectors: int,
    config: finetune.TrainingConfig,
    folder: Path,
    seed: int = 0,
) -> Trial:
    """One trial in which each entity of `cohort` becomes `vectors` learned tokens; the files are folder/<code>.safetensors.

    held_out: images of the same entities, whose loss is recorded while it learns.
    """
    model, captions, seconds, size, numbers, most = pipeline, {}, 0.0, 0, 0, 0.0
    codes, logs = list(cohort.frame["dx"].unique()), []
    name = f"{vectors} vector{'s' * (vectors > 1)}, {len(cohort) // len(codes)} images"
    for code in codes:
        token, said = f"<{code}>", inversion.phrase(f"<{code}>", vectors)
        adapted = inversion.extend(pipeline, token, "a dermatoscopic image", vectors, seed)
        own, judge = (part.select(dx=code).images(adapted.side) for part in (cohort, held_out))
        log, peak = _train(
            adapted,
            own,
            [said] * len(own),
            (judge, [said] * len(judge)),
            config,
            folder / code,
            f"{name}, {NAMES[code]}",
        )
        logs.append(log.assign(entity=code))
        seconds, most = seconds + log["seconds"].iloc[-1], max(most, peak)
        numbers += finetune.trained_count(adapted, config.trains)
        path = inversion.save(inversion.learned(adapted), token, folder / f"{code}.safetensors")
        size += path.stat().st_size
        if model is pipeline:
            model = inversion.copied(pipeline)
        captions[code] = inversion.load(model, path)
    costs = {"steps": config.steps, "seconds": seconds, "trained_numbers": numbers, "megabytes": size / 1e6}
    costs["peak_megabytes"] = most
    return Trial(name, model, captions, costs, pd.concat(logs, ignore_index=True))


def train_part(pipeline, cohort: Cohort, held_out: Cohort, config: finetune.TrainingConfig, folder: Path) -> Trial:
    """One trial in which config.trains of a copy of `pipeline` learns the cohort's plain captions.

    held_out: captioned images of the same entities, whose loss is recorded while it learns.
    """
    model = inversion.copied(pipeline)
    name = {"text": "text encoder", "unet": "U-Net", "all": "both", "lora": "LoRA"}[config.trains]
    judge = held_out.images(model.side), held_out.frame["caption"].tolist()
    images, captions = cohort.images(model.side), cohort.frame["caption"].tolist()
    log, peak = _train(model, images, captions, judge, config, folder, name, entities=cohort.frame["dx"].tolist())
    numbers = finetune.trained_count(model, config.trains)
    costs = {"steps": config.steps, "seconds": log["seconds"].iloc[-1], "trained_numbers": numbers}
    costs |= {"megabytes": numbers * 4 / 1e6, "peak_megabytes": peak}
    return Trial(name, model, cohort.frame.groupby("dx")["caption"].first().to_dict(), costs, log)


def _train(
    model, images, captions, held_out, config: finetune.TrainingConfig, folder: Path, name: str, **more
) -> tuple[pd.DataFrame, float]:
    """Train to the last step; the log, and the megabytes that it took at most, kept beside the state for when that is read.

    held_out: images and captions. The lines of finetune.train go to progress.txt in its folder; one is printed when done.
    """
    config = replace(config, validate_every=max(FEWEST_STEPS, math.ceil(config.steps / RECORDS)))
    folder = folder / f"training_{len(held_out[0])}_held_out"  # a state knows nothing of what its log was judged by
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "peak_megabytes.txt"
    with _peak_memory() as peak, (folder / "progress.txt").open("w", buffering=1) as stream, redirect_stdout(stream):
        log = finetune.train(model, images, captions, config, folder, held_out, **more)
    token = sha256_text(f"{config} {read_notes(folder)['origin']}")[:16]
    kept = record.read_text(encoding="utf-8").split() if record.is_file() else []
    most = max(peak[0], float(kept[1]) if kept[:1] == [token] else 0.0)
    write_text(record, f"{token} {most:.1f}\n")
    _take_last_step(model, folder, config.trains)
    first, last = log["validation_loss"].iloc[[0, -1]]
    print(
        f"{name}: loss on held-out lesions {first:.4f} before training, {last:.4f} after {config.steps} steps",
        flush=True,
    )
    return log[["step", "loss", "validation_loss", "seconds"]].assign(held_out=len(held_out[0])), most


def _take_last_step(model, folder: Path, trains: str) -> None:
    """Put the weights of a training's last step into `model`, from the state in `folder`.

    finetune.train leaves those of the lowest held-out loss: then ways to train would be compared after unequal steps.
    """
    modules = {"unet": model.unet, "text": model.text_encoder, "tokens": model.text_encoder.token_embedding}
    names = {"all": ("unet", "text"), "lora": ("unet",)}.get(trains, (trains,))
    moved = [(key, value) for name in names for key, value in modules[name].named_parameters()]
    moved = [value for key, value in moved if trains != "lora" or "lora_" in key]
    tensors = load_file(folder / "state.safetensors")
    with torch.no_grad():
        for place, value in enumerate(moved):
            value.copy_(tensors[f"weight.{place}"])


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """Yields a list whose one number becomes the megabytes by which this process grew at most while open (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else memory that an earlier part has freed hides what this one takes

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6

    before, peak, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], resident() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def unadapted(pipeline, codes: Sequence[str]) -> Trial:
    """The model as it came, asked for each entity by its plain name."""
    costs = {"steps": 0, "seconds": 0.0, "trained_numbers": 0, "megabytes": 0.0, "peak_megabytes": 0.0}
    return Trial(BASELINE, pipeline, {code: by_code(code).prompt for code in codes}, costs)


def painted(trial: Trial, sampling: Sampling, **more) -> dict[str, np.ndarray]:
    """Images of each entity, uint8 [count, side, side, 3]; the same seeds in every trial. Prints a line when done."""
    started, settings = time.monotonic(), sampling.of(trial.model, sampling.count) | more
    seeds = settings.pop("seeds")
    batches = [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]
    images = {
        code: np.concatenate([trial.model([said] * len(own), seeds=own, **settings) for own in batches])
        for code, said in trial.captions.items()
    }
    count = sampling.count * len(images)
    print(f"{trial.name}: {count} images painted, {time.monotonic() - started:.0f} s", flush=True)
    return images


def features(images: Mapping[str, np.ndarray]) -> EntityFeatures:
    """FID-Inception features of each entity's images. Prints a line when done."""
    started = time.monotonic()
    seen = {code: encoders.fid_inception_features(pixels) for code, pixels in images.items()}
    count = sum(len(own) for own in seen.values())
    print(f"features of {count} images, {time.monotonic() - started:.0f} s", flush=True)
    return seen


def judged(
    images: Mapping[str, Mapping[str, np.ndarray]],
    seen: Mapping[str, EntityFeatures],
    real: Mapping[str, np.ndarray],
    known: EntityFeatures,
    lesions: Mapping[str, Sequence[str]],
    reference_folder: Path,
    seed: int,
) -> pd.DataFrame:
    """One row a trial and entity: KID to real images of test lesions, and how many the reference classifier names rightly.

    images: by trial and entity; seen: their features; real: real test images, uint8 by entity; known: their features;
    lesions: the lesion of each of these. Columns trial, entity, n, kid (x 1,000), floor (the KID between halves of the
    real lesions, the mean over ten ways of halving drawn from `seed`), named (images named rightly), and, of the real
    images, real_n and real_named: what that network does at best. InputError where an entity has one lesion only.
    """
    rows = []
    floors = {code: _floor(code, own, lesions[code], seed) for code, own in known.items()}
    right = {code: int((reference_classifier.named(reference_folder, own) == code).sum()) for code, own in real.items()}
    for name, by_entity in images.items():
        for code, own in by_entity.items():
            rows.append({
                "trial": name, "entity": code, "n": len(own),
                "kid": metrics.kid(seen[name][code], known[code]),
                "floor": floors[code],
                "named": int((reference_classifier.named(reference_folder, own) == code).sum()),
                "real_n": len(real[code]), "real_named": right[code],
            })  # fmt: skip
    return pd.DataFrame(rows)


def _floor(code: str, real: np.ndarray, lesions: Sequence[str], seed: int) -> float:
    own = Features(real, np.asarray(lesions), np.full(len(real), code))
    return float(quality.kid_matrix({code: own}, seed).loc[code, code])


def gains(seen: Mapping[str, EntityFeatures], known: EntityFeatures, repeats: int, seed: int) -> pd.DataFrame:
    """KID of BASELINE less that of each trial, the mean over entities: columns gain, low, high; index the trials.

    The interval is the middle 95 % of `repeats` draws of half of the painted and half of the real images, the same halves
    for both sides of a difference: half of all, drawn without replacement, scatters about as all do.
    """
    random, draws = np.random.default_rng(seed), {name: [] for name in seen}
    for _ in range(repeats):
        places = {code: random.permutation(len(real)) for code, real in known.items()}
        chosen = {code: random.permutation(len(own)) for code, own in seen[BASELINE].items()}
        size = {code: max(2, min(len(places[code]), len(chosen[code])) // 2) for code in known}
        for name, by_entity in seen.items():
            kids = [
                metrics.kid(by_entity[code][chosen[code][: size[code]]], known[code][places[code][: size[code]]])
                for code in known
            ]
            draws[name].append(float(np.mean(kids)))
    table = {}
    for name, values in draws.items():
        difference = np.asarray(draws[BASELINE]) - values
        low, high = quantiles(difference)
        table[name] = {"gain": difference.mean(), "low": low, "high": high}
    return pd.DataFrame(table).T.rename_axis("trial")


def overview(table: pd.DataFrame, gained: pd.DataFrame, trials: Sequence[Trial]) -> pd.DataFrame:
    """One row a trial: KID, its gain over BASELINE with interval, share named rightly with Wilson's, costs but MEASURES."""
    by_trial = table.groupby("trial", sort=False)
    means, sums = by_trial[["kid", "floor"]].mean(), by_trial[["named", "n"]].sum()
    shares = pd.DataFrame({name: wilson(int(row["named"]), int(row["n"])) for name, row in sums.iterrows()}).T
    shares = shares[["share", "low", "high"]].set_axis(["fidelity", "fidelity_low", "fidelity_high"], axis=1)
    costs = (
        pd.DataFrame({trial.name: trial.costs for trial in trials})
        .T.infer_objects()
        .drop(columns=list(MEASURES), errors="ignore")
    )
    gained = gained.rename(columns={"low": "gain_low", "high": "gain_high"})
    return means.join(gained).join(shares).join(costs)


def measures(trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Seconds of training and the megabytes that it took at most, by trial and measure, to a tenth."""
    return {trial.name: {name: round(float(trial.costs[name]), 1) for name in MEASURES} for trial in trials}
