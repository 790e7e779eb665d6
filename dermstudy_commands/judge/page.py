"""One page of a judgement: HTML, JSON and a figure in one folder, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pandas as pd

from dermstudy import figures
from dermstudy.entities import CODES, NAMES
from dermstudy.files import atomic_path
from dermstudy_commands.judge.record import Judged

PAGE, RECORD, FIGURE = "index.html", "judged.json", "judged.png"
TEXTS = {
    "effect": ("Does it help? Macro AUC on real test lesions", "Mean over seeds; 95 % t interval over lesions and seeds."),
    "distances": ("Distance from real images, and variety", "KID x 1,000, precision and recall; the middle 95 % of "
                  "subsamples. The baseline is that of real images of other lesions."),
    "colours": ("Colour", "CIELAB: synthetic less real, 95 % interval; between and within: spreads over those of real ones."),
    "fidelity": ("Named as labelled", "By the linear probe on real training images, beside real test images."),
    "neighbours": ("Nearest real images", "Distance to the nearest training image over that to the nearest test image, by "
                   "the probe's components; real validation images beside it."),
    "lacks": ("What each entity lacks", "Only what an interval shows."),
}  # fmt: skip


def write(judged: Judged, folder: str | Path) -> Path:
    """Write PAGE, RECORD and FIGURE to `folder`, each whole or not at all; other files there stay."""
    import matplotlib.pyplot as plt

    folder = Path(folder)
    environment = jinja2.Environment(loader=jinja2.PackageLoader(__package__), autoescape=True, trim_blocks=True)
    text = environment.get_template("judged.html.j2").render(judged=judged, figure=FIGURE, tables=_tables(judged))
    figures.use_style()
    drawn = _figure(judged)
    with atomic_path(folder / FIGURE) as path:
        drawn.savefig(path, format="png", dpi=150)
    plt.close(drawn)
    for name, content in ((RECORD, as_json(judged)), (PAGE, text)):
        with atomic_path(folder / name) as path:
            path.write_text(content, encoding="utf-8")
    return folder / PAGE


def as_json(judged: Judged) -> str:
    """The text of RECORD."""
    return json.dumps(judged.model_dump(), indent=1, ensure_ascii=False) + "\n"


def _tables(judged: Judged) -> list[dict]:
    effects = [*filter(None, [judged.effect]), *judged.controls]
    shown = ("comparison", "difference", "low", "high", "p", "margin", "seeds")
    content = {
        "effect": [{name: one.model_dump()[name] for name in shown} for one in effects],
        "lacks": [
            {"entity": code, "images": judged.images.get(code, 0), "lacks": "; ".join(words) or "–"}
            for code, words in judged.lacks.items()
        ],
        "neighbours": [row.model_dump() for row in judged.neighbours]
        + [{"images": f"copies, {name}", "count": count} for name, count in judged.copies.items()],
    }
    tables = []
    for key, (title, text) in TEXTS.items():
        rows = content[key] if key in content else [row.model_dump() for row in getattr(judged, key)]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[_cell(row.get(name)) for name in columns] for row in rows]
        tables.append({"title": title, "text": text if rows else "Left out.", "columns": columns, "rows": cells})
    return tables


def _cell(value: object) -> dict:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    text = "" if value is None else f"{value:.3g}" if isinstance(value, float) else NAMES.get(value, str(value))
    return {"text": text.replace("-", "−") if number else text, "number": number}


def _figure(judged: Judged):
    """Three panels: effects with the margin, KID beside its baseline, differences of colour."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    effects = ([judged.effect] if judged.effect else []) + judged.controls
    for number, one in enumerate(effects):
        left.errorbar(
            one.difference, -number, xerr=[[one.difference - one.low], [one.high - one.difference]], fmt="o", capsize=3
        )
    if effects:
        left.axvspan(-effects[0].margin, effects[0].margin, color="0.92", zorder=0)
    left.axvline(0, color="0.5", lw=0.8)
    left.set_yticks(
        [-number for number in range(len(effects))],
        [one.comparison.replace(" against ", "\nagainst ") for one in effects],
    )
    left.set_xlabel("change of macro AUC")
    table = pd.DataFrame([row.model_dump() for row in judged.distances])
    table = table[table["metric"] == "kid"] if len(table) else table
    for number, row in enumerate(table.to_dict("records")):
        middle.errorbar(
            row["value"], -number, xerr=[[row["value"] - row["low"]], [row["high"] - row["value"]]], fmt="o", capsize=3
        )
        middle.plot(row["baseline"], -number, "|", color="0.3", ms=12)
    names = [
        f"{NAMES.get(row['entity'], row['entity'])}, {row['encoder'].split('-')[0]}" for row in table.to_dict("records")
    ]
    middle.set_yticks([-number for number in range(len(names))], names, fontsize=7)
    middle.set_xlabel("KID x 1,000 (bar: real images)")
    colours = pd.DataFrame([row.model_dump() for row in judged.colours])
    for channel, rows in colours.groupby("channel", sort=False) if len(colours) else ():
        right.plot(rows["difference"], [-CODES.index(code) for code in rows["entity"]], "o", label=channel)
    right.axvline(0, color="0.5", lw=0.8)
    right.set_yticks([-number for number in range(len(CODES))], [NAMES[code] for code in CODES], fontsize=7)
    right.set_xlabel("colour: synthetic less real (Lab)")
    if len(colours):
        right.legend(fontsize=7)
    return figure
