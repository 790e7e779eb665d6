"""What a folder of weights says of itself: its name, its licence, its warnings, and how it was sampled when it was measured.

Sources: Mitchell et al., "Model cards for model reporting" (arXiv 1810.03993); the front matter is Hugging Face's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dermstudy.diffusion.weights import lineage
from dermstudy.files import InputError, content_hash, line_of, sha256_text
from dermstudy.weight_files import check_shipped

FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.S)
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

    InputError where the folder is missing, holds no weights, has a card or a lineage that cannot be read, or shipped otherwise.
    """
    folder = Path(folder)
    check_shipped(folder)
    if not any(folder.rglob("*.safetensors")):
        raise InputError(f"no weights in {folder}: give a folder with base/ and upsampler/, such as weights/glide-mini")
    card = folder / "README.md"
    try:
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        licence = str(front_matter(text).get("license", ""))
        sampling = SAMPLING | lineage(folder).get("sampling", {})
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise InputError(f"{card} cannot be read: {line_of(error)}") from error
    return Weights(name_of(folder), licence, warnings_of(text), sampling)


def name_of(folder: str | Path) -> str:
    """The name of a folder of models, and ten digits over all that its two stages hold."""
    hashes = [content_hash(Path(folder) / stage) for stage in ("base", "upsampler")]
    return f"{Path(folder).resolve().name} {sha256_text(' '.join(hashes))[:10]}"


def front_matter(card: str) -> dict:
    """The YAML between the lines of three dashes that a card opens with; empty where there is none, or no mapping."""
    found = FRONT_MATTER.match(card)
    content = yaml.safe_load(found[1]) if found else None
    return content if isinstance(content, dict) else {}


def warnings_of(card: str) -> tuple[str, ...]:
    """The paragraphs before a card's first section that open in bold, each on one line."""
    opening = FRONT_MATTER.sub("", card).partition("\n## ")[0]
    paragraphs = (" ".join(part.split()) for part in opening.split("\n\n"))
    return tuple(part for part in paragraphs if part.startswith("**"))
