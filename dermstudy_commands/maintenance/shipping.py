"""How glide-mini's weights enter weights/glide-mini, and what its model card says.

    python -m dermstudy_commands.maintenance.shipping keep AVERAGE --kid FILE
    python -m dermstudy_commands.maintenance.shipping speed
    python -m dermstudy_commands.maintenance.shipping pack [--results DIR]

`keep` puts the averaged weights of a training session there as an fp16 pipeline, from which a later session can start, and
adds a line to tables/sittings.csv and the log of the training. FILE holds what stage_kid printed of the average. `speed`
measures how long whole images take. `pack` writes figures, model card and checksums; with --results it first copies what
notebook 04 measured of these weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import timeit
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors import SafetensorError, safe_open

from dermstudy import figures, workspace
from dermstudy.diffusion import glide, sample, weights
from dermstudy.diffusion.checkpoints import weights_hash
from dermstudy.diffusion.folded import FOLDED_PRESETS
from dermstudy.entities import CODES, NAMES, PROMPTS
from dermstudy.evaluation import cascade
from dermstudy.files import InputError, answered, atomic_path, sha256_file, write_text
from dermstudy.processor import bf16_products, described
from dermstudy.weight_files import drop_checksums, files_of, write_checksums
from dermstudy_commands import publish, weights_card
from dermstudy_commands.maintenance import card, folded_weights, samplers
from dermstudy_commands.maintenance.commands import open_tokenizer, write_table
from dermstudy_commands.runner import provenance

OUT = "weights/glide-mini"
LARGEST = 40_000_000  # bytes of all that ships
SETTINGS = ("guidance_scale", "base_steps", "upsampler_steps", "n", "kid", "low", "high", "precision", "recall")
SEEN = {"base": "base_images", "upsampler": "upsampler_images"}
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
COLUMNS = (
    "model", "sitting", "steps", "images", "hours", "gpu_hours", "loss", "average", "sampler_steps", "guidance_scale", "n", "kid",
    "low", "high", "floor", "caption_gain", "processor", "commit", "data_hash", "split", "weights_sha256",
)  # fmt: skip


def keep(average: Path, measured: list[dict], out: Path) -> pd.DataFrame:
    """Write the pipeline, the log and the line of one training session into `out`, and return all lines.

    average: one of the averaged files in the folder of a training; measured: stage_kid's rows of that file; out: where a
    base/tokenizer lies. Images and hours add to those of the weights in `out` that the training started from. InputError
    where the file is no average in such a folder, its KID is not among the rows, or it started from other weights.
    """
    try:
        with safe_open(average, "pt") as stream:
            preset = json.loads(stream.metadata()["dermstudy"])["recipe"]["preset"]
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise InputError(f"{average} is no file of a long training") from error
    model, tables = preset.removeprefix("mini-"), out / "tables"
    made, real = _kid(measured, average, bool(FOLDED_PRESETS[preset].low_side))
    inputs, log = (folded_weights.told_beside(average, name) for name in (folded_weights.INPUTS, folded_weights.LOG))
    records = pd.DataFrame(log).query(f"step <= {int(average.stem.rsplit('-', 1)[1])}")
    hours = (records.pop("seconds") / 3600).round(4)
    on_gpu = "device" in inputs
    records = records.assign(hours=0.0 if on_gpu else hours, gpu_hours=hours if on_gpu else 0.0)
    earlier = _earlier(out, model, inputs["start"]) if inputs.get("start") else []
    if earlier:
        before = pd.read_csv(tables / weights.LOG.format(model))
        counted = ["step", "images", "hours", "gpu_hours"]
        records = pd.concat([before, records.assign(**records[counted] + before[counted].iloc[-1])], ignore_index=True)
    pipeline = folded_weights.pipeline_from(average, open_tokenizer(out / "base" / "tokenizer"))
    if (out / model / "guide_unet").is_dir():
        folded_weights.guided(pipeline, glide.load(out / model))
    folded_weights.save_half(pipeline, out / model)
    write_table(records, tables / weights.LOG.format(model))
    path, last = tables / weights.SITTINGS, records.iloc[-1]
    lines = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=list(COLUMNS))
    row = (
        {"caption_gain": None, "guidance_scale": None}
        | made
        | {key: inputs[key] for key in ("commit", "data_hash", "split")}
    )
    row |= {
        "model": model, "sitting": int((lines["model"] == model).sum()) + 1, "steps": int(last["step"]),
        "images": int(last["images"]), "hours": round(last["hours"], 3), "gpu_hours": round(last["gpu_hours"], 3),
        "loss": last["loss"], "average": average.stem, "sampler_steps": made["steps"], "floor": real["kid"],
        "processor": inputs.get("device", described()), "weights_sha256": sha256_file(out / model / UNET),
    }  # fmt: skip
    row = pd.DataFrame([row])[list(COLUMNS)]
    lines = pd.concat([lines, row], ignore_index=True) if len(lines) else row
    write_table(lines, path)
    known = weights.lineage(out) | {model: folded_weights.lineage_of(average, earlier)}
    write_text(out / weights.LINEAGE, json.dumps(known, indent=1) + "\n")
    return lines


def _earlier(out: Path, model: str, start: str) -> list[dict]:
    """The recipes that made the weights in `out`, whose hash `start` is, each with the step that it was left at."""
    if model not in (known := weights.lineage(out)):
        raise InputError(f"{out / weights.LINEAGE} names no {model} that a training could have started from")
    if start != sha256_file(out / model / UNET):
        raise InputError(f"the training did not start from the weights in {out / model}: keep its forerunner first")
    return [*known[model]["earlier"], {"recipe": known[model]["recipe"], "step": card.left_at(known[model])}]


def _kid(measured: list[dict], average: Path, upsamples: bool) -> tuple[dict, dict]:
    """The row of what the averaged file made, and that of real images."""
    rows, digest = pd.DataFrame(measured), sha256_file(average)
    rows = rows[rows["sha256"] == digest] if "sha256" in rows else rows.head(0)
    if len(rows):
        painted = rows["input"].str.startswith("painted images")
        made = rows[rows["enlarged_by"].eq(cascade.UPSAMPLER) if upsamples else painted].to_dict("records")
        real = rows[rows["input"].str.startswith("real images")].to_dict("records")
        if len(made) == len(real) == 1:
            return made[0], real[0]
    raise InputError(f"the measured rows hold no KID of {average.name}: give what stage_kid printed of that file")


def pack(folder: Path, results: workspace.Workspace | None = None) -> None:
    """Write card, figures and checksums of `folder`; with `results`, first copy the tables of 04 that measured its weights.

    InputError where a table is missing, where `results` are of other weights or settings, or where all is over LARGEST.
    """
    lineage = weights.lineage(folder)
    for name in card.NEEDED:
        if not (folder / "tables" / name).is_file():
            raise InputError(f"{folder / 'tables' / name} is missing: run keep, samplers and noise_levels first")
    if not {*card.STAGES, "sampling"} <= set(lineage):
        raise InputError(f"{folder / weights.LINEAGE} does not name both networks and the sampler: run them first")
    drop_checksums(folder)
    if results is not None:
        _take_measured(folder, results)
    figures.use_style()
    for stage in card.STAGES:
        log, sittings = weights.training_hours(folder / stage)
        changes = weights.noise_changes(lineage[stage], log)
        figures.save(figures.training_hours(log, sittings, changes), folder / "figures", f"hours_{stage}")
        for path in (folder / stage).rglob("*.json"):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("_name_or_path", None):  # it names a machine
                write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
    write_table(table := versions(folder), folder / "tables" / card.VERSIONS)
    figures.save(versions_figure(table), folder / "figures", "versions")
    _montage(folder, lineage["sampling"])
    write_text(folder / "README.md", card.card(folder))
    publish.write_pipeline(folder)
    files = files_of(folder)
    size = sum(path.stat().st_size for path in files)
    if size > LARGEST:
        raise InputError(f"{folder.name} would be {size / 1e6:.1f} MB of {LARGEST / 1e6:.0f}: choose smaller presets")
    write_checksums(folder)
    print(f"{workspace.shown(folder)}: {len(files)} files, {size / 1e6:.1f} MB")


def versions(folder: Path) -> pd.DataFrame:
    """tables/versions.csv with a row for the weights as they are, where its last one is of others: commit, SEEN, SETTINGS."""
    path, chosen = folder / "tables" / card.VERSIONS, pd.read_csv(folder / "tables" / samplers.TABLE).query("chosen")
    seen = pd.read_csv(folder / "tables" / weights.SITTINGS).groupby("model")["images"].max()
    values = {column: seen[name] for name, column in SEEN.items()} | chosen.iloc[-1][list(SETTINGS)].to_dict()
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["commit", *values])
    if not len(table) or not np.allclose(table.iloc[-1][list(values)].astype(float), [*map(float, values.values())]):
        row = pd.DataFrame([{"commit": workspace.commit()[:12]} | values])
        table = pd.concat([table, row], ignore_index=True) if len(table) else row
    return table


def versions_figure(table: pd.DataFrame) -> Figure:
    """KID and recall by the images that the base had seen (logarithmic), a dot a version; n beside it, for both move with n."""
    drawn, axes = plt.subplots(1, 2, figsize=(figures.WIDTH, 2.6))
    seen = table[SEEN["base"]] / 1000
    axes[0].vlines(seen, table["low"], table["high"], color="#88CCEE", lw=3, label="middle 95 % of halves")
    for ax, measure, label in ((axes[0], "kid", "KID x 1,000"), (axes[1], "recall", "recall")):
        ax.plot(seen, table[measure], "o", color="#332288", label="a version, its own sampler")
        for x, y, n in zip(seen, table[measure], table["n"], strict=True):
            ax.annotate(f"n = {n:.0f}", (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7)
        ax.set(xscale="log", xlabel="images that the base had seen (thousands)", ylabel=f"{label}, end to end")
        ax.set_ylim(0, None)
    axes[0].legend()
    drawn.tight_layout()
    return drawn


def _take_measured(folder: Path, results: workspace.Workspace) -> None:
    """Copy what notebook 04 of `results` measured, once it is known to be of these weights at these settings."""
    notes, shown = provenance.manifest(results.root), workspace.shown(results.root)
    used, wanted = notes["notebooks"]["03_sample"]["parameters"], weights.lineage(folder)["sampling"]
    other = [name for name, value in wanted.items() if used.get(name) != value]
    if other:
        raise InputError(f"{shown} was sampled with another {other[0]} than the card's: rerun 03")
    for stage, kind in card.STAGES.items():
        made = results.need(f"glide_{stage}", made_by="01_finetune" if stage == "base" else "02_upsample")
        models = [glide.load(path, kind) for path in (made, folder / stage)]
        if len({weights_hash({"unet": one.unet, "text_encoder": one.text_encoder}) for one in models}) > 1:
            raise InputError(f"{workspace.shown(made)} holds other weights than {folder / stage}: it measured those")
    painters = results.need("synthetic", made_by="03_sample") / sample.PAINTERS
    stages = sample.stages(folder / "base", folder / "upsampler", used["SAMPLER"], used["PRECISION"])
    if not painters.is_file() or json.loads(painters.read_text(encoding="utf-8")) != [
        glide.identity(own) for own in stages
    ]:
        raise InputError(f"{shown} was painted by other weights or older code: rerun 03 and 04")
    for name in card.MEASURED:
        shutil.copyfile(results.tables / f"{name}.csv", folder / "tables" / f"{name}.csv")
    commit = notes["notebooks"]["04_metrics"]["commit"]
    run = {"commit": commit, "data_hash": notes["data_hash"], "profile": notes["profile"]}
    write_text(folder / "tables" / card.MEASURED_BY, json.dumps(run, indent=1) + "\n")


def _montage(folder: Path, sampling: dict) -> None:
    """Eight images an entity from its plain name and seeds 0 to 7, from the weights as they ship; nothing is picked."""
    stages = sample.stages(folder / "base", folder / "upsampler", sampling["SAMPLER"])
    rows = [list(sample.painted(*stages, [prompt] * 8, range(8), sampling)) for prompt in PROMPTS]
    figures.save(figures.image_grid(rows, [NAMES[code] for code in CODES]), folder / "figures", "montage")
    whole = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    with atomic_path(folder / "figures" / "montage_256.jpg") as path:
        whole.save(path, format="JPEG", quality=92)


def speed(folder: Path, repeats: int = 3) -> pd.DataFrame:
    """Median seconds of 1 and of 16 whole images at the card's settings, in as many threads as torch takes here."""
    sampling = weights_card.describe(folder).sampling
    precision = "bf16" if bf16_products() else "fp32"
    stages = sample.stages(folder / "base", folder / "upsampler", sampling["SAMPLER"], precision)
    rows = []
    for count in (1, 16):
        captions = [PROMPTS[place % len(PROMPTS)] for place in range(count)]
        action = partial(sample.painted, *stages, captions, range(count), sampling)
        action()  # the first call is slower
        seconds = float(np.median(timeit.repeat(action, number=1, repeat=repeats)))
        case = f"whole images, {count}, {sampling['BASE_STEPS']} + {sampling['UPSAMPLE_STEPS']} steps"
        rows.append({"case": case, "seconds": seconds, "images_a_second": count / seconds})
    return pd.DataFrame(rows).assign(threads=torch.get_num_threads(), precision=precision, processor=described())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    steps = parser.add_subparsers(dest="step", required=True)
    kept = steps.add_parser("keep", help="a training session's average into the folder of weights")
    kept.add_argument("average", type=Path, help="short-STEP.safetensors or long-STEP.safetensors")
    kept.add_argument("--kid", type=Path, required=True, help="stage_kid's printed rows of that file")
    timed = steps.add_parser("speed", help="seconds of whole images")
    packed = steps.add_parser("pack", help="figures, model card and checksums")
    packed.add_argument("--results", help="a run of the notebooks on HAM10000 with these weights")
    for step in (kept, timed, packed):
        step.add_argument("--weights", default=OUT, help=f"the folder (default {OUT})")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    folder = workspace.from_root(options.weights)
    if options.step == "pack":
        pack(folder, workspace.Workspace(workspace.from_root(options.results)) if options.results else None)
        return
    if options.step == "speed":
        write_table(table := speed(folder), folder / "tables" / "speed.csv")
        print(table.to_string(index=False))
        return
    if not options.kid.is_file():
        raise InputError(f"no file {options.kid}: write stage_kid's output there")
    lines = [line for line in options.kid.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    print(keep(options.average, [json.loads(line) for line in lines], folder).tail(1).T.to_string(header=False))


if __name__ == "__main__":
    sys.exit(main())
