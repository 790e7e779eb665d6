"""Images of different lesions that show the same skin, found by image and joined into one group.

Source: perceptual hashes by the ImageHash library propose pairs; the cross-correlation of their fine texture decides.
"""

from __future__ import annotations

import time

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from dermstudy.dataset import Cohort

SIDE = 96


def look_alikes(
    cohort: Cohort, max_distance: int = 12, min_correlation: float = 0.92, min_texture: float = 0.6
) -> pd.DataFrame:
    """Pairs of images of different lesions that show the same skin.

    Columns: image_id, other_image_id, distance (of 64-bit perceptual hashes), correlation (of luminance), texture (peak
    of the cross-correlation of locally normalised fine detail, 0..1). Every pair is tried under eight flips and quarter
    turns. Hash and luminance find lesions of like shape; only texture tells the same skin from a similar lesion.
    """
    images = cohort.images(SIDE)  # [n, SIDE, SIDE, 3]
    grey = images.astype(np.float32).mean(axis=-1)
    flat = _standardised(grey)
    plain = _hashes(images)
    lesions, ids = cohort.frame["lesion_id"].to_numpy(), cohort.frame["image_id"].to_numpy()
    pairs: dict[tuple[int, int], tuple[int, float, float]] = {}
    started = time.monotonic()
    for flip in (False, True):
        for turn in range(4):
            if time.monotonic() - started > 10:
                print(
                    f"compared at {4 * flip + turn} of 8 flips and turns, {time.monotonic() - started:.0f} s",
                    flush=True,
                )
            turned = np.rot90(images[:, :, ::-1] if flip else images, turn, (1, 2))
            turned_grey = np.rot90(grey[:, :, ::-1] if flip else grey, turn, (1, 2))
            turned_flat, hashes = _standardised(turned_grey), _hashes(turned) if flip or turn else plain
            for start in range(0, len(plain), 512):
                distance = np.bitwise_count(plain[start : start + 512, None] ^ hashes[None, :])
                rows, columns = np.nonzero(distance <= max_distance)
                kept = (rows + start < columns) & (lesions[rows + start] != lesions[columns])
                for row, column in zip(rows[kept], columns[kept], strict=True):
                    first = row + start
                    correlation = float(flat[first] @ turned_flat[column])
                    if correlation >= min_correlation:
                        texture = _shared_texture(grey[first], turned_grey[column])
                        if texture >= max(min_texture, pairs.get((first, column), (0, 0, 0.0))[2]):
                            pairs[first, column] = (int(distance[row, column]), correlation, texture)
    records = [(ids[a], ids[b], d, round(c, 3), round(t, 3)) for (a, b), (d, c, t) in sorted(pairs.items())]
    return pd.DataFrame(records, columns=["image_id", "other_image_id", "distance", "correlation", "texture"])


def join_groups(frame: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """The group of each row: its lesion, joined with every lesion that a look-alike pair ties to it."""
    lesions = pd.Index(np.sort(frame["lesion_id"].unique()))
    lesion_of = frame.set_index("image_id")["lesion_id"]
    left = lesions.get_indexer(pairs["image_id"].map(lesion_of))
    right = lesions.get_indexer(pairs["other_image_id"].map(lesion_of))
    graph = coo_matrix((np.ones(len(pairs)), (left, right)), shape=(len(lesions), len(lesions)))
    _, labels = connected_components(graph, directed=False)
    first = pd.Series(lesions).groupby(labels).first()
    return pd.Series(first.loc[labels[lesions.get_indexer(frame["lesion_id"])]].to_numpy(), index=frame.index)


def _hashes(images: np.ndarray) -> np.ndarray:
    bits = [imagehash.phash(Image.fromarray(np.ascontiguousarray(image))).hash.ravel() for image in images]
    return np.packbits(np.stack(bits), axis=1).view(np.uint64).ravel()


def _standardised(grey: np.ndarray) -> np.ndarray:
    """Luminance thinned to half the side, zero mean and unit length a row, [n, SIDE * SIDE / 4]."""
    flat = np.ascontiguousarray(grey[:, ::2, ::2]).reshape(len(grey), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _shared_texture(first: np.ndarray, second: np.ndarray) -> float:
    window = np.hanning(SIDE)[:, None] * np.hanning(SIDE)[None]

    def spectrum(grey: np.ndarray) -> np.ndarray:
        detail = grey - gaussian_filter(grey, 2, mode="nearest")
        detail = detail / (np.sqrt(gaussian_filter(detail**2, 5, mode="nearest")) + 1) * window
        detail = detail - detail.mean()
        return np.fft.rfft2(detail / max(float(np.linalg.norm(detail)), 1e-6))

    return float(np.fft.irfft2(spectrum(first) * np.conj(spectrum(second)), s=first.shape).max())
