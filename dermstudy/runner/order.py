"""Which notebook may run when: after those whose artifacts it reads, and beside none that makes the same artifact."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from dermstudy.files import InputError
from dermstudy.runner.fingerprints import code_cells, dependencies

WRITES = {"tables": ("save_table", 1), "figures": ("save_figure", 1), "measures": ("note", 0)}  # and the name's place
# Entries under the hash of what made them, or under names of one notebook's own: two notebooks may fill them at once.
CACHES = {"features", "classifier", "predictions"}


def artifacts_of(notebook: Path, call: str) -> list[str]:
    """The artifacts that the notebook makes (`ws.out(...)`, call "out") or reads ("need")."""
    return re.findall(rf"ws\.{call}\(\s*[\"']([\w.]+)[\"']", "\n".join(code_cells(notebook)))


def claims(notebook: Path) -> dict[str, set[str]]:
    """What the notebook writes, by kind: artifacts, tables, figures and measures, as far as its cells spell their names."""
    found: dict[str, set[str]] = {"artifacts": set(artifacts_of(notebook, "out")), **{kind: set() for kind in WRITES}}
    for node in ast.walk(ast.parse("\n".join(code_cells(notebook)))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            for kind, (call, place) in WRITES.items():
                name = node.args[place] if node.func.attr == call and len(node.args) > place else None
                if isinstance(name, ast.Constant):
                    found[kind].add(str(name.value))
    return found


def run_in_order(notebooks: Sequence[Path], step: Callable[[Path], None], jobs: int = 1) -> None:
    """Call `step` with every notebook, up to `jobs` at once, each after those of `notebooks` that it depends on.

    With one job they run in the order given. Of those that may run the first given goes first; two that make the same
    artifact never run at once. Where a step fails, those under way end, no other begins, and its error is raised.
    InputError for fewer jobs than one.
    """
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: give 1 or more")
    if jobs == 1:
        for notebook in notebooks:
            step(notebook)
        return
    waits = {notebook.stem: set(dependencies(notebook)) for notebook in notebooks}
    makes = {notebook.stem: set(artifacts_of(notebook, "out")) - CACHES for notebook in notebooks}
    left, running, failed = list(notebooks), {}, None
    with ThreadPoolExecutor(jobs) as pool:
        while running or (left and failed is None):
            for notebook in _ready(left, running, waits, makes)[: jobs - len(running)] if failed is None else ():
                left.remove(notebook)
                running[pool.submit(step, notebook)] = notebook.stem
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                del running[future]
                failed = failed or future.exception()
    if failed is not None:
        raise failed


def _ready(left: list[Path], running: dict[Future, str], waits: dict, makes: dict) -> list[Path]:
    """The notebooks that may begin now, in order; no two of them make the same artifact."""
    unfinished = {notebook.stem for notebook in left} | set(running.values())
    busy, chosen = set().union(*(makes[stem] for stem in running.values())), []
    for notebook in left:
        stem = notebook.stem
        if not waits[stem] & unfinished and not makes[stem] & busy:
            chosen.append(notebook)
            busy |= makes[stem]
    return chosen
