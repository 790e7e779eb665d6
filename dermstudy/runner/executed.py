"""The executed notebook as it is kept: the study's own provenance, each cell's print as one text, long progress shortened."""

from __future__ import annotations

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
    """Outputs with what a cell printed in one piece after the other as one text, shortened."""
    kept: list = []
    for output in outputs:
        if kept and output.output_type == kept[-1].output_type == "stream" and output.name == kept[-1].name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = shortened(output.text)
    return kept


def shortened(text: str) -> str:
    """The first and last of many lines of progress, and how many were left out between them."""
    lines = text.splitlines(keepends=True)
    if len(lines) <= MOST_LINES:
        return text
    part = MOST_LINES // 4
    return "".join([*lines[:part], f"... {len(lines) - 2 * part} lines left out ...\n", *lines[-part:]])
