"""A set of synthetic images to pass on: whole or not at all, the same from the same seed, read by our loader and others'."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mlcroissant
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

from dermstudy.data import dataset
from dermstudy.diffusion import weights
from dermstudy.entities import CODES
from dermstudy.files import InputError, sha256_file
from dermstudy_commands import cli, synthetic_set, weights_card

MINI = ROOT / "weights" / "glide-mini"
DESCRIBED = weights_card.Weights("small 0123456789", "cc-by-nc-4.0", ("**Not for diagnosis.** At all.",))


def painted(captions, seeds):
    """One colour an image, from its caption and seed."""
    pixels = [
        np.random.default_rng([seed, len(caption)]).integers(0, 256, 3)
        for caption, seed in zip(captions, seeds, strict=True)
    ]
    return np.stack([np.full((64, 64, 3), colour, np.uint8) for colour in pixels])


@pytest.fixture
def generator(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    return synthetic_set.Generator(DESCRIBED, painted)


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def test_the_set_is_whole_and_our_loader_reads_it(generator, tmp_path):
    folder = synthetic_set.write(generator, tmp_path / "set", per_entity=3, seed=5)
    cohort = dataset.open_synthetic(folder)
    assert cohort.frame["dx"].value_counts(sort=False).to_dict() == dict.fromkeys(CODES, 3)
    assert cohort.images(64).shape == (21, 64, 64, 3) and cohort.frame["seed"].is_unique
    for row in cohort.frame.itertuples():
        assert (folder / row.file).with_suffix(".txt").read_text() == row.caption + "\n"
        assert sha256_file(folder / row.file) == row.sha256
        with Image.open(folder / row.file) as image:
            assert image.text["seed"] == str(row.seed) and "not for diagnosis" in image.text["Description"]
    assert set(dataset.COLUMNS) <= set(cohort.frame.columns) and (cohort.frame["dx_type"] == "synthetic").all()
    readme = (folder / "README.md").read_text()
    assert "Not for diagnosis. At all." in readme and all(text in readme for text in synthetic_set.ALWAYS)
    assert "CC-BY-NC-4.0" in readme and [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_set_says_what_was_read_of_its_captions(tmp_path, generator):
    cut = synthetic_set.Generator(DESCRIBED, painted, lambda captions: [caption[:5] for caption in captions])
    folder = synthetic_set.write(cut, tmp_path / "cut", per_entity=1)
    whole = files(synthetic_set.write(generator, tmp_path / "whole", per_entity=1))
    table = pd.read_csv(folder / synthetic_set.TABLE, keep_default_na=False)
    notes = json.loads((folder / synthetic_set.CROISSANT).read_text())
    assert "images/caption_whole" in {field["@id"] for field in notes["recordSet"][0]["field"]}
    for row in table.itertuples():
        assert row.caption == row.caption_whole[:5] != row.caption_whole
        assert (folder / row.file).with_suffix(".txt").read_text() == row.caption + "\n"
        with Image.open(folder / row.file) as image, Image.open(tmp_path / "whole" / row.file) as other:
            assert (image.text["caption"], image.text["caption_whole"]) == (row.caption, row.caption_whole)
            assert "caption_whole" not in other.text and other.text["caption"] == row.caption_whole
            assert np.array_equal(np.asarray(image), np.asarray(other))  # painted from the whole text
    assert "caption_whole" in (folder / "README.md").read_text() and whole["metadata.csv"]
    assert "caption_whole" not in (tmp_path / "whole" / synthetic_set.TABLE).read_text()


def test_the_same_seed_gives_the_same_files(generator, tmp_path):
    first, second, other = (
        files(synthetic_set.write(generator, tmp_path / name, 2, seed))
        for name, seed in zip("abc", (1, 1, 2), strict=True)
    )
    assert first == second
    assert {name for name in first if first[name] == other[name]} <= {n for n in first if n.endswith(".txt")}


def test_a_larger_set_holds_the_smaller_one():
    small, large = (synthetic_set.planned(count, 3, "g").set_index("image_id") for count in (2, 9))
    assert small.equals(large.loc[small.index])


def test_an_interrupted_run_goes_on_with_whole_batches(generator, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synthetic_set, "BATCH", 2)
    whole = files(synthetic_set.write(generator, tmp_path / "whole", 3))
    asked = []

    def dying(captions, seeds):
        asked.append(seeds)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return painted(captions, seeds)

    with pytest.raises(KeyboardInterrupt):
        synthetic_set.write(synthetic_set.Generator(DESCRIBED, dying), tmp_path / "cut", 3)
    (part,) = tmp_path.glob(".cut.*")
    next(part.rglob("*.png")).unlink()  # a batch that lost an image is painted as a whole
    (part / "images" / ".half.png.saving").mkdir()  # what a kill leaves of a file that was being written
    assert not (tmp_path / "cut").exists()
    capsys.readouterr()
    again = []

    def counting(captions, seeds):
        again.append(seeds)
        return painted(captions, seeds)

    folder = synthetic_set.write(synthetic_set.Generator(DESCRIBED, counting), tmp_path / "cut", 3)
    assert files(folder) == whole and len(again) == 14 - 3 + 1 and not list(tmp_path.glob(".cut.*"))
    assert "21 of 21 images" in capsys.readouterr().out


KILLED = """
import os, sys
import test_synthetic_set as own
from dermstudy_commands import synthetic_set

to_csv = own.pd.DataFrame.to_csv

def die(frame, path, **options):
    to_csv(frame, path, **options)
    os._exit(9)

own.pd.DataFrame.to_csv = die
synthetic_set.write(synthetic_set.Generator(own.DESCRIBED, own.painted), sys.argv[1], 1)
"""


def test_a_run_killed_while_it_wrote_the_table_ships_no_stray(generator, tmp_path):
    whole = files(synthetic_set.write(generator, tmp_path / "whole", 1))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "cut")]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    folder = synthetic_set.write(generator, tmp_path / "cut", 1)
    assert files(folder) == whole and not [path for path in folder.rglob("*") if path.name.startswith(".")]
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "cut"}


def test_two_runs_do_not_write_one_set(generator, tmp_path):
    """The second is refused while the first paints, whatever it asks for, and takes nothing from it."""
    refused = []

    def beside(captions, seeds):
        for wanted in (1, 2):
            with pytest.raises(InputError, match="another process is writing .*set: wait for it") as caught:
                synthetic_set.write(generator, tmp_path / "set", wanted)
            refused.append(caught.value)
        return painted(captions, seeds)

    folder = synthetic_set.write(synthetic_set.Generator(DESCRIBED, beside), tmp_path / "set", 1)
    assert len(refused) == 14 and len(list((folder / "images").glob("*.png"))) == 7
    assert files(folder) == files(synthetic_set.write(generator, tmp_path / "alone", 1))


def test_a_finished_set_is_kept_and_nothing_else_is_written_over(generator, tmp_path, capsys):
    folder = synthetic_set.write(generator, tmp_path / "set", 1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert synthetic_set.write(generator, folder, 1) == folder
    assert "7 of 7 images are there" in capsys.readouterr().out
    with pytest.raises(InputError, match="holds something else"):
        synthetic_set.write(generator, folder, 2)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--per-entity", "0"], "give a number from 1 to 10,000"),
        (["--per-entity", "1", "--seed", "-1"], "seed -1"),
        (["--per-entity", "1", "--weights", "nowhere"], "no weights in"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message):
    assert cli.main(["synthesize", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_an_interrupted_command_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic_set, "make", interrupted)
    assert cli.main(["synthesize", str(tmp_path / "out"), "--per-entity", "1"]) == 130
    assert "goes on from the last finished images" in capsys.readouterr().err


def test_mlcroissant_reads_every_record_with_its_image(generator, tmp_path, caplog):
    folder = synthetic_set.write(generator, tmp_path / "set", per_entity=2)
    opened = mlcroissant.Dataset(folder / synthetic_set.CROISSANT)
    assert not opened.metadata.issues.errors and not opened.metadata.issues.warnings
    records = {record["images/image_id"].decode(): record for record in opened.records("images")}
    frame = pd.read_csv(folder / synthetic_set.TABLE, keep_default_na=False)
    assert set(records) == set(frame["image_id"])
    for row in frame.itertuples():
        record = records[row.image_id]
        for column in ("dx", "caption", "file", "sha256"):
            assert record[f"images/{column}"].decode() == getattr(row, column)
        assert record["images/seed"] == row.seed
        assert np.array_equal(np.asarray(record["images/image"]), dataset.read_image(folder / row.file))
    assert not [line for line in caplog.messages if "not standard" in line]


def test_weights_say_what_they_are(tmp_path):
    described = weights_card.describe(MINI)
    assert re.fullmatch("glide-mini [0-9a-f]{10}", described.name)
    assert described.name == weights_card.name_of(MINI) and described.licence == "cc-by-nc-4.0"
    assert any(text.startswith("**Not for diagnosis") for text in described.warnings)
    assert described.sampling == weights.lineage(MINI)["sampling"] and set(described.sampling) == set(
        weights_card.SAMPLING
    )
    with pytest.raises(InputError, match="no weights in"):
        weights_card.describe(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert weights_card.describe(tmp_path).licence == "" and weights_card.describe(tmp_path).warnings == ()
    (tmp_path / "lineage.json").write_text("[]")
    with pytest.raises(InputError, match="lineage.json: input should be an object"):
        weights_card.describe(tmp_path)
