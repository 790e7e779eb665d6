"""The tables of a folder of images: HAM10000's metadata, and any others, joined by image; which entity a diagnosis names.

Sources: Tschandl et al., Scientific Data 5, 180161 (2018), for HAM10000's columns and for what each entity takes in; the
metadata of the ISIC archive (isic_id, diagnosis, or diagnosis_1 to diagnosis_5 from the general to the special; image_type)
and of its challenges of 2018 to 2020, which keep a column a class, lesions and patients in tables apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dermstudy.data.image_files import suffixes
from dermstudy.entities import CODES, ENTITIES, NAMES
from dermstudy.files import InputError
from dermstudy.tables import MISSING, Table, clean, columns_of, missing, read_table

METADATA_NAMES = tuple(f"HAM10000_metadata{suffix}" for suffix in (".csv", ".tab", "", ".tsv", ".xlsx"))
COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset")
REQUIRED = tuple(column for column in COLUMNS if column not in ("dx_type", "dataset"))  # which copies leave out
OLDEST = 120  # years
TABLE_ENDS = (".csv", ".tab", ".tsv", ".xlsx")
ID_COLUMNS = ("image_id", "isic_id", "image", "image_name")
DX_COLUMNS = ("dx", "diagnosis_5", "diagnosis_4", "diagnosis_3", "diagnosis_2", "diagnosis_1", "diagnosis")
CLASSES = (*CODES, "ak", "scc", "unk")  # the challenges' columns, 1 in that of the diagnosis
GROUP_COLUMNS = ("lesion_id", "patient_id")
TYPE_COLUMNS = ("image_type", "modality", "meta.acquisition.image_type")
WANTED = (*ID_COLUMNS, *DX_COLUMNS, *GROUP_COLUMNS, *TYPE_COLUMNS)
FIELDS = ("diagnosis", *GROUP_COLUMNS, "image_type")
# "dermoscopic" in the archive; "TBP tile: …", "clinical: …" and "RCM: …" are other pictures.
DERMOSCOPIC = re.compile(
    r"((digital|contact|polari[sz]ed|non contact|non polari[sz]ed) )*derm(at)?oscop(y|ic|ical)( images?)?"
)
# Terms of each entity beside its code and names. Squamous cell carcinoma is none of them where it may be invasive.
TERMS = {
    "mel": "melanoma in situ; melanoma invasive; melanoma metastasis; lentigo maligna; malignant melanoma",
    "nv": "nevus; naevus; melanocytic naevus; nevi; benign nevus",
    "akiec": "ak; actinic keratoses; solar or actinic keratosis; solar keratosis; bowens disease; bowen disease; "
    "squamous cell carcinoma in situ; intraepithelial carcinoma",
    "bkl": "benign keratosis like lesion; pigmented benign keratosis; seborrheic keratosis; seborrhoeic keratosis; "
    "solar lentigo; lichen planus like keratosis; lichenoid keratosis",
    "bcc": "basal cell carcinomas",
    "df": "dermatofibromas; fibrous histiocytoma",
    "vasc": "vascular; angioma; hemangioma; haemangioma; cherry angioma; angiokeratoma; pyogenic granuloma",
}
VAGUE = ("", "unknown", "unk", "benign", "malignant", "indeterminate")  # says nothing against a diagnosis


# Diagnoses


def entity_of(diagnoses: Iterable[str]) -> str | None:
    """The entity code of the first of `diagnoses` that is a term of one, None where none is: "Nevus, NOS" is a nevus."""
    texts = (text for diagnosis in diagnoses for text in (diagnosis, diagnosis.partition(",")[0]))
    return next((code for text in texts if (code := _VOCABULARY.get(plain_term(text)))), None)


def plain_term(text: str) -> str:
    """A term in lower case without punctuation and brackets' content."""
    kept = "".join(letter if letter.isalnum() else " " for letter in text.partition("(")[0].replace("'", "").lower())
    return " ".join(kept.split())


def is_dermoscopic(image_type: str) -> bool:
    """Whether a kind of picture, as a table names it, is a dermatoscopic image."""
    return bool(DERMOSCOPIC.fullmatch(plain_term(image_type)))


_VOCABULARY = {
    plain_term(term): entity.code
    for entity in ENTITIES
    for term in (
        entity.code, entity.name, entity.prompt, f"{entity.name}s", f"{entity.name} lesions", *TERMS[entity.code].split("; ")
    )
}  # fmt: skip


# Names of images


def image_names(table: Table, column: str) -> pd.Series:
    """The images that a column names, by line, without a folder before a name or the file's ending behind it.

    InputError for a blank cell and for an image that stands twice.
    """
    names = table.filled(column).map(_image_name)
    double = names.index[names.duplicated()]
    if len(double):
        name = names[double[0]]
        raise InputError(
            f"{table.where(double[0])}: {column} {name} stands twice, first in {names.index[names == name][0]}; "
            "remove one of the rows"
        )
    return names


def _image_name(text: str) -> str:
    name = clean(text).replace("\\", "/").rpartition("/")[2]
    stem, dot, end = name.rpartition(".")
    return stem if f"{dot}{end.lower()}" in suffixes() else name


# HAM10000's metadata


def read_folder(folder: Path) -> tuple[Path, pd.DataFrame]:
    """The metadata file of a folder in HAM10000's layout, and its rows (`read_metadata`).

    InputError where there is none, or several that differ.
    """
    paths = [folder / name for name in METADATA_NAMES if (folder / name).is_file()]
    if not paths:
        raise InputError(f"no metadata in {folder}: it needs one of {', '.join(METADATA_NAMES)} beside the images")
    frames = [read_metadata(path) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        if not frame[list(REQUIRED)].equals(frames[0][list(REQUIRED)]):
            raise InputError(f"{paths[0].name} and {path.name} in {folder} differ: keep the one that is right")
    return paths[0], frames[0]


def read_metadata(path: Path) -> pd.DataFrame:
    """COLUMNS of a metadata table, sorted by image_id: age in years or NaN, the others text; a lacking one is "".

    InputError, in one line, for: what `read_table` refuses, a lacking column of REQUIRED, an empty cell of lesion_id,
    image_id or dx, an unknown dx, an image twice, an age that is none, and a lesion of several entities.
    """
    table = read_table(path, COLUMNS)
    print(*table.notes, sep="\n", end="\n" * bool(table.notes))
    table.require(*REQUIRED)
    frame = table.frame.reindex(columns=list(COLUMNS), fill_value="")
    frame["lesion_id"], frame["image_id"] = table.filled("lesion_id"), image_names(table, "image_id")
    known = {code: code for code in CODES} | {name: code for code, name in NAMES.items()}
    frame["dx"] = table.filled("dx").str.lower().map(known)
    unknown = frame.index[frame["dx"].isna()]
    if len(unknown):
        row = unknown[0]
        raise InputError(
            f"{table.where(row)}: unknown dx {table.frame['dx'][row]!r} of {frame['image_id'][row]}; "
            f"known are {', '.join(CODES)}"
        )
    frame["age"] = table.numbers("age", 0, OLDEST, "a number of years")
    frame["sex"] = frame["sex"].str.lower()
    for column in ("dx_type", "sex", "localization", "dataset"):  # "unknown" is a value that HAM10000 gives
        lower = frame[column].str.lower()
        frame[column] = frame[column].where(~lower.isin(MISSING), "").where(lower != "unknown", "unknown")
    mixed = frame.groupby("lesion_id")["dx"].nunique()
    if (mixed > 1).any():
        lesion_id = mixed.index[mixed > 1][0]
        entities = ", ".join(sorted(set(frame.loc[frame["lesion_id"] == lesion_id, "dx"])))
        raise InputError(f"{path}: lesion {lesion_id} has images of several entities ({entities}); mend its dx")
    return frame.sort_values("image_id").reset_index(drop=True)


# Any tables


@dataclass(frozen=True)
class Described:
    """What the tables of a folder say. frame: image_id and FIELDS, a row an image, "" or [] where nothing is said.

    typed: whether a table names the kind of picture. names: the tables that were read. notes: what a user must know.
    """

    frame: pd.DataFrame
    typed: bool
    names: str
    notes: tuple[str, ...]


def read_tables(folder: Path) -> Described:
    """Every table of `folder` that names images, joined by image.

    A table without a column of images is left out by name, and so is one that says nothing of them. InputError, in one
    line, for: no table, one that cannot be read, no column of images or of diagnoses, a blank or repeated image, a row
    that marks several classes, and two tables that contradict each other.
    """
    paths = sorted(path for path in folder.iterdir() if _is_table(path))
    if not paths:
        raise InputError(f"no table in {folder}: it needs a .csv with image_id (or isic_id) and dx (or diagnosis)")
    columns = {path: columns_of(path, WANTED) for path in paths}
    of_images = [path for path in paths if columns[path] & set(ID_COLUMNS)]
    diagnosed = [path for path in of_images if columns[path] & set(DX_COLUMNS) or len(columns[path] & set(CLASSES)) > 1]
    if not diagnosed:
        found = ", ".join(path.name for path in of_images or paths)
        raise InputError(
            f"{found} in {folder}: no column of {'diagnoses' if of_images else 'images'}; it needs one of "
            f"{', '.join(DX_COLUMNS if of_images else ID_COLUMNS)}"
        )
    read = [path for path in of_images if path in diagnosed or columns[path] & {*GROUP_COLUMNS, *TYPE_COLUMNS}]
    tables = [read_table(path, WANTED) for path in read]
    notes = [note for table in tables for note in table.notes]
    left = [path.name for path in paths if path not in read]
    if left:
        notes.append(f"tables left out, for they say nothing of images: {', '.join(left)}")
    typed = any(columns[path] & set(TYPE_COLUMNS) for path in read)
    return Described(_joined(tables), typed, ", ".join(path.name for path in read), tuple(notes))


def _is_table(path: Path) -> bool:
    named = path.suffix.lower() in TABLE_ENDS or path.name in METADATA_NAMES
    return named and not path.name.startswith((".", "~$")) and path.is_file()


def _joined(tables: list[Table]) -> pd.DataFrame:
    images: dict[str, dict] = {}
    where: dict[tuple[str, str], str] = {}  # which row gave a value first
    for table in tables:
        for line, image_id, *values in _part(table).itertuples(name=None):
            row = images.setdefault(image_id, {"diagnosis": [], **dict.fromkeys(FIELDS[1:], "")})
            for field, value in zip(FIELDS, values, strict=True):
                if not value:
                    continue
                if row[field] and not _same(field, row[field], value):
                    raise InputError(
                        f"{table.where(line)}: {image_id} has {field} {_words(value)}, and {where[image_id, field]} says "
                        f"{_words(row[field])}: mend one of them"
                    )
                if not row[field] or (field == "diagnosis" and entity_of(value) and not entity_of(row[field])):
                    row[field], where[image_id, field] = value, table.where(line)
    return pd.DataFrame([{"image_id": image_id, **row} for image_id, row in images.items()])


def _same(field: str, first: str | list[str], second: str | list[str]) -> bool:
    """Whether two tables agree on an image; diagnoses do where they name the same entity, or one of them says nothing."""
    if field == "diagnosis":
        vague = (all(plain_term(name) in VAGUE for name in names) for names in (first, second))
        return entity_of(first) == entity_of(second) or any(vague)
    return is_dermoscopic(first) == is_dermoscopic(second) if field == "image_type" else first == second


def _words(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _part(table: Table) -> pd.DataFrame:
    """image_id and FIELDS of one table, by line."""
    identity = next(column for column in ID_COLUMNS if column in table.frame)
    table.require(identity)
    cells = table.frame.apply(lambda column: column.where(~missing(column), ""))
    part = pd.DataFrame({"image_id": image_names(table, identity), "diagnosis": _diagnoses(table)})
    for column in GROUP_COLUMNS:
        part[column] = cells[column] if column in cells else ""
    types = cells[[column for column in TYPE_COLUMNS if column in cells]].itertuples(index=False, name=None)
    part["image_type"] = [next(iter(sorted(filter(None, row), key=is_dermoscopic)), "") for row in types]
    return part


def _diagnoses(table: Table) -> list[list[str]]:
    """The names of each row's diagnosis, the most special first."""
    frame = table.frame
    named = [column for column in DX_COLUMNS if column in frame]
    if named:
        cells = frame[named].apply(lambda column: column.where(~missing(column), ""))
        return [[name for name in row if name] for row in cells.itertuples(index=False, name=None)]
    classes = [column for column in CLASSES if column in frame]
    if len(classes) < 2:
        return [[] for _ in frame.index]
    marks = pd.DataFrame({column: table.numbers(column, 0, 1, "a mark from 0 to 1") for column in classes}) == 1
    several = marks.index[marks.sum(axis=1) > 1]
    if len(several):
        chosen = ", ".join(column for column in classes if marks[column][several[0]])
        raise InputError(f"{table.where(several[0])} marks several classes ({chosen}): mark one")
    return [[column for column in classes if row[classes.index(column)]] for row in marks.to_numpy()]
