"""A notebook while it runs, line by line, and as it is kept: without papermill's paths, with the study's own provenance."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

MOST_LINES = 30  # of progress that an executed notebook keeps of one cell
FOLDED = {"parameters", "injected-parameters"}  # tags of cells whose source JupyterLab shows on a click


def announced(stem: str, cells: int) -> Callable:
    """A hook of nbclient (on_cell_start) that prints a line for each of `cells` code cells, with the first line of its code."""
    number = itertools.count(1)

    def announce(cell, cell_index: int) -> None:
        if cell.cell_type == "code":
            first = next((line for line in cell.source.splitlines() if line.strip()), "")
            print(f"[{stem}] cell {next(number)}/{cells}: {first[:70]}", flush=True)

    return announce


class IndentedOutput:
    """A text stream that indents what a cell prints beneath the cell's own line; prefix: before each line."""

    def __init__(self, prefix: str = ""):
        self.prefix = prefix

    def write(self, text: str) -> None:
        for line in text.splitlines():
            if line.strip():
                sys.stdout.write(f"{self.prefix}    {line}\n")

    def flush(self) -> None:
        sys.stdout.flush()

    def fileno(self) -> int:
        return sys.stdout.fileno()


def cleaned(executed, stamp: dict, root: str = ".."):
    """The executed notebook without papermill's paths and times, with `stamp`; what a cell printed is one text, shortened.

    root: the way from its folder to the checkout, in place of the one from notebooks/ in links.
    """
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    executed, _ = CoalesceStreamsPreprocessor().preprocess(executed, {})
    executed.metadata.pop("papermill", None)
    executed.metadata["dermstudy"] = stamp
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("](../", f"]({root}/")
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = shortened(output.text)
        if FOLDED & set(cell.metadata.get("tags", [])):
            cell.metadata["jupyter"] = {"source_hidden": True}
    return executed


def shortened(text: str) -> str:
    """The first and last of many lines of progress, and how many were left out between them."""
    lines = text.splitlines(keepends=True)
    if len(lines) <= MOST_LINES:
        return text
    shown = MOST_LINES // 4
    return "".join([*lines[:shown], f"... {len(lines) - 2 * shown} lines left out ...\n", *lines[-shown:]])
