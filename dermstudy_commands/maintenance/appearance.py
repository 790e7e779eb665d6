"""Captions that say what is seen: size and colours of the lesion, skin tone, dark corners and hair, measured on an image.

A program measures each word, so that a caption is true of its image and a generator can learn it. The words are few, and
a caption that fewer than FEWEST training images share loses phrases until it is shared: it points at no single patient.
Sources: Otsu 1979 for the lesion's threshold; Lee et al., "Dullrazor" (Comput. Biol. Med. 27, 1997), for hair by closing.
The individual typology angle was tried for the skin: white balance puts nearly every image into its lightest class.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu
from tqdm import tqdm

from dermstudy.data.dataset import THREADS, Cohort
from dermstudy.entities import by_code
from dermstudy.files import atomic_path, sha256_text

SIDE = 128  # pixels at which an image is looked at
FEWEST = 5  # training images that share a caption
KEEP = 0.7  # chance that a phrase stays in a caption
SIZES = ((0.08, "small"), (0.25, "medium-sized"), (1.01, "large"))  # share of the field
SKINS = {  # CIELAB, as it looks under the dermatoscope's light
    "pale skin": (78, 9, 5), "pink skin": (72, 24, 7), "red skin": (57, 35, 17), "tan skin": (66, 14, 20),
    "grey skin": (60, 9, 3), "violet skin": (66, 17, -6), "dark skin": (42, 14, 14),
}  # fmt: skip
COLOURS = {  # CIELAB
    "black": (12, 3, 2), "dark brown": (28, 16, 14), "brown": (42, 22, 20), "light brown": (58, 17, 21),
    "blue-grey": (42, 3, -4), "grey": (60, 3, 2), "red": (42, 44, 22), "pink": (66, 24, 8), "purple": (42, 34, -8),
    "white": (82, 5, 4),
}  # fmt: skip
SECOND = 0.2  # share of the lesion from which a second colour is named
DARK = 25  # CIELAB lightness of a corner under the rim of the dermatoscope
HAIR = 0.02  # share of the field
MEASURES = ("size", "colours", "skin", "corners", "hair")
PHRASES = ("colours", "skin", "size", "hair", "corners", "site", "person")  # a rare caption loses the last one first


def appearance(image: np.ndarray) -> dict[str, str]:
    """The words of MEASURES for an image uint8 [SIDE, SIDE, 3]; an empty one where nothing is to be said."""
    lab = rgb2lab(image)
    lightness = ndimage.gaussian_filter(lab[..., 0], 2)
    rim, lesion = _rim(lightness), np.zeros(lightness.shape, bool)
    inside = lightness[~rim]
    if np.ptp(inside) > 8:
        lesion = _central((lightness < threshold_otsu(inside)) & ~rim)
    words = dict.fromkeys(MEASURES, "")
    share = lesion.sum() / (~rim).sum()
    if 0.01 < share < 0.9:
        words["size"] = next(word for bound, word in SIZES if share < bound)
        words["colours"] = _colours(lab[lesion])
    skin = lab[~(ndimage.binary_dilation(lesion, iterations=4) | rim)]
    if len(skin) > 0.02 * lightness.size:
        words["skin"] = list(SKINS)[int(_nearest(np.median(skin, axis=0)[None], SKINS)[0])]
    ends = slice(6), slice(-6, None)
    dark = sum(lightness[rows, columns].mean() < DARK for rows in ends for columns in ends)
    words["corners"] = "dark corners" if dark >= 2 else ""
    closed = ndimage.grey_closing(lab[..., 0], footprint=_disc(4)) - lab[..., 0]
    words["hair"] = "hair" if _thin((closed > 9) & ~rim).sum() > HAIR * (~rim).sum() else ""
    return words


def _rim(lightness: np.ndarray) -> np.ndarray:
    """Dark pixels that touch a corner."""
    labels, _ = ndimage.label(lightness < DARK + 5)
    found = {labels[row, column] for row in (0, -1) for column in (0, -1)} - {0}
    return ndimage.binary_dilation(np.isin(labels, list(found)), iterations=3)


def _central(mask: np.ndarray) -> np.ndarray:
    """The part of `mask` that has the most pixels near the middle, its holes filled."""
    labels, count = ndimage.label(ndimage.binary_opening(mask, iterations=2))
    if not count:
        return np.zeros_like(mask)
    row, column = np.indices(mask.shape) / (len(mask) - 1) - 0.5
    weight = np.exp(-(row**2 + column**2) / 0.08)
    scores = ndimage.sum_labels(weight, labels, np.arange(1, count + 1))
    return ndimage.binary_fill_holes(labels == 1 + int(np.argmax(scores)))


def _colours(pixels: np.ndarray) -> str:
    """The main colour of pixels in CIELAB [n, 3], and the second where it has its share."""
    shares = np.bincount(_nearest(pixels, COLOURS), minlength=len(COLOURS)) / len(pixels)
    first, second = np.argsort(-shares, kind="stable")[:2]
    names = list(COLOURS)
    chosen = sorted([first, second] if shares[second] >= SECOND else [first])
    return " and ".join(names[index] for index in chosen)


def _nearest(pixels: np.ndarray, named: dict[str, tuple]) -> np.ndarray:
    """Which of the named colours each pixel in CIELAB [n, 3] is nearest to, lightness at half its weight: [n]."""
    return ((pixels[:, None, :] - np.array(list(named.values()))) ** 2 * (0.5, 1, 1)).sum(-1).argmin(1)


def _disc(radius: int) -> np.ndarray:
    row, column = np.indices((2 * radius + 1,) * 2) - radius
    return row**2 + column**2 <= radius**2


def _thin(mask: np.ndarray) -> np.ndarray:
    """The parts of `mask` that are long: their box is wider than three times their mean width."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    long = [0.0] + [np.hypot(*(edge.stop - edge.start for edge in box)) for box in ndimage.find_objects(labels)]
    keep = (np.array(long) > 16) & (np.array(long) ** 2 > 4 * sizes)
    keep[0] = False
    return keep[labels]


def with_appearance(cohort: Cohort, cache: Path) -> pd.DataFrame:
    """The cohort's frame with the columns of MEASURES; kept in `cache` by the data's hash."""
    names = sha256_text(" ".join(cohort.frame["image_id"]))[:16]
    path = Path(cache) / f"appearance-{cohort.data_hash[:16]}-{names}.csv"
    if not path.is_file():
        with ThreadPoolExecutor(THREADS) as pool:
            words = pool.map(lambda name: appearance(cohort.image(name, SIDE)), cohort.frame["image_id"])
            rows = list(tqdm(words, "what images show", len(cohort), mininterval=10))
        table = pd.DataFrame(rows).assign(image_id=cohort.frame["image_id"])
        with atomic_path(path) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
    return cohort.frame.merge(pd.read_csv(path, keep_default_na=False), on="image_id", how="left", validate="1:1")


def phrases(frame: pd.DataFrame) -> pd.DataFrame:
    """What each row's caption can say, a column a phrase of PHRASES; "" where nothing is known."""
    known = frame[list(MEASURES)].copy()
    known["size"] = known["size"].where(known["size"] == "", known["size"] + " lesion")
    known["colours"] = known["colours"].where(known["colours"] == "", "in " + known["colours"])
    site = frame["localization"].where(~frame["localization"].isin(["", "unknown"]), "")
    known["site"] = site.where(site == "", "on the " + site)
    person = frame["sex"].map({"male": "man", "female": "woman"}).fillna("person")
    age = pd.to_numeric(frame["age"], errors="coerce")
    aged = "of a " + age.map(lambda years: f"{years:.0f} year old ", na_action="ignore").fillna("") + person
    known["person"] = aged.where(age.notna() | (person != "person"), "")
    return known[list(PHRASES)]


def captions(frame: pd.DataFrame, training: pd.DataFrame, seed: int, keep: float = KEEP) -> pd.Series:
    """One caption a row: the entity, and each phrase with the chance `keep`, as far as FEWEST rows of `training` share it.

    frame, training: with the columns of `with_appearance`. The draw is a function of seed and image_id. An eighth of the
    captions is the entity's name alone, whatever `keep` is below 1.
    """
    said, shared = phrases(frame), phrases(training).assign(dx=training["dx"].to_numpy())
    counts: dict[tuple[str, ...], dict] = {}
    texts = []
    for image_id, code, row in zip(frame["image_id"], frame["dx"], said.to_dict("records"), strict=True):
        random = np.random.default_rng(int(sha256_text(f"{seed} {image_id}")[:16], 16))
        alone, drawn = random.random() < 1 / 8, random.random(len(PHRASES)) < keep
        kept = (
            []
            if alone and keep < 1
            else [name for name, stays in zip(PHRASES, drawn, strict=True) if stays and row[name]]
        )
        while kept and _shared(counts, shared, kept).get((code, *(row[name] for name in kept)), 0) < FEWEST:
            kept.pop()
        texts.append(text_of(code, {name: row[name] for name in kept}))
    return pd.Series(texts, index=frame.index)


def _shared(counts: dict, training: pd.DataFrame, names: Sequence[str]) -> dict:
    """How many rows of `training` share each combination of entity and the phrases `names`."""
    key = tuple(names)
    if key not in counts:
        counts[key] = training.groupby(["dx", *names]).size().to_dict()
    return counts[key]


def text_of(code: str, chosen: dict[str, str]) -> str:
    """A caption: "melanoma on the back of a 60 year old man, large lesion, in dark brown and blue-grey, light skin"."""
    head = " ".join([by_code(code).prompt, *(chosen[name] for name in ("site", "person") if chosen.get(name))])
    return ", ".join([head, *(chosen[name] for name in MEASURES if chosen.get(name))])
