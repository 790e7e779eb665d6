"""What a pipeline is given beside captions and seeds, checked: known pixels, images to begin from, its side; and guidance.

Sources: Ho and Salimans (arXiv 2207.12598) for classifier-free guidance, where the worse answer is the own one to the empty
caption; Karras et al., "Guiding a diffusion model with a bad version of itself" (arXiv 2406.02507), where it is the guide's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dermstudy.diffusion.folded import to_float
from dermstudy.files import InputError


@dataclass(frozen=True)
class Texts:
    """What captions say to the networks: hidden states and pooled vectors of n captions a share.

    After the shares come those of what guidance leads away from, where that is a caption; guide: hidden states and pooled
    vectors of the shares for the guide, where it is that.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor
    shares: list[float]
    guide: tuple[torch.Tensor, torch.Tensor] | None = None


def answer(pipeline, entered: torch.Tensor, data: int, timestep, texts: Texts, scale: float) -> torch.Tensor:
    """What the U-Net says of `entered` [n, c, h, w], its first `data` channels led away from the worse answer.

    scale: of guidance, 1 for none. Channels after the first `data` say where the variance lies in its range.
    """
    time = pipeline.pixels.times(pipeline.scheduler, timestep) if pipeline.pixels else timestep
    captions = len(texts.shares) + (scale != 1.0 and not texts.guide)
    answers = _answers(pipeline.unet, entered, time, texts.hidden, texts.pooled, captions)
    output = _mean(texts.shares, answers)
    if scale == 1.0:
        return output
    worse = answers[-1]
    if texts.guide:
        guides = _answers(pipeline.guide_unet, entered, time, *texts.guide, captions)
        worse = _mean(texts.shares, guides)
    worse = worse[:, :data]
    return torch.cat([worse + scale * (output[:, :data] - worse), output[:, data:]], dim=1)


def _answers(unet, entered, time, hidden, pooled, captions: int) -> Sequence[torch.Tensor]:
    """What `unet` says of `entered` [n, c, h, w] to the first `captions` of each image."""
    output = unet(
        torch.cat([entered] * captions),
        time,
        encoder_hidden_states=hidden[: captions * len(entered)],
        class_labels=pooled[: captions * len(entered)],
    )
    return output.sample.float().chunk(captions)


def _mean(shares: Sequence[float], answers: Sequence[torch.Tensor]) -> torch.Tensor:
    """The first answers, one a share, weighted by the shares."""
    return sum(part * one for part, one in zip(shares, answers, strict=False))


def known_pixels(image, keep, count: int, side: int, device) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The image and the mask of what stays as tensors [count, 3 or 1, side, side]; None where nothing is given.

    image: uint8 [n, side, side, 3] or float [n, 3, side, side] in -1..1; keep: booleans; one of either serves for all.
    InputError where one of the two is missing, or they do not fit.
    """
    if image is None and keep is None:
        return None
    if image is None or keep is None:
        raise InputError("inpainting needs both the image and the mask of what stays")
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
    return image.to(device, torch.float32), keep[:, None].to(device)


def begun_from(begin: tuple[np.ndarray, float] | None, count: int, side: int, device):
    """The images to begin from as a tensor [count, 3, side, side] and their noise; None where nothing is given.

    begin: uint8 [count, side, side, 3] and noise over signal. InputError where they do not fit.
    """
    if begin is None:
        return None
    images, noise = begin
    if np.shape(images) != (count, side, side, 3) or not noise > 0:
        raise InputError(
            f"beginning from images takes uint8 [{count}, {side}, {side}, 3] and a noise above 0, got "
            f"{list(np.shape(images))} and {noise}"
        )
    return to_float(images).to(device), float(noise)


def set_side(pipeline, side: int) -> None:
    """Let `pipeline` make images of side x side pixels; InputError where its levels cannot halve them evenly."""
    levels, fold = len(pipeline.unet.config.block_out_channels), pipeline.pixels.config.fold if pipeline.pixels else 1
    least = fold * 2 ** (levels - 1)
    if not isinstance(side, int) or side < least or side % least:
        near = max(1, round(side / least)) * least
        raise InputError(
            f"a side of {side}: the {levels} levels of this U-Net need a multiple of {least}, such as {near}"
        )
    pipeline.unet.register_to_config(sample_size=side // fold)
    if pipeline.pixels:
        pipeline.pixels.register_to_config(side=side)


def at_side(pipeline, side: int) -> None:
    """Let `pipeline` train and paint at side x side pixels with the weights that it has.

    Convolutions and attention take any side that the levels halve evenly, and attention stays at its levels. Prints a
    line where the weights were trained at another side: what they know of an image holds at that one. InputError for a
    side that the levels do not divide.
    """
    before = pipeline.side
    set_side(pipeline, side)
    if side != before:
        print(
            f"at {side} x {side} with weights that were trained at {before} x {before}: every layer takes that side, but how "
            "large things are has to be learned anew"
        )
