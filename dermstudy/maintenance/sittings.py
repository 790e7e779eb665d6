"""What a sitting of a long training reached, kept: `python -m dermstudy.maintenance.sittings FOLDER --kid FILE`.

Copies the averaged weights (fp16) with their lineage to weights/training/, from which a later sitting can start on a bare
machine (long_training's --start), and adds a line to sittings.csv there: hours, images seen, loss, KID on validation lesions.
FILE holds what stage_kid printed of the average.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from dermstudy import workspace
from dermstudy.diffusion.folded import FOLDED_PRESETS
from dermstudy.evaluation import cascade
from dermstudy.files import InputError, atomic_path, sha256_file, write_text
from dermstudy.maintenance.commands import answered
from dermstudy.processor import described

OUT = "weights/training"
LOG = "sittings.csv"
COLUMNS = (
    "model", "sitting", "steps", "images", "hours", "loss", "average", "sampler_steps", "n", "kid", "low", "high",
    "floor", "processor", "commit", "data_hash", "split", "weights_sha256",
)  # fmt: skip


def keep(folder: Path, average: Path, measured: list[dict], out: Path) -> pd.DataFrame:
    """Write the weights and the line of one sitting, and return the whole log.

    folder: of the training; average: one of its averaged files; measured: stage_kid's rows of that file. InputError where
    the file is no average of that training, or its KID is not among the rows.
    """
    notes, weights = _notes(folder / "state.safetensors"), _notes(average)
    if weights["recipe"]["preset"] != notes["recipe"]["preset"]:
        raise InputError(f"{average} is of {weights['recipe']['preset']}, {folder} trains {notes['recipe']['preset']}")
    model = notes["recipe"]["preset"].removeprefix("mini-")
    own, floor = _kid(measured, average.stem, bool(FOLDED_PRESETS[notes["recipe"]["preset"]].low_side))
    inputs, last = json.loads((folder / "inputs.json").read_text(encoding="utf-8")), notes["log"][-1]
    log = pd.read_csv(out / LOG) if (out / LOG).is_file() else pd.DataFrame(columns=list(COLUMNS))
    path = out / f"{model}.safetensors"
    with atomic_path(path) as temporary:
        save_file(load_file(average), temporary, {"dermstudy": json.dumps(weights)})
    row = {
        "model": model, "sitting": int((log["model"] == model).sum()) + 1, "steps": notes["step"],
        "images": last["images"], "hours": round(last["seconds"] / 3600, 3), "loss": last["loss"],
        "average": average.stem, "sampler_steps": own["steps"], "n": own["n"], "kid": own["kid"], "low": own["low"],
        "high": own["high"], "floor": floor["kid"], "processor": described(), "commit": workspace.commit(),
        "data_hash": inputs["data_hash"], "split": inputs["split"], "weights_sha256": sha256_file(path),
    }  # fmt: skip
    log = pd.concat([log, pd.DataFrame([row])], ignore_index=True) if len(log) else pd.DataFrame([row])
    write_text(out / LOG, log[list(COLUMNS)].to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return log


def _notes(path: Path) -> dict:
    try:
        with safe_open(path, "pt") as stream:
            return json.loads((stream.metadata() or {})["dermstudy"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no file of a long training") from error


def _kid(measured: list[dict], average: str, upsamples: bool) -> tuple[dict, dict]:
    """The row of what the average made, and that of real images."""
    rows = [row for row in measured if row.get("average") == average]
    made = [
        row
        for row in rows
        if (row["enlarged_by"] == cascade.UPSAMPLER if upsamples else row["input"].startswith("painted images"))
    ]
    floors = [row for row in rows if row["input"].startswith("real images")]
    if len(made) != 1 or len(floors) != 1:
        raise InputError(f"the measured rows hold no KID of {average}: give what stage_kid printed of that file")
    return made[0], floors[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m dermstudy.maintenance.sittings", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the training")
    parser.add_argument("average", type=Path, help="short-STEP.safetensors or long-STEP.safetensors in it")
    parser.add_argument("--kid", type=Path, required=True, help="stage_kid's printed rows of that file")
    parser.add_argument("--out", default=OUT)
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    if not options.kid.is_file():
        raise InputError(f"no file {options.kid}: write stage_kid's output there")
    lines = [line for line in options.kid.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    log = keep(options.folder, options.average, [json.loads(line) for line in lines], workspace.from_root(options.out))
    print(log.tail(1).T.to_string(header=False))


if __name__ == "__main__":
    sys.exit(main())
