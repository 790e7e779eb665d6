"""Two enlargements of the same images, compared image by image."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dermstudy.data import dataset
from dermstudy.diffusion import sample
from dermstudy.evaluation import enlargement, metrics
from dermstudy.files import InputError
from dermstudy.intervals import mean_interval


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
    each = enlargement.by_image(
        chosen, truth, np.stack([near[0], far[1], near[2]]), np.stack([far[0], near[1], far[2]])
    )
    table = enlargement.enlargements(each)
    assert list(table.index) == ["upsampler", "bicubic"]
    assert table["n"].tolist() == [3, 3] and table["lower_error_in"].tolist() == [2, 1]
    assert table.loc["upsampler", "mse"] == pytest.approx((2 * (2 / 255) ** 2 + (20 / 255) ** 2) / 3)
    assert table.loc["bicubic", "psnr"] == pytest.approx(metrics.psnr(table.loc["bicubic", "mse"]))
    assert table["detail"].tolist() == pytest.approx([1, 1], abs=1e-6)  # a shift of level is no detail
    same = enlargement.enlargements(enlargement.by_image(chosen, truth, near, near))
    assert same[["lower_error_in", "higher_ssim_in"]].to_numpy().sum() == 0


def test_differences_are_paired_with_students_interval(chosen, images):
    truth, near, far = images
    each = enlargement.by_image(chosen, truth, np.stack([near[0], near[1], far[2]]), far)
    table = enlargement.differences(each).set_index("measure")
    gained = metrics.psnr((2 / 255) ** 2) - metrics.psnr((20 / 255) ** 2)
    values = np.array([gained, gained, 0])
    half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    assert table.loc["psnr", ["difference", "low", "high"]].tolist() == pytest.approx(
        [values.mean(), values.mean() - half, values.mean() + half]
    )
    assert table["n"].tolist() == [3, 3, 3] and list(table.index) == list(enlargement.MEASURES)


def test_detail_is_what_an_enlargement_lacks_and_grain_adds(cohort):
    some = cohort.select(image_id=dataset.spread(cohort.frame, 7)["image_id"])
    truth = some.images(64)
    smooth = sample.bicubic(some.images(16), 64)
    grain = np.random.default_rng(0).normal(0, 12, truth.shape)
    grainy = np.clip(truth + grain, 0, 255).astype(np.uint8)
    each = enlargement.by_image(some.frame, truth, grainy, smooth)
    detail = each.pivot(index="image_id", columns="enlargement", values="detail")
    assert (detail["bicubic"] < 0.9).all() and (detail["upsampler"] > 1.1).all()
    figure = enlargement.differences_figure(each, enlargement.differences(each))
    assert len(figure.axes) == len(enlargement.MEASURES)
    drawn = sum(len(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == ".")
    assert drawn == 7
    plt.close(figure)


def test_one_enlargement_of_each_image_is_wanted(chosen, images):
    with pytest.raises(InputError, match="3 images with 2 and 3 enlargements"):
        enlargement.by_image(chosen, images[0], images[1][:2], images[2])


def test_a_mean_of_one_value_has_no_interval():
    assert mean_interval([2.0])["mean"] == 2 and np.isnan(mean_interval([2.0])["low"])
    assert np.isnan(mean_interval([])["mean"])
