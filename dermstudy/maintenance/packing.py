"""What ships as glide-mini: fp16 weights with tokenizers, tables, figures and the model card.

`python -m dermstudy.maintenance.packing` writes the card, the montage and the checksums of a folder into which `sittings` put
the weights and `samplers` the sampler; `--results DIR` adds what notebook 04 measured of these weights on test lesions.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dermstudy import figures, training_curves, workspace
from dermstudy.diffusion import glide, sample, weights
from dermstudy.diffusion.checkpoints import weights_hash
from dermstudy.diffusion.identity import identity
from dermstudy.entities import CODES, NAMES, PROMPTS
from dermstudy.files import InputError, atomic_path, sha256_file, write_text
from dermstudy.maintenance.card import MEASURED, MEASURED_BY, NEEDED, STAGES, card
from dermstudy.maintenance.commands import answered

LARGEST = 40_000_000  # bytes of all that ships
CHECKSUMS = "SHA256SUMS"
MONTAGE_SEEDS = range(8)


def pack(folder: Path, results: workspace.Workspace | None = None) -> None:
    """Write card, figures and checksums of `folder`; with `results`, first copy the tables of 04 that measured its weights.

    InputError where a part is missing, where `results` are of other weights or settings, or where all of it is larger
    than LARGEST.
    """
    lineage = weights.lineage(folder)
    for name in NEEDED:
        if not (folder / "tables" / name).is_file():
            raise InputError(
                f"{folder / 'tables' / name} is missing: run sittings, samplers, noise_levels, versions and stage_costs first"
            )
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
    run = {
        "commit": notes["notebooks"]["04_metrics"]["commit"],
        "data_hash": notes["data_hash"],
        "profile": notes["profile"],
    }
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
