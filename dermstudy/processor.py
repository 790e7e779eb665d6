"""What this machine's processor can multiply: results are equal to the byte only where it is the same."""

from __future__ import annotations

import os
import platform
import warnings
from functools import cache
from pathlib import Path

BY_FLAG = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 bf16", "avx512f": "AVX-512", "avx2": "AVX2"}
_kept: list = []
CAP = "ONEDNN_MAX_CPU_ISA"  # oneDNN's variable: a wider processor computes as one that has AVX2 and nothing wider


def instruction_set() -> str:
    """The widest instruction set in use: AMX, AVX-512 bf16, AVX-512, AVX2 (at most that under CAP), or the machine's kind."""
    widest = _widest()
    return "AVX2" if os.environ.get(CAP, "").upper() == "AVX2" and widest in BY_FLAG.values() else widest


def _widest() -> str:
    information = Path("/proc/cpuinfo")
    flags = set(information.read_text(encoding="utf-8").split()) if information.is_file() else set()
    return next((name for flag, name in BY_FLAG.items() if flag in flags), platform.machine())


@cache
def described() -> str:
    """System, kind and number of cores, and the processor's own name: "Linux x86_64, 2 cores of AMD EPYC"."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    of = f" of {' '.join(name.split())}" if name else ""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{of}"


def bf16_products() -> bool:
    """Whether the processor multiplies bf16 numbers itself; where it does not, fp32 is 50 times as fast."""
    return instruction_set() in ("AMX", "AVX-512 bf16")


def device():
    """Where torch computes: the GPU that it sees, or the processor."""
    from accelerate import PartialState

    return PartialState().device


@cache
def exact_roots() -> None:
    """Let torch take square roots on a processor as IEEE 754 rounds them, as numpy does; once a process.

    torch leaves them to MKL, which starts from rsqrtps: Intel and AMD give that instruction other digits, under MKL_CBWR too.
    """
    import numpy as np
    import torch

    library = torch.library.Library("aten", "IMPL")

    def root(x):
        if x.dtype in (torch.float32, torch.float64):
            return torch.from_numpy(np.asarray(np.sqrt(x.detach().numpy())))
        kind = x.dtype if x.is_floating_point() or x.is_complex() else torch.get_default_dtype()
        return torch.ops.aten.sqrt.out(x, out=torch.empty_like(x, dtype=kind))

    def power(x, exponent):
        if exponent == 0.5:
            return root(x)
        result = torch.empty_like(x, dtype=torch.result_type(x, exponent))
        return torch.ops.aten.pow.Tensor_Scalar_out(x, exponent, out=result)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")
        for name, function in (("sqrt", root), ("sqrt_", lambda x: x.copy_(root(x))), ("pow.Tensor_Scalar", power)):
            library.impl(name, function, "CPU")
    _kept.append(library)  # they last as long as it does


def share_cores() -> None:
    """Let the threads of kernels started from here sleep while they wait; called before any of them starts.

    By default torch's threads spin: where another program has one of two cores, a training step takes six times as long as
    by threads that sleep, and by those a tenth longer where nothing else runs.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
