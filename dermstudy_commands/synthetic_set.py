"""A set of synthetic images to pass on: PNGs, captions, seeds, a table in HAM10000's columns, Croissant, its warnings.

Sources: Tschandl et al., Scientific Data 5, 180161 (2018) for the columns; Gebru et al., "Datasheets for datasets"
(arXiv 1803.09010), whose answers are in docs/DATASHEET.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dermstudy import workspace
from dermstudy.diffusion import sample
from dermstudy.entities import ENTITIES, NAMES
from dermstudy.files import InputError, atomic_path, locked, sha256_file, write_text
from dermstudy_commands import weights_card

BATCH = 8  # images painted at once: a part of the recipe, for the last digit of a sum depends on it
MOST = 10_000  # images an entity: names have four digits
TABLE, CROISSANT, SETTINGS = "metadata.csv", "croissant.json", "settings.json"
UNKNOWN = "unknown: ask whoever made the weights"  # of a licence
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
COLUMNS = {  # of the table, and what each holds
    "lesion_id": "The image's own name: no two images share a lesion.",
    "image_id": "Name of the image.",
    "dx": "HAM10000's code of the entity that the caption asked for.",
    "dx_type": "Always synthetic: nobody has confirmed the entity.",
    "age": "Empty.",
    "sex": "Always unknown.",
    "localization": "Always unknown.",
    "dataset": "The generator, with ten digits over its weights.",
    "entity": "Plain name of the entity.",
    "caption": "The text from which the image was painted, as far as the model read it.",
    "seed": "Seed of the image's noise.",
    "file": "Path of the image in this folder.",
    "filename": "The same without its folder.",
    "source_image_id": "Empty: no original is paired with the image.",
    "sha256": "SHA-256 of the image file.",
}
WHOLE = {sample.WHOLE: "The whole text that was given; the model does not read all of it."}  # where it is cut
LICENCES = {
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "mit": "https://spdx.org/licenses/MIT.html",
}


@dataclass(frozen=True)
class Generator:
    """What paints a set. `paint(captions, seeds)` gives uint8 [n, side, side, 3]; an image follows from its own two.

    read: what the model reads of each caption, all of it by default.
    """

    described: weights_card.Weights
    paint: Callable[[list[str], list[int]], np.ndarray]
    read: Callable[[Sequence[str]], list[str]] = list


def make(weights_folder: str | Path, folder: str | Path, per_entity: int, seed: int = 0) -> Path:
    """`write` with the generator in `weights_folder`, which is not opened before number and seed are checked."""
    planned(per_entity, seed, "")
    return write(open_generator(weights_folder), folder, per_entity, seed)


def open_generator(folder: str | Path) -> Generator:
    """The generator in `folder` (base/ and upsampler/), with the sampler and the steps that its card measured.

    InputError where weights are missing or incomplete.
    """
    described = weights_card.describe(folder)
    base, upsampler = sample.stages(Path(folder) / "base", Path(folder) / "upsampler", described.sampling["SAMPLER"])

    def paint(captions: list[str], seeds: list[int]) -> np.ndarray:
        return sample.painted(base, upsampler, captions, seeds, described.sampling)

    return Generator(described, paint, lambda captions: sample.read_by(base, captions))


def planned(per_entity: int, seed: int, generator: str) -> pd.DataFrame:
    """One row an image in COLUMNS, but for the hash of a file that is not there yet.

    A larger set holds the images of a smaller one of the same seed. generator: its name. InputError for a number of
    images that is not 1 to 10,000, or a seed that is negative or longer than 32 bits.
    """
    if not 1 <= per_entity <= MOST:
        raise InputError(f"{per_entity} images an entity: give a number from 1 to {MOST:,}")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed}: give a whole number from 0 to {2**32 - 1}")
    frame = pd.DataFrame(
        [
            (f"synthetic_{entity.name.replace(' ', '_')}_{place:04d}", entity.code, entity.prompt)
            for entity in ENTITIES
            for place in range(per_entity)
        ],
        columns=["image_id", "dx", "caption"],
    )
    frame["seed"] = sample.seeds_for(frame["image_id"], seed)
    frame["filename"] = frame["image_id"] + ".png"
    frame["file"] = "images/" + frame["filename"]
    frame["entity"] = frame["dx"].map(NAMES)
    frame["lesion_id"] = frame["image_id"]
    constant = {"dx_type": "synthetic", "age": "", "sex": "unknown", "localization": "unknown", "dataset": generator}
    frame = frame.assign(**constant, source_image_id="", sha256="")
    return frame[list(COLUMNS)]


def write(generator: Generator, folder: str | Path, per_entity: int, seed: int = 0) -> Path:
    """Paint `per_entity` images of each entity and write the set to `folder`, whole or not at all; returns `folder`.

    A run that was cut short goes on where it stopped, and a finished set is kept, where generator, number and seed are
    the same. The same machine and seed give the same files, but for the date in croissant.json (SOURCE_DATE_EPOCH sets
    it). Prints a line a batch. InputError for a folder that holds something else, and as in `planned`.
    """
    folder = Path(folder)
    frame, published = planned(per_entity, seed, generator.described.name), workspace.today().isoformat()
    frame[sample.WHOLE], frame["caption"] = frame["caption"], generator.read(frame["caption"])
    settings = {
        "generator": generator.described.name,
        "sampling": generator.described.sampling,
        "images_per_entity": per_entity,
        "seed": seed,
        "batch": BATCH,
    }
    text = json.dumps(settings, indent=1) + "\n"
    if _finished(folder, text, len(frame)):
        return folder
    refused = f"another process is writing {workspace.shown(folder)}: wait for it, or name another folder"
    with locked(folder.with_name(f".{folder.name}.making.lock"), refused):
        if not _finished(folder, text, len(frame)):
            part = sample.taken_up(folder, text)
            _paint(generator, frame, part)
            _describe(generator.described, frame, part, settings, published)
            write_text(part / SETTINGS, text)
            part.rename(folder)
    return folder


def _finished(folder: Path, text: str, count: int) -> bool:
    """Whether `folder` holds the set of the settings `text`, `count` images; InputError where it holds something else."""
    if not folder.exists():
        return False
    if not (folder / SETTINGS).is_file() or (folder / SETTINGS).read_text(encoding="utf-8") != text:
        raise InputError(f"{workspace.shown(folder)} exists and holds something else: name a new folder, or remove it")
    print(f"{count} of {count} images are there, from the same weights, number and seed")
    return True


def _paint(generator: Generator, frame: pd.DataFrame, part: Path) -> None:
    """Those batches of images that `part` lacks, with their captions; a batch never mixes entities."""
    started, done, painted = time.monotonic(), 0, 0
    for _, rows in frame.groupby("dx", sort=False):
        for start in range(0, len(rows), BATCH):
            some = rows.iloc[start : start + BATCH]
            done += len(some)
            if all((part / file).is_file() for file in some["file"]):
                continue
            images = generator.paint(some[sample.WHOLE].tolist(), some["seed"].tolist())
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
    if row.caption_whole != row.caption:
        notes[sample.WHOLE] = row.caption_whole
    for name, value in notes.items():
        text.add_itxt(name, str(value))
    return text


def _describe(
    described: weights_card.Weights, frame: pd.DataFrame, folder: Path, settings: dict, published: str
) -> None:
    """The table, the Croissant file and the README beside the images in `folder`."""
    import jinja2

    frame = frame.assign(sha256=[sha256_file(folder / file) for file in frame["file"]])
    cut = not frame[sample.WHOLE].equals(frame["caption"])
    columns = COLUMNS | WHOLE if cut else COLUMNS
    with atomic_path(folder / TABLE) as path:
        frame[list(columns)].to_csv(path, index=False, lineterminator="\n")
    warnings = [*(f"The card of the weights: {text.replace('**', '')}" for text in described.warnings), *ALWAYS]
    notes = _croissant(described, columns, sha256_file(folder / TABLE), published, warnings)
    notes["description"] = (
        f"{len(frame)} synthetic dermatoscopic images of {frame['dx'].nunique()} entities, painted from text by "
        f"{described.name}. For research on synthetic data; not for diagnosis or any clinical use."
    )
    write_text(folder / CROISSANT, json.dumps(notes, indent=1, ensure_ascii=False) + "\n")
    sampling = ", ".join(f"{name.lower().replace('_', ' ')} {value}" for name, value in settings["sampling"].items())
    counts = {NAMES[code]: (code, count) for code, count in frame["dx"].value_counts(sort=False).items()}
    template = jinja2.Template(Path(__file__).with_suffix(".md").read_text(encoding="utf-8"), trim_blocks=True)
    values = {"weights": described, "settings": settings, "sampling": sampling, "warnings": warnings, "cut": cut}
    values |= {"images": len(frame), "counts": counts, "unknown": UNKNOWN, "cite_as": CITE_AS}
    write_text(folder / "README.md", template.render(values) + "\n")


def _croissant(
    described: weights_card.Weights, columns: dict[str, str], sha256: str, published: str, warnings: list[str]
) -> dict:
    """croissant.json filled for one set: the specification 1.0 of MLCommons (arXiv 2403.19546), RAI 1.0 for the warnings.

    columns: what each column of the table holds, by name; sha256: of the table; published: a date as YYYY-MM-DD.
    """
    notes = json.loads(Path(__file__).with_name(CROISSANT).read_text(encoding="utf-8"))
    notes |= {
        "license": LICENCES.get(described.licence, described.licence) or UNKNOWN,
        "citeAs": CITE_AS,
        "version": workspace.versions("dermstudy")["dermstudy"],
        "datePublished": published,
        "rai:dataLimitations": warnings,
    }
    notes["distribution"][0]["sha256"] = sha256
    fields = []
    for name, meaning in columns.items():
        field = {"@type": "cr:Field", "@id": f"images/{name}", "name": name, "description": meaning}
        field["dataType"] = "sc:Integer" if name == "seed" else "sc:Text"
        field["source"] = {"fileObject": {"@id": TABLE}, "extract": {"column": name}}
        if name == "filename":
            field["references"] = {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "filename"}}
        fields.append(field)
    notes["recordSet"][0]["field"][:0] = fields  # before the pixels
    return notes
