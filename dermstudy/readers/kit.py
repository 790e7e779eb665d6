"""A blinded reader study: which images are drawn and under which names, its key, its readers' answers.

Source: Shavlokhova et al., section 2.3 (ten AI and ten original images an entity, names and order without meaning).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dermstudy.entities import CODES
from dermstudy.files import InputError, atomic_path, sha256_text
from dermstudy.readers.workbook import SOURCES, read_answers
from dermstudy.tables import read_table, write_csv

SIMULATED = "simulated reader"
KEY_COLUMNS = ("kit", "image", "source", "entity", "original_name")
# No word, month or number can be spelled with these, so no spreadsheet program rewrites a name.
CONSONANTS = str.maketrans("0123456789abcdef", "bcdfghjklmnpqrst")
LENGTHS = {"kit": 12, "image": 10}  # letters of a name
DRAWN = {column: f"[0-9a-f]{{{n}}}|[b-df-hj-np-t]{{{n}}}" for column, n in LENGTHS.items()}  # older kits: digits
NUMBER = r"[+-]?[0-9.,]+([eE][+-]?[0-9]+)?"


def draw(synthetic: pd.DataFrame, originals: pd.DataFrame, per_entity: int, salt: str) -> pd.DataFrame:
    """The key of a kit: which images, one a lesion, and under which names; a function of `salt` and the frames.

    Columns KEY_COLUMNS, in the alphabetical order of the names. InputError where an entity has too few images.
    """
    random = np.random.default_rng(int(sha256_text(salt)[:16], 16))
    chosen = [
        *_draw(synthetic, "AI", per_entity, random),
        *_draw(originals.drop_duplicates(_group(originals)), "original", per_entity, random),
    ]
    kit = _name(" ".join([salt, *(name for _, _, name in chosen)]), "kit")
    rows = [(kit, _name(f"{salt} {source} {name}", "image"), source, entity, name) for source, entity, name in chosen]
    return pd.DataFrame(rows, columns=KEY_COLUMNS).sort_values("image", ignore_index=True)


def _name(text: str, column: str) -> str:
    return sha256_text(text)[: LENGTHS[column]].translate(CONSONANTS)


def _group(frame: pd.DataFrame) -> str:
    return next(column for column in ("group", "lesion_id", "image_id") if column in frame)


def _draw(frame: pd.DataFrame, source: str, count: int, random: np.random.Generator) -> list[tuple[str, str, str]]:
    if count < 1:
        raise InputError(f"{count} images an entity: give at least 1")
    chosen = []
    for code in CODES:
        names = np.sort(frame.loc[frame["dx"] == code, "image_id"].to_numpy())
        if len(names) < count:
            what = "synthetic images" if source == "AI" else "held-out lesions"
            raise InputError(f"{code} has {len(names)} {what}, the kit needs {count}: lower --per-entity")
        chosen += [(source, code, str(name)) for name in random.choice(names, count, replace=False)]
    return chosen


def open_key(path: str | Path) -> pd.DataFrame:
    """The key: kit, image, source, entity, original_name, one row an image. InputError for any other file."""
    if not Path(path).exists():
        raise InputError(f"no key {path}: 'kit build' writes it beside the kit; give that file")
    table = read_table(path, KEY_COLUMNS)
    table.require(*KEY_COLUMNS)
    key = table.frame
    for column in LENGTHS:
        made_numbers = key.index[_made_number(key[column], column, key)]
        if len(made_numbers):
            raise InputError(
                f"{table.where(made_numbers[0], column)}: a spreadsheet program made the number "
                f"{key[column][made_numbers[0]]} of a name in the column {column}; use the key that 'kit build' wrote"
            )
    if key["kit"].nunique() != 1:
        raise InputError(f"{path} is the key of {key['kit'].nunique()} kits: give the key of one")
    if key["image"].duplicated().any() or not key["source"].isin(SOURCES).all() or not key["entity"].isin(CODES).all():
        raise InputError(f"the key {path} was changed: it names an image twice, or an unknown source or entity")
    return key.reset_index(drop=True)


def _made_number(names: pd.Series, column: str, key: pd.DataFrame) -> pd.Series:
    """Which names, bool [n], are a number that a spreadsheet program made; none where `build` drew no name of the key."""
    drawn = key["image"].str.fullmatch(DRAWN["image"]).any()
    return names.str.fullmatch(NUMBER) & ~names.str.fullmatch(DRAWN[column]) & drawn


def refuse_foreign(answers: pd.DataFrame, key: pd.DataFrame) -> None:
    """InputError for answers to an image that the key lacks."""
    foreign = answers[~answers["image"].isin(key["image"])]
    if foreign.empty:
        return
    reader, image = foreign[["reader", "image"]].iloc[0]
    if _made_number(foreign["image"], "image", key).iloc[0]:
        raise InputError(
            f"reader {reader!r}: a spreadsheet program made the number {image} of an image's name; "
            "use the file that 'kit export' wrote"
        )
    raise InputError(
        f"reader {reader!r} answered image {image}, which the key of kit {key['kit'].iloc[0]} has not: "
        "the answers belong to another kit"
    )


NAMED_COLUMNS = ("reader", "image", "original_name", "source", "entity", "entity_answer", "source_answer")
FURTHER_COLUMNS = ("confidence", "kit", "provenance")  # where the answers have them


def save_answers(answers: pd.DataFrame, key: pd.DataFrame | None, path: str | Path) -> None:
    """Write answers as a .csv, whole or not at all, with the name that each image has in its own cohort.

    Without a key the names that the answers bring stay, or are empty. InputError for an image that the key lacks.
    """
    if key is not None:
        refuse_foreign(answers, key)
    if key is not None or "original_name" not in answers:
        names = {} if key is None else key.set_index("image")["original_name"].to_dict()
        answers = answers.assign(original_name=[names.get(image, "") for image in answers["image"]])
    table = _whole(answers)[[*NAMED_COLUMNS, *(column for column in FURTHER_COLUMNS if column in answers)]]
    with atomic_path(path) as temporary:
        write_csv(table, temporary, index=False)


def open_answers(path: str | Path) -> pd.DataFrame:
    """What `save_answers` wrote: NAMED_COLUMNS and those of FURTHER_COLUMNS that were there, confidence as numbers.

    InputError as in `workbook.read_answers`, and for a confidence that is lacking where others are given.
    """
    if not Path(path).exists():
        raise InputError(f"no answers of readers at {path}: notebook 05 writes them")
    return _whole(read_answers(path, NAMED_COLUMNS).frame.reset_index(drop=True))


def _whole(answers: pd.DataFrame) -> pd.DataFrame:
    """`answers`, where all have a confidence or none. InputError names the first that has none."""
    lacking = answers[answers["confidence"].isna()] if "confidence" in answers else answers.head(0)
    if len(lacking):
        row = lacking.iloc[0]
        raise InputError(
            f"reader {row['reader']!r} gave no confidence for image {row['image']}: fill it in, or empty the whole column"
        )
    return answers


# A reader where none has answered


def simulated_answers(key: pd.DataFrame, reader: str, skill: float, eye: float, seed: int) -> pd.DataFrame:
    """Answers of a simulated reader to every image of a key, labelled as simulated in `provenance`.

    skill: probability of naming the entity; eye: probability of telling AI from original, with one image in ten
    answered "unsure". Confidence (1..5) is higher by 0.8 on average for each of the two that is right.
    """
    random = np.random.default_rng([seed, int(sha256_text(reader)[:8], 16)])
    rows = []
    for row in key.sort_values("image").itertuples():
        right, seen = random.random() < skill, random.random() < eye
        others = [code for code in CODES if code != row.entity]
        mistaken = "original" if row.source == "AI" else "AI"
        source = row.source if seen else mistaken
        confidence = int(np.clip(round(random.normal(2.2 + 0.8 * right + 0.8 * seen, 1.0)), 1, 5))
        rows.append(
            {
                "reader": reader,
                "image": row.image,
                "source": row.source,
                "entity": row.entity,
                "entity_answer": row.entity if right else str(random.choice(others)),
                "source_answer": "unsure" if random.random() < 0.1 else source,
                "confidence": confidence,
                "kit": row.kit,
                "provenance": f"{SIMULATED}: entity {skill:.0%}, source {eye:.0%}",
            }
        )
    return pd.DataFrame(rows)
