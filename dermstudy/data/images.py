"""One image file as pixels. Every door of the study reads files here, so that a file gives the same pixels at each.

A file is read as upright 8-bit sRGB. What can be converted without a guess is converted, and how is told; the rest is
refused by name. Sources: PNG (ISO/IEC 15948), TIFF 6.0 and EXIF 2.3 (CIPA DC-008) for depths, orders and orientation;
the ICC profile specification (ICC.1) for colour.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from dermstudy.files import InputError

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "JPEG2000", "AVIF", "PPM")
MOST_PIXELS = 80_000_000
ORIENTATION, PHOTOMETRIC, BITS, SUBFILE = 274, 262, 258, 254  # tags of TIFF, the first of EXIF too
STANDARD_GAMMA = 1 / 2.2  # of a PNG without a profile
CLOSE = 2  # levels: a profile whose colours lie as near to sRGB's is sRGB
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# How a file was converted, as a count of them is told: "2 greyscale, 1 turned upright".
BILEVEL = "greyscale of 1 bit"
GREY = "greyscale"
GREY_16 = "greyscale of more than 8 bits"
DARK_16 = "greyscale of 16 bits without a value above 4095 (dark: is it of 12 bits?)"
COLOUR_16 = "colour of 16 bits"
PALETTE = "with a palette"
TURNED = "turned upright"
PROFILE = "from another colour space"
UNUSED_TAG = "with a colour or EXIF tag that cannot be used (taken as upright sRGB)"
FIRST = "the first picture of several"

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MOST_PIXELS refuses them, in one line


def read_image(source: str | Path | BinaryIO, side: int | None = None) -> np.ndarray:
    """One image as uint8 [h, w, 3], or its centre square at [side, side, 3]. InputError where it cannot be read truly."""
    return square(converted(source)[0], side)


def square(image: Image.Image, side: int | None) -> np.ndarray:
    """An RGB image as uint8 [h, w, 3], or its centre square at [side, side, 3], reduced with antialiasing."""
    if side is None:
        return np.asarray(image)
    edge = min(image.size)
    left, top = (image.width - edge) / 2, (image.height - edge) / 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))


def converted(source: str | Path | BinaryIO, name: str | None = None) -> tuple[Image.Image, tuple[str, ...]]:
    """An upright RGB image in sRGB and how it was converted (GREY, TURNED, ...; nothing for plain 8-bit colour).

    source: a path, or a stream that `name` names in messages. InputError, in one line, for: no regular file, an empty or
    broken one, another format, more than 80 million pixels, several frames, transparent pixels, floating-point or 32-bit
    values, CMYK without a profile, and Lab.
    """
    with opened(source, name) as image:
        _refuse_several(image)
        told = [FIRST] if image.format == "MPO" else []
        orientation = getattr(image, "tag_v2", {}).get(ORIENTATION, 1)  # Pillow turns a TIFF as it decodes it
        deep = image.format in ("PNG", "TIFF") and ";16" in str(image.tile)
        image.load()  # whole: a JPEG decoded at a part of its size is shifted by up to 1.5 pixels
        coloured = _coloured(image, deep, told)
        if image.format != "TIFF":
            orientation = _exif_orientation(image, told)
            if orientation in TURNS:
                coloured = coloured.transpose(TURNS[orientation])
        if orientation in TURNS:
            told.append(TURNED)
    return coloured, tuple(dict.fromkeys(told))


@contextmanager
def opened(source: str | Path | BinaryIO, name: str | None = None) -> Iterator[Image.Image]:
    """An image file, its header read. InputError, also for what goes wrong while the file is open, begins with its name."""
    name = name or printable(source)
    try:
        if isinstance(source, (str, Path)):
            _require_regular(source)
        with Image.open(source, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except InputError as error:
        raise InputError(f"{name} {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"{name} is missing: complete the download") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not an image that can be read: export it as JPEG or PNG") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name} has more than {MOST_PIXELS // 10**6} million pixels: reduce it") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        cause = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name} is broken ({cause}): replace it") from error


def printable(path: object) -> str:
    """A path in one line that every terminal and file takes: bytes that are not UTF-8 and line breaks are escaped."""
    text = str(path)
    return text if text.isprintable() else repr(text)[1:-1]


def _require_regular(path: str | Path) -> None:
    """To open a pipe would wait for ever."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise InputError("is a folder, not an image: replace it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError("is a pipe or a device, not a file: replace it")
    if status.st_size == 0:
        raise InputError("is empty: replace it")


def _refuse_several(image: Image.Image) -> None:
    """Frames of an animation or pages. Further pictures of an MPO are other views, further pages of a TIFF may be small."""
    frames = getattr(image, "n_frames", 1)
    if frames == 1 or image.format == "MPO":
        return
    if image.format == "TIFF":
        small = []
        for frame in range(frames):
            image.seek(frame)
            small.append(bool(image.tag_v2.get(SUBFILE, 0) & 1))
        image.seek(0)
        if not small[0] and all(small[1:]):
            return
    raise InputError(f"holds {frames} pictures: save the one that is meant as a file of its own")


def _coloured(image: Image.Image, deep: bool, told: list[str]) -> Image.Image:
    """A decoded image as RGB in sRGB; `told` grows by how. deep: its colours were 16 bits each, of which the upper 8 are left."""
    mode, profile = image.mode, image.info.get("icc_profile")
    if image.has_transparency_data:
        image = _opaque(image)
    if mode in ("1", "L", "LA"):
        told.append(BILEVEL if mode == "1" else GREY)
        image = image.convert("L")
    elif mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        image = _from_16_bits(image, told)
    elif mode in ("RGB", "RGBA", "RGBX", "P", "PA", "YCbCr"):
        if deep or mode in ("P", "PA"):
            told.append(COLOUR_16 if deep else PALETTE)
        image = image.convert("RGB")
    elif mode != "CMYK":
        kind = {"F": "floating-point values", "I": "values of 32 bits", "LAB": "Lab colours"}.get(mode, f"mode {mode}")
        raise InputError(f"has {kind}, which have no certain 8-bit colour: export it as 8-bit PNG or JPEG")
    return _in_srgb(image, profile, told)


def _opaque(image: Image.Image) -> Image.Image:
    """The image without its alpha, where that hides nothing. What lies behind transparent pixels nobody knows."""
    whole = image.convert("RGBA") if not image.mode.startswith("I") else None
    if whole is None or whole.getchannel("A").getextrema()[0] < 255:
        raise InputError("has transparent pixels: flatten it onto its background")
    return whole.convert("L" if image.mode in ("1", "L", "LA") else "RGB")


def _from_16_bits(image: Image.Image, told: list[str]) -> Image.Image:
    """Grey values of their full range (65535, or a TIFF's 12 bits) scaled to 0..255 and rounded; nothing is stretched."""
    tags = getattr(image, "tag_v2", {})
    white = 2 ** tags.get(BITS, (16,))[0] - 1
    values = np.asarray(image).astype(np.uint32)
    dark = white == 65535 and values.max() <= 4095
    if tags.get(PHOTOMETRIC) == 0:  # white is zero: Pillow inverts 8 bits, and not 16
        values = white - values
    told.append(DARK_16 if dark else GREY_16)
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))


def _in_srgb(image: Image.Image, profile: bytes | None, told: list[str]) -> Image.Image:
    """L, RGB or CMYK as RGB in sRGB: by its ICC profile, without one as it is. InputError for CMYK without a profile."""
    if profile is None and image.mode == "CMYK":
        raise InputError("has CMYK colours without a profile, so nobody knows its colours: export it as sRGB")
    if profile is not None:
        try:
            space, transform = _transform(profile)
        except (OSError, ImageCms.PyCMSError):
            space, transform = "", None
        if image.mode == "L" and space == "RGB":
            image = image.convert("RGB")
        if space == {"L": "GRAY"}.get(image.mode, image.mode):
            if transform is None:
                return image.convert("RGB")
            told.append(PROFILE)
            return ImageCms.applyTransform(image, transform)
        if image.mode == "CMYK":
            raise InputError("has CMYK colours and a profile that cannot be used: export it as sRGB")
        told.append(UNUSED_TAG)
    elif abs(image.info.get("gamma", STANDARD_GAMMA) - STANDARD_GAMMA) > 0.01 and "srgb" not in image.info:
        told.append(UNUSED_TAG)
    return image.convert("RGB")


@lru_cache(maxsize=32)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """An ICC profile's colour space, and the way from there to sRGB; None where it is sRGB, so that pixels keep their values.

    OSError or PyCMSError where the profile cannot be used.
    """
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    mode = {"GRAY": "L"}.get(space, space)
    if mode not in ("L", "RGB", "CMYK"):
        return space, None
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)
    if mode == "CMYK":
        return space, transform
    levels = np.arange(0, 256, 15, np.uint8) if mode == "RGB" else np.arange(256, dtype=np.uint8)
    probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, len(levels), 3)
    probe = Image.fromarray(probe if mode == "RGB" else levels[None])
    seen, expected = (
        np.asarray(image, int) for image in (ImageCms.applyTransform(probe, transform), probe.convert("RGB"))
    )
    return space, None if np.abs(seen - expected).max() <= CLOSE else transform


def _exif_orientation(image: Image.Image, told: list[str]) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # as for decoders: a damaged block of tags, and the pixels are whole
        told.append(UNUSED_TAG)
        return 1
