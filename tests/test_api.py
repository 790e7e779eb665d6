"""The examples of docs/API.md, as they stand there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_convert import write_vocabulary

from dermstudy.diffusion import architecture, convert, glide, schedules
from dermstudy.entities import CODES
from dermstudy.readers import workbook

EXAMPLES = re.findall(r"^## (.+?)\n.+?```python\n(.+?)```", (ROOT / "docs" / "API.md").read_text(), re.M | re.S)
# Heads of 64 channels, as in OpenAI's release, for `to_diffusers` infers sizes from them.
SMALL = replace(architecture.PRESETS["tiny-base"], channels=64, multipliers=(1, 2), blocks=1, attention_sides=(32,),
                head_width=64, text_width=64, text_layers=1, text_heads=8)  # fmt: skip


def folders() -> None:
    random = np.random.default_rng(0)
    for side in ("real", "synthetic"):
        for code in CODES[:2]:
            for number in range(6):
                path = Path(side, code, f"{number}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)


def answers() -> None:
    workbook.write_workbook(workbook.reconstruct_published_reader(), "answers.xlsx")


def checkpoint() -> None:
    tokenizer = architecture.train_tokenizer(["a dermatoscopic image of melanoma"])
    modules = architecture.unet_from(SMALL), architecture.text_encoder_from(SMALL, len(tokenizer))
    pipeline = glide.GlidePipeline(*(module.eval() for module in modules), tokenizer, schedules.scheduler_from(SMALL))
    torch.save(convert.to_openai(pipeline), "base.pt")
    write_vocabulary(tokenizer, Path("tokenizer"))


@pytest.mark.slow
@pytest.mark.parametrize("example, given", list(zip(EXAMPLES, (folders, answers, checkpoint), strict=True)))
def test_an_example_runs(example, given, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given()
    exec(example[1], {})
    assert capsys.readouterr().out.strip()
