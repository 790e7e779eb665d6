"""The side of the images that a pipeline makes: convolutions and attention take any that the levels halve evenly."""

from __future__ import annotations

from dermstudy.files import InputError


def check_side(pipeline, side: int, what: str = "a side") -> None:
    """InputError where the levels of the U-Net cannot halve images of side x side pixels evenly."""
    levels = len(pipeline.unet.config.block_out_channels)
    least = _fold(pipeline) * 2 ** (levels - 1)
    if not isinstance(side, int) or side < least or side % least:
        near = max(1, round(side / least)) * least
        raise InputError(
            f"{what} of {side}: the {levels} levels of this U-Net need a multiple of {least}, such as {near}"
        )


def set_side(pipeline, side: int) -> None:
    """Let `pipeline` make images of side x side pixels; InputError where its levels do not divide them."""
    check_side(pipeline, side)
    pipeline.unet.register_to_config(sample_size=side // _fold(pipeline))
    if pipeline.pixels:
        pipeline.pixels.register_to_config(side=side)


def at_side(pipeline, side: int) -> None:
    """Let `pipeline` train and paint at side x side pixels with the weights that it has.

    Convolutions and attention take any side that the levels halve evenly, and attention stays at its levels. Prints a
    line where the weights were trained at another side: what they know of an image holds at that one. InputError for a
    side that the levels do not divide.
    """
    own = pipeline.side
    set_side(pipeline, side)
    if side != own:
        print(
            f"at {side} x {side} with weights that were trained at {own} x {own}: every layer takes that side, but how "
            "large things are has to be learned anew"
        )


def _fold(pipeline) -> int:
    return pipeline.pixels.config.fold if pipeline.pixels else 1
