"""Live progress of a running notebook: which cell runs, what it prints, how long it took.

A papermill engine (papermill's documentation, "Extending papermill"), named "dermstudy".
"""

from __future__ import annotations

import sys
import time

from papermill.engines import NBClientEngine, papermill_engines

ENGINE = "dermstudy"


class ProgressEngine(NBClientEngine):
    """papermill's own engine, with a plain line a code cell and the cell's printed lines beneath it."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
        name = nb_man.nb.metadata.papermill["input_path"].rsplit("/", 1)[-1].removesuffix(".ipynb")
        code = [index for index, cell in enumerate(nb_man.nb.cells) if cell.cell_type == "code"]
        started = {}
        start, complete = nb_man.cell_start, nb_man.cell_complete

        def announce(cell, cell_index=None, **options):
            if cell_index in code:
                started[cell_index] = time.monotonic()
                first = next((line for line in cell.source.splitlines() if line.strip()), "")
                print(f"[{name}] cell {code.index(cell_index) + 1}/{len(code)}: {first[:70]}", flush=True)
            return start(cell, cell_index, **options)

        def finish(cell, cell_index=None, **options):
            if cell_index in started:
                seconds = time.monotonic() - started[cell_index]
                if seconds >= 1:
                    print(f"[{name}]   {seconds:.1f} s", flush=True)
            return complete(cell, cell_index, **options)

        nb_man.cell_start, nb_man.cell_complete = announce, finish
        return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


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


papermill_engines.register(ENGINE, ProgressEngine)
