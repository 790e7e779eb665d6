"""A set of synthetic images to pass on: PNGs, captions, seeds, a table in HAM10000's columns, Croissant, its warnings.

Sources: Tschandl et al., Scientific Data 5, 180161 (2018) for the columns; Gebru et al., "Datasheets for datasets"
(arXiv 1803.09010), whose answers are in docs/DATASHEET.md.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dermstudy import workspace
from dermstudy.diffusion import croissant, glide, sample, schedules, weights
from dermstudy.diffusion.croissant import Column
from dermstudy.entities import ENTITIES, NAMES
from dermstudy.files import InputError, atomic_path, sha256_file, sha256_text, write_text

BATCH = 8  # images painted at once: a part of the recipe, for the last digit of a sum depends on it
MOST = 10_000  # images an entity: names have four digits
TABLE, CROISSANT, SETTINGS = "metadata.csv", "croissant.json", "settings.json"
DESCRIPTION = "synthetic dermatoscopic image; not for diagnosis or any clinical use"
CITE_AS = (
    "Shavlokhova et al., Finetuning of GLIDE stable diffusion model for AI-based text-conditional image synthesis of "
    "dermoscopic images, Front. Med. 10:1231436 (2023); Tschandl, Rosendahl, Kittler, The HAM10000 dataset, Sci. Data "
    "5:180161 (2018)"
)
ALWAYS = (  # beside what the weights' own card says
    "No image is a photograph of a patient, and none is medical evidence. A generator can repeat what it learned: what a "
    "search for copies found is told by the card of the weights, where they have one.",
    "The entity of an image is what its caption asked for. No dermatologist has confirmed that it is what it shows.",
    "Age, sex and site are unknown: captions name the entity alone.",
    "Whether such images help a classifier of real ones is the question of the study that made them, not its premise.",
)
COLUMNS = (
    Column("lesion_id", "sc:Text", "The image's own name: no two images share a lesion."),
    Column("image_id", "sc:Text", "Name of the image."),
    Column("dx", "sc:Text", "HAM10000's code of the entity that the caption asked for."),
    Column("dx_type", "sc:Text", "Always synthetic: nobody has confirmed the entity."),
    Column("age", "sc:Text", "Empty."),
    Column("sex", "sc:Text", "Always unknown."),
    Column("localization", "sc:Text", "Always unknown."),
    Column("dataset", "sc:Text", "The generator, with ten digits over its weights."),
    Column("entity", "sc:Text", "Plain name of the entity."),
    Column("caption", "sc:Text", "The text from which the image was painted."),
    Column("seed", "sc:Integer", "Seed of the image's noise."),
    Column("file", "sc:Text", "Path of the image in this folder."),
    Column("filename", "sc:Text", "The same without its folder."),
    Column("source_image_id", "sc:Text", "Empty: no original is paired with the image."),
    Column("sha256", "sc:Text", "SHA-256 of the image file."),
)


@dataclass(frozen=True)
class Generator:
    """What paints a set. `paint(captions, seeds)` gives uint8 [n, side, side, 3]; an image follows from its own two."""

    described: weights.Weights
    paint: Callable[[list[str], list[int]], np.ndarray]


def make(weights_folder: str | Path, folder: str | Path, per_entity: int, seed: int = 0) -> Path:
    """`write` with the generator in `weights_folder`, which is not opened before number and seed are checked."""
    planned(per_entity, seed, "")
    return write(open_generator(weights_folder), folder, per_entity, seed)


def open_generator(folder: str | Path) -> Generator:
    """The generator in `folder` (base/ and upsampler/), with the sampler and the steps that its card measured.

    InputError where weights are missing or incomplete.
    """
    described = weights.describe(folder)
    base = glide.load(Path(folder) / "base")
    upsampler = glide.load(Path(folder) / "upsampler", glide.GlideUpsamplePipeline)
    used = described.sampling
    for model in (base, upsampler):
        model.scheduler = schedules.sampler_from(model.scheduler, used["SAMPLER"])
        model.set_progress_bar_config(disable=True)

    def paint(captions: list[str], seeds: list[int]) -> np.ndarray:
        options = {
            "guidance_scale": used["GUIDANCE_SCALE"],
            "guidance_interval": glide.interval_of(used["GUIDANCE_INTERVAL"]),
            "num_inference_steps": used["BASE_STEPS"],
        }
        small = base(captions, seeds=seeds, **options)
        return sample.enlarged(upsampler, small, captions, seeds, used["UPSAMPLE_STEPS"])

    return Generator(described, paint)


def planned(per_entity: int, seed: int, generator: str) -> pd.DataFrame:
    """One row an image in COLUMNS, but for the hash of a file that is not there yet.

    A larger set holds the images of a smaller one of the same seed. generator: its name. InputError for a number of
    images that is not 1 to 10,000, or a seed that is negative or longer than 32 bits.
    """
    if not 1 <= per_entity <= MOST:
        raise InputError(f"{per_entity} images an entity: give a number from 1 to {MOST:,}")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed}: give a whole number from 0 to {2**32 - 1}")
    rows = [
        {
            "image_id": f"synthetic_{entity.name.replace(' ', '_')}_{place:04d}",
            "dx": entity.code,
            "caption": entity.prompt,
        }
        for entity in ENTITIES
        for place in range(per_entity)
    ]
    frame = pd.DataFrame(rows)
    frame["seed"] = sample.seeds_for(frame["image_id"], seed)
    frame["filename"] = frame["image_id"] + ".png"
    frame["file"] = "images/" + frame["filename"]
    frame["entity"] = frame["dx"].map(NAMES)
    frame["lesion_id"] = frame["image_id"]
    constant = {"dx_type": "synthetic", "age": "", "sex": "unknown", "localization": "unknown", "dataset": generator}
    frame = frame.assign(**constant, source_image_id="", sha256="")
    return frame[[column.name for column in COLUMNS]]


def write(generator: Generator, folder: str | Path, per_entity: int, seed: int = 0) -> Path:
    """Paint `per_entity` images of each entity and write the set to `folder`, whole or not at all; returns `folder`.

    A run that was cut short goes on where it stopped, and a finished set is kept, where generator, number and seed are
    the same. The same machine and seed give the same files, but for the date in croissant.json (SOURCE_DATE_EPOCH sets
    it). Prints a line a batch. InputError for a folder that holds something else, and as in `planned`.
    """
    folder = Path(folder)
    frame = planned(per_entity, seed, generator.described.name)
    settings = {
        "generator": generator.described.name,
        "sampling": generator.described.sampling,
        "images_per_entity": per_entity,
        "seed": seed,
        "batch": BATCH,
    }
    text = json.dumps(settings, indent=1) + "\n"
    if folder.exists():
        if (folder / SETTINGS).is_file() and (folder / SETTINGS).read_text(encoding="utf-8") == text:
            print(f"{len(frame)} of {len(frame)} images are there, from the same weights, number and seed")
            return folder
        raise InputError(f"{workspace.shown(folder)} exists and holds something else: name a new folder, or remove it")
    part = folder.with_name(f".{folder.name}.{sha256_text(text)[:12]}")
    try:
        (part / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; choose a folder you may write to") from error
    _remove_other_parts(part, folder.name)
    for half_written in (part / "images").glob(".*"):  # of a run that was killed
        shutil.rmtree(half_written)
    _paint(generator, frame, part)
    _describe(generator.described, frame, part, settings)
    write_text(part / SETTINGS, text)
    part.rename(folder)
    return folder


def _remove_other_parts(part: Path, name: str) -> None:
    """Unfinished sets for the same folder, from other settings."""
    own = re.compile(re.escape(f".{name}.") + "[0-9a-f]{12}")
    for stale in part.parent.glob(".*"):
        if stale != part and own.fullmatch(stale.name):
            shutil.rmtree(stale)


def _paint(generator: Generator, frame: pd.DataFrame, part: Path) -> None:
    """Those batches of images that `part` lacks, with their captions; a batch never mixes entities."""
    started, done, painted = time.monotonic(), 0, 0
    for _, rows in frame.groupby("dx", sort=False):
        for start in range(0, len(rows), BATCH):
            some = rows.iloc[start : start + BATCH]
            done += len(some)
            if all((part / file).is_file() for file in some["file"]):
                continue
            images = generator.paint(some["caption"].tolist(), some["seed"].tolist())
            for image, row in zip(images, some.itertuples(), strict=True):
                write_text((part / row.file).with_suffix(".txt"), row.caption + "\n")
                with atomic_path(part / row.file) as path:
                    Image.fromarray(image).save(path, format="PNG", pnginfo=_notes(row))
            painted += len(some)
            seconds = time.monotonic() - started
            print(f"{done} of {len(frame)} images, {painted / seconds:.2f} a second", flush=True)


def _notes(row) -> PngInfo:
    """What a PNG says of itself wherever it is carried."""
    text = PngInfo()
    notes = {"Description": DESCRIPTION, "model": row.dataset, "caption": row.caption, "seed": row.seed}
    for name, value in notes.items():
        text.add_itxt(name, str(value))
    return text


def _describe(described: weights.Weights, frame: pd.DataFrame, part: Path, settings: dict) -> None:
    """The table, the Croissant file and the README beside the images."""
    frame = frame.assign(sha256=[sha256_file(part / file) for file in frame["file"]])
    with atomic_path(part / TABLE) as path:
        frame.to_csv(path, index=False, lineterminator="\n")
    warnings = (*(f"The card of the weights: {text.replace('**', '')}" for text in described.warnings), *ALWAYS)
    entities = frame["dx"].nunique()
    notes = croissant.metadata(
        name="dermstudy-synthetic",
        description=f"{len(frame)} synthetic dermatoscopic images of {entities} entities, painted from text by "
        f"{described.name}. For research on synthetic data; not for diagnosis or any clinical use.",
        licence=described.licence or "unknown: ask whoever made the weights",
        cite_as=CITE_AS,
        version=workspace.versions("dermstudy")["dermstudy"],
        published=_today(),
        table=(TABLE, sha256_file(part / TABLE)),
        columns=COLUMNS,
        images="images/*.png",
        joined_by="filename",
        warnings=warnings,
    )
    write_text(part / CROISSANT, json.dumps(notes, indent=1, ensure_ascii=False) + "\n")
    write_text(part / "README.md", _readme(described, frame, settings, warnings))


def _readme(described: weights.Weights, frame: pd.DataFrame, settings: dict, warnings: tuple[str, ...]) -> str:
    sampling = ", ".join(f"{name.lower().replace('_', ' ')} {value}" for name, value in settings["sampling"].items())
    licence = described.licence.upper() or "unknown: ask whoever made the weights"
    lines = [
        "# Synthetic dermatoscopic images",
        "",
        f"{len(frame)} images, {settings['images_per_entity']} of each of {frame['dx'].nunique()} entities, painted from "
        f"text by {described.name}.",
        "",
        "## Warnings",
        "",
        *(f"- {text}" for text in warnings),
        "",
        "## What is here",
        "",
        "- `images/`: a PNG and its caption (`.txt`) for each image; a PNG names its model, caption and seed too.",
        f"- `{TABLE}`: one image a row; `{CROISSANT}` says what each column holds.",
        f"- `{CROISSANT}`: what a data loader needs to read all of it (Croissant 1.0).",
        f"- `{SETTINGS}`: what the set was made with.",
        "",
        "| entity | code | images |",
        "| --- | --- | --- |",
        *(f"| {NAMES[code]} | {code} | {count} |" for code, count in frame["dx"].value_counts(sort=False).items()),
        "",
        "## Making it again",
        "",
        f"`dermstudy synthesize OUT --per-entity {settings['images_per_entity']} --seed {settings['seed']}` with the same "
        f"weights ({described.name}; {sampling}). On another processor pixels may differ slightly.",
        "",
        "## Licence",
        "",
        f"{licence}, as the weights, which derive from HAM10000 where their card says so.",
        "",
        f"Cite: {CITE_AS}.",
        "",
    ]
    return "\n".join(lines)


def _today() -> str:
    """The day of making, or that of SOURCE_DATE_EPOCH (reproducible-builds.org)."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch and not epoch.isdigit():
        raise InputError(f"SOURCE_DATE_EPOCH is {epoch!r}: give a number of seconds, or unset it")
    made = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return made.date().isoformat()
