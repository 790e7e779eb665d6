"""The last blocks of the pretrained network fine-tuned for the trial: a sensitivity analysis of its answer.

Blocks before `pretrained.TUNED_FROM` stay as they came, so that their activations of a few fixed views of each image are
computed once and kept; what follows is trained on those. Source: docs/PROTOCOL.md for the training sets and what a seed is;
the recipe is this study's own, its epochs chosen by validation lesions.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dermstudy import pretrained
from dermstudy.classification import feature_sets, predictions, protocol
from dermstudy.classification.attempts import attempted
from dermstudy.classification.encoding import View, encode_early
from dermstudy.classification.frozen_features import balanced_log_loss, macro_auc
from dermstudy.classification.predictions import EXTERNAL, IMAGE_COLUMNS, Predictions
from dermstudy.data.dataset import Cohort
from dermstudy.entities import CODES
from dermstudy.files import code_hash, sha256_text, write_text
from dermstudy.processor import bf16_products

EPOCH_COLUMNS = ["epoch", "loss", "balanced_log_loss", "macro_auc"]
RECORD_COLUMNS = ["training_set", "seed", *EPOCH_COLUMNS, "steps"]


@dataclass(frozen=True)
class Tuning:
    """How the last blocks are trained. An image is seen once an epoch, through one of `views` by chance.

    The rate of the new last layer is `last_rate`, of the blocks `rate`; both warm up over a tenth of the steps and fall to
    zero by a cosine. The epoch whose validation lesions have the least balanced log loss is kept.
    """

    views: tuple[View, ...] = (View(224), View(224, 0.8, 5), View(224, 0.66, 2), View(224, 0.9, 7))
    epochs: int = 6
    batch: int = 32
    rate: float = 3e-4
    last_rate: float = 3e-3
    decay: float = 0.05
    dropout: float = 0.2
    precision: str = "fp32"


def of_side(side: int, epochs: int, precision: str = "fp32") -> Tuning:
    """The default recipe at another number of pixels and of epochs."""
    views = tuple(replace(view, side=side) for view in Tuning.views)
    return Tuning(views, epochs, precision=precision)


@dataclass(frozen=True)
class Activations:
    """Where the early activations lie: pool -> a file a view, rows as in the pool's frame."""

    files: Mapping[str, Sequence[Path]]

    def opened(self) -> dict[str, list[np.ndarray]]:
        """The files mapped, not read."""
        return {
            pool: [np.load(path, mmap_mode="r", allow_pickle=False) for path in own] for pool, own in self.files.items()
        }


@dataclass(frozen=True)
class Job:
    """All that one run needs, small enough to hand to another process.

    rows: of a `feature_sets.FeatureSet`; images: IMAGE_COLUMNS and `pool`, `place` of what is predicted.
    """

    name: str
    rows: pd.DataFrame
    prior: np.ndarray
    images: pd.DataFrame
    activations: Activations
    tuning: Tuning
    seed: int
    keeps: Path


def encoded(
    originals: Cohort,
    synthetic: Mapping[str, Cohort],
    tuning: Tuning,
    folder: str | Path,
    external: Cohort | None = None,
) -> Activations:
    """The early activations of every pool through every view of `tuning`, kept in `folder`; InputError as `encode`."""
    cohorts = {feature_sets.ORIGINALS: originals, **synthetic}
    if external is not None:
        cohorts[EXTERNAL] = external
    return Activations({
        pool: [encode_early(cohort, folder, view) for view in tuning.views] for pool, cohort in cohorts.items()
    })  # fmt: skip


def predicted(originals: pd.DataFrame, external: pd.DataFrame | None = None) -> pd.DataFrame:
    """IMAGE_COLUMNS of `predictions.to_predict`, with `pool` and `place`: where the activations of each image are."""
    own = originals.assign(pool=feature_sets.ORIGINALS, place=np.arange(len(originals)))
    others = None if external is None else external.assign(pool=EXTERNAL, place=np.arange(len(external)))
    return predictions.to_predict(own, others)[[*IMAGE_COLUMNS, "pool", "place"]]


def jobs(
    names: Sequence[str], seeds: Sequence[int], originals: pd.DataFrame, synthetic: Mapping[str, pd.DataFrame],
    activations: Activations, tuning: Tuning, folder: str | Path, external: pd.DataFrame | None = None,
) -> list[Job]:  # fmt: skip
    """A job for each training set of `names` and each of `seeds`; results are kept in `folder` by all they depend on."""
    made, images = [], predicted(originals, external)
    for name in names:
        chosen = feature_sets.make_feature_set(name, originals, synthetic)
        prior = chosen.seen_prior(chosen.weights())
        for seed in seeds:
            content = [
                chosen.rows.drop(columns="group").to_json(), images.to_json(), seed, asdict(tuning),
                {pool: [path.name for path in own] for pool, own in activations.files.items()},
                code_hash(train, _optimizer, _probabilities, _batch, pretrained.LastBlocks, pretrained.Depthwise,
                    balanced_log_loss, Predictions, attempted),
                arithmetic(tuning),
            ]  # fmt: skip
            place = Path(folder) / f"{sha256_text(json.dumps(content, default=str))[:16]}.npz"
            made.append(Job(name, chosen.rows, prior, images, activations, tuning, seed, place))
    return made


def arithmetic(tuning: Tuning) -> str:
    """ "bf16" where that is asked for and the processor has it, else "fp32"."""
    return "bf16" if tuning.precision == "bf16" and bf16_products() else "fp32"


def run_all(asked: Sequence[Job], workers: int = 1) -> tuple[Predictions, pd.DataFrame]:
    """`run_once` for every job, `workers` at a time in processes of one thread each; runs in the order of `asked`.

    One thread whatever the machine: a run's answers depend on it. The table has a row an epoch of each run, RECORD_COLUMNS:
    EPOCH_COLUMNS as `train` has them, and the steps of an epoch.
    """
    waiting = [job for job in asked if not _finished(job)]
    if waiting:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(run_once, waiting))
    shown = asked[0].images[list(IMAGE_COLUMNS)]
    found = predictions.joined([replace(predictions.load(job.keeps), images=shown) for job in asked])
    record = pd.concat([pd.read_csv(_epochs_of(job)) for job in asked], ignore_index=True)
    return found, record[RECORD_COLUMNS]


def run_once(job: Job) -> Path:
    """Train one job and write its Predictions to `job.keeps` and its epochs beside them, unless both are there.

    A run that has failed (docs/PROTOCOL.md) is kept as well, its log probabilities NaN.
    """
    if _finished(job):
        return job.keeps
    job.keeps.parent.mkdir(parents=True, exist_ok=True)
    started, name = time.monotonic(), f"{job.name}, seed {job.seed}"
    found, epochs = attempted(lambda: train(job), name) or (failed(job), pd.DataFrame(columns=EPOCH_COLUMNS))
    seconds = f"{time.monotonic() - started:.0f} s"
    if epochs["balanced_log_loss"].isna().all():
        print(f"{name}: failed, no epoch gives numbers, {seconds}", flush=True)
    else:
        best = epochs.loc[epochs["balanced_log_loss"].idxmin()]
        print(
            f"{name}: epoch {best['epoch']:.0f} of {len(epochs)} kept, validation macro AUC {best['macro_auc']:.3f}, {seconds}",
            flush=True,
        )
    steps = -(-int(job.rows["repetitions"].sum()) // job.tuning.batch)
    record = epochs.assign(training_set=job.name, seed=job.seed, steps=steps)[RECORD_COLUMNS]
    write_text(_epochs_of(job), record.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return predictions.save(found, job.keeps)


def _epochs_of(job: Job) -> Path:
    return job.keeps.with_suffix(".csv")


def _finished(job: Job) -> bool:
    return job.keeps.is_file() and _epochs_of(job).is_file()


def failed(job: Job) -> Predictions:
    """The Predictions of a run that has failed: no number for any image."""
    shown = job.images[list(IMAGE_COLUMNS)]
    return Predictions(shown, _runs(job), job.prior[None], np.full((1, len(shown), len(CODES)), np.nan, np.float32))


def _runs(job: Job) -> pd.DataFrame:
    return pd.DataFrame({"network": [protocol.TUNED], "training_set": [job.name], "seed": [job.seed]})


def train(job: Job) -> tuple[Predictions, pd.DataFrame]:
    """The best epoch's Predictions, and a row an epoch: EPOCH_COLUMNS, the last two of validation lesions.

    An epoch after which the network gives no numbers is the last, for none will give them again; where it is the first the
    run has failed.
    """
    tuning, views = job.tuning, job.activations.opened()
    torch.manual_seed(job.seed)
    random = np.random.default_rng([job.seed, 17])
    network = pretrained.LastBlocks(len(CODES), tuning.dropout).to(memory_format=torch.channels_last)
    rows = job.rows.loc[job.rows.index.repeat(job.rows["repetitions"].astype(int))].reset_index(drop=True)
    targets = torch.from_numpy(pd.Index(CODES).get_indexer(rows["dx"]))
    optimizer, schedule = _optimizer(network, tuning, -(-len(rows) // tuning.batch) * tuning.epochs)
    shown, validation = job.images[list(IMAGE_COLUMNS)], (job.images["split"] == "validation").to_numpy()
    table, best = [], None
    for epoch in range(1, tuning.epochs + 1):
        network.train()
        losses, order = [], random.permutation(len(rows))
        for start in range(0, len(order), tuning.batch):
            own = order[start : start + tuning.batch]
            inputs = _batch(views, rows.iloc[own], random.integers(len(tuning.views), size=len(own)))
            with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic(tuning) == "bf16"):
                logits = network(inputs)
            loss = torch.nn.functional.cross_entropy(logits.float(), targets[own])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        held = _probabilities(network, views, job.images[validation], tuning)
        if np.isnan(held).any():
            table.append((epoch, np.mean(losses), np.nan, np.nan))
            break
        answers = Predictions(shown[validation].reset_index(drop=True), _runs(job), job.prior[None], np.log(held)[None])
        score = balanced_log_loss(answers)[0]
        table.append((epoch, np.mean(losses), score, macro_auc(answers)[0]))
        if best is None or score < best[0]:
            best = score, {name: value.clone() for name, value in network.state_dict().items()}
    epochs = pd.DataFrame(table, columns=EPOCH_COLUMNS)
    if best is None:
        return failed(job), epochs
    network.load_state_dict(best[1])
    logarithms = np.log(_probabilities(network, views, job.images, tuning))
    return Predictions(shown, _runs(job), job.prior[None], logarithms[None]), epochs


def _optimizer(network: pretrained.LastBlocks, tuning: Tuning, steps: int):
    """AdamW with a rate for the blocks and one for the last layer, and the schedule of both over `steps`."""
    last = list(network.last.parameters())
    blocks = [weight for name, weight in network.named_parameters() if not name.startswith("last.")]
    groups = [{"params": blocks, "lr": tuning.rate}, {"params": last, "lr": tuning.last_rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=tuning.decay)
    warm = max(1, steps // 10)

    def share(step: int) -> float:
        return min(1.0, (step + 1) / warm) * 0.5 * (1 + np.cos(np.pi * min(1.0, step / steps)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


@torch.inference_mode()
def _probabilities(network: torch.nn.Module, views: Mapping, images: pd.DataFrame, tuning: Tuning) -> np.ndarray:
    """Probabilities float32 [n, 7] of `images` (pool, place), the mean over the views."""
    network.eval()
    parts = []
    for start in range(0, len(images), 64):
        own, total = images.iloc[start : start + 64], 0
        for view in range(len(tuning.views)):
            with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic(tuning) == "bf16"):
                logits = network(_batch(views, own, np.full(len(own), view)))
            total = total + logits.float().softmax(1)
        parts.append((total / len(tuning.views)).clamp(min=1e-26).numpy())
    return np.concatenate(parts)


def _batch(views: Mapping[str, Sequence[np.ndarray]], rows: pd.DataFrame, seen: np.ndarray) -> torch.Tensor:
    """Activations float32 [n, c, h, w] of `rows` (pool, place), each through the view of its number in `seen`."""
    chosen = [views[pool][view][place] for pool, place, view in zip(rows["pool"], rows["place"], seen, strict=True)]
    return torch.from_numpy(np.stack(chosen)).float().contiguous(memory_format=torch.channels_last)
