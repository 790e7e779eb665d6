"""A notebook's training or sampling cell in several processes: `torchrun -m dermstudy_commands.runner.parallel 01 PROFILE`.

Every process runs the notebook's cells, with the profile's parameters, up to and including the cell tagged `parallel`.
What that cell makes is kept beside the other artifacts; `dermstudy run` then executes the notebook and finds it done.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from dermstudy.files import InputError, answered
from dermstudy.workspace import Workspace, open_workspace
from dermstudy_commands.runner import study
from dermstudy_commands.runner.profiles import load_profile, notebooks, read_notebook, resolve

TAG = "parallel"


def run_cells(number: str, profile: str, results: str, data: str | None = None) -> None:
    """Run the cells of notebook `number` ("01") under `profile`; only the first process prints.

    The first process holds the lock of the results folder for all. InputError where another run has it, for an unknown
    notebook or profile, and for a notebook that has no cell tagged `parallel`.
    """
    PartialState(cpu=not torch.cuda.is_available())  # else processes on a machine without a GPU do not know each other
    chosen = [notebook for notebook in notebooks() if notebook.name[:2] == number]
    if not chosen:
        raise InputError(f"no notebook {number!r}: notebooks/ has {', '.join(n.name[:2] for n in notebooks())}")
    parameters = resolve(load_profile(profile), results, data)[chosen[0].stem]
    cells = [cell for cell in read_notebook(chosen[0]).cells if cell.cell_type == "code"]
    tags = [cell.metadata.get("tags", []) for cell in cells]
    last = max((place for place, own in enumerate(tags) if TAG in own), default=None)
    if last is None:
        raise InputError(f"{chosen[0].stem} has no cell tagged {TAG!r}: it runs in one process only")
    namespace = {"__name__": "__main__"}
    space = open_workspace(results)
    with (
        open(os.devnull, "w") as silent,
        _locked(space),
        nullcontext() if PartialState().is_main_process else redirect_stdout(silent),
    ):
        for cell, own in zip(cells[: last + 1], tags, strict=False):
            if "method" in own:  # for the reader: no other cell uses its names
                continue
            exec(compile(cell.source, chosen[0].name, "exec", dont_inherit=True), namespace)  # annotations stay types
            if "parameters" in own:
                namespace.update(parameters)


@contextmanager
def _locked(space: Workspace) -> Iterator[None]:
    """The results lock, taken by the first process; where it cannot be had, every process raises the InputError."""
    refused: list[str | None] = [None]
    with ExitStack() as held:
        if PartialState().is_main_process:
            try:
                held.enter_context(study.locked(space))
            except InputError as error:
                refused = [str(error)]
        broadcast_object_list(refused)
        if refused[0] is not None:
            raise InputError(refused[0])
        yield


def main(arguments: list[str] | None = None) -> int:
    """Command line of `python -m dermstudy_commands.runner.parallel`; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(prog="torchrun -m dermstudy_commands.runner.parallel", description=__doc__)
    parser.add_argument("notebook", help="01, 02 or 03")
    parser.add_argument("profile")
    parser.add_argument("--results", help="results folder; by default as dermstudy run has it")
    parser.add_argument("--data", help="a folder in the HAM10000 layout")
    options = parser.parse_args(arguments)

    def act() -> int:
        try:
            results = options.results or study.default_results(options.profile, options.data)
            run_cells(options.notebook, options.profile, results, options.data)
        except InputError:
            if PartialState().is_main_process:  # the others would say the same
                raise
            return 2
        return 0

    try:
        return answered(act)
    finally:
        PartialState().destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
