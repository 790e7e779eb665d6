"""Results run once more: equal ones are called so, and a difference is named by its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dermstudy import processor
from dermstudy.processor import instruction_set
from dermstudy_commands import cli
from dermstudy_commands.runner import profiles, study, verify

TABLE = "name,value,note\nfirst,100,a\nsecond,1.5,b\nthird,,c\n"


def results(folder: Path, processor: str | None = None, commit: str = "one", **tables: str) -> Path:
    """A results folder as a run of the smoke profile leaves it: two tables and a figure of two notebooks."""
    for name in ("tables", "figures"):
        (folder / name).mkdir(parents=True)
    tables = {"cohort": TABLE, "loss": "step,loss\n1,0.5\n"} | tables
    for name, text in tables.items():
        (folder / "tables" / f"{name}.csv").write_text(text)
    Image.fromarray(np.full((4, 5, 3), 100, np.uint8)).save(folder / "figures" / "montage.png")
    made = {"commit": commit, "processor": processor or instruction_set()}
    stems = {"cohort": "00_dataset", "loss": "01_finetune"}
    notes = {
        "profile": "smoke",
        "notebooks": {stem: {"commit": commit, "source": "", "parameters": {}} for stem in stems.values()},
        "tables": {name: {"notebook": stems[name], **made} for name in tables if name in stems},
        "figures": {"montage": {"notebook": "00_dataset", **made}},
    }
    (folder / "manifest.json").write_text(json.dumps(notes))
    return folder


def test_equal_results_are_equal_exactly(tmp_path):
    compared = verify.compare(results(tmp_path / "one"), results(tmp_path / "two"))
    assert compared.equal
    assert compared.line() == (
        f"tables equal 2 of 2, figures equal by their pixels 1 of 1; exactly, on {instruction_set()}"
    )


def test_a_difference_is_named_by_its_first_place(tmp_path):
    changed = TABLE.replace("1.5,b", "1.5001,d")
    compared = verify.compare(results(tmp_path / "one"), results(tmp_path / "two", cohort=changed))
    assert not compared.equal
    assert "tables equal 1 of 2 (cohort: row 2, column value, 1.5 against 1.5001)" in compared.line()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (TABLE.replace("value", "worth"), "column value in one only"),
        (TABLE.replace("name,value", "value,name"), "the order of the columns"),
        (TABLE + "fourth,1,d\n", "3 rows against 4"),
        (TABLE.replace(",,", ",0,"), "row 3, column value,  against 0"),
        (TABLE.replace("\n", "\r\n"), "the same cells in other bytes"),
        (TABLE, ""),
    ],
)
def test_tables_are_compared_cell_by_cell(tmp_path, text, place):
    (tmp_path / "one.csv").write_text(TABLE)
    (tmp_path / "two.csv").write_bytes(text.encode())
    assert verify.table_difference(tmp_path / "one.csv", tmp_path / "two.csv", 0) == place


def test_another_instruction_set_is_given_a_tolerance(tmp_path):
    near = TABLE.replace("1.5,b", "6.4,b")  # within a twentieth of the column's largest, 100
    one = results(tmp_path / "one", processor="another")
    compared = verify.compare(one, results(tmp_path / "two", cohort=near))
    assert (
        compared.equal
        and "within 5% of a column's largest number and of the pixels' range: this is " in compared.line()
    )
    assert compared.line().endswith("and they were made on another")
    for place, far in enumerate((TABLE.replace("1.5,b", "6.6,b"), TABLE.replace("third", "another"))):
        assert list(verify.compare(one, results(tmp_path / f"far{place}", cohort=far)).other_tables) == ["cohort"]


def test_figures_are_compared_by_their_pixels(tmp_path):
    pixels = np.full((4, 5, 3), 100, np.uint8)
    paths = [tmp_path / name for name in ("one.png", "two.png", "bytes.png", "small.png")]
    Image.fromarray(pixels).save(paths[0])
    Image.fromarray(pixels).save(paths[2], compress_level=1, pnginfo=None)
    Image.fromarray(pixels[:3]).save(paths[3])
    pixels[0, 0] = 220
    Image.fromarray(pixels).save(paths[1])
    assert verify.figure_difference(paths[0], paths[2], 0) == ""
    assert verify.figure_difference(paths[0], paths[1], 0) == "5.00% of the pixels"
    assert verify.figure_difference(paths[0], paths[1], 0.05) == ""
    assert verify.figure_difference(paths[0], paths[1], 0.01) == "2.4% of the range on average"
    assert verify.figure_difference(paths[0], paths[3], 0) == "5 x 4 against 5 x 3 pixels"


def test_results_made_under_a_cap_are_proven_under_it_and_exactly(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processor.Path, "read_text", lambda self, **options: "flags : avx2 avx512f amx_bf16\n")
    name, caps, ran = processor.CAP, {processor.CAP: "AVX2"}, []
    monkeypatch.delenv(name, raising=False)
    with profiles.surroundings(caps):
        expected = results(tmp_path / "one")
    monkeypatch.undo()
    notes = json.loads((expected / "manifest.json").read_text()) | {"environment": caps}
    (expected / "manifest.json").write_text(json.dumps(notes))

    def run(profile, data, folder, to, jobs, environment):
        ran.append(environment)
        return results(Path(folder), cohort=TABLE.replace("1.5,b", "1.5001,b"))

    monkeypatch.setattr(study, "run", run)
    assert cli.main(["verify", str(expected)]) == 1 and ran == [caps]
    assert "1.5 against 1.5001), " in (line := capsys.readouterr().out) and "exactly, on AVX2" in line
    assert name not in os.environ


def test_what_is_missing_or_new_differs_and_what_did_not_run_is_left_out(tmp_path):
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    (one / "tables" / "mini_steps.csv").write_text("steps\n1\n")  # a maintainer's, which no notebook makes
    (two / "tables" / "loss.csv").unlink()
    assert verify.compare(one, two).other_tables == {"loss": "missing"}
    assert verify.compare(two, results(tmp_path / "three")).other_tables == {"loss": "not among the committed"}
    notes = json.loads((two / "manifest.json").read_text())
    del notes["notebooks"]["01_finetune"], notes["tables"]["loss"]
    (two / "manifest.json").write_text(json.dumps(notes))
    compared = verify.compare(one, two)
    assert compared.equal and compared.tables == 1


def test_verify_runs_the_profile_elsewhere_and_says_what_it_found(tmp_path, monkeypatch, capsys):
    expected, ran = results(tmp_path / "results"), []

    def run(profile, data, folder, to, jobs, environment):
        ran.append((profile, data, to, Path(folder), jobs, environment))
        return results(Path(folder), cohort=TABLE if len(ran) == 1 else TABLE.replace("a", "b"))

    monkeypatch.setattr(study, "run", run)
    assert cli.main(["verify", str(expected)]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "tables equal 2 of 2" in line
    assert "made by older code: 00, 01" in line
    assert cli.main(["verify", str(expected), "--jobs", "2"]) == 1
    assert [one[4] for one in ran] == [1, 2]
    assert ran[0][:3] == ("smoke", None, "01") and not ran[0][3].exists() and ran[0][5] == {}
    assert cli.main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "is no manifest of a run" in capsys.readouterr().err
