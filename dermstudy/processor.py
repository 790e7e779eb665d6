"""What this machine's processor can multiply: results are equal to the byte only where it is the same."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

BY_FLAG = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 bf16", "avx512f": "AVX-512", "avx2": "AVX2"}


@cache
def instruction_set() -> str:
    """The widest instruction set that matters here: AMX, AVX-512 bf16, AVX-512, AVX2, or else the machine's kind."""
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


def share_cores() -> None:
    """Let the threads of kernels started from here sleep while they wait; called before any of them starts.

    By default torch's threads spin: where another program has one of two cores, a training step takes six times as long as
    by threads that sleep, and by those a tenth longer where nothing else runs.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
