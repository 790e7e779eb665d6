"""What a reader study writes it reads again: any reader's name, names of images, keys, kits whose build was killed."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dermstudy import workspace
from dermstudy.data import dataset
from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy.readers import kit, statistics, workbook
from dermstudy_commands import cli
from dermstudy_commands.readers import served, store

IMAGES = tempfile.TemporaryDirectory()


def grey(source: str) -> dataset.Cohort:
    """A cohort of one grey image an entity."""
    root = Path(IMAGES.name) / source
    frame = pd.DataFrame({"image_id": [f"{source}_{code}" for code in CODES], "dx": CODES, "split": "test"})
    frame["file"] = frame["image_id"] + ".png"
    root.mkdir(exist_ok=True)
    for file in frame["file"]:
        Image.new("RGB", (256, 256), "grey").save(root / file)
    return dataset.Cohort(source, root, frame, "")


@pytest.fixture
def built(tmp_path):
    return served.build(grey("synthetic"), grey("original"), tmp_path / "kit", 1, seed=4)


def answered(folder, key_path, reader, images=slice(None)):
    key = kit.open_key(key_path)
    for row in kit.simulated_answers(key, reader, 0.7, 0.8, 0)[images].itertuples():
        store.save(folder, reader, row.image, row.entity_answer, row.source_answer, row.confidence)
    return key


def refused(capsys, *arguments) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


# Names of readers

ODD = ("NA", "null", "nan", "None", "=1+1", "+1", "-1", "@x", "'=1", "-a", "TRUE", "1e5", "0012", "#N/A", " Ada ", "Ada\tB",
       "Ada\nB", "Åsa Ä.", "李", "_x0041_", 'a "b"', "a,b;c", "", " ", "\x07", "\u200b", "x" * 61)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(text=st.one_of(st.sampled_from(ODD), st.text(max_size=80)))
def test_any_name_of_a_reader_is_read_as_it_was_written(tmp_path_factory, text):
    """Refused where it is entered, or the same text through the store, both kinds of workbook and the answers' file."""
    folder = tmp_path_factory.mktemp("kit")
    try:
        _, reader = store.add_reader(folder, text)
    except InputError:
        assert not text.strip() or len(text) > 60 or not " ".join(text.split()).isprintable()
        return
    assert reader == " ".join(text.split())
    store.save(folder, reader, "bcdfghjklm", "nv", "AI", 3)
    key = pd.DataFrame([("kit", "bcdfghjklm", "AI", "mel", "original")], columns=kit.KEY_COLUMNS)
    answers = served.with_truth(store.answers(folder), key, partial=True)
    for name in ("answers.xlsx", "answers.csv"):
        read = workbook.read_workbook(workbook.write_workbook(answers, folder / name, store.readers(folder)))
        assert read["reader"].tolist() == [reader] and read["confidence"].tolist() == [3]
        kit.save_answers(read, key, folder / "kit_answers.csv")
        assert kit.open_answers(folder / "kit_answers.csv")["reader"].tolist() == [reader]
    for page in openpyxl.load_workbook(folder / "answers.xlsx"):
        assert {cell.data_type for row in page.iter_rows() for cell in row if isinstance(cell.value, str)} == {"s"}
    written = list(csv.reader((folder / "answers.csv").open(newline="", encoding="utf-8")))
    assert written[1][0] == reader or (written[1][0] == f"'{reader}" and reader.lstrip("'")[0] in "=+-@")
    assert not written[1][0].startswith(("=", "@"))


def test_a_reader_called_as_a_missing_value_or_a_formula_goes_through_all_commands(built, tmp_path, capsys):
    folder, key_path = built
    for name in ("NA", "=1+1"):
        assert cli.main(["kit", "readers", str(folder), "--add", name]) == 0
        answered(folder, key_path, name)
    for name in ("answers.xlsx", "answers.csv"):
        assert cli.main(["kit", "export", str(folder), str(tmp_path / name)]) == 0
        assert workbook.read_workbook(tmp_path / name)["reader"].value_counts().to_dict() == {"NA": 14, "=1+1": 14}
    space = workspace.Workspace(tmp_path)
    exported = workbook.read_workbook(tmp_path / "answers.xlsx")
    space.save_table(statistics.source_answers(exported), "kit_source_answers")
    assert "\n'=1+1,AI," in (tmp_path / "tables" / "kit_source_answers.csv").read_text()


# Where answers are written


def test_the_ending_says_how_answers_are_written(built, tmp_path, capsys):
    folder, key_path = built
    answered(folder, key_path, "Ada")
    for name, starts in (("a.xlsx", b"PK"), ("b.CSV", b"reader,"), ("c.csv", b"reader,"), ("d.XLSX", b"PK")):
        assert cli.main(["kit", "export", str(folder), str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes().startswith(starts)
        assert len(workbook.read_workbook(tmp_path / name)) == 14
    for name in ("answers", "answers.xls", "answers.ods"):
        assert "written as .xlsx or .csv" in refused(capsys, "kit", "export", folder, tmp_path / name)
        assert not (tmp_path / name).exists()


def test_the_committed_template_is_what_the_command_writes_and_can_be_filled(tmp_path, capsys):
    path = tmp_path / "template.xlsx"
    assert cli.main(["kit", "template", str(path)]) == 0
    committed, made = (openpyxl.load_workbook(each) for each in (ROOT / "docs" / "template.xlsx", path))
    assert committed.sheetnames == made.sheetnames
    for old, new in zip(committed, made, strict=True):
        assert list(old.values) == list(new.values)
        lists = [{str(own.sqref): own.formula1 for own in page.data_validations.dataValidation} for page in (old, new)]
        assert lists[0] == lists[1]
    with pytest.raises(InputError, match="has a header but no row"):
        workbook.read_workbook(path)
    rows = [("Ada", "image 1", "AI", "melanoma", "vascular lesion", "unsure", 5),
            ("Ada", "image 2", "original", "nv", "melanoma", "AI", None)]  # fmt: skip
    for row in rows:
        made["answers"].append(row)
    made.save(path)
    read = workbook.read_workbook(path)
    assert read["entity_answer"].tolist() == ["vasc", "mel"] and read["confidence"].iloc[0] == 5
    assert refused(capsys, "kit", "template", tmp_path / "template.csv")


# Names of kits and images


def test_no_spreadsheet_rewrites_a_drawn_name():
    """Neither a number nor a date, a month, a truth value or a missing one: letters, and no vowel among them."""
    one, other = grey("synthetic"), grey("original")
    names = {name for seed in range(40) for row in kit.draw(one.frame, other.frame, 1, str(seed)).itertuples()
             for name in (row.image, row.kit)}  # fmt: skip
    assert len(names) == 40 * 15 and all(
        re.fullmatch("[bcdfghjklmnpqrst]{10}|[bcdfghjklmnpqrst]{12}", n) for n in names
    )


EXCEL = ("5.29057E+13", "5,29057E+13", "123456789", "5.3E+10")  # of 52905702e6, 0123456789 and the like


@pytest.mark.parametrize("column", ["image", "kit"])
@pytest.mark.parametrize("number", EXCEL)
def test_a_key_whose_names_a_spreadsheet_rewrote_is_named_by_its_row(built, tmp_path, capsys, column, number):
    folder, key_path = built
    key = answered(folder, key_path, "Ada")
    key.loc[[8] if column == "image" else key.index, column] = number
    key.to_csv(tmp_path / "kit_key.csv", index=False)
    error = refused(capsys, "kit", "export", folder, tmp_path / "answers.xlsx")
    row = 10 if column == "image" else 2
    assert f"kit_key.csv, line {row}: a spreadsheet program made the number {number} of a name" in error
    assert not (tmp_path / "answers.xlsx").exists()


def test_answers_whose_names_a_spreadsheet_rewrote_lose_no_original(built, tmp_path):
    key = answered(*built, "Ada")
    answers = served.export(*built)
    answers.loc[3, "image"] = "5.29057E+13"
    with pytest.raises(
        InputError, match=r"reader 'Ada': a spreadsheet program made the number 5.29057E\+13 of an image"
    ):
        kit.save_answers(answers, key, tmp_path / "kit_answers.csv")
    answers.loc[3, "image"] = "stranger"
    with pytest.raises(InputError, match="answers belong to another kit"):
        kit.save_answers(answers, key, tmp_path / "kit_answers.csv")
    assert not (tmp_path / "kit_answers.csv").exists()


def test_kits_with_names_of_digits_open_as_before(built, tmp_path):
    """Kits of earlier releases: hexadecimal names, some of which look like numbers."""
    folder, key_path = built
    old = {image: f"5290570{number:02d}e6"[-10:] for number, image in enumerate(served.open_kit(folder)["images"])}
    notes = (folder / "kit.json").read_text()
    for image, name in old.items():
        (folder / "images" / f"{image}.bmp").rename(folder / "images" / f"{name}.bmp")
        notes = notes.replace(image, name)
    (folder / "kit.json").write_text(notes)
    key = kit.open_key(key_path)
    key.assign(image=key["image"].map(old)).to_csv(key_path, index=False)
    answered(folder, key_path, "Ada")
    assert served.export(folder, key_path)["image"].isin(old.values()).all()


# A build that is killed

KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_reader_files import grey, served
renamed, left = os.replace, [int(sys.argv[2])]

def replace(*arguments):
    left[0] -= 1
    if not left[0]:
        os._exit(9)
    renamed(*arguments)

os.replace = replace
served.build(grey("synthetic"), grey("original"), Path(sys.argv[1]), 1, seed=4)
"""


@pytest.mark.parametrize("rename", [1, 2])
def test_a_build_that_was_killed_is_no_hindrance(tmp_path, rename):
    """Killed before each rename: the next build succeeds, and so does whoever opens the kit that is there."""
    code = KILLED.format(tests=str(ROOT / "tests"))
    for name in ("opened", "rebuilt"):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / name), str(rename)], capture_output=True)
        assert done.returncode == 9, done.stderr
    if (tmp_path / "opened").exists():
        assert served.open_kit(tmp_path / "opened")["kit"] == kit.open_key(tmp_path / "opened_key.csv")["kit"][0]
    folder, key_path = served.build(grey("synthetic"), grey("original"), tmp_path / "rebuilt", 1, seed=5)
    assert served.open_kit(folder)["kit"] == kit.open_key(key_path)["kit"][0]
    assert sorted(path.name for path in folder.iterdir()) == ["images", "kit.json"]
    with pytest.raises(InputError, match="is not replaced"):
        served.build(grey("synthetic"), grey("original"), folder, 1)
