"""GLIDE's samplers and its two pipelines: text to image under guidance, and 64 to 256 pixels.

Sources: Nichol et al., "GLIDE" (arXiv 2112.10741) and the openai/glide-text2im release; Lu et al. (arXiv 2211.01095)
for DPM-Solver++, whose first order is DDIM (Song et al., arXiv 2010.02502).
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers import DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from diffusers.utils import logging as diffusers_logging
from transformers import GPT2Tokenizer

from dermstudy.diffusion import guidance
from dermstudy.diffusion.architecture import PRESETS, Preset, text_encoder_from, tokenize, unet_from
from dermstudy.diffusion.checkpoints import weights_hash
from dermstudy.diffusion.folded import (
    FOLDED_PRESETS,
    FoldedPreset,
    enlarge,
    fold,
    folded_pixels,
    folded_schedule,
    folded_unet,
    sigmas_of,
    to_float,
    to_uint8,
)
from dermstudy.diffusion.schedules import respaced_timesteps, scheduler_from
from dermstudy.diffusion.weights import check_loaded, check_stage
from dermstudy.files import InputError
from dermstudy.processor import bf16_products, exact_roots
from dermstudy.source import code_hash
from dermstudy.weight_files import check_finite, check_shipped

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
EVERYWHERE = (0.0, float("inf"))
BROKEN = "the weights are damaged, or do not bear these settings: lower the guidance scale, or use fp32"


def interval_of(bounds: Sequence[float]) -> tuple[float, float]:
    """A guidance interval from a parameter: its two bounds, or everywhere where it is empty; InputError for another."""
    if not bounds:
        return EVERYWHERE
    if len(bounds) != 2 or not 0 <= bounds[0] < bounds[1]:
        raise InputError(f"a guidance interval of {list(bounds)}: give the least and the largest noise, or nothing")
    return float(bounds[0]), float(bounds[1])


class _Glide(DiffusionPipeline):
    """What both pipelines share: encoding captions once, and a denoising loop seeded image by image.

    pixels: folded.FoldedPixels where the U-Net diffuses folded pixels; None where it diffuses pixels, as OpenAI's do.
    guide_unet, guide_text_encoder: a worse network with the same tokens, of less training or smaller: guidance leads away
    from its answer to the same caption, in place of the own answer to the empty one.
    """

    _optional_components = ["pixels", "guide_unet", "guide_text_encoder"]

    def __init__(self, unet, text_encoder, tokenizer, scheduler, pixels=None, guide_unet=None, guide_text_encoder=None):
        super().__init__()
        self.register_modules(
            unet=unet, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler, pixels=pixels,
            guide_unet=guide_unet, guide_text_encoder=guide_text_encoder,
        )  # fmt: skip

    @property
    def networks(self) -> list[torch.nn.Module]:
        """The U-Nets and text encoders that are there: the guide's last."""
        named = (self.unet, self.text_encoder, self.guide_unet, self.guide_text_encoder)
        return [module for module in named if module is not None]

    @property
    def side(self) -> int:
        """The side of the images that come out."""
        return self.pixels.config.side if self.pixels else self.unet.config.sample_size

    def encode(self, captions: Sequence[str], by=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [n, length, width] and pooled projection [n, 4 * channels] of `captions`, by its text encoder."""
        by, distinct = by or self.text_encoder, list(dict.fromkeys(captions))
        ids, mask = tokenize(self.tokenizer, distinct, by.config.length)
        hidden, pooled = by(ids.to(self.device), mask.to(self.device))
        index = torch.tensor([distinct.index(caption) for caption in captions], device=self.device)
        return hidden[index], pooled[index]

    def _captions(self, prompt: str | Sequence[str], num_images: int) -> list[str]:
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts or num_images < 1:
            raise InputError("give at least one prompt and num_images of at least 1")
        return [caption for caption in prompts for _ in range(num_images)]

    def _denoise(
        self, captions: list[str], seeds, steps: int | str, guidance_scale: float, inpaint_image, inpaint_keep, begin, *,
        negative: str = "", low: torch.Tensor | None = None, temperature: float = 1.0, callback=None,
        blend: tuple[str, float] | None = None, guidance_interval: tuple[float, float] = EVERYWHERE,
    ) -> torch.Tensor:  # fmt: skip
        """Float32 [n, 3, side, side], in -1..1 but for what `_finish` cuts; low: the small image, the others as in the calls."""
        pixels, count = self.pixels, len(captions)
        seeds = range(count) if seeds is None else seeds
        if len(seeds) != count:
            raise InputError(f"{count} images need as many seeds, got {len(seeds)}")
        known = guidance.known_pixels(inpaint_image, inpaint_keep, count, self.side, self.device)
        begin = guidance.begun_from(begin, count, self.side, self.device)
        for unet in filter(None, (self.unet, self.guide_unet)):
            unet.to(memory_format=torch.channels_last)  # half as fast again on a processor, and no slower elsewhere
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        shape = (pixels.channels if pixels else 3, *[self.unet.config.sample_size] * 2)
        sample = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        sample = (sample * temperature).to(self.device)  # float32 whatever the network's precision
        shares = [1 - blend[1], blend[1]] if blend else [1.0]
        asked = captions + [blend[0]] * count if blend else captions
        led = guidance_scale != 1.0 and self.guide_unet is not None and not negative
        away = [negative] * count * (guidance_scale != 1.0 and not led)
        guide = self.encode(asked, self.guide_text_encoder) if led else None
        texts = guidance.Texts(*self.encode(asked + away), shares, guide)
        if pixels and known is not None:
            known = pixels.encode(known[0], low), fold(known[1].float(), pixels.config.fold).amin(1, keepdim=True) > 0
        seen = pixels.condition(low) if pixels and low is not None else low
        condition = [part for part in (*self._inpainting(known, sample), seen) if part is not None]
        self._set_timesteps(steps, begin)
        if begin is not None:
            clean = pixels.encode(begin[0], low) if pixels else begin[0]
            sample = self.scheduler.add_noise(clean.to(sample), sample, self.scheduler.timesteps[:1])
        ancestral, data = isinstance(self.scheduler, DDPMScheduler), sample.shape[1]
        learned = ancestral and self.scheduler.config.variance_type == "learned_range"
        options = {"generator": generators} if ancestral else {}
        for index, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            guides = guidance_interval[0] <= sigmas_of(self.scheduler, timestep) <= guidance_interval[1]
            entered = torch.cat([sample, *condition], dim=1).to(self.unet.dtype)
            output = guidance.answer(self, entered, data, timestep, texts, guidance_scale if guides else 1.0)
            mean, rest = output[:, :data], output[:, data:]
            if pixels:
                mean = pixels.within_range(mean, sample, self.scheduler.alphas_cumprod.to(sample)[timestep], low)
            if known is not None:
                mean = self._as_known(mean, sample, timestep, *known)
            output = torch.cat([mean, rest], dim=1) if learned else mean
            sample = self.scheduler.step(output, timestep, sample, **options).prev_sample
            if callback is not None:
                callback(index, int(timestep), sample)
        return pixels.decode(sample, low) if pixels else sample

    def _set_timesteps(self, steps: int | str, begin: tuple[torch.Tensor, float] | None = None) -> None:
        if begin is not None:
            noise = sigmas_of(self.scheduler, torch.arange(self.scheduler.config.num_train_timesteps))
            last = int((noise - begin[1]).abs().argmin())
            places = np.linspace(0, last, int(steps) + 1).round()[:0:-1].astype(int)
            self.scheduler.set_timesteps(timesteps=list(dict.fromkeys(places.tolist())), device=self.device)
        elif isinstance(steps, str) and not (
            steps.isdigit() and isinstance(self.scheduler, DPMSolverMultistepScheduler)
        ):
            self.scheduler.set_timesteps(timesteps=respaced_timesteps(steps), device=self.device)
        elif 1 <= int(steps) <= 1000:
            self.scheduler.set_timesteps(int(steps), device=self.device)
        else:
            raise InputError(f"{steps} sampling steps: give a number from 1 to 1000")

    def _inpainting(self, known, sample: torch.Tensor) -> list[torch.Tensor]:
        """The extra input of weights that were trained to inpaint: the known pixels and their mask; zeros without."""
        if self.unet.config.in_channels not in (7, 10):
            return []
        if known is None:
            return [torch.zeros_like(sample), torch.zeros_like(sample[:, :1])]
        image, keep = known
        return [image * keep, keep.to(sample.dtype)]

    def _as_known(self, output, sample, timestep, image, keep) -> torch.Tensor:
        """The prediction changed where the image is known, so that the x0 that follows from it is that image."""
        signal = self.scheduler.alphas_cumprod.to(sample.device)[timestep]
        noise = (sample - signal.sqrt() * image) / (1 - signal).sqrt()
        if self.scheduler.config.prediction_type == "v_prediction":
            noise = signal.sqrt() * noise - (1 - signal).sqrt() * image
        return torch.where(keep, noise, output)

    def _finish(self, sample: torch.Tensor, output_type: str):
        check_finite({"the sample": sample}, "no image came out", BROKEN)
        sample = sample.clamp(-1, 1)
        if output_type not in ("np", "pt"):
            raise InputError(f"unknown output_type {output_type!r}: choose np or pt")
        return sample if output_type == "pt" else to_uint8(sample)


class GlidePipeline(_Glide):
    """Text to image at the base model's side, by classifier-free guidance or, where it has one, by its guide."""

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_images: int = 1,
        guidance_scale: float = 8.0,
        num_inference_steps: int | str = "100",
        seeds: Sequence[int] | None = None,
        negative_prompt: str = "",
        inpaint_image: np.ndarray | torch.Tensor | None = None,
        inpaint_keep: np.ndarray | torch.Tensor | None = None,
        output_type: str = "np",
        callback: Callable[[int, int, torch.Tensor], None] | None = None,
        blend: tuple[str, float] | None = None,
        guidance_interval: tuple[float, float] = EVERYWHERE,
        begin: tuple[np.ndarray, float] | None = None,
    ):
        """Sample `num_images` images a prompt.

        num_inference_steps: a number of steps, or upstream's respacing as text ("25,25,50", "fast27").
        seeds: one an image (0, 1, 2 … by default); an image depends on its own seed alone, not on its batch
            (in fp32, to half of one of 256 levels: kernels add up in another order for another batch).
        negative_prompt: what guidance leads away from; by default the guide's answer, and without a guide the empty caption.
        inpaint_image, inpaint_keep: uint8 [n, side, side, 3] and a mask [n, side, side], true where the image stays.
        blend: a second prompt and its share (0..1): guidance leads towards the weighted mean of what both ask for, a
            composition after Liu et al. (arXiv 2206.01714).
        guidance_interval: the least and the largest noise over signal at which guidance acts (Kynkäänniemi et al., arXiv
            2404.07724); where it does not, what it leads away from is not computed.
        begin: uint8 [n, side, side, 3] and the noise over signal that they are given before sampling goes on from there,
            in place of noise alone: variations of an image (Meng et al., arXiv 2108.01073).
        Returns uint8 [n, side, side, 3] ("np") or float [n, 3, side, side] in -1..1 ("pt").
        """
        if blend is not None and not 0 <= blend[1] <= 1:
            raise InputError(f"a share of {blend[1]} in the blend: give a number from 0 to 1")
        sample = self._denoise(
            self._captions(prompt, num_images), seeds, num_inference_steps, guidance_scale, inpaint_image, inpaint_keep, begin,
            negative=negative_prompt, callback=callback, blend=blend, guidance_interval=guidance_interval,
        )  # fmt: skip
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
        inpaint_image: np.ndarray | torch.Tensor | None = None,
        inpaint_keep: np.ndarray | torch.Tensor | None = None,
        output_type: str = "np",
        callback: Callable[[int, int, torch.Tensor], None] | None = None,
        begin: tuple[np.ndarray, float] | None = None,
    ):
        """Enlarge `images`, uint8 [n, h, w, 3] or float [n, 3, h, w] in -1..1, one prompt each (or one for all).

        temperature: factor on the first noise, upstream's upsample_temp. inpaint_image, inpaint_keep and begin, at the
        output's side, as in GlidePipeline; so is what is returned.
        """
        low = images if torch.is_tensor(images) else to_float(images)
        captions = self._captions(prompt, len(low) if isinstance(prompt, str) else 1)
        if len(captions) != len(low):
            raise InputError(f"{len(low)} images need one prompt each, got {len(captions)}")
        low = low.to(self.device, torch.float32)
        sample = self._denoise(
            captions, seeds, num_inference_steps, guidance_scale, inpaint_image, inpaint_keep, begin,
            low=low if self.pixels else enlarge(low, self.side), temperature=temperature, callback=callback,
        )  # fmt: skip
        return self._finish(sample, output_type)


def build(
    preset: str | Preset | FoldedPreset, tokenizer: GPT2Tokenizer, prediction: str = "epsilon", seed: int = 0,
    side: int | None = None,
) -> _Glide:  # fmt: skip
    """An untrained pipeline of `preset` (a name in PRESETS or FOLDED_PRESETS, or sizes), its weights drawn from `seed`.

    prediction: "epsilon" or "v_prediction"; folded networks always predict the velocity.
    side: pixels of its images in place of the preset's; the same weights, with attention at the same levels. InputError
    for an unknown preset and for a side that the levels do not divide.
    """
    exact_roots()
    known = PRESETS | FOLDED_PRESETS
    if isinstance(preset, str) and preset not in known:
        raise InputError(f"unknown GLIDE preset {preset!r}: choose one of {', '.join(known)}")
    sizes = known[preset] if isinstance(preset, str) else preset
    folded = isinstance(sizes, FoldedPreset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet, text_encoder = (folded_unet if folded else unet_from)(sizes), text_encoder_from(sizes, len(tokenizer))
    schedule, pixels = (
        (folded_schedule(sizes), folded_pixels(sizes)) if folded else (scheduler_from(sizes, prediction), None)
    )
    upsamples = sizes.low_side > 0 if folded else sizes.in_channels != 3
    kind = GlideUpsamplePipeline if upsamples else GlidePipeline
    pipeline = kind(unet.eval(), text_encoder.eval(), tokenizer, schedule, pixels)
    if side is not None and side != sizes.side:
        guidance.set_side(pipeline, side)
    return pipeline


def load(folder: str | Path, kind: type[_Glide] = GlidePipeline, with_guide: bool = True) -> _Glide:
    """Open a saved pipeline from a local folder, with the guide that it may bring; InputError where it is incomplete."""
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"no GLIDE weights in {folder}: convert OpenAI's checkpoint with "
            f"'dermstudy convert CHECKPOINT.pt {folder}', or choose a profile that brings its own"
        )
    check_shipped(folder)
    check_stage(folder, kind.__name__)
    diffusers_logging.disable_progress_bar()
    exact_roots()  # before a scheduler is made
    try:
        pipeline = kind.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{folder} is not a complete GLIDE folder: {' '.join(str(error).split())}") from error
    if not with_guide:
        pipeline.register_modules(guide_unet=None, guide_text_encoder=None)
    check_loaded(pipeline, folder)
    for module in pipeline.networks:
        module.eval()
    return pipeline.to(PartialState().device)


def cast(pipeline: _Glide, precision: str) -> None:
    """Let the networks compute in `precision`, "fp32" or "bf16"; InputError for another.

    A processor without bf16 products computes in fp32 whatever is asked.
    """
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}: choose {' or '.join(PRECISIONS)}")
    if pipeline.device.type == "cpu" and not bf16_products():
        precision = "fp32"
    for module in pipeline.networks:
        torch.nn.Module.to(module, PRECISIONS[precision])


def parameter_count(pipeline: _Glide) -> int:
    """Trainable numbers in the U-Net and its text encoder."""
    return pipeline.unet.num_parameters() + pipeline.text_encoder.num_parameters()


def identity(pipeline: _Glide) -> str:
    """SHA-256 over all that an image of `pipeline` depends on but its prompt, seed and settings.

    That is the weights in their precision, the networks' sizes, the tokens, the sampler, and this code.
    """
    digest = hashlib.sha256(code_hash(__name__).encode())
    names = ("unet", "text_encoder", "pixels", "guide_unet", "guide_text_encoder")
    parts = {name: getattr(pipeline, name) for name in names if getattr(pipeline, name)}
    digest.update(weights_hash(parts).encode())
    for module in parts.values():
        sizes = {name: value for name, value in module.config.items() if not name.startswith("_")}  # not where it lies
        digest.update(json.dumps(sizes, sort_keys=True).encode())
    content = json.loads(pipeline.tokenizer.backend_tokenizer.to_str())
    digest.update(json.dumps([content["model"], content["added_tokens"]], sort_keys=True).encode())
    scheduler = type(pipeline.scheduler)
    own = {name: pipeline.scheduler.config.get(name) for name in inspect.signature(scheduler).parameters}
    digest.update(f"{scheduler.__name__} {sorted(own.items(), key=str)}".encode())
    return digest.hexdigest()
