"""Stages that are told apart beside a floor, of sides that share no lesion; two enlargements compared image by image."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dermstudy.data import dataset, storage
from dermstudy.diffusion import sample
from dermstudy.evaluation import cascade, metrics
from dermstudy.files import InputError
from dermstudy.intervals import mean_interval
from dermstudy_commands.phantom import cohort as phantom


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "cohort"
    phantom.write_cohort(folder, 70, side=64, shares="balanced", minimum_lesions=6, workers=1)
    own = dataset.load_folder(folder)
    own.frame["group"] = own.frame["lesion_id"]
    return own


def features(images: np.ndarray) -> np.ndarray:
    """Means over a grid and how rough each channel is: enough to tell a blurred image from a sharp one."""
    values = images.astype(np.float32) / 255
    n, side = values.shape[:2]
    means = values.reshape(n, 4, side // 4, 4, side // 4, 3).mean((2, 4)).reshape(n, -1)
    return np.hstack([means, 10 * np.abs(np.diff(values, axis=2)).mean((1, 2))])


class Perfect:
    """Stands for an upsampler that gives back the images that the small ones were reduced from, as often as asked."""

    side = 64
    pixels = SimpleNamespace(config=SimpleNamespace(low_side=16))

    def __init__(self, large: np.ndarray, times: int):
        self.left = np.concatenate([large] * times)

    def __call__(self, captions, small, num_inference_steps, seeds):
        own, self.left = self.left[: len(small)], self.left[len(small) :]
        return own


def test_sides_share_no_lesion_and_deal_entities_evenly(cohort):
    parts = cascade.sides(cohort, 14)
    assert set(parts.enlarged.frame["group"]).isdisjoint(parts.compared.frame["group"])
    assert parts.enlarged.frame["dx"].value_counts().eq(2).all() and len(parts.compared) >= 14
    shares = parts.compared.frame["dx"].value_counts()
    assert shares.max() == shares.min() and len(shares) == 7
    again = cascade.sides(cohort, 14)
    assert list(again.enlarged.frame["image_id"]) == list(parts.enlarged.frame["image_id"])
    few = cohort.frame.groupby("group").head(1).groupby("dx").head(2)
    with pytest.raises(InputError, match="too few for two sides"):
        cascade.sides(replace(cohort, frame=few), 14)


def test_common_entities_make_up_for_a_rare_one(cohort):
    rare = cohort.frame["dx"].eq("df")
    single = cohort.frame[rare].groupby("group").head(1).head(3).index  # a third of these lesions is one image
    thin = replace(cohort, frame=cohort.frame[~rare | cohort.frame.index.isin(single)].reset_index(drop=True))
    few, filled = (cascade.sides(thin, 14, even=even).enlarged.frame["dx"].value_counts() for even in (True, False))
    assert few["df"] == filled["df"] == 1 and few.drop("df").eq(2).all() and few.sum() < 14 <= filled.sum()
    half = cascade.sides(thin, 1000, share=0.5)
    assert set(half.enlarged.frame["group"]).isdisjoint(half.compared.frame["group"])
    assert len(half.enlarged) > len(cascade.sides(thin, 1000).enlarged)


@pytest.mark.slow
def test_each_stage_is_fed_with_perfect_input_and_with_what_was_painted(cohort):
    parts = cascade.sides(cohort, 21)
    large, captions = parts.enlarged.images(64), parts.enlarged.frame["caption"].tolist()
    grey = np.full_like(parts.enlarged.images(16), 128)
    table = cascade.table(parts, grey, captions, Perfect(large, 2), 4, features)
    assert (
        list(table.columns) == ["input", "enlarged_by", "n", "kid", "low", "high"] and table["n"].eq(len(large)).all()
    )
    kid = table.set_index(["input", "enlarged_by"])["kid"]
    floor = kid["real images", cascade.NONE]
    assert kid[cascade.REAL, cascade.UPSAMPLER] == pytest.approx(floor)
    assert kid[cascade.REAL, cascade.BICUBIC] > floor and kid[cascade.PAINTED, cascade.BICUBIC] > floor
    assert (table["low"] < table["high"]).all()
    assert len(cascade.table(parts, None, captions, Perfect(large, 1), 4, features)) == 3


def test_the_base_model_stands_beside_a_floor_at_its_own_side(cohort):
    parts = cascade.sides(cohort, 14)
    perfect = parts.enlarged.images(16)
    rows = cascade.base_rows(parts, perfect, features)
    assert rows["input"].tolist() == ["real images at 16 pixels", "painted images at 16 pixels"]
    assert rows["kid"][0] == rows["kid"][1]
    worse = cascade.base_rows(parts, np.full_like(perfect, 120), features)
    assert worse["kid"][1] > rows["kid"][1]


@pytest.mark.slow
def test_enlarged_images_go_through_the_originals_storage(cohort, tmp_path):
    parts = cascade.sides(cohort, 14)
    captions, large = ["skin"] * 14, parts.enlarged.images(64)
    plain = cascade.table(parts, None, captions, Perfect(large, 1), 4, features)
    coarse = storage.Storage(tables=((90,) * 64, (90,) * 64), subsampling=2)
    stored = cascade.table(parts, None, captions, Perfect(large, 1), 4, features, storage=coarse)
    assert plain["kid"][0] == stored["kid"][0] and (plain["kid"][1:] != stored["kid"][1:]).all()


class Painter:
    """Stands for a base model: an image's grey is its seed's."""

    def set_progress_bar_config(self, **options):
        pass

    def __call__(self, captions, guidance_scale, num_inference_steps, seeds):
        return np.stack([np.full((16, 16, 3), seed % 251, np.uint8) for seed in seeds])


def test_every_caption_is_painted_once_by_its_own_seed(cohort):
    frame = cohort.frame.assign(caption="skin").head(9)
    images = cascade.painted(Painter(), frame, 4, 1.0, batch=4)
    again = cascade.painted(Painter(), frame.iloc[::-1], 4, 1.0, batch=2)
    assert images.shape == (9, 16, 16, 3) and np.array_equal(images, again[::-1])


# Enlargements, image by image


@pytest.fixture
def chosen():
    return pd.DataFrame({"image_id": ["a", "b", "c"], "dx": ["mel", "nv", "nv"]})


@pytest.fixture
def images():
    random = np.random.default_rng(5)
    truth = random.integers(30, 220, (3, 16, 16, 3)).astype(np.uint8)
    return truth, truth + 2, truth + 20


def test_enlargements_are_counted_image_by_image(chosen, images):
    truth, near, far = images
    each = cascade.by_image(chosen, truth, np.stack([near[0], far[1], near[2]]), np.stack([far[0], near[1], far[2]]))
    table = cascade.enlargements(each)
    assert list(table.index) == ["upsampler", "bicubic"]
    assert table["n"].tolist() == [3, 3] and table["lower_error_in"].tolist() == [2, 1]
    assert table.loc["upsampler", "mse"] == pytest.approx((2 * (2 / 255) ** 2 + (20 / 255) ** 2) / 3)
    assert table.loc["bicubic", "psnr"] == pytest.approx(metrics.psnr(table.loc["bicubic", "mse"]))
    assert table["detail"].tolist() == pytest.approx([1, 1], abs=1e-6)  # a shift of level is no detail
    same = cascade.enlargements(cascade.by_image(chosen, truth, near, near))
    assert same[["lower_error_in", "higher_ssim_in"]].to_numpy().sum() == 0


def test_differences_are_paired_with_students_interval(chosen, images):
    truth, near, far = images
    each = cascade.by_image(chosen, truth, np.stack([near[0], near[1], far[2]]), far)
    table = cascade.differences(each).set_index("measure")
    gained = metrics.psnr((2 / 255) ** 2) - metrics.psnr((20 / 255) ** 2)
    values = np.array([gained, gained, 0])
    half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    assert table.loc["psnr", ["difference", "low", "high"]].tolist() == pytest.approx(
        [values.mean(), values.mean() - half, values.mean() + half]
    )
    assert table["n"].tolist() == [3, 3, 3] and list(table.index) == list(cascade.MEASURES)


def test_detail_is_what_an_enlargement_lacks_and_grain_adds(cohort):
    some = cohort.select(image_id=dataset.spread(cohort.frame, 7)["image_id"])
    truth = some.images(64)
    smooth = sample.bicubic(some.images(16), 64)
    grain = np.random.default_rng(0).normal(0, 12, truth.shape)
    grainy = np.clip(truth + grain, 0, 255).astype(np.uint8)
    each = cascade.by_image(some.frame, truth, grainy, smooth)
    detail = each.pivot(index="image_id", columns="enlargement", values="detail")
    assert (detail["bicubic"] < 0.9).all() and (detail["upsampler"] > 1.1).all()
    figure = cascade.differences_figure(each, cascade.differences(each))
    assert len(figure.axes) == len(cascade.MEASURES)
    drawn = sum(len(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == ".")
    assert drawn == 7
    plt.close(figure)


def test_one_enlargement_of_each_image_is_wanted(chosen, images):
    with pytest.raises(InputError, match="3 images with 2 and 3 enlargements"):
        cascade.by_image(chosen, images[0], images[1][:2], images[2])


def test_a_mean_of_one_value_has_no_interval():
    assert mean_interval([2.0])["mean"] == 2 and np.isnan(mean_interval([2.0])["low"])
    assert np.isnan(mean_interval([])["mean"])
