"""Small diffusion models on folded pixels: what they see, what they predict, and the networks themselves.

A fold moves blocks of pixels into channels, so that a network of few cores works on a coarse grid. The base model
diffuses standardised colours; the upsampler diffuses the residual of an image over its enlarged small version, its
components evened out to a mean variance of one, for pixels themselves leave texture to 3 % of the noise levels.
`FoldedPixels` is the part of a pipeline that takes images there and back. In diffusers' terms the networks predict the
velocity (Salimans and Ho, arXiv 2202.00512) on a schedule whose timesteps are even in the logarithm of the noise, which
is Karras' preconditioning for data of unit variance with the sign turned: see `training_target`.
Sources: Karras et al., "Elucidating the design space of diffusion-based generative models" (arXiv 2206.00364) for the
preconditioning and the noise levels; Nichol et al., "GLIDE" (arXiv 2112.10741) for text in both stages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from diffusers import DDPMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
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
    widths: tuple[int, ...]  # channels of the levels
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

    @property
    def channels(self) -> int:
        """Of the first level."""
        return self.widths[0]


# fmt: off
FOLDED_PRESETS = {
    # name                         side fold low widths               n  attention head text: w l  h  n   log sigma  sigma
    "mini-base":      FoldedPreset(64,  2,   0,  (64, 128, 192),      1, (1, 2),  32,  128, 4, 4, 32, 0.8, 1.6,  120.0, 0.01),
    "mini-upsampler": FoldedPreset(256, 2,   64, (32, 48, 64, 96),   1, (),      32,  64,  2, 2, 32, 1.2, 1.4,  80.0, 0.02),
}  # fmt: skip
# fmt: on


def trained_preset(recipe: Mapping) -> FoldedPreset:
    """The sizes that a training's recipe names (`preset`), with the noise levels that it says, where it says any."""
    said = {name: recipe[name] for name in ("noise_mean", "noise_spread") if recipe.get(name) is not None}
    return replace(FOLDED_PRESETS[recipe["preset"]], **said)


def folded_unet(preset: FoldedPreset) -> UNet2DConditionModel:
    """The U-Net of `preset` with random weights, its last convolution at zero: an untrained model predicts the mean."""
    levels = range(len(preset.widths))
    pixels = 3 * preset.fold**2
    unet = UNet2DConditionModel(
        sample_size=preset.side // preset.fold,
        in_channels=pixels + (4 if preset.low_side else 0),
        out_channels=pixels,
        block_out_channels=preset.widths,
        layers_per_block=preset.blocks,
        down_block_types=tuple(_block("Down", level in preset.attention_levels) for level in levels),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=tuple(_block("Up", level in preset.attention_levels) for level in reversed(levels)),
        attention_head_dim=preset.head_width,
        cross_attention_dim=preset.text_width,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
        norm_eps=1e-5,
        norm_num_groups=max(1, math.gcd(*preset.widths) // GROUP_WIDTH),
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


# The part of a pipeline


class FoldedPixels(ModelMixin, ConfigMixin):
    """Between images and what a folded U-Net diffuses: standardised colours, or the residual over a small image.

    side: of the images; low_side: of an upsampler's small image, 0 for a base model. noise_mean and noise_spread: of the
    logarithm of sigma in training. Images are float [n, 3, h, w] in -1..1, data [n, 3 * fold^2, h / fold, w / fold].
    """

    @register_to_config
    def __init__(self, side: int, fold: int, low_side: int = 0, noise_mean: float = 0.0, noise_spread: float = 1.6):
        super().__init__()
        channels = 3 * fold**2
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("spread", torch.ones(3, 1, 1))
        self.register_buffer("mix", torch.eye(channels))
        self.register_buffer("unmix", torch.eye(channels))

    @property
    def channels(self) -> int:
        """Of the data."""
        return len(self.mix)

    @property
    def factor(self) -> int:
        """How many times an upsampler enlarges; 1 for a base model."""
        return self.config.side // self.config.low_side if self.config.low_side else 1

    def encode(self, pixels: torch.Tensor, low: torch.Tensor | None = None) -> torch.Tensor:
        """Images, and for an upsampler their small versions [n, 3, h / factor, w / factor], to data."""
        if low is not None:
            return mixed(fold(pixels - enlarge_bicubic(low, self.factor), self.config.fold), self.mix)
        return fold((pixels - self.mean) / self.spread, self.config.fold)

    def decode(self, data: torch.Tensor, low: torch.Tensor | None = None) -> torch.Tensor:
        """The inverse of `encode`."""
        if low is not None:
            return unfold(mixed(data, self.unmix), self.config.fold) + enlarge_bicubic(low, self.factor)
        return unfold(data, self.config.fold) * self.spread + self.mean

    def condition(self, low: torch.Tensor, level: torch.Tensor | None = None) -> torch.Tensor:
        """What an upsampler's U-Net sees beside the data: [n, 4, grid, grid]; level: of the noise that `low` holds [n]."""
        level = low.new_zeros(len(low)) if level is None else level
        return low_condition(low, level, self.factor // self.config.fold)

    def times(self, scheduler, timesteps: torch.Tensor) -> torch.Tensor:
        """What the U-Net is told for timesteps of `scheduler`."""
        return time_of(sigmas_of(scheduler, timesteps))

    def draw_timesteps(self, count: int, scheduler, generator: torch.Generator) -> torch.Tensor:
        """Timesteps [count] of `scheduler` whose sigma is log-normal, as the networks were trained."""
        logarithms = sigmas_of(scheduler, torch.arange(scheduler.config.num_train_timesteps)).log()
        drawn = self.config.noise_mean + self.config.noise_spread * torch.randn(count, generator=generator)
        return torch.searchsorted(logarithms, drawn).clamp(max=len(logarithms) - 1)

    def within_range(self, velocity, sample, signal: torch.Tensor, low: torch.Tensor | None = None) -> torch.Tensor:
        """`velocity` changed so that the image which follows from it lies in -1..1; signal: the product of the alphas."""
        clean = self.decode(signal.sqrt() * sample - (1 - signal).sqrt() * velocity, low).clamp(-1, 1)
        return (signal.sqrt() * sample - self.encode(clean, low)) / (1 - signal).sqrt()


def sigmas_of(scheduler, timesteps: torch.Tensor) -> torch.Tensor:
    """Noise over signal at timesteps of `scheduler`."""
    signal = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    return ((1 - signal) / signal).sqrt()


def folded_schedule(preset: FoldedPreset, count: int = 1000) -> DDPMScheduler:
    """The training schedule of `count` timesteps, even in the logarithm of sigma from sigma_min to sigma_max."""
    sigmas = np.geomspace(preset.sigma_min, preset.sigma_max, count)
    signal = 1 / (1 + sigmas**2)
    betas = 1 - signal / np.concatenate([[1.0], signal[:-1]])
    return DDPMScheduler(
        num_train_timesteps=count,
        trained_betas=betas.tolist(),
        prediction_type="v_prediction",
        variance_type="fixed_small",
        clip_sample=False,
        timestep_spacing="linspace",
    )


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
