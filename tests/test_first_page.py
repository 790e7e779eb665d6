"""The first page: every number in its prose is that of a table, of the paper or of the data, and none is unaccounted for."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from conftest import ROOT

from dermstudy import entities
from dermstudy.classification import protocol, trial
from dermstudy.published import arithmetic, paper

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"(?<![\w.\-/])[−-]?\d+(?:,\d{3})*(?:\.\d+)?")
# What is said of set-up, files and sources, which no table holds.
SAID = {
    "10": "Front. Med. 10", "1231436": "its article number", "2023": "its year", "3.11": "of Python", "3": "minutes of set-up",
    "8": "GB of disk", "2": "the section on the dataset", "150": "images an entity of the demo on real images",
    "3.2": "a section of the paper", **{f"{number:02d}": "a notebook" for number in range(10)},
    "5": "class 5 of the paper's tables", "341": "pixels of the copies", "256": "pixels of the copies",
    "600": "pixels of the originals", "450": "pixels of the originals", "4.0": "of the licence",
}  # fmt: skip


def prose() -> str:
    """The page without code, generated tables, links' targets and the map of notebooks."""
    text = re.sub(r"```.+?```|<img .+?>", "", TEXT, flags=re.S)
    text = re.sub(r"<!-- dermstudy findings.+?<!-- end -->", "", text, flags=re.S)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    text = text[: text.index("## Licence and citation")]
    return re.sub(r"`[^`]+`", "", re.sub(r"\]\([^)]+\)", "]", text))


def answers() -> list[str]:
    """What the trial on real images found, in the protocol's words: its primary comparison and its positive control."""
    table = pd.read_csv(ROOT / "results/ham10000/tables/trial.csv")
    roles = protocol.PRIMARY, protocol.CONTROL
    return [trial.verdict_sentence(row) for role in roles for _, row in table[table["role"] == role].iterrows()]


def test_the_page_answers_in_the_protocols_words():
    first = TEXT[: TEXT.index("## ")].replace("\n> ", " ").replace("\n", " ")
    for sentence in answers():
        assert sentence in first


def known() -> dict[str, str]:
    """Numbers of the page that a table, the paper or the data gives, with what they are."""
    found = arithmetic.findings("classifier").set_index("claim")["result"]
    shares = re.search(r"holds (\d+)% to (\d+)%", found["class 5 is basal cell carcinoma"])
    (matrix,) = arithmetic.source_matrices()
    (right_ai, _), (_, right_original) = matrix
    gain = paper.by_class("combined")["recall"].mean() - paper.by_class("original")["recall"].mean()
    answer = {number: "the trial's answer" for sentence in answers() for number in NUMBER.findall(sentence)}
    rank = arithmetic.findings("quality").query("claim == 'FID ranks the entities'")["result"].iloc[0]
    originals = paper.summary("original")["accuracy"]
    counts = pd.Series(entities.HAM10000_IMAGES)
    return SAID | answer | {
        f"{gain:.2f}": "the gain in the paper's tables", f"{counts.sum():,}": "images of HAM10000", shares[1]: "share of class 5",
        shares[2]: "share of class 5", str(right_ai): "right on AI images", str(right_original): "right on originals",
        "140": "the reader's images", rank.replace("-", "−"): "FID's correlation with size", f"{originals:.2f}": "accuracy",
        f"{counts.max() / counts.sum():.2f}": "share of nevi", "30": "percent of the subset",
    }  # fmt: skip


def test_every_number_of_the_prose_is_accounted_for():
    numbers = set(NUMBER.findall(prose()))
    unknown = numbers - set(known())
    assert not unknown, f"numbers that no table gives: {sorted(unknown)}"


@pytest.mark.parametrize("value", ["0.22", "10,015", "52", "74", "66", "69", "−0.86", "0.65", "0.67"])
def test_what_the_tables_give_is_what_the_page_says(value):
    assert value in known() and value in prose()
