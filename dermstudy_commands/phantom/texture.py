"""Soft random textures that phantom skin and lesions are drawn with: noise, spots, strokes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter


def fractal(random: np.random.Generator, n: int, slope: float = 1.6, low: float = 1.0) -> np.ndarray:
    """Gaussian noise with a power-law spectrum, zero mean and unit deviation, [n, n]; `low`: longest wave, in fields."""
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None]) * n
    gain = np.where(frequency >= low, np.maximum(frequency, 1) ** -slope, 0)
    field = np.fft.irfft2(np.fft.rfft2(random.standard_normal((n, n))) * gain, s=(n, n))
    return ((field - field.mean()) / field.std()).astype(np.float32)


def grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:n, :n].astype(np.float32)
    return (x / n - 0.5) * 2, (y / n - 0.5) * 2


def step(field: np.ndarray, width: float) -> np.ndarray:
    """A soft step from 0 (field far below 0) to 1 over about `width`."""
    return 1 / (1 + np.exp(-np.clip(field * 4 / width, -30, 30)))


def spots(
    random: np.random.Generator,
    n: int,
    count: int,
    size: tuple[float, float],
    where: np.ndarray,
    soft: float = 0.35,
    stretch: float = 0.3,
    spacing: float = 0.0,
) -> np.ndarray:
    """Soft ellipses 0..1 of radius `size` (in half fields) at places drawn from the density map `where`."""
    field = np.zeros((n, n), np.float32)
    weight = np.clip(where, 0, None).ravel()
    if weight.sum() <= 0:
        return field
    places = random.choice(n * n, size=count, p=weight / weight.sum())
    taken: list[tuple[float, float, float]] = []
    for place in places:
        row, column = divmod(int(place), n)
        radius = random.uniform(*size) * n / 2
        if spacing and any(np.hypot(row - r, column - c) < spacing * (radius + q) for r, c, q in taken):
            continue
        taken.append((row, column, radius))
        ratio, turn = np.exp(random.uniform(-stretch, stretch)), random.uniform(0, np.pi)
        reach = int(np.ceil(radius * 2.2)) + 1
        top, left = max(0, row - reach), max(0, column - reach)
        yy, xx = np.mgrid[top : min(n, row + reach), left : min(n, column + reach)].astype(np.float32)
        dx, dy = xx - column, yy - row
        u, v = dx * np.cos(turn) + dy * np.sin(turn), -dx * np.sin(turn) + dy * np.cos(turn)
        wobble = 1 + 0.12 * np.cos(3 * np.arctan2(v, u) + turn)
        blob = step(1 - np.hypot(u * ratio, v / ratio) / (radius * wobble), soft * 2)
        window = field[top : top + blob.shape[0], left : left + blob.shape[1]]
        np.maximum(window, blob * random.uniform(0.65, 1.0), out=window)
    return field


def lines(n: int, strokes: list[tuple[np.ndarray, np.ndarray]], blur: float) -> np.ndarray:
    """Strokes (points [k, 2] as x, y in -1..1 and widths [k] in half fields) as a soft mask 0..1, [n, n]."""
    scale = 2
    canvas = Image.new("L", (n * scale, n * scale))
    pen = ImageDraw.Draw(canvas)
    for points, widths in strokes:
        pixels = (points + 1) / 2 * n * scale
        for start, stop, width in zip(pixels[:-1], pixels[1:], widths[:-1], strict=True):
            pen.line([tuple(start), tuple(stop)], fill=255, width=max(1, round(width * n * scale / 2)))
    mask = np.asarray(canvas.resize((n, n), Image.Resampling.BOX), np.float32) / 255
    return gaussian_filter(mask, blur * n / 256)


def curve(
    random: np.random.Generator, start: np.ndarray, heading: float, length: float, bend: float, steps: int = 24
) -> tuple[np.ndarray, np.ndarray]:
    headings = heading + np.cumsum(random.normal(0, bend, steps)) + random.normal(0, bend) * np.arange(steps) * 0.3
    moves = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / steps
    return np.vstack([start, start + np.cumsum(moves, axis=0)]), headings
