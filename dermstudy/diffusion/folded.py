"""Small diffusion models on folded pixels: what they see, what they predict, and the networks themselves.

A fold moves blocks of pixels into channels, so that a network of few cores works on a coarse grid. The base model
diffuses standardised colours; the upsampler diffuses the residual of an image over its enlarged small version, its
components evened out to a mean variance of one, for pixels themselves leave texture to 3 % of the noise levels.
`FoldedPixels` is the part of a pipeline that takes images there and back. In diffusers' terms the networks predict the
velocity (Salimans and Ho, arXiv 2202.00512) on a schedule whose timesteps are even in the logarithm of the noise, which
is Karras' preconditioning for data of unit variance with the sign turned.
Sources: Karras et al., "Elucidating the design space of diffusion-based generative models" (arXiv 2206.00364) for the
preconditioning and the noise levels; Nichol et al., "GLIDE" (arXiv 2112.10741) for text in both stages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDPMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch.nn import functional

from dermstudy.diffusion.architecture import glide_unet

TIME_SCALE = 100.0  # of Karras' noise embedding (a quarter of the logarithm), as the U-Net's sinusoids want it
GROUP_WIDTH = 16  # channels a group at the first level: one channel a group cannot pass a colour
LOW_NOISE = 0.06  # largest standard deviation added to the small image of glide-mini's first upsampler, in -1..1


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
    low_noise: float = LOW_NOISE  # largest standard deviation added to the small image in training, in -1..1

    @property
    def channels(self) -> int:
        """Of the first level."""
        return self.widths[0]


# fmt: off
FOLDED_PRESETS = {
    # name                         side fold low widths               n  attention head text: w l  h  n   log sigma  sigma
    "mini-base":      FoldedPreset(64,  2,   0,  (64, 128, 192),      1, (1, 2),  32,  128, 4, 4, 32, 0.8, 1.6,  120.0, 0.01),
    "mini-half":      FoldedPreset(32,  1,   0,  (64, 128, 192),     1, (1, 2),  32,  128, 4, 4, 40, -0.6, 1.2, 120.0, 0.01),
    "mini-middle":    FoldedPreset(64,  2,   32, (64, 96, 128),      1, (2,),    32,  64,  2, 2, 32, 0.4, 1.4,  80.0, 0.02, 0.12),
    "mini-upsampler": FoldedPreset(256, 2,   64, (32, 48, 64, 96),   1, (),      32,  64,  2, 2, 32, 1.2, 1.4,  80.0, 0.02),
}  # fmt: skip
# fmt: on


def folded_unet(preset: FoldedPreset) -> UNet2DConditionModel:
    """The U-Net of `preset` with random weights, its last convolution at zero: an untrained model predicts the mean."""
    data = 3 * preset.fold**2
    return glide_unet(
        [level in preset.attention_levels for level in range(len(preset.widths))],
        sample_size=preset.side // preset.fold,
        in_channels=data + (4 if preset.low_side else 0),
        out_channels=data,
        block_out_channels=preset.widths,
        layers_per_block=preset.blocks,
        attention_head_dim=preset.head_width,
        cross_attention_dim=preset.text_width,
        norm_num_groups=max(1, math.gcd(*preset.widths) // GROUP_WIDTH),
    )


def enlarge(images: torch.Tensor, side: int) -> torch.Tensor:
    """Bilinear enlargement to [n, 3, side, side], upstream's conditioning of the upsampler."""
    return functional.interpolate(images, (side, side), mode="bilinear")


def to_uint8(sample: torch.Tensor) -> np.ndarray:
    """Float [n, 3, h, w] in -1..1 to uint8 [n, h, w, 3]."""
    return ((sample.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def to_float(images: np.ndarray) -> torch.Tensor:
    """Uint8 [n, h, w, 3] to float [n, 3, h, w] in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


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


def residual_covariance(images: np.ndarray, small: np.ndarray, fold_by: int, count: int = 512) -> np.ndarray:
    """Covariance [c, c] of the folded residuals of images over their enlarged small version, from evenly spaced ones.

    It is averaged over the eight symmetries of a square, as training sees them.
    """
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    large, low = to_float(images[chosen]), to_float(small[chosen])
    residual, total = large - enlarge_bicubic(low, large.shape[-1] // low.shape[-1]), 0.0
    for turn in range(4):
        for turned in (residual.rot90(turn, (2, 3)), residual.rot90(turn, (2, 3)).flip(3)):
            total = total + np.cov(fold(turned, fold_by).transpose(0, 1).flatten(1).numpy()) / 8
    return total


def mixed(channels: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """`channels` [n, c, h, w] with the matrix [c, c] applied to each place."""
    return functional.conv2d(channels, matrix.to(channels)[:, :, None, None])


def enlarge_bicubic(low: torch.Tensor, factor: int) -> torch.Tensor:
    """[n, 3, h, w] enlarged `factor` times: what the residual stands on."""
    return functional.interpolate(low, scale_factor=factor, mode="bicubic", align_corners=False)


class FoldedPixels(ModelMixin, ConfigMixin):
    """Between images and what a folded U-Net diffuses: standardised colours, or the residual over a small image.

    side: of the images; low_side: of an upsampler's small image, 0 for a base model. noise_mean and noise_spread: of the
    logarithm of sigma in training. low_noise: the most noise that the small image held in
    training. Images are float [n, 3, h, w] in -1..1, data [n, 3 * fold^2, h / fold, w / fold].
    """

    @register_to_config
    def __init__(
        self, side: int, fold: int, low_side: int = 0, noise_mean: float = 0.0, noise_spread: float = 1.6,
        low_noise: float = LOW_NOISE,
    ):  # fmt: skip
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
    def scale(self) -> dict[str, list]:
        """The numbers between images and data by name, to six digits: of the colours, or of the residual's components."""
        names = ("mix", "unmix") if self.config.low_side else ("mean", "spread")
        return {name: np.round(getattr(self, name).squeeze().double().cpu().numpy(), 6).tolist() for name in names}

    def set_scale(self, scale: Mapping[str, Sequence]) -> None:
        """Take the numbers of `scale`."""
        for name, values in scale.items():
            buffer = getattr(self, name)
            buffer.copy_(torch.tensor(values).reshape(buffer.shape))

    def fit(self, images: np.ndarray, small: np.ndarray | None = None, even: bool = False) -> None:
        """Take the scale of training images, uint8 [n, side, side, 3], and of an upsampler's small ones, [n, low, low, 3].

        even: all components of the residual by one number, in place of `tempered`.
        """
        if small is None:
            values = images.reshape(-1, 3) / 127.5 - 1
            scale = {"mean": values.mean(axis=0), "spread": values.std(axis=0)}
        else:
            covariance = residual_covariance(images, small, self.config.fold)
            if even:  # components that are as large as each other are all divided by the same number
                covariance = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
            scale = dict(zip(("mix", "unmix"), tempered(covariance), strict=True))
        self.set_scale({name: np.round(values, 6).tolist() for name, values in scale.items()})

    @property
    def factor(self) -> int:
        """How many times an upsampler enlarges; 1 for a base model."""
        return self.config.side // self.config.low_side if self.config.low_side else 1

    def encode(self, pixels: torch.Tensor, low: torch.Tensor | None = None) -> torch.Tensor:
        """Images, and for an upsampler their small versions [n, 3, h / factor, w / factor], to data."""
        if low is not None:
            return mixed(fold(pixels - enlarge_bicubic(low, self.factor), self.config.fold), self.mix)
        return fold((pixels - self.mean.to(pixels)) / self.spread.to(pixels), self.config.fold)

    def decode(self, data: torch.Tensor, low: torch.Tensor | None = None) -> torch.Tensor:
        """The inverse of `encode`."""
        if low is not None:
            return unfold(mixed(data, self.unmix), self.config.fold) + enlarge_bicubic(low, self.factor)
        return unfold(data, self.config.fold) * self.spread.to(data) + self.mean.to(data)

    def condition(self, low: torch.Tensor, level: torch.Tensor | None = None) -> torch.Tensor:
        """What an upsampler's U-Net sees beside the data: [n, 4, grid, grid]; level: of the noise that `low` holds [n].

        The small image lies on the folded grid, and the most noise in training is shown as 1.
        """
        grid = low if self.factor == self.config.fold else enlarge_bicubic(low, self.factor // self.config.fold)
        level = low.new_zeros(len(low)) if level is None else level
        shown = (level / self.config.low_noise).view(-1, 1, 1, 1).expand(-1, 1, *grid.shape[-2:])
        return torch.cat([grid, shown.to(grid.dtype)], dim=1)

    def times(self, scheduler, timesteps: torch.Tensor) -> torch.Tensor:
        """What the U-Net is told for timesteps of `scheduler`."""
        return time_of(sigmas_of(scheduler, timesteps))

    def within_range(self, velocity, sample, signal: torch.Tensor, low: torch.Tensor | None = None) -> torch.Tensor:
        """`velocity` changed so that the image which follows from it lies in -1..1; signal: the product of the alphas."""
        clean = self.decode(signal.sqrt() * sample - (1 - signal).sqrt() * velocity, low).clamp(-1, 1)
        return (signal.sqrt() * sample - self.encode(clean, low)) / (1 - signal).sqrt()


def folded_pixels(preset: FoldedPreset) -> FoldedPixels:
    """The part of a pipeline of `preset`, of data that are not scaled yet."""
    noise = preset.noise_mean, preset.noise_spread, preset.low_noise
    return FoldedPixels(preset.side, preset.fold, preset.low_side, *noise)


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


def time_of(sigma: torch.Tensor) -> torch.Tensor:
    """The U-Net's timestep for noise of standard deviation `sigma` [n]."""
    return TIME_SCALE * 0.25 * sigma.log()
