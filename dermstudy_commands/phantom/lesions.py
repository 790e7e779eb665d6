"""The seven entities as maps of pigment and blood, each painted from its dermoscopic criteria.

The criteria follow the revised pattern analysis of Kittler et al. (J Am Acad Dermatol 2016) and Lallas et al.'s reviews
of non-melanocytic lesions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from dermstudy_commands.phantom.texture import curve, fractal, grid, lines, spots, step


@dataclass
class Layers:
    """A lesion's absorption maps, float32 [n, n] each, in units of optical density; `white` is a share 0..1."""

    epidermal: np.ndarray
    dermal: np.ndarray
    blood: np.ndarray
    white: np.ndarray

    def stack(self) -> np.ndarray:
        return np.stack([self.epidermal, self.dermal, self.blood, self.white])  # [4, n, n]


def _nevus(random: np.random.Generator, n: int) -> Layers:
    """Melanocytic nevus: symmetric, one or two browns, a regular network or regular globules, a fading border."""
    shape = _outline(random, n, (0.34, 0.66), 0.35, random.uniform(0.22, 0.5))
    amount = random.uniform(0.45, 1.25)
    body = shape.inside * (0.5 + 0.3 * np.clip(shape.depth, 0, 1)) * (1 + 0.10 * fractal(random, n, 1.4, 3))
    pattern = random.choice(["network", "globules", "homogeneous"], p=[0.5, 0.3, 0.2])
    if pattern == "network":
        mesh = _network(random, n, random.uniform(15, 24), 0.55)
        fade = np.clip(1.2 - 0.5 * np.clip(shape.depth, 0, 1), 0, 1)
        epidermal = amount * (0.62 * body + 0.62 * shape.inside * mesh * fade)
    elif pattern == "globules":
        globules = spots(random, n, 240, (0.016, 0.034), shape.inside, 0.35, 0.2, 0.9)
        epidermal = amount * (0.6 * body + 0.55 * globules * shape.inside)
    else:
        epidermal = amount * 1.1 * body
    blood = shape.inside * random.uniform(0.0, 0.35)
    dermal = shape.inside * random.uniform(0, 0.12)
    return Layers(epidermal, dermal, blood, np.zeros_like(epidermal))


def _melanoma(random: np.random.Generator, n: int) -> Layers:
    """Melanoma: lopsided, several colours in patches, broken broad network, streaks, blots and a blue-white veil."""
    shape = _outline(random, n, (0.44, 0.70), 0.8, random.uniform(0.10, 0.28), 0.4, random.uniform(0.1, 0.3))
    patches = fractal(random, n, 2.4, 1.2)
    amount = random.uniform(0.55, 1.25)
    epidermal = shape.inside * amount * (0.5 + 0.5 * step(patches, 1.6) + 0.16 * fractal(random, n, 1.2, 5))
    mesh = _network(random, n, random.uniform(9, 14), 1.7)
    epidermal = epidermal + amount * 0.6 * shape.inside * mesh * step(fractal(random, n, 2.2, 2), 1.0)
    if random.random() < 0.65:  # streaks over part of the border
        middle, spread = random.uniform(-np.pi, np.pi), random.uniform(0.5, 1.3)
        strokes = []
        for heading in middle + random.uniform(-spread, spread, random.integers(12, 26)):
            start = np.array([np.cos(heading), np.sin(heading)]) * shape.size * random.uniform(0.70, 0.88)
            points, _ = curve(random, start, heading, random.uniform(0.10, 0.24), 0.06, 10)
            strokes.append((points, np.linspace(0.034, 0.010, len(points))))
        epidermal = epidermal + amount * 0.55 * lines(n, strokes, 2.2)
    blots = spots(random, n, random.integers(3, 9), (0.05, 0.12), shape.inside, 0.9, 0.5)
    epidermal = epidermal + amount * 0.55 * blots * shape.inside
    veil = shape.inside * step(fractal(random, n, 2.6, 1.2) - random.uniform(0.0, 1.0), 1.8)
    dermal = 0.62 * veil * (1 + 0.15 * fractal(random, n, 1.6, 3)) + 0.1 * shape.inside
    white = 0.22 * veil * step(fractal(random, n, 1.9, 3), 1.4)
    blood = shape.inside * random.uniform(0.1, 0.5) * step(-patches, 1.6)
    return Layers(np.clip(epidermal, 0, 2.6) * (1 - 0.35 * veil), dermal, blood, white)


def _basal_cell_carcinoma(random: np.random.Generator, n: int) -> Layers:
    """Basal cell carcinoma: arborising vessels in focus, blue-grey ovoid nests, leaf-like areas, no network."""
    shape = _outline(random, n, (0.42, 0.7), 0.55, 0.5)
    strokes = []
    for _ in range(random.integers(2, 5)):
        heading = random.uniform(0, 2 * np.pi)
        start = np.array([np.cos(heading), np.sin(heading)]) * shape.size * random.uniform(0.5, 1.0)
        strokes += _vessel_tree(
            random,
            start,
            heading + np.pi + random.normal(0, 0.5),
            random.uniform(0.5, 0.9),
            random.uniform(0.014, 0.026),
        )
    vessels = lines(n, strokes, 0.9)
    nests = spots(random, n, random.integers(4, 15), (0.045, 0.13), shape.inside * (shape.depth > 0.05), 0.55, 0.5, 0.8)
    nests = gaussian_filter(nests, 1.6 * n / 256)
    blood = (
        shape.inside * random.uniform(0.1, 0.4) * (1 + 0.2 * fractal(random, n, 1.6, 3))
        + random.uniform(0.6, 1.1) * vessels
    )
    pigmented = random.choice([0.35, 0.75, 1.1])
    rim = spots(random, n, random.integers(0, 8), (0.03, 0.07), shape.inside * (shape.depth < 0.35), 0.4, 0.9)
    white = 0.2 * shape.inside * step(fractal(random, n, 1.7, 3) - 0.3, 0.9)
    return Layers(0.10 * shape.inside + 0.5 * pigmented * rim, pigmented * nests, blood, white)


def _benign_keratosis(random: np.random.Generator, n: int) -> Layers:
    """Benign keratosis: stuck-on brown with a sharp moth-eaten border, milia-like cysts, comedo-like openings, ridges."""
    shape = _outline(random, n, (0.42, 0.72), 0.6, random.uniform(0.035, 0.08))
    inside = shape.inside
    bites = spots(random, n, random.integers(8, 20), (0.05, 0.10), np.exp(-((shape.depth / 0.06) ** 2)), 0.25)
    inside = inside * (1 - 0.9 * bites)
    amount = random.uniform(0.4, 1.15)
    ridges = np.abs(fractal(random, n, 1.5, 5))  # brain-like fissures where it nears zero
    fissures = np.exp(-((ridges / 0.16) ** 2))
    epidermal = amount * inside * (0.75 + 0.14 * fractal(random, n, 1.2, 4) + 0.42 * fissures)
    openings = spots(random, n, random.integers(8, 28), (0.018, 0.042), inside, 0.3, 0.3, 1.2)
    cysts = spots(random, n, random.integers(14, 40), (0.016, 0.036), inside * (shape.depth > 0.06), 0.5, 0.15, 1.4)
    epidermal = epidermal * (1 - 0.55 * cysts) + 0.95 * openings * inside
    blood = inside * random.uniform(0.0, 0.3)
    return Layers(epidermal, inside * random.uniform(0, 0.28), blood, 0.62 * cysts * inside)


def _actinic_keratosis(random: np.random.Generator, n: int) -> Layers:
    """Actinic keratosis: strawberry pattern, a red pseudo-network around pale follicles, with scale; no sharp border."""
    shape = _outline(random, n, (0.5, 0.85), 0.8, 0.7)
    where = np.clip(shape.inside + 0.15, 0, 1)
    follicles = spots(random, n, 420, (0.028, 0.048), where, 0.55, 0.15, 1.05)
    redness = random.uniform(0.35, 0.85) * shape.inside * (1 + 0.25 * fractal(random, n, 1.5, 3))
    blood = redness * (1 - 0.85 * follicles) + 0.05
    scale = step(fractal(random, n, 1.25, 4) - random.uniform(0.7, 1.3), 0.35) * shape.inside
    plugs = gaussian_filter(follicles, n / 256) * shape.inside
    pigment = random.choice([0.0, 0.25, 0.55], p=[0.4, 0.35, 0.25])
    epidermal = 0.12 * shape.inside + pigment * shape.inside * (1 - follicles) * step(fractal(random, n, 1.8, 2), 0.8)
    return Layers(
        epidermal, np.zeros_like(blood), np.clip(blood, 0, None), 0.26 * plugs + random.uniform(0.2, 0.55) * scale
    )


def _dermatofibroma(random: np.random.Generator, n: int) -> Layers:
    """Dermatofibroma: a central white scar-like patch within a fine peripheral network that fades outward."""
    shape = _outline(random, n, (0.46, 0.74), 0.28, random.uniform(0.4, 0.7), 0.2)
    centre = step(shape.depth - random.uniform(0.45, 0.62) + 0.07 * fractal(random, n, 1.5, 3), 0.35)
    ring = shape.inside * (1 - centre)
    mesh = _network(random, n, random.uniform(24, 32), 0.5)
    amount = random.uniform(0.4, 0.95)
    epidermal = amount * ring * (0.45 + 0.75 * mesh) * (1 + 0.10 * fractal(random, n, 1.4, 3))
    strands = step(fractal(random, n, 1.4, 6), 0.6)
    white = centre * (random.uniform(0.2, 0.4) + 0.25 * strands)
    blood = shape.inside * random.uniform(0.08, 0.45)
    return Layers(epidermal + 0.06 * centre, ring * random.uniform(0, 0.12), blood, white)


def _vascular_lesion(random: np.random.Generator, n: int) -> Layers:
    """Vascular lesion: sharply set red to purple lacunae, parted by whitish septa, sometimes a dark thrombosed part."""
    shape = _outline(random, n, (0.32, 0.62), 0.4, random.uniform(0.05, 0.12))
    lacunae = spots(
        random, n, random.integers(30, 90), (0.06, 0.13), shape.inside * (shape.depth > 0.02), 0.3, 0.35, 0.72
    )
    tone = random.uniform(0.0, 1.0)  # red to purple
    depth_map = 1 + 0.35 * fractal(random, n, 1.6, 3)
    blood = shape.inside * random.uniform(0.35, 0.7) + lacunae * random.uniform(0.7, 1.5) * np.clip(depth_map, 0.3, 2)
    dermal = lacunae * tone * random.uniform(0.3, 0.9) * np.clip(depth_map, 0.3, 2)
    if random.random() < 0.3:
        clot = shape.inside * step(fractal(random, n, 2.2, 1.3) - 0.7, 0.5)
        dermal = dermal + 1.1 * clot
    septa = shape.inside * (1 - lacunae)
    white = random.uniform(0.15, 0.4) * septa * np.clip(shape.depth * 4, 0, 1)
    return Layers(np.zeros_like(blood), dermal, blood * np.clip(shape.inside * 1.4, 0, 1), white)


PAINTERS = {
    "mel": _melanoma,
    "nv": _nevus,
    "akiec": _actinic_keratosis,
    "bkl": _benign_keratosis,
    "bcc": _basal_cell_carcinoma,
    "df": _dermatofibroma,
    "vasc": _vascular_lesion,
}


@dataclass
class Outline:
    """A lesion's outline: `inside` 0..1, `depth` (about 1 in the centre, 0 at the border), angle and radius maps."""

    inside: np.ndarray
    depth: np.ndarray
    angle: np.ndarray
    radius: np.ndarray
    size: float


def _outline(
    random: np.random.Generator,
    n: int,
    size: tuple[float, float],
    ragged: float,
    blur: float,
    stretch: float = 0.25,
    lopsided: float = 0.0,
) -> Outline:
    """An irregular outline: an ellipse bent by low harmonics and by warped noise; `ragged` scales both."""
    x, y = grid(n)
    turn = random.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    ratio = np.exp(random.uniform(-stretch, stretch))
    u, v = u * ratio, v / ratio
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    extent = random.uniform(*size)
    wave = sum(random.normal(0, ragged * 0.30 / k) * np.cos(k * angle + random.uniform(0, 6.28)) for k in range(2, 7))
    wave = wave + lopsided * np.cos(angle + random.uniform(0, 6.28))
    noise = fractal(random, n, 1.9, 3) * ragged * 0.17
    depth = 1 - radius / (extent * np.exp(np.clip(wave + noise, -0.7, 0.7)))
    return Outline(step(depth, blur), depth, angle, radius / extent, extent)


def _network(random: np.random.Generator, n: int, cells: float, irregular: float) -> np.ndarray:
    """A pigment network 0..1 (1 on its lines): a hexagonal mesh of about `cells` holes a field, bent by noise."""
    x, y = grid(n)
    bend = irregular * 1.2 / cells
    u = x + bend * fractal(random, n, 1.3, 2) * 1.6
    v = y + bend * fractal(random, n, 1.3, 2) * 1.6
    turn, mesh = random.uniform(0, np.pi), 0.0
    for k in range(3):
        direction = turn + k * np.pi / 3 * 2
        mesh = mesh + np.cos(np.pi * cells * (u * np.cos(direction) + v * np.sin(direction)))
    holes = (mesh + 1.5) / 4.5  # 1 in the centre of a hole
    return np.clip(1 - 1.55 * holes, 0, 1) ** 0.8


def _vessel_tree(
    random: np.random.Generator, start: np.ndarray, heading: float, length: float, width: float, depth: int = 3
) -> list[tuple[np.ndarray, np.ndarray]]:
    """An arborising vessel: a winding trunk that thins and forks."""
    points, headings = curve(random, start, heading, length, 0.16)
    strokes = [(points, np.linspace(width, width * 0.55, len(points)))]
    if depth:
        for _ in range(random.integers(2, 4)):
            place = int(random.integers(5, len(headings)))
            turned = headings[place] + random.choice([-1, 1]) * random.uniform(0.5, 1.1)
            strokes += _vessel_tree(
                random, points[place], turned, length * random.uniform(0.4, 0.65), width * 0.58, depth - 1
            )
    return strokes
