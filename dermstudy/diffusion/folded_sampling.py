"""Sampling of the folded models: text to 64 pixels with guidance in an interval of noise, and 64 to 256 pixels.

Sources: Karras et al. (arXiv 2206.00364) for the formulation; Lu et al. (arXiv 2211.01095) for the second-order
multistep solver, diffusers' EDMDPMSolverMultistepScheduler; Kynkäänniemi et al. (arXiv 2404.07724) for the interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import EDMDPMSolverMultistepScheduler

from dermstudy.diffusion.architecture import tokenize
from dermstudy.diffusion.folded import (
    TIME_SCALE,
    FoldedDenoiser,
    FoldedPreset,
    enlarge_bicubic,
    low_condition,
    mixed,
    unfold,
)
from dermstudy.diffusion.pixels import to_float, to_uint8

EVERYWHERE = (0.0, float("inf"))


def folded_scheduler(preset: FoldedPreset) -> EDMDPMSolverMultistepScheduler:
    """The solver with steps evenly spaced in the logarithm of the noise, from sigma_max to sigma_min and then to zero."""
    return EDMDPMSolverMultistepScheduler(
        sigma_min=preset.sigma_min, sigma_max=preset.sigma_max, sigma_data=1.0, sigma_schedule="exponential"
    )


@torch.inference_mode()
def sample(
    model: FoldedDenoiser,
    tokenizer,
    preset: FoldedPreset,
    captions: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    guidance_scale: float = 1.0,
    interval: tuple[float, float] = EVERYWHERE,
    condition: torch.Tensor | None = None,
    clip: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Folded clean data float32 [n, c, h, w], one caption and seed each; an image depends on its own seed alone.

    guidance applies where sigma lies in `interval`; elsewhere the empty caption is not computed. clip: the least and
    the largest clean value, each broadcast to [n, c, h, w].
    """
    scheduler = folded_scheduler(preset)
    scheduler.set_timesteps(steps)
    ids, mask = tokenize(tokenizer, list(captions) + [""], preset.text_length)
    hidden, pooled = model.text_encoder(ids, mask)
    count, channels, side = len(captions), model.unet.config.out_channels, preset.side // preset.fold
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    noise = torch.stack([torch.randn(channels, side, side, generator=generator) for generator in generators])
    state = noise * scheduler.init_noise_sigma
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        guided = guidance_scale != 1.0 and interval[0] <= sigma <= interval[1]
        entered = scheduler.scale_model_input(state, timestep)
        if condition is not None:
            entered = torch.cat([entered, condition], dim=1)
        rows = [*range(count), *[count] * count] if guided else list(range(count))
        entered = torch.cat([entered, entered]) if guided else entered
        entered = entered.to(model.unet.dtype).contiguous(memory_format=torch.channels_last)
        output = model.unet(
            entered, TIME_SCALE * timestep, encoder_hidden_states=hidden[rows], class_labels=pooled[rows]
        ).sample.float()
        if guided:
            asked, empty = output.chunk(2)
            output = empty + guidance_scale * (asked - empty)
        if clip is not None:
            output = _clipped(output, state, sigma, *clip)
        state = scheduler.step(output, timestep, state).prev_sample
    return state


def _clipped(output, state, sigma, least, largest) -> torch.Tensor:
    """The prediction changed so that the clean data that follows from it stays within bounds."""
    skip, out = 1 / (1 + sigma**2), sigma / (1 + sigma**2) ** 0.5
    return ((skip * state + out * output).clamp(least, largest) - skip * state) / out


def paint(
    model, tokenizer, preset, scale: dict, captions, seeds, steps: int = 25, guidance_scale=1.0, interval=EVERYWHERE
):
    """Base images uint8 [n, 64, 64, 3] from captions."""
    mean, spread = (torch.tensor(scale[name]).view(1, 3, 1, 1) for name in ("mean", "spread"))
    bounds = [((value - mean) / spread).repeat_interleave(preset.fold**2, dim=1) for value in (-1.0, 1.0)]
    folded = sample(model, tokenizer, preset, captions, seeds, steps, guidance_scale, interval, None, tuple(bounds))
    return to_uint8(unfold(folded, preset.fold) * spread + mean)


def upsample(
    model, tokenizer, preset, scale: dict, small: np.ndarray, captions, seeds, steps: int = 10, level: float = 0.0
):
    """Images uint8 [n, 256, 256, 3] from small ones uint8 [n, 64, 64, 3]; level: the noise that they are said to hold."""
    low = to_float(small)
    factor = preset.side // preset.low_side
    condition = low_condition(low, torch.full((len(low),), level), factor // preset.fold)
    residual = sample(model, tokenizer, preset, captions, seeds, steps, condition=condition)
    residual = unfold(mixed(residual, torch.tensor(scale["unmix"])), preset.fold)
    return to_uint8((enlarge_bicubic(low, factor) + residual).clamp(-1, 1))
