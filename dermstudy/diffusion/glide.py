"""GLIDE's samplers and its two pipelines: text to image with classifier-free guidance, and 64 to 256 pixels.

Sources: Nichol et al., "GLIDE" (arXiv 2112.10741) and the openai/glide-text2im release; Ho and Salimans
(arXiv 2207.12598) for classifier-free guidance; Lu et al. (arXiv 2211.01095) for DPM-Solver++, whose first order is
DDIM (Song et al., arXiv 2010.02502).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers import DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from diffusers.utils import logging as diffusers_logging
from transformers import GPT2Tokenizer

from dermstudy.diffusion import architecture
from dermstudy.diffusion.architecture import PRESETS, Preset, text_encoder_from, tokenize, unet_from
from dermstudy.diffusion.pixels import enlarge, to_float, to_uint8
from dermstudy.diffusion.schedules import respaced_timesteps, scheduler_from
from dermstudy.files import InputError, code_hash
from dermstudy.processor import bf16_products

# Samplers


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


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

    def _denoise(
        self,
        captions: list[str],
        seeds: list[int],
        steps: int | str,
        guidance_scale: float,
        negative: str = "",
        low: torch.Tensor | None = None,
        known: tuple[torch.Tensor, torch.Tensor] | None = None,
        temperature: float = 1.0,
        callback: Callable[[int, int, torch.Tensor], None] | None = None,
        blend: tuple[str, float] | None = None,
    ) -> torch.Tensor:
        """Float32 [n, 3, side, side] in -1..1. low: the enlarged small image; known: an image and where it stays."""
        if len(seeds) != len(captions):
            raise InputError(f"{len(captions)} images need as many seeds, got {len(seeds)}")
        side, count = self.unet.config.sample_size, len(captions)
        self.unet.to(memory_format=torch.channels_last)  # half as fast again on a processor, and no slower elsewhere
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        sample = torch.stack([torch.randn(3, side, side, generator=generator) for generator in generators])
        sample = (sample * temperature).to(self.device)  # float32 whatever the network's precision
        guided = guidance_scale != 1.0
        second, share = blend or ("", 0.0)
        shares = [1 - share, share] if blend else [1.0]
        texts = captions + [second] * count * bool(blend) + [negative] * count * guided
        hidden, pooled = self.encode(texts)
        condition = [part for part in (*self._inpainting(known, sample), low) if part is not None]
        self._set_timesteps(steps)
        ancestral = isinstance(self.scheduler, DDPMScheduler)
        learned = ancestral and self.scheduler.config.variance_type == "learned_range"
        options = {"generator": generators} if ancestral else {}
        for index, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            entered = torch.cat([sample, *condition], dim=1).to(self.unet.dtype)
            output = self.unet(
                torch.cat([entered] * (len(texts) // count)),
                timestep,
                encoder_hidden_states=hidden,
                class_labels=pooled,
            ).sample.float()  # [n a text, 6, side, side]: the prediction, and where the variance lies in its range
            answers = output.chunk(len(texts) // count)
            output = sum(part * answer for part, answer in zip(shares, answers, strict=False))
            if guided:
                negated = answers[-1][:, :3]
                mean = negated + guidance_scale * (output[:, :3] - negated)
                output = torch.cat([mean, output[:, 3:]], dim=1)
            if known is not None:
                output = torch.cat([self._as_known(output[:, :3], sample, timestep, *known), output[:, 3:]], dim=1)
            sample = self.scheduler.step(output if learned else output[:, :3], timestep, sample, **options).prev_sample
            if callback is not None:
                callback(index, int(timestep), sample)
        return sample.clamp(-1, 1)

    def _set_timesteps(self, steps: int | str) -> None:
        if isinstance(steps, str) and not (steps.isdigit() and isinstance(self.scheduler, DPMSolverMultistepScheduler)):
            self.scheduler.set_timesteps(timesteps=respaced_timesteps(steps), device=self.device)
        elif 1 <= int(steps) <= 1000:
            self.scheduler.set_timesteps(int(steps), device=self.device)
        else:
            raise InputError(f"{steps} sampling steps: give a number from 1 to 1000")

    def _inpainting(self, known, sample: torch.Tensor) -> list[torch.Tensor]:
        """The extra input of weights that were trained to inpaint: the known pixels and their mask; zeros without."""
        inpaints = self.unet.config.in_channels in (7, 10)
        if not inpaints:
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

    def _known(self, image, keep, count: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The image and the mask of what stays as tensors [n, 3 or 1, side, side]; None where nothing is given."""
        if image is None and keep is None:
            return None
        if image is None or keep is None:
            raise InputError("inpainting needs both the image and the mask of what stays")
        side = self.unet.config.sample_size
        image = image if torch.is_tensor(image) else to_float(image)
        keep = torch.as_tensor(np.asarray(keep, bool))
        if len(image) == 1:
            image = image.expand(count, *image.shape[1:])
        if keep.shape[-2:] == (side, side) and (keep.ndim == 2 or len(keep) == 1):
            keep = keep.expand(count, side, side)
        if image.shape != (count, 3, side, side) or keep.shape != (count, side, side):
            raise InputError(
                f"inpainting {count} images at {side} x {side} needs as many images and masks of that size, got "
                f"{tuple(image.shape)} and {tuple(keep.shape)}"
            )
        return image.to(self.device, torch.float32), keep[:, None].to(self.device)

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
        negative_prompt: str = "",
        inpaint_image: np.ndarray | torch.Tensor | None = None,
        inpaint_keep: np.ndarray | torch.Tensor | None = None,
        output_type: str = "np",
        callback: Callable[[int, int, torch.Tensor], None] | None = None,
        blend: tuple[str, float] | None = None,
    ):
        """Sample `num_images` images a prompt.

        num_inference_steps: a number of steps, or upstream's respacing as text ("25,25,50", "fast27").
        seeds: one an image (0, 1, 2 … by default); an image depends on its own seed alone, not on its batch
            (in fp32, to half of one of 256 levels: kernels add up in another order for another batch).
        negative_prompt: what guidance leads away from, the empty caption by default.
        inpaint_image, inpaint_keep: uint8 [n, side, side, 3] and a mask [n, side, side], true where the image stays.
        blend: a second prompt and its share (0..1): guidance leads towards the weighted mean of what both ask for, a
            composition after Liu et al. (arXiv 2206.01714).
        Returns uint8 [n, side, side, 3] ("np"), PIL images ("pil") or float [n, 3, side, side] in -1..1 ("pt").
        """
        captions = self._captions(prompt, num_images)
        seeds = range(len(captions)) if seeds is None else seeds
        known = self._known(inpaint_image, inpaint_keep, len(captions))
        if blend is not None and not 0 <= blend[1] <= 1:
            raise InputError(f"a share of {blend[1]} in the blend: give a number from 0 to 1")
        sample = self._denoise(
            captions,
            list(seeds),
            num_inference_steps,
            guidance_scale,
            negative_prompt,
            None,
            known,
            callback=callback,
            blend=blend,
        )
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
    ):
        """Enlarge `images`, uint8 [n, h, w, 3] or float [n, 3, h, w] in -1..1, one prompt each (or one for all).

        temperature: factor on the first noise, upstream's upsample_temp. inpaint_image and inpaint_keep, at the output's
        side, as in GlidePipeline; so is what is returned.
        """
        low = images if torch.is_tensor(images) else to_float(images)
        captions = self._captions(prompt, len(low) if isinstance(prompt, str) else 1)
        if len(captions) != len(low):
            raise InputError(f"{len(low)} images need one prompt each, got {len(captions)}")
        seeds = range(len(captions)) if seeds is None else seeds
        condition = enlarge(low.to(self.device, torch.float32), self.unet.config.sample_size)
        known = self._known(inpaint_image, inpaint_keep, len(captions))
        sample = self._denoise(
            captions, list(seeds), num_inference_steps, guidance_scale, "", condition, known, temperature, callback
        )
        return self._finish(sample, output_type)


def build(
    preset: str | Preset,
    tokenizer: GPT2Tokenizer,
    prediction: str = "epsilon",
    seed: int = 0,
    side: int | None = None,
) -> _Glide:
    """An untrained pipeline of `preset` (a name in PRESETS, or sizes), its weights drawn from `seed`.

    side: pixels of its images in place of the preset's; the same weights, with attention at the same levels. InputError
    for an unknown preset and for a side that the levels do not divide.
    """
    if isinstance(preset, str) and preset not in PRESETS:
        raise InputError(f"unknown GLIDE preset {preset!r}: choose one of {', '.join(PRESETS)}")
    sizes = PRESETS[preset] if isinstance(preset, str) else preset
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet, text_encoder = unet_from(sizes), text_encoder_from(sizes, len(tokenizer))
    if side is not None:
        check_side(unet, side)
        unet.register_to_config(sample_size=side)
    kind = GlidePipeline if sizes.in_channels == 3 else GlideUpsamplePipeline
    return kind(unet.eval(), text_encoder.eval(), tokenizer, scheduler_from(sizes, prediction))


def check_side(unet, side: int, what: str = "a side") -> None:
    """InputError where the levels of `unet` cannot halve images of side x side pixels evenly."""
    levels = len(unet.config.block_out_channels)
    least = 2 ** (levels - 1)
    if not isinstance(side, int) or side < least or side % least:
        near = max(1, round(side / least)) * least
        raise InputError(
            f"{what} of {side}: the {levels} levels of this U-Net need a multiple of {least}, such as {near}"
        )


def at_side(pipeline: _Glide, side: int) -> None:
    """Let `pipeline` train and paint at side x side pixels with the weights that it has.

    Convolutions and attention take any side that the levels halve evenly, and attention stays at its levels. Prints a
    line where the weights were trained at another side: what they know of an image holds at that one. InputError for a
    side that the levels do not divide.
    """
    own = pipeline.unet.config.sample_size
    check_side(pipeline.unet, side)
    if side != own:
        pipeline.unet.register_to_config(sample_size=side)
        print(
            f"at {side} x {side} with weights that were trained at {own} x {own}: every layer takes that side, but how "
            "large things are has to be learned anew"
        )


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
    return pipeline.to(PartialState().device)


def cast(pipeline: _Glide, precision: str) -> None:
    """Let both networks compute in `precision`, "fp32" or "bf16"; InputError for another.

    A processor without bf16 products computes in fp32 whatever is asked.
    """
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}: choose {' or '.join(PRECISIONS)}")
    if pipeline.device.type == "cpu" and not bf16_products():
        precision = "fp32"
    for module in (pipeline.unet, pipeline.text_encoder):
        torch.nn.Module.to(module, PRECISIONS[precision])


def identity(pipeline: _Glide) -> str:
    """SHA-256 over all that an image of `pipeline` depends on but its prompt, seed and settings.

    That is the weights in their precision, the networks' sizes, the tokens, the sampler, and this code.
    """
    digest = hashlib.sha256(code_hash(architecture, sys.modules[__name__]).encode())
    for part in ("unet", "text_encoder"):
        module = getattr(pipeline, part)
        sizes = {name: value for name, value in module.config.items() if not name.startswith("_")}  # not where it lies
        digest.update(json.dumps(sizes, sort_keys=True).encode())
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    content = json.loads(pipeline.tokenizer.backend_tokenizer.to_str())
    digest.update(json.dumps([content["model"], content["added_tokens"]], sort_keys=True).encode())
    scheduler = type(pipeline.scheduler)
    own = {name: pipeline.scheduler.config.get(name) for name in inspect.signature(scheduler).parameters}
    digest.update(f"{scheduler.__name__} {sorted(own.items(), key=str)}".encode())
    return digest.hexdigest()


def parameter_count(pipeline: _Glide) -> int:
    """Trainable numbers in the U-Net and its text encoder."""
    return sum(p.numel() for module in (pipeline.unet, pipeline.text_encoder) for p in module.parameters())
