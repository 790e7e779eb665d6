"""Images of different lesions that show the same skin: proposed by a network's features, decided by matched keypoints.

Sources: Lowe, "Distinctive image features from scale-invariant keypoints" (2004) and Fischler and Bolles, "Random sample
consensus" (1981), both through scikit-image; the pairs that an audit of DermaMNIST confirmed by hand (Abhishek et al.,
arXiv 2401.14497, newly_discovered_duplicates.csv), by which the search was set and is judged.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from dermstudy.data.dataset import Cohort
from dermstudy.files import atomic_path, progress, sha256_text
from dermstudy.pretrained import WEIGHTS_SHA256, pooled_features
from dermstudy.source import code_hash

PROPOSAL_SIDE = 128  # pixels of the images whose features are compared
KEYPOINT_SIDE = 256  # pixels of the images whose keypoints are matched
COLUMNS = ["image_id", "other_image_id", "similarity", "keypoints"]


def confirmed_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """The pairs of HAM10000 known to show the same skin whose images are both in `frame`, with how they are known.

    Columns image_id, other_image_id, source: "published audit" (18 pairs, two more "(another time)") or "search", found
    by `look_alikes` and confirmed by eye.
    """
    with resources.files("dermstudy.data").joinpath("ham10000_same_skin.csv").open(encoding="utf-8") as stream:
        known = pd.read_csv(stream, dtype=str)
    here = known["image_id"].isin(frame["image_id"]) & known["other_image_id"].isin(frame["image_id"])
    return known[here].reset_index(drop=True)


def look_alikes(
    cohort: Cohort, neighbours: int = 1, min_similarity: float = 0.55, min_keypoints: int = 6
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Pairs of images of one entity and different lesions that show the same skin, and the counts of the search.

    Each image and its nearest `neighbours` of other lesions (by whitened features, cosine at least `min_similarity`)
    are candidates. A pair is the same skin where at least `min_keypoints` keypoints agree on one shift, turn and scale.
    Candidates of two different entities cannot be one lesion: the share of them that pass is the rate of false alarms.
    neighbours = 0 leaves the search out. On HAM10000 the keypoints of 526 such candidates agree in 4 at most, those of 16 of
    the audit's 18 pairs in 8 to 100.
    Returns columns image_id, other_image_id, similarity (-1..1), keypoints; and the counts candidates, other_entity
    (candidates of two entities), false_alarms (those among them that pass).
    """
    ids, entity = cohort.frame["image_id"].to_numpy(), cohort.frame["dx"].to_numpy()
    candidates = _candidates(cohort, neighbours, min_similarity) if neighbours else []

    @lru_cache(maxsize=512)
    def keypoints(place: int):
        return _keypoints(cohort.image(ids[place], KEYPOINT_SIDE))

    records, counts = [], {"candidates": len(candidates), "other_entity": 0, "false_alarms": 0}
    for first, second, similarity in progress(candidates, len(candidates), "candidate pairs compared"):
        agreeing = _agreeing(keypoints(first), keypoints(second))
        if entity[first] != entity[second]:
            counts["other_entity"] += 1
            counts["false_alarms"] += agreeing >= min_keypoints
        elif agreeing >= min_keypoints:
            records.append((ids[first], ids[second], round(similarity, 3), agreeing))
    return pd.DataFrame(sorted(records), columns=COLUMNS), counts


def across(
    cohort: Cohort, known: Cohort, neighbours: int = 5, min_keypoints: int = 6, cache_folder: str | Path | None = None
) -> pd.DataFrame:
    """Pairs of an image of `cohort` and one of `known` that show the same skin, whatever their entities.

    Candidates are the nearest `neighbours` in `known` of each image, by square roots of features that are centred in each
    cohort by itself, for two clinics' pictures differ as a whole; keypoints decide as in `look_alikes`. Of
    HAM10000's pictures among 524 it found 15 of 15 that were saved anew at another size and brightness, 9 of 30 that were
    cropped, turned and recoloured as well, and no other: it is no proof that a folder holds nothing known. cache_folder:
    where the features of `known` are kept for the next search. Returns COLUMNS, image_id of `cohort` and other_image_id of
    `known`, a row an image: the known one with most keypoints.
    """
    similarity = _centred(_features(cohort)) @ _centred(_kept_features(known, cache_folder)).T
    records, names = [], list(cohort.frame["image_id"])

    @lru_cache(maxsize=4096)
    def known_keypoints(image_id: str):
        return _keypoints(known.image(image_id, KEYPOINT_SIDE))

    for row, image_id in enumerate(progress(names, len(names), "images compared with the known")):
        keypoints = _keypoints(cohort.image(image_id, KEYPOINT_SIDE))
        for place in np.argsort(-similarity[row], kind="stable")[:neighbours]:
            other = known.frame["image_id"].iloc[place]
            agreeing = _agreeing(keypoints, known_keypoints(other))
            if agreeing >= min_keypoints:
                records.append((image_id, other, round(float(similarity[row, place]), 3), agreeing))
    pairs = pd.DataFrame(records, columns=COLUMNS).sort_values(["image_id", "keypoints"], ascending=[True, False])
    return pairs.drop_duplicates("image_id").reset_index(drop=True)


def join_groups(frame: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """The group of each row: its lesion, joined with every lesion that a look-alike pair ties to it."""
    lesions = pd.Index(np.sort(frame["lesion_id"].unique()))
    lesion_of = frame.set_index("image_id")["lesion_id"]
    left = lesions.get_indexer(pairs["image_id"].map(lesion_of))
    right = lesions.get_indexer(pairs["other_image_id"].map(lesion_of))
    graph = coo_matrix((np.ones(len(pairs)), (left, right)), shape=(len(lesions), len(lesions)))
    _, labels = connected_components(graph, directed=False)
    first = pd.Series(lesions).groupby(labels).first()
    return pd.Series(first.loc[labels[lesions.get_indexer(frame["lesion_id"])]].to_numpy(), index=frame.index)


def _candidates(cohort: Cohort, neighbours: int, min_similarity: float) -> list[tuple[int, int, float]]:
    """Places of images of different lesions that are near in features, each pair once, the nearest first."""
    features = _whitened(_features(cohort))
    lesions = cohort.frame["lesion_id"].to_numpy()
    found: dict[tuple[int, int], float] = {}
    for start in range(0, len(features), 1024):
        similarity = features[start : start + 1024] @ features.T
        similarity[lesions[start : start + 1024, None] == lesions[None]] = -1
        for row in range(len(similarity)):
            for place in np.argsort(-similarity[row])[:neighbours]:
                if similarity[row, place] >= min_similarity:
                    found[tuple(sorted((start + row, int(place))))] = float(similarity[row, place])
    return [(*pair, value) for pair, value in sorted(found.items(), key=lambda item: -item[1])]


def _kept_features(cohort: Cohort, cache_folder: str | Path | None) -> np.ndarray:
    """`_features`, kept in a folder by all that they depend on."""
    if cache_folder is None:
        return _features(cohort)
    code, ids = code_hash(__name__), " ".join(cohort.frame["image_id"])
    identity = sha256_text(f"{WEIGHTS_SHA256} {code} {PROPOSAL_SIDE} {cohort.data_hash} {ids}")
    path = Path(cache_folder) / f"near-duplicates-{identity[:16]}.npy"
    if not path.is_file():
        features = _features(cohort)
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.save(stream, features, allow_pickle=False)
    return np.load(path, allow_pickle=False)


def _features(cohort: Cohort, batch: int = 256) -> np.ndarray:
    """Features [n, 1280] of every image, the mean over four quarter turns, so that a turned image stays near."""
    turned = (
        np.mean([pooled_features(np.rot90(images, turn, (1, 2))) for turn in range(4)], axis=0)
        for images in cohort.batches(PROPOSAL_SIDE, batch, "looked at for the same skin")
    )
    return np.concatenate(list(turned))


def _centred(features: np.ndarray) -> np.ndarray:
    """Square roots of features [n, d] (none is negative) less their mean, of length one."""
    roots = np.sqrt(np.maximum(features, 0))
    roots -= roots.mean(axis=0)
    return roots / np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), 1e-12)


def _whitened(features: np.ndarray, components: int = 256) -> np.ndarray:
    """Features [n, d] on their first principal components, their spreads evened out by a square root, of length one."""
    centred = features - features.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    kept = slice(0, min(components, max(2, len(features) // 3)))  # further ones are noise where images are few
    whitened = centred @ axes[kept].T / np.sqrt(values[kept] / np.sqrt(len(features)) + 1e-3)
    return whitened / np.maximum(np.linalg.norm(whitened, axis=1, keepdims=True), 1e-12)


def _keypoints(image: np.ndarray, most: int = 800) -> tuple[np.ndarray, np.ndarray]:
    """Places [k, 2] and SIFT descriptors [k, 128] of an image uint8 [h, w, 3]."""
    from skimage.color import rgb2gray
    from skimage.feature import SIFT

    detector = SIFT(upsampling=1, n_octaves=4, c_dog=0.005)
    try:
        detector.detect_and_extract(rgb2gray(image))
    except RuntimeError:  # it finds none in smooth skin
        return np.zeros((0, 2)), np.zeros((0, 128), np.float32)
    return detector.keypoints[:most], detector.descriptors[:most].astype(np.float32)


def _agreeing(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> int:
    """How many matched keypoints follow one similarity transform within 2.5 pixels."""
    from skimage.feature import match_descriptors
    from skimage.measure import ransac
    from skimage.transform import SimilarityTransform

    if min(len(first[0]), len(second[0])) < 4:
        return 0
    matches = match_descriptors(first[1], second[1], max_ratio=0.85, cross_check=True)
    if len(matches) < 4:
        return 0
    places = first[0][matches[:, 0]], second[0][matches[:, 1]]
    _, agreeing = ransac(places, SimilarityTransform, min_samples=2, residual_threshold=2.5, max_trials=300, rng=0)
    return 0 if agreeing is None else int(agreeing.sum())
