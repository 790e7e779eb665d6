"""What the page paints: checked wishes, images from text, repainted places, blends, each marked and with its provenance.

Source: Shavlokhova et al., section 4 (a web application that samples from text); Lugmayr et al. (arXiv 2201.09865) for
repainting a place by weights that were not trained to.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from scipy.ndimage import distance_transform_edt

from dermstudy import workspace
from dermstudy.data import images
from dermstudy.diffusion import glide, sample
from dermstudy.diffusion.architecture import cut_line
from dermstudy.files import InputError
from dermstudy_commands import weights_card

LONGEST = 200  # characters of a prompt
MOST = 8  # images at once
STEPS = (1, 100)
SCALES = (1.0, 10.0)
GUIDED_SCALES = (1.0, 3.0)  # of a model with a guide: above, its images lose their lesions
LARGEST = 5_000_000  # bytes of an image to repaint
MARK = "synthetic"
Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Wish:
    """What is asked for; `checked` turns a form's values into one."""

    prompt: str
    guidance_scale: float
    steps: int
    seed: int
    count: int


def checked(prompt, guidance_scale, steps, seed, count, scales: tuple[float, float] = SCALES) -> Wish:
    """A form's values as a Wish. InputError names the first one that is out of bounds, and the bounds.

    scales: the least and the largest guidance scale, a `Painter`'s own.
    """
    prompt = str(prompt or "").strip()
    if not prompt:
        raise InputError("The text is empty: name an entity or describe the image.")
    if len(prompt) > LONGEST:
        raise InputError(f"The text has {len(prompt)} characters: keep it to {LONGEST}.")
    bounds = {
        "guidance scale": (guidance_scale, *scales),
        "number of steps": (steps, *STEPS),
        "seed": (seed, 0, 2**32 - 1),
        "number of images": (count, 1, MOST),
    }
    for name, (value, low, high) in bounds.items():
        try:
            within = low <= float(value) <= high
        except (TypeError, ValueError):
            within = False
        if not within:
            raise InputError(f"The {name} is {value}: give a number from {low:g} to {high:g}.")
        if name != "guidance scale" and float(value) != int(value):
            raise InputError(f"The {name} is {value}: give a whole number.")
    return Wish(prompt, float(guidance_scale), int(steps), int(seed), int(count))


class Painter:
    """Base model and upsampler with what a page needs around them; one wish at a time, whoever asks.

    A wish is painted with the settings that the weights' card measured where it does not name its own.
    """

    def __init__(self, folder: str | Path, upsample_steps: int | str | None = None):
        folder = Path(folder)
        self.sampling = weights_card.describe(folder).sampling
        self.base, self.upsampler = sample.stages(folder / "base", folder / "upsampler", self.sampling["SAMPLER"])
        for model in (self.base, self.upsampler):
            model.set_progress_bar_config(disable=True)
        self.upsample_steps = upsample_steps or self.sampling["UPSAMPLE_STEPS"]
        self.name = weights_card.name_of(folder)
        self.busy = threading.Lock()

    @property
    def side(self) -> int:
        """The side of the images that come out."""
        return self.upsampler.side

    @property
    def scales(self) -> tuple[float, float]:
        """The least and the largest guidance scale that a visitor may ask for."""
        return SCALES if self.base.guide_unet is None else GUIDED_SCALES

    def read(self, prompt: str) -> str:
        """What the base model reads of a prompt."""
        return sample.read_by(self.base, [prompt])[0]

    def told(self, *prompts: str) -> str:
        """A line for each prompt that is not read to its end; "" where all are."""
        length = self.base.text_encoder.config.length
        return "\n\n".join(filter(None, (cut_line(self.base.tokenizer, prompt, length) for prompt in prompts)))

    def usual(self, prompt: str, seed: int) -> Wish:
        """One image of `prompt` at the settings that the card measured."""
        return Wish(prompt, float(self.sampling["GUIDANCE_SCALE"]), int(self.sampling["BASE_STEPS"]), seed, 1)

    def paint(self, wish: Wish, tell: Tell = lambda *_: None, blend: tuple[str, float] | None = None) -> np.ndarray:
        """Images of the wish's prompt, or of its blend with a second one: uint8 [count, side, side, 3]."""
        with self.busy:
            small = self._small(wish, tell, blend=blend)
            caption = wish.prompt if blend is None or blend[1] < 0.5 else blend[0]
            return self._enlarged(wish, small, caption, tell)

    def repaint(self, wish: Wish, image: np.ndarray, mask: np.ndarray, tell: Tell = lambda *_: None) -> np.ndarray:
        """The wish painted into the marked place of `image`, uint8 [count, side, side, 3]; the rest keeps its pixels.

        image uint8 [side, side, 3], mask [side, side], true where it is to be painted anew. InputError where the mask
        marks nothing, or everything.
        """
        mask = np.asarray(mask, bool)
        if not mask.any():
            raise InputError("Nothing is marked: draw over the place to repaint.")
        if mask.all():
            raise InputError("The whole image is marked: leave some skin, or use the first tab.")
        low = self.base.side
        small = np.asarray(Image.fromarray(image).resize((low, low), Image.Resampling.BICUBIC))
        # A small pixel is painted anew where any part of it is marked.
        keep = ~mask.reshape(low, self.side // low, low, self.side // low).any(axis=(1, 3))
        with self.busy:
            painted = self._small(wish, tell, inpaint_image=small[None], inpaint_keep=keep)
            return self._enlarged(wish, painted, wish.prompt, tell, known=(image, ~mask))

    def _small(self, wish: Wish, tell: Tell, **more) -> np.ndarray:
        return self.base(
            wish.prompt,
            num_images=wish.count,
            guidance_scale=wish.guidance_scale,
            guidance_interval=glide.interval_of(self.sampling["GUIDANCE_INTERVAL"]),
            num_inference_steps=wish.steps,
            seeds=self._seeds(wish),
            callback=lambda index, *_: tell(index + 1, wish.steps, "painting"),
            **more,
        )

    def _enlarged(self, wish: Wish, small: np.ndarray, caption: str, tell: Tell, known=None) -> np.ndarray:
        large = []
        for place, image in enumerate(small):
            tell(place, len(small), "enlarging")
            options = {} if known is None else {"inpaint_image": known[0][None], "inpaint_keep": known[1]}
            seeds = sample.upsample_seeds([self._seeds(wish)[place]])
            steps = self.upsample_steps
            large.append(self.upsampler(caption, image[None], num_inference_steps=steps, seeds=seeds, **options)[0])
        large = np.stack(large)
        return large if known is None else _joined(*known, large)

    def _seeds(self, wish: Wish) -> list[int]:
        return [(wish.seed + place) % 2**32 for place in range(wish.count)]


def _joined(image: np.ndarray, keep: np.ndarray, painted: np.ndarray, seam: float = 6.0) -> np.ndarray:
    """`painted` [n, side, side, 3] inside the mark, running into `image` over its last `seam` pixels; outside untouched."""
    share = np.clip(distance_transform_edt(~keep) / seam, 0, 1)[..., None]
    return np.round(share * painted + (1 - share) * image).astype(np.uint8)


def marked(image: np.ndarray) -> Image.Image:
    """`image`, uint8 [h, w, 3], with the word "synthetic" in its lower right corner, readable on any skin."""
    picture = Image.fromarray(image)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=max(10, image.shape[0] // 16))
    left, top, right, bottom = draw.textbbox((0, 0), MARK, font=font)
    place = (picture.width - right - 6, picture.height - bottom - 6)
    draw.rectangle((place[0] - 4, place[1] + top - 3, picture.width, picture.height), fill=(0, 0, 0))
    draw.text(place, MARK, font=font, fill=(255, 255, 255))
    return picture


def png(image: np.ndarray, model: str, wish: Wish, place: int, **more) -> bytes:
    """A marked PNG whose text says what made it: model, prompt, seed, sampler, version, licence; `more` is added."""
    text = PngInfo()
    notes = {
        "Software": workspace.version_line("torch", "diffusers"),
        "Description": "synthetic dermatoscopic image; not for diagnosis or any clinical use",
        "model": model,
        "prompt": wish.prompt,
        "seed": (wish.seed + place) % 2**32,
        "guidance_scale": wish.guidance_scale,
        "steps": wish.steps,
    }
    for name, value in (notes | more).items():
        text.add_itxt(name, str(value))
    stream = io.BytesIO()
    marked(image).save(stream, format="PNG", pnginfo=text)
    return stream.getvalue()


def opened(content: bytes, side: int) -> tuple[np.ndarray, str]:
    """An uploaded image as uint8 [side, side, 3], its centre square, and a sentence on how it was converted, or "".

    InputError where it cannot be read truly, or is too large.
    """
    if len(content) > LARGEST:
        raise InputError(f"The file has {len(content) / 1e6:.1f} MB: keep it to {LARGEST / 1e6:g}.")
    image, told = images.converted(io.BytesIO(content), "The file")
    return images.square(image, side), f"Converted to upright 8-bit sRGB: {', '.join(told)}." if told else ""
