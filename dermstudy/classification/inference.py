"""Areas under the ROC curve of many runs, and contrasts of them whose error counts test lesions and seeds.

An area's placement values (DeLong et al., Biometrics 44, 1988) say how much each image moves it; summed over a lesion they
are the lesion's influence (Obuchowski, Biometrics 53, 1997), and resampling lesions becomes a product of matrices.
Lesions and seeds are crossed, as cases and readers are in reader studies: the variance of a mean over both is the lesions'
plus the seeds' less their interaction, which stands in both (Gallas, Acad. Radiol. 13, 2006; Cameron, Gelbach and Miller,
J. Bus. Econ. Stat. 29, 2011), and its degrees of freedom are Satterthwaite's, as in Hillis (Stat. Med. 26, 2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import permutation_test, rankdata, t

from dermstudy.classification.protocol import LEVEL
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError

RESAMPLES = 2000
FLIPS = 99_999  # labels are swapped in every way up to 16 seeds, in this many random ways above
SMALLEST = 1e-9  # of a standard error, so that training sets with one prediction can be compared


@dataclass(frozen=True)
class Lesions:
    """Test lesions in the order of their first image. member: bool sparse [images, lesions]; entity: place in CODES [lesions]."""

    member: sparse.csr_matrix
    entity: np.ndarray

    def strata(self) -> list[np.ndarray]:
        """The lesions of each entity that is there."""
        return [np.flatnonzero(self.entity == place) for place in np.unique(self.entity)]


@dataclass(frozen=True)
class Contrast:
    """One measure of each seed, a contrast of training sets, and how much each test lesion moves it.

    values float [seeds]; influence float [seeds, lesions]: an infinitesimal weight more on the lesion changes the value
    by this much; strata: the lesions of each entity.
    """

    values: np.ndarray
    influence: np.ndarray
    strata: list[np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A contrast's mean over seeds with what it rests on; `low` and `high` hold 1 - LEVEL, `df` are Satterthwaite's."""

    difference: float
    standard_error: float
    df: float
    lesions: float  # variance of the mean by lesions, the interaction included
    seeds: float  # the same by seeds
    interaction: float

    @property
    def low(self) -> float:
        return self.difference - t.ppf(1 - LEVEL / 2, self.df) * self.standard_error

    @property
    def high(self) -> float:
        return self.difference + t.ppf(1 - LEVEL / 2, self.df) * self.standard_error

    @property
    def p(self) -> float:
        """Two-sided, of a difference of zero; at most LEVEL exactly where the interval leaves out zero."""
        return _never_zero(2 * t.sf(abs(self.difference) / self.standard_error, self.df))

    def p_equivalence(self, margin: float) -> float:
        """Twice the larger p of the two one-sided tests against ±margin (Schuirmann, J. Pharmacokin. Biopharm. 15, 1987).

        Twice, so that it is at most LEVEL exactly where the interval lies inside the margin.
        """
        return min(1.0, _never_zero(2 * t.sf((margin - abs(self.difference)) / self.standard_error, self.df)))


def lesions_of(images: pd.DataFrame) -> Lesions:
    """The lesions (column group) of images; a lesion's entity is its first image's dx.

    InputError where an entity has a single lesion: nothing can be said of how much another one would differ.
    """
    place, _ = pd.factorize(images["group"])
    member = sparse.csr_matrix((np.ones(len(place)), (np.arange(len(place)), place)))
    first = images["dx"].groupby(place).first()
    unknown = set(first) - set(CODES)
    if unknown:
        raise InputError(f"the predictions name an entity that is not known: {', '.join(sorted(unknown))}")
    entity = np.array([CODES.index(code) for code in first])
    for code in CODES:
        if (entity == CODES.index(code)).sum() == 1:
            raise InputError(
                f"{NAMES[code]} has one test lesion: an interval needs two of each entity; leave its images out or add some"
            )
    return Lesions(member, entity)


def areas(probabilities: np.ndarray, dx: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """One-vs-rest areas [runs, 7] and the influence of each image on them [runs, images, 7]; NaN for absent entities.

    probabilities [runs, images, 7], entities as CODES. A positive image's placement value is the share of negatives
    below it, a negative one's the share of positives above it, ties by half; its influence is that less the area,
    divided by the number of images on its side.
    """
    dx = np.asarray(dx)
    found = np.full(probabilities.shape[::2], np.nan)
    influence = np.full(probabilities.shape, np.nan)
    for place, code in enumerate(CODES):
        own, scores = dx == code, probabilities[:, :, place]
        positive, negative = own.sum(), (~own).sum()
        if not positive or not negative:
            continue
        ranks = rankdata(scores, axis=1)
        above = (ranks[:, own] - rankdata(scores[:, own], axis=1)) / negative
        below = 1 - (ranks[:, ~own] - rankdata(scores[:, ~own], axis=1)) / positive
        found[:, place] = above.mean(axis=1)
        influence[:, own, place] = (above - found[:, [place]]) / positive
        influence[:, ~own, place] = (below - found[:, [place]]) / negative
    return found, influence


def mean_area(
    probabilities: np.ndarray, dx: Sequence[str], lesions: Lesions, entities: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The mean area of `entities` (None: all that are there) of each run [runs], and each lesion's influence [runs, lesions].

    InputError where none of them, or only one entity in all, is there.
    """
    chosen = [CODES.index(code) for code in (entities or CODES) if code in set(dx)]
    if not chosen or len(set(dx)) < 2:
        raise InputError("an area under the ROC curve needs images of an entity that is asked for and of another one")
    found, influence = areas(probabilities, dx)
    return found[:, chosen].mean(axis=1), influence[:, :, chosen].mean(axis=2) @ lesions.member


def mean_recall(answers: np.ndarray, dx: Sequence[str], lesions: Lesions) -> tuple[np.ndarray, np.ndarray]:
    """The mean recall [runs] of the entities that are there, and each lesion's influence [runs, lesions].

    answers: places in CODES [runs, images].
    """
    dx = np.asarray(dx)
    right, there = (np.array(CODES)[answers] == dx).astype(float), pd.unique(dx)
    influence, recalls = np.zeros_like(right), []
    for code in there:
        own = dx == code
        recalls.append(right[:, own].mean(axis=1))
        influence[:, own] = (right[:, own] - recalls[-1][:, None]) / own.sum() / len(there)
    return np.mean(recalls, axis=0), influence @ lesions.member


def estimate(contrast: Contrast, one_seed: bool = False) -> Estimate:
    """The mean over seeds with a standard error that counts lesions, seeds and, once, their interaction.

    Needs two lesions a stratum and two seeds (InputError), save where `one_seed` lets the error count lesions alone. Seeds'
    and lesions' own parts are at least zero.
    """
    values, n = contrast.values, len(contrast.values)
    if n < 2 and not one_seed:
        raise InputError(f"a comparison needs two seeds that ran in all its training sets, found {n}")
    by_lesion, residual, by_seed = [], [], []  # (variance of the mean, degrees of freedom) of each stratum
    for own in contrast.strata:
        part, count = contrast.influence[:, own], len(own)
        by_lesion.append((count * part.mean(axis=0).var(ddof=1), count - 1))
        if n > 1:
            rest = part - part.mean(axis=0) - part.mean(axis=1, keepdims=True) + part.mean()
            freedom = (n - 1) * (count - 1)
            residual.append((count * (rest**2).sum() / freedom / n, freedom))
    if n > 1:
        by_seed.append((values.var(ddof=1) / n, n - 1))
    lesions, interaction, seeds = (sum(v for v, _ in parts) for parts in (by_lesion, residual, by_seed))
    variance = interaction + max(0.0, lesions - interaction) + max(0.0, seeds - interaction)
    spread = sum(v**2 / freedom for v, freedom in [*by_lesion, *residual, *by_seed])
    df = max(1.0, variance**2 / spread) if spread else float(max(1, n - 1))
    error = max(float(np.sqrt(variance)), SMALLEST)
    return Estimate(float(values.mean()), error, df, float(lesions), float(seeds), float(interaction))


def lesion_weights(strata: list[np.ndarray], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each resample draws each lesion, whole lesions within their entity: float [resamples, lesions]."""
    random = np.random.default_rng(seed)
    weights = np.empty((resamples, sum(len(own) for own in strata)))
    for own in strata:
        weights[:, own] = random.multinomial(len(own), np.full(len(own), 1 / len(own)), resamples)
    return weights


def crossed_resamples(contrast: Contrast, weights: np.ndarray, seed: int = 0) -> np.ndarray:
    """The mean over resampled seeds on resampled lesions, both drawn anew in each resample: float [resamples]."""
    values = contrast.values[:, None] + contrast.influence @ (weights - 1).T
    return (seed_weights(len(contrast.values), len(weights), seed) * values.T).mean(axis=1)


def seed_weights(seeds: int, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each resample draws each seed: float [resamples, seeds]."""
    return np.random.default_rng([seed, 1]).multinomial(seeds, np.full(seeds, 1 / seeds), resamples).astype(float)


def over_seeds(values: np.ndarray) -> tuple[float, float]:
    """The t interval (1 - LEVEL) of the mean over seeds: for these test lesions, whatever others would say."""
    half = t.ppf(1 - LEVEL / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def swapped_labels(values: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of swapping the labels of the training sets seed by seed, which turns the sign of that seed's contrast.

    Every way is tried while there are at most FLIPS, else FLIPS random ones (scipy). With n seeds p is at least
    2 / 2^n: five seeds cannot reach 0.05.
    """

    def mean(sample: np.ndarray, axis: int) -> np.ndarray:
        return sample.mean(axis=axis)

    found = permutation_test(
        (values,), mean, permutation_type="samples", vectorized=True, n_resamples=FLIPS, batch=10_000, rng=seed
    )
    return float(found.pvalue)


def _never_zero(p: float) -> float:
    return float(max(p, np.finfo(float).tiny))
