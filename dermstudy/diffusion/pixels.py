"""Between pixels of 256 levels and the numbers that the networks see."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional


def enlarge(images: torch.Tensor, side: int) -> torch.Tensor:
    """Bilinear enlargement to [n, 3, side, side], upstream's conditioning of the upsampler."""
    return functional.interpolate(images, (side, side), mode="bilinear")


def reduce(images: torch.Tensor, side: int) -> torch.Tensor:
    """[n, 3, h, w] in -1..1 reduced to `side` as dataset.read_image reduces files: bicubic with antialiasing, 256 levels."""
    small = functional.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(-1, 1)
    return ((small + 1) * 127.5).round() / 127.5 - 1


def to_uint8(sample: torch.Tensor) -> np.ndarray:
    """Float [n, 3, h, w] in -1..1 to uint8 [n, h, w, 3]."""
    return ((sample.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def to_float(images: np.ndarray) -> torch.Tensor:
    """Uint8 [n, h, w, 3] to float [n, 3, h, w] in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
