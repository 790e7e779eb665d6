"""Half precision only where the processor has it."""

from __future__ import annotations

import os

import pytest
import torch

from dermstudy import processor
from dermstudy.diffusion import architecture, glide


@pytest.mark.parametrize(
    "flags, name, able",
    [
        ("fma avx2 avx512f avx512_bf16 amx_bf16", "AMX", True),
        ("fma avx2 avx512f avx512_bf16", "AVX-512 bf16", True),
        ("fma avx2 avx512f", "AVX-512", False),
        ("fma avx avx2", "AVX2", False),
    ],
)
def test_half_precision_is_computed_where_the_processor_has_it(flags, name, able, monkeypatch):
    monkeypatch.setattr(processor.Path, "read_text", lambda self, encoding: f"flags : {flags}\n")
    monkeypatch.setattr(processor.Path, "is_file", lambda self: True)
    processor.instruction_set.cache_clear()
    try:
        assert processor.instruction_set() == name
        assert processor.bf16_products() == able
        tokenizer = architecture.train_tokenizer(["melanoma"])
        monkeypatch.undo()
        pipeline = glide.build("tiny-base", tokenizer)
        glide.cast(pipeline, "bf16")
        assert pipeline.unet.dtype == (torch.bfloat16 if able else torch.float32)
    finally:
        processor.instruction_set.cache_clear()


def test_kernels_wait_asleep_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    processor.share_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    processor.share_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
