"""The model card of glide-mini: every figure in it is read from the tables and the lineage of the folder that ships.

Source of its parts: Mitchell et al., "Model cards for model reporting" (arXiv 1810.03993); its front matter is Hugging
Face's, huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from dermstudy.diffusion import glide, weights
from dermstudy.entities import NAMES
from dermstudy.evaluation import cascade, copies, fidelity, quality, verdicts
from dermstudy.maintenance import mini_speed, noise_levels, samplers, stage_costs, versions
from dermstudy.maintenance.folded_weights import GUIDE

STAGES = {"base": glide.GlidePipeline, "upsampler": glide.GlideUpsamplePipeline}
NEEDED = (
    weights.SITTINGS,
    samplers.TABLE,
    noise_levels.TABLE,
    noise_levels.GAINS,
    versions.TABLE,
    stage_costs.TABLE,
    mini_speed.TABLE,
    "images.csv",
    *(weights.LOG.format(name) for name in STAGES),
)
MEASURED = (
    *("quality_audited", "quality_encoders", "quality_fidelity", "quality_cascade", "quality_memorisation"),
    *("quality_closest", "quality_colour"),
)  # tables of notebook 04 that the card shows
MEASURED_BY = "measured_by.json"  # beside the tables: the run that measured
BASE_ALONE = "painted images at 64 pixels"  # a row of the cascade's table
HUB = {
    "license": "cc-by-nc-4.0",
    "language": "en",
    "library_name": "diffusers",
    "pipeline_tag": "text-to-image",
    "tags": ["glide", "text-to-image", "dermatoscopy", "skin-lesions", "synthetic-data", "not-for-clinical-use"],
    "datasets": ["ham10000"],
}
HUB_METRICS = {"kid": "KID x 1,000", "fid": "FID", "precision": "precision", "recall": "recall"}
UNMEASURED = (
    "Not yet: test lesions are looked at once, by the run of all notebooks. Until then the figures of validation lesions "
    "above are the only ones, and they have chosen the sampler."
)


def card(folder: Path) -> str:
    """The model card as markdown. Every figure in it is read from `folder`/tables and lineage.json."""
    text = front_matter(folder) + (Path(__file__).parent / "card.md").read_text(encoding="utf-8")
    tables = {name: pd.read_csv(folder / "tables" / name) for name in NEEDED}
    lineage, sittings, compared = weights.lineage(folder), tables[weights.SITTINGS], tables[samplers.TABLE]
    last = sittings.groupby("model").last()
    fields = {
        "data_hash": sittings["data_hash"].iloc[-1][:16],
        "split_sha256": sittings["split"].iloc[-1][:16],
        "counts": _markdown(tables["images.csv"].set_index("entity"), 0),
        "sittings": _markdown(_told(sittings), 2),
        "guidance": _markdown(_settings(compared, samplers.GUIDANCE), 2),
        "base_steps": _markdown(_settings(compared, samplers.BASE), 2),
        "upsampler_steps": _markdown(_settings(compared, samplers.UPSAMPLER), 2),
        "candidates": _markdown(_settings(compared, samplers.FINE), 2),
        "candidates_n": f"{compared['n'].iloc[-1]:.0f}",
        "guide": _guide(lineage),
        "margin": f"{1 + samplers.MARGIN:g}",
        "defaults": _defaults(lineage["sampling"]),
        "sampler_n": f"{compared['n'].iloc[0]:.0f}",
        "kid_256": _kid(compared[compared["chosen"]].iloc[-1]),
        "trainings": _markdown(_trainings(lineage), 0),
        "captions": _markdown(_gains(tables[noise_levels.GAINS]), 2),
        "noise_levels": _markdown(_levels(tables[noise_levels.TABLE]), 2),
        "versions": _markdown(_versions(tables[versions.TABLE]), 2),
        "more_hours": _more_hours(sittings),
        "uncommitted": _uncommitted(sittings),
        "measured": _measured(folder, tables),
    }
    for name in STAGES:
        fields |= {
            f"{name}_parameters": f"{glide.parameter_count(glide.load(folder / name, STAGES[name])) / 1e6:.1f}",
            f"{name}_images": f"{last.loc[name, 'images']:,}",
            f"{name}_hours": _spent(sittings[sittings["model"] == name]),
            f"{name}_kid": _kid(last.loc[name]),
            f"{name}_floor": f"{last.loc[name, 'floor']:z.0f}",
        }
    for name, value in fields.items():
        text = text.replace(f"{{{name}}}", value)
    return text


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
        row = compared[compared["chosen"]].iloc[-1]
        values = {name: row[name] for name in HUB_METRICS if name in row}
        counts = dict.fromkeys(values, row["n"])
    measured = [
        {"type": metric, "name": f"{name}, n = {counts[metric]:.0f}", "value": round(float(values[metric]), 3)}
        for metric, name in HUB_METRICS.items()
        if metric in values
    ]
    against = {"name": f"HAM10000, images of {split} lesions", "type": "ham10000", "split": split}
    result = {"task": {"type": HUB["pipeline_tag"]}, "dataset": against, "metrics": measured}
    index = {"model-index": [{"name": "glide-mini", "results": [result]}]}
    return f"---\n{yaml.safe_dump(HUB | index, sort_keys=False, allow_unicode=True)}---\n"


def _trainings(lineage: dict) -> pd.DataFrame:
    """A row a training that made what ships, in their order, for a reader; each began from the average of the one before."""
    rows = []
    for model in STAGES:
        steps = [part["step"] for part in lineage[model]["earlier"]] + [_left_at(lineage[model])]
        recipes = [part["recipe"] for part in lineage[model]["earlier"]] + [lineage[model]["recipe"]]
        rows += [{"model": model} | _training(recipe, step) for recipe, step in zip(recipes, steps, strict=True)]
    return pd.DataFrame(rows).set_index("model")


def _left_at(training: dict) -> int:
    """The step of its last training from which a network ships."""
    return int(training["average"].rsplit("-", 1)[1])


def _training(recipe: dict, step: int) -> dict:
    """The settings of one long training, left at `step`, in the words of the card's table."""
    noise = f"{recipe['noise_mean']:g} ± {recipe['noise_spread']:g}"
    if recipe.get("high_share"):
        noise += f", {recipe['high_share']:.0%} of it {recipe['high_mean']:g} ± {recipe['high_spread']:g}"
    balance = recipe.get("balance", 0.5)
    drawn = {0.5: "square root", 1.0: "evenly"}.get(balance, f"frequency to the power of {1 - balance:g}")
    return {
        "steps": f"{step:,}" if step == recipe["steps"] else f"{step:,} of {recipe['steps']:,}",
        "images a step": recipe["batch"],
        "crops": f"{recipe['crop']} pixels" if recipe["crop"] else "whole images",
        "logarithm of noise": noise,
        "entities drawn": drawn,
        "learning rate": f"{recipe['learning_rate']:g}",
        "it falls over the last": f"{recipe['decay_share']:.0%}",
        "text encoder taught first": "yes" if recipe.get("taught_text") else "",
    }


def _guide(lineage: dict) -> str:
    """Which state of the base the guide is: "step 428 of training 3 of the base"."""
    return f"step {_left_at(lineage[GUIDE])} of training {len(lineage[GUIDE]['earlier']) + 1} of the base"


def _spent(sittings: pd.DataFrame) -> str:
    """The time that the `sittings` of one network took: "8.0 hours on one core and 4 minutes on one NVIDIA H200"."""
    last = sittings.iloc[-1]
    spent = f"{last['hours']:.1f} hours on one core"
    if not last["gpu_hours"]:
        return spent
    kinds = sittings["processor"][sittings["gpu_hours"].diff().fillna(sittings["gpu_hours"]) > 0]
    return f"{spent} and {60 * last['gpu_hours']:.0f} minutes on one {' and one '.join(kinds.unique())}"


def _told(sittings: pd.DataFrame) -> pd.DataFrame:
    """`sittings` for a reader."""
    columns = ["model", "sitting", "hours", "gpu_hours", "images", "loss", "sampler_steps", "guidance_scale", "n"]
    shown = sittings[columns].rename(columns={"gpu_hours": "GPU hours"}).set_index("model")
    shown["kid"] = [_kid(row) for row in sittings.to_dict("records")]
    scale = sittings["guidance_scale"].map("{:g}".format, na_action="ignore")
    shown["guidance_scale"] = scale.fillna("").to_numpy()
    shown["real"] = sittings["floor"].map("{:z.0f}".format).to_numpy()
    heard = sittings["caption_gain"].map("{:z.1%}".format, na_action="ignore")
    return shown.assign(**{"caption gain": heard.fillna("").to_numpy()})


def _settings(compared: pd.DataFrame, comparison: str) -> pd.DataFrame:
    """One comparison of samplers for a reader: what it varies, KID, precision, recall, and which was chosen."""
    own = compared[compared["comparison"] == comparison]
    guidance, steps = ["guidance_scale", "least_noise", "largest_noise"], ["base_steps", "upsampler_steps"]
    varied = {
        samplers.GUIDANCE: guidance, samplers.BASE: steps[:1], samplers.UPSAMPLER: steps[1:],
        samplers.FINE: [*guidance, *steps],
    }[comparison]  # fmt: skip
    shown = own[[*varied, "precision", "recall"]].astype({name: str for name in varied}).set_index(varied)
    shown.insert(0, "kid", [_kid(row) for row in own.to_dict("records")])
    return shown.assign(chosen=np.where(own["chosen"], "x", ""))


def _gains(table: pd.DataFrame) -> pd.DataFrame:
    """`noise_levels.gain_rows` for a reader: in % of the squared error, a row a sitting, a column a noise level."""
    shown = (100 * table.pivot(index="sitting", columns="noise", values="gain")).round(2)
    return shown.rename(columns=lambda noise: f"noise {noise:g}").rename_axis("after sitting")


def _levels(table: pd.DataFrame) -> pd.DataFrame:
    """`noise_levels` for a reader: a row a noise level, KID and texture a column of each stage and sitting."""
    named = table.sort_values("noise").assign(noise=lambda own: own["noise"].map(noise_levels.name_of))
    columns = {}
    for (stage, sitting), own in named.groupby(["model", "sitting"]):
        lines = own.set_index("noise")
        columns[f"{stage}, sitting {sitting}"] = lines.apply(_kid, axis=1)
        if stage == "upsampler":
            columns[f"texture, sitting {sitting}"] = lines["texture"].map("{:.2f}".format)
        elif "kid_enlarged" in lines and lines["kid_enlarged"].notna().any():
            columns[f"enlarged to 256 pixels, sitting {sitting}"] = lines["kid_enlarged"].map("{:z.0f}".format)
    return pd.DataFrame(columns).reindex(named["noise"].unique()).fillna("").rename_axis("noise over signal")


def _kid(row) -> str:
    return f"{row['kid']:z.0f} ({row['low']:z.0f} to {row['high']:z.0f})"


def _defaults(sampling: dict) -> str:
    where = glide.interval_of(sampling["GUIDANCE_INTERVAL"])
    noise = "" if where == glide.EVERYWHERE else f" at noise of {where[0]:g} to {where[1]:g}"
    guidance = (
        "no guidance" if sampling["GUIDANCE_SCALE"] == 1 else f"guidance scale {sampling['GUIDANCE_SCALE']:g}{noise}"
    )
    return (
        f"{guidance}, {sampling['SAMPLER']}, {sampling['BASE_STEPS']} steps for the base model and "
        f"{sampling['UPSAMPLE_STEPS']} for the upsampler"
    )


def _versions(table: pd.DataFrame) -> pd.DataFrame:
    """`versions.versions` for a reader."""
    shown = table.assign(kid=[_kid(row) for row in table.to_dict("records")], commit=table["commit"].str[:7])
    for name in versions.SEEN.values():
        shown[name] = table[name].map("{:,}".format)
    shown["guidance_scale"] = table["guidance_scale"].map("{:g}".format)
    return shown.drop(columns=["low", "high"]).set_index("commit")


def _more_hours(sittings: pd.DataFrame) -> str:
    """Whether the curve of the base says that more training pays: where its last sittings' intervals meet it does not."""
    own = sittings[sittings["model"] == "base"]
    same = own[
        own["guidance_scale"].eq(own["guidance_scale"].iloc[-1])
        & own["sampler_steps"].eq(own["sampler_steps"].iloc[-1])
    ]
    last = same.tail(3)
    said = ", ".join(_kid(row) for row in last.to_dict("records"))
    seen = f"{last['images'].iloc[0]:,} to {last['images'].iloc[-1]:,} images"
    kids = f"From {seen} the base's KID on validation lesions is {said}"
    if last["low"].max() <= last["high"].min():
        return f"{kids}: their intervals meet, so the curve does not say that more would pay"
    return f"{kids}: it still falls"


def _uncommitted(sittings: pd.DataFrame) -> str:
    """How many sittings were trained by code with changes that were not committed: "8 of 12"."""
    return f"{sittings['commit'].str.endswith('+changes').sum()} of {len(sittings)}"


def _measured(folder: Path, own: dict[str, pd.DataFrame]) -> str:
    """The section on test lesions, from the tables of notebook 04 where they are there."""
    if not (folder / "tables" / MEASURED_BY).is_file():
        return UNMEASURED
    tables = {name: pd.read_csv(folder / "tables" / f"{name}.csv") for name in MEASURED}
    run = json.loads((folder / "tables" / MEASURED_BY).read_text(encoding="utf-8"))
    audited, memory = tables["quality_audited"], tables["quality_memorisation"].set_index(["encoder", "images"])
    text = (Path(__file__).parent / "card_measured.md").read_text(encoding="utf-8")
    fields = {
        "commit": run["commit"][:12],
        "aims": _markdown(_aims(tables, _size(folder), own[mini_speed.TABLE]), 2),
        "why": _why(tables) + _fine_detail(own[noise_levels.TABLE]),
        "costs": _costs(own[stage_costs.TABLE]),
        "stage_costs": _markdown(_costs_table(own[stage_costs.TABLE]), 2),
        "numbers": _numbers(tables),
        "quality": _markdown(_quality(audited), 2),
        "encoders": _markdown(_by_encoder(tables["quality_encoders"]), 1),
        "stages": _markdown(tables["quality_cascade"].set_index(["input", "enlarged_by"]), 1),
        "fidelity": _markdown(tables["quality_fidelity"].set_index(["network", "entity"]), 2),
        "memorisation": _markdown(memory, 3),
        "copied": "; ".join(copies.said(memory)),
        "colour": _markdown(_colours(tables["quality_colour"]).set_index(["entity", "channel"]), 2),
        "too_coloured": _too_coloured(tables["quality_colour"]),
        "beside_others": _beside_others(audited),
        "closest": _closest(memory),
    }
    for name, value in fields.items():
        text = text.replace(f"{{{name}}}", value)
    return text.strip()


def _aims(tables: dict[str, pd.DataFrame], size: float, speed: pd.DataFrame) -> pd.DataFrame:
    """What was aimed at on test lesions before the sittings began, beside what was reached: aim, reached, met.

    size: MB of all weights; speed: as mini_speed keeps it.
    """
    stages = tables["quality_cascade"].set_index(["input", "enlarged_by"])
    audited = tables["quality_audited"].query("entity == 'overall'").set_index("metric")
    named = tables["quality_fidelity"].set_index(["network", "entity"]).loc[fidelity.INDEPENDENT, "overall"]
    away = 100 * named[["difference", "low", "high"]]
    points = "share named as asked by the independent network, less real images', in points"
    rows = [  # figure, aim, reached, low, high, digits
        (
            "KID, real 64-pixel images enlarged",
            "at most",
            15,
            *_of(stages.loc[cascade.REAL, "upsampler"], "kid"),
            "z.0f",
        ),
        ("KID of the base at 64 pixels", "at most", 15, *_of(stages.loc[BASE_ALONE, cascade.NONE], "kid"), "z.0f"),
        ("KID, end to end", "at most", 35, *_of(audited.loc["kid"], "value"), "z.0f"),
        ("FID, end to end", "at most", 110, *_of(audited.loc["fid"], "value"), ".0f"),
        ("recall, end to end", "at least", 0.3, *_of(audited.loc["recall"], "value"), ".2f"),
        (points, "at least", -10, *away, "+.0f"),
    ]
    table = {}
    for figure, word, aim, reached, low, high, digits in rows:
        met = reached <= aim if word == "at most" else reached >= aim
        cells = (
            f"{word} {aim:{digits}}",
            f"{reached:{digits}} ({low:{digits}} to {high:{digits}})",
            "yes" if met else "no",
        )
        table[figure] = dict(zip(("aim", "reached", "met"), cells, strict=True))
    one = speed[speed["case"].str.startswith("whole images, 1,")].iloc[0]
    for figure, most, reached, unit in (
        ("seconds of a whole image on two cores", 3, one["seconds"], "s"), ("weights", 40, size, "MB"),
    ):  # fmt: skip
        met = "yes" if reached <= most else "no"
        table[figure] = {"aim": f"at most {most} {unit}", "reached": f"{reached:.1f} {unit}", "met": met}
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("on test lesions").replace("-", "−", regex=True)


def _size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6


def _of(row: pd.Series, name: str) -> tuple[float, float, float]:
    return row[name], row["low"], row["high"]


def _why(tables: dict[str, pd.DataFrame]) -> str:
    """Which stage costs the whole more, from the table that feeds each with perfect input."""
    kid = tables["quality_cascade"].set_index(["input", "enlarged_by"])["kid"]
    real, painted = (kid[small, "upsampler"] for small in (cascade.REAL, cascade.PAINTED))
    small = kid[BASE_ALONE, cascade.NONE]
    told = (
        f"Real small images, enlarged, have a KID of {real:z.0f}; painted ones have {small:.0f} at 64 pixels "
        f"and {painted:.0f} once enlarged (by bicubic {kid[cascade.PAINTED, 'bicubic']:.0f})"
    )
    if painted - real > real:
        return f"{told}. So the base costs the most, and more at 256 pixels than its own 64 show."
    return f"{told}. So the upsampler costs as much as the base, or more."


def _fine_detail(levels: pd.DataFrame) -> str:
    """What the base loses at its least noise, seen at 64 pixels and enlarged; "" where that was not measured."""
    rows = levels[(levels["model"] == "base") & levels["kid_enlarged"].notna()]
    rows = rows[rows["sitting"] == rows["sitting"].max()].set_index("noise")
    least = min((noise for noise in rows.index if noise > 0), default=None)
    if least is None or 0 not in rows.index:
        return ""
    return (
        f" On validation lesions, real small images that it denoises from noise {least:g} alone have a KID of "
        f"{rows.loc[least, 'kid']:z.0f} at 64 pixels and {rows.loc[least, 'kid_enlarged']:.0f} once enlarged, untouched ones "
        f"{rows.loc[0, 'kid']:z.0f} and {rows.loc[0, 'kid_enlarged']:.0f}: fine detail, which 64 pixels hide and 256 show."
    )


def _costs_table(costs: pd.DataFrame) -> pd.DataFrame:
    """`stage_costs.table` for a reader."""
    shown = costs[["input", "enlarged_by", "n"]].set_index(["input", "enlarged_by"])
    values = (costs["recall"], costs["recall_low"], costs["recall_high"])
    shown["recall of halves"] = [f"{a:.2f} ({b:.2f} to {c:.2f})" for a, b, c in zip(*values, strict=True)]
    shown["n, named"], shown["named as asked"] = costs["n_named"].to_numpy(), costs["named"].to_numpy()
    values = (costs["less_real"], costs["named_low"], costs["named_high"])
    shown["less real images"] = [f"{a:+.2f} ({b:+.2f} to {c:+.2f})" for a, b, c in zip(*values, strict=True)]
    return shown.replace("-", "−", regex=True)


def _costs(costs: pd.DataFrame) -> str:
    """Which stage takes recall and the naming of entities, from the table that feeds each with perfect input."""
    rows = costs.set_index(["input", "enlarged_by"])
    real, small, whole = (
        rows.loc[key]
        for key in ((stage_costs.REAL, cascade.NONE), (cascade.REAL, "upsampler"), (cascade.PAINTED, "upsampler"))
    )
    said = []
    for name, words in (("recall", "Recall"), ("named", "The share named as asked")):
        lost = real[name] - small[name], small[name] - whole[name]
        stage = "the upsampler" if lost[0] > lost[1] else "the base"
        said.append(
            f"{words} is {real[name]:.2f} of real images, {small[name]:.2f} of real ones reduced and enlarged, "
            f"{whole[name]:.2f} of painted ones: {stage} holds it back the more"
        )
    return ". ".join(said) + "."


def _numbers(tables: dict[str, pd.DataFrame]) -> str:
    """Why two end-to-end figures of KID stand in the card, and what the second encoder says of it."""
    audited = tables["quality_audited"].query("entity == 'overall' and metric == 'kid'").iloc[0]
    whole = tables["quality_cascade"].set_index(["input", "enlarged_by"]).loc[cascade.PAINTED, "upsampler"]
    second = tables["quality_encoders"].query("entity == 'overall'").iloc[-1]
    n, floor = f"n = {whole['n']:.0f}", f"{second['floor']:z.0f}"
    return (
        f"End to end KID is {audited['value']:.0f} here, of n = {audited['n']:.0f} in even numbers of each entity for captions "
        f"of training images, and {whole['kid']:.0f} in the table of stages, of {n} for captions of test images. FID falls with "
        f"n: at {n}, of which the aim was set, it would be larger. By {second['encoder']}, which chose nothing, KID is "
        f"{second['kid']:.0f}, real images' {floor}: the verdict does not hang on the encoder that chose the sampler"
    )


def _colours(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(entity=table["entity"].replace(NAMES))


def _too_coloured(table: pd.DataFrame) -> str:
    """In how many entities the colour's difference is clear of zero, a channel a clause."""
    own, said = _colours(table), []
    for channel, words in (("a", "too red"), ("b", "too yellow")):
        rows = own[own["channel"].eq(channel) & (own["low"] > 0)]
        said.append(
            f"{words} in {len(rows)} of {own['entity'].nunique()} entities ({verdicts.listed(list(rows['entity']))})"
        )
    return f"Clear of zero, synthetic images are {' and '.join(said)}"


def _beside_others(audited: pd.DataFrame) -> str:
    """In how many entities the synthetic images' KID is above what other entities' real images score, and how surely."""
    own = audited[(audited["metric"] == "kid") & (audited["entity"] != "overall")]
    above, surely = own[own["value"] > own["others"]], own[own["low"] > own["others"]]
    nearer = [NAMES[code] for code in own["entity"] if code not in set(above["entity"])]
    return (
        f"Of the {len(own)} entities with {quality.FEWEST} images or more on each side, the synthetic images of {len(above)}"
        f"{f' (not {verdicts.listed(nearer)})' * bool(nearer)} have a larger KID than other entities' real images; of "
        f"{len(surely)}, at the low end of the interval too."
    )


def _by_encoder(both: pd.DataFrame) -> pd.DataFrame:
    """`quality.above_floors` with recall in percent, whose one digit would be none as a share."""
    shares = {
        f"{name}, %": 100 * both[column] for name, column in (("recall", "recall"), ("floor of it", "recall_floor"))
    }
    return both.drop(columns=["recall", "recall_floor"]).assign(**shares).set_index(["encoder", "entity"])


def _closest(memory: pd.DataFrame) -> str:
    """The least ratio and the 5 % quantile of synthetic and of real images, by each encoder."""
    said = []
    for encoder in memory.index.unique("encoder"):
        made, real = (memory.loc[(encoder, images)] for images in ("synthetic", "real, validation"))
        said.append(
            f"by {encoder} the least ratio is {made['min']:.2f} of {made['count']:,.0f} synthetic images and {real['min']:.2f} "
            f"of {real['count']:,.0f} real ones, the 5 % quantile {made['5%']:.2f} and {real['5%']:.2f}"
        )
    return "; ".join(said).replace("by", "By", 1)


def _quality(audited: pd.DataFrame) -> pd.DataFrame:
    """One row an entity: each metric with its interval and floor."""
    rows = {}
    for entity, own in audited.groupby("entity", sort=False):
        cells = {"n": str(int(own["n"].iloc[0]))}
        for line in own.itertuples():
            digits = "z.0f" if line.metric in ("kid", "fid") else ".2f"
            cells[line.metric] = (
                f"{line.value:{digits}} ({line.low:{digits}} to {line.high:{digits}}); floor {line.floor:{digits}}"
            )
            if line.metric == "kid" and pd.notna(line.others):
                cells[line.metric] += f"; others {line.others:z.0f}"
        rows[NAMES.get(entity, entity)] = cells
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("entity")


def _markdown(table: pd.DataFrame, digits: int) -> str:
    """A table as markdown, its index in front, numbers to `digits` decimals."""
    table = table.reset_index()
    lines = [
        "| " + " | ".join(str(name).replace("_", " ") for name in table.columns) + " |",
        "|" + " --- |" * table.shape[1],
    ]
    for row in table.itertuples(index=False):
        cells = [f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
