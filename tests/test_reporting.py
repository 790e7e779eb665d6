"""The checklists of the field: every item is answered, at a place that exists or with a reason."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from conftest import ROOT

PAGE = ROOT / "docs" / "REPORTING.md"
DATASHEET = ROOT / "docs" / "DATASHEET.md"
ITEMS = {
    "CLAIM 2024": [str(number) for number in range(1, 45)],
    "REFORMS": [f"{module}{letter}" for module, last in zip("12345678", "cegcfccb", strict=True)
                for letter in "abcdefg"[: "abcdefg".index(last) + 1]],
}  # fmt: skip


def rows(section: str) -> list[list[str]]:
    """The cells of a checklist's rows: item, what it asks for, whether it is fulfilled, where or why not."""
    part = re.search(rf"^## {section}\n(.+?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.S | re.M)[1]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("section", ITEMS)
def test_every_item_is_there_once_and_in_order(section):
    assert [row[0] for row in rows(section)] == ITEMS[section]
    assert len(ITEMS["CLAIM 2024"]) == 44 and len(ITEMS["REFORMS"]) == 32


def test_what_leaks_is_told_as_it_was_counted():
    """The pages name the pairs that the audited split parts, and count the test images among them, as the tables do."""
    tables = ROOT / "results" / "ham10000" / "tables"
    pairs, split = (
        pd.read_csv(tables / "same_skin.csv"),
        pd.read_csv(tables / "split.csv").set_index("image_id")["split"],
    )
    apart = pairs[pairs["image_id"].map(split) != pairs["other_image_id"].map(split)]
    leak = pd.read_csv(tables / "leak.csv").set_index(["protocol", "entity"]).loc[("audited", "all")]
    count = f"{leak['leaked']:.0f} of {leak['test_images']:,.0f}"
    told = " ".join((ROOT / "docs" / "DATA.md").read_text(encoding="utf-8").split())
    part = told.partition("**What still leaks.**")[2].partition("**Splits.**")[0]
    assert set(re.findall(r"ISIC_\d{7}", part)) == set(apart[["image_id", "other_image_id"]].to_numpy().ravel())
    assert f"{count} test images" in part and f"found {pairs['source'].isna().sum()} pairs beyond those" in part
    answers = {row[0]: row[3] for row in rows("CLAIM 2024")}
    assert count in answers["20"] and count in answers["32"]
