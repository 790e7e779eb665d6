"""The answers of a served kit: one SQLite file in the kit's folder, every answer on disk before the next image shows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.readers.workbook import SOURCE_ANSWERS

FILE = "answers.sqlite"
LONGEST_NAME = 60
# `log` keeps every answer that was ever given, `answers` the one that stands.
TABLES = """
CREATE TABLE IF NOT EXISTS answers (reader TEXT, image TEXT, entity_answer TEXT, source_answer TEXT,
    confidence INTEGER, answered_at TEXT, PRIMARY KEY (reader, image));
CREATE TABLE IF NOT EXISTS log (reader TEXT, image TEXT, entity_answer TEXT, source_answer TEXT,
    confidence INTEGER, answered_at TEXT);
"""


@contextmanager
def _database(folder: str | Path) -> Iterator[sqlite3.Connection]:
    path = Path(folder) / FILE
    try:
        connection = sqlite3.connect(path, timeout=30)
    except sqlite3.Error as error:
        raise InputError(f"cannot open {path}: {error}; choose a folder you may write to") from error
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(TABLES)
        with connection:
            yield connection
    except sqlite3.Error as error:
        raise InputError(f"cannot write answers to {path}: {error}") from error
    finally:
        connection.close()


def reader_name(text: str | None) -> str:
    """A reader's name as it is stored: one line without outer spaces. InputError where it is empty or too long."""
    name = " ".join((text or "").split())
    if not name:
        raise InputError("please give a name: it keeps your answers together")
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise InputError(f"please give a name of at most {LONGEST_NAME} ordinary characters")
    return name


def save(folder: str | Path, reader: str, image: str, entity: str, source: str, confidence: int) -> None:
    """Write one answer, in place of the reader's earlier one for the same image; it is on disk on return.

    InputError for an unknown entity, source or confidence.
    """
    if entity not in CODES or source not in SOURCE_ANSWERS or confidence not in range(1, 6):
        raise InputError("please choose an entity, a source and a confidence from 1 to 5")
    row = (reader, image, entity, source, int(confidence))
    with _database(folder) as connection:
        connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, datetime('now'))", row)
        connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, datetime('now'))", row)


def answers(folder: str | Path, reader: str | None = None) -> pd.DataFrame:
    """The answers that stand: reader, image, entity_answer, source_answer, confidence, answered_at."""
    query, values = "SELECT * FROM answers", ()
    if reader is not None:
        query, values = query + " WHERE reader = ?", (reader,)
    with _database(folder) as connection:
        return pd.read_sql_query(query + " ORDER BY reader, image", connection, params=values)
