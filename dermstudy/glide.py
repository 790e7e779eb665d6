"""GLIDE on diffusers: the text encoder, the presets of both U-Nets, and the two sampling pipelines.

Sources: Nichol et al., "GLIDE" (arXiv 2112.10741) and the openai/glide-text2im release for the architecture;
Ho and Salimans (arXiv 2207.12598) for classifier-free guidance; Lu et al. (arXiv 2211.01095) for DPM-Solver++.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    ModelMixin,
    UNet2DConditionModel,
)
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils import logging as diffusers_logging
from torch import nn
from torch.nn import functional
from transformers import GPT2Tokenizer

from dermstudy.files import InputError

PAD_TOKEN = "<|endoftext|>"


# Architecture


@dataclass(frozen=True)
class Preset:
    """The sizes of one GLIDE model: a U-Net with the text encoder that conditions it."""

    side: int  # pixels of the output image
    in_channels: int  # 3, or 6 with the enlarged low-resolution image beside the noisy one
    channels: int  # of the first level
    multipliers: tuple[int, ...]  # of the levels
    blocks: int  # residual blocks a level
    attention_sides: tuple[int, ...]  # feature-map sides with attention to text and image
    head_width: int
    text_width: int
    text_layers: int
    text_heads: int
    text_length: int  # tokens
    beta_schedule: str
    dropout: float


# fmt: off
PRESETS = {
    # name                      side in chan multipliers         n  attention    head  text: w  l  h  n  betas             dropout
    "openai-base":       Preset(64,  3, 192, (1, 2, 3, 4),       3, (32, 16, 8), 64, 512, 16, 8, 128, "squaredcos_cap_v2", 0.1),
    "openai-upsampler":  Preset(256, 6, 192, (1, 1, 2, 2, 4, 4), 2, (32, 16, 8), 64, 512, 16, 8, 128, "linear",            0.1),
    "mini-base":         Preset(64,  3, 32,  (1, 2, 2, 4),       1, (8,),        32, 128, 4,  4, 32,  "squaredcos_cap_v2", 0.0),
    "mini-upsampler":    Preset(256, 6, 16,  (1, 1, 2, 2, 4),    1, (),          16, 64,  2,  2, 32,  "linear",            0.0),
    "tiny-base":         Preset(64,  3, 8,   (1, 2, 2, 2),       1, (8,),        8,  32,  1,  2, 32,  "squaredcos_cap_v2", 0.0),
    "tiny-upsampler":    Preset(256, 6, 8,   (1, 1, 2, 2),       1, (),          8,  32,  1,  2, 32,  "linear",            0.0),
}  # fmt: skip
# fmt: on


def unet_from(preset: Preset) -> UNet2DConditionModel:
    """The U-Net of `preset`, randomly initialised: six output channels, three of noise and three of variance range."""
    attends = [preset.side >> level in preset.attention_sides for level in range(len(preset.multipliers))]
    widths = tuple(preset.channels * multiplier for multiplier in preset.multipliers)
    unet = UNet2DConditionModel(
        sample_size=preset.side,
        in_channels=preset.in_channels,
        out_channels=6,
        block_out_channels=widths,
        layers_per_block=preset.blocks,
        down_block_types=tuple("SimpleCrossAttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attends),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=tuple("SimpleCrossAttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in attends[::-1]),
        attention_head_dim=preset.head_width,
        cross_attention_dim=preset.text_width,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
        dropout=preset.dropout,
        norm_eps=1e-5,
        norm_num_groups=min(32, preset.channels),
    )
    # As upstream: the last convolution starts at zero, so that an untrained model predicts the mean.
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet


class GlideTextEncoder(ModelMixin, ConfigMixin):
    """GLIDE's caption encoder: a transformer over tokens whose padding has an embedding of its own."""

    @register_to_config
    def __init__(self, vocabulary: int, length: int, width: int, layers: int, heads: int, pooled_width: int):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(length, width) * 0.01)
        self.padding_embedding = nn.Parameter(torch.randn(length, width) * 0.01)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.final_norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, pooled_width)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode captions.

        input_ids: int64 [n, length]; attention_mask: [n, length], 0 where a token is padding.
        Returns hidden states [n, length, width] and the pooled projection [n, 4 * channels] of the last position.
        """
        embedded = self.token_embedding(input_ids) + self.positional_embedding  # [n, length, width]
        embedded = torch.where(attention_mask.bool()[..., None], embedded, self.padding_embedding)
        hidden = self.final_norm(self.transformer(embedded))
        return hidden, self.projection(hidden[:, -1])


def text_encoder_from(preset: Preset, vocabulary: int) -> GlideTextEncoder:
    """The text encoder of `preset` for a tokenizer of `vocabulary` entries, randomly initialised."""
    return GlideTextEncoder(
        vocabulary, preset.text_length, preset.text_width, preset.text_layers, preset.text_heads, 4 * preset.channels
    )


def train_tokenizer(captions: Sequence[str], vocabulary: int = 512) -> GPT2Tokenizer:
    """A byte-level BPE in GPT-2's form trained on `captions`; any text still encodes, byte by byte where unseen."""
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        sorted({caption.lower() for caption in captions}), vocab_size=vocabulary, min_frequency=1, show_progress=False
    )
    content = json.loads(trained.to_str())["model"]
    vocab = dict(content["vocab"]) | {PAD_TOKEN: len(content["vocab"])}
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in content["merges"]]
    return GPT2Tokenizer(vocab=vocab, merges=merges, pad_token=PAD_TOKEN)


def tokenize(tokenizer: GPT2Tokenizer, captions: Sequence[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, each [n, length]: lower case as upstream, no begin or end mark, padded and cut to length."""
    encoded = tokenizer(
        [caption.lower() for caption in captions],
        padding="max_length",
        truncation=True,
        max_length=length,
        return_tensors="pt",
    )
    return encoded["input_ids"], encoded["attention_mask"]


# Samplers


SAMPLERS = ("ancestral", "ddim", "dpm-solver")


def scheduler_from(preset: Preset, prediction: str = "epsilon") -> DDPMScheduler:
    """The training and ancestral-sampling scheduler: 1,000 steps, learned variance range, x0 clipped to [-1, 1]."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule=preset.beta_schedule,
        prediction_type=prediction,
        variance_type="learned_range",
        clip_sample=True,
        timestep_spacing="linspace",
    )


def sampler_from(scheduler, name: str):
    """The scheduler for sampling called `name`, one of SAMPLERS, over the noise schedule of `scheduler`.

    DPM-Solver++ starts at a log signal-to-noise ratio of -5.1 and clips x0: started at t = 999 of the squared
    cosine schedule it saturates.
    """
    if name == "ancestral":
        return DDPMScheduler.from_config(scheduler.config)
    if name == "ddim":
        return DDIMScheduler.from_config(scheduler.config, timestep_spacing="linspace", clip_sample=True)
    if name == "dpm-solver":
        return DPMSolverMultistepScheduler.from_config(
            scheduler.config,
            algorithm_type="dpmsolver++",
            lambda_min_clipped=-5.1,
            thresholding=True,
            sample_max_value=1.0,
            timestep_spacing="linspace",
        )
    raise InputError(f"unknown sampler {name!r}: choose one of {', '.join(SAMPLERS)}")


def respaced_timesteps(respacing: str, total: int = 1000) -> list[int]:
    """Upstream's respacing ("100", "25,25,50" or "fast27") as descending timesteps.

    Source: glide_text2im/respace.py, space_timesteps. InputError where a section has too few steps to divide.
    """
    sections = [10, 10, 3, 2, 2] if respacing == "fast27" else [int(part) for part in respacing.split(",")]
    size, extra = divmod(total, len(sections))
    steps, start = set(), 0
    for index, count in enumerate(sections):
        length = size + (index < extra)
        if not 1 <= count <= length:
            raise InputError(f"cannot take {count} steps from a section of {length} in respacing {respacing!r}")
        stride = (length - 1) / (count - 1) if count > 1 else 1
        steps |= {start + round(stride * k) for k in range(count)}
        start += length
    if respacing == "fast27":
        steps = steps - {total - 1} | {total - 3}  # upstream: fewer artefacts from the noisiest steps
    return sorted(steps, reverse=True)


# Pipelines


class _Glide(DiffusionPipeline):
    """What both pipelines share: encoding captions once, and a denoising loop seeded image by image."""

    def __init__(self, unet, text_encoder, tokenizer, scheduler):
        super().__init__()
        self.register_modules(unet=unet, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler)

    def encode(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [n, length, width] and pooled projection [n, 4 * channels] of `captions`."""
        distinct = list(dict.fromkeys(captions))
        ids, mask = tokenize(self.tokenizer, distinct, self.text_encoder.config.length)
        hidden, pooled = self.text_encoder(ids.to(self.device), mask.to(self.device))
        index = torch.tensor([distinct.index(caption) for caption in captions], device=self.device)
        return hidden[index], pooled[index]

    def _captions(self, prompt: str | Sequence[str], num_images: int) -> list[str]:
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts or num_images < 1:
            raise InputError("give at least one prompt and num_images of at least 1")
        return [caption for caption in prompts for _ in range(num_images)]

    def _denoise(self, captions, seeds, steps, guidance_scale, condition=None, temperature=1.0, callback=None):
        if len(seeds) != len(captions):
            raise InputError(f"{len(captions)} images need as many seeds, got {len(seeds)}")
        side = self.unet.config.sample_size
        self.unet.to(memory_format=torch.channels_last)  # half as fast again on a processor, and no slower elsewhere
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        sample = torch.stack([torch.randn(3, side, side, generator=generator) for generator in generators])
        sample = (sample * temperature).to(self.device, self.unet.dtype)  # [n, 3, side, side]
        guided = guidance_scale != 1.0
        hidden, pooled = self.encode(captions + [""] * len(captions) if guided else captions)
        ancestral = isinstance(self.scheduler, DDPMScheduler)
        if ancestral and isinstance(steps, str):
            self.scheduler.set_timesteps(timesteps=respaced_timesteps(steps), device=self.device)
        else:
            self.scheduler.set_timesteps(_step_count(steps), device=self.device)
        learned = ancestral and self.scheduler.config.variance_type == "learned_range"
        options = {"generator": generators} if ancestral else {}
        for index, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            noisy = sample if condition is None else torch.cat([sample, condition], dim=1)
            output = self.unet(
                torch.cat([noisy, noisy]) if guided else noisy,
                timestep,
                encoder_hidden_states=hidden,
                class_labels=pooled,
            ).sample  # [n or 2n, 6, side, side]
            if guided:
                conditional, empty = output.chunk(2)
                mean = empty[:, :3] + guidance_scale * (conditional[:, :3] - empty[:, :3])
                output = torch.cat([mean, conditional[:, 3:]], dim=1)
            sample = self.scheduler.step(output if learned else output[:, :3], timestep, sample, **options).prev_sample
            if callback is not None:
                callback(index, int(timestep), sample)
        return sample.clamp(-1, 1)

    def _finish(self, sample: torch.Tensor, output_type: str):
        if output_type == "pt":
            return sample
        images = to_uint8(sample)
        if output_type == "np":
            return images
        if output_type == "pil":
            return self.numpy_to_pil(images.astype(np.float32) / 255)
        raise InputError(f"unknown output_type {output_type!r}: choose np, pil or pt")


class GlidePipeline(_Glide):
    """Text to image at the base model's side, by classifier-free guidance."""

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_images: int = 1,
        guidance_scale: float = 8.0,
        num_inference_steps: int | str = "100",
        seeds: Sequence[int] | None = None,
        output_type: str = "np",
        callback: Callable[[int, int, torch.Tensor], None] | None = None,
    ):
        """Sample `num_images` images a prompt.

        num_inference_steps: a number of steps, or upstream's respacing as text for the ancestral sampler.
        seeds: one an image (0, 1, 2 … by default); an image depends on its own seed alone, not on its batch.
        Returns uint8 [n, side, side, 3] ("np"), PIL images ("pil") or float [n, 3, side, side] in -1..1 ("pt").
        """
        captions = self._captions(prompt, num_images)
        seeds = range(len(captions)) if seeds is None else seeds
        sample = self._denoise(captions, list(seeds), num_inference_steps, guidance_scale, callback=callback)
        return self._finish(sample, output_type)


class GlideUpsamplePipeline(_Glide):
    """A base image and its caption to the upsampler's side."""

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str],
        images: np.ndarray | torch.Tensor,
        guidance_scale: float = 1.0,
        num_inference_steps: int | str = "fast27",
        seeds: Sequence[int] | None = None,
        temperature: float = 0.997,
        output_type: str = "np",
        callback: Callable[[int, int, torch.Tensor], None] | None = None,
    ):
        """Enlarge `images`, uint8 [n, h, w, 3] or float [n, 3, h, w] in -1..1, one prompt each (or one for all).

        temperature: factor on the first noise, upstream's upsample_temp. Returns as GlidePipeline does.
        """
        low = images if torch.is_tensor(images) else to_float(images)
        captions = self._captions(prompt, len(low) if isinstance(prompt, str) else 1)
        if len(captions) != len(low):
            raise InputError(f"{len(low)} images need one prompt each, got {len(captions)}")
        seeds = range(len(captions)) if seeds is None else seeds
        condition = enlarge(low.to(self.device, self.unet.dtype), self.unet.config.sample_size)
        sample = self._denoise(
            captions, list(seeds), num_inference_steps, guidance_scale, condition, temperature, callback
        )
        return self._finish(sample, output_type)


def _step_count(steps: int | str) -> int:
    if not str(steps).isdigit() or not 1 <= int(steps) <= 1000:
        raise InputError(
            f"{steps!r} sampling steps: give a number from 1 to 1000; a respacing such as 'fast27' is for "
            "the ancestral sampler"
        )
    return int(steps)


def enlarge(images: torch.Tensor, side: int) -> torch.Tensor:
    """Bilinear enlargement to [n, 3, side, side], upstream's conditioning of the upsampler."""
    return functional.interpolate(images, (side, side), mode="bilinear")


def to_uint8(sample: torch.Tensor) -> np.ndarray:
    """Float [n, 3, h, w] in -1..1 to uint8 [n, h, w, 3]."""
    return ((sample.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def to_float(images: np.ndarray) -> torch.Tensor:
    """Uint8 [n, h, w, 3] to float [n, 3, h, w] in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def build(preset: str, tokenizer: GPT2Tokenizer, prediction: str = "epsilon", seed: int = 0) -> _Glide:
    """An untrained pipeline of `preset` (a name in PRESETS), its weights drawn from `seed`."""
    if preset not in PRESETS:
        raise InputError(f"unknown GLIDE preset {preset!r}: choose one of {', '.join(PRESETS)}")
    sizes = PRESETS[preset]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet, text_encoder = unet_from(sizes), text_encoder_from(sizes, len(tokenizer))
    kind = GlidePipeline if sizes.in_channels == 3 else GlideUpsamplePipeline
    return kind(unet.eval(), text_encoder.eval(), tokenizer, scheduler_from(sizes, prediction))


def load(folder: str | Path, kind: type[_Glide] = GlidePipeline) -> _Glide:
    """Open a saved pipeline from a local folder; InputError where it is missing or incomplete."""
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"no GLIDE weights in {folder}: convert OpenAI's checkpoint with "
            f"'dermstudy convert CHECKPOINT.pt {folder}', or choose a profile that brings its own"
        )
    diffusers_logging.disable_progress_bar()
    try:
        pipeline = kind.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} is not a complete GLIDE folder: {' '.join(str(error).split())}") from error
    pipeline.unet.eval()
    pipeline.text_encoder.eval()
    return pipeline


def parameter_count(pipeline: _Glide) -> int:
    """Trainable numbers in the U-Net and its text encoder."""
    return sum(p.numel() for module in (pipeline.unet, pipeline.text_encoder) for p in module.parameters())
