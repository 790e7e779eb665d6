"""A set of synthetic images to pass on: whole or not at all, the same from the same seed, read by our loader and others'."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mlcroissant
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

from dermstudy import cli
from dermstudy.data import dataset
from dermstudy.diffusion import croissant, synthetic_set, weights
from dermstudy.entities import CODES
from dermstudy.files import InputError, sha256_file

MINI = ROOT / "weights" / "glide-mini"
DESCRIBED = weights.Weights("small 0123456789", "cc-by-nc-4.0", ("**Not for diagnosis.** At all.",))


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


def test_nobody_takes_it_for_originals(generator, tmp_path):
    folder = synthetic_set.write(generator, tmp_path / "set", per_entity=1)
    with pytest.raises(InputError, match="no metadata"):
        dataset.load_folder(folder)


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
    (part / "images" / ".half.png.abc").mkdir()  # what a kill leaves of a file that was being written
    assert not (tmp_path / "cut").exists()
    capsys.readouterr()
    again = []

    def counting(captions, seeds):
        again.append(seeds)
        return painted(captions, seeds)

    folder = synthetic_set.write(synthetic_set.Generator(DESCRIBED, counting), tmp_path / "cut", 3)
    assert files(folder) == whole and len(again) == 14 - 3 + 1 and not list(tmp_path.glob(".cut.*"))
    assert "21 of 21 images" in capsys.readouterr().out


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


def test_a_broken_description_is_seen_by_mlcroissant(generator, tmp_path):
    folder = synthetic_set.write(generator, tmp_path / "set", per_entity=1)
    path = folder / synthetic_set.CROISSANT
    notes = json.loads(path.read_text())
    notes["recordSet"][0]["field"][0]["source"]["fileObject"]["@id"] = "no such file"
    path.write_text(json.dumps(notes))
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(path)


def test_the_description_names_every_column_once():
    frame = synthetic_set.planned(1, 0, "g")
    assert list(frame.columns) == [column.name for column in synthetic_set.COLUMNS]
    assert len(set(croissant.OWN_TERMS)) == len(croissant.OWN_TERMS)


def test_weights_say_what_they_are(tmp_path):
    described = weights.describe(MINI)
    assert re.fullmatch("glide-mini [0-9a-f]{10}", described.name)
    assert described.name == weights.name_of(MINI) and described.licence == "cc-by-nc-4.0"
    assert any(text.startswith("**Not for diagnosis") for text in described.warnings)
    assert described.sampling == weights.lineage(MINI)["sampling"] and set(described.sampling) == set(weights.SAMPLING)
    with pytest.raises(InputError, match="no weights in"):
        weights.describe(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert weights.describe(tmp_path).licence == "" and weights.describe(tmp_path).warnings == ()
    (tmp_path / "lineage.json").write_text("[]")
    with pytest.raises(InputError, match="cannot be read"):
        weights.describe(tmp_path)


@pytest.mark.slow
def test_glide_mini_paints_a_set(tmp_path, capsys):
    assert cli.main(["synthesize", str(tmp_path / "set"), "--per-entity", "1", "--seed", "3"]) == 0
    assert capsys.readouterr().out.count("of 7 images") == 7
    cohort = dataset.open_synthetic(tmp_path / "set")
    images = cohort.images(256).astype(float)
    red, green, blue = images.mean(axis=(1, 2)).T
    assert len(images) == 7 and (red > green).all() and (red > blue).all()
    assert "Not for diagnosis" in (tmp_path / "set" / "README.md").read_text()
