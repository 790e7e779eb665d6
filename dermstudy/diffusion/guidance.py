"""What a pipeline's networks say of a noisy image under guidance: the own answer, led away from a worse one.

Sources: Ho and Salimans (arXiv 2207.12598) for classifier-free guidance, where the worse answer is the own one to the empty
caption; Karras et al., "Guiding a diffusion model with a bad version of itself" (arXiv 2406.02507), where it is the guide's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


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
