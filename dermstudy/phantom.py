"""Procedural dermoscopy: the embedded cohort, drawn from each entity's dermoscopic criteria.

A lesion is a set of absorption maps (melanin in the epidermis, melanin deep in the dermis, blood, white scatter) over
skin; light passes through them by the Beer-Lambert law, so pigments mix as they do in skin. The criteria follow the
revised pattern analysis of Kittler et al. (J Am Acad Dermatol 2016) and Lallas et al.'s reviews of non-melanocytic
lesions. The phantom exercises the study where real images may not be shipped; nothing clinical follows from it.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy.ndimage import affine_transform, gaussian_filter

from dermstudy.entities import ENTITIES, HAM10000_IMAGES, by_code
from dermstudy.files import InputError, atomic_path

# Lesions of HAM10000 by their number of images: 1, 2, 3, 4 and more.
HAM10000_LESIONS_BY_IMAGES = (5514, 1423, 490, 43)
SHARES = ("ham10000", "balanced")

# Absorption of red, green and blue light by one unit of each pigment.
EPIDERMAL = np.array([0.55, 0.95, 1.30])
DERMAL = np.array([0.95, 0.80, 0.55])  # deep melanin looks blue-grey: red is absorbed most
BLOOD = np.array([0.16, 1.05, 0.75])


@dataclass
class Layers:
    """A lesion's absorption maps, float32 [n, n] each, in units of optical density; `white` is a share 0..1."""

    epidermal: np.ndarray
    dermal: np.ndarray
    blood: np.ndarray
    white: np.ndarray

    def stack(self) -> np.ndarray:
        return np.stack([self.epidermal, self.dermal, self.blood, self.white])  # [4, n, n]


def write_cohort(
    folder: str | Path,
    images: int = 1000,
    seed: int = 0,
    side: int = 256,
    shares: str = "ham10000",
    minimum_lesions: int = 20,
    workers: int = 2,
) -> Path:
    """Draw a cohort and write it in HAM10000's layout: two image folders and HAM10000_metadata.csv.

    images: how many in all; shares: "ham10000" (its class imbalance, each entity with at least `minimum_lesions`
    lesions) or "balanced". The bytes depend on the seed, not on `workers`. InputError where `images` cannot hold
    `minimum_lesions` lesions an entity.
    """
    table = plan(images, seed, shares, minimum_lesions)
    started = time.monotonic()
    with atomic_path(folder) as temporary:
        for part in (1, 2):
            (temporary / f"HAM10000_images_part_{part}").mkdir(parents=True)
        half = (len(table) + 1) // 2
        tasks = [
            (
                row.dx,
                row.lesion_seed,
                row.view,
                side,
                str(temporary / f"HAM10000_images_part_{1 if place < half else 2}" / f"{row.image_id}.jpg"),
            )
            for place, row in enumerate(table.itertuples())
        ]
        if workers > 1:
            with ProcessPoolExecutor(workers) as pool:
                for done, _ in enumerate(pool.map(_write_image, tasks, chunksize=16), start=1):
                    if done % 250 == 0:
                        print(f"{done} of {images} phantom images, {time.monotonic() - started:.0f} s", flush=True)
        else:
            for task in tasks:
                _write_image(task)
        table.drop(columns=["lesion_seed", "view"]).to_csv(
            temporary / "HAM10000_metadata.csv", index=False, lineterminator="\n"
        )
    return Path(folder)


def plan(images: int, seed: int, shares: str, minimum_lesions: int) -> pd.DataFrame:
    """The metadata of a phantom cohort, with lesion_seed and view beside HAM10000's columns."""
    if shares not in SHARES:
        raise InputError(f"unknown shares {shares!r}: choose one of {', '.join(SHARES)}")
    if images < 7 * minimum_lesions:
        raise InputError(
            f"{images} phantom images cannot hold {minimum_lesions} lesions for each of 7 entities: "
            f"ask for at least {7 * minimum_lesions}"
        )
    random = np.random.default_rng([seed, 7])
    if shares == "balanced":
        counts = {entity.code: images // 7 + (place < images % 7) for place, entity in enumerate(ENTITIES)}
    else:
        total = sum(HAM10000_IMAGES.values())
        counts = {code: max(minimum_lesions, round(images * n / total)) for code, n in HAM10000_IMAGES.items()}
        counts["nv"] += images - sum(counts.values())
        if counts["nv"] < minimum_lesions:
            raise InputError(
                f"{images} phantom images are too few for {minimum_lesions} lesions an entity: ask for more"
            )
    weights = np.array(HAM10000_LESIONS_BY_IMAGES) / sum(HAM10000_LESIONS_BY_IMAGES)
    rows = []
    for entity in ENTITIES:
        left, lesion = counts[entity.code], 0
        while left:
            # Every lesion still owed to the minimum keeps one image back.
            owed = max(0, minimum_lesions - lesion - 1)
            views = min(int(random.choice(4, p=weights)) + 1, max(1, left - owed), left)
            person = _person(entity.code, random)
            for view in range(views):
                rows.append({"dx": entity.code, "lesion": lesion, "view": view, **person})
            left, lesion = left - views, lesion + 1
    table = pd.DataFrame(rows)
    lesion_number = table.groupby(["dx", "lesion"], sort=False).ngroup()
    shuffled = random.permutation(lesion_number.max() + 1)
    table["lesion_id"] = [f"PHANTOM_L{shuffled[number]:06d}" for number in lesion_number]
    table["lesion_seed"] = [seed * 1_000_003 + int(number) for number in lesion_number]
    table = table.iloc[random.permutation(len(table))].reset_index(drop=True)
    table["image_id"] = [f"PHANTOM_{number:07d}" for number in range(len(table))]
    table["dataset"] = "phantom"
    return table[
        ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset", "lesion_seed", "view"]
    ]


def _person(code: str, random: np.random.Generator) -> dict:
    middle = {"nv": 45, "mel": 60, "bkl": 64, "bcc": 66, "akiec": 66, "vasc": 51, "df": 51}[code]
    sites = {
        "akiec": ("face", "scalp", "hand"),
        "bcc": ("face", "back", "chest"),
        "df": ("lower extremity",),
        "vasc": ("trunk", "abdomen", "chest"),
    }.get(code, ("back", "trunk", "lower extremity", "upper extremity"))
    age = float(np.clip(round(random.normal(middle, 14) / 5) * 5, 5, 85))
    confirmed = "histo" if code in ("mel", "bcc", "akiec") or random.random() < 0.35 else "follow_up"
    return {
        "dx_type": confirmed,
        "age": "" if random.random() < 0.006 else age,
        "sex": str(random.choice(["male", "female"])),
        "localization": str(random.choice(sites)),
    }


def _write_image(task: tuple) -> None:
    code, lesion_seed, view, side, path = task
    Image.fromarray(draw(code, lesion_seed, view, side)).save(path, quality=90)


def draw(code: str, lesion_seed: int, view_seed: int = 0, side: int = 256) -> np.ndarray:
    """One phantom image, uint8 [side, side, 3].

    (code, lesion_seed) fixes the lesion and its skin; view_seed fixes the placing, the light, hair and sensor noise.
    """
    entity = by_code(code)
    lesion = np.random.default_rng([lesion_seed, entity.paper_class])
    view = np.random.default_rng([lesion_seed, entity.paper_class, view_seed, 11])
    n = max(96, round(side * 1.0))
    layers = _PAINTERS[code](lesion, n).stack().astype(np.float32)
    skin = _skin(lesion, n)
    # One placing for everything that belongs to the skin, so that views of a lesion show the same lesion.
    angle, zoom = view.uniform(0, 2 * np.pi), view.uniform(0.88, 1.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom * (n / side)
    centre = np.array([n / 2, n / 2]) + view.uniform(-0.07, 0.07, 2) * n
    offset = centre - turn @ np.array([side / 2, side / 2])
    placed = np.stack(
        [affine_transform(layer, turn, offset, (side, side), order=1, mode="reflect") for layer in (*layers, *skin)]
    )
    epidermal, dermal, blood, white, skin_melanin, skin_blood, relief = placed
    density = (
        (epidermal + skin_melanin)[..., None] * EPIDERMAL
        + dermal[..., None] * DERMAL
        + (blood + skin_blood)[..., None] * BLOOD
    )
    colour = np.array([0.93, 0.84, 0.80]) * np.exp(-density)
    scatter = np.array([0.90, 0.84, 0.83])
    colour = colour + (scatter - colour) * np.clip(white, 0, 1)[..., None]
    colour = colour * (1 + 0.05 * relief[..., None])
    return _photograph(colour, view, side)


def _photograph(colour: np.ndarray, view: np.random.Generator, side: int) -> np.ndarray:
    """Hair, gel bubbles, uneven light, vignette, colour cast, focus and sensor noise over reflectance [side, side, 3]."""
    if view.random() < 0.45:
        hair = _hairs(view, side)[..., None]
        tone = np.array([0.16, 0.10, 0.08]) * view.uniform(0.6, 2.2)
        colour = colour * (1 - hair) + tone * hair
    y, x = (np.mgrid[:side, :side].astype(np.float32) / side - 0.5) * 2
    slope = view.normal(0, 0.05, 2)
    light = 1 + slope[0] * x + slope[1] * y
    radius = np.hypot(x, y)
    light *= 1 - view.uniform(0.0, 0.16) * radius**2
    if view.random() < 0.06:
        light *= 1 / (1 + np.exp((radius - view.uniform(1.08, 1.3)) * 28))
    cast = np.exp(view.normal(0, (0.05, 0.035, 0.055)))
    colour = colour * light[..., None] * cast * view.uniform(0.88, 1.08)
    if view.random() < 0.12:
        colour = colour + _bubbles(view, side)[..., None]
    colour = gaussian_filter(colour, (view.uniform(0.3, 1.0) * side / 256,) * 2 + (0,))
    noise = view.normal(0, view.uniform(0.004, 0.013), colour.shape)
    return (np.clip(colour + noise, 0, 1) * 255).astype(np.uint8)


# Texture


def _fractal(random: np.random.Generator, n: int, slope: float = 1.6, low: float = 1.0) -> np.ndarray:
    """Gaussian noise with a power-law spectrum, zero mean and unit deviation, [n, n]; `low`: longest wave, in fields."""
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None]) * n
    gain = np.where(frequency >= low, np.maximum(frequency, 1) ** -slope, 0)
    field = np.fft.irfft2(np.fft.rfft2(random.standard_normal((n, n))) * gain, s=(n, n))
    return ((field - field.mean()) / field.std()).astype(np.float32)


def _grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:n, :n].astype(np.float32)
    return (x / n - 0.5) * 2, (y / n - 0.5) * 2


def _step(field: np.ndarray, width: float) -> np.ndarray:
    """A soft step from 0 (field far below 0) to 1 over about `width`."""
    return 1 / (1 + np.exp(-np.clip(field * 4 / width, -30, 30)))


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
    x, y = _grid(n)
    turn = random.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    ratio = np.exp(random.uniform(-stretch, stretch))
    u, v = u * ratio, v / ratio
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    extent = random.uniform(*size)
    wave = sum(random.normal(0, ragged * 0.30 / k) * np.cos(k * angle + random.uniform(0, 6.28)) for k in range(2, 7))
    wave = wave + lopsided * np.cos(angle + random.uniform(0, 6.28))
    noise = _fractal(random, n, 1.9, 3) * ragged * 0.17
    depth = 1 - radius / (extent * np.exp(np.clip(wave + noise, -0.7, 0.7)))
    return Outline(_step(depth, blur), depth, angle, radius / extent, extent)


def _network(random: np.random.Generator, n: int, cells: float, irregular: float) -> np.ndarray:
    """A pigment network 0..1 (1 on its lines): a hexagonal mesh of about `cells` holes a field, bent by noise."""
    x, y = _grid(n)
    bend = irregular * 1.2 / cells
    u = x + bend * _fractal(random, n, 1.3, 2) * 1.6
    v = y + bend * _fractal(random, n, 1.3, 2) * 1.6
    turn, mesh = random.uniform(0, np.pi), 0.0
    for k in range(3):
        direction = turn + k * np.pi / 3 * 2
        mesh = mesh + np.cos(np.pi * cells * (u * np.cos(direction) + v * np.sin(direction)))
    holes = (mesh + 1.5) / 4.5  # 1 in the centre of a hole
    return np.clip(1 - 1.55 * holes, 0, 1) ** 0.8


def _spots(
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
        blob = _step(1 - np.hypot(u * ratio, v / ratio) / (radius * wobble), soft * 2)
        window = field[top : top + blob.shape[0], left : left + blob.shape[1]]
        np.maximum(window, blob * random.uniform(0.65, 1.0), out=window)
    return field


def _lines(n: int, strokes: list[tuple[np.ndarray, np.ndarray]], blur: float) -> np.ndarray:
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


def _curve(
    random: np.random.Generator, start: np.ndarray, heading: float, length: float, bend: float, steps: int = 24
) -> tuple[np.ndarray, np.ndarray]:
    headings = heading + np.cumsum(random.normal(0, bend, steps)) + random.normal(0, bend) * np.arange(steps) * 0.3
    moves = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / steps
    return np.vstack([start, start + np.cumsum(moves, axis=0)]), headings


def _vessel_tree(
    random: np.random.Generator, start: np.ndarray, heading: float, length: float, width: float, depth: int = 3
) -> list[tuple[np.ndarray, np.ndarray]]:
    """An arborising vessel: a winding trunk that thins and forks."""
    points, headings = _curve(random, start, heading, length, 0.16)
    strokes = [(points, np.linspace(width, width * 0.55, len(points)))]
    if depth:
        for _ in range(random.integers(2, 4)):
            place = int(random.integers(5, len(headings)))
            turned = headings[place] + random.choice([-1, 1]) * random.uniform(0.5, 1.1)
            strokes += _vessel_tree(
                random, points[place], turned, length * random.uniform(0.4, 0.65), width * 0.58, depth - 1
            )
    return strokes


def _hairs(view: np.random.Generator, side: int) -> np.ndarray:
    strokes = []
    heading = view.uniform(0, 2 * np.pi)
    for _ in range(view.integers(1, 12)):
        start = view.uniform(-1.1, 1.1, 2)
        points, _ = _curve(view, start, heading + view.normal(0, 0.5), view.uniform(0.5, 1.9), 0.05)
        strokes.append((points, np.linspace(0.013, 0.005, len(points)) * view.uniform(0.6, 1.3)))
    return np.clip(_lines(side, strokes, 0.5) * view.uniform(0.5, 1.0), 0, 1)


def _bubbles(view: np.random.Generator, side: int) -> np.ndarray:
    x, y = _grid(side)
    field = np.zeros((side, side), np.float32)
    for _ in range(view.integers(1, 5)):
        cx, cy, radius = view.uniform(-0.9, 0.9), view.uniform(-0.9, 0.9), view.uniform(0.02, 0.08)
        ring = np.hypot(x - cx, y - cy) / radius
        field += 0.12 * np.exp(-(((ring - 1) * 6) ** 2)) + 0.3 * np.exp(
            -(((x - cx) / radius + 0.4) ** 2 + ((y - cy) / radius + 0.4) ** 2) * 30
        )
    return field


def _skin(random: np.random.Generator, n: int) -> np.ndarray:
    """Melanin, blood and surface relief of the skin around a lesion, [3, n, n]."""
    melanin = random.uniform(0.0, 0.2) * (1 + 0.16 * _fractal(random, n, 1.2, 2))
    blood = random.uniform(0.02, 0.34) * (1 + 0.14 * _fractal(random, n, 1.5, 1))
    blood = blood + 0.03 * np.clip(_fractal(random, n, 0.9, 8), 0, None)
    x, y = _grid(n)
    turn, furrows = random.uniform(0, np.pi), 0.0
    warp = 0.02 * _fractal(random, n, 1.4, 3)
    for direction in (turn, turn + random.uniform(0.9, 1.6)):
        phase = (x * np.cos(direction) + y * np.sin(direction) + warp) * random.uniform(26, 38)
        furrows = furrows + np.clip(np.cos(phase) - 0.55, 0, 1)
    relief = 0.35 * _fractal(random, n, 0.8, 10) + random.uniform(0, 0.9) * furrows
    if random.random() < 0.3:  # sun-damaged skin: light freckles
        everywhere = np.ones((n, n), np.float32)
        melanin = melanin + random.uniform(0.05, 0.14) * gaussian_filter(
            _spots(random, n, 14, (0.03, 0.10), everywhere, 0.7), n / 128
        )
    return np.stack([np.clip(melanin, 0, None), np.clip(blood, 0, None), relief]).astype(np.float32)


# Entities


def _nevus(random: np.random.Generator, n: int) -> Layers:
    """Melanocytic nevus: symmetric, one or two browns, a regular network or regular globules, a fading border."""
    shape = _outline(random, n, (0.34, 0.66), 0.35, random.uniform(0.22, 0.5))
    amount = random.uniform(0.45, 1.25)
    body = shape.inside * (0.5 + 0.3 * np.clip(shape.depth, 0, 1)) * (1 + 0.10 * _fractal(random, n, 1.4, 3))
    pattern = random.choice(["network", "globules", "homogeneous"], p=[0.5, 0.3, 0.2])
    if pattern == "network":
        mesh = _network(random, n, random.uniform(15, 24), 0.55)
        fade = np.clip(1.2 - 0.5 * np.clip(shape.depth, 0, 1), 0, 1)
        epidermal = amount * (0.62 * body + 0.62 * shape.inside * mesh * fade)
    elif pattern == "globules":
        globules = _spots(random, n, 240, (0.016, 0.034), shape.inside, 0.35, 0.2, 0.9)
        epidermal = amount * (0.6 * body + 0.55 * globules * shape.inside)
    else:
        epidermal = amount * 1.1 * body
    blood = shape.inside * random.uniform(0.0, 0.35)
    dermal = shape.inside * random.uniform(0, 0.12)
    return Layers(epidermal, dermal, blood, np.zeros_like(epidermal))


def _melanoma(random: np.random.Generator, n: int) -> Layers:
    """Melanoma: lopsided, several colours in patches, broken broad network, streaks, blots and a blue-white veil."""
    shape = _outline(random, n, (0.44, 0.70), 0.8, random.uniform(0.10, 0.28), 0.4, random.uniform(0.1, 0.3))
    patches = _fractal(random, n, 2.4, 1.2)
    amount = random.uniform(0.55, 1.25)
    epidermal = shape.inside * amount * (0.5 + 0.5 * _step(patches, 1.6) + 0.16 * _fractal(random, n, 1.2, 5))
    mesh = _network(random, n, random.uniform(9, 14), 1.7)
    epidermal = epidermal + amount * 0.6 * shape.inside * mesh * _step(_fractal(random, n, 2.2, 2), 1.0)
    if random.random() < 0.65:  # streaks over part of the border
        middle, spread = random.uniform(-np.pi, np.pi), random.uniform(0.5, 1.3)
        strokes = []
        for heading in middle + random.uniform(-spread, spread, random.integers(12, 26)):
            start = np.array([np.cos(heading), np.sin(heading)]) * shape.size * random.uniform(0.70, 0.88)
            points, _ = _curve(random, start, heading, random.uniform(0.10, 0.24), 0.06, 10)
            strokes.append((points, np.linspace(0.034, 0.010, len(points))))
        epidermal = epidermal + amount * 0.55 * _lines(n, strokes, 2.2)
    blots = _spots(random, n, random.integers(3, 9), (0.05, 0.12), shape.inside, 0.9, 0.5)
    epidermal = epidermal + amount * 0.55 * blots * shape.inside
    veil = shape.inside * _step(_fractal(random, n, 2.6, 1.2) - random.uniform(0.0, 1.0), 1.8)
    dermal = 0.62 * veil * (1 + 0.15 * _fractal(random, n, 1.6, 3)) + 0.1 * shape.inside
    white = 0.22 * veil * _step(_fractal(random, n, 1.9, 3), 1.4)
    blood = shape.inside * random.uniform(0.1, 0.5) * _step(-patches, 1.6)
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
    vessels = _lines(n, strokes, 0.9)
    nests = _spots(
        random, n, random.integers(4, 15), (0.045, 0.13), shape.inside * (shape.depth > 0.05), 0.55, 0.5, 0.8
    )
    nests = gaussian_filter(nests, 1.6 * n / 256)
    blood = (
        shape.inside * random.uniform(0.1, 0.4) * (1 + 0.2 * _fractal(random, n, 1.6, 3))
        + random.uniform(0.6, 1.1) * vessels
    )
    pigmented = random.choice([0.35, 0.75, 1.1])
    rim = _spots(random, n, random.integers(0, 8), (0.03, 0.07), shape.inside * (shape.depth < 0.35), 0.4, 0.9)
    white = 0.2 * shape.inside * _step(_fractal(random, n, 1.7, 3) - 0.3, 0.9)
    return Layers(0.10 * shape.inside + 0.5 * pigmented * rim, pigmented * nests, blood, white)


def _benign_keratosis(random: np.random.Generator, n: int) -> Layers:
    """Benign keratosis: stuck-on brown with a sharp moth-eaten border, milia-like cysts, comedo-like openings, ridges."""
    shape = _outline(random, n, (0.42, 0.72), 0.6, random.uniform(0.035, 0.08))
    inside = shape.inside
    bites = _spots(random, n, random.integers(8, 20), (0.05, 0.10), np.exp(-((shape.depth / 0.06) ** 2)), 0.25)
    inside = inside * (1 - 0.9 * bites)
    amount = random.uniform(0.4, 1.15)
    ridges = np.abs(_fractal(random, n, 1.5, 5))  # brain-like fissures where it nears zero
    fissures = np.exp(-((ridges / 0.16) ** 2))
    epidermal = amount * inside * (0.75 + 0.14 * _fractal(random, n, 1.2, 4) + 0.42 * fissures)
    openings = _spots(random, n, random.integers(8, 28), (0.018, 0.042), inside, 0.3, 0.3, 1.2)
    cysts = _spots(random, n, random.integers(14, 40), (0.016, 0.036), inside * (shape.depth > 0.06), 0.5, 0.15, 1.4)
    epidermal = epidermal * (1 - 0.55 * cysts) + 0.95 * openings * inside
    blood = inside * random.uniform(0.0, 0.3)
    return Layers(epidermal, inside * random.uniform(0, 0.28), blood, 0.62 * cysts * inside)


def _actinic_keratosis(random: np.random.Generator, n: int) -> Layers:
    """Actinic keratosis: strawberry pattern, a red pseudo-network around pale follicles, with scale; no sharp border."""
    shape = _outline(random, n, (0.5, 0.85), 0.8, 0.7)
    where = np.clip(shape.inside + 0.15, 0, 1)
    follicles = _spots(random, n, 420, (0.028, 0.048), where, 0.55, 0.15, 1.05)
    redness = random.uniform(0.35, 0.85) * shape.inside * (1 + 0.25 * _fractal(random, n, 1.5, 3))
    blood = redness * (1 - 0.85 * follicles) + 0.05
    scale = _step(_fractal(random, n, 1.25, 4) - random.uniform(0.7, 1.3), 0.35) * shape.inside
    plugs = gaussian_filter(follicles, n / 256) * shape.inside
    pigment = random.choice([0.0, 0.25, 0.55], p=[0.4, 0.35, 0.25])
    epidermal = 0.12 * shape.inside + pigment * shape.inside * (1 - follicles) * _step(_fractal(random, n, 1.8, 2), 0.8)
    return Layers(
        epidermal, np.zeros_like(blood), np.clip(blood, 0, None), 0.26 * plugs + random.uniform(0.2, 0.55) * scale
    )


def _dermatofibroma(random: np.random.Generator, n: int) -> Layers:
    """Dermatofibroma: a central white scar-like patch within a fine peripheral network that fades outward."""
    shape = _outline(random, n, (0.46, 0.74), 0.28, random.uniform(0.4, 0.7), 0.2)
    centre = _step(shape.depth - random.uniform(0.45, 0.62) + 0.07 * _fractal(random, n, 1.5, 3), 0.35)
    ring = shape.inside * (1 - centre)
    mesh = _network(random, n, random.uniform(24, 32), 0.5)
    amount = random.uniform(0.4, 0.95)
    epidermal = amount * ring * (0.45 + 0.75 * mesh) * (1 + 0.10 * _fractal(random, n, 1.4, 3))
    strands = _step(_fractal(random, n, 1.4, 6), 0.6)
    white = centre * (random.uniform(0.2, 0.4) + 0.25 * strands)
    blood = shape.inside * random.uniform(0.08, 0.45)
    return Layers(epidermal + 0.06 * centre, ring * random.uniform(0, 0.12), blood, white)


def _vascular_lesion(random: np.random.Generator, n: int) -> Layers:
    """Vascular lesion: sharply set red to purple lacunae, parted by whitish septa, sometimes a dark thrombosed part."""
    shape = _outline(random, n, (0.32, 0.62), 0.4, random.uniform(0.05, 0.12))
    lacunae = _spots(
        random, n, random.integers(30, 90), (0.06, 0.13), shape.inside * (shape.depth > 0.02), 0.3, 0.35, 0.72
    )
    tone = random.uniform(0.0, 1.0)  # red to purple
    depth_map = 1 + 0.35 * _fractal(random, n, 1.6, 3)
    blood = shape.inside * random.uniform(0.35, 0.7) + lacunae * random.uniform(0.7, 1.5) * np.clip(depth_map, 0.3, 2)
    dermal = lacunae * tone * random.uniform(0.3, 0.9) * np.clip(depth_map, 0.3, 2)
    if random.random() < 0.3:
        clot = shape.inside * _step(_fractal(random, n, 2.2, 1.3) - 0.7, 0.5)
        dermal = dermal + 1.1 * clot
    septa = shape.inside * (1 - lacunae)
    white = random.uniform(0.15, 0.4) * septa * np.clip(shape.depth * 4, 0, 1)
    return Layers(np.zeros_like(blood), dermal, blood * np.clip(shape.inside * 1.4, 0, 1), white)


_PAINTERS = {
    "mel": _melanoma,
    "nv": _nevus,
    "akiec": _actinic_keratosis,
    "bkl": _benign_keratosis,
    "bcc": _basal_cell_carcinoma,
    "df": _dermatofibroma,
    "vasc": _vascular_lesion,
}
