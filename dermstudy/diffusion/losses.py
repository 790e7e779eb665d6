"""What a diffusion model is trained to make small: the loss of a batch, and that of held-out images by noise level.

Sources: Shavlokhova et al., section 2.1 (noise); Salimans and Ho (arXiv 2202.00512) for the velocity; Hang et al. (arXiv
2303.09556) for the capped weight of nearly clean images.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from diffusers.training_utils import compute_snr
from torch import nn
from torch.nn import functional

from dermstudy.diffusion.architecture import tokenize
from dermstudy.diffusion.batches import Batch, data_of, generator_of
from dermstudy.diffusion.pixels import to_float
from dermstudy.processor import bf16_products

BANDS = 4  # the validation loss is kept for as many equal bands of the 1,000 timesteps


class Denoiser(nn.Module):
    """The text encoder and the U-Net as one module, so that a distributed wrapper sees each step whole."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        channels = unet.config.out_channels
        self.data = 3 if channels == 6 else channels  # OpenAI's say three more, where the variance lies in its range

    def forward(self, entered, timesteps, ids, mask) -> torch.Tensor:
        """The prediction for noisy data [n, c, h, w], with what stands beside them, times [n] and tokens [n, length]."""
        hidden, pooled = self.text_encoder(ids, mask)
        output = self.unet(entered, timesteps, encoder_hidden_states=hidden, class_labels=pooled).sample
        return output[:, : self.data]


def diffusion_loss(denoise, scheduler, batch: Batch, ids, mask, config, folded=None) -> torch.Tensor:
    """The training loss of each image, [n]: squared error of noise or velocity.

    denoise: a Denoiser; ids and mask: the captions' tokens, each [n, length]; folded: the pipeline's FoldedPixels, for
    whose data every velocity counts alike.
    """
    noisy = scheduler.add_noise(batch.pixels, batch.noise, batch.timesteps)
    entered = noisy if batch.low is None else torch.cat([noisy, batch.low], dim=1)
    times = folded.times(scheduler, batch.timesteps) if folded else batch.timesteps
    output = denoise(entered, times, ids, mask)
    if folded:
        target, weight = scheduler.get_velocity(batch.pixels, batch.noise, batch.timesteps), 1.0
    elif scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(batch.pixels, batch.noise, batch.timesteps)
        snr = compute_snr(scheduler, batch.timesteps)
        weight = torch.clamp(config.snr_gamma / (snr + 1), max=1.0)
    else:
        target, weight = batch.noise, torch.ones_like(batch.pixels[:, 0, 0, 0])
    return functional.mse_loss(output.float(), target, reduction="none").mean(dim=(1, 2, 3)) * weight


@torch.no_grad()
def validation_loss(pipeline, images, captions, low_side: int, config, draws=2, each=16) -> dict:
    """Loss on held-out images with fixed noise, over all timesteps and by equal band of timesteps."""
    ids, mask = tokenize(pipeline.tokenizer, list(captions), pipeline.text_encoder.config.length)
    total, device = pipeline.scheduler.config.num_train_timesteps, pipeline.device
    denoise = Denoiser(pipeline.unet, pipeline.text_encoder)
    values, bands = [], []
    for turn in range(draws):
        for start in range(0, len(images), each):
            part = slice(start, start + each)
            pixels = to_float(images[part])
            data, seen = data_of(pixels, low_side, pipeline.pixels)
            noise = torch.randn(data.shape, generator=generator_of(config.seed, start, 2 + turn))
            # Equally spaced over all images, so that each band holds its share however few the images are.
            place = torch.arange(start, start + len(pixels)) * draws + turn
            timesteps = (place * total) // (len(images) * draws)
            batch = Batch(data, noise, timesteps, seen)
            with autocast(config, device):
                loss = diffusion_loss(
                    denoise,
                    pipeline.scheduler,
                    batch.part(slice(None), device),
                    ids[part].to(device),
                    mask[part].to(device),
                    config,
                    pipeline.pixels,
                )
            values += loss.tolist()
            bands += (timesteps * BANDS // total).tolist()
    frame = pd.Series(values).groupby(bands).mean()
    row = {"validation_loss": float(np.mean(values))}
    return row | {f"validation_{b * total // BANDS}_{(b + 1) * total // BANDS - 1}": float(v) for b, v in frame.items()}


def autocast(config, device: torch.device):
    able = device.type != "cpu" or bf16_products()
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16" and able)
