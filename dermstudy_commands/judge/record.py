"""What a judgement says, in the shape of its JSON file, and the sentence that sums it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from dermstudy.classification import effects, protocol
from dermstudy.entities import CODES, NAMES
from dermstudy.evaluation.judge import Quality
from dermstudy_commands.judge.compare import CONTROL, Compared

Saw = Literal["none", "training", "all", "unknown"]
LAB = 2.0  # of lightness, a or b: a shift from which a colour is named
NARROW = 0.7  # of the spread of real images' colours
SEEN = {
    "none": "The generator is said to have seen no image of HAM10000.",
    "training": "The generator is said to have seen training lesions only.",
    "all": "The generator has seen all lesions, so test lesions may be in its images: {copies}.",
    "unknown": "What the generator has seen is not known, so test lesions may be in its images: {copies}.",
}


class Row(BaseModel):
    """A row of a table, named numbers and words."""

    model_config = ConfigDict(extra="allow")


class Effect(BaseModel):
    """A difference of macro AUC on test lesions with its 95 % interval."""

    comparison: str
    difference: float
    low: float
    high: float
    p: float
    margin: float
    seeds: int
    standard_error: float
    verdict: Literal["helps", "harms", "equivalent", "not resolved"]


class Judged(BaseModel):
    """A judgement of one generator's images: results/judged/NAME.json."""

    model_config = ConfigDict(extra="forbid")
    name: str
    saw: Saw
    verdict: str
    images: dict[str, int]
    real: str
    training_images: int
    test_images: int
    effect: Effect | None
    controls: list[Effect]
    areas: dict[str, float]
    distances: list[Row]
    colours: list[Row]
    fidelity: list[Row]
    neighbours: list[Row]
    copies: dict[str, int]
    lacks: dict[str, list[str]]
    left_out: list[str]
    notes: list[str]
    version: str


def rows(table: pd.DataFrame) -> list[Row]:
    """A table's rows as JSON holds them: six digits, null for what is no number."""
    plain = table.astype(object).map(_plain)
    return [Row(**row) for row in plain.to_dict("records")]


def _plain(cell: object) -> object:
    if isinstance(cell, (float, np.floating)):
        return float(f"{cell:.6g}") if np.isfinite(cell) else None
    return int(cell) if isinstance(cell, (int, np.integer)) and not isinstance(cell, bool) else cell


def effect_of(compared: Compared) -> tuple[Effect, list[Effect]]:
    """The comparison and its controls."""
    names = [name for name in Effect.model_fields if name in compared.table]
    found = [Effect(**{name: _plain(row[name]) for name in names}) for _, row in compared.table.iterrows()]
    return found[0], found[1:]


def sentence(images: int, training: int, effect: Effect, controls: Sequence[Effect], saw: str, copied: str) -> str:
    """The verdict: by how much macro AUC changes, where the margin lies, what the generator saw, a control that is missed."""
    row = effect.model_dump()
    moved = f"{protocol.signed(effect.difference)} (95 % interval {protocol.bound(effect.low)} to {protocol.bound(effect.high)})"
    sentences = [
        f"Adding these {images:,} images to {training:,} real training images changed macro AUC on real test lesions by "
        f"{moved}, {effects.place(row)}, for a linear probe on frozen features; the comparison repeats as many originals."
    ]
    if effect.low <= 0 <= effect.high and not _inside(effect):
        sentences.append("Whether they help is not resolved.")
    elif effect.low <= 0 <= effect.high:
        sentences.append("So they make no difference that matters to it.")
    control = next((one for one in controls if one.comparison == CONTROL), None)
    if control is not None and control.verdict != protocol.HELPS:
        sentences.append(
            "Even more than three times the real images make no difference that is seen: the comparison has no power."
        )
    return " ".join([*sentences, SEEN[saw].format(copies=copied)])


def _inside(effect: Effect) -> bool:
    return max(-effect.low, effect.high) < effect.margin


def copies_said(copies: Mapping[str, int]) -> str:
    """What was found of copies, in words."""
    equal = [copies[f"equal to, {split}"] for split in ("training", "test")]
    near = [copies[f"as good as equal to, {split}"] for split in ("training", "test")]
    found = f"{equal[0]} of training and {equal[1]} of test images pixel for pixel, {near[0]} and {near[1]} nearly so"
    return f"copies found: {found}"


def lacks(images: Mapping[str, int], quality: Quality, fidelity: pd.DataFrame) -> dict[str, list[str]]:
    """By entity what its images lack beside real ones, in words; [] where nothing was found."""
    found: dict[str, list[str]] = {code: [] for code in CODES}
    for code in CODES:
        if not images.get(code):
            found[code].append("no image")
    named = {name: code for code, name in NAMES.items()}
    for row in fidelity.to_dict("records") if len(fidelity) else ():
        code = named.get(row["entity"])
        if code and row["high"] < 0:
            found[code].append(
                f"named as labelled less often than real images ({row['synthetic']:.0%}; real {row['real']:.0%})"
            )
    for row in quality.colours.to_dict("records"):
        shown = f"{row['channel']} {lab_signed(row['difference'])}"
        if abs(row["difference"]) >= LAB and row["low"] * row["high"] > 0:
            found[row["entity"]].append(f"colour is off ({shown})")
        if row["between"] < NARROW and row["channel"] == "L":
            found[row["entity"]].append(f"too alike in lightness ({row['between']:.0%} of the real spread)")
    for row in quality.distances.to_dict("records"):
        if row["metric"] == "recall" and row["entity"] in found and row["high"] < row["baseline"] / 2:
            recalls = f"recall {row['value']:.2f}; real {row['baseline']:.2f}"
            found[row["entity"]].append(f"less than half of the real variety by {row['encoder']} ({recalls})")
    return found


def lab_signed(value: float) -> str:
    """One decimal with a sign."""
    return f"{value:+.1f}".replace("-", "−")


def primary(judged: Judged) -> str:
    """The effect in a table's cell."""
    effect = judged.effect
    if effect is None:
        return "left out"
    return f"{protocol.signed(effect.difference)} ({protocol.bound(effect.low)} to {protocol.bound(effect.high)})"
