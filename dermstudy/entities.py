"""The seven diagnostic entities: HAM10000's codes, the paper's class numbers and the names the study uses.

Sources: Tschandl et al., Scientific Data 5, 180161 (2018) for the codes; Shavlokhova et al., Front. Med. 2023,
Table 1 for the labels and the legend of Table 2 for the class numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dermstudy.files import InputError


@dataclass(frozen=True)
class Entity:
    """One diagnostic entity. `paper_class` is the number in the legends of Tables 2 and 3."""

    code: str
    name: str
    paper_class: int
    paper_label: str
    prompt: str
    colour: str


# Paul Tol's "muted" qualitative scheme, safe for colour-blind readers.
ENTITIES = (
    Entity("mel", "melanoma", 1, "Melanoma", "melanoma", "#332288"),
    Entity("nv", "melanocytic nevus", 2, "Melanocytic nevi", "melanocytic nevus", "#DDCC77"),
    Entity(
        "akiec",
        "actinic keratosis",
        3,
        "Actinic keratoses and intraepithelial carcinoma/Bowen's disease",
        "actinic keratosis",
        "#CC6677",
    ),
    Entity(
        "bkl",
        "benign keratosis",
        4,
        "Benign keratosis-like lesions (solar lentigines/seborrheic keratoses and lichen-planus like keratoses)",
        "benign keratosis",
        "#117733",
    ),
    Entity("bcc", "basal cell carcinoma", 5, "Basal cell carcinoma", "basal cell carcinoma", "#88CCEE"),
    Entity("df", "dermatofibroma", 6, "Dermatofibroma", "dermatofibroma", "#999933"),
    Entity("vasc", "vascular lesion", 7, "Vascular lesions (angiomas)", "vascular lesion", "#AA4499"),
)
HAM10000_IMAGES = {
    "mel": 1113,
    "nv": 6705,
    "akiec": 327,
    "bkl": 1099,
    "bcc": 514,
    "df": 115,
    "vasc": 142,
}  # 10,015 in all
CODES = tuple(entity.code for entity in ENTITIES)
NAMES = {entity.code: entity.name for entity in ENTITIES}
PROMPTS = tuple(entity.prompt for entity in ENTITIES)
COLOURS = {entity.code: entity.colour for entity in ENTITIES}


def by_code(code: str) -> Entity:
    """The entity with HAM10000's `code`; InputError names the known codes."""
    for entity in ENTITIES:
        if entity.code == code:
            return entity
    raise InputError(f"unknown entity code {code!r}: HAM10000 knows {', '.join(CODES)}")


def codes_of(names: Iterable[str], count: int | None = None) -> list[str]:
    """HAM10000's codes of entities given by name ("melanoma") or by code.

    InputError for one that is neither, and where they are not `count` different ones.
    """
    known = {entity.name: entity.code for entity in ENTITIES} | {code: code for code in CODES}
    names = list(names)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"unknown entity {unknown[0]!r}: choose {', '.join(NAMES.values())}")
    codes = [known[name] for name in names]
    if count is not None and (len(codes), len(set(codes))) != (count, count):
        raise InputError(f"{count} different entities are wanted, not {', '.join(names) or 'none'}")
    return codes
