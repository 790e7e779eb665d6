"""What each training step shows the model: images drawn and augmented, noise, timesteps, the enlarged small image.

Every random number is a function of the seed, the step and the place in the batch, so that a resumed run repeats an
unbroken one. `config` is finetune's TrainingConfig throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dermstudy.diffusion.pixels import enlarge, reduce, to_float


@dataclass
class Batch:
    """What one step trains on: clean data and noise [n, c, h, w], timesteps [n], what an upsampler sees beside them.

    The data are pixels in -1..1 and the condition is the enlarged small image, or both are those of folded pixels.
    """

    pixels: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    low: torch.Tensor | None = None
    dropped: torch.Tensor | None = None  # whose caption is left out
    rows: torch.Tensor | None = None  # which caption

    def part(self, chosen: slice, device: torch.device) -> Batch:
        """Some of the images, moved to `device`."""
        tensors = (self.pixels, self.noise, self.timesteps, self.low)
        return Batch(*(tensor if tensor is None else tensor[chosen].to(device) for tensor in tensors))


def seed_of(*parts: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def generator_of(*parts: int) -> torch.Generator:
    """A generator seeded from several numbers."""
    return torch.Generator().manual_seed(seed_of(*parts))


def draw(count: int, config, step: int, strata: np.ndarray | None) -> np.ndarray:
    """Indices of the images of `step`: by shuffled epochs, or an entity at random and an image of it."""
    if strata is not None:
        random = np.random.default_rng([config.seed, step, 3])
        kinds = random.integers(0, strata.max() + 1, config.batch)
        return np.array([random.choice(np.flatnonzero(strata == kind)) for kind in kinds])
    places = np.arange(step * config.batch, (step + 1) * config.batch)
    epochs = {
        epoch: np.random.default_rng([config.seed, epoch, 4]).permutation(count) for epoch in set(places // count)
    }
    return np.array([epochs[place // count][place % count] for place in places])


def make_batch(images: np.ndarray, config, step: int, scheduler, low_side: int, folded=None) -> Batch:
    """The images of `step` after augmentation and crop, with their noise; every timestep 0…999 is equally likely.

    folded: the pipeline's FoldedPixels, which turns them into its data and draws the timesteps as it was trained.
    Drawn for the whole batch in every process, so that its images do not depend on how many processes share it.
    """
    generator = generator_of(config.seed, step)
    pixels = to_float(images)
    if config.augment:
        turns = torch.randint(0, 4, (len(pixels),), generator=generator).tolist()
        flips = torch.rand(len(pixels), generator=generator) < 0.5
        pixels = torch.stack(
            [
                torch.rot90(image.flip(-1) if flip else image, turn, (-2, -1))
                for image, turn, flip in zip(pixels, turns, flips, strict=True)
            ]
        )
    if step < config.half_side_steps:
        pixels = reduce(pixels, pixels.shape[-1] // 2)
    pixels, low = data_of(pixels, low_side, folded, config.noise_augmentation, generator)
    if config.crop:
        side = config.crop // (folded.config.fold if folded else 1)
        top, left = torch.randint(0, pixels.shape[-1] - side + 1, (2,), generator=generator).tolist()
        window = (..., slice(top, top + side), slice(left, left + side))
        pixels, low = pixels[window], low[window] if low is not None else None
    dropped = torch.rand(len(pixels), generator=generator) < config.caption_dropout
    noise = torch.randn(pixels.shape, generator=generator)
    if folded:
        timesteps = folded.draw_timesteps(len(pixels), scheduler, generator)
    else:
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(pixels),), generator=generator)
    return Batch(pixels, noise, timesteps, low, dropped)


def data_of(
    pixels: torch.Tensor, low_side: int, folded=None, noise: float = 0.0, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What is diffused of images [n, 3, h, w], and what an upsampler sees of their version reduced to `low_side`.

    noise: the standard deviation added to the small image; of folded pixels the largest one, drawn evenly and told.
    """
    if not low_side:
        return (folded.encode(pixels) if folded else pixels), None
    reduced = reduce(pixels, low_side)
    if folded:
        level = noise * torch.rand(len(pixels), generator=generator) if noise else torch.zeros(len(pixels))
        added = level.view(-1, 1, 1, 1) * torch.randn(reduced.shape, generator=generator) if noise else 0.0
        return folded.encode(pixels, reduced), folded.condition(reduced + added, level)
    low = enlarge(reduced, pixels.shape[-1])
    return pixels, low + noise * torch.randn(low.shape, generator=generator) if noise else low
