"""Other people's images: a folder in HAM10000's or ISIC's layout, its diagnoses as the seven entities, nothing known in it.

Sources: the metadata of the ISIC archive (isic_id, diagnosis, or diagnosis_1 to diagnosis_5 from the general to the
special) and of its challenges of 2018 and 2019 (a column a class); Tschandl et al., Scientific Data 5, 180161 (2018), for
what each entity takes in.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pandas as pd

from dermstudy.data.dataset import METADATA_NAMES, THREADS, Cohort
from dermstudy.data.near_duplicates import across
from dermstudy.entities import CODES, ENTITIES, NAMES
from dermstudy.files import InputError, sha256_file, sha256_text

PICTURES = (".jpg", ".jpeg", ".png")
ID_COLUMNS = ("image_id", "isic_id", "image", "image_name")
DX_COLUMNS = ("dx", "diagnosis_5", "diagnosis_4", "diagnosis_3", "diagnosis_2", "diagnosis_1", "diagnosis")
GROUP_COLUMNS = ("lesion_id", "patient_id")
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
SHOWN = 5  # images that a message names


@dataclass(frozen=True)
class External:
    """A cohort of other people's images (its frame: image_id, lesion_id, group, dx, file, caption).

    left_out: how many rows each diagnosis that is none of the seven entities had. absent: codes of entities without image.
    """

    cohort: Cohort
    left_out: dict[str, int]
    absent: tuple[str, ...]

    def lines(self) -> list[str]:
        """What a reader must know of it, in sentences."""
        counts = self.cohort.frame["dx"].value_counts()
        present = ", ".join(f"{NAMES[code]} {counts[code]}" for code in CODES if code in counts)
        said = [f"{len(self.cohort)} images of {self.cohort.frame['group'].nunique()} lesions: {present}"]
        if self.absent:
            said.append(f"absent, so in no score: {', '.join(NAMES[code] for code in self.absent)}")
        if self.left_out:
            ordered = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
            named = ", ".join(f"{diagnosis or 'no diagnosis'} {count}" for diagnosis, count in ordered)
            said.append(f"left out, for they are none of the seven entities: {named}")
        return said


def load_external(folder: str | Path, known: Cohort | None = None, cache_folder: str | Path | None = None) -> External:
    """The images of `folder` whose diagnosis is one of the seven entities, refused where `known` holds any of them.

    The folder holds one table, in HAM10000's layout, the ISIC archive's (isic_id, diagnosis columns) or a challenge's (a
    column a class), and its images at any depth. A row without a lesion or patient is a lesion of its own. ISIC's close-up
    and overview photographs are left out. cache_folder: where features of `known` for the near-duplicate search are kept.
    InputError, in one line, for: no such folder, no or several tables, an unreadable one, one without an image or
    diagnosis column, an image twice or missing, no row of a known entity, one entity only, and, by name, images of `known`
    (the same id or file, or the same skin in another picture).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: give a folder with images and a table of their diagnoses")
    path = _table_of(folder)
    frame = _read(path)
    frame["dx"] = [entity_of(diagnosis) for diagnosis in frame["diagnosis"]]
    unknown = frame["dx"].isna()
    left_out = frame["diagnosis"][unknown].map(lambda names: names[0] if names else "").value_counts().to_dict()
    frame = frame[~unknown].sort_values("image_id").reset_index(drop=True)
    if frame.empty:
        named = ", ".join(f"{name or 'nothing'}" for name in list(left_out)[:SHOWN])
        raise InputError(
            f"{path} names no known entity, but {named}: name {', '.join(entity.name for entity in ENTITIES)} or "
            f"HAM10000's codes {', '.join(CODES)}"
        )
    if frame["dx"].nunique() == 1:
        raise InputError(f"{path} names {NAMES[frame['dx'][0]]} only: a classifier is scored on two entities or more")
    frame["file"] = _files(folder, path, frame["image_id"])
    frame["caption"] = frame["dx"].map(NAMES)
    content = _digests(folder, frame["file"])
    table = frame[["image_id", "dx", "group"]].assign(sha256=content).to_csv(index=False, lineterminator="\n")
    columns = ["image_id", "lesion_id", "group", "dx", "file", "caption"]
    cohort = Cohort(folder.name, folder, frame[columns], sha256_text(table))
    if known is not None:
        refuse_known(cohort, known, cache_folder)
    return External(cohort, left_out, tuple(code for code in CODES if code not in set(frame["dx"])))


def entity_of(diagnoses: Iterable[str]) -> str | None:
    """The entity code of the first of `diagnoses` that is a term of one, None where none is: "Nevus, NOS" is a nevus."""
    for diagnosis in diagnoses:
        for text in (diagnosis, diagnosis.partition(",")[0]):
            code = _VOCABULARY.get(_plain(text))
            if code:
                return code
    return None


def refuse_known(cohort: Cohort, known: Cohort, cache_folder: str | Path | None = None) -> None:
    """InputError that names the images of `cohort` that `known` holds: by id, by file, or by the skin that they show."""
    ids = {_plain_id(image_id): image_id for image_id in known.frame["image_id"]}
    same = [(own, ids[_plain_id(own)]) for own in cohort.frame["image_id"] if _plain_id(own) in ids]
    _refuse(cohort, known, same, "the same image_id")
    contents = dict(zip(_digests(known.root, known.frame["file"]), known.frame["image_id"], strict=True))
    own = zip(cohort.frame["image_id"], _digests(cohort.root, cohort.frame["file"]), strict=True)
    same = [(image_id, contents[digest]) for image_id, digest in own if digest in contents]
    _refuse(cohort, known, same, "the same file")
    pairs = across(cohort, known, cache_folder=cache_folder)
    same = list(pairs[["image_id", "other_image_id"]].itertuples(index=False, name=None))
    _refuse(cohort, known, same, "the same skin")


def _refuse(cohort: Cohort, known: Cohort, same: list[tuple[str, str]], how: str) -> None:
    if same:
        named = ", ".join(f"{own} ({other})" for own, other in same[:SHOWN])
        rest = " …" if len(same) > SHOWN else ""
        raise InputError(
            f"{len(same)} images of {cohort.root} are known from {known.name} by {how}: {named}{rest}; remove them, for a "
            "network may have learned from them"
        )


def _table_of(folder: Path) -> Path:
    tables = [folder / name for name in (*METADATA_NAMES, "metadata.csv") if (folder / name).is_file()]
    tables = tables or sorted(path for path in folder.iterdir() if path.suffix.lower() in (".csv", ".tab", ".tsv"))
    if not tables:
        raise InputError(f"no table in {folder}: it needs a .csv with image_id (or isic_id) and dx (or diagnosis)")
    if len(tables) > 1:
        named = ", ".join(path.name for path in tables[:SHOWN])
        raise InputError(f"{folder} holds several tables ({named}): keep the one with images and diagnoses")
    return tables[0]


def _read(path: Path) -> pd.DataFrame:
    """Columns image_id, lesion_id, group and diagnosis (a list of names, the most special first) of a table's rows."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = "\t" if "\t" in text.partition("\n")[0] else ","
        table = pd.read_csv(StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error
    table = table.rename(columns=lambda name: str(name).strip().lower()).map(str.strip, na_action="ignore").fillna("")
    identity = next((column for column in ID_COLUMNS if column in table), None)
    named = [column for column in DX_COLUMNS if column in table]
    classes = [column for column in table if column in CODES or column in ("ak", "scc", "unk")]
    if identity is None or not (named or classes):
        raise InputError(
            f"{path} has no column of {'images' if identity is None else 'diagnoses'}: it needs one of "
            f"{', '.join(ID_COLUMNS if identity is None else DX_COLUMNS)}"
        )
    if "image_type" in table:  # the ISIC archive keeps close-up and overview photographs beside dermatoscopic ones
        table = table[~table["image_type"].str.lower().str.startswith(("clinical", "overview"))]
    if table.empty:
        raise InputError(f"{path} has a header but no row of a dermatoscopic image: download it again")
    for row, image_id in zip(table.index, table[identity], strict=True):
        if image_id == "":
            raise InputError(f"{path}, line {row + 2}: {identity} is empty; fill it in")
    double = table.index[table[identity].duplicated()]
    if len(double):
        raise InputError(f"{path}, line {double[0] + 2}: {table[identity][double[0]]} stands twice; remove a row")
    frame = pd.DataFrame({"image_id": table[identity]})
    frame["lesion_id"] = table[identity]
    for column in reversed(GROUP_COLUMNS):
        if column in table:
            frame["lesion_id"] = table[column].where(table[column] != "", frame["lesion_id"])
    frame["group"] = frame["lesion_id"]
    if named:
        frame["diagnosis"] = [[name for name in row if name] for row in table[named].itertuples(index=False, name=None)]
    else:
        marks = table[classes].apply(pd.to_numeric, errors="coerce") == 1
        frame["diagnosis"] = [[column for column in classes if marks[column][row]] for row in table.index]
    return frame.reset_index(drop=True)


def _files(folder: Path, table: Path, image_ids: pd.Series) -> pd.Series:
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURES and not path.name.startswith("."):
            found.setdefault(path.stem, path.relative_to(folder).as_posix())
    files = image_ids.map(lambda image_id: found.get(image_id) or found.get(Path(image_id).stem))
    missing = list(image_ids[files.isna()])
    if missing:
        raise InputError(
            f"{len(missing)} of {len(image_ids)} images of {table.name} are not in {folder}: "
            f"{', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}; add them, or remove their rows"
        )
    return files


def _digests(folder: Path, files: pd.Series) -> list[str]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda file: sha256_file(folder / file), files))


def _plain(text: str) -> str:
    """A term in lower case without punctuation and brackets' content."""
    kept = "".join(letter if letter.isalnum() else " " for letter in text.partition("(")[0].replace("'", "").lower())
    return " ".join(kept.split())


def _plain_id(image_id: str) -> str:
    return Path(image_id).name.removesuffix(".jpg").removesuffix("_downsampled").lower()


def _vocabulary() -> dict[str, str]:
    words: dict[str, str] = {}
    for entity in ENTITIES:
        terms = [entity.code, entity.name, entity.prompt, *TERMS[entity.code].split("; ")]
        words |= {_plain(term): entity.code for term in [*terms, *(f"{entity.name}s", f"{entity.name} lesions")]}
    return words


_VOCABULARY = _vocabulary()
