"""What a sampler may be given beside captions, checked: an image with a mask of what stays, or images to begin from."""

from __future__ import annotations

import numpy as np
import torch

from dermstudy.diffusion.pixels import to_float
from dermstudy.files import InputError


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
