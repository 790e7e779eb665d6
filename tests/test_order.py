"""Which notebooks run at once, and which one is said to have made what."""

from __future__ import annotations

import json
import threading
import time

import pytest

from dermstudy.workspace import project_root
from dermstudy_commands.runner import order, profiles

WAITS = {
    "00_a": "",
    "01_b": 'ws.need("x", made_by="00_a")\nws.out("model")\nws.out("features")',
    "02_c": 'ws.need("x", made_by="00_a")\nws.out("features")',
    "03_d": 'ws.need("x", made_by="00_a")\nws.out("model")\nws.out("features")',
    "04_e": 'ws.need("y", made_by="02_c")',
}


@pytest.fixture
def written(tmp_path):
    """Notebooks of one cell each, by WAITS."""
    import nbformat

    for stem, code in WAITS.items():
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        nbformat.write(book, tmp_path / f"{stem}.ipynb")
    return [tmp_path / f"{stem}.ipynb" for stem in WAITS]


class Watched:
    """A step that notes what runs when."""

    def __init__(self, failing=""):
        self.began, self.ended, self.together, self.running = [], [], set(), set()
        self.lock, self.failing = threading.Lock(), failing

    def __call__(self, notebook):
        with self.lock:
            self.together |= {frozenset((notebook.stem, other)) for other in self.running}
            self.running.add(notebook.stem)
            self.began.append((notebook.stem, tuple(self.ended)))
        if notebook.stem == self.failing:
            raise ValueError("no")
        time.sleep(0.1)
        with self.lock:
            self.running.remove(notebook.stem)
            self.ended.append(notebook.stem)


def test_one_at_a_time_is_the_order_given(written):
    watched = Watched()
    order.run_in_order(written, watched)
    assert watched.ended == list(WAITS) and not watched.together


def test_two_at_once_wait_for_what_they_read_and_share_no_artifact(written):
    watched = Watched()
    order.run_in_order(written, watched, jobs=2)
    before = dict(watched.began)
    assert sorted(before) == sorted(WAITS) and watched.together
    assert all("00_a" in before[stem] for stem in ("01_b", "02_c", "03_d")) and "02_c" in before["04_e"]
    assert frozenset(("01_b", "03_d")) not in watched.together
    assert frozenset(("01_b", "02_c")) in watched.together  # a cache of named entries is shared


def test_part_of_the_notebooks_does_not_wait_for_the_others(written):
    watched = Watched()
    order.run_in_order(written[3:], watched, jobs=2)
    assert sorted(watched.ended) == ["03_d", "04_e"]


def test_after_a_failure_none_begins_and_the_other_ends(written):
    watched = Watched(failing="01_b")
    with pytest.raises(ValueError, match="no"):
        order.run_in_order(written, watched, jobs=2)
    assert "02_c" in watched.ended and "04_e" not in watched.ended


def test_what_a_notebook_is_said_to_have_made_is_what_its_cells_write():
    manifest = json.loads((project_root() / "results" / "demo" / "manifest.json").read_text())
    for notebook in profiles.notebooks():
        spelled = order.names_in(notebook)
        for kind in ("tables", "figures"):
            named = {name for name, one in manifest[kind].items() if one["notebook"] == notebook.stem}
            assert named <= spelled[kind], notebook.stem
