"""Half precision only where the processor has it."""

from __future__ import annotations

import os

import numpy as np
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
    pipeline = glide.build("tiny-base", architecture.train_tokenizer(["melanoma"]))
    monkeypatch.setattr(processor.Path, "read_text", lambda self, encoding: f"flags : {flags}\n")
    monkeypatch.setattr(processor.Path, "is_file", lambda self: True)
    monkeypatch.delenv(processor.CAP, raising=False)
    assert processor.instruction_set() == name
    assert processor.bf16_products() == able
    glide.cast(pipeline, "bf16")
    assert pipeline.unet.dtype == (torch.bfloat16 if able else torch.float32)
    monkeypatch.setenv(processor.CAP, "AVX2")
    assert processor.instruction_set() == "AVX2" and not processor.bf16_products()


@pytest.mark.parametrize("root", [torch.sqrt, torch.Tensor.sqrt_, lambda data: data**0.5])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_square_roots_are_rounded_as_every_processor_rounds_them(root, kind):
    processor.exact_roots()
    data = torch.rand(10_000, dtype=kind, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(root(data.clone()), np.sqrt(data.numpy()))
    assert root(torch.tensor(4.0, dtype=kind)) == 2.0


def test_other_kinds_of_number_and_gradients_have_their_roots_as_before():
    processor.exact_roots()
    data = torch.tensor([[1.0, 4.0], [9.0, 16.0]], requires_grad=True)
    (data.T.sqrt() + data.T**2).sum().backward()
    torch.testing.assert_close(data.grad, torch.tensor([[2.5, 8.25], [18 + 1 / 6, 32.125]]))
    assert torch.tensor([4, 9]).sqrt().tolist() == [2.0, 3.0]
    assert torch.tensor([4.0], dtype=torch.bfloat16).sqrt().item() == 2.0
    assert torch.tensor([3]).pow(2).tolist() == [9] and torch.tensor([2]).pow(1.5).dtype == torch.float32


def test_kernels_wait_asleep_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    processor.share_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    processor.share_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
