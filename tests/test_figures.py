"""What figures must show: the names of rows and columns, and every dot inside its axes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from dermstudy import figures


def test_confusion_matrices_side_by_side_name_their_rows():
    figure, axes = plt.subplots(1, 2, sharey=True)
    for ax in axes:
        figures.confusion(np.eye(3, dtype=int), ["melanoma", "nevus", "angioma"], ax=ax)
    named = [[label.get_text() for label in ax.get_yticklabels() if label.get_visible()] for ax in axes]
    assert named == [["melanoma", "nevus", "angioma"], []]
    assert [label.get_text() for label in axes[1].get_xticklabels()] == ["melanoma", "nevus", "angioma"]
    plt.close(figure)


def test_intervals_lie_inside_their_axes_with_the_first_row_on_top():
    figure, ax = plt.subplots()
    table = pd.DataFrame({"arm": ["original", "combined"], "mean": [0.4, 0.5], "low": [0.3, 0.4], "high": [0.5, 0.6]})
    figures.intervals(ax, table, "arm", "mean")
    rows = {label.get_text(): place for label, place in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)}
    low, high = ax.get_ylim()
    assert low < rows["combined"] < rows["original"] < high
    plt.close(figure)
