"""Image quality: equal to torch-fidelity's and scikit-image's own, to formulas by hand, and sound at small n."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dermstudy.data import dataset
from dermstudy.entities import CODES, NAMES
from dermstudy.evaluation import encoders, metrics, quality
from dermstudy.evaluation.features import Features
from dermstudy.files import InputError
from dermstudy.published import paper

FROZEN = {"fid": 406.839, "kid": 279.876}  # KID times 1,000


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
    error = metrics.mse(first, second)
    assert error == pytest.approx(mean_squared_error(first / 255, second / 255))
    assert metrics.psnr(error) == pytest.approx(peak_signal_noise_ratio(first / 255, second / 255, data_range=1))
    assert metrics.published_psnr(error) == pytest.approx(metrics.psnr(error) + 48.1308, abs=1e-4)
    whole = structural_similarity(first, second, channel_axis=-1, data_range=255)
    assert metrics.ssim(first, second) == pytest.approx(whole)
    assert metrics.ssim(first, first) == pytest.approx(1) and metrics.mse(first, first) == 0


def test_the_published_psnr_fits_table_1():
    table = paper.table_1()
    difference = table["psnr"] - table["mse"].map(metrics.published_psnr)
    assert difference.between(0, 1.2).all()  # a mean of logarithms lies above the logarithm of the mean
    assert (table["psnr"] - table["mse"].map(metrics.psnr)).min() > 48


def test_fid_by_hand_by_torch_fidelity_and_after_rotation(features):
    from scipy.linalg import sqrtm

    first, second = (part.astype(np.float64) for part in features)
    covariances = [np.cov(part, rowvar=False) for part in (first, second)]
    shift = first.mean(0) - second.mean(0)
    literal = shift @ shift + np.trace(sum(covariances) - 2 * sqrtm(covariances[0] @ covariances[1]).real)
    assert metrics.fid(first, second) == pytest.approx(literal, rel=1e-6)
    wide = [np.concatenate([part, np.zeros((60, 400))], axis=1) for part in (first, second)]  # n < d: the rotated route
    assert metrics.fid(*wide) == pytest.approx(literal, rel=1e-6)
    assert abs(metrics.fid(wide[0], wide[0])) < 1e-3


def test_precision_and_recall_by_hand(features):
    generated, real = features
    distance = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1)  # noqa: E731
    radius = lambda a: np.sort(distance(a, a), axis=1)[:, 3]  # noqa: E731
    precision = (distance(generated, real) <= radius(real)).any(axis=1).mean()
    recall = (distance(real, generated) <= radius(generated)).any(axis=1).mean()
    assert metrics.precision_recall(generated, real) == pytest.approx((precision, recall), abs=0.02)


def test_inception_features_are_cached_and_independent_of_the_batch(encoded):
    parts, cache, values = encoded
    assert values["nv"].shape == (12, 2048) and np.isfinite(values["nv"]).all()
    blind = replace(encoders.fid_encoder(), features=None)  # a cache miss would call None
    assert np.array_equal(encoders.encode(parts["nv"], cache, blind, side=128, batch=5), values["nv"])
    alone = encoders.fid_inception_features(parts["nv"].images(128)[:1])
    assert np.allclose(alone[0], values["nv"][0], atol=1e-4)


def test_tables_have_the_promised_columns(features):
    real = {code: features[0] + index for index, code in enumerate(CODES)}
    made = {code: features[1] + index for index, code in enumerate(CODES)}
    pairs = pd.DataFrame({"dx": np.repeat(CODES, 3), "ssim": 0.2, "psnr": 60.0, "mse": 0.05})
    table = quality.as_published(pairs, real, made)
    assert list(table.columns) == ["n", "ssim", "psnr", "mse", "fid", "inception_score"]
    assert table.loc["overall", "fid"] == pytest.approx(table["fid"].drop("overall").mean())
    framed = {code: Features(part, np.arange(60) // 2, np.full(60, code)) for code, part in real.items()}
    audited = quality.audited(made, framed, framed, most=20, repeats=4, fewest=20)
    assert list(audited.columns) == ["entity", "n", "metric", "value", "low", "high", "floor", "others"]
    overall = audited[audited["entity"] == "overall"]
    assert len(overall) == 4 and (overall["n"] == 140).all()
    kid = audited[(audited["metric"] == "kid") & (audited["entity"] != "overall")]
    assert (kid["low"] < kid["value"]).all() and (kid["value"] < kid["high"]).all()
    assert (kid["value"] > kid["floor"]).all() and len(kid) == 7
    assert (kid["others"] > kid["floor"]).all() and audited["others"].notna().sum() == 7
    made["df"], made["vasc"] = made["df"][:30], made["vasc"][:4]
    few = quality.audited(made, framed, framed, most=25, repeats=2, fewest=15)
    assert few.groupby("entity")["n"].first().to_dict() == {
        **dict.fromkeys(("mel", "nv", "akiec", "bkl", "bcc"), 25), "df": 15, "overall": 5 * 25 + 15 + 2,
    }  # fmt: skip
    shown = quality.by_metric(few)
    assert list(shown.index)[-2:] == ["dermatofibroma", "overall"] and len(shown) == 7


def test_what_moves_with_the_number_stands_beside_the_paper_at_its_number_only(features):
    real = {code: features[0] for code in CODES}
    pairs = pd.DataFrame({"dx": ["mel"] * 95 + list(CODES[1:]), "ssim": 0.2, "psnr": 60.0, "mse": 0.05})
    table = quality.beside_paper(quality.as_published(pairs, real, real), paper.table_1(), dict.fromkeys(CODES, 100))
    assert table["paper_n"].tolist() == [*[100] * 7, 700] and table.loc["mel", "n"] == 95
    assert table.loc["mel", ["paper_fid", "paper_inception_score"]].tolist() == [115.1804, 1.363]
    assert table.loc[list(CODES[1:]) + ["overall"], ["paper_fid", "paper_inception_score"]].isna().all(axis=None)
    assert table["paper_ssim"].notna().all() and table["fid"].notna().all()


def test_one_image_a_lesion_before_any_second():
    lesions = np.repeat(np.arange(10), 3)
    features = Features(lesions[:, None].astype(float), lesions, np.full(30, "nv"))
    drawn = features.drawn(10, np.random.default_rng(0))
    assert sorted(drawn.ravel()) == list(range(10))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: metrics.fid(f[:1], f), "FID needs at least 2 images on each side, got 1 and 60"),
        (lambda f: metrics.kid(f[:1], f), "KID needs at least 2 images"),
        (lambda f: metrics.precision_recall(f[:3], f), "needs at least 4 images"),
        (lambda f: metrics.fid(f, np.where(np.arange(60)[:, None] == 3, np.nan, f)), "hold NaN or infinity"),
        (lambda f: metrics.fid(f, f[:, :5]), "features .* of one encoder"),
        (lambda f: metrics.mse(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)), "differ in size"),
        (lambda f: metrics.ssim(*np.zeros((2, 5, 5, 3), np.uint8)), "at least 7 x 7 pixels"),
        (
            lambda f: quality.as_published(pd.DataFrame(), {"nv": f, "df": f}, {"nv": f}),
            "no synthetic image of dermatofibroma",
        ),
        (lambda f: metrics.ms_ssim(*np.zeros((2, 1, 128, 128, 3), np.uint8)), "at least 176 x 176 pixels"),
        (lambda f: metrics.nearest(f, f[:0], f), "needs at least 1 images"),
        (lambda f: encoders.keras_encoder("none.h5"), "no weights none.h5"),
    ],
)
def test_bad_input_is_one_line(features, call, message):
    with pytest.raises(InputError, match=message) as caught:
        call(features[0])
    assert "\n" not in str(caught.value)


def test_too_few_images_for_the_audited_table_names_the_remedy(features):
    frames = {code: Features(features[0], np.arange(60), np.full(60, code)) for code in CODES}
    made = {code: features[1] for code in CODES} | {"df": features[1][:1]}
    with pytest.raises(
        InputError, match="dermatofibroma: 1 synthetic images, the audited table needs two of an entity"
    ):
        quality.audited(made, frames, frames, most=20)


def test_a_wrong_inception_file_is_refused(monkeypatch):
    monkeypatch.setattr(encoders, "FID_INCEPTION_SHA256", "0" * 64)
    encoders.fid_inception.cache_clear()
    with pytest.raises(InputError, match="not the pinned file"):
        encoders.fid_inception()
    encoders.fid_inception.cache_clear()


def test_nearest_neighbours_by_hand_and_a_planted_copy(features):
    first, second = features
    query = np.concatenate([second[:5], first[7:8] + 1e-3])
    table = metrics.nearest(query, first, second[5:])
    distance = np.linalg.norm(query[:, None] - first[None], axis=-1)
    assert table["training"].tolist() == distance.argmin(axis=1).tolist()
    assert np.allclose(table["training_distance"], distance.min(axis=1), rtol=1e-5)
    assert table["ratio"].idxmin() == 5 and table["ratio"][5] < 0.01 and table["training"][5] == 7


def test_kid_matrix_finds_each_entitys_other_half():
    random = np.random.default_rng(3)
    parts = {
        code: Features(random.normal(place, 1, (40, 16)), np.arange(40) // 2, np.full(40, code))
        for place, code in enumerate(CODES)
    }
    matrix = quality.kid_matrix(parts)
    assert matrix.shape == (7, 7) and (matrix.idxmin(axis=1) == matrix.index).all() and matrix.attrs["n"] == 20
    twice = replace(parts["nv"], groups=np.zeros(40))  # one lesion cannot stand in both halves
    with pytest.raises(InputError, match="melanocytic nevus has 1 lesion"):
        quality.kid_matrix(parts | {"nv": twice})


@pytest.mark.slow
def test_ms_ssim_tells_copies_from_strangers():
    random = np.random.default_rng(4)
    images = np.kron(random.integers(0, 256, (6, 16, 16, 3)), np.ones((1, 12, 12, 1))).astype(np.uint8)
    same, other = metrics.ms_ssim(images, images), metrics.ms_ssim(images, images[::-1])
    assert np.allclose(same, 1) and (other < 0.6).all()
    copies = {code: np.repeat(images[:1], 4, axis=0) for code in CODES}
    table = quality.diversity(copies, dict.fromkeys(CODES, images), pairs=4)
    assert table["value"].eq(1).all() and (table["floor"] < 0.6).all()
    assert list(table.columns) == ["entity", "n", "metric", "value", "low", "high", "floor"]


def test_pairs_are_read_in_batches_and_compared_one_by_one(cohort, monkeypatch):
    """A pair's figures are those of the two images alone; each side is read once a batch, whatever the order."""
    frame = cohort.frame.sample(50, random_state=0, ignore_index=True)
    sources = frame["image_id"].sample(50, replace=True, random_state=1).to_numpy()
    synthetic = replace(cohort, frame=frame.assign(source_image_id=sources))
    expected = [
        metrics.pair_metrics(cohort.images(32, [row.source_image_id]), cohort.images(32, [row.image_id]))
        for row in synthetic.frame.itertuples()
    ]
    calls, read = [], dataset.Cohort.images
    monkeypatch.setattr(dataset.Cohort, "images", lambda own, *call: (calls.append(call), read(own, *call))[1])
    monkeypatch.setattr(quality, "PAIRS_AT_ONCE", 20)
    table = quality.pair_table(cohort, synthetic, 32)
    assert [len(names) for _, names in calls] == [20, 20, 20, 20, 10, 10]
    pd.testing.assert_frame_equal(table[list(quality.PIXEL_METRICS)], pd.DataFrame(expected), check_exact=True)
    assert table[["image_id", "dx", "source_image_id"]].equals(synthetic.frame[["image_id", "dx", "source_image_id"]])


def test_real_pairs_come_from_different_lesions(cohort):
    table = quality.real_pairs(cohort, 32, pairs=3)
    assert sorted(table.index) == sorted(CODES) and table["n"].eq(3).all() and table["ssim"].between(-1, 1).all()


@pytest.mark.slow
def test_keras_inception_reads_a_weights_file(tmp_path):
    import keras

    keras.utils.set_random_seed(0)
    path = tmp_path / "notop.weights.h5"
    keras.applications.InceptionV3(False, None, pooling="avg", input_shape=(299, 299, 3)).save_weights(path)
    encoder = encoders.keras_encoder(path)
    features = encoder.features(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8))
    assert features.shape == (2, 2048) and np.isfinite(features).all() and encoder.name == "keras-inception"
    path.write_text("no weights")
    with pytest.raises(InputError, match="does not fit InceptionV3"):
        encoders.keras_encoder(path)


def test_frozen_values_on_the_phantom(encoded):
    """Twelve nevi against twelve melanomas of the phantom at 128 pixels: what this code gave when it was checked."""
    _, _, values = encoded
    assert metrics.fid(values["nv"], values["mel"]) == pytest.approx(FROZEN["fid"], rel=0.01)
    assert metrics.kid(values["nv"], values["mel"]) == pytest.approx(FROZEN["kid"], rel=0.01)


def test_places_and_distances_above_the_floor_by_hand():
    rows = [
        {"entity": entity, "n": 5, "metric": metric, "value": value, "floor": 1.0}
        for entity, value in (("mel", 9.0), ("nv", 4.0), ("overall", 6.0))
        for metric in ("kid", "recall")
    ]
    table = quality.above_floors({"one": pd.DataFrame(rows), "two": pd.DataFrame(rows).assign(value=3.0)})
    own = table.set_index(["encoder", "entity"])
    assert own.loc[("one", "melanoma"), ["kid", "floor", "excess"]].tolist() == [9.0, 1.0, 8.0]
    assert own.loc[("two", "overall"), "excess"] == 2.0 and len(table) == 6
    assert own.loc[("one", "melanocytic nevus"), ["recall", "recall_floor"]].tolist() == [4.0, 1.0]
    assert len(quality.order_by_kid(table).columns) == 0  # two entities are no order of seven
    every = pd.concat([table[table["entity"] == "melanoma"].assign(entity=name) for name in NAMES.values()])
    assert list(quality.order_by_kid(every).columns) == ["one", "two"]
    excess = pd.DataFrame({"one": {"melanoma": 8.0, "melanocytic nevus": 3.0}})
    found = quality.places(pd.Series({"mel": 0.2, "nv": 0.5, "overall": 0.3}), excess)
    assert list(found.index) == list(CODES)
    assert found.loc["nv", "here, SSIM"] == 1 and found.loc["mel", "here, KID above its floor, one"] == 2


def test_both_sides_have_no_more_than_is_asked(cohort):
    sides = quality.sides(cohort, 3, seed=1)
    assert set(sides) == {"train", "test"} and sides["train"].frame["split"].eq("train").all()
    assert sides["train"].frame["dx"].value_counts().max() == 6
    assert quality.sides(cohort, 3, seed=1)["test"].frame.equals(sides["test"].frame)


@pytest.mark.slow
def test_the_second_encoder_is_kept_and_finds_the_copied_image(cohort, tmp_path):
    lite = encoders.lite_encoder()
    train, test = (cohort.select(split=split) for split in ("train", "test"))
    copied = train.select(image_id=train.frame["image_id"].head(2))
    found = encoders.closest({"synthetic": copied}, train, test, tmp_path, [lite], side=64)
    table = found[lite.name, "synthetic"]
    assert table["training"].tolist() == [0, 1] and table["ratio"].max() < 0.01
    assert [path.name.startswith(lite.name) for path in tmp_path.iterdir()] == [True]
