"""From the averages of a long training to a folder that any pipeline opens.

Beside the folder, lineage.json says what the network was trained on and how.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import GPT2Tokenizer

from dermstudy.diffusion import glide, weights
from dermstudy.diffusion.checkpoints import save_tensors, turn_last_layer
from dermstudy.diffusion.folded import FOLDED_PRESETS, FoldedPreset
from dermstudy.files import InputError, answered, atomic_path, write_text
from dermstudy.weight_files import check_finite, drop_checksums
from dermstudy_commands.maintenance.commands import open_tokenizer

GUIDE = "guide"  # in the lineage: the network that a base model is led away from
ROW = ".row"  # ends the name of the scales of a matrix of bytes
INPUTS, LOG = "inputs.json", "log.json"  # in a training's folder


def averages_in(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The averaged weights that long_training wrote to `path`, float32, and its notes: recipe and scale.

    They are fp16, or a byte each with a scale a row, as `packed` has them. Those of a network that predicts the target of
    Karras et al., as earlier ones did, are turned to the velocity. InputError where the file is none of those.
    """
    try:
        with safe_open(path, "pt") as stream:
            notes = json.loads((stream.metadata() or {})["dermstudy"])
        tensors = load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no file of averaged weights of a long training") from error
    check_finite(tensors, path)
    scales = {name.removesuffix(ROW): tensors.pop(name) for name in [*tensors] if name.endswith(ROW)}
    tensors = {name: value.float() * scales.get(name, 1.0) for name, value in tensors.items()}
    if "predicts" not in notes:
        turn_last_layer(tensors)
    return tensors, notes | {"predicts": "velocity"}


def packed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Half the size of fp16: matrices and kernels as int8 with a scale a row (name and ROW), the rest as fp16."""
    halves = {name: value.half() for name, value in tensors.items() if value.ndim < 2}
    wide = {name: value for name, value in tensors.items() if value.ndim >= 2}
    rows = {
        name: value.abs().amax(tuple(range(1, value.ndim)), True).clamp(min=1e-9) / 127 for name, value in wide.items()
    }
    whole = {name: (value / rows[name]).round().to(torch.int8) for name, value in wide.items()}
    return halves | whole | {name + ROW: scale for name, scale in rows.items()}


def trained_preset(recipe: Mapping) -> FoldedPreset:
    """The sizes that a training's recipe names (`preset`), with the noise levels that it has, where it has any."""
    noise = {name: recipe[name] for name in ("noise_mean", "noise_spread") if recipe.get(name) is not None}
    return replace(FOLDED_PRESETS[recipe["preset"]], **noise)


def pipeline_from(path: str | Path, tokenizer: GPT2Tokenizer):
    """The pipeline of averaged weights that long_training wrote to `path`. InputError where the file is none of those."""
    tensors, notes = averages_in(path)
    pipeline = glide.build(trained_preset(notes["recipe"]), tokenizer)
    put(tensors, pipeline)
    pipeline.pixels.set_scale(notes["scale"])
    return pipeline


def put(tensors: Mapping[str, torch.Tensor], pipeline) -> None:
    """Give the networks of `pipeline` the tensors of a file of averaged weights."""
    for part in ("unet", "text_encoder"):
        module = {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(part)}
        getattr(pipeline, part).load_state_dict(module)


def begin_with(start: Path, pipeline) -> None:
    """Give the networks of `pipeline` the weights that a training starts from: averages, or a pipeline of the same sizes.

    InputError for a pipeline of another kind.
    """
    if not start.is_dir():
        return put(averages_in(start)[0], pipeline)
    other = glide.load(start, type(pipeline))
    if other.pixels is None or (other.side, other.pixels.factor) != (pipeline.side, pipeline.pixels.factor):
        raise InputError(
            f"{start} is no pipeline of folded networks at {pipeline.side} pixels: it cannot start this one"
        )
    for part in ("unet", "text_encoder"):
        getattr(pipeline, part).load_state_dict(getattr(other, part).state_dict())


def guided(pipeline, other):
    """`pipeline` with the networks of the pipeline `other` as its guide, or with the guide that `other` has."""
    unet, text_encoder = other.guide_unet or other.unet, other.guide_text_encoder or other.text_encoder
    pipeline.register_modules(guide_unet=unet, guide_text_encoder=text_encoder)
    return pipeline


def save_half(pipeline, folder: str | Path) -> Path:
    """Write `pipeline` with its networks as fp16, its guide as fp8: it opens as float32 and computes in that.

    A guide is there to be worse, and is none the worse for three bits of mantissa.
    """
    drop_checksums(Path(folder).parent)
    with atomic_path(folder) as temporary:
        for place, module in enumerate(pipeline.networks):
            torch.nn.Module.to(module, torch.float16 if place < 2 else torch.float8_e4m3fn)
        pipeline.save_pretrained(temporary)
        for module in pipeline.networks:
            torch.nn.Module.float(module)
    return Path(folder)


def told_beside(average: Path, name: str) -> dict | list:
    """What a training wrote to INPUTS or LOG in the folder of its `average`. InputError where it lies in no such folder."""
    path = average.parent / name
    if not path.is_file():
        raise InputError(f"{average.parent} has no {name}: give an average in the folder of its training")
    return json.loads(path.read_text(encoding="utf-8"))


def lineage_of(average: Path, earlier: Sequence[dict] = ()) -> dict:
    """What lineage.json says of a network that ships: its recipe, which average it is, the lesions it saw, what went before.

    average: a file in the folder of its training. earlier: the trainings that it went on from.
    """
    with safe_open(average, "pt") as stream:
        recipe = json.loads(stream.metadata()["dermstudy"])["recipe"]
    inputs = told_beside(average, INPUTS)
    preset = trained_preset(recipe)  # whose own noise levels may be others one day
    return {
        "earlier": list(earlier),
        "recipe": recipe | {"noise_mean": preset.noise_mean, "noise_spread": preset.noise_spread},
        "average": average.stem,
        "lesions": inputs.get("lesions", "train"),
        "left_out": inputs.get("left_out", []),
        "data_hash": inputs["data_hash"],
        "split": inputs["split"],
        "commit": inputs["commit"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m dermstudy_commands.maintenance.folded_weights", description=__doc__
    )
    parser.add_argument("average", type=Path, help="short-STEP.safetensors or long-STEP.safetensors")
    parser.add_argument("folder", type=Path, help="the pipeline's folder, or FILE.safetensors: the average packed")
    parser.add_argument("--as-guide", action="store_true", help="of the pipeline that lies in the folder already")
    parser.add_argument(
        "--earlier",
        type=int,
        default=0,
        metavar="N",
        help="a guide: of how many of the base's trainings it went on from",
    )
    parser.add_argument("--guide", type=Path, metavar="FOLDER", help="of which pipeline the guide is taken along")
    parser.add_argument("--tokenizer", default="weights/glide-mini/base/tokenizer")
    options = parser.parse_args(arguments)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    if options.folder.suffix == ".safetensors":
        tensors, notes = averages_in(options.average)
        return save_tensors(options.folder, packed(tensors), {"dermstudy": json.dumps(notes)})
    tokenizer = open_tokenizer(options.tokenizer)
    pipeline, name = pipeline_from(options.average, tokenizer), options.folder.name
    if options.as_guide:
        pipeline, name = guided(glide.load(options.folder), pipeline), GUIDE
    whole = options.folder.parent
    before = weights.lineage(whole)[options.folder.name]["earlier"][: options.earlier] if options.earlier else []
    known = {name: lineage_of(options.average, before)}
    if options.guide:
        pipeline = guided(pipeline, glide.load(options.guide))
        known[GUIDE] = weights.lineage(options.guide.parent)[GUIDE]
    known = weights.lineage(whole) | known
    print(save_half(pipeline, options.folder))
    write_text(whole / weights.LINEAGE, json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
