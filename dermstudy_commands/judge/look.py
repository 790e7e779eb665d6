"""Each image read once for all that is asked of it: the probe's features, two encoders', colours, a hash of its pixels.

What was read is kept by the files' hashes, 64 images a file, so that a run that was cut goes on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dermstudy import pretrained
from dermstudy.classification.encoding import Settings, encoded_now
from dermstudy.data.dataset import Cohort, digests
from dermstudy.evaluation import colour, encoders, judge
from dermstudy.evaluation.judge import Seen
from dermstudy.files import atomic_path, sha256_text
from dermstudy.source import code_hash
from dermstudy.weight_files import check_finite

AT_ONCE, BATCH = 64, 16  # images a file of the cache; images that a network sees together
BAR_AFTER = 10  # seconds


@dataclass(frozen=True)
class Looked:
    """What was read of labelled images, row by row: features of the probe float16 [n, d], `Seen`, hashes of pixels [n]."""

    features: np.ndarray
    seen: Seen
    pixels: np.ndarray


def look(
    cohort: Cohort, cache_folder: str | Path, settings: Settings, probe: bool = True, distances: bool = True
) -> Looked:
    """Everything asked of a cohort's images (frame: image_id, dx, group, file), shown by a bar after ten seconds.

    probe, distances: whether the probe's features, and those of the two encoders with the colours, are wanted. pixels: 16
    letters of the SHA-256 of the centre square at 256 pixels.
    """
    judges = [encoders.fid_encoder(), encoders.lite_encoder()] if distances else []
    hashes = cohort.frame["sha256"] if "sha256" in cohort.frame else digests(cohort.root, cohort.frame["file"])
    identity = (
        f"{pretrained.WEIGHTS_SHA256} {[judge.identity for judge in judges]} {settings} {probe} {code_hash(__name__)}"
    )
    read, hashes = [], list(hashes)
    starts = range(0, len(cohort), AT_ONCE)
    for start in tqdm(starts, "reading images", delay=BAR_AFTER, unit=f" x {AT_ONCE}"):
        key = sha256_text(" ".join([identity, *hashes[start : start + AT_ONCE]]))
        path = Path(cache_folder) / f"{key[:24]}.npz"
        if not path.is_file():
            some = list(cohort.frame["image_id"].iloc[start : start + AT_ONCE])
            content = _read(cohort, some, settings if probe else None, judges)
            with atomic_path(path) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, **content)
        with np.load(path, allow_pickle=False) as content:
            read.append({name: content[name] for name in content.files})
    whole = {name: np.concatenate([one[name] for one in read]) for name in read[0]}
    vectors = {judge.name: whole[judge.name] for judge in judges}
    frame = cohort.frame[["image_id", "dx", "group"]].reset_index(drop=True)
    return Looked(whole["features"], Seen(frame, vectors, whole["colours"]), whole["pixels"])


def _read(cohort: Cohort, names: list[str], settings: Settings | None, judges: list[encoders.Encoder]) -> dict:
    views = settings.views if settings else ()
    found = {"features": np.zeros((len(names), 0), np.float16), "colours": np.zeros((len(names), 6))}
    if views:
        viewed = [
            np.concatenate([encoded_now(cohort, view, part) for part in _batches(names)]) for view in views
        ]  # float16 [n, 6246] each
        found["features"] = settings.features(viewed)
    images = cohort.images(judge.SIDE, names)
    found["pixels"] = np.array([hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in images])
    for one in judges:
        found[one.name] = np.concatenate([one.features(images[start : start + BATCH]) for start in _starts(names)])
    if judges:
        found["colours"] = colour.colours(cohort.images(judge.COLOUR_SIDE, names))
    check_finite({name: values for name, values in found.items() if name != "pixels"}, cohort.name)
    return found


def _starts(names: list[str]) -> range:
    return range(0, len(names), BATCH)


def _batches(names: list[str]) -> list[list[str]]:
    return [names[start : start + BATCH] for start in _starts(names)]
