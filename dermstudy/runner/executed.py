"""The executed notebook as it is kept: the study's own provenance, each cell's print as one text, long progress shortened."""

from __future__ import annotations

import re

BAR = re.compile(r"\d+%\|.*?(?:it/s|s/it|it)\]")  # of tqdm, which draws it anew for every step
LEFT_OUT = re.compile(r"\.\.\. \d+ lines left out \.\.\.")
MOST_LINES = 30  # of progress that an executed notebook keeps of one cell


FOLDED = {"parameters", "injected-parameters"}  # tags of cells whose source JupyterLab shows on a click


def cleaned(executed, stamp: dict):
    """The executed notebook without papermill's paths and times, with the study's own provenance."""
    executed.metadata.pop("papermill", None)
    executed.metadata["dermstudy"] = stamp
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = merged(cell.outputs)
        if FOLDED & set(cell.metadata.get("tags", [])):
            cell.metadata["jupyter"] = {"source_hidden": True}
    return executed


def merged(outputs: list) -> list:
    """Outputs with what a cell printed in one piece after the other as one text, shortened, and without progress bars."""
    kept: list = []
    for output in outputs:
        if kept and output.output_type == kept[-1].output_type == "stream" and output.name == kept[-1].name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = shortened(without_bars(output.text))
    return [output for output in kept if output.output_type != "stream" or output.text]


def shortened(text: str) -> str:
    """The first and last of many lines of progress, and how many were left out between them."""
    lines = text.splitlines(keepends=True)
    if len(lines) <= MOST_LINES:
        return text
    part = MOST_LINES // 4
    return "".join([*lines[:part], f"... {len(lines) - 2 * part} lines left out ...\n", *lines[-part:]])


def without_bars(text: str) -> str:
    """`text` without the lines that are progress bars; nothing where bars are all that it holds."""
    if not BAR.search(text):
        return text
    lines = [line for line in text.splitlines(keepends=True) if not BAR.search(line) and line.strip()]
    return "" if all(LEFT_OUT.search(line) for line in lines) else "".join(lines)
