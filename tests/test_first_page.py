"""The first page: every number in its prose stands in the sentence that its table, the paper or the data gives it, no other.

A number is known by the words around it: what a table does not give there is left over, and named.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess

import pandas as pd
import pytest
import yaml
from conftest import ROOT

from dermstudy import cli, entities
from dermstudy.classification import protocol, trial
from dermstudy.published import arithmetic, paper
from dermstudy.runner import profiles

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"(?<![\w.\-/])[−-]?\d+(?:,\d{3})*(?:\.\d+)?")
BLOCKS = re.findall(r"```\n(.+?)```", TEXT, re.S)
# What is said of set-up, files and sources, which no table holds.
SAID = (
    "Front. Med. 10:1231436, 2023", "about 3 minutes and 8 GB of disk", "copies of 341 × 256 pixels", "of 600 × 450",
    "CC BY-NC 4.0", "section 3.2", "class 5 is melanocytic nevi",
)  # fmt: skip


def prose() -> str:
    """The page in one line, without code, generated tables, links' targets and the map of notebooks."""
    text = re.sub(r"```.+?```|<img .+?>", "", TEXT, flags=re.S)
    text = re.sub(r"<!-- dermstudy findings.+?<!-- end -->", "", text, flags=re.S)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    text = text[: text.index("## Licence and citation")].replace("\n> ", "\n")
    return " ".join(re.sub(r"`[^`]+`", "", re.sub(r"\]\([^)]+\)", "]", text)).split())


def answers() -> list[str]:
    """What the trial on real images found, in the protocol's words: its primary comparison, its positive control, and what the
    fine-tuned network says of the primary one."""
    table = pd.read_csv(ROOT / "results/ham10000/tables/trial.csv")
    chosen = table["role"].isin([protocol.PRIMARY, protocol.CONTROL]) | table["comparison"].eq(protocol.TUNED_PRIMARY)
    return [trial.verdict_sentence(row) for _, row in table[chosen].iterrows()]


def given() -> list[str]:
    """Words of the page with the numbers that their source gives them."""
    found = arithmetic.findings("classifier").set_index("claim")["result"]
    low, high = re.search(r"holds (\d+)% to (\d+)%", found["class 5 is basal cell carcinoma"]).groups()
    (matrix,) = arithmetic.source_matrices()
    (right_original, _), (_, right_ai) = matrix
    sizes = pd.Series(entities.HAM10000_IMAGES)
    gain = paper.by_class("combined")["recall"].mean() - paper.by_class("original")["recall"].mean()
    rank = arithmetic.findings("quality").query("claim == 'FID ranks the entities'")["result"].iloc[0]
    python = re.search(r'requires-python = "==(\d\.\d+)\.\*"', (ROOT / "pyproject.toml").read_text())[1]
    most = yaml.safe_load((ROOT / "profiles" / "demo.yaml").read_text())["00_dataset"]["MAX_PER_ENTITY"]
    return [
        *answers(),
        f"paper's own tables give +{gain:.2f} balanced accuracy",
        f"On all {sizes.sum():,} images of HAM10000",
        f"and by {protocol.SUBSET.removesuffix(' subset')} of their lesions (the positive control)",
        f"{100 * (1 - protocol.LEVEL):.0f} % t intervals over lesions and seeds",
        f"exactly {right_original} + {right_ai} of {sum(sum(row) for row in matrix)} right",
        f"Class 5 of the network's tables holds {low} to {high} %",
        f"original-only accuracy, {paper.summary('original')['accuracy']:.2f}, lies below always answering \"nevus\" at "
        f"HAM10000's share, {sizes.max() / sizes.sum():.2f}",
        f"Spearman's correlation {rank.replace('-', '−')})",
        f"Linux with Python {python}",
        f"with at most {most} images an entity",
    ]  # fmt: skip


def left_over(text: str, known: list[str]) -> set[str]:
    """The numbers of `text` that stand outside the words of `known`; notebooks are named by two digits."""
    for words in known:
        text = text.replace(words, "…")
    return {number for number in NUMBER.findall(text) if not re.fullmatch(r"0\d", number)}


def test_the_page_answers_in_the_protocols_words():
    first = TEXT[: TEXT.index("## ")].replace("\n> ", " ").replace("\n", " ")
    for sentence in answers():
        assert sentence in first


def test_every_number_of_the_prose_stands_where_its_source_puts_it():
    known = [*given(), *SAID]
    assert not [words for words in known if words not in prose()]
    assert not left_over(prose(), known)


def test_a_small_number_in_another_place_is_seen():
    text = prose() + " Three of 10 networks gained 0.22, 5 % of images."
    assert left_over(text, [*given(), *SAID]) == {"10", "0.22", "5"}
    wrong = prose().replace("holds 52 to 74 %", "holds 52 to 75 %")
    assert {"52", "75"} <= left_over(wrong, [*given(), *SAID])


def test_every_notebook_that_is_named_by_number_exists():
    stems = {path.stem[:2] for path in profiles.notebooks()}
    assert {number for number in re.findall(r"\b0\d\b", prose())} <= stems


def test_no_negative_number_is_written_with_a_hyphen():
    assert not re.findall(r"(?<![\w−/.])-\d", re.sub(r"```.+?```|\]\([^)]+\)|<img .+?>", "", TEXT, flags=re.S))


def test_pictures_have_the_pages_width():
    assert re.findall(r'<img [^>]*width="([^"]+)"', TEXT) == ["100%", "100%"]


def commands() -> list[str]:
    """Every command of the page: the lines of its blocks without remarks, and those in its sentences."""
    lines = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
    inline = re.findall(r"`((?:make|dermstudy) [^`]+)`", re.sub(r"```.+?```", "", TEXT, flags=re.S))
    return [line for line in (*lines, *inline) if line]


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_page_is_one_of_the_studys(command):
    program, *words = shlex.split(command)
    if program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
        assert [word for word in words if "=" not in word][0] in targets
        variables = set(re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(), re.M))
        assert {word.partition("=")[0] for word in words if "=" in word} <= variables
    else:
        assert program.removeprefix(".venv/bin/") == "dermstudy"
        options = parsed(words)
        assert options is not None


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("make")])
def test_make_knows_what_each_command_of_the_page_needs(command):
    asked = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert asked.returncode == 0 and asked.stdout.strip(), asked.stderr


def parsed(words: list[str]) -> argparse.Namespace | None:
    """What the command line understands of `words`, or, of a command that wants more words, that it has it."""
    actions = [action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert words[0] in actions[0].choices, words
    try:
        return cli._parser().parse_args(words)
    except SystemExit:
        return argparse.Namespace() if len(words) == 1 else None
