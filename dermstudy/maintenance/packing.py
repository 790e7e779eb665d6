"""What ships as glide-mini: fp16 weights with tokenizers, tables, figures and the model card.

`python -m dermstudy.maintenance.packing` writes the card, the montage and the checksums of a folder into which `sittings` put
the weights and `samplers` the sampler; `--results DIR` adds what notebook 04 measured of these weights on test lesions.
Source of the card's parts: Mitchell et al., "Model cards for model reporting" (arXiv 1810.03993); its front matter is
Hugging Face's, huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from dermstudy import figures, training_curves, workspace
from dermstudy.diffusion import glide, sample, weights
from dermstudy.diffusion.checkpoints import weights_hash
from dermstudy.diffusion.identity import identity
from dermstudy.entities import CODES, NAMES, PROMPTS
from dermstudy.evaluation import cascade, fidelity, verdicts
from dermstudy.files import InputError, atomic_path, sha256_file, write_text
from dermstudy.maintenance import noise_levels, samplers
from dermstudy.maintenance.commands import answered
from dermstudy.maintenance.folded_weights import GUIDE

LARGEST = 40_000_000  # bytes of all that ships
CHECKSUMS = "SHA256SUMS"
STAGES = {"base": glide.GlidePipeline, "upsampler": glide.GlideUpsamplePipeline}
NEEDED = (
    weights.SITTINGS,
    samplers.TABLE,
    noise_levels.TABLE,
    noise_levels.GAINS,
    "images.csv",
    *(weights.LOG.format(name) for name in STAGES),
)
MEASURED = (
    *("quality_audited", "quality_encoders", "quality_fidelity", "quality_cascade", "quality_memorisation"),
    *("quality_closest", "quality_colour"),
)  # tables of notebook 04 that the card shows
BASE_ALONE = "painted images at 64 pixels"  # a row of the cascade's table
MEASURED_BY = "measured_by.json"  # beside the tables: the run that measured
MONTAGE_SEEDS = range(8)
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


def pack(folder: Path, results: workspace.Workspace | None = None) -> None:
    """Write card, figures and checksums of `folder`; with `results`, first copy the tables of 04 that measured its weights.

    InputError where a part is missing, where `results` are of other weights or settings, or where all of it is larger
    than LARGEST.
    """
    lineage = weights.lineage(folder)
    for name in NEEDED:
        if not (folder / "tables" / name).is_file():
            raise InputError(f"{folder / 'tables' / name} is missing: run sittings, samplers and noise_levels first")
    if not {*STAGES, "sampling"} <= set(lineage):
        raise InputError(f"{folder / weights.LINEAGE} does not name both networks and the sampler: run them first")
    if results is not None:
        _take_measured(folder, results)
    for stage in STAGES:
        log, sittings = weights.training_hours(folder / stage)
        figures.use_style()
        changes = training_curves.noise_changes(lineage[stage], log)
        figures.save(training_curves.training_hours(log, sittings, changes), folder / "figures", f"hours_{stage}")
        _forget_origin(folder / stage)
    _montage(folder, lineage["sampling"])
    write_text(folder / "README.md", card(folder))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    size = sum(path.stat().st_size for path in files)
    if size > LARGEST:
        raise InputError(f"{folder.name} would be {size / 1e6:.1f} MB of {LARGEST / 1e6:.0f}: choose smaller presets")
    lines = [f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}" for path in files]
    write_text(folder / CHECKSUMS, "\n".join(lines) + "\n")
    print(f"{workspace.shown(folder)}: {len(files)} files, {size / 1e6:.1f} MB")


def _take_measured(folder: Path, results: workspace.Workspace) -> None:
    """Copy what notebook 04 of `results` measured, once it is known to be of these weights at these settings."""
    notes = json.loads((results.root / "manifest.json").read_text(encoding="utf-8"))
    used, wanted = notes["notebooks"]["03_sample"]["parameters"], weights.lineage(folder)["sampling"]
    other = [name for name, value in wanted.items() if used.get(name) != value]
    if other:
        raise InputError(
            f"{workspace.shown(results.root)} was sampled with another {other[0]} than the card's: rerun 03"
        )
    for stage in STAGES:
        made = results.need(f"glide_{stage}", made_by="01_finetune" if stage == "base" else "02_upsample")
        if _hash(made, stage) != _hash(folder / stage, stage):
            raise InputError(f"{workspace.shown(made)} holds other weights than {folder / stage}: it measured those")
    images = results.need("synthetic", made_by="03_sample")
    stages = sample.stages(folder / "base", folder / "upsampler", used["SAMPLER"], used["PRECISION"])
    painters = images / sample.PAINTERS
    if not painters.is_file() or json.loads(painters.read_text(encoding="utf-8")) != [identity(own) for own in stages]:
        raise InputError(f"{workspace.shown(images)} was painted by other weights or older code: rerun 03 and 04")
    for name in MEASURED:
        shutil.copyfile(results.tables / f"{name}.csv", folder / "tables" / f"{name}.csv")
    run = {"commit": notes["commit"], "data_hash": notes["data_hash"], "profile": notes["profile"]}
    write_text(folder / "tables" / MEASURED_BY, json.dumps(run, indent=1) + "\n")


def _hash(folder: Path, stage: str) -> str:
    model = glide.load(folder, STAGES[stage])
    return weights_hash({"unet": model.unet, "text_encoder": model.text_encoder})


def _forget_origin(folder: Path) -> None:
    """Take out of the configurations the path that the model was loaded from: it names a machine."""
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("_name_or_path", None):
            write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def verify(folder: str | Path) -> int:
    """Compare every file of a shipped folder with its checksum and return their number; InputError names the first fault."""
    folder = Path(folder)
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{folder} has no {CHECKSUMS}: it is no shipped model") from error
    listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    for name, digest in listed.items():
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing: check the folder out again")
        if sha256_file(folder / name) != digest:
            raise InputError(f"{folder / name} is not the file that was shipped: check the folder out again")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {CHECKSUMS}
    if present - set(listed):
        raise InputError(f"{folder / min(present - set(listed))} did not ship with the model: move it elsewhere")
    return len(listed)


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
        "measured": _measured(folder),
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


def _montage(folder: Path, sampling: dict) -> None:
    """Eight images an entity from its plain name and seeds 0 to 7, from the weights as they ship; nothing is picked."""
    base, upsampler = sample.stages(folder / "base", folder / "upsampler", sampling["SAMPLER"], "fp32")
    for model in (base, upsampler):
        model.set_progress_bar_config(disable=True)
    rows, seeds = [], list(MONTAGE_SEEDS)
    for prompt in PROMPTS:
        small = base(
            [prompt] * len(seeds),
            guidance_scale=sampling["GUIDANCE_SCALE"],
            guidance_interval=glide.interval_of(sampling["GUIDANCE_INTERVAL"]),
            num_inference_steps=sampling["BASE_STEPS"],
            seeds=seeds,
        )
        rows.append(list(sample.enlarged(upsampler, small, [prompt] * len(seeds), seeds, sampling["UPSAMPLE_STEPS"])))
    figures.save(figures.image_grid(rows, [NAMES[code] for code in CODES]), folder / "figures", "montage")
    whole = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    with atomic_path(folder / "figures" / "montage_256.jpg") as path:
        whole.save(path, format="JPEG", quality=92)


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


def _measured(folder: Path) -> str:
    """The section on test lesions, from the tables of notebook 04 where they are there."""
    if not (folder / "tables" / MEASURED_BY).is_file():
        return UNMEASURED
    tables = {name: pd.read_csv(folder / "tables" / f"{name}.csv") for name in MEASURED}
    run = json.loads((folder / "tables" / MEASURED_BY).read_text(encoding="utf-8"))
    audited, memory = tables["quality_audited"], tables["quality_memorisation"].set_index(["encoder", "images"])
    text = (Path(__file__).parent / "card_measured.md").read_text(encoding="utf-8")
    fields = {
        "commit": run["commit"][:12],
        "aims": _markdown(_aims(tables), 2),
        "why": _why(tables),
        "quality": _markdown(_quality(audited), 2),
        "encoders": _markdown(tables["quality_encoders"].set_index(["encoder", "entity"]), 1),
        "stages": _markdown(tables["quality_cascade"].set_index(["input", "enlarged_by"]), 1),
        "fidelity": _markdown(tables["quality_fidelity"].set_index(["network", "entity"]), 2),
        "memorisation": _markdown(memory, 3),
        "colour": _markdown(tables["quality_colour"].set_index(["entity", "channel"]), 2),
        "beside_others": _beside_others(audited),
        "closest": _closest(memory),
    }
    for name, value in fields.items():
        text = text.replace(f"{{{name}}}", value)
    return text.strip()


def _aims(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What was aimed at on test lesions before the sittings began, beside what was reached: aim, reached, met."""
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
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("on test lesions").replace("-", "−", regex=True)


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
        return f"{told}. So the base costs the most: what its images lack is fine detail, which 64 pixels hide and 256 show."
    return f"{told}. So the upsampler costs as much as the base, or more."


def _beside_others(audited: pd.DataFrame) -> str:
    """In how many entities the synthetic images' KID is above what other entities' real images score, and how surely."""
    own = audited[(audited["metric"] == "kid") & (audited["entity"] != "overall")]
    above, surely = own[own["value"] > own["others"]], own[own["low"] > own["others"]]
    nearer = [NAMES[code] for code in own["entity"] if code not in set(above["entity"])]
    return (
        f"The synthetic images of {len(above)} of {len(own)} entities{f' (not {verdicts.listed(nearer)})' * bool(nearer)} have a "
        f"larger KID than other entities' real images; of {len(surely)}, at the low end of the interval too. At so few images an "
        "entity their order is no finding."
    )


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m dermstudy.maintenance.packing", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--weights", default="weights/glide-mini", help="default weights/glide-mini")
    parser.add_argument("--results", help="a run of the notebooks on HAM10000 with these weights")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    results = workspace.Workspace(workspace.from_root(options.results)) if options.results else None
    pack(workspace.from_root(options.weights), results)


if __name__ == "__main__":
    sys.exit(main())
