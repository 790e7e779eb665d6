"""The synthetic dataset: one image for each chosen original, from its caption, as the paper pairs them.

Source: Shavlokhova et al., sections 2.2 (pairs, captions in text files) and 2.4 (10,015 synthetic images).
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate import PartialState
from PIL import Image

from dermstudy.data.storage import PNG, Storage
from dermstudy.diffusion import glide, schedules
from dermstudy.diffusion.architecture import read_part, tokenize
from dermstudy.files import (
    InputError,
    atomic_path,
    replace_folder,
    restore,
    restore_all,
    sha256_text,
    write_text,
)
from dermstudy.source import code_hash

WHOLE = "caption_whole"  # a column of the index where a caption was cut: `caption` is what the base model read of it
MADE_BY = "made_by.txt"  # in a finished dataset: the hash of the models, captions, settings and code that it answers
PAINTERS = "painters.json"  # beside it: identity() of the base model and of the upsampler, in that order


def choose_originals(
    frame: pd.DataFrame, count: int, seed: int, equal: bool = False, repeat: bool = False
) -> pd.DataFrame:
    """The originals to pair with, `count` rows of `frame` (0: all), sorted by image_id.

    equal: the same number of each entity instead of the cohort's own shares. repeat: an entity with too few originals
    lends each of them again; the column `copy` counts from zero. InputError where too few are there.
    """
    frame = frame.assign(copy=0)
    if count == 0:
        return frame.sort_values("image_id")
    if equal:
        entities = sorted(frame["dx"].unique())
        each, rest = divmod(count, len(entities))
        if rest:
            raise InputError(
                f"{count} synthetic images do not divide over {len(entities)} entities: "
                f"choose a multiple of {len(entities)}"
            )
        smallest = frame["dx"].value_counts().min()
        if repeat:
            return originals_in_turn(frame, pd.Series(each, index=entities), seed)
        if each > smallest:
            rare = frame["dx"].value_counts().idxmin()
            raise InputError(
                f"{each} originals an entity asked for, {rare!r} has {smallest}: lower the count, or let captions repeat"
            )
        return frame.groupby("dx").sample(each, random_state=seed).sort_values("image_id")
    if count > len(frame):
        raise InputError(f"{count} originals asked for, the cohort has {len(frame)}: lower the count or give 0 for all")
    return frame.sample(count, random_state=seed).sort_values("image_id")


def originals_in_turn(frame: pd.DataFrame, wanted: pd.Series, seed: int) -> pd.DataFrame:
    """The originals to pair with, `wanted` of each entity (by code), sorted by image_id and `copy`.

    Every original of an entity lends itself once (copy 0) before any does so again. InputError for an entity without one.
    """
    counts = frame["dx"].value_counts().reindex(wanted.index, fill_value=0)
    if (counts[wanted > 0] == 0).any():
        raise InputError(f"no original of {counts[wanted > 0].idxmin()!r} to pair with: use a larger cohort")
    times = range(int((-(-wanted // counts.clip(lower=1))).max()))
    every = pd.concat([frame.assign(copy=time) for time in times])
    shuffled = every.sample(frac=1, random_state=seed).sort_values("copy", kind="stable")
    turn = shuffled.groupby("dx").cumcount()
    return shuffled[turn < shuffled["dx"].map(wanted).fillna(0)].sort_values(["image_id", "copy"])


def read_by(pipeline, captions: Sequence[str]) -> list[str]:
    """What the text encoder of `pipeline` reads of each caption."""
    read = {text: read_part(pipeline.tokenizer, text, pipeline.text_encoder.config.length) for text in set(captions)}
    return [read[text] for text in captions]


def stages(base_folder: str | Path, upsampler_folder: str | Path, sampler: str, precision: str = "fp32"):
    """Both pipelines from their folders, ready to sample: the solver `sampler`, the precision of the arithmetic."""
    base = glide.load(base_folder)
    upsampler = glide.load(upsampler_folder, glide.GlideUpsamplePipeline)
    for pipeline in (base, upsampler):
        pipeline.scheduler = schedules.sampler_from(pipeline.scheduler, sampler)
        glide.cast(pipeline, precision)
    return base, upsampler


def seeds_for(image_ids: pd.Series, seed: int) -> list[int]:
    """One 32-bit seed an image, from the study's seed and the original's name: the same in any subset or order."""
    return [int(sha256_text(f"{seed} {image_id}")[:8], 16) for image_id in image_ids]


def synthesise(
    base,
    upsampler,
    originals: pd.DataFrame,
    folder: str | Path,
    seed: int,
    guidance_scale: float,
    base_steps: int | str,
    upsample_steps: int | str,
    batch: int = 16,
    made_with: str = "",
    storage: Storage = PNG,
    guidance_interval: tuple[float, float] = glide.EVERYWHERE,
) -> Path:
    """Sample one image for each row of `originals` (image_id, copy, dx, caption) and write the synthetic dataset.

    Each image is a file at the upsampler's side, stored as `storage` says, with what was read of its caption as a text file
    beside it, and a line of index.csv (image_id, dx, file, caption, source_image_id, seed, and WHOLE where one was cut).
    guidance_interval: the noise at which guidance acts, as GlidePipeline takes it.
    A run that was cut short goes on where it stopped as long as the models, the captions, the settings, `made_with` and this
    code are the same, and a finished one is kept; the folder appears under its name only when whole. Under `torchrun` the
    processes share the images. Prints a line a batch.
    """
    processes = PartialState()
    folder = Path(folder)
    names = originals["image_id"] + originals["copy"].map(lambda copy: f"_{copy}" if copy else "")
    painters = [glide.identity(pipeline) for pipeline in (base, upsampler)]
    made_by = [code_hash(__name__), *painters, made_with]
    shown = originals[["image_id", "dx", "caption"]].to_dict("list") | {"name": names.tolist()}
    guidance = {"guidance_scale": guidance_scale, "guidance_interval": tuple(guidance_interval)}
    asked = [*made_by, seed, guidance, base_steps, upsample_steps, asdict(storage), shown]
    settings = sha256_text(json.dumps(asked, default=str))
    restore(folder)
    if (folder / MADE_BY).is_file() and (folder / MADE_BY).read_text(encoding="utf-8") == settings:
        print(f"{len(names)} of {len(names)} images are there, from the same models and settings")
        return folder
    for model in (base, upsampler):  # names the captions that are cut, before hours of painting
        tokenize(model.tokenizer, originals["caption"].tolist(), model.text_encoder.config.length)
    with processes.main_process_first():
        part = taken_up(folder, settings)
    index = pd.DataFrame(
        {
            "image_id": [f"synthetic_{name}" for name in names],
            "dx": originals["dx"].to_numpy(),
            "file": [f"synthetic_{name}{storage.suffix}" for name in names],
            "caption": read_by(base, originals["caption"]),
            "source_image_id": originals["image_id"].to_numpy(),
            "seed": seeds_for(names, seed),
            WHOLE: originals["caption"].to_numpy(),
        },
    )
    own = index.iloc[processes.process_index :: processes.num_processes]
    _paint(base, upsampler, own, part, guidance, base_steps, upsample_steps, batch, storage)
    processes.wait_for_everyone()
    if processes.is_main_process:
        write_text(part / MADE_BY, settings)
        write_text(part / PAINTERS, json.dumps(painters) + "\n")
        _finish(part, folder, index)
    processes.wait_for_everyone()
    return folder


def taken_up(folder: Path, settings: str) -> Path:
    """The unfinished set for `folder` of these settings, new or as a killed run left it; those of others are removed."""
    part = folder.with_name(f".{folder.name}.{sha256_text(settings)[:12]}")
    part.mkdir(parents=True, exist_ok=True)
    own = re.compile(re.escape(f".{folder.name}.") + "[0-9a-f]{12}")
    for stale in part.parent.glob(".*"):
        if stale != part and own.fullmatch(stale.name):
            shutil.rmtree(stale)
    for within in (part, *(path for path in part.iterdir() if path.is_dir())):
        restore_all(within)
    return part


def _paint(
    base, upsampler, rows: pd.DataFrame, part: Path, guidance: dict, base_steps, upsample_steps, batch: int,
    storage: Storage,
) -> None:  # fmt: skip
    """Those images of `rows` that `part` lacks, with their captions."""
    missing = rows[[not (part / file).is_file() for file in rows["file"]]]
    for pipeline in (base, upsampler):
        pipeline.set_progress_bar_config(disable=True)
    started, done = time.monotonic(), 0
    for start in range(0, len(missing), batch):
        some = missing.iloc[start : start + batch]
        captions, seeds = some[WHOLE].tolist(), some["seed"].tolist()
        small = base(captions, num_inference_steps=base_steps, seeds=seeds, **guidance)
        large = enlarged(upsampler, small, captions, seeds, upsample_steps)
        for image, row in zip(large, some.itertuples(), strict=True):
            write_text(part / f"{row.image_id}.txt", row.caption + "\n")
            storage.save(image, part / row.file)
        done += len(some)
        seconds = time.monotonic() - started
        print(f"{len(rows) - len(missing) + done} of {len(rows)} images, {done / seconds:.2f} a second", flush=True)


def _finish(part: Path, folder: Path, index: pd.DataFrame) -> None:
    if index[WHOLE].equals(index["caption"]):
        index = index.drop(columns=WHOLE)
    with atomic_path(part / "index.csv") as path:
        index.to_csv(path, index=False, lineterminator="\n")
    replace_folder(part, folder)


def enlarged(
    upsampler, small: np.ndarray, captions: list[str], seeds: list[int], steps: int | str, batch: int = 4
) -> np.ndarray:
    """`small` uint8 [n, h, w, 3] through the upsampler in small batches, with seeds of their own: [n, side, side, 3]."""
    parts = []
    for start in range(0, len(small), batch):
        part = slice(start, start + batch)
        own = upsample_seeds(seeds[part])
        parts.append(upsampler(captions[part], small[part], num_inference_steps=steps, seeds=own))
    return np.concatenate(parts)


def painted(base, upsampler, captions: Sequence[str], seeds: Sequence[int], sampling: Mapping[str, Any]) -> np.ndarray:
    """Whole images of `captions`, one seed each: uint8 [n, side, side, 3]; sampling: as `weights_card.describe` gives it."""
    for pipeline in (base, upsampler):
        pipeline.set_progress_bar_config(disable=True)
    small = base(
        list(captions), guidance_scale=sampling["GUIDANCE_SCALE"], num_inference_steps=sampling["BASE_STEPS"],
        seeds=list(seeds), guidance_interval=glide.interval_of(sampling["GUIDANCE_INTERVAL"]),
    )  # fmt: skip
    return enlarged(upsampler, small, list(captions), list(seeds), sampling["UPSAMPLE_STEPS"])


def upsample_seeds(seeds: list[int]) -> list[int]:
    """Seeds of the second stage: the same ones twice would tie its noise to the base model's."""
    return [int(sha256_text(f"upsample {value}")[:8], 16) for value in seeds]


def bicubic(small: np.ndarray, side: int) -> np.ndarray:
    """`small` uint8 [n, h, w, 3] enlarged to [n, side, side, 3] without a model, the floor of any upsampler."""
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) for image in small]
    )
