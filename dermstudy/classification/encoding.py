"""Every image encoded once by a pretrained network: fixed views of it, features of several depths, kept on disk.

Sources: Tan and Le (arXiv 1905.11946) for the network; torchvision for the stronger augmentation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dermstudy import pretrained
from dermstudy.data.dataset import THREADS, Cohort, read_image
from dermstudy.files import InputError, atomic_path, locked, sha256_text
from dermstudy.source import code_hash

DRAWN_ALONE = threading.Lock()  # torch's generator is that of all threads
PART = 512  # images a file while a view is being encoded: what a cut costs at most


@dataclass(frozen=True)
class View:
    """One way to look at an image, the same on every day.

    side: pixels that the network sees. share: the part of the centre square's edge that is kept (1: all of it).
    symmetry: 0..7, quarter turns (its value modulo 4), mirrored first from 4 on. draw: 0 for none, or which draw of the
    stronger augmentation is laid over it, random by image and draw.
    """

    side: int
    share: float = 1.0
    symmetry: int = 0
    draw: int = 0

    @property
    def name(self) -> str:
        """A name for files: what makes this view."""
        drawn = f"-draw{self.draw}" if self.draw else ""
        return f"{self.side}-{self.share:.2f}-{self.symmetry}{drawn}"


@dataclass(frozen=True)
class Settings:
    """How images become a head's features: views beside each other, depths of the network, principal components."""

    views: tuple[View, ...]
    depths: tuple[str, ...]
    components: int

    @property
    def blocks(self) -> np.ndarray:
        """The view and depth [d] that each feature belongs to, as numbers."""
        sizes = [2 * size for depth, size in pretrained.DEPTHS.items() if depth in self.depths] * len(self.views)
        return np.repeat(np.arange(len(sizes)), sizes)

    def features(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Features [n, d] of the encoded views [n, 6246] each, in the order of `views`."""
        columns = pretrained.depth_columns(self.depths)
        return np.concatenate([view[:, columns] for view in views], axis=1)


def encode(cohort: Cohort, cache_folder: str | Path, view: View, batch: int = 16) -> np.ndarray:
    """Features float16 [n, 6246] (`pretrained.depth_features`) of one view of every image of `cohort`.

    They are kept in `cache_folder` by all that they depend on: weights, code, view, the cohort's data hash and its images.
    A run that was cut goes on from its last part. Prints a line every ten seconds. InputError for a missing or broken
    image and for an empty cohort.
    """
    name = f"{view.name}-{_identity(cohort, view)}.npy"
    return np.load(_kept(cohort, Path(cache_folder) / name, view, encoded_now, batch), allow_pickle=False)


def encode_early(cohort: Cohort, cache_folder: str | Path, view: View, batch: int = 16) -> Path:
    """The file of activations float16 [n, 112, side / 16, side / 16] (`pretrained.early_activations`) of one view.

    Kept, resumed and refused as by `encode`; a file to be mapped, since a thousand images of 224 pixels take 44 MB.
    """
    early = pretrained.early_activations
    name = f"early{pretrained.TUNED_FROM}-{view.name}-{_identity(cohort, view)}.npy"
    path = Path(cache_folder) / name
    return _kept(cohort, path, view, lambda own, view, ids: early(pixels(own, view, ids)), batch)


def _kept(cohort: Cohort, whole: Path, view: View, compute: Callable, batch: int) -> Path:
    """The file `whole` of what `compute` says of every image of `cohort`, made in parts where it is not there."""
    if not len(cohort):
        raise InputError(f"no image of {cohort.name} to encode: the selection is empty")
    if whole.is_file():
        return whole
    with locked(whole.with_suffix(".lock")):  # another task may be making the same file, of the same parts
        if not whole.is_file():
            _in_parts(cohort, whole, view, compute, batch)
    return whole


def _in_parts(cohort: Cohort, whole: Path, view: View, compute: Callable, batch: int) -> None:
    ids, parts, fresh, started = list(cohort.frame["image_id"]), [], 0, time.monotonic()
    told = started
    for start in range(0, len(ids), PART):
        part = whole.with_suffix(f".{start:06d}.part.npy")
        if not part.is_file():
            rows = []
            for first in range(start, min(start + PART, len(ids)), batch):
                chosen = ids[first : min(first + batch, start + PART)]
                rows.append(compute(cohort, view, chosen))
                fresh += len(chosen)
                if time.monotonic() - told > 10:
                    told = time.monotonic()
                    rate = fresh / (told - started)
                    print(f"{first + len(chosen)} of {len(ids)} images encoded, {rate:.1f} a second", flush=True)
            _write(part, np.concatenate(rows))
        parts.append(part)
    _write(whole, np.concatenate([np.load(part, allow_pickle=False) for part in parts]))
    for part in parts:
        part.unlink()


def encoded_now(cohort: Cohort, view: View, image_ids: Sequence[str]) -> np.ndarray:
    """Features float16 [n, 6246] of one view of a batch of images, without a cache."""
    return pretrained.depth_features(pixels(cohort, view, image_ids), len(image_ids)).astype(np.float16)


def pixels(cohort: Cohort, view: View, image_ids: Sequence[str]) -> np.ndarray:
    """One view of each image, uint8 [n, side, side, 3]."""
    files = cohort.frame.set_index("image_id").loc[list(image_ids), "file"]

    def look(pair: tuple[str, str]) -> np.ndarray:
        return looked_at(read_image(cohort.root / pair[1]), view, pair[0])

    with ThreadPoolExecutor(THREADS) as pool:
        return np.stack(list(pool.map(look, files.items())))


def looked_at(image: np.ndarray, view: View, image_id: str) -> np.ndarray:
    """One view uint8 [side, side, 3] of an image uint8 [h, w, 3], reduced with antialiasing."""
    height, width = image.shape[:2]
    edge = min(height, width) * view.share
    left, top = (width - edge) / 2, (height - edge) / 2
    picture = Image.fromarray(image)
    box = (left, top, left + edge, top + edge)
    picture = picture.resize((view.side, view.side), Image.Resampling.BICUBIC, box=box)
    if view.draw:
        picture = _augmented(picture, int(sha256_text(f"{image_id} {view.draw}")[:12], 16))
    seen = np.asarray(picture)
    return np.ascontiguousarray(np.rot90(seen[:, ::-1] if view.symmetry >= 4 else seen, view.symmetry % 4))


def _augmented(picture: Image.Image, seed: int) -> Image.Image:
    """A stronger augmentation than turns: any angle, a crop of 35 to 100 % of the area, brightness, contrast, colour."""
    import torch
    from torchvision.transforms import v2

    transform = v2.Compose([
        v2.RandomHorizontalFlip(),
        v2.RandomRotation(180, interpolation=v2.InterpolationMode.BILINEAR, fill=None),
        v2.CenterCrop(round(picture.width * 0.85)),
        v2.RandomResizedCrop(picture.width, scale=(0.35, 1.0), ratio=(0.8, 1.25), antialias=True),
        v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.03),
    ])  # fmt: skip
    with DRAWN_ALONE, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(picture)


def _identity(cohort: Cohort, view: View) -> str:
    """A hash of weights, code, view, and images; its first 16 letters name a file."""
    hashed = code_hash(__name__)
    named = sha256_text(" ".join(cohort.frame["image_id"]))
    return sha256_text(f"{pretrained.WEIGHTS_SHA256} {hashed} {view} {cohort.data_hash} {named}")[:16]


def _write(path: Path, features: np.ndarray) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, features, allow_pickle=False)
