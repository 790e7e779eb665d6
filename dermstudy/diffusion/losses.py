"""The loss that training makes small, on the batches of a step or on held-out images.

Sources: Shavlokhova et al., section 2.1 (noise); Salimans and Ho (arXiv 2202.00512) for the velocity, which is Karras'
preconditioning (arXiv 2206.00364) with the sign turned; Hang et al. (arXiv 2303.09556) for the capped weight of nearly clean
images: unlike theirs it stays one where noise prevails, for there an image's overall colour is decided.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from dermstudy.diffusion.architecture import tokenize
from dermstudy.diffusion.batches import Batch, Pictures, data_of
from dermstudy.diffusion.folded import sigmas_of, to_float
from dermstudy.processor import bf16_products

BANDS = 4  # the validation loss is kept for as many equal bands of the 1,000 timesteps
GAMMA = 5.0  # velocities of pixels count min(1, GAMMA / (signal to noise + 1))


class Denoiser(nn.Module):
    """The text encoder and the U-Net as one module, so that a distributed wrapper sees each step whole."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        channels = unet.config.out_channels
        self.data = 3 if channels == 6 else channels  # OpenAI's say three more, where the variance lies in its range

    def forward(self, entered, told, ids, mask) -> torch.Tensor:
        """The prediction for noisy data [n, c, h, w] with what stands beside them; told [n], tokens [n, length]."""
        hidden, pooled = self.text_encoder(ids, mask)
        output = self.unet(entered, told, encoder_hidden_states=hidden, class_labels=pooled).sample
        return output[:, : self.data]


def diffusion_loss(denoise, pipeline, batch: Batch, ids, mask) -> torch.Tensor:
    """The loss of each image, [n]: squared error of the noise, or of the velocity where the scheduler predicts it.

    denoise: a Denoiser; ids and mask: the captions' tokens, each [n, length]. Velocities of folded pixels all count alike.
    """
    sigma = batch.sigma.view(-1, 1, 1, 1)
    signal = (1 + sigma**2).rsqrt()
    noisy = signal * batch.clean + sigma * signal * batch.noise
    entered = noisy if batch.condition is None else torch.cat([noisy, batch.condition], dim=1)
    target, weight = batch.noise, 1.0
    if pipeline.scheduler.config.prediction_type == "v_prediction":
        target = signal * batch.noise - sigma * signal * batch.clean
        if pipeline.pixels is None:
            weight = (GAMMA / (batch.sigma**-2 + 1)).clamp(max=1.0)
    output = denoise(entered, batch.told, ids, mask).float()
    return functional.mse_loss(output, target, reduction="none").mean(dim=(1, 2, 3)) * weight


@torch.no_grad()
def validation_loss(pipeline, pictures: Pictures, config, draws: int = 2, each: int = 16) -> dict[str, float]:
    """Loss on held-out images with fixed noise, over all timesteps and by equal band of timesteps."""
    length, device = pipeline.text_encoder.config.length, pipeline.device
    ids, mask = tokenize(pipeline.tokenizer, pictures.texts[:-1], length)
    scheduler, folded, count = pipeline.scheduler, pipeline.pixels, len(pictures.images)
    total, denoise = scheduler.config.num_train_timesteps, Denoiser(pipeline.unet, pipeline.text_encoder)
    values, bands = [], []
    for turn in range(draws):
        for start in range(0, count, each):
            part = slice(start, start + each)
            sides = [to_float(side[part]) for side in (pictures.images, pictures.small) if side is not None]
            clean, condition = data_of(pipeline, *(side.to(device) for side in sides))
            generator = torch.Generator().manual_seed(seed_of(config.seed, start, 2 + turn))
            noise = torch.randn(clean.shape, generator=generator)
            # Equally spaced over all images, so that each band holds its share however few the images are.
            timesteps = (torch.arange(start, start + len(clean)) * draws + turn) * total // (count * draws)
            told = folded.times(scheduler, timesteps) if folded else timesteps
            batch = Batch(clean, noise, sigmas_of(scheduler, timesteps), told, condition).part(slice(None), device)
            with autocast(config, device):
                loss = diffusion_loss(denoise, pipeline, batch, ids[part].to(device), mask[part].to(device))
            values += loss.tolist()
            bands += (timesteps * BANDS // total).tolist()
    frame = pd.Series(values).groupby(bands).mean()
    row = {"validation_loss": float(np.mean(values))}
    return row | {f"validation_{b * total // BANDS}_{(b + 1) * total // BANDS - 1}": float(v) for b, v in frame.items()}


def seed_of(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def in_bf16(config, device: torch.device) -> bool:
    """Whether networks compute in bf16: where `config` asks for it and the device multiplies such numbers itself."""
    return config.precision == "bf16" and (device.type != "cpu" or bf16_products())


def autocast(config, device: torch.device):
    """The precision of a training step as a context."""
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bf16(config, device))


def layout(config, device: torch.device) -> torch.memory_format:
    """Of convolutions: channels last where bf16 products are fast, else as they come (a fifth faster there)."""
    return torch.channels_last if in_bf16(config, device) else torch.contiguous_format
