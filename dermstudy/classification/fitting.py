"""One run of any network on any training set: `fit(network, training set, seed)`, kept by all that it depends on.

A network has name, settings (plain values), folder (where runs are kept), prepare(sets) and fit(training set, seed) ->
(Predictions, record); one whose `alone` is false is trained in processes of its own, which begin with `start`. Attempts are
counted as docs/PROTOCOL.md does: a run that ends in an error is tried again by its own seed.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from dermstudy.classification.predictions import Predictions, load_predictions, save_predictions
from dermstudy.classification.training_sets import Images, TrainingSet
from dermstudy.entities import CODES
from dermstudy.files import InputError, atomic_path, sha256_text
from dermstudy.source import code_hash

ATTEMPTS = 3
FROM_OUTSIDE = (InputError, OSError, MemoryError)  # bad input, no disk, no memory: these are no attempts
NO_MEMORY = {"OutOfMemoryError", "ResourceExhaustedError"}  # as torch and TensorFlow call it
Run = tuple[Predictions, pd.DataFrame]  # of one seed; and its learning curve, or the penalties tried


class Network(Protocol):
    """What `fit_all` trains."""

    name: str
    images: Images
    settings: Mapping
    folder: Path

    def prepare(self, sets: Sequence[TrainingSet]) -> None: ...

    def fit(self, chosen: TrainingSet, seed: int) -> Run: ...


def fit(network: Network, chosen: TrainingSet, seed: int) -> Run:
    """A run, trained or as it was kept: its Predictions of the tested images and its record.

    A run that cannot be finished has failed and is kept as one: probabilities of NaN, an empty record. What came from outside
    (bad input, no disk, no memory) is raised, and so is an interrupt.
    """
    kept = kept_run(network, chosen, seed)
    if not kept.is_dir():
        name = f"{network.name}, {chosen.protocol}, {chosen.name}, seed {seed}"
        found, record = _attempted(lambda: network.fit(chosen, seed), name) or (_failed(network, chosen, seed), None)
        with atomic_path(kept) as temporary:
            temporary.mkdir(parents=True)
            save_predictions(found, temporary / "run.npz")
            (pd.DataFrame() if record is None else record).to_json(temporary / "record.json", double_precision=15)
    found = load_predictions(kept / "run.npz")
    record = pd.read_json(kept / "record.json", precise_float=True)
    return replace(found, images=chosen.images), record


def fit_all(
    network: Network, sets: Mapping[str, TrainingSet], seeds: Sequence[int], workers: int = 1
) -> dict[str, list[Run]]:
    """`fit` of every set and seed, `workers` at once, so that a cut study goes on where it stopped; by the sets' keys."""
    waiting = [
        (network, chosen, seed)
        for chosen in sets.values()
        for seed in seeds
        if not kept_run(network, chosen, seed).is_dir()
    ]
    if waiting and not getattr(network, "alone", True):
        network.prepare([chosen for _, chosen, _ in waiting])
        initializer, given = network.start
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=initializer, initargs=given) as pool:
            list(pool.map(fit, *zip(*waiting, strict=True)))
    return {key: [fit(network, chosen, seed) for seed in seeds] for key, chosen in sets.items()}


def kept_run(network: Network, chosen: TrainingSet, seed: int) -> Path:
    """The folder of a run: named by rows, images, settings, seed and code."""
    rows = [getattr(chosen, part).to_json() for part in ("train", "watched", "tested")]
    pools = {pool for part in (chosen.train, chosen.watched, chosen.tested) for pool in part["pool"]}
    hashes = {pool: network.images.pools[pool].data_hash for pool in sorted(pools)}
    code = code_hash(type(network).__module__)
    identity = [chosen.protocol, chosen.name, asdict(chosen.composition), chosen.images_per_epoch, rows, hashes]
    return network.folder / sha256_text(json.dumps([*identity, network.settings, seed, code], default=str))[:16]


def _failed(network: Network, chosen: TrainingSet, seed: int) -> Predictions:
    runs = pd.DataFrame({"network": [network.name], "training_set": [chosen.name], "seed": [seed]})
    nothing = np.full((1, len(chosen.tested), len(CODES)), np.nan, np.float32)
    return Predictions(chosen.images, runs, chosen.prior()[None], nothing)


def _attempted(run: Callable[[], Run], name: str) -> Run | None:
    """What `run` gives at the first of ATTEMPTS that ends without an error; None where none does. Says each that did not."""
    for number in range(1, ATTEMPTS + 1):
        try:
            return run()
        except Exception as error:  # whatever a library raises where a network cannot be trained
            names = {kind.__name__ for kind in type(error).__mro__}
            if isinstance(error, FROM_OUTSIDE) or names & NO_MEMORY or "can't allocate memory" in str(error):
                raise
            message = " ".join(str(error).split())
            said = f"attempt {number} of {ATTEMPTS} not finished, {type(error).__name__}: {message}"
            print(f"{name}: {said}", flush=True)
    return None
