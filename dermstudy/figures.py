"""One plotting style at print width, and the study's figures on seaborn: sheets, matrices, intervals, training curves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
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
PANELS = {"kid": "KID x 1,000", "precision": "precision", "recall": "recall"}


def use_style() -> None:
    """Set the study's matplotlib and seaborn defaults for this process, and let its notebook show tables as `readable`."""
    _show_readable()
    seaborn.set_theme(
        context="paper",
        style="ticks",
        font="DejaVu Sans",
        rc={
            "figure.figsize": (WIDTH, WIDTH * 0.45),
            "savefig.dpi": 150,
            "savefig.bbox": "tight",
            "font.size": 9,
            **{"axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelsize": 9},
            **{"axes.spines.top": False, "axes.spines.right": False},
            "legend.frameon": False,
            "legend.fontsize": 8,
            "pdf.fonttype": 42,  # letters that stay letters: journals refuse matplotlib's own Type 3
        },
    )


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` as a reader wants it: entities by name in index, columns and cells, and their column called entity."""
    named = frame.copy()
    if frame.columns.is_unique:
        text = frame.select_dtypes(exclude="number").columns
        named[text] = frame[text].replace(NAMES)
    named = named.rename(index=NAMES, columns={"dx": "entity", **NAMES})
    return named.rename_axis(index={"dx": "entity"}, columns={"dx": "entity"})


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
    kinds = shell.display_formatter.formatters if shell else {}
    png, jpeg = kinds.get("image/png"), kinds.get("image/jpeg")
    if shell is None or Figure in jpeg.type_printers or (usual := png.type_printers.get(Figure)) is None:
        return
    png.for_type(Figure, lambda figure: None if is_sheet(figure) else usual(figure))
    drawn = {"fmt": "jpeg", "base64": True, "pil_kwargs": {"quality": SHEET_QUALITY}}
    jpeg.for_type(Figure, lambda figure: print_figure(figure, **drawn) if is_sheet(figure) else None)
    jpeg.enabled = True


def image_grid(
    rows: Sequence[Sequence[np.ndarray]],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """A grid of images at print width; rows may differ in length.

    rows: one sequence of uint8 [h, w, 3] images a row. captions: words over each image, in place of column_labels.
    """
    columns = max(len(row) for row in rows)
    margin = 1.25 if row_labels else 0.0
    cell = min((WIDTH - margin) / columns, 1.1)
    width = margin + cell * columns
    words = [label for row in captions for label in row] if captions else column_labels or []
    lines = max((_broken(label).count("\n") + 1 for label in words), default=0)
    head = 0.1 + 0.14 * lines if lines else 0.0
    gap = head if captions else 0.03 * cell
    height = cell * len(rows) + gap * (len(rows) - 1) + head
    edges = {"left": margin / width, "right": 1.0, "bottom": 0.0, "top": 1.0 - head / height}
    spaces = {"wspace": 0.03, "hspace": gap / cell}
    figure = plt.figure(figsize=(width, height))
    axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw=edges | spaces)
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
    look = {"cmap": "Blues", "vmin": 0, "vmax": 1, "cbar": False, "square": True, "linewidths": 0.5}
    look |= {"xticklabels": labels, "yticklabels": labels, "annot_kws": {"fontsize": size}}
    seaborn.heatmap(share, annot=matrix, fmt="d", ax=ax, **look)
    if undetermined:
        for text, (row, column) in zip(ax.texts, np.ndindex(matrix.shape), strict=True):
            if row != column:
                ax.add_patch(plt.Rectangle((column, row), 1, 1, facecolor="0.93", edgecolor="white", lw=0.5))
                text.set_color("0.35")
    ax.set_xlabel("predicted", fontsize=max(9.0, size))
    ax.set_ylabel("true", fontsize=max(9.0, size))
    ax.set_xticklabels(labels, rotation=45, ha="right", fontsize=size)
    ax.set_yticklabels(labels, rotation=0, fontsize=size)
    ax.set_title(title or "", fontsize=max(9.0, size))
    return ax


def save(figure: Figure, folder: str | Path, name: str) -> Path:
    """Write `figure` into `folder`, whole or not at all, and return its path: a sheet of images as JPEG, others as PNG.

    A plot is also written as PDF. Nothing in the files tells the time of writing. What an earlier figure left is removed.
    """
    wanted = (".jpg",) if is_sheet(figure) else (".png", ".pdf")
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


def beside_floor(audited: pd.DataFrame) -> Figure:
    """KID, precision and recall with interval and real-vs-real baseline: all entities together, and those with rows.

    audited: entity, n, metric, value, low, high, floor, as quality.audited gives them. FID has one row and no panel.
    """
    rows = audited[audited["metric"].isin(PANELS)].sort_values(
        "entity", key=lambda names: names.map(["overall", *CODES].index)
    )
    names = np.where(rows["entity"] == "overall", "all", rows["entity"].replace(NAMES))
    rows = rows.assign(label=names + rows["n"].map(", n = {:.0f}".format))
    figure, axes = plt.subplots(1, len(PANELS), sharey=True, figsize=(WIDTH, 1.0 + 0.24 * rows["label"].nunique()))
    for ax, (metric, title) in zip(axes, PANELS.items(), strict=True):
        own = rows[rows["metric"] == metric]
        intervals(ax, own, "label", "value")
        ax.plot(own["floor"], own["label"], "|", color="#CC6677", ms=12, mew=2, label="real against real")
        ax.set(title=title, xmargin=0.15)
    axes[1].set_xlabel("dot: synthetic images, middle 95 % of subsamples; red: real against real")
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
    label = f"mean of {curve.groupby('n').size().max()} draws; band: their full range"
    seaborn.lineplot(curve, x="n", y="value", marker="o", color="#332288", errorbar=("pi", 100), label=label, ax=ax)
    ax.set(xlabel="images on each side", ylabel="FID of real against real", xscale="log", ylim=(0, None))
    ax.set_xticks(sizes := sorted(curve["n"].unique()), sizes)
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


def loss_curves(log: pd.DataFrame) -> Figure:
    """Training and held-out loss by step from zero, the axes uncut, and a line at the step whose weights are kept.

    log: step, loss, validation_loss, as finetune.train gives it; step 0, before training, has no training loss.
    """
    names = {"loss": "training, mean since the last record", "validation_loss": "held-out lesions"}
    drawn = log.set_index("step")[list(names)].rename(columns=names)
    ax = drawn.plot(color=["#88CCEE", "#332288"], marker=".", ylabel="loss", xlim=(0, None), ylim=(0, None))
    ax.axvline(log.loc[log["validation_loss"].idxmin(), "step"], color="#999933", lw=1, ls="--", label="kept")
    ax.legend()
    return ax.figure


def loss_bands(log: pd.DataFrame) -> Figure:
    """Held-out loss by step for each quarter of the timesteps, axes uncut; log: as for `loss_curves`."""
    bands = log.set_index("step").filter(regex=r"^validation_\d")
    drawn = bands.rename(columns=lambda name: "timesteps " + name.removeprefix("validation_").replace("_", " to "))
    shades = seaborn.color_palette("crest", bands.shape[1])
    ax = drawn.plot(color=shades, marker=".", ylabel="held-out loss", xlim=(0, None), ylim=(0, None))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    return ax.figure


def training_hours(log: pd.DataFrame, sittings: pd.DataFrame, changes: Sequence[int] = ()) -> Figure:
    """What training bought, by the images seen (logarithmic): the loss, and KID on validation lesions beside real images'.

    log: step, images, loss; sittings: images, n, kid, low, high, floor, sampler_steps, guidance_scale, as
    weights.training_hours gives them for one network; changes: weights.noise_changes. A line joins losses over the same
    draws of noise, and KID of sessions that were sampled alike.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.0))
    for _, own in log.groupby(np.searchsorted(changes, log["step"])):
        left.plot(own["images"] / 1000, own["loss"], color="#88CCEE")
    for number, step in enumerate(changes):
        began = log["images"][log["step"] > step].min() / 1000
        left.axvline(began, color="#999933", lw=1, ls=":", label="other noise levels from here" if not number else None)
    left.set(ylabel="training loss", ylim=(0, None))
    halves = f"middle 95 % of halves of n = {sittings['n'].iloc[-1]:.0f} images"
    right.vlines(sittings["images"] / 1000, sittings["low"], sittings["high"], color="#88CCEE", lw=3, label=halves)
    settings = sittings.apply(_sampled, axis=1)
    shades = ("#332288", "#117733", "#AA4499", "#882255")
    for shade, (words, own) in zip(cycle(shades), sittings.groupby(settings, sort=False), strict=False):
        right.plot(own["images"] / 1000, own["kid"], "o-", color=shade, label=words)
    right.axhline(sittings["floor"].iloc[-1], color="#CC6677", lw=1, label="real images")
    right.set(ylabel="KID x 1,000, validation lesions")
    for ax in (left, right):
        ax.set(xlabel="images seen in training (thousands)", xscale="log")
        ax.xaxis.set(major_locator=LogLocator(subs=(1, 3)), major_formatter="{x:,g}", minor_formatter="")
        handles, labels = ax.get_legend_handles_labels()
        if handles:  # below the axes, where it can cross no bar
            ax.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    figure.tight_layout()
    return figure


def _sampled(sitting: pd.Series) -> str:
    """With which sampler the images of a training session were painted, in words."""
    scale = sitting["guidance_scale"]
    guidance = "" if pd.isna(scale) else ", no guidance" if scale == 1 else f", guidance {scale:g}"
    return f"{sitting['sampler_steps']:.0f} sampler steps{guidance}"
