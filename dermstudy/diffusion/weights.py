"""A folder of weights: whether it can answer, and what its lineage says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel

from dermstudy.files import InputError, read_json
from dermstudy.weight_files import check_finite

STAGES = {"GlidePipeline": "a base model", "GlideUpsamplePipeline": "an upsampler"}
LINEAGE = (
    "lineage.json"  # in a folder of weights: the recipe of each network, and the settings that it was measured with
)
SITTINGS = "sittings.csv"  # in its tables/: a line a sitting of training
LOG = "training_{}.csv"  # in its tables/: the training of "base" or "upsampler"


class Training(BaseModel):
    """One training that a network went through: its settings, and where it ended."""

    recipe: dict[str, Any]
    step: int


class Network(BaseModel):
    """What lineage.json says of one network: its last training and the earlier ones; another study's may say less."""

    recipe: dict[str, Any] = {}
    earlier: list[Training] = []
    left_out: list[str] = []


class Lineage(BaseModel):
    """What lineage.json of a folder of weights may hold."""

    base: Network = Network()
    upsampler: Network = Network()
    guide: Network = Network()
    sampling: dict[str, Any] = {}


def lineage(folder: str | Path) -> dict:
    """What lineage.json of a folder of weights holds; nothing where there is none. InputError where it is damaged."""
    path = Path(folder) / LINEAGE
    return read_json(path, Lineage, "take it from where the weights came from") if path.exists() else {}


def training_hours(stage: str | Path) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The log of the training that the weights in `stage` (…/base or …/upsampler) come from, and its sittings.

    Columns step, images, loss, learning_rate, hours (on one core), gpu_hours; and sitting, images, hours, gpu_hours, kid,
    low, high, floor among others.
    None where none came with them.
    """
    stage = Path(stage)
    log, lines = (stage.parent / "tables" / name for name in (LOG.format(stage.name), SITTINGS))
    if not (log.is_file() and lines.is_file()):
        return None
    sittings = pd.read_csv(lines)
    return pd.read_csv(log), sittings[sittings["model"] == stage.name].reset_index(drop=True)


def noise_changes(training: Mapping, log: pd.DataFrame) -> list[int]:
    """The steps of `log` after which training went on with other draws of noise, in order; none where no recipe is kept.

    training: a network's entry of lineage.json.
    """
    if "recipe" not in training:
        return []
    recipes = [one["recipe"] for one in training.get("earlier", [])] + [training["recipe"]]
    ends = np.cumsum([one["step"] for one in training.get("earlier", [])]).tolist()
    draws = [tuple(recipe.get(name) for name in ("noise_mean", "noise_spread", "high_share")) for recipe in recipes]
    turns = [end for end, (before, after) in zip(ends, pairwise(draws), strict=True) if before != after]
    return [end for end in turns if end < log["step"].max()]


def check_loaded(pipeline, folder: Path) -> None:
    """InputError names the first network that lacks weights or holds some that are not finite, or a tokenizer of another size."""
    for part in ("unet", "text_encoder", "pixels", "guide_unet", "guide_text_encoder"):
        module = getattr(pipeline, part)
        if module is not None:
            tensors = module.state_dict()
            lacking = [name for name, value in tensors.items() if value.device == torch.device("meta")]
            if lacking:
                raise InputError(f"{folder / part} lacks {len(lacking)} tensors, {lacking[0]} first: get it again")
            check_finite(tensors, folder / part)
    for text_encoder in filter(None, (pipeline.text_encoder, pipeline.guide_text_encoder)):
        known = text_encoder.config.vocabulary
        if len(pipeline.tokenizer) != known or pipeline.tokenizer.pad_token is None:
            raise InputError(f"{folder / 'tokenizer'} holds {len(pipeline.tokenizer)} tokens, the text encoder {known}: "
                             "get the tokenizer that came with the weights")  # fmt: skip


def stage_of(folder: str | Path) -> str:
    """The pipeline class that model_index.json in `folder` names, one of STAGES; InputError where it names none."""
    try:
        name = json.loads((Path(folder) / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    except OSError as error:
        raise InputError(f"{folder} holds no pipeline: give a folder such as weights/glide-mini/base") from error
    except (ValueError, KeyError, TypeError):
        name = None
    if name not in STAGES:
        raise InputError(f"{folder} is not a complete GLIDE folder: model_index.json names no pipeline of this study")
    return name


def check_stage(folder: Path, wanted: str) -> None:
    """InputError where `folder` holds the other stage than that of the class `wanted`."""
    found = stage_of(folder)
    if found != wanted:
        raise InputError(f"{folder} holds {STAGES[found]}, and {STAGES[wanted]} is needed: give the other folder")
