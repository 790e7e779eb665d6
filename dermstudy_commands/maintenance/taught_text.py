"""A text encoder that tells its captions apart before it conditions anything.

From nothing a base model learns for hours to ignore a caption, for what the caption tells lowers its loss by a hundredth. So the
encoder first learns to name entity, site and sex from the caption alone (text of training lesions, no pixel), and its pooled
vector is scaled so that entities lie SPREAD apart: as far as the time embedding that it is added to is long.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from dermstudy.diffusion.architecture import GlideTextEncoder

SPREAD = 8.0  # mean distance of the entities' pooled vectors from their mean
EACH = 128  # captions of an entity by which that distance is measured
COLUMNS = ("dx", "localization", "sex", "size", "colours", "skin", "corners", "hair")  # what is named, the entity first


def labels_of(frame: pd.DataFrame) -> np.ndarray:
    """The values of those COLUMNS that `frame` has as numbers, int64 [n, columns]."""
    return np.stack([pd.factorize(frame[column], sort=True)[0] for column in COLUMNS if column in frame], axis=1)


def teach(
    encoder: GlideTextEncoder, ids: torch.Tensor, mask: torch.Tensor, labels: np.ndarray, steps: int = 400,
    batch: int = 64, seed: int = 0,
) -> float:  # fmt: skip
    """Train `encoder` in place and return the share of captions whose entity its pooled vector names in the last steps.

    ids, mask [n, length]: captions, on the encoder's device; labels [n, columns]: what each is of, as labels_of gives it. The
    mean of the pooled vectors stays where it was, so that a U-Net that has met this encoder is not moved.
    """
    random = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = nn.ModuleList(nn.Linear(encoder.projection.out_features, int(column.max()) + 1) for column in labels.T)
    heads.to(ids.device)
    before = _pooled(encoder, ids, mask, random.integers(0, len(ids), 512)).mean(dim=0)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer, right = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0), []
    encoder.train()
    for step in range(steps):
        rows = random.integers(0, len(ids), batch)
        pooled = encoder(ids[rows], mask[rows])[1]
        targets = torch.from_numpy(labels[rows]).to(ids.device)
        answers = [head(pooled) for head in heads]
        loss = sum(functional.cross_entropy(answer, target) for answer, target in zip(answers, targets.T, strict=True))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50) * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        right.append(float((answers[0].argmax(dim=1) == targets[:, 0]).float().mean()))
    _spread_out(encoder, ids, mask, labels[:, 0], before, random)
    return float(np.mean(right[-20:]))


@torch.no_grad()
def _pooled(encoder, ids, mask, rows) -> torch.Tensor:
    return torch.cat([encoder(ids[part], mask[part])[1] for part in np.array_split(rows, 8)])


@torch.no_grad()
def _spread_out(encoder, ids, mask, entities: np.ndarray, mean: torch.Tensor, random) -> None:
    """Scale and shift the projection: entities SPREAD from their mean, that mean at `mean`."""
    rows = np.concatenate([random.choice(np.flatnonzero(entities == entity), EACH) for entity in np.unique(entities)])
    encoder.projection.weight.mul_(SPREAD / _distance(encoder, ids, mask, rows)[1])
    encoder.projection.bias.add_(mean - _distance(encoder, ids, mask, rows)[0])


def _distance(encoder, ids, mask, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of the entities' pooled vectors, EACH rows an entity, and their mean distance from it."""
    by_entity = torch.stack([part.mean(dim=0) for part in _pooled(encoder, ids, mask, rows).split(EACH)])
    centre = by_entity.mean(dim=0)
    return centre, (by_entity - centre).norm(dim=1).mean()
