"""The model card of glide-mini: card.md filled from the tables and the lineage of the folder that ships.

Source of its parts: Mitchell et al., "Model cards for model reporting" (arXiv 1810.03993); its front matter is Hugging
Face's, huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pandas as pd
import yaml

from dermstudy.diffusion import glide, weights
from dermstudy.entities import NAMES
from dermstudy.evaluation import cascade, gallery, reference_classifier
from dermstudy_commands.maintenance import noise_levels, samplers
from dermstudy_commands.maintenance.folded_weights import GUIDE

STAGES = {"base": glide.GlidePipeline, "upsampler": glide.GlideUpsamplePipeline}
NEEDED = (
    *(weights.SITTINGS, samplers.TABLE, noise_levels.TABLE, noise_levels.GAINS, "images.csv"),
    *(weights.LOG.format(name) for name in STAGES),
)
MEASURED = tuple(
    f"quality_{name}" for name in ("audited", "encoders", "fidelity", "cascade", "memorisation", "closest", "colour")
)  # tables of notebook 04 that the card shows
VERSIONS = "versions.csv"  # what each version of the weights reached, both stages together
MEASURED_BY = "measured_by.json"  # beside the tables: the run that measured
HUB = {
    "license": "cc-by-nc-4.0",
    "language": "en",
    "library_name": "diffusers",
    "pipeline_tag": "text-to-image",
    "tags": ["glide", "text-to-image", "dermatoscopy", "skin-lesions", "synthetic-data", "not-for-clinical-use"],
    "datasets": ["ham10000"],
}
HUB_METRICS = {"kid": "KID x 1,000", "fid": "FID", "precision": "precision", "recall": "recall"}
RECIPE = (
    *("steps", "batch", "crop", "learning_rate", "decay_share", "balance", "taught_text"),
    *("noise_mean", "noise_spread", "high_share", "high_mean", "high_spread"),
)


def card(folder: Path) -> str:
    """The model card as markdown; every figure in it is read from `folder`/tables and lineage.json."""
    lineage = weights.lineage(folder)
    tables = {path.stem: pd.read_csv(path) for path in sorted((folder / "tables").glob("*.csv"))}
    sittings = tables["sittings"].drop(columns=["weights_sha256"])
    gains = tables["caption_gain"].assign(gain=lambda rows: 100 * rows["gain"])
    fields = {
        "lineage": lineage,
        "last": sittings.groupby("model").last().to_dict("index"),
        "millions": {
            name: glide.parameter_count(glide.load(folder / name, kind)) / 1e6 for name, kind in STAGES.items()
        },
        "trainings": markdown(trainings(lineage)),
        "tables": {name: markdown(table) for name, table in tables.items() if not name.startswith("training")},
        "sittings": markdown(sittings.drop(columns=["processor", "commit", "data_hash", "split", "average", "steps"])),
        "gains": markdown(gains.pivot(index="sitting", columns="noise", values="gain").reset_index()),
        "uncommitted": sittings["commit"].str.endswith("+changes").sum(),
        "margin": samplers.MARGIN,
        "guide": f"step {left_at(lineage[GUIDE])} of training {len(lineage[GUIDE]['earlier']) + 1} of the base",
        "run": None,
    }
    if (folder / "tables" / MEASURED_BY).is_file():
        fields["run"] = json.loads((folder / "tables" / MEASURED_BY).read_text(encoding="utf-8"))
        fields["aims"] = markdown(aims(tables, sum(path.stat().st_size for path in folder.rglob("*.safetensors"))))
        fields["copied"] = "; ".join(
            gallery.memorisation_sentences(tables["quality_memorisation"].set_index(["encoder", "images"]))
        )
    text = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    return front_matter(folder) + jinja2.Template(text, undefined=jinja2.StrictUndefined, trim_blocks=True).render(
        fields
    )


def front_matter(folder: str | Path) -> str:
    """What the card opens with for machines, between lines of three dashes: licence, library, task, measured figures.

    The figures are those over all entities in `folder`/tables/quality_audited.csv, on test lesions; before there is one,
    those of the chosen sampler on validation lesions.
    """
    tables = Path(folder) / "tables"
    if (tables / "quality_audited.csv").is_file():
        audited, split = pd.read_csv(tables / "quality_audited.csv"), "test"
        overall = audited[audited["entity"] == "overall"].set_index("metric")
        values, counts = overall["value"].to_dict(), overall["n"].to_dict()
    else:
        compared, split = pd.read_csv(tables / samplers.TABLE), "validation"
        values = compared[compared["chosen"]].iloc[-1].to_dict()
        counts = dict.fromkeys(HUB_METRICS, values["n"])
    measured = [
        {"type": metric, "name": f"{name}, n = {counts[metric]:.0f}", "value": round(float(values[metric]), 3)}
        for metric, name in HUB_METRICS.items()
        if metric in values
    ]
    against = {"name": f"HAM10000, images of {split} lesions", "type": "ham10000", "split": split}
    result = {"task": {"type": HUB["pipeline_tag"]}, "dataset": against, "metrics": measured}
    index = {"model-index": [{"name": "glide-mini", "results": [result]}]}
    return f"---\n{yaml.safe_dump(HUB | index, sort_keys=False, allow_unicode=True)}---\n"


def trainings(lineage: dict) -> pd.DataFrame:
    """A row a training that made what ships, in their order: model, left_at, and RECIPE."""
    rows = []
    for model in STAGES:
        own = lineage[model]
        for part in [*own["earlier"], {"recipe": own["recipe"], "step": left_at(own)}]:
            rows.append({"model": model, "left_at": part["step"]} | {name: part["recipe"].get(name) for name in RECIPE})
    return pd.DataFrame(rows)


def left_at(network: dict) -> int:
    """The step of its last training from which a network of lineage.json ships."""
    return int(network["average"].rsplit("-", 1)[1])


def aims(tables: dict[str, pd.DataFrame], size: int) -> pd.DataFrame:
    """What was aimed at on test lesions before the training sessions, beside what was reached: aim, reached, met.

    tables: those of the folder by name; size: bytes of all weights.
    """
    stages = tables["quality_cascade"].set_index(["input", "enlarged_by"])["kid"]
    audited = tables["quality_audited"].query("entity == 'overall'").set_index("metric")["value"]
    named = (
        tables["quality_fidelity"].set_index(["network", "entity"]).loc[(reference_classifier.INDEPENDENT, "overall")]
    )
    rows = [
        ("KID, real 64-pixel images enlarged", "at most", 15, stages[cascade.REAL, "upsampler"]),
        ("KID of the base at 64 pixels", "at most", 15, stages["painted images at 64 pixels", cascade.NONE]),
        *(("KID, end to end", "at most", 35, audited["kid"]), ("FID, end to end", "at most", 110, audited["fid"])),
        ("recall, end to end", "at least", 0.3, audited["recall"]),
        ("caption fidelity less that of real images", "at least", -0.1, named["difference"]),
        ("MB of weights", "at most", 40, size / 1e6),
    ]
    if "speed" in tables:
        one = tables["speed"][tables["speed"]["case"].str.startswith("whole images, 1,")]["seconds"].iloc[0]
        rows.append(("seconds of a whole image on two cores", "at most", 3, one))
    table = pd.DataFrame(rows, columns=["on test lesions", "word", "aim", "reached"])
    met = (table["reached"] <= table["aim"]).where(table["word"] == "at most", table["reached"] >= table["aim"])
    return table.assign(aim=table.pop("word") + table["aim"].map(" {:g}".format), met=met)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown: entities by name, KID with its interval in brackets, numbers to three figures."""
    table = table.replace(NAMES)
    if {"kid", "low", "high"} <= set(table):
        low, high = table.pop("low").map("{:z.0f}".format), table.pop("high").map("{:z.0f}".format)
        table["kid"] = table["kid"].map("{:z.0f}".format) + " (" + low + " to " + high + ")"
    rows = [list(table.columns), ["---"] * table.shape[1], *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)


def _cell(value) -> str:
    """A cell: nothing where it is missing, numbers to three figures, names without underscores."""
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value).replace("_", " ")
