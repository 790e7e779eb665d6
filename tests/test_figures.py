"""What figures must show: names that can be read in print; colours that all eyes tell apart."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from IPython.core import formatters
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from dermstudy import figures, workspace
from dermstudy.classification import forest
from dermstudy.diffusion import weights
from dermstudy.entities import COLOURS

# Machado, Oliveira & Fernandes, IEEE Trans. Vis. Comput. Graph. 15:1291 (2009), severity 1: on linear RGB.
EYES = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("eye", EYES)
def test_all_eyes_tell_the_entities_apart(eye):
    """CIEDE2000 of 10 is a difference at a glance; a just noticeable one is about 1 to 2."""
    colours = np.array([[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in COLOURS.values()])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(EYES[eye]), 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))
    distances = deltaE_ciede2000(lab[:, None], lab[None])
    assert distances[np.triu_indices(len(lab), 1)].min() > 10


def training_log() -> pd.DataFrame:
    return pd.DataFrame({"step": [10, 20, 30, 40], "images": [1000, 2000, 3000, 4000], "loss": [0.9, 0.5, 0.8, 0.7]})


def sittings(guidance=(1.0, 3.0, 3.0)) -> pd.DataFrame:
    kids = {"kid": [60.0, 40.0, 20.0], "low": [50.0, 30.0, 10.0], "high": [70.0, 50.0, 30.0]}
    return pd.DataFrame(
        {"images": [1000, 2000, 4000], "n": 78, "floor": -1.0, "sampler_steps": [20, 12, 12], **kids}
    ).assign(guidance_scale=guidance)


def test_a_loss_breaks_where_other_noise_was_drawn():
    recipe = {"noise_mean": 0.0, "noise_spread": 1.6}
    trainings = [({"recipe": recipe, "step": 10}), ({"recipe": recipe, "step": 10}), ({"recipe": recipe, "step": 5})]
    last = {"recipe": recipe | {"noise_mean": -0.4}, "earlier": trainings}
    assert weights.noise_changes(last, training_log()) == [25]
    assert weights.noise_changes({"recipe": recipe, "earlier": trainings}, training_log()) == []
    assert weights.noise_changes({}, training_log()) == []
    figure = figures.training_hours(training_log(), sittings(), [25])
    joined = [line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_color() == "#88CCEE"]
    assert joined == [[1.0, 2.0], [3.0, 4.0]]
    (edge,) = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert list(edge.get_xdata()) == [3.0, 3.0]
    plt.close(figure)


def test_sittings_that_were_sampled_otherwise_are_not_joined_and_all_is_named():
    figure = figures.training_hours(training_log(), sittings())
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[1.0, 2.0, 3.0, 4.0]]
    named = {line.get_label(): list(line.get_xdata()) for line in figure.axes[1].lines}
    assert named["20 sampler steps, no guidance"] == [1.0]
    assert named["12 sampler steps, guidance 3"] == [2.0, 4.0]
    plt.close(figure)
    one = figures.training_hours(training_log(), sittings(np.nan))  # an upsampler is never guided
    assert "20 sampler steps" in [line.get_label() for line in one.axes[1].lines]
    plt.close(one)


def test_undetermined_digits_can_be_read():
    """Contrast of at least 4.5 to 1, W3C's Web Content Accessibility Guidelines 2.1."""
    ax = figures.confusion(np.ones((2, 2), int), ["a", "b"], undetermined=True)
    grey = float(ax.texts[1].get_color())
    light = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in (0.93, grey)]
    assert (light[0] + 0.05) / (light[1] + 0.05) >= 4.5
    plt.close(ax.figure)


def test_a_plot_is_kept_as_pdf_too_and_one_plot_is_one_file(tmp_path):
    space = workspace.Workspace(tmp_path)
    figures.use_style()
    kept = []
    for _ in range(2):
        figure, ax = plt.subplots()
        ax.plot([1, 2], label="held-out lesions")
        ax.legend()
        space.save_figure(figure, "loss")
        kept.append([(space.figures / f"loss.{kind}").read_bytes() for kind in ("pdf", "png")])
        plt.close(figure)
    assert kept[0] == kept[1]
    pdf = kept[0][0]
    assert pdf.startswith(b"%PDF") and b"Date" not in pdf
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf


def test_a_sheet_of_images_is_jpeg_and_has_no_pdf(tmp_path):
    space, figure = workspace.Workspace(tmp_path), figures.image_grid([[np.zeros((9, 9, 3), np.uint8)]])
    space.figures.mkdir(exist_ok=True)
    for left in ("montage.png", "montage.pdf"):
        (space.figures / left).write_bytes(b"of an earlier plot of this name")
    space.save_figure(figure, "montage")
    assert [path.name for path in space.figures.iterdir()] == ["montage.jpg"]
    assert space.pictures() == {"montage": space.figures / "montage.jpg"}
    with Image.open(space.figures / "montage.jpg") as drawn:
        assert drawn.format == "JPEG" and drawn.info["dpi"] == (150, 150)
    plt.close(figure)


def test_tables_are_shown_with_entities_by_name():
    frame = pd.DataFrame({"dx": ["mel", "nv"], "n": [1, 2], "asked": ["df", "a word"]})
    shown = figures.readable(frame)
    assert shown.columns.tolist() == ["entity", "n", "asked"]
    assert shown.to_numpy().tolist() == [["melanoma", 1, "dermatofibroma"], ["melanocytic nevus", 2, "a word"]]
    assert frame["dx"].tolist() == ["mel", "nv"]
    index = pd.MultiIndex.from_product([["audited"], ["mel", "df"]], names=["protocol", "dx"])
    shown = figures.readable(pd.DataFrame([[1, 2.0], [3, 4.0]], index, ["bcc", "all"]))
    assert shown.index.tolist() == [("audited", "melanoma"), ("audited", "dermatofibroma")]
    assert list(shown.index.names) == ["protocol", "entity"] and shown.columns.tolist() == [
        "basal cell carcinoma",
        "all",
    ]
    assert shown.dtypes.tolist() == [int, float]


def test_a_notebook_shows_them_so_and_without_row_numbers():
    shell = InteractiveShell.instance()
    try:
        figures.use_style()
        data, _ = shell.display_formatter.format(pd.DataFrame({"dx": ["mel"], "n": [7]}))
        assert "melanoma" in data["text/html"] and "<th>0</th>" not in data["text/html"]
        assert data["text/plain"].split() == ["entity", "n", "melanoma", "7"]
        data, _ = shell.display_formatter.format(pd.DataFrame({"n": [7]}, pd.Index(["mel"], name="entity")))
        assert "<th>melanoma</th>" in data["text/html"]
    finally:
        InteractiveShell.clear_instance()


def test_a_notebook_holds_sheets_as_jpeg_and_plots_as_png(monkeypatch):
    kinds = {"image/png": formatters.PNGFormatter(), "image/jpeg": formatters.JPEGFormatter()}
    kinds["image/png"].for_type(Figure, lambda figure: "as ever")
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters=kinds))
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr("IPython.get_ipython", lambda: shell)
            figures.show_sheets_as_jpeg()
    sheet = figures.image_grid([[np.zeros((8, 8, 3), np.uint8)] * 2])
    plot, ax = plt.subplots()
    ax.plot([0, 1])
    assert kinds["image/png"](sheet) is None and kinds["image/jpeg"](sheet).startswith("/9j/")
    assert kinds["image/png"](plot) == "as ever" and kinds["image/jpeg"](plot) is None


def test_every_figure_is_drawn_from_a_committed_table():
    tables = ROOT / "results" / "ham10000" / "tables"
    drawn = {
        "quality_audited": lambda table: figures.beside_floor(table),
        "quality_colour": lambda table: figures.colour_differences(table),
        "quality_kid_matrix": lambda table: figures.matrix(table.set_index(table.columns[0]), "KID"),
        "trial": forest.forest_plot,
        "trial_described": forest.forest_plot,
        "classifier_ladder": lambda table: forest.ladder_plot(table, table.assign(seed=0)),
    }
    for name, draw in drawn.items():
        figure = draw(pd.read_csv(tables / f"{name}.csv"))
        assert any(ax.has_data() for ax in figure.axes), name
        plt.close(figure)
