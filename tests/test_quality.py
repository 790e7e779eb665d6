"""Image quality: equal to torch-fidelity's and scikit-image's own, to formulas by hand, and sound at small n."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dermstudy import encoders, paper, quality
from dermstudy.entities import CODES
from dermstudy.files import InputError


@pytest.fixture(scope="module")
def features():
    random = np.random.default_rng(0)
    return random.normal(0, 1, (60, 32)).astype(np.float32), random.normal(0.5, 1.2, (60, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def encoded(cohort, tmp_path_factory):
    """FID-Inception features of 12 nevi and 12 melanomas of the phantom."""
    cache = tmp_path_factory.mktemp("features")
    parts = {code: cohort.select(dx=code) for code in ("nv", "mel")}
    parts = {code: part.select(image_id=part.frame["image_id"].head(12)) for code, part in parts.items()}
    return parts, cache, {code: encoders.encode(part, cache, side=128) for code, part in parts.items()}


def test_pixel_metrics_by_hand_and_by_scikit_image():
    from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

    random = np.random.default_rng(1)
    first, second = random.integers(0, 256, (2, 32, 32, 3), np.uint8)
    error = quality.mse(first, second)
    assert error == pytest.approx(mean_squared_error(first / 255, second / 255))
    assert quality.psnr(error) == pytest.approx(peak_signal_noise_ratio(first / 255, second / 255, data_range=1))
    assert quality.published_psnr(error) == pytest.approx(quality.psnr(error) + 48.1308, abs=1e-4)
    whole = structural_similarity(first, second, channel_axis=-1, data_range=255)
    assert quality.ssim(first, second) == pytest.approx(whole)
    assert quality.ssim(first, first) == pytest.approx(1) and quality.mse(first, first) == 0


def test_the_published_psnr_fits_table_1():
    table = paper.table_1()
    difference = table["psnr"] - table["mse"].map(quality.published_psnr)
    assert difference.between(0, 1.2).all()  # a mean of logarithms lies above the logarithm of the mean
    assert (table["psnr"] - table["mse"].map(quality.psnr)).min() > 48


def test_fid_by_hand_by_torch_fidelity_and_after_rotation(features):
    from scipy.linalg import sqrtm

    first, second = (part.astype(np.float64) for part in features)
    covariances = [np.cov(part, rowvar=False) for part in (first, second)]
    shift = first.mean(0) - second.mean(0)
    literal = shift @ shift + np.trace(sum(covariances) - 2 * sqrtm(covariances[0] @ covariances[1]).real)
    assert quality.fid(first, second) == pytest.approx(literal, rel=1e-6)
    wide = [np.concatenate([part, np.zeros((60, 400))], axis=1) for part in (first, second)]  # n < d: the rotated route
    assert quality.fid(*wide) == pytest.approx(literal, rel=1e-6)
    assert abs(quality.fid(wide[0], wide[0])) < 1e-3


def test_kid_by_hand(features):
    first, second = (part.astype(np.float64) for part in features)
    n, d = first.shape
    kernel = lambda a, b: (a @ b.T / d + 1) ** 3  # noqa: E731
    off = lambda k: (k.sum() - np.trace(k)) / (n * (n - 1))  # noqa: E731
    literal = off(kernel(first, first)) + off(kernel(second, second)) - 2 * kernel(first, second).mean()
    assert quality.kid(first, second) == pytest.approx(1000 * literal)


def test_precision_and_recall_by_hand(features):
    generated, real = features
    distance = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1)  # noqa: E731
    radius = lambda a: np.sort(distance(a, a), axis=1)[:, 3]  # noqa: E731
    precision = (distance(generated, real) <= radius(real)).any(axis=1).mean()
    recall = (distance(real, generated) <= radius(generated)).any(axis=1).mean()
    assert quality.precision_recall(generated, real) == pytest.approx((precision, recall), abs=0.02)


def test_metrics_grow_with_noise(features):
    random = np.random.default_rng(2)
    first, _ = features
    noisy = [first + scale * random.normal(0, 1, first.shape).astype(np.float32) for scale in (0.5, 1.0, 2.0)]
    for metric in (quality.fid, quality.kid):
        values = [metric(part, first) for part in noisy]
        assert values == sorted(values), metric.__name__


def test_inception_features_are_cached_and_independent_of_the_batch(encoded, monkeypatch):
    parts, cache, values = encoded
    assert values["nv"].shape == (12, 2048) and np.isfinite(values["nv"]).all()
    monkeypatch.setitem(encoders.ENCODERS, encoders.FID_INCEPTION, (None, encoders.FID_INCEPTION_SHA256))
    again = encoders.encode(parts["nv"], cache, side=128, batch=5)  # a cache miss would call None
    assert np.array_equal(again, values["nv"])
    monkeypatch.undo()
    alone = encoders.fid_inception_features(parts["nv"].images(128)[:1])
    assert np.allclose(alone[0], values["nv"][0], atol=1e-4)


def test_torch_fidelity_computes_the_same_from_the_registered_extractor(encoded, tmp_path):
    import torch_fidelity
    from PIL import Image

    parts, _, values = encoded
    for code, part in parts.items():
        (tmp_path / code).mkdir()
        for number, image in enumerate(part.images(128)):
            Image.fromarray(image).save(tmp_path / code / f"{number:02d}.png")
    name = encoders.register_with_torch_fidelity()
    result = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "nv"), input2=str(tmp_path / "mel"), cuda=False, fid=True, kid=True, isc=True,
        feature_extractor=name, feature_layer_isc="2048", feature_layer_fid="2048", feature_layer_kid="2048",
        kid_subset_size=12, kid_subsets=1, isc_splits=1, verbose=False, cache=False, batch_size=4, save_cpu_ram=True,
    )  # fmt: skip
    assert quality.fid(values["nv"], values["mel"]) == pytest.approx(result["frechet_inception_distance"], rel=1e-3)
    kid = 1000 * result["kernel_inception_distance_mean"]
    assert quality.kid(values["nv"], values["mel"]) == pytest.approx(kid, rel=1e-3)
    assert quality.inception_score(values["nv"]) == pytest.approx(result["inception_score_mean"], rel=1e-4)


def test_kid_tells_entities_from_halves_of_one(encoded):
    _, _, values = encoded
    between = quality.kid(values["nv"], values["mel"])
    within = quality.kid(values["nv"][:6], values["nv"][6:])
    assert abs(within) < 0.3 * between


def test_tables_have_the_promised_columns(features):
    real = {code: features[0] + index for index, code in enumerate(CODES)}
    made = {code: features[1] + index for index, code in enumerate(CODES)}
    pairs = pd.DataFrame({"dx": np.repeat(CODES, 3), "ssim": 0.2, "psnr": 60.0, "mse": 0.05})
    table = quality.as_published(pairs, real, made)
    assert list(table.columns) == ["n", "ssim", "psnr", "mse", "fid", "inception_score"]
    assert table.loc["overall", "fid"] == pytest.approx(table["fid"].drop("overall").mean())
    framed = {code: pd.DataFrame({"group": np.arange(60) // 2, "feature": list(part)}) for code, part in real.items()}
    audited = quality.audited(made, framed, framed, n=20, repeats=4)
    assert list(audited.columns) == ["entity", "n", "metric", "value", "low", "high", "floor"]
    kid = audited[audited["metric"] == "kid"]
    assert (kid["low"] < kid["value"]).all() and (kid["value"] < kid["high"]).all()
    assert (kid["value"] > kid["floor"]).all() and len(kid) == 7


def test_one_image_a_lesion_before_any_second():
    frame = pd.DataFrame(
        {"group": np.repeat(np.arange(10), 3), "feature": [np.array([g]) for g in np.repeat(np.arange(10), 3)]}
    )
    drawn = quality.draw_lesions(frame, 10, np.random.default_rng(0))
    assert sorted(drawn.ravel()) == list(range(10))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: quality.fid(f[:1], f), "FID needs at least 2 images on each side, got 1 and 60"),
        (lambda f: quality.kid(f[:9], f, subset_size=10), "KID needs at least 10 images"),
        (lambda f: quality.precision_recall(f[:3], f), "needs at least 4 images"),
        (lambda f: quality.fid(f, np.where(np.arange(60)[:, None] == 3, np.nan, f)), "hold NaN or infinity"),
        (lambda f: quality.fid(f, f[:, :5]), "features .* of one encoder"),
        (lambda f: quality.mse(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)), "differ in size"),
        (lambda f: quality.ssim(*np.zeros((2, 5, 5, 3), np.uint8)), "at least 7 x 7 pixels"),
        (
            lambda f: quality.as_published(pd.DataFrame(), {"nv": f, "df": f}, {"nv": f}),
            "no synthetic image of dermatofibroma",
        ),
        (lambda f: encoders.encode(None, "x", "resnet"), "unknown encoder 'resnet'"),
    ],
)
def test_bad_input_is_one_line(features, call, message):
    with pytest.raises(InputError, match=message) as caught:
        call(features[0])
    assert "\n" not in str(caught.value)


def test_too_few_images_for_the_audited_table_names_the_remedy(features):
    frames = {code: pd.DataFrame({"group": range(60), "feature": list(features[0])}) for code in CODES}
    made = {code: features[1] for code in CODES} | {"df": features[1][:5]}
    with pytest.raises(InputError, match="dermatofibroma: 5 synthetic images, the audited table needs 20"):
        quality.audited(made, frames, frames, n=20)
    assert quality.largest_n(20, made, frames) == 2 and quality.largest_n(20, frames) == 20


def test_a_wrong_inception_file_is_refused(monkeypatch):
    monkeypatch.setattr(encoders, "FID_INCEPTION_SHA256", "0" * 64)
    encoders.fid_inception.cache_clear()
    with pytest.raises(InputError, match="not the pinned file"):
        encoders.fid_inception()
    encoders.fid_inception.cache_clear()
