"""Procedural dermoscopy: the embedded cohort, drawn from each entity's dermoscopic criteria.

A lesion is a set of absorption maps (melanin in the epidermis, melanin deep in the dermis, blood, white scatter) over
skin; light passes through them by the Beer-Lambert law, so pigments mix as they do in skin. The phantom exercises the
study where real images may not be shipped; nothing clinical follows from it.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import affine_transform, gaussian_filter

from dermstudy.entities import ENTITIES, HAM10000_IMAGES, by_code
from dermstudy.files import InputError, atomic_path
from dermstudy_commands.phantom.lesions import PAINTERS
from dermstudy_commands.phantom.texture import curve, fractal, grid, lines, spots

# Lesions of HAM10000 by their number of images: 1, 2, 3, 4 and more.
HAM10000_LESIONS_BY_IMAGES = (5514, 1423, 490, 43)
SHARES = ("ham10000", "balanced")

# Absorption of red, green and blue light by one unit of each pigment.
EPIDERMAL = np.array([0.55, 0.95, 1.30])
DERMAL = np.array([0.95, 0.80, 0.55])  # deep melanin looks blue-grey: red is absorbed most
BLOOD = np.array([0.16, 1.05, 0.75])


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
    `minimum_lesions` lesions an entity, and for a side or seed that is too small.
    """
    if side < 16 or seed < 0:
        raise InputError(
            f"a phantom image of {side} pixels, seed {seed}: give at least 16 pixels a side and a seed from 0"
        )
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


def arguments(settings: dict) -> dict[str, int]:
    """A profile's phantom.yaml as arguments of `write_cohort`; InputError for a missing setting."""
    names = {"images": "IMAGES", "seed": "SEED", "side": "SIDE", "minimum_lesions": "MIN_LESIONS"}
    if lacking := [name for name in names.values() if not isinstance(settings.get(name), int)]:
        raise InputError(f"phantom.yaml needs a whole number for {', '.join(lacking)}")
    return {argument: settings[name] for argument, name in names.items()}


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
    layers = PAINTERS[code](lesion, n).stack().astype(np.float32)
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


def _hairs(view: np.random.Generator, side: int) -> np.ndarray:
    strokes = []
    heading = view.uniform(0, 2 * np.pi)
    for _ in range(view.integers(1, 12)):
        start = view.uniform(-1.1, 1.1, 2)
        points, _ = curve(view, start, heading + view.normal(0, 0.5), view.uniform(0.5, 1.9), 0.05)
        strokes.append((points, np.linspace(0.013, 0.005, len(points)) * view.uniform(0.6, 1.3)))
    return np.clip(lines(side, strokes, 0.5) * view.uniform(0.5, 1.0), 0, 1)


def _bubbles(view: np.random.Generator, side: int) -> np.ndarray:
    x, y = grid(side)
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
    melanin = random.uniform(0.0, 0.2) * (1 + 0.16 * fractal(random, n, 1.2, 2))
    blood = random.uniform(0.02, 0.34) * (1 + 0.14 * fractal(random, n, 1.5, 1))
    blood = blood + 0.03 * np.clip(fractal(random, n, 0.9, 8), 0, None)
    x, y = grid(n)
    turn, furrows = random.uniform(0, np.pi), 0.0
    warp = 0.02 * fractal(random, n, 1.4, 3)
    for direction in (turn, turn + random.uniform(0.9, 1.6)):
        phase = (x * np.cos(direction) + y * np.sin(direction) + warp) * random.uniform(26, 38)
        furrows = furrows + np.clip(np.cos(phase) - 0.55, 0, 1)
    relief = 0.35 * fractal(random, n, 0.8, 10) + random.uniform(0, 0.9) * furrows
    if random.random() < 0.3:  # sun-damaged skin: light freckles
        everywhere = np.ones((n, n), np.float32)
        melanin = melanin + random.uniform(0.05, 0.14) * gaussian_filter(
            spots(random, n, 14, (0.03, 0.10), everywhere, 0.7), n / 128
        )
    return np.stack([np.clip(melanin, 0, None), np.clip(blood, 0, None), relief]).astype(np.float32)
