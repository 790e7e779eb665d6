"""From the averages of a long training to a folder that any pipeline opens: `python -m dermstudy.maintenance.folded_weights`.

Beside the folder, lineage.json says what the network was trained on and how.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import GPT2Tokenizer

from dermstudy.diffusion import glide, weights
from dermstudy.diffusion.folded import trained_preset
from dermstudy.files import InputError, atomic_path, write_text
from dermstudy.maintenance.commands import answered, open_tokenizer

GUIDE = "guide"  # in the lineage: the network that a base model is led away from
STATE, INPUTS, LOG = "state.safetensors", "inputs.json", "log.json"  # in a training's folder


def pipeline_from(path: str | Path, tokenizer: GPT2Tokenizer):
    """The pipeline of averaged weights that long_training wrote to `path`.

    The networks there predict the target of Karras et al.; a pipeline's predict the velocity, which is that with the
    sign turned. InputError where the file is none of those.
    """
    try:
        with safe_open(path, "pt") as stream:
            notes = json.loads((stream.metadata() or {})["dermstudy"])
        tensors = load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no file of averaged weights of a long training") from error
    pipeline = glide.build(trained_preset(notes["recipe"]), tokenizer)
    for name in ("conv_out.weight", "conv_out.bias"):
        tensors[f"unet.{name}"] = -tensors[f"unet.{name}"]
    for part in ("unet", "text_encoder"):
        own = {key.removeprefix(f"{part}."): value.float() for key, value in tensors.items() if key.startswith(part)}
        getattr(pipeline, part).load_state_dict(own)
    for name, values in notes["scale"].items():
        buffer = getattr(pipeline.pixels, name)
        buffer.copy_(torch.tensor(values).reshape(buffer.shape))
    return pipeline


def averages_of(folder: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of averaged weights that `pipeline_from` made the pipeline in `folder` from: the way back.

    InputError where the folder is no pipeline of folded networks.
    """
    folder = Path(folder)
    kinds = {"GlidePipeline": glide.GlidePipeline, "GlideUpsamplePipeline": glide.GlideUpsamplePipeline}
    try:
        kind = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} holds no pipeline: give a folder such as weights/glide-mini/base") from error
    pipeline = glide.load(folder, kinds[kind])
    if pipeline.pixels is None:
        raise InputError(f"{folder} is no pipeline of folded networks: a long training cannot start from it")
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    tensors = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.named_parameters()}
    for name in ("conv_out.weight", "conv_out.bias"):
        tensors[f"unet.{name}"] = -tensors[f"unet.{name}"]
    return {name: value.detach().clone() for name, value in tensors.items()}


def guided(pipeline, other):
    """`pipeline` with the networks of the pipeline `other` as its guide, or with the guide that `other` has."""
    unet, text_encoder = other.guide_unet or other.unet, other.guide_text_encoder or other.text_encoder
    pipeline.register_modules(guide_unet=unet, guide_text_encoder=text_encoder)
    return pipeline


def save_half(pipeline, folder: str | Path) -> Path:
    """Write `pipeline` with its networks as fp16, its guide as fp8: it opens as float32 and computes in that.

    A guide is there to be worse, and is none the worse for three bits of mantissa.
    """
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
    parser = argparse.ArgumentParser(prog="python -m dermstudy.maintenance.folded_weights", description=__doc__)
    parser.add_argument("average", type=Path, help="short-STEP.safetensors or long-STEP.safetensors")
    parser.add_argument("folder", type=Path, help="the pipeline's folder")
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
