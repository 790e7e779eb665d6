"""The first page: every number in its prose stands in the sentence that its table, the paper or the data gives it, no other.

A number is known by the words around it: what a table does not give there is left over, and named.
"""

from __future__ import annotations

import re
import shlex
import subprocess

import pandas as pd
import pytest
from conftest import ROOT

from dermstudy import entities
from dermstudy.classification import effects, protocol
from dermstudy.published import arithmetic, paper
from dermstudy_commands import cli

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"(?<![\w.\-/])[−-]?\d+(?:,\d{3})*(?:\.\d+)?")
TABLES = ROOT / "results" / "ham10000" / "tables"
BLOCKS = re.findall(r"```\n(.+?)```", TEXT, re.S)
# What is said of set-up, files and sources, which no table holds.
SAID = (
    "Front. Med. 10:1231436, 2023", "about 3 minutes and 6 GB of disk", "copies of 341 × 256 pixels", "of 600 × 450",
    "With 10 % of the lesions", "of those 10 % alone", "to 256 pixels", "into 64 pixels", "Class 5 of",
    "Left of zero",
)  # fmt: skip


def prose() -> str:
    """The page in one line, without code, generated tables, links' targets and the map of notebooks."""
    text = re.sub(r"```.+?```|<img .+?>", "", TEXT, flags=re.S)
    text = re.sub(r"<!-- dermstudy findings.+?<!-- end -->", "", text, flags=re.S)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    text = text[: text.index("## Licence and citation")].replace("\n> ", "\n")
    return " ".join(re.sub(r"`[^`]+`", "", re.sub(r"\]\([^)]+\)", "]", text)).split())


def changes() -> list[str]:
    """What the trial on real images found: its primary comparison for both networks, and the positive control for both."""
    table = pd.read_csv(TABLES / "trial.csv").set_index("comparison")

    def change(name: str, form: str) -> str:
        row = table.loc[name]
        values = (
            f"{row[column]:+z.3f}".replace("+0.000", "0.000").replace("-", "−")
            for column in ("difference", "low", "high")
        )
        return form.format(*values)

    control, tuned = (
        table.index[table.index.str.contains(words)][0] for words in ("^all originals against", "^fine-tuned, all")
    )
    return [
        change(effects.PRIMARY, "changed macro AUC by {} (95 % interval {} to {}) for a linear probe"),
        f"inside the margin of ±{protocol.MARGIN}",
        change(protocol.TUNED_PRIMARY, "changed macro AUC by {} (95 % interval {} to {}) for a fine-tuned network"),
        change(control, "raised macro AUC by {} ({} to {})").replace("by +", "by "),
        change(tuned, "and {} ({} to {}).").replace("and +", "and "),
    ]


def rows() -> list[str]:
    """The rows of the page's table, from the tables of the run."""
    read = {
        name: pd.read_csv(TABLES / f"{name}.csv")
        for name in ("leak", "quality_audited", "reader_intervals", "scarce", "own_kind")
    }
    leak = read["leak"].query("entity == 'all'").set_index("protocol")
    count = {name: f"{row['leaked']:,.0f} of {row['test_images']:,.0f}" for name, row in leak.iterrows()}
    quality = read["quality_audited"].query("entity == 'overall'").set_index("metric")
    (kid, recall), told = (quality.loc[name] for name in ("kid", "recall")), read["reader_intervals"].set_index("what")
    reader = told.loc["source, all images"]
    printed = {(place, what): value for what, place, value in paper.READER_FIGURES}["AI against original", "accuracy"]
    primary = changes()[0]

    def interval(row: pd.Series, value: str, form: str) -> str:
        return "{} ({} to {})".format(*(format(row[name], form) for name in (value, "low", "high")))

    theirs = {name: paper.by_class(name)["recall"].mean() for name in ("combined", "original")}
    few = read["scarce"].query("share == 0.1 and kind == 'all images'").squeeze()
    design = read["own_kind"].query("guidance == 8 and tested_on == 'gain on both'")["mean"].item()
    gain = theirs["combined"] - theirs["original"]
    effect = re.search(r"by (\S+) \(95 % interval (\S+) to (\S+)\)", primary).groups()
    return [
        f"| Test images whose lesion is in training | – | {count['as published']} | {count['audited']} |",
        f"| – | – | {interval(kid, 'value', '.0f')}; real images: {kid['floor']:z.0f} |",
        f"| – | – | {interval(recall, 'value', '.2f')}; real images: {recall['floor']:.2f} |",
        f"| {printed:.2f} | {reader['share']:.2f} | {interval(reader, 'share', '.2f')} |",
        f"| +{gain:.2f} balanced accuracy | {design:+.2f} at guidance 8 | macro AUC {effect[0]} ({effect[1]} to {effect[2]}) |",
        f"| Synthetic images added to 10 % of the lesions | – | – | macro AUC {interval(few, 'difference', '+.3f')} |",
    ]


def curve_words() -> list[str]:
    """The sentences of the curve."""
    points = pd.read_csv(TABLES / "quality_curve.csv").set_index("images")
    made, blurred = points[~points.index.str.startswith("real")], points.loc["real, blurred"]
    count = {6: "six"}[len(made)]
    ends = protocol.bound(made["difference"].min()), protocol.bound(made["difference"].max())
    change = (protocol.bound(blurred[name]) for name in ("difference", "low", "high"))
    return [
        f"images of {count} generator settings (KID {made['kid'].min():.0f} to {made['kid'].max():.0f}) change macro AUC by "
        f"{ends[0]} to {ends[1]}",
        "(KID {:.0f}) change it by {} ({} to {})".format(blurred["kid"], *change),
    ]


def given() -> list[str]:
    """Words of the page with the numbers that their source gives them."""
    found = arithmetic.findings("classifier").set_index("claim")["result"]
    held = dict(re.findall(r"(\w+) (\d+% to \d+%)", found["class 5 is basal cell carcinoma"]))
    held = {name: bounds.replace("%", "", 1).replace("%", " %") for name, bounds in held.items()}
    quality, others_of = (pd.read_csv(TABLES / f"{name}.csv") for name in ("quality_audited", "other_generators"))
    kid = pd.concat([table.query("metric == 'kid'").set_index(key)["value"] for table, key in (
        (quality, "entity"), (others_of, "generator"))])  # fmt: skip
    (matrix,) = arithmetic.source_matrices()
    (right_original, _), (_, right_ai) = matrix
    sizes = pd.Series(entities.HAM10000_IMAGES)
    gain = paper.by_class("combined")["recall"].mean() - paper.by_class("original")["recall"].mean()
    images = pd.read_csv(TABLES / "leak.csv").query("entity == 'all' and protocol == 'audited'")["test_images"].item()
    least, beyond = re.search(
        r'requires-python = ">=(3\.\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text()
    ).groups()
    original, combined = (paper.summary(name)["accuracy"] for name in ("original", "combined"))
    gained = pd.read_csv(TABLES / "own_kind.csv").query("guidance == 8").set_index("tested_on")
    both, real = (gained.loc[f"gain on {kind}", ["mean", "low", "high"]] for kind in ("both", "real"))
    return [
        *changes(),
        "gains {:.3f} balanced accuracy ({:+.3f} to {:+.3f}) from our images at guidance 8".format(*both),
        f"the paper's tables give {gain:.2f}",
        "On real images alone, it changes by {:+.3f} ({:+.3f} to {:+.3f})".format(*real).replace("-", "−"),
        *curve_words(),
        f"accuracy rises from {original:.2f} to {combined:.2f}",
        f"on {images:,} real images of held-out lesions",
        "all real lesions in place of 30 % of them",  # the subset of the protocol
        f"On all {sizes.sum():,} images of HAM10000",
        f"{100 * (1 - protocol.LEVEL):.0f} % t intervals over lesions and seeds",
        f"exactly {right_original} + {right_ai} of {sum(sum(row) for row in matrix)} right",
        f"holds {held['combined']} of the combined set's test images "
        f"(original {held['original']}, synthetic {held['synthetic']})",
        f"is weaker (KID {kid['second generator']:.0f} beside {kid['overall']:.0f})",
        f"original-only accuracy, {original:.2f}, lies below always answering \"nevus\" at "
        f"HAM10000's share, {sizes.max() / sizes.sum():.2f}",
        f"Linux, Python {least} to 3.{int(beyond) - 1}",
    ]  # fmt: skip


def left_over(text: str, known: list[str]) -> set[str]:
    """The numbers of `text` that stand outside the words of `known`; notebooks are named by two digits."""
    for words in known:
        text = text.replace(words, "…")
    return {number for number in NUMBER.findall(text) if not re.fullmatch(r"0\d", number)}


def test_the_page_answers_with_effects_of_the_tables():
    first = " ".join(TEXT[: TEXT.index("## ")].split())
    assert not [words for words in changes() if words not in first]
    assert not [row for row in rows() if row not in TEXT]
    assert not re.search(r"\bharms?\b", prose())


def test_every_number_of_the_prose_stands_where_its_source_puts_it():
    known = [*given(), *SAID]
    assert not [words for words in known if words not in prose()]
    assert not left_over(prose(), known)


def commands() -> list[str]:
    """Every command of the page: the lines of its blocks without remarks, and those in its sentences."""
    lines = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
    inline = re.findall(r"`((?:make|dermstudy) [^`]+)`", re.sub(r"```.+?```", "", TEXT, flags=re.S))
    return [line for line in (*lines, *inline) if line]


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_page_is_one_of_the_studys(command, capsys):
    program, *words = shlex.split(command)
    if program == "make":
        asked = subprocess.run([program, *words, "-n"], cwd=ROOT, capture_output=True, text=True)
        assert asked.returncode == 0 and asked.stdout.strip(), asked.stderr
    elif program == "papermill":  # that they run: test_by_hand.py
        assert all((ROOT / word).is_file() for word in words if word.startswith(("notebooks/", "profiles/")))
    else:
        with pytest.raises(SystemExit) as ended:
            cli.main([words[0], "--help"])
        assert program.removeprefix(".venv/bin/") == "dermstudy" and ended.value.code == 0
