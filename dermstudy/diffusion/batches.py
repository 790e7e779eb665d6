"""What each training step shows the network: images, turns, crops, captions and noise.

Every random number is a function of the seed, the step and the place in the batch, and none depends on the device, so that
a resumed run repeats an unbroken one. `config` is finetune's TrainingConfig throughout.
Sources: Nichol et al. (arXiv 2112.10741) for both stages; Karras et al. (arXiv 2206.00364) for log-normal noise; Ho et al.
(arXiv 2106.15282) for noise on the small image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from dermstudy.diffusion.folded import enlarge, enlarge_bicubic, fold, mixed, sigmas_of, time_of, to_float

MARGIN = 2  # pixels of the small image around a crop, for its enlargement


@dataclass(frozen=True)
class Pictures:
    """Images in memory with their captions.

    images: uint8 [n, side, side, 3]; captions: equally many an image, of which a step draws one; small: what conditions an
    upsampler, uint8 [n, low, low, 3]; weights: how often each image is drawn, adding up to one, None deals them by epochs.
    """

    images: np.ndarray
    captions: Sequence[Sequence[str]]
    small: np.ndarray | None = None
    weights: np.ndarray | None = None

    @property
    def texts(self) -> list[str]:
        """Every caption in the order of Batch.rows, and the empty one."""
        return [text for texts in self.captions for text in texts] + [""]


@dataclass
class Batch:
    """Clean data and noise [n, c, h, w], noise over signal [n], what the network is told of it [n], and what it sees beside.

    rows: which of Pictures.texts each image has.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    sigma: torch.Tensor
    told: torch.Tensor
    condition: torch.Tensor | None = None
    rows: torch.Tensor | None = None

    def part(self, chosen: slice, device: torch.device) -> Batch:
        """Some of the images, moved to `device`."""
        return Batch(*(None if value is None else value[chosen].to(device) for value in vars(self).values()))


def draw_weights(entities: Sequence[str], balance: float) -> np.ndarray:
    """How often each image is drawn, [n], adding up to one: by its entity's frequency to the power of 1 - balance.

    balance: 0 as often as they come, 0.5 by the square root, 1 every entity equally often.
    """
    names = pd.Series(entities)
    weights = names.map(names.value_counts()).to_numpy(float) ** -balance
    return weights / weights.sum()


def by_epochs(count: int, config, step: int) -> np.ndarray:
    """Indices [batch] of the images of `step`, of `count` that are shuffled anew each epoch."""
    places = np.arange(step * config.batch, (step + 1) * config.batch)
    epochs = {
        epoch: np.random.default_rng([config.seed, epoch, 4]).permutation(count) for epoch in set(places // count)
    }
    return np.array([epochs[place // count][place % count] for place in places])


def make_batch(pictures: Pictures, pipeline, config, step: int) -> Batch:
    """The batch of `step`: drawn whole in every process, so that it does not depend on how many share it."""
    random, count = np.random.default_rng([config.seed, step]), len(pictures.images)
    if pictures.weights is None:
        chosen = by_epochs(count, config, step)
    else:
        chosen = random.choice(count, config.batch, p=pictures.weights)
    flags = (random.random((config.batch, 3)) < 0.5) & config.augment
    variants = len(pictures.captions[0])
    rows = chosen * variants + random.integers(0, variants, config.batch)
    rows = np.where(random.random(config.batch) < config.caption_dropout, count * variants, rows)
    sigma, told = noise_levels(pipeline, config, random)
    generator = torch.Generator().manual_seed(int(random.integers(2**62)))
    edge, crop = pictures.images.shape[1], config.crop or pictures.images.shape[1]
    factor = 1 if pictures.small is None else edge // pictures.small.shape[1]
    corner = random.integers(0, (edge - crop) // factor + 1, (2, config.batch))
    large, seen = turned_crops(pictures.images, chosen, corner * factor, crop, flags), ()
    if pictures.small is not None:
        small = turned_crops(pictures.small, chosen, corner, crop // factor, flags, MARGIN)
        level = torch.from_numpy(random.uniform(0, config.noise_augmentation, config.batch)).float()
        noised = small + level.view(-1, 1, 1, 1) * torch.randn(small.shape, generator=generator)
        seen = small, noised, level, MARGIN
    clean, condition = data_of(pipeline, large, *seen)
    noise = torch.randn(clean.shape, generator=generator)
    return Batch(clean, noise, sigma, told, condition, torch.from_numpy(rows))


def noise_levels(pipeline, config, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise over signal of a batch, [n], and what the network is told of it, [n].

    Pixels: each timestep of the schedule is equally likely. Folded pixels: log-normal, a share of them at the high levels of
    `config`; most of a picture is decided at low noise and what it shows at high noise, so that one bell starves one of them.
    """
    if pipeline.pixels is None:
        timesteps = torch.from_numpy(random.integers(0, pipeline.scheduler.config.num_train_timesteps, config.batch))
        return sigmas_of(pipeline.scheduler, timesteps), timesteps
    logarithm = random.normal(pipeline.pixels.config.noise_mean, pipeline.pixels.config.noise_spread, config.batch)
    if config.high_share:
        high = random.random(config.batch) < config.high_share
        logarithm = np.where(high, random.normal(config.high_mean, config.high_spread, config.batch), logarithm)
    sigma = torch.from_numpy(np.exp(logarithm)).float()
    return sigma, time_of(sigma)


def turned_crops(
    images: np.ndarray, chosen: np.ndarray, corner: np.ndarray, side: int, flags: np.ndarray, margin: int = 0
) -> torch.Tensor:
    """Crops [n, 3, side + 2 margin, …] in -1..1 of `images`[chosen] under flips and quarter turns, in one gather.

    images: uint8 [count, h, w, 3], continued by their edges; corner: top and left [2, n] of the crops without their margin;
    flags: booleans [n, 3], transpose, upside down, mirrored: all eight symmetries of a square.
    """
    line = np.arange(side + 2 * margin)
    swapped, down, mirrored = flags.T[..., None, None]
    top, left = corner[..., None, None] - margin
    row, column = line[None, :, None], line[None, None, :]
    first, second = np.where(swapped, column, row), np.where(swapped, row, column)
    first = np.where(down, line[-1] - first, first) + top
    second = np.where(mirrored, line[-1] - second, second) + left
    edge = images.shape[1] - 1
    return to_float(images[chosen[:, None, None], first.clip(0, edge), second.clip(0, edge)])


def data_of(pipeline, large, small=None, noised=None, level=None, margin: int = 0):
    """What is diffused of images [n, 3, h, w], and what an upsampler sees beside it, or None.

    small: the reduced images, with `margin` pixels more on each side than `large` has; noised: the same with noise of the
    standard deviation `level` [n] added, by default none.
    """
    folded = pipeline.pixels
    if small is None:
        return (folded.encode(large) if folded else large), None
    factor = large.shape[-1] // (small.shape[-1] - 2 * margin)
    noised, level = (small, large.new_zeros(len(large))) if noised is None else (noised, level)
    if not folded:
        return large, _cut(enlarge(noised, factor * small.shape[-1]), factor * margin)
    beneath, condition = enlarge_bicubic(small, factor), folded.condition(noised, level)
    data = mixed(fold(large - _cut(beneath, factor * margin), folded.config.fold), folded.mix.to(large))
    return data, _cut(condition, factor // folded.config.fold * margin)


def _cut(images: torch.Tensor, margin: int) -> torch.Tensor:
    return images[..., margin:-margin, margin:-margin] if margin else images
