"""Small diffusion models on folded pixels: what they see, what they predict, and the networks themselves.

A fold moves blocks of pixels into channels, so that a network of few cores works on a coarse grid. The base model
diffuses standardised colours; the upsampler diffuses the residual of an image over its enlarged small version, its
components evened out to a mean variance of one, for pixels themselves leave texture to 3 % of the noise levels.
Sources: Karras et al., "Elucidating the design space of diffusion-based generative models" (arXiv 2206.00364) for the
preconditioning and the noise levels; Nichol et al., "GLIDE" (arXiv 2112.10741) for text in both stages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn import functional

TIME_SCALE = 100.0  # of Karras' noise embedding (a quarter of the logarithm), as the U-Net's sinusoids want it
GROUP_WIDTH = 16  # channels a group at the first level: one channel a group cannot pass a colour
LOW_NOISE = 0.06  # largest standard deviation added to the small image, in -1..1


@dataclass(frozen=True)
class FoldedPreset:
    """Sizes of one network. `side` is that of the image; features at the first level have side / fold."""

    side: int
    fold: int
    low_side: int  # of the small image that conditions an upsampler; 0 for a base model
    channels: tuple[int, ...]  # of the levels
    blocks: int  # residual blocks a level
    attention_levels: tuple[int, ...]
    head_width: int
    text_width: int
    text_layers: int
    text_heads: int
    text_length: int
    noise_mean: float  # of the logarithm of sigma while training
    noise_spread: float
    sigma_max: float  # where sampling starts; the data has unit variance
    sigma_min: float


# fmt: off
FOLDED_PRESETS = {
    # name                         side fold low channels             n  attention head text: w l  h  n   log sigma  sigma
    "mini-base":      FoldedPreset(64,  2,   0,  (64, 128, 192),      1, (1, 2),  32,  128, 4, 4, 32, 0.0, 1.6,  120.0, 0.01),
    "mini-upsampler": FoldedPreset(256, 2,   64, (32, 64, 128, 160),  1, (),      32,  64,  2, 2, 32, -0.4, 1.3, 20.0, 0.02),
}  # fmt: skip
# fmt: on


def folded_unet(preset: FoldedPreset) -> UNet2DConditionModel:
    """The U-Net of `preset` with random weights, its last convolution at zero: an untrained model predicts the mean."""
    levels = range(len(preset.channels))
    pixels = 3 * preset.fold**2
    unet = UNet2DConditionModel(
        sample_size=preset.side // preset.fold,
        in_channels=pixels + (4 if preset.low_side else 0),
        out_channels=pixels,
        block_out_channels=preset.channels,
        layers_per_block=preset.blocks,
        down_block_types=tuple(_block("Down", level in preset.attention_levels) for level in levels),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=tuple(_block("Up", level in preset.attention_levels) for level in reversed(levels)),
        attention_head_dim=preset.head_width,
        cross_attention_dim=preset.text_width,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
        norm_eps=1e-5,
        norm_num_groups=max(1, math.gcd(*preset.channels) // GROUP_WIDTH),
    )
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet


def _block(direction: str, attends: bool) -> str:
    return f"SimpleCrossAttn{direction}Block2D" if attends else f"Resnet{direction}sampleBlock2D"


# Pixels and channels


def fold(pixels: torch.Tensor, factor: int) -> torch.Tensor:
    """[n, c, h, w] to [n, c * factor^2, h / factor, w / factor], losslessly."""
    return functional.pixel_unshuffle(pixels, factor)


def unfold(channels: torch.Tensor, factor: int) -> torch.Tensor:
    """The inverse of `fold`."""
    return functional.pixel_shuffle(channels, factor)


def tempered(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map [c, c] that evens out the components of folded residuals [c], and its inverse.

    A residual's components have standard deviations from 0.12 down to 0.002, so that all but the coarsest drown in most
    noise levels. Each is divided by the square root of its deviation: the span of 50 becomes one of 7, the order stays,
    and the mean variance is one. The map is symmetric, so that it commutes with flips and turns of the pixels.
    """
    values, vectors = np.linalg.eigh(covariance)
    values = values.clip(1e-8)
    gains = values**-0.25 / np.sqrt(np.sqrt(values).mean())
    return (vectors * gains) @ vectors.T, (vectors / gains) @ vectors.T


def mixed(channels: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """`channels` [n, c, h, w] with the matrix [c, c] applied to each place."""
    return functional.conv2d(channels, matrix.to(channels)[:, :, None, None])


def enlarge_bicubic(low: torch.Tensor, factor: int) -> torch.Tensor:
    """[n, 3, h, w] enlarged `factor` times: what the residual stands on."""
    return functional.interpolate(low, scale_factor=factor, mode="bicubic", align_corners=False)


# Karras' preconditioning for data of unit variance


def time_of(sigma: torch.Tensor) -> torch.Tensor:
    """The U-Net's timestep for noise of standard deviation `sigma` [n]."""
    return TIME_SCALE * 0.25 * sigma.log()


def clean_estimate(predicted: torch.Tensor, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The clean data that the network's output [n, c, h, w] says: equation 7 with unit data variance."""
    sigma = sigma.view(-1, 1, 1, 1)
    return noisy / (1 + sigma**2) + predicted * sigma / (1 + sigma**2).sqrt()


def training_target(clean: torch.Tensor, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """What the network should output for `noisy` = clean + sigma * noise; of unit variance at every sigma."""
    sigma = sigma.view(-1, 1, 1, 1)
    return (clean - noisy / (1 + sigma**2)) * (1 + sigma**2).sqrt() / sigma


class FoldedDenoiser(nn.Module):
    """Text encoder and U-Net as one module: the preconditioned network of Karras et al."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy, sigma, ids, mask, condition=None) -> torch.Tensor:
        """The raw prediction [n, c, h, w].

        noisy [n, c, h, w], of variance 1 + sigma^2; sigma [n]; ids and mask [n, length]; condition [n, 4, h, w]: the
        noised small image on the folded grid and the noise's level.
        """
        hidden, pooled = self.text_encoder(ids, mask)
        entered = noisy / (1 + sigma.view(-1, 1, 1, 1) ** 2).sqrt()
        if condition is not None:
            entered = torch.cat([entered, condition.to(entered.dtype)], dim=1)
        return self.unet(entered, time_of(sigma), encoder_hidden_states=hidden, class_labels=pooled).sample


def low_condition(low: torch.Tensor, level: torch.Tensor, factor: int) -> torch.Tensor:
    """The condition [n, 4, factor * h, factor * w] from a noised small image [n, 3, h, w] and its noise's level [n]."""
    grid = low if factor == 1 else enlarge_bicubic(low, factor)
    shown = (level / LOW_NOISE).view(-1, 1, 1, 1).expand(-1, 1, *grid.shape[-2:])
    return torch.cat([grid, shown.to(grid.dtype)], dim=1)
