"""Which notebook may run when: after those whose artifacts it reads, and beside none that makes the same artifact."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path

from dermstudy_commands.runner.fingerprints import code_cells, dependencies

CALLS = {  # of a workspace, by what it is that they name, and the name's place among the arguments
    "reads": {"need": 0}, "artifacts": {"out": 0, "save_pipeline": 1}, "tables": {"save_table": 1},
    "figures": {"save_figure": 1}, "measures": {"note": 0},
}  # fmt: skip
# Entries under the hash of what made them, or under names of one notebook's own: two notebooks may fill them at once.
CACHES = {"features", "classifier", "predictions"}


def names_in(notebook: Path) -> dict[str, set[str]]:
    """What the notebook reads and writes of a results folder, by kind of CALLS, as its cells spell the names."""
    found: dict[str, set[str]] = {kind: set() for kind in CALLS}
    for node in ast.walk(ast.parse("\n".join(code_cells(notebook)))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            for kind, calls in CALLS.items():
                place = calls.get(node.func.attr, len(node.args))
                name = node.args[place] if place < len(node.args) else None
                if isinstance(name, ast.Constant):
                    found[kind].add(str(name.value))
    return found


def run_in_order(notebooks: Sequence[Path], step: Callable[[Path], None], jobs: int = 1) -> None:
    """Call `step` with every notebook, up to `jobs` at once, each after those of `notebooks` that it depends on.

    With one job they run in the order given. Two that make the same artifact never run at once. Where a step fails, those
    under way end, no other begins, and its error is raised.
    """
    if jobs == 1:
        for notebook in notebooks:
            step(notebook)
        return
    makes = {notebook: names_in(notebook)["artifacts"] - CACHES for notebook in notebooks}
    needed = {notebook: dependencies(notebook) for notebook in notebooks}
    sorter = TopologicalSorter({one: [other for other in notebooks if other.stem in needed[one]] for one in notebooks})
    sorter.prepare()
    ready, running = [], {}
    with ThreadPoolExecutor(jobs) as pool:
        while sorter.is_active():
            ready = sorted([*ready, *sorter.get_ready()], key=list(notebooks).index)
            for notebook in list(ready):
                if len(running) < jobs and not any(makes[notebook] & makes[other] for other in running.values()):
                    ready.remove(notebook)
                    running[pool.submit(step, notebook)] = notebook
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                sorter.done(running.pop(future))
