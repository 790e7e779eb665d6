"""Noise schedules and the samplers that follow them."""

from __future__ import annotations

from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from dermstudy.diffusion.architecture import Preset
from dermstudy.files import InputError

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

    All clip x0 to [-1, 1]. DDIM is DPM-Solver++ of the first order, which takes a respacing as well. The second order
    starts at a log signal-to-noise ratio of -5.1: started at t = 999 of the squared cosine schedule it saturates.
    A schedule of folded pixels needs neither: its pipeline clips, and its noise ends where it says.
    """
    folded = scheduler.config.trained_betas is not None
    if name == "ancestral":
        return DDPMScheduler.from_config(scheduler.config)
    if name in ("ddim", "dpm-solver"):
        return DPMSolverMultistepScheduler.from_config(
            scheduler.config,
            algorithm_type="dpmsolver++",
            solver_order=1 if name == "ddim" else 2,
            lambda_min_clipped=-float("inf") if folded or name == "ddim" else -5.1,
            thresholding=not folded,
            sample_max_value=1.0,
            timestep_spacing="linspace",
        )
    raise InputError(f"unknown sampler {name!r}: choose one of {', '.join(SAMPLERS)}")


def respaced_timesteps(respacing: str, total: int = 1000) -> list[int]:
    """Upstream's respacing ("100", "25,25,50" or "fast27") as descending timesteps.

    Source: glide_text2im/respace.py, space_timesteps. InputError where a section has too few steps to divide.
    """
    try:
        sections = [10, 10, 3, 2, 2] if respacing == "fast27" else [int(part) for part in respacing.split(",")]
    except ValueError as error:
        raise InputError(
            f"unknown respacing {respacing!r}: give numbers of steps such as '100' or '25,25,50', or 'fast27'"
        ) from error
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
