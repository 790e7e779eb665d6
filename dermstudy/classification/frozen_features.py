"""A linear probe on frozen features: principal components of them, a multinomial logistic regression, its penalty by validation.

Sources: Bishop, Pattern Recognition and Machine Learning (2006), section 4.3.4, for the regression; Perronnin et al. (ECCV
2010) for the signed square root; Menon et al. (arXiv 2007.07314), equation 10, for logit adjustment.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_softmax

from dermstudy.classification import measures, protocol
from dermstudy.classification.encoding import Settings, encode
from dermstudy.classification.predictions import IMAGE_COLUMNS, Predictions
from dermstudy.classification.training_sets import LOGIT_ADJUSTMENT, ORIGINALS, Images, TrainingSet
from dermstudy.entities import CODES
from dermstudy.files import InputError

PENALTIES = tuple(float(f"{10**exponent:.3g}") for exponent in np.arange(-6, -1.9, 0.5))
TOLERANCE = 1e-5  # of the gradient, at which a fit ends


@dataclass(frozen=True)
class Basis:
    """What turns features into the head's inputs: signed square root, standardisation, principal components.

    mean [d] of the square roots, spread [d] that they are divided by; axes [d, k]. The inputs' first component has a spread of 1.
    """

    mean: np.ndarray
    spread: np.ndarray
    axes: np.ndarray

    def inputs(self, features: np.ndarray, block: int = 1024) -> np.ndarray:
        """Inputs float32 [n, k] of features [n, d]."""
        starts = range(0, len(features), block)
        blocks = [((signed_root(features[at : at + block]) - self.mean) / self.spread) @ self.axes for at in starts]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.axes.shape[1]), np.float32)


def signed_root(features: np.ndarray) -> np.ndarray:
    """The square root of each feature's size with its sign, float32: long tails are drawn in."""
    values = np.asarray(features, np.float32)
    return np.sign(values) * np.sqrt(np.abs(values))


def fit_basis(features: np.ndarray, components: int, blocks: np.ndarray | None = None) -> Basis:
    """The basis of training features [n, d], with `components` axes or as many as n and d allow.

    blocks [d]: which block each column belongs to; every block gets the same variance, so that a depth of many channels
    does not outweigh the others.
    """
    from sklearn.decomposition import PCA

    values = signed_root(features)
    mean, spread = values.mean(axis=0), np.maximum(values.std(axis=0), 1e-4)
    if blocks is not None:
        _, place, size = np.unique(blocks, return_inverse=True, return_counts=True)
        spread = spread * np.sqrt(size[place]).astype(np.float32)
    values = (values - mean) / spread
    kept = min(components, *values.shape)
    solver = "randomized" if kept < min(values.shape) / 2 else "full"  # a tenth of the time where few are wanted
    analysis = PCA(kept, svd_solver=solver, iterated_power=4, random_state=0).fit(values)
    axes = analysis.components_.T / np.sqrt(analysis.explained_variance_[0])
    return Basis(mean, spread, np.ascontiguousarray(axes, np.float32))


@dataclass(frozen=True)
class Head:
    """A multinomial logistic regression: weights [k, 7], bias [7], and the prior [7] that is in its posteriors."""

    weights: np.ndarray
    bias: np.ndarray
    prior: np.ndarray

    def log_probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Natural logarithms float32 [n, 7] of the posteriors of inputs [n, k]."""
        return log_softmax(inputs @ self.weights + self.bias, axis=1).astype(np.float32)


def fit_head(
    inputs: np.ndarray, places: np.ndarray, weights: np.ndarray, penalty: float, offset: np.ndarray | None = None,
    start: Head | None = None,
) -> Head:  # fmt: skip
    """The head with the least weighted cross-entropy plus penalty / 2 times the squared length of its weights.

    inputs float32 [n, k]; places [n], the entity of each row in CODES; weights [n], adding up to 1 (rows of weight 0 are
    left out); offset [7] is added to the logits while fitting and left out after. An entity without a row gets a bias of its
    vanishing prior. start: where to begin, a head of a near fit.
    """
    seen = weights > 0
    x, weight = np.ascontiguousarray(inputs[seen], np.float32), weights[seen].astype(np.float32)
    target = np.zeros((len(x), len(CODES)), np.float32)
    target[np.arange(len(x)), places[seen]] = 1
    added = np.zeros(len(CODES), np.float32) if offset is None else offset.astype(np.float32)
    prior = np.maximum(weight @ target, 1e-6)
    size = x.shape[1]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = flat[:-7].reshape(size, 7).astype(np.float32), flat[-7:].astype(np.float32)
        log_p = log_softmax(x @ w + b + added, axis=1)
        slope = (np.exp(log_p) - target) * weight[:, None]
        value = -float(weight @ (log_p * target).sum(axis=1)) + penalty / 2 * float((flat[:-7] ** 2).sum())
        down = x.T @ slope + penalty * w
        return value, np.concatenate([down.ravel(), slope.sum(axis=0)]).astype(float)

    first = np.concatenate([np.zeros(7 * size), np.log(prior) - added])
    if start is not None:
        first = np.concatenate([start.weights.ravel(), start.bias]).astype(float)
    options = {"maxiter": 500, "gtol": TOLERANCE, "ftol": 1e-9}
    found = minimize(loss, first, jac=True, method="L-BFGS-B", options=options)
    kept = np.full(7, 1 / 7) if offset is not None else prior / prior.sum()
    return Head(found.x[:-7].reshape(size, 7).astype(np.float32), found.x[-7:].astype(np.float32), kept)


class Probe:
    """The probe on the training sets of some images: `fit(training set, seed)`. Each pool is encoded once, in `cache`.

    A basis is fitted once for each set of training originals, without their labels (on synthetic images where a set has no
    other): no validation or test row enters it. So the training sets of a comparison differ in what the head learns from,
    and in nothing else. draws: how often the stronger augmentation is laid over each view of the training originals.
    """

    name = protocol.FROZEN

    def __init__(
        self,
        images: Images,
        settings: Settings,
        cache: str | Path,
        draws: int = 0,
        penalties: Sequence[float] = PENALTIES,
    ):
        self.images, self.encoding, self.cache, self.draws = images, settings, Path(cache), draws
        self.folder, self.penalties = self.cache / "runs", penalties
        self.settings = {"encoding": asdict(settings), "draws": draws, "penalties": list(penalties)}
        self._known: dict = {}

    def prepare(self, sets: Sequence[TrainingSet]) -> None:
        """Encode what `sets` need."""
        for pool in {pool for chosen in sets for rows in (chosen.train, chosen.tested) for pool in rows["pool"]}:
            self.features(pool)

    def features(self, pool: str, draw: int = 0) -> np.ndarray:
        """Features float16 [n, d] of a pool's images; draw: of its training originals alone through the stronger augmentation."""
        if (pool, draw) not in self._known:
            cohort = self.images.pools[pool]
            train = (cohort.frame["split"] == "train").to_numpy() if draw else np.ones(len(cohort), bool)
            views = [replace(view, draw=draw) for view in self.encoding.views]
            shown = cohort.select(split="train") if draw else cohort
            values = self.encoding.features([encode(shown, self.cache, view) for view in views])
            whole = np.zeros((len(cohort), values.shape[1]), values.dtype)
            whole[train] = values
            self._known[pool, draw] = whole
        return self._known[pool, draw]

    def basis(self, chosen: TrainingSet) -> Basis:
        """The basis of a set's originals, or of its synthetic images where it has none."""
        rows = chosen.train
        rows = rows[rows["pool"] == (ORIGINALS if (rows["pool"] == ORIGINALS).any() else rows["pool"].iloc[0])]
        key = rows["pool"].iloc[0], rows["place"].to_numpy().tobytes()
        if key not in self._known:
            features = self.features(key[0])[rows["place"]]
            self._known[key] = fit_basis(features, self.encoding.components, self.encoding.blocks)
        return self._known[key]

    def inputs(self, basis: Basis, rows: pd.DataFrame, draw: int = 0) -> np.ndarray:
        """Inputs float32 [n, k] of `rows` (pool, place); a pool's are computed once a basis."""
        values = np.empty((len(rows), basis.axes.shape[1]), np.float32)
        for pool in rows["pool"].unique():
            key = id(basis), pool, draw
            if key not in self._known:
                self._known[key] = basis.inputs(self.features(pool, draw))
            own = (rows["pool"] == pool).to_numpy()
            values[own] = self._known[key][rows.loc[own, "place"]]
        return values

    def head(self, chosen: TrainingSet, penalty: float, seed: int | None, start: Head | None = None) -> Head:
        """The head fitted to a training set; seed: of its lesions' weights (None: as they are).

        Each draw of the stronger augmentation is a further row of its image, where the set asks for it.
        """
        basis, weights, offset = self.basis(chosen), chosen.weights(seed), None
        if chosen.composition.augmented and not self.draws:
            raise InputError(f"{chosen.name} needs the augmented views of the originals: encode them first")
        draws = range(1 + self.draws * chosen.composition.augmented)
        inputs = np.concatenate([self.inputs(basis, chosen.train, draw) for draw in draws])
        places = np.tile(measures.places_of(chosen.train["dx"]), len(draws))
        if chosen.composition.loss == LOGIT_ADJUSTMENT:
            offset = np.log(np.maximum(chosen.prior(weights), 1e-6))
        return fit_head(inputs, places, np.tile(weights / len(draws), len(draws)), penalty, offset, start)

    def tried(self, chosen: TrainingSet) -> tuple[dict[float, Head], pd.DataFrame]:
        """The head of each penalty, lesions as they are, and the table of what they score on the watched images.

        A row a penalty: balanced_log_loss, macro_auc, chosen: the one of the least balanced log loss.
        """
        key = chosen.protocol, chosen.name
        if key not in self._known:
            started, heads, rows = time.monotonic(), {}, []
            watched = self.inputs(self.basis(chosen), chosen.watched)
            for penalty in sorted(self.penalties, reverse=True):  # from the stiffest on, each from the one before
                heads[penalty] = self.head(chosen, penalty, None, heads[min(heads)] if heads else None)
                found = one_run(heads[penalty], watched, chosen.watched[list(IMAGE_COLUMNS)])
                scores = (measures.of_runs(one, found)[0] for one in (measures.balanced_log_loss, measures.macro_area))
                rows.append((penalty, *scores))
            table = pd.DataFrame(rows, columns=["penalty", "balanced_log_loss", "macro_auc"])
            table["chosen"] = table.index == table["balanced_log_loss"].idxmin()
            self._known[key] = heads, table
            best = table.loc[table["chosen"], "penalty"].item()
            print(f"{chosen.name}: penalty {best:g}, {time.monotonic() - started:.0f} seconds", flush=True)
        return self._known[key]

    def fit(self, chosen: TrainingSet, seed: int | None) -> tuple[Predictions, pd.DataFrame]:
        """One run on a training set: its Predictions of the tested images, and the penalties tried, as `tried` gives them.

        The penalty is chosen on watched images with lesions as they are; `seed` resamples training lesions at that penalty
        (None: they stay as they are).
        """
        heads, table = self.tried(chosen)
        penalty = table.loc[table["chosen"], "penalty"].item()
        head = heads[penalty] if seed is None else self.head(chosen, penalty, seed, heads[penalty])
        tested = self.inputs(self.basis(chosen), chosen.tested)
        return one_run(head, tested, chosen.images, chosen.name, seed or 0), table


def one_run(
    head: Head, inputs: np.ndarray, images: pd.DataFrame, training_set: str = protocol.ORIGINALS, seed: int = 0
) -> Predictions:
    """The Predictions of one head for inputs [n, k] of `images` (IMAGE_COLUMNS)."""
    runs = pd.DataFrame({"network": [protocol.FROZEN], "training_set": [training_set], "seed": [seed]})
    return Predictions(images.reset_index(drop=True), runs, head.prior[None], head.log_probabilities(inputs)[None])
