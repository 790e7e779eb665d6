"""The last blocks of the pretrained network fine-tuned for the trial: a sensitivity analysis of its answer.

Blocks before `pretrained.TUNED_FROM` stay as they came, so that their activations of a few fixed views of each image are
computed once and kept; what follows is trained on those. Source: docs/PROTOCOL.md for the training sets and what a seed is;
the recipe is this study's own, its epochs chosen by validation lesions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dermstudy import pretrained
from dermstudy.classification import measures, protocol
from dermstudy.classification.encoding import View, encode_early
from dermstudy.classification.predictions import IMAGE_COLUMNS, Predictions
from dermstudy.classification.training_sets import Images, TrainingSet
from dermstudy.entities import CODES
from dermstudy.processor import bf16_products, device

EPOCH_COLUMNS = ["epoch", "loss", "validation_loss", "macro_auc", "steps"]
Activations = Mapping[str, Sequence[np.ndarray]]  # by pool, a view each: [n, c, h, w], mapped from a file


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

    @property
    def arithmetic(self) -> str:
        """ "bf16" where that is asked for and the processor has it, else "fp32"."""
        return "bf16" if self.precision == "bf16" and bf16_products() else "fp32"


def tuning_of_side(side: int, epochs: int, precision: str = "fp32") -> Tuning:
    """The default recipe at another number of pixels and of epochs."""
    views = tuple(replace(view, side=side) for view in Tuning.views)
    return Tuning(views, epochs, precision=precision)


class FineTuned:
    """The network on the training sets of some images: `fit(training set, seed)`.

    folder: keeps activations and runs. Give images that hold no more than the sets take (`Images.taken_by`): a thousand of
    224 pixels take 44 MB a view. Every run has a process of its own and one thread, since its answers depend on threads.
    """

    name = protocol.TUNED
    alone = False
    start = torch.set_num_threads, (1,)

    def __init__(self, images: Images, tuning: Tuning, folder: str | Path):
        self.images, self.tuning, self.folder, self.cache = images, tuning, Path(folder), Path(folder) / "activations"
        self.settings = asdict(tuning) | {"arithmetic": tuning.arithmetic}

    def prepare(self, sets: Sequence[TrainingSet]) -> None:
        """Compute the activations of every pool that `sets` read, where they are not kept."""
        self._activations(sets)

    def _activations(self, sets: Sequence[TrainingSet]) -> Activations:
        pools = {
            pool for chosen in sets for rows in (chosen.train, chosen.watched, chosen.tested) for pool in rows["pool"]
        }
        return {
            pool: [
                np.load(encode_early(self.images.pools[pool], self.cache, view), mmap_mode="r", allow_pickle=False)
                for view in self.tuning.views
            ]
            for pool in sorted(pools)
        }

    def fit(self, chosen: TrainingSet, seed: int) -> tuple[Predictions, pd.DataFrame]:
        """The best epoch's Predictions of the tested images, and a row an epoch: EPOCH_COLUMNS.

        validation_loss is the balanced log loss of validation lesions, macro_auc theirs too; steps are of one epoch. An epoch
        after which the network gives no numbers is the last, for none will give them again; where it is the first, the run
        has failed and its probabilities are NaN.
        """
        tuning, views = self.tuning, self._activations([chosen])
        torch.manual_seed(seed)
        random = np.random.default_rng([seed, 17])
        network = pretrained.LastBlocks(len(CODES), tuning.dropout).to(device(), memory_format=torch.channels_last)
        rows = chosen.seen
        targets = torch.from_numpy(measures.places_of(rows["dx"])).to(device())
        steps = -(-len(rows) // tuning.batch)
        optimizer, schedule = _optimizer(network, tuning, steps * tuning.epochs)
        table, best = [], None
        for epoch in range(1, tuning.epochs + 1):
            network.train()
            losses, order = [], random.permutation(len(rows))
            for start in range(0, len(order), tuning.batch):
                own = order[start : start + tuning.batch]
                inputs = _batch(views, rows.iloc[own], random.integers(len(tuning.views), size=len(own)))
                with torch.autocast(device().type, torch.bfloat16, enabled=tuning.arithmetic == "bf16"):
                    logits = network(inputs)
                loss = torch.nn.functional.cross_entropy(logits.float(), targets[own])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            held = self._answers(network, views, chosen, chosen.watched, seed)
            if not held.sound.all():
                table.append((epoch, np.mean(losses), np.nan, np.nan, steps))
                break
            score, area = (measures.of_runs(one, held)[0] for one in (measures.balanced_log_loss, measures.macro_area))
            table.append((epoch, np.mean(losses), score, area, steps))
            if best is None or score < best[0]:
                best = score, {name: value.clone() for name, value in network.state_dict().items()}
        if best is not None:
            network.load_state_dict(best[1])
        return self._answers(network, views, chosen, chosen.tested, seed), pd.DataFrame(table, columns=EPOCH_COLUMNS)

    @torch.inference_mode()
    def _answers(
        self, network: torch.nn.Module, views: Activations, chosen: TrainingSet, rows: pd.DataFrame, seed: int
    ) -> Predictions:
        """The network's Predictions of `rows`, the mean of its probabilities over the views."""
        network.eval()
        parts = []
        for start in range(0, len(rows), 64):
            own, total = rows.iloc[start : start + 64], 0
            for view in range(len(self.tuning.views)):
                with torch.autocast(device().type, torch.bfloat16, enabled=self.tuning.arithmetic == "bf16"):
                    logits = network(_batch(views, own, np.full(len(own), view)))
                total = total + logits.float().softmax(1)
            parts.append((total / len(self.tuning.views)).clamp(min=1e-26).cpu().numpy())
        runs = pd.DataFrame({"network": [self.name], "training_set": [chosen.name], "seed": [seed]})
        images = rows[list(IMAGE_COLUMNS)].reset_index(drop=True)
        return Predictions(images, runs, chosen.prior()[None], np.log(np.concatenate(parts))[None])


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


def _batch(views: Activations, rows: pd.DataFrame, seen: np.ndarray) -> torch.Tensor:
    """Activations float32 [n, c, h, w] of `rows` (pool, place), each through the view of its number in `seen`."""
    chosen = [views[pool][view][place] for pool, place, view in zip(rows["pool"], rows["place"], seen, strict=True)]
    return torch.from_numpy(np.stack(chosen)).to(device()).float().contiguous(memory_format=torch.channels_last)
