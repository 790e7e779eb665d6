"""One plotting style at print width, and the figures that recur: image grids and confusion matrices."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from dermstudy.entities import CODES, COLOURS, NAMES
from dermstudy.files import atomic_path

WIDTH = 7.2  # inches: the text width of a two-column journal page
SHEET_QUALITY = 88  # of JPEG: sheets of images, in files and in executed notebooks
SAVED = {
    ".jpg": {"format": "jpeg", "pil_kwargs": {"quality": SHEET_QUALITY}},
    ".png": {"format": "png", "metadata": {"Software": None}},
    ".pdf": {"format": "pdf", "metadata": {"CreationDate": None}},
}
LEAST = 6.5  # points of the smallest letters at print width


def use_style() -> None:
    """Set the study's matplotlib and seaborn defaults for this process, and let its notebook show tables as `readable`."""
    _show_readable()
    seaborn.set_theme(
        context="paper",
        style="ticks",
        font="DejaVu Sans",
        rc={
            "figure.figsize": (WIDTH, WIDTH * 0.45),
            "figure.dpi": 100,
            "savefig.dpi": 150,
            "savefig.bbox": "tight",
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "legend.fontsize": 8,
            "pdf.fonttype": 42,  # letters that stay letters: journals refuse matplotlib's own Type 3
        },
    )


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` as a reader wants it: entities by name in index, columns and cells, and their column called entity."""

    def name(value):
        return NAMES.get(value, value) if isinstance(value, str) else value

    shown = frame.copy()
    for place in range(shown.shape[1]):
        column = shown.iloc[:, place]
        if column.dtype == object or pd.api.types.is_string_dtype(column):
            shown.isetitem(place, column.map(name))
    for axis in ("index", "columns"):
        labels = getattr(shown, axis)
        if isinstance(labels, pd.MultiIndex):
            labels = pd.MultiIndex.from_tuples([tuple(map(name, label)) for label in labels], names=labels.names)
        elif not isinstance(labels, pd.RangeIndex):
            labels = labels.map(name).rename(labels.name)
        shown = shown.set_axis(labels.set_names(["entity" if own == "dx" else own for own in labels.names]), axis=axis)
    return shown.rename(columns={"dx": "entity"})


def _show_readable() -> None:
    """Tell this process's notebook, where it is one, to show tables as `readable`, without row numbers."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return

    def numbered(frame: pd.DataFrame) -> bool:
        return frame.index.nlevels == 1 and frame.index.name is None and pd.api.types.is_integer_dtype(frame.index)

    def html(frame: pd.DataFrame) -> str:
        rows = pd.get_option("display.max_rows")
        return readable(frame).to_html(index=not numbered(frame), max_rows=rows, notebook=True)

    def plain(frame: pd.DataFrame, printer, cycle: bool) -> None:
        rows, width = (pd.get_option(f"display.max_{name}") for name in ("rows", "colwidth"))
        printer.text(readable(frame).to_string(index=not numbered(frame), max_rows=rows, max_colwidth=width))

    shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, html)
    shell.display_formatter.formatters["text/plain"].for_type(pd.DataFrame, plain)


def show_sheets_as_jpeg() -> None:
    """Let this process's notebook hold sheets of images as JPEG, a sixth of PNG; it says how it draws after its first cell."""
    from IPython import get_ipython
    from IPython.core.pylabtools import print_figure

    shell = get_ipython()
    if shell is None:
        return
    png, jpeg = (shell.display_formatter.formatters[f"image/{kind}"] for kind in ("png", "jpeg"))
    usual = png.type_printers.get(Figure)
    if usual is None or getattr(usual, "but_sheets", False):
        return

    def but_sheets(figure: Figure):
        return None if is_sheet(figure) else usual(figure)

    def sheets(figure: Figure):
        quality = {"quality": SHEET_QUALITY}
        return print_figure(figure, fmt="jpeg", base64=True, pil_kwargs=quality) if is_sheet(figure) else None

    but_sheets.but_sheets = True
    png.for_type(Figure, but_sheets)
    jpeg.for_type(Figure, sheets)
    jpeg.enabled = True


def image_grid(
    rows: Sequence[Sequence[np.ndarray]],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
    captions: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """A grid of images at print width.

    rows: one sequence of uint8 [h, w, 3] images a row; rows may differ in length. captions: words over each image, in place
    of column_labels.
    """
    columns = max(len(row) for row in rows)
    margin = 1.25 if row_labels else 0.0
    cell = min((WIDTH - margin) / columns, 1.1)
    width = margin + cell * columns
    words = [label for row in captions for label in row] if captions else column_labels or []
    lines = max((_broken(label).count("\n") + 1 for label in words), default=0)
    over = 0.1 + 0.14 * lines if lines else 0.0
    head = (0.3 if title else 0.0) + over
    gap = over if captions else 0.03 * cell
    height = cell * len(rows) + gap * (len(rows) - 1) + head
    figure = plt.figure(figsize=(width, height))
    axes = figure.subplots(
        len(rows),
        columns,
        squeeze=False,
        gridspec_kw={
            "left": margin / width,
            "right": 1.0,
            "bottom": 0.0,
            "top": 1.0 - head / height,
            "wspace": 0.03,
            "hspace": gap / cell,
        },
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            axes[r, c].imshow(image, interpolation="antialiased", aspect="auto")
        if row_labels:
            place = {"transform": axes[r, 0].transAxes, "ha": "right", "va": "center"}
            axes[r, 0].text(-0.06, 0.5, _broken(row_labels[r]), fontsize=8, **place)
    size = LEAST if captions else 8
    for drawn, row in zip(axes, captions or [column_labels or []], strict=False):
        for ax, label in zip(drawn, row, strict=False):
            ax.set_title(_broken(label), fontsize=size, loc="center", fontweight="normal", pad=3)
    if title:
        figure.text(0.0, 1.0, title, ha="left", va="top", fontsize=9, fontweight="bold")
    return figure


def _broken(label: str) -> str:
    """`label` over several lines, so that neighbouring heads do not touch."""
    return textwrap.fill(label, 14, break_long_words=False)


def tiles(path: str | Path, count: int) -> list[np.ndarray]:
    """The `count` images, uint8 [h, w, 3], that stand side by side in one file."""
    with Image.open(path) as image:
        return np.split(np.asarray(image.convert("RGB")), count, axis=1)


def intervals(ax, table, label: str, value: str, seeds=None) -> None:
    """Dots with intervals (`value`, low, high), a row a `label`, the first on top; `always_nevus` red, `paper` a cross.

    seeds: rows of `label` and `value`, a small dot each.
    """
    rows = table[::-1]
    if value == "difference":
        ax.axvline(0, color="#BBBBBB", lw=1)
    ax.hlines(rows[label], rows["low"], rows["high"], color="#88CCEE", lw=3)
    ax.plot(rows[value], rows[label], "o", color="#332288", label="this run")
    if seeds is not None:
        below = ax.transData + ScaledTranslation(0, -4 / 72, ax.figure.dpi_scale_trans)  # where they hide no interval
        ax.plot(seeds[value], seeds[label], ".", ms=4, color="#117733", label="each seed", transform=below)
    if "always_nevus" in rows:
        ax.plot(rows["always_nevus"], rows[label], "|", color="#CC6677", ms=12, mew=2, label="always nevus")
    if "paper" in rows and rows["paper"].notna().any():
        ax.plot(rows["paper"], rows[label], "x", color="#999933", label="paper")
    ax.set_ylim(-0.5, rows[label].nunique() - 0.5)


def confusion(
    matrix: np.ndarray,
    labels: Sequence[str],
    title: str | None = None,
    ax: Axes | None = None,
    undetermined: bool = False,
) -> Axes:
    """Draw a confusion matrix: rows are the true labels, columns the predicted, as in Figures S1 and S2.

    matrix: counts [k, k]; the shade is the row's share, so that rare classes read as well as common ones.
    undetermined: cells off the diagonal are one completion among several, and grey for it.
    Letters grow with a figure that is wider than the page, so that they can be read once it is reduced to WIDTH.
    """
    matrix = np.asarray(matrix)
    if ax is None:
        side = 0.5 * len(labels) + 1.6
        _, ax = plt.subplots(figsize=(side + 0.6, side))
    size = max(8.0, LEAST * ax.figure.get_figwidth() / WIDTH)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    seaborn.heatmap(
        share,
        annot=matrix,
        fmt="d",
        cmap="Blues",
        vmin=0,
        vmax=1,
        cbar=False,
        square=True,
        linewidths=0.5,
        linecolor="white",
        xticklabels=labels,
        yticklabels=labels,
        ax=ax,
        annot_kws={"fontsize": size},
    )
    if undetermined:
        for row, column in zip(*np.nonzero(~np.eye(len(matrix), dtype=bool)), strict=True):
            ax.add_patch(plt.Rectangle((column, row), 1, 1, facecolor="0.93", edgecolor="white", lw=0.5))
        for place, text in enumerate(ax.texts):
            if place // len(matrix) != place % len(matrix):
                text.set_color("0.35")
    ax.set_xlabel("predicted", fontsize=max(9.0, size))
    ax.set_ylabel("true", fontsize=max(9.0, size))
    ax.set_xticklabels(labels, rotation=45, ha="right")
    ax.set_yticklabels(labels, rotation=0)
    if size > 8:
        ax.tick_params(labelsize=max(9.0, size))
    if title:
        ax.set_title(title, fontsize=max(9.0, size))
    return ax


def save(figure: Figure, folder: str | Path, name: str) -> Path:
    """Write `figure` into `folder`, whole or not at all, and return its path: a sheet of images as JPEG, others as PNG.

    A plot is also written as PDF. Nothing in the files tells the time of writing. What an earlier figure left is removed.
    """
    wanted = (".jpg",) if is_sheet(figure) else (".png", ".pdf") if is_plot(figure) else (".png",)
    for suffix, options in SAVED.items():
        path = Path(folder) / f"{name}{suffix}"
        if suffix not in wanted:
            path.unlink(missing_ok=True)
            continue
        with atomic_path(path) as temporary:
            figure.savefig(temporary, **options)
    return Path(folder) / f"{name}{wanted[0]}"


def is_sheet(figure: Figure) -> bool:
    """Whether a figure shows images."""
    return any(ax.images for ax in figure.axes)


def is_plot(figure: Figure) -> bool:
    """Whether a figure draws data and no images, so that it gains from being drawn in lines and letters."""
    return any(ax.has_data() for ax in figure.axes) and not is_sheet(figure)


def beside_floor(audited: pd.DataFrame) -> Figure:
    """KID, precision and recall of all entities together, with interval and real-vs-real floor; FID where it has them.

    Below come the entities that have rows of their own, each with its n. audited: entity, n, metric, value, low, high,
    floor, as quality.audited gives them.
    """
    sizes = audited[audited["metric"] == "kid"].set_index("entity")["n"]
    order = [*(code for code in CODES[::-1] if code in sizes), "overall"]
    drawn = {"kid": "KID x 1,000", "fid": "FID", "precision": "precision", "recall": "recall"}
    figure, axes = plt.subplots(1, len(drawn), sharey=True, figsize=(WIDTH, 1.0 + 0.24 * (len(order) - 1)))
    names = [f"{'all' if code == 'overall' else NAMES[code]}, n = {sizes[code]:.0f}" for code in order]
    for ax, (metric, title) in zip(axes, drawn.items(), strict=True):
        own = audited[audited["metric"] == metric].set_index("entity").reindex(order)
        ax.hlines(names, own["low"], own["high"], color="#88CCEE", lw=3, label="middle 95 % of subsamples")
        ax.plot(own["value"], names, "o", color="#332288", label="synthetic")
        ax.plot(own["floor"], names, "|", color="#CC6677", ms=12, mew=2, label="real against real")
        ax.set(title=title, ylim=(-0.5, len(order) - 0.5), xmargin=0.15)
    handles, labels = axes[list(drawn).index("fid")].get_legend_handles_labels()
    below = (0.5, 0.11 - 0.35 / figure.get_figheight())
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=below, ncols=4)
    return figure


def colour_differences(table: pd.DataFrame) -> Figure:
    """Synthetic less real L, a and b by entity with intervals, a panel a channel; table: as colour.colour_table gives it."""
    titles = {"L": "lightness", "a": "a, green to red", "b": "b, blue to yellow"}
    figure, axes = plt.subplots(1, 3, sharey=True, figsize=(WIDTH, 2.4))
    for ax, (channel, title) in zip(axes, titles.items(), strict=True):
        own = table[table["channel"] == channel]
        intervals(ax, own.assign(label=own["entity"].map(NAMES)), "label", "difference")
        ax.set(title=title)
    axes[1].set_xlabel(
        "synthetic less real, CIELAB, 95 % interval (percentiles of a bootstrap) over images and lesions"
    )
    return figure


def fid_by_n(curve: pd.DataFrame) -> Figure:
    """FID of real against real by the number of images, with the full range of the draws; curve: quality.fid_curve."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.6, 2.6))
    draws = curve.groupby("n").size().max()
    label = f"mean of {draws} draws; band: their full range"
    seaborn.lineplot(curve, x="n", y="value", marker="o", color="#332288", errorbar=("pi", 100), label=label, ax=ax)
    ax.set(xlabel="images on each side", ylabel="FID of real against real", xscale="log", ylim=(0, None))
    sizes = sorted(curve["n"].unique())
    ax.set_xticks(sizes, sizes)
    ax.minorticks_off()
    return figure


def matrix(table: pd.DataFrame, title: str) -> Figure:
    """Distances between entities [k, k] as a heat map: dark is near. Index and columns are entity codes."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.72, WIDTH * 0.55))
    named = table.rename(index=NAMES, columns=NAMES)
    seaborn.heatmap(named, annot=True, fmt="z.0f", cmap="Blues_r", cbar=False, xticklabels=1, yticklabels=1, ax=ax)
    ax.set(xlabel="second half", ylabel="first half", title=title)
    ax.set_xticklabels(named.columns, rotation=45, ha="right")
    return figure


def curves(predictions: pd.DataFrame, reliability: pd.DataFrame) -> Figure:
    """The ROC curve of each entity against the rest, and accuracy against confidence, a dot's area by its answers.

    predictions: dx and a probability column an entity code; reliability: confidence, accuracy and n by bin. The entities
    and their areas stand below the left-hand axes.
    """
    from sklearn.metrics import RocCurveDisplay

    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, WIDTH * 0.46))
    for code in CODES:
        if (predictions["dx"] == code).any():
            own, colour = predictions["dx"] == code, {"color": COLOURS[code]}
            RocCurveDisplay.from_predictions(own, predictions[code], name=NAMES[code], ax=left, curve_kwargs=colour)
    size = 4 + 120 * reliability["n"] / reliability["n"].sum()
    right.scatter(reliability["confidence"], reliability["accuracy"], s=size, color="#332288")
    for ax in (left, right):
        ax.plot([0, 1], [0, 1], color="#BBBBBB", lw=1, zorder=0)
    left.set(xlabel="false positive rate", ylabel="true positive rate")
    left.legend(fontsize=LEAST, loc="upper left", bbox_to_anchor=(-0.12, -0.2), ncols=2)
    right.set(xlabel="confidence of the answer", ylabel="share of right answers", xlim=(0, 1.02), ylim=(0, 1.02))
    right.set_title("larger dot: more answers", fontsize=8, fontweight="normal")
    return figure
