"""A head on frozen features: principal components of them, a multinomial logistic regression, its penalty by validation.

Sources: Bishop, Pattern Recognition and Machine Learning (2006), section 4.3.4, for the regression; Perronnin et al. (ECCV
2010) for the signed square root; Saerens et al. (Neural Computation 14, 2002) for the correction of a prior.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_softmax

from dermstudy.classification import predictions
from dermstudy.classification.feature_sets import ORIGINALS, FeatureSet, lesion_weights, make_feature_set
from dermstudy.classification.predictions import EXTERNAL, IMAGE_COLUMNS, Predictions, joined
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError, atomic_path, code_hash, sha256_text

NETWORK = "frozen features"
PENALTIES = tuple(float(f"{10**exponent:.3g}") for exponent in np.arange(-6, -1.9, 0.5))
AUGMENTED = "augmented"  # what a hash of the augmented features goes by
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
        blocks = [self._block(features[start : start + block]) for start in range(0, len(features), block)]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.axes.shape[1]), np.float32)

    def _block(self, features: np.ndarray) -> np.ndarray:
        return ((signed_root(features) - self.mean) / self.spread) @ self.axes


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
    inputs: np.ndarray,
    places: np.ndarray,
    weights: np.ndarray,
    penalty: float,
    offset: np.ndarray | None = None,
    start: Head | None = None,
) -> Head:
    """The head with the least weighted cross-entropy plus penalty / 2 times the squared length of its weights.

    inputs float32 [n, k]; places [n], the entity of each row in CODES; weights [n], adding up to 1 (rows of weight 0 are
    left out); offset [7] is added to the logits while fitting and left out after (Menon et al., equation 10). An entity
    without a row gets a bias of its vanishing prior. start: where to begin, a head of a near fit.
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
    found = minimize(
        loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 500, "gtol": TOLERANCE, "ftol": 1e-9}
    )
    kept = np.full(7, 1 / 7) if offset is not None else prior / prior.sum()
    return Head(found.x[:-7].reshape(size, 7).astype(np.float32), found.x[-7:].astype(np.float32), kept)


# The trial


@dataclass(frozen=True)
class Encoded:
    """Features of every pool that training sets take rows from, aligned with the pools' frames.

    features: pool -> [n, d]. augmented: of ORIGINALS through each draw of the stronger augmentation, [n, d] each; a row that
    is no training original may hold anything.
    """

    features: Mapping[str, np.ndarray]
    augmented: Sequence[np.ndarray] = ()


@dataclass(frozen=True)
class Trial:
    """What every run of a trial shares: originals and their features, generators' images, components and penalties.

    originals: image_id, dx, group, split, subset. synthetic: pool -> image_id, dx, source_image_id. external: other people's
    images to predict as well, image_id, dx, group (`data.external`), their features under EXTERNAL in `encoded`. blocks: as
    `fit_basis` takes them.
    """

    originals: pd.DataFrame
    encoded: Encoded
    synthetic: Mapping[str, pd.DataFrame]
    components: int
    penalties: Sequence[float] = PENALTIES
    external: pd.DataFrame | None = None
    blocks: np.ndarray | None = None

    @property
    def images(self) -> pd.DataFrame:
        """IMAGE_COLUMNS of `predictions.to_predict`."""
        return predictions.to_predict(self.originals, self.external)[list(IMAGE_COLUMNS)]


def run_trial(
    trial: Trial, names: Sequence[str], seeds: Sequence[int], seed: int = 0, keeps: str | Path | None = None
) -> tuple[Predictions, pd.DataFrame]:
    """A run for each training set of `names` and each seed, and the table of penalties tried.

    The basis is fitted once for each set of training originals, without their labels: on all of them, on the subset's for
    the subset's training sets, and on the synthetic images for "synthetic only"; no validation or test row enters it. So
    the training sets of a comparison differ in what the head learns from, and in nothing else. Each training set chooses
    its penalty on validation lesions with its lesions as they are, by the least balanced log loss; each of `seeds` then
    resamples training lesions at that penalty (without seeds a single run has them as they are). seed: which synthetic
    images and repetitions. keeps: a folder for finished training sets, by all that they depend on, so that a cut trial goes
    on where it stopped.
    The table has a row a training set and penalty: balanced_log_loss, macro_auc, chosen. Prints a line a training set.
    """
    parts, tables, bases = [], [], {}
    known = _hashes(trial.encoded) if keeps else {}
    for name in names:
        started = time.monotonic()
        chosen = make_feature_set(name, trial.originals, trial.synthetic, seed)
        kept = Path(keeps) / _identity(trial, chosen, seeds, known)[:16] if keeps else None
        if kept is not None and kept.is_dir():
            parts.append(replace(predictions.load(kept / "runs.npz"), images=trial.images))
            tables.append(pd.read_csv(kept / "penalties.csv").assign(training_set=name))
            continue
        key = (chosen.composition.originals, chosen.composition.subset)
        if key not in bases:
            bases[key] = _prepared(trial, chosen)
        _, inputs, evaluated = bases[key]
        runs, table = _runs(trial, chosen, inputs, evaluated, seeds)
        parts.append(runs)
        tables.append(table.assign(training_set=name))
        if kept is not None:
            with atomic_path(kept) as temporary:
                temporary.mkdir(parents=True)
                predictions.save(runs, temporary / "runs.npz")
                table.to_csv(temporary / "penalties.csv", index=False)
        penalty = table.loc[table["chosen"], "penalty"].item()
        print(f"{name}: {len(seeds)} seeds, penalty {penalty:g}, {time.monotonic() - started:.0f} seconds", flush=True)
    table = pd.concat(tables, ignore_index=True)
    return joined(parts), table[["training_set", *table.columns.drop("training_set")]]


def _hashes(encoded: Encoded) -> dict[str, list[str]]:
    """A hash of the features of each pool, and one of each augmented draw."""
    parts = {pool: [own] for pool, own in encoded.features.items()} | {AUGMENTED: encoded.augmented}
    return {pool: [sha256(np.ascontiguousarray(own).data).hexdigest() for own in part] for pool, part in parts.items()}


def _identity(trial: Trial, chosen: FeatureSet, seeds: Sequence[int], known: Mapping[str, list[str]]) -> str:
    """A hash of all that the runs of a training set depend on; a pool that it does not learn from makes no difference."""
    seen = {ORIGINALS, EXTERNAL, *chosen.rows["pool"], *([AUGMENTED] if chosen.composition.augmented else [])}
    features = {pool: value for pool, value in sorted(known.items()) if pool in seen}
    blocks = None if trial.blocks is None else trial.blocks.tolist()
    shared = [trial.images.to_json(), list(seeds), trial.components, list(trial.penalties), blocks]
    code = code_hash(Basis, signed_root, fit_basis, Head, fit_head, _prepared, rows_of, _runs, _fitted,
                     balanced_log_loss, macro_auc, FeatureSet, lesion_weights, Predictions)  # fmt: skip
    return sha256_text(json.dumps([chosen.name, chosen.rows.to_json(), features, *shared, code]))


def plain_head(trial: Trial, name: str, penalty: float) -> tuple[Basis, Head]:
    """The basis of one training set's originals and the head fitted in it, its lesions as they are: to be shipped."""
    chosen = make_feature_set(name, trial.originals, trial.synthetic)
    basis, inputs, _ = _prepared(trial, chosen)
    return basis, _fitted(chosen, inputs, penalty, None)


def predictions_of(
    log_probabilities: np.ndarray,
    prior: np.ndarray,
    images: pd.DataFrame,
    training_set: str = "all originals",
    seed: int = 0,
) -> Predictions:
    """One run's Predictions: log_probabilities [n, 7] of images (IMAGE_COLUMNS) by a head whose posteriors hold `prior` [7]."""
    runs = pd.DataFrame({"network": [NETWORK], "training_set": [training_set], "seed": [seed]})
    return Predictions(images, runs, np.asarray(prior)[None], log_probabilities[None])


def score_runs(predictions: Predictions, split: str) -> pd.DataFrame:
    """The scores of each run on the images of `split`, over the entities that are there.

    Columns network, training_set, seed, images, absent (names of entities that are in no score), macro_auc,
    balanced_accuracy and balanced_log_loss, all of posteriors corrected to an even prior. InputError where `split` has no
    image or one entity only.
    """
    own = predictions.select(split=split)
    present = set(own.images["dx"])
    if len(present) < 2:
        raise InputError(f"{len(own.images)} images of {len(present)} entities in {split}: a score needs two entities")
    absent = ", ".join(NAMES[code] for code in CODES if code not in present)
    return own.runs.assign(
        images=len(own.images), absent=absent, macro_auc=macro_auc(own), balanced_accuracy=balanced_accuracy(own),
        balanced_log_loss=balanced_log_loss(own),
    )  # fmt: skip


def balanced_log_loss(predictions: Predictions) -> np.ndarray:
    """Log loss [runs] of posteriors corrected to an even prior, each entity among the images counted the same."""
    places = _places(predictions.images["dx"])
    own = np.take_along_axis(predictions.corrected(), places[None, :, None], axis=2)[..., 0]
    losses = -np.log(np.maximum(own, 1e-12))
    return np.mean([losses[:, places == place].mean(axis=1) for place in np.unique(places)], axis=0)


def macro_auc(predictions: Predictions) -> np.ndarray:
    """Mean one-versus-rest AUC [runs] over the entities among the images, of posteriors corrected to an even prior."""
    from sklearn.metrics import roc_auc_score

    places, scores = _places(predictions.images["dx"]), predictions.corrected()
    present = np.unique(places)
    if len(present) < 2:
        raise InputError("an area under the curve needs images of two entities")
    return np.array([np.mean([roc_auc_score(places == p, run[:, p]) for p in present]) for run in scores])


def balanced_accuracy(predictions: Predictions) -> np.ndarray:
    """Mean recall [runs] over the entities among the images, of the largest posterior corrected to an even prior."""
    places = _places(predictions.images["dx"])
    right = predictions.corrected().argmax(axis=2) == places
    return np.mean([right[:, places == place].mean(axis=1) for place in np.unique(places)], axis=0)


def by_entity(predictions: Predictions) -> pd.DataFrame:
    """AUC, recall and number of images of each entity and split of a single run, posteriors corrected to an even prior.

    Columns split, entity (code), images, auc (against the rest), recall (of the largest posterior).
    """
    from sklearn.metrics import roc_auc_score

    scores, places, rows = predictions.corrected()[0], _places(predictions.images["dx"]), []
    for split in predictions.images["split"].unique():
        here = (predictions.images["split"] == split).to_numpy()
        for place in np.unique(places[here]):
            own = places[here] == place
            area, right = roc_auc_score(own, scores[here, place]), scores[here].argmax(axis=1)[own] == place
            rows.append(
                {"split": split, "entity": CODES[place], "images": own.sum(), "auc": area, "recall": right.mean()}
            )
    return pd.DataFrame(rows)


def _prepared(trial: Trial, chosen: FeatureSet) -> tuple[Basis, Encoded, np.ndarray]:
    """The basis of one training set's originals (synthetic where it has none), every pool's inputs, the evaluated ones."""
    rows = chosen.rows
    pool = ORIGINALS if (rows["pool"] == ORIGINALS).any() else rows["pool"].iloc[0]
    fitted = rows.loc[rows["pool"] == pool, "place"].to_numpy()
    basis = fit_basis(trial.encoded.features[pool][fitted], trial.components, trial.blocks)
    features = {name: basis.inputs(values) for name, values in trial.encoded.features.items()}
    evaluated = features[ORIGINALS][(trial.originals["split"] != "train").to_numpy()]
    if trial.external is not None:
        evaluated = np.concatenate([evaluated, features[EXTERNAL]])
    return basis, Encoded(features, [basis.inputs(values) for values in trial.encoded.augmented]), evaluated


def rows_of(chosen: FeatureSet, inputs: Encoded, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs [n, k], entity places [n] and weights [n] of a training set, each augmented draw a further row of its image.

    InputError where the set asks for the stronger augmentation and none was encoded.
    """
    values = np.empty((len(chosen.rows), inputs.features[ORIGINALS].shape[1]), np.float32)
    for pool, own in chosen.rows.groupby("pool"):
        values[own.index] = inputs.features[pool][own["place"]]
    places = _places(chosen.rows["dx"])
    if not chosen.composition.augmented:
        return values, places, weights
    if not inputs.augmented:
        raise InputError(f"{chosen.name} needs the augmented views of the originals: encode them first")
    copies = [values, *(draw[chosen.rows["place"]] for draw in inputs.augmented)]
    return np.concatenate(copies), np.tile(places, len(copies)), np.tile(weights / len(copies), len(copies))


def _runs(
    trial: Trial, chosen: FeatureSet, inputs: Encoded, evaluated: np.ndarray, seeds: Sequence[int]
) -> tuple[Predictions, pd.DataFrame]:
    def predicted(head: Head, seed: int) -> Predictions:
        return predictions_of(head.log_probabilities(evaluated), head.prior, trial.images, chosen.name, seed)

    table, heads = [], {}
    for penalty in sorted(trial.penalties, reverse=True):  # from the stiffest on, each from the one before
        heads[penalty] = _fitted(chosen, inputs, penalty, None, heads[min(heads)] if heads else None)
        validation = predicted(heads[penalty], 0).select(split="validation")
        row = {"penalty": penalty, "balanced_log_loss": balanced_log_loss(validation)[0]}
        table.append(row | {"macro_auc": macro_auc(validation)[0]})
    table = pd.DataFrame(table)
    table["chosen"] = table.index == table["balanced_log_loss"].idxmin()
    best = table.loc[table["chosen"], "penalty"].item()
    runs = [predicted(_fitted(chosen, inputs, best, seed, heads[best]), seed) for seed in seeds]
    return joined(runs or [predicted(heads[best], 0)]), table


def _fitted(chosen: FeatureSet, inputs: Encoded, penalty: float, seed: int | None, start: Head | None = None) -> Head:
    weights = chosen.weights(seed)
    prior = chosen.seen_prior(weights)
    offset = np.log(np.maximum(prior, 1e-6)) if chosen.composition.loss == "logit adjustment" else None
    return fit_head(*rows_of(chosen, inputs, weights), penalty, offset, start)


def _places(dx: pd.Series) -> np.ndarray:
    return pd.Index(CODES).get_indexer(dx)
