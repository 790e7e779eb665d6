"""A folder of weights as it ships: the hash that names it, and what its model card says of licence, limits and settings.

Sources: Mitchell et al., "Model cards for model reporting" (arXiv 1810.03993); the front matter is Hugging Face's.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import yaml

from dermstudy.files import InputError, content_hash, sha256_text

FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.S)
LINEAGE = (
    "lineage.json"  # in a folder of weights: the recipe of each network, and the settings that it was measured with
)
SITTINGS = "sittings.csv"  # in its tables/: a line a sitting of training
LOG = "training_{}.csv"  # in its tables/: the training of "base" or "upsampler"
# What the weights that ship were measured with; a folder that says otherwise in its lineage is taken at its word.
SAMPLING = {
    "GUIDANCE_SCALE": 3.0,
    "GUIDANCE_INTERVAL": [],
    "SAMPLER": "dpm-solver",
    "BASE_STEPS": "20",
    "UPSAMPLE_STEPS": "8",
}


@dataclass(frozen=True)
class Weights:
    """What a folder of weights says of itself."""

    name: str  # of `name_of`
    licence: str  # an SPDX identifier in lower case, as Hugging Face writes it; "" where no card names one
    warnings: tuple[str, ...]  # what the card opens with in bold, one paragraph each
    sampling: dict = field(
        default_factory=lambda: dict(SAMPLING)
    )  # the settings of 03_sample that it was measured with


def describe(folder: str | Path) -> Weights:
    """What `folder` says of itself in README.md and lineage.json, where it has them.

    InputError where the folder is missing, holds no weights, or has a card or a lineage that cannot be read.
    """
    folder = Path(folder)
    if not any(folder.rglob("*.safetensors")):
        raise InputError(f"no weights in {folder}: give a folder with base/ and upsampler/, such as weights/glide-mini")
    card = folder / "README.md"
    try:
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        licence = str(front_matter(text).get("license", ""))
        sampling = SAMPLING | lineage(folder).get("sampling", {})
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"{folder}: its card or lineage cannot be read ({' '.join(str(error).split())})") from error
    return Weights(name_of(folder), licence, warnings_of(text), sampling)


def lineage(folder: str | Path) -> dict:
    """What lineage.json of a folder of weights holds; nothing where there is none."""
    path = Path(folder) / LINEAGE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def training_hours(stage: str | Path) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The log of the training that the weights in `stage` (…/base or …/upsampler) come from, and its sittings.

    Columns step, images, loss, learning_rate, hours (on one core), gpu_hours; and sitting, images, hours, gpu_hours, kid,
    low, high, floor among others.
    None where none came with them.
    """
    stage = Path(stage)
    log, lines = (stage.parent / "tables" / name for name in (LOG.format(stage.name), SITTINGS))
    if not (log.is_file() and lines.is_file()):
        return None
    sittings = pd.read_csv(lines)
    return pd.read_csv(log), sittings[sittings["model"] == stage.name].reset_index(drop=True)


def name_of(folder: str | Path) -> str:
    """The name of a folder of models, and ten digits over all that its two stages hold."""
    hashes = [content_hash(Path(folder) / stage) for stage in ("base", "upsampler")]
    return f"{Path(folder).resolve().name} {sha256_text(' '.join(hashes))[:10]}"


def front_matter(card: str) -> dict:
    """The YAML between the lines of three dashes that a card opens with; empty where there is none."""
    found = FRONT_MATTER.match(card)
    return (yaml.safe_load(found[1]) or {}) if found else {}


def warnings_of(card: str) -> tuple[str, ...]:
    """The paragraphs before a card's first section that open in bold, each on one line."""
    opening = FRONT_MATTER.sub("", card).partition("\n## ")[0]
    paragraphs = (" ".join(part.split()) for part in opening.split("\n\n"))
    return tuple(part for part in paragraphs if part.startswith("**"))
