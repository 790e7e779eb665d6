"""The mathematics of image quality: pixel metrics, Fréchet and kernel distances, precision and recall, neighbours.

Sources: Shavlokhova et al., section 2.2; Heusel et al. (arXiv 1706.08500) for FID; Binkowski et al. (arXiv 1801.01401)
for KID; Kynkäänniemi et al. (arXiv 1904.06991) for precision and recall. torch-fidelity, scikit-image, scikit-learn and
TensorFlow compute them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dermstudy.files import InputError

BANDS = ((12, 24), (24, 48), (48, 96))  # cycles an image of 256 pixels
LUMINANCE = np.array([0.299, 0.587, 0.114])
SUBSETS = 50  # of KID between sets of unequal size
NEIGHBOURS = 3  # Kynkäänniemi et al. use the third nearest neighbour


# Pixels


def mse(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared error of two uint8 images [h, w, 3] on the unit scale, 0..1 (section 2.2)."""
    _same_shape(first, second)
    difference = first.astype(np.float64) / 255 - second.astype(np.float64) / 255
    return float(np.mean(difference**2))


def published_psnr(error: float) -> float:
    """PSNR in dB as Table 1 has it: a peak of 255 against an error on the unit scale, 48.13 dB above the usual."""
    return float(20 * np.log10(255) - 10 * np.log10(error)) if error > 0 else float("inf")


def psnr(error: float) -> float:
    """PSNR in dB of a mean squared error on the unit scale."""
    return float(-10 * np.log10(error)) if error > 0 else float("inf")


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two uint8 images [h, w, 3], each colour channel apart, then averaged (section 2.2).

    Source: Wang et al. 2004, through skimage.metrics.structural_similarity (7 x 7 window).
    """
    from skimage.metrics import structural_similarity

    _same_shape(first, second)
    if min(first.shape[:2]) < 7:
        raise InputError(f"SSIM needs images of at least 7 x 7 pixels, got {first.shape[0]} x {first.shape[1]}")
    return float(np.mean([structural_similarity(first[..., c], second[..., c], data_range=255) for c in range(3)]))


def pair_metrics(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """SSIM, published PSNR and MSE of image pairs uint8 [n, h, w, 3], averaged over the pairs."""
    if len(first) != len(second) or len(first) == 0:
        raise InputError(f"paired metrics need as many images on each side, got {len(first)} and {len(second)}")
    errors = [mse(a, b) for a, b in zip(first, second, strict=True)]
    return {
        "ssim": float(np.mean([ssim(a, b) for a, b in zip(first, second, strict=True)])),
        "psnr": float(np.mean([published_psnr(error) for error in errors])),
        "mse": float(np.mean(errors)),
    }


def band_power(images: np.ndarray, bands=BANDS) -> np.ndarray:
    """Mean power of the luminance of square images uint8 [n, h, h, 3] in each of `bands` (low <= cycles < high): [bands].

    A texture that is too smooth shows here; features of a network forgive it. Source: van der Schaaf and van Hateren, "Modelling
    the power spectra of natural images" (Vision Research 36, 1996), for the spectrum over a Hann window. InputError where the
    images are too small for a band.
    """
    side = images.shape[1]
    if images.ndim != 4 or images.shape[2] != side or 2 * max(high for _, high in bands) > side:
        raise InputError(f"a spectrum up to {bands[-1][1]} cycles needs square images that large, got {images.shape}")
    window = np.outer(*2 * [np.hanning(side)])
    cycles = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(side, 1 / side)]))
    total = np.zeros((side, side))
    for image in images:
        luminance = image @ LUMINANCE
        total += np.abs(np.fft.fft2((luminance - luminance.mean()) * window)) ** 2 / len(images)
    return np.array([total[(cycles >= low) & (cycles < high)].mean() for low, high in bands])


def _same_shape(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape:
        raise InputError(f"two images of a pair differ in size, {first.shape} and {second.shape}: resize them alike")


# Features


def fid(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance of two feature sets [n, d] and [m, d], each n, m >= 2.

    Source: Heusel et al., equation 6, through torch-fidelity. The features are first rotated into the space that
    they span together, which leaves the distance as it is and makes few images of many features cheap and stable.
    """
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    _features(first, second, 2, "FID")
    first, second = first.astype(np.float64), second.astype(np.float64)
    together = np.concatenate([first, second])
    centre = together.mean(axis=0)
    if len(together) < together.shape[1]:
        basis = np.linalg.svd(together - centre, full_matrices=False)[2]  # [n + m, d]
        first, second = (first - centre) @ basis.T, (second - centre) @ basis.T
    statistics = [fid_features_to_statistics(torch.from_numpy(np.ascontiguousarray(part))) for part in (first, second)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def kid(first: np.ndarray, second: np.ndarray) -> float:
    """Kernel distance of two feature sets, times 1,000: the squared maximum mean discrepancy, unbiased.

    Source: Binkowski et al., section 4, through torch-fidelity: cubic polynomial kernel, over all of both sets where they
    have the same size, else the mean over SUBSETS random subsets of the smaller one's size. Can be slightly negative.
    """
    import torch
    from threadpoolctl import threadpool_limits
    from torch_fidelity.metric_kid import kid_features_to_metric

    _features(first, second, 2, "KID")
    settings = {
        "kid_kernel": "poly",
        "kid_kernel_poly_degree": 3,
        "kid_kernel_poly_gamma": None,
        "kid_kernel_poly_coef0": 1.0,
    }
    settings |= {"kid_subsets": 1 if len(first) == len(second) else SUBSETS, "rng_seed": 0, "verbose": False}
    sides = [torch.from_numpy(side.astype(np.float64)) for side in (first, second)]
    with threadpool_limits(1, "blas"):  # threads of so small products wait for each other on busy cores
        result = kid_features_to_metric(*sides, kid_subset_size=min(len(first), len(second)), **settings)
    return 1000 * result["kernel_inception_distance_mean"]


def precision_recall(generated: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Share of generated images within the real manifold, and of real ones within the generated manifold.

    Source: Kynkäänniemi et al., equations 1 and 2, with three neighbours, through torch-fidelity.
    """
    import torch
    from torch_fidelity.metric_prc import prc_features_to_metric

    _features(generated, real, NEIGHBOURS + 1, "precision and recall")
    settings = {"prc_neighborhood": NEIGHBOURS, "prc_batch_size": 10_000, "save_cpu_ram": False, "verbose": False}
    result = prc_features_to_metric(torch.from_numpy(generated), torch.from_numpy(real), **settings)
    return result["precision"], result["recall"]


def inception_score(features: np.ndarray) -> float:
    """Inception score from a softmax over pooled features, the nearest reading of section 2.2 ("without the top layer").

    Source: Salimans et al. (arXiv 1606.03498), equation 1, through torch-fidelity, in one split. The usual score
    takes the class head, which this network has not.
    """
    import torch
    from torch_fidelity.metric_isc import isc_features_to_metric

    _features(features, features, 2, "the inception score")
    return isc_features_to_metric(torch.from_numpy(features), splits=1)["inception_score_mean"]


def _features(first: np.ndarray, second: np.ndarray, smallest: int, metric: str) -> None:
    for features in (first, second):
        if features.ndim != 2 or features.shape[1] != first.shape[1]:
            raise InputError(f"{metric} needs features [n, d] of one encoder, got {first.shape} and {second.shape}")
        if len(features) < smallest:
            raise InputError(
                f"{metric} needs at least {smallest} images on each side, got {len(first)} and "
                f"{len(second)}: synthesise or keep more images"
            )
        if not np.isfinite(features).all():
            raise InputError(
                f"{metric}: the features hold NaN or infinity; delete the features folder and encode again"
            )


def nearest(query: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> pd.DataFrame:
    """For each query its nearest training and held-out features: places, distances, and the ratio of the two.

    query [n, d], training [m, d], held_out [k, d]. A ratio far below that of real queries means that a generator
    repeats its training images. Columns training, held_out (places), training_distance, held_out_distance, ratio.
    """
    from sklearn.neighbors import NearestNeighbors

    _features(training, held_out, 1, "the nearest-neighbour audit")
    _features(query, training, 1, "the nearest-neighbour audit")
    found = {}
    for name, features in (("training", training), ("held_out", held_out)):
        distances, places = NearestNeighbors(n_neighbors=1).fit(features).kneighbors(query)
        found[name], found[f"{name}_distance"] = places[:, 0], distances[:, 0]
    table = pd.DataFrame(found)
    table["ratio"] = table["training_distance"] / table["held_out_distance"].clip(lower=1e-12)
    return table


def ms_ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Multi-scale structural similarity of image pairs uint8 [n, h, w, 3], h and w at least 176: [n].

    Source: Wang, Simoncelli and Bovik 2003, through tensorflow.image.ssim_multiscale.
    """
    from dermstudy.tensorflow_setup import import_tensorflow

    tensorflow = import_tensorflow()
    _same_shape(first, second)
    if min(first.shape[1:3]) < 176:
        raise InputError(f"MS-SSIM needs images of at least 176 x 176 pixels, got {first.shape[1]} x {first.shape[2]}")
    pairs = [tensorflow.convert_to_tensor(np.ascontiguousarray(images)) for images in (first, second)]
    return tensorflow.image.ssim_multiscale(*pairs, max_val=255).numpy()


def feature_metrics(
    generated: np.ndarray, real: np.ndarray, names: Sequence[str] = ("kid", "fid", "precision", "recall")
) -> dict[str, float]:
    """Those of `names` among KID (times 1,000), FID, precision and recall of two feature sets of equal size."""
    values = dict(zip(("precision", "recall"), precision_recall(generated, real), strict=True))
    values |= {name: metric(generated, real) for name, metric in (("kid", kid), ("fid", fid)) if name in names}
    return {name: values[name] for name in names}
