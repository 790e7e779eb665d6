"""The readers and answers of a kit: one SQLite file in its folder, every answer on disk before the next image shows.

A reader is known by a private token, the end of a link; answers are kept under a name that no other reader has.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
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
CREATE TABLE IF NOT EXISTS readers (token TEXT PRIMARY KEY, reader TEXT UNIQUE NOT NULL, name TEXT NOT NULL,
    since TEXT);
"""
TOKEN_BYTES = 16


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
        raise InputError("please give a name: the organiser knows your answers by it")
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise InputError(f"please give a name of at most {LONGEST_NAME} ordinary characters")
    return name


def add_reader(folder: str | Path, name: str | None) -> tuple[str, str]:
    """A new reader: the private token, and the name that answers are kept under ("Ada (2)" where there is an Ada).

    InputError as in `reader_name`.
    """
    name = reader_name(name)
    with _database(folder) as connection:
        connection.execute("BEGIN IMMEDIATE")  # readers of one name may come at the same moment
        taken = {reader for (reader,) in connection.execute("SELECT reader FROM readers")}
        reader, numbers = name, count(2)
        while reader in taken:
            reader = f"{name} ({next(numbers)})"
        token = secrets.token_urlsafe(TOKEN_BYTES)
        connection.execute("INSERT INTO readers VALUES (?, ?, ?, datetime('now'))", (token, reader, name))
        return token, reader


def reader_of(folder: str | Path, token: str | None) -> str:
    """The name under which the answers of a private link are kept. InputError where no reader has that link."""
    with _database(folder) as connection:
        row = connection.execute("SELECT reader FROM readers WHERE token = ?", (token or "",)).fetchone()
    if row is None:
        raise InputError("no reader of this kit has this link: ask the organiser for yours")
    return row[0]


def readers(folder: str | Path) -> pd.DataFrame:
    """Everyone who has a link, by name: reader, name (as given), token, since, answered (images), last_answer."""
    query = """
        SELECT readers.reader, name, token, since, COUNT(image) AS answered, MAX(answered_at) AS last_answer
        FROM readers LEFT JOIN answers USING (reader) GROUP BY readers.reader ORDER BY readers.reader
    """
    with _database(folder) as connection:
        return pd.read_sql_query(query, connection)


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
