"""What a sitting of a long training reached, kept: `python -m dermstudy.maintenance.sittings AVERAGE --kid FILE`.

Puts the averaged weights into weights/glide-mini as a pipeline in fp16, from which a later sitting can start on a bare
machine (long_training's --start), and adds to tables/ there: a line in sittings.csv (images seen, hours, loss, KID on
validation lesions) and the log of the training. FILE holds what stage_kid printed of the average.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError, safe_open

from dermstudy import workspace
from dermstudy.diffusion import glide, weights
from dermstudy.diffusion.folded import FOLDED_PRESETS
from dermstudy.evaluation import cascade
from dermstudy.files import InputError, sha256_file, write_text
from dermstudy.maintenance.commands import answered, open_tokenizer
from dermstudy.maintenance.folded_weights import INPUTS, LOG, guided, lineage_of, pipeline_from, save_half, told_beside
from dermstudy.processor import described

OUT = "weights/glide-mini"
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
COLUMNS = (
    "model", "sitting", "steps", "images", "hours", "gpu_hours", "loss", "average", "sampler_steps", "guidance_scale", "n", "kid",
    "low", "high", "floor", "caption_gain", "processor", "commit", "data_hash", "split", "weights_sha256",
)  # fmt: skip


def keep(average: Path, measured: list[dict], out: Path) -> pd.DataFrame:
    """Write the pipeline, the log and the line of one sitting into `out`, and return all lines.

    average: one of the averaged files in the folder of a training; measured: stage_kid's rows of that file; out: where a
    base/tokenizer lies. The images and hours of the weights that a training started from count, and those are the weights
    that `out` holds. InputError where the file is no average in such a folder, its KID is not among the rows, or it
    started from others: a training that was kept goes on in a new folder, from what was kept.
    """
    preset = _notes(average)["recipe"]["preset"]
    model = preset.removeprefix("mini-")
    made, floor = _kid(measured, average, bool(FOLDED_PRESETS[preset].low_side))
    inputs, log = (told_beside(average, name) for name in (INPUTS, LOG))
    records = _records(log, "device" in inputs, int(average.stem.rsplit("-", 1)[1]))
    before = _went_before(out, model, inputs["start"]) if inputs.get("start") else []
    if before:
        records = _after(pd.read_csv(out / "tables" / weights.LOG.format(model)), records)
    last = records.iloc[-1]
    tokenizer = open_tokenizer(out / "base" / "tokenizer")
    pipeline = pipeline_from(average, tokenizer)
    if (out / model / "guide_unet").is_dir():
        guided(pipeline, glide.load(out / model))
    save_half(pipeline, out / model)
    _write_table(records, out / "tables" / weights.LOG.format(model))
    lines = out / "tables" / weights.SITTINGS
    log = pd.read_csv(lines) if lines.is_file() else pd.DataFrame(columns=list(COLUMNS))
    row = {
        "model": model, "sitting": int((log["model"] == model).sum()) + 1, "steps": int(last["step"]),
        "images": int(last["images"]), "hours": round(last["hours"], 3), "gpu_hours": round(last["gpu_hours"], 3),
        "loss": last["loss"],
        "average": average.stem, "sampler_steps": made["steps"], "guidance_scale": made.get("guidance_scale"),
        "n": made["n"], "kid": made["kid"], "low": made["low"], "high": made["high"], "floor": floor["kid"],
        "caption_gain": made.get("caption_gain"), "processor": inputs.get("device", described()),
        "commit": inputs["commit"], "data_hash": inputs["data_hash"], "split": inputs["split"],
        "weights_sha256": sha256_file(out / model / UNET),
    }  # fmt: skip
    log = pd.concat([log, pd.DataFrame([row])], ignore_index=True) if len(log) else pd.DataFrame([row])
    _write_table(log[list(COLUMNS)], lines)
    lineage = weights.lineage(out)
    lineage[model] = lineage_of(average, before)
    write_text(out / weights.LINEAGE, json.dumps(lineage, indent=1) + "\n")
    return log


def _records(log: list[dict], on_gpu: bool, last: int) -> pd.DataFrame:
    """The records of a training up to step `last`: step, images, loss, learning_rate, hours on a core or on a GPU."""
    records = pd.DataFrame(log)
    records = records[records["step"] <= last]
    hours = (records.pop("seconds") / 3600).round(4)
    return records.assign(hours=0.0 if on_gpu else hours, gpu_hours=hours if on_gpu else 0.0)


def _after(before: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """`records` counted on from the last of `before`, after it."""
    on = {column: records[column] + before[column].iloc[-1] for column in ("step", "images", "hours", "gpu_hours")}
    return pd.concat([before, records.assign(**on)], ignore_index=True)


def _went_before(out: Path, model: str, start: str) -> list[dict]:
    """The recipes that made the weights in `out`, whose hash `start` is, each with the step that it was left at."""
    if model not in (known := weights.lineage(out)):
        raise InputError(f"{out / weights.LINEAGE} names no {model} that a training could have started from")
    if start != sha256_file(out / model / UNET):
        raise InputError(f"the training did not start from the weights in {out / model}: keep its forerunner first")
    last = known[model]
    return [*last["earlier"], {"recipe": last["recipe"], "step": int(last["average"].rsplit("-", 1)[1])}]


def _write_table(table: pd.DataFrame, path: Path) -> None:
    write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def _notes(path: Path) -> dict:
    try:
        with safe_open(path, "pt") as stream:
            return json.loads((stream.metadata() or {})["dermstudy"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no file of a long training") from error


def _kid(measured: list[dict], average: Path, upsamples: bool) -> tuple[dict, dict]:
    """The row of what the averaged file made, and that of real images."""
    digest = sha256_file(average)
    rows = [row for row in measured if row.get("sha256") == digest]
    made = [
        row
        for row in rows
        if (row["enlarged_by"] == cascade.UPSAMPLER if upsamples else row["input"].startswith("painted images"))
    ]
    floors = [row for row in rows if row["input"].startswith("real images")]
    if len(made) != 1 or len(floors) != 1:
        raise InputError(f"the measured rows hold no KID of {average.name}: give what stage_kid printed of that file")
    return made[0], floors[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m dermstudy.maintenance.sittings", description=__doc__)
    parser.add_argument("average", type=Path, help="short-STEP.safetensors or long-STEP.safetensors")
    parser.add_argument("--kid", type=Path, required=True, help="stage_kid's printed rows of that file")
    parser.add_argument("--out", default=OUT)
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    if not options.kid.is_file():
        raise InputError(f"no file {options.kid}: write stage_kid's output there")
    lines = [line for line in options.kid.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    rows, out = [json.loads(line) for line in lines], workspace.from_root(options.out)
    log = keep(options.average, rows, out)
    print(log.tail(1).T.to_string(header=False))


if __name__ == "__main__":
    sys.exit(main())
