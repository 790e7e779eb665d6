"""What ships as glide-mini: fp16 weights with tokenizers, the split they were trained on, tables, the model card.

Source of the card's parts: Mitchell et al., "Model cards for model reporting" (arXiv 1810.03993); its front matter is
Hugging Face's, huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image

from dermstudy import figures, workspace
from dermstudy.data import dataset, splits
from dermstudy.diffusion import glide, sample, schedules
from dermstudy.entities import CODES, NAMES, PROMPTS
from dermstudy.evaluation import encoders, fidelity
from dermstudy.files import InputError, atomic_path, sha256_file, write_text
from dermstudy.maintenance import candidates

LARGEST = 40_000_000  # bytes of all that ships
MARGIN = 0.1  # the share of the reference's KID within which fewer sampler steps count as equal
LINEAGE = "lineage.json"  # the runs that the weights come from, the first one first
CHECKSUMS = "SHA256SUMS"
TABLES = (
    *("finetune_log", "upsample_log", "upsample_against_bicubic", "mini_recipes", "mini_guidance", "mini_steps"),
    *("mini_upsampler_steps", "quality_audited", "quality_fidelity", "quality_memorisation"),
    "quality_closest",
)
FIGURES = ("finetune_loss", "finetune_bands", "upsample_loss", "guidance", "mini_guidance")
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


def pack(space: workspace.Workspace, out: Path) -> None:
    """Write glide-mini to `out` from the artifacts, tables and figures of `space`, whole or not at all.

    InputError where a part is missing, or all of it is larger than LARGEST.
    """
    cohort = dataset.open_cohort(space.need("cohort", made_by="00_dataset"))
    models = {
        "base": glide.load(space.need("glide_base", made_by="01_finetune")),
        "upsampler": glide.load(space.need("glide_upsampler", made_by="02_upsample"), glide.GlideUpsamplePipeline),
    }
    wanted = {f"tables/{name}.csv": space.tables / f"{name}.csv" for name in TABLES}
    wanted |= {f"figures/{name}.png": space.figures / f"{name}.png" for name in FIGURES}
    wanted["manifest.json"] = space.root / "manifest.json"
    for path in wanted.values():
        if not path.is_file():
            raise InputError(
                f"{workspace.shown(path)} is missing: run notebooks 00 to 04 and the sampler comparison first"
            )
    notes = json.loads(wanted["manifest.json"].read_text(encoding="utf-8"))
    scale = notes["notebooks"]["03_sample"]["parameters"]["GUIDANCE_SCALE"]
    if scale not in pd.read_csv(wanted["tables/mini_guidance.csv"])["guidance_scale"].tolist():
        raise InputError(
            f"03_sample took guidance scale {scale:g}, which the sampler comparison has not: compare it too"
        )
    with atomic_path(out) as temporary:
        for folder in ("tables", "figures"):
            (temporary / folder).mkdir(parents=True)
        for name, model in models.items():
            for module in (model.unet, model.text_encoder):
                torch.nn.Module.half(module)
            model.save_pretrained(temporary / name)
            _forget_origin(temporary / name)
        cohort.frame[["image_id", "split"]].to_csv(temporary / "split.csv", index=False, lineterminator="\n")
        for name, path in wanted.items():
            shutil.copyfile(path, temporary / name)
        runs = [*_inherited(notes, temporary), _run(notes, temporary)]
        write_text(temporary / LINEAGE, json.dumps(runs, indent=1) + "\n")
        _montage(temporary, notes["notebooks"]["03_sample"]["parameters"])
        counts = pd.crosstab(cohort.frame["dx"], cohort.frame["split"]).reindex(CODES)[list(splits.SPLITS)]
        write_text(temporary / "README.md", card(temporary, notes, counts))
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files)
        if size > LARGEST:
            raise InputError(f"glide-mini would be {size / 1e6:.1f} MB of {LARGEST / 1e6:.0f}: choose smaller presets")
        lines = [f"{sha256_file(path)}  {path.relative_to(temporary).as_posix()}" for path in files]
        write_text(temporary / CHECKSUMS, "\n".join(lines) + "\n")
    print(f"{workspace.shown(out)}: {len(files)} files, {size / 1e6:.1f} MB")


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


def card(folder: Path, notes: dict, counts: pd.DataFrame) -> str:
    """The model card as markdown. Every figure in it is read from `folder`/tables, the manifest `notes` or `counts`."""
    tables = {name: pd.read_csv(folder / "tables" / f"{name}.csv") for name in TABLES}
    text = front_matter(folder) + (Path(__file__).parent / "card.md").read_text(encoding="utf-8")
    training, sampling, measured = (
        notes["notebooks"][stem]["parameters"] for stem in ("01_finetune", "03_sample", "04_metrics")
    )
    runs = json.loads((folder / LINEAGE).read_text(encoding="utf-8"))
    logs = [pd.read_csv(path) for path in sorted((folder / "tables").glob("finetune_log_run*.csv"))]
    logs.append(tables["finetune_log"])
    guidance, compared = tables["mini_guidance"], tables["mini_recipes"]
    chosen = guidance[guidance["guidance_scale"] == sampling["GUIDANCE_SCALE"]].iloc[0]
    overall = tables["quality_audited"].query("entity == 'overall' and metric == 'kid'").iloc[0]
    closest = tables["quality_memorisation"].set_index(["encoder", "images"])["min"][encoders.LITE]
    named = tables["quality_fidelity"].set_index(["network", "entity"]).loc[fidelity.CHOOSER, "overall"]
    fields = {
        "data_hash": notes["data_hash"][:16],
        "split_sha256": sha256_file(folder / "split.csv")[:16],
        "base_parameters": f"{_parameters(folder / 'base') / 1e6:.1f}",
        "upsampler_parameters": f"{_parameters(folder / 'upsampler', glide.GlideUpsamplePipeline) / 1e6:.1f}",
        "counts": _markdown(counts.rename(index=NAMES).rename_axis("entity"), 0),
        "base_recipe": _lines([run["base"] for run in runs]),
        "upsampler_recipe": _lines([run["upsampler"] for run in runs]),
        "commits": ", then ".join(run["commit"][:12] for run in runs),
        "prediction": {"v_prediction": "velocity", "epsilon": "noise"}[_prediction(folder / "base")],
        "bands": _markdown(pd.concat([_bands(log, run + 1) for run, log in enumerate(logs)]).set_index("run"), 4),
        "recipes": _markdown(compared.set_index("candidate").rename(columns={"parameters": "million parameters"}), 4),
        "recipe_seconds": _span(compared["seconds"]),
        "recipe_steps": _span(compared["steps"]),
        "recipe_warmup": str(candidates.BASELINE.warmup_steps),
        "guidance": _markdown(tables["mini_guidance"].set_index("guidance_scale"), 3),
        "steps": _markdown(tables["mini_steps"].set_index(["sampler", "steps"]), 3),
        "upsampler_steps": _markdown(tables["mini_upsampler_steps"].set_index(["sampler", "steps"]), 3),
        "margin": f"{1 + MARGIN:g}",
        "reason": _reason(guidance, chosen, named),
        "kid_64": f"{chosen['kid']:.0f}",
        "kid_256": f"{overall['value']:.0f}",
        "missed": _missed(tables["quality_audited"]),
        "minutes": str(sum(int(run[part].split()[-2]) for run in runs for part in ("base", "upsampler"))),
        "searched": "all" if not measured["NEIGHBOURS"] else f"{measured['NEIGHBOURS']} of the",
        "defaults": f"guidance scale {sampling['GUIDANCE_SCALE']:g}, {sampling['SAMPLER']}, {sampling['BASE_STEPS']} steps "
        f"for the base model and {sampling['UPSAMPLE_STEPS']} for the upsampler",
        "quality": _markdown(_quality(tables["quality_audited"]), 2),
        "fidelity": _markdown(tables["quality_fidelity"].set_index(["network", "entity"]), 2),
        "closest_lite": f"{closest['synthetic']:.2f}",
        "closest_real": f"{closest['real, validation']:.2f}",
        "memorisation": _markdown(tables["quality_memorisation"].set_index(["encoder", "images"]), 3),
        "bicubic": _markdown(tables["upsample_against_bicubic"].set_index("enlargement"), 4),
    }
    for name, value in fields.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def front_matter(folder: str | Path) -> str:
    """What the card opens with for machines, between lines of three dashes: licence, library, task, measured figures.

    The figures are those over all entities in `folder`/tables/quality_audited.csv.
    """
    audited = pd.read_csv(Path(folder) / "tables" / "quality_audited.csv")
    overall = audited[audited["entity"] == "overall"].set_index("metric")
    measured = [
        {
            "type": metric,
            "name": f"{name}, n = {overall['n'][metric]:.0f}",
            "value": round(float(overall["value"][metric]), 3),
        }
        for metric, name in HUB_METRICS.items()
    ]
    against = {"name": "HAM10000, images of test lesions", "type": "ham10000", "split": "test"}
    result = {"task": {"type": HUB["pipeline_tag"]}, "dataset": against, "metrics": measured}
    index = {"model-index": [{"name": "glide-mini", "results": [result]}]}
    return f"---\n{yaml.safe_dump(HUB | index, sort_keys=False, allow_unicode=True)}---\n"


def _parameters(folder: Path, kind=glide.GlidePipeline) -> int:
    return glide.parameter_count(glide.load(folder, kind))


def _montage(folder: Path, sampling: dict) -> None:
    """Eight images an entity from its plain name and seeds 0 to 7, from the weights as they ship; nothing is picked."""
    base = glide.load(folder / "base")
    upsampler = glide.load(folder / "upsampler", glide.GlideUpsamplePipeline)
    for model in (base, upsampler):
        model.scheduler = schedules.sampler_from(model.scheduler, sampling["SAMPLER"])
        model.set_progress_bar_config(disable=True)
    rows, seeds = [], list(MONTAGE_SEEDS)
    for prompt in PROMPTS:
        small = base(
            [prompt] * len(seeds),
            guidance_scale=sampling["GUIDANCE_SCALE"],
            num_inference_steps=sampling["BASE_STEPS"],
            seeds=seeds,
        )
        large = sample.enlarged(upsampler, small, [prompt] * len(seeds), seeds, sampling["UPSAMPLE_STEPS"])
        rows.append(list(large))
    figures.save(figures.image_grid(rows, [NAMES[code] for code in CODES]), folder / "figures" / "montage.png")
    whole = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    with atomic_path(folder / "figures" / "montage_256.jpg") as path:
        whole.save(path, format="JPEG", quality=92)


def _inherited(notes: dict, folder: Path) -> list[dict]:
    """The earlier runs that these weights started from, their logs copied into `folder`/tables; none from nothing."""
    start = workspace.from_root(notes["notebooks"]["01_finetune"]["parameters"]["START"]).parent
    if not notes["notebooks"]["01_finetune"]["parameters"]["START"] or not (start / "manifest.json").is_file():
        return []
    earlier = json.loads((start / "manifest.json").read_text(encoding="utf-8"))
    lineage = start / LINEAGE
    runs = json.loads(lineage.read_text(encoding="utf-8")) if lineage.is_file() else [_run(earlier, start)]
    again = runs[-1] == _run(notes, folder)  # this walk has been packed before: it is no run of its own
    for name in ("finetune_log", "upsample_log"):
        for path in sorted((start / "tables").glob(f"{name}_run*.csv")):
            shutil.copyfile(path, folder / "tables" / path.name)
        if not again:
            shutil.copyfile(start / "tables" / f"{name}.csv", folder / "tables" / f"{name}_run{len(runs)}.csv")
    return runs[:-1] if again else runs


def _run(notes: dict, folder: Path) -> dict:
    """One run as the card tells it: profile, commit, the recipes of both models."""
    base, upsampler = (notes["notebooks"][stem] for stem in ("01_finetune", "02_upsample"))
    logs = [pd.read_csv(folder / "tables" / f"{name}.csv") for name in ("finetune_log", "upsample_log")]
    return {
        "profile": notes["profile"],
        "commit": notes["notebooks"]["01_finetune"].get("commit") or notes["commit"],
        "base": _recipe(base["parameters"], logs[0], _seconds(base, "finetune_seconds", logs[0])),
        "upsampler": _recipe(upsampler["parameters"], logs[1], _seconds(upsampler, "upsample_seconds", logs[1])),
    }


def _span(numbers: pd.Series) -> str:
    return f"{numbers.min():.0f} to {numbers.max():.0f}"


def _lines(runs: list[str]) -> str:
    if len(runs) == 1:
        return f"from nothing, {runs[0]}"
    return "; ".join(
        f"run {place}, {'on from there' if place > 1 else 'from nothing'}: {run}" for place, run in enumerate(runs, 1)
    )


def _prediction(folder: Path) -> str:
    return glide.load(folder).scheduler.config.prediction_type


def _reason(guidance: pd.DataFrame, chosen: pd.Series, fidelity: pd.Series) -> str:
    """What speaks for the chosen guidance scale and against it, read from the tables."""
    lowest = guidance.loc[guidance["kid"].idxmin()]
    recall = guidance["recall"].rank(ascending=False)[guidance["guidance_scale"] == chosen["guidance_scale"]].iloc[0]
    kid = (
        "has the lowest KID"
        if lowest["guidance_scale"] == chosen["guidance_scale"]
        else f"has a KID of {chosen['kid']:.0f} beside the lowest, {lowest['kid']:.0f} at {lowest['guidance_scale']:g}"
    )
    excess = 100 * (fidelity["synthetic"] - fidelity["real"])
    obeyed = "over-guidance" if excess > 10 else "within the ten points of the goal" if excess >= -10 else "too little"
    return (
        f"Scale {chosen['guidance_scale']:g} {kid}, and place {recall:.0f} of {len(guidance)} in recall. Its images are named "
        f"{abs(excess):.0f} points {'more' if excess > 0 else 'less'} often than real ones (below), which is {obeyed}."
    )


def _missed(audited: pd.DataFrame) -> str:
    """The entities whose KID is farther from its floor than from what other entities' real images score."""
    own = audited[(audited["metric"] == "kid") & (audited["entity"] != "overall")]
    far = own[(own["value"] - own["floor"]).abs() >= (own["value"] - own["others"]).abs()]
    return ", ".join(NAMES[code] for code in far["entity"]) or "none"


def _seconds(entry: dict, name: str, log: pd.DataFrame) -> float:
    """Seconds of a training, as its notebook noted them; logs that hold them are those of weights packed before."""
    return log["seconds"].iloc[-1] if "seconds" in log else entry["measures"][name]


def _recipe(parameters: dict, log: pd.DataFrame, seconds: float) -> str:
    """The settings of a run in one line that ends in "... N minutes"."""
    names = ("STEPS", "BATCH", "LEARNING_RATE", "CAPTION_DROPOUT", "EMA_DECAY", "PRECISION", "HALF_SIDE_STEPS", "CROP")
    names += ("WHOLE_STEPS", "WHOLE_BATCH") if parameters.get("WHOLE_STEPS") else ()
    kept = log.loc[log["validation_loss"].idxmin()]
    settings = ", ".join(
        f"{name.lower().replace('_', ' ')} {parameters[name]}" for name in names if parameters.get(name)
    )
    return f"{settings}, weights of step {kept['step']:.0f} kept, {seconds / 60:.0f} minutes"


def _bands(log: pd.DataFrame, run: int) -> pd.DataFrame:
    """The held-out loss by band at some records of a run, the last among them."""
    chosen = log.iloc[sorted({round(place * (len(log) - 1) / 5) for place in range(6)})]
    names = {
        name: "timesteps " + name.removeprefix("validation_").replace("_", " to ") for name in log.filter(regex=r"_\d")
    }
    chosen = chosen.assign(gap=chosen["validation_loss"] - chosen["loss"])
    columns = ["step", "loss", "validation_loss", "gap", *names]
    return chosen[columns].rename(columns=names | {"loss": "training loss"}).assign(run=run)


def _quality(audited: pd.DataFrame) -> pd.DataFrame:
    """One row an entity: each metric with its interval and floor."""
    rows = {}
    for entity, own in audited.groupby("entity", sort=False):
        cells = {"n": str(int(own["n"].iloc[0]))}
        for line in own.itertuples():
            cells[line.metric] = f"{line.value:.2f} ({line.low:.2f} to {line.high:.2f}); floor {line.floor:.2f}"
            if line.metric == "kid" and pd.notna(line.others):
                cells[line.metric] += f"; others {line.others:.1f}"
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
