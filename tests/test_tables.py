"""One reader of tables: every dialect reads the same, and what cannot be read says why, in one line."""

from __future__ import annotations

import csv
import io
import zipfile

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermstudy.files import InputError
from dermstudy.tables import clean, plain, read_table

NAMES = ("image_id", "dx", "age")
WORDS = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"], exclude_characters="\u200b\u2060\ufeff"),
    min_size=1, max_size=8,
)  # fmt: skip
ODD = st.sampled_from(["NA", "null", "=1+1", "0012", "52905702e6", "1,5", "a;b", 'a "b"', "'x", "85,0", "x\ny"])
CELLS = st.one_of(WORDS, ODD, st.just(""))
IDS = st.one_of(WORDS, ODD).filter(lambda text: text.strip(",;"))  # separators alone are a blank row
ROWS = st.lists(st.tuples(IDS, CELLS, CELLS), min_size=1, max_size=5)


def text_of(rows, separator=",", end="\n", quoting=csv.QUOTE_MINIMAL) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting).writerows(rows)
    return out.getvalue()


@settings(max_examples=150, deadline=None)
@given(
    rows=ROWS,
    separator=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_a_table_written_in_any_dialect_reads_back_equal(tmp_path_factory, rows, separator, encoding, end, quoting):
    path = tmp_path_factory.mktemp("t") / "table.csv"
    quoting = csv.QUOTE_ALL if end == "\r" else quoting  # the writer leaves "\n" bare between lines that end in "\r"
    path.write_bytes(text_of([NAMES, *rows], separator, end, quoting).encode(encoding))
    table = read_table(path, NAMES)
    assert [tuple(row) for row in table.frame.itertuples(index=False)] == rows
    assert list(table.frame.columns) == list(NAMES) and not table.notes


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_a_table_written_as_a_workbook_reads_back_equal(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "table.xlsx"
    book = openpyxl.Workbook()
    for number, row in enumerate([NAMES, *rows], start=1):
        for place, value in enumerate(row, start=1):
            cell = book.active.cell(number, place)
            cell.value = value
            cell.data_type = "s"
    book.save(path)
    assert [tuple(row) for row in read_table(path, NAMES).frame.itertuples(index=False)] == rows


def put(tmp_path, content, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_lines_are_those_of_the_file_though_blank_rows_are_left_out(tmp_path):
    text = "Export of the clinic;;\n\n Image ID ; DX;Age \n;;\na;nv;54,5\n \u00a0;;\u200b\n\nb;\u00a0mel\u200b ;NaN\n;;;;\n"
    table = read_table(put(tmp_path, text), NAMES)
    assert table.header == 3 and table.printed == {"image_id": "Image ID", "dx": "DX", "age": "Age"}
    assert list(table.frame.index) == [5, 8] and list(table.frame["dx"]) == ["nv", "mel"]
    age = table.numbers("age", 0, 120, "a number of years")
    assert age[5] == 54.5 and np.isnan(age[8])
    multi = read_table(put(tmp_path, 'image_id,dx\n"a\nb",nv\n,\nc,mel\n'), NAMES)
    assert list(multi.frame.index) == [2, 5]


def test_markers_of_missing_values_are_names_where_a_name_stands(tmp_path):
    table = read_table(put(tmp_path, "image_id,dx,age\nNA,nan,null\nnull,nv,unknown\nNone,nv,\n0012,nv,1.5e1\n"), NAMES)
    assert list(table.filled("image_id")) == ["NA", "null", "None", "0012"] and table.filled("dx").iloc[0] == "nan"
    assert list(table.numbers("age", 0, 120, "years").fillna(-1)) == [-1, -1, -1, 15]


def test_windows_text_is_read_and_told(tmp_path):
    table = read_table(put(tmp_path, "image_id;dx\na;Rücken\n".encode("cp1252")), NAMES)
    assert table.frame.loc[2, "dx"] == "Rücken" and "Windows-1252, for example 'Rücken'" in table.notes[0]


@pytest.mark.parametrize("encoding", ["mac_roman", "cp850", "cp1251", "koi8_r", "shift_jis"])
def test_text_of_another_encoding_is_refused(tmp_path, encoding):
    word = "Rücken" if encoding in ("mac_roman", "cp850") else "背中" if encoding == "shift_jis" else "Родинка"
    with pytest.raises(InputError, match="line 3 is neither UTF-8 nor plainly Windows-1252"):
        read_table(put(tmp_path, f"image_id,dx\na,nv\nb,{word}\n".encode(encoding)), NAMES)


def workbook(path, *sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets):
        page = book.create_sheet(f"sheet {number}")
        for row in rows:
            page.append(row)
    book.save(path)
    return path


def test_a_workbook_is_read_below_its_cover_sheet_and_title(tmp_path):
    sheet = [
        ["Study 2023"],
        [],
        ["IMAGE-ID", None, "dx", "Age"],
        ["a", None, "nv", 54.0],
        [" "],
        ["b", "note", "mel", 61],
    ]
    path = workbook(tmp_path / "table.csv", [["please fill in the next sheet"]], sheet)
    table = read_table(path, NAMES)
    assert table.sheet == "sheet 1" and table.header == 3 and list(table.frame.index) == [4, 6]
    assert list(table.frame["age"]) == ["54", "61"] and table.where(6).endswith("table.csv, sheet 'sheet 1', row 6")


def test_a_cell_merged_down_a_column_holds_for_its_rows(tmp_path):
    path = workbook(tmp_path / "t.xlsx", [["image_id", "dx"], ["a", "nv"], ["b", None], ["c", "mel"]])
    book = openpyxl.load_workbook(path)
    book.active.merge_cells("B2:B3")
    book.save(path)
    assert list(read_table(path, NAMES).frame["dx"]) == ["nv", "nv", "mel"]


def archive(*names) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a table: it is empty"),
        ("\ufeff", "all its rows are blank"),
        (",,\n ;;\n", "all its rows are blank"),
        (bytes(range(256)) * 4, "neither UTF-8 nor plainly Windows-1252"),
        ("image_id,dx\na,nv\n".encode("utf-16-le"), "holds control characters"),
        (b"\xff\xfe\x00images", "begins as UTF-16 and goes on as something else"),
        (archive("a.txt"), "no Excel workbook"),
        (archive("[Content_Types].xml", "xl/workbook.xml"), "no Excel workbook"),
        (b"\xd0\xcf\x11\xe0" + bytes(600), "old or encrypted Excel workbook"),
        ('image_id,dx\na,nv\nb,"mel\nc,nv\n', "line 3: a quotation mark is not closed"),
        ('image_id,dx\na,"n"v\n', "line 2: a quotation mark"),
        ("image_id,dx,age\n\na,nv,54,5\n", "line 3 has 4 cells, and the header 3"),
        ('image_id,dx,"Image\nID"\na,nv,b\n', "line 1 names a column twice, 'image_id' and 'Image"),
        ("image_id,dx,Image ID\na,nv,b\n", "line 1 names a column twice, 'image_id' and 'Image ID'"),
    ],
)
def test_what_is_no_table_ends_in_one_true_line(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as raised:
        read_table(put(tmp_path, content), NAMES)
    assert "\n" not in str(raised.value)


def test_what_is_no_file_and_what_lacks_columns_ends_in_one_line(tmp_path):
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "no", "no table"), (tmp_path / ("x" * 300), "x")):
        with pytest.raises(InputError, match=message):
            read_table(path)
    table = read_table(put(tmp_path, "Image ID;DX\na;\n"), NAMES)
    with pytest.raises(
        InputError, match="has no column age: its header, line 1, has Image ID, DX; it needs image_id, age"
    ):
        table.require("image_id", "age")
    with pytest.raises(InputError, match="line 2: DX is empty; fill it in"):
        table.filled("dx")
    with pytest.raises(InputError, match="a header but no row"):
        read_table(put(tmp_path, "image_id,dx\n"), NAMES).require("dx")
    with pytest.raises(InputError, match="line 2: age '1_0' is not a number of years"):
        read_table(put(tmp_path, "image_id,age\na,1_0\n"), NAMES).numbers("age", 0, 120, "a number of years")


def test_two_sheets_of_one_table_are_not_chosen_among(tmp_path):
    first = [["image_id", "dx"], ["a", "nv"]]
    with pytest.raises(InputError, match="on two sheets, 'sheet 0' and 'sheet 2'"):
        read_table(workbook(tmp_path / "t.xlsx", first, [["image_id"], ["a"]], first), NAMES)
    assert len(read_table(workbook(tmp_path / "u.xlsx", first, first[:1]), NAMES).frame) == 1


def test_a_stray_cell_far_away_does_not_make_billions(tmp_path):
    path = workbook(tmp_path / "t.xlsx", [["image_id", "dx"], ["a", "nv"]])
    book = openpyxl.load_workbook(path)
    book.active.cell(1_048_576, 16_384, "x")
    book.save(path)
    with pytest.raises(InputError, match="spans 1048576 rows and 16384 columns"):
        read_table(path, NAMES)


@pytest.mark.parametrize("name", ["image_id", " Image-ID ", "IMAGE_ID", "image\u00a0id", "\ufeffimage id"])
def test_names_of_columns_are_looked_up_plainly(name):
    assert plain(name) == "image_id" and clean("\u200ba\u00a0b ") == "a b"


def test_columns_without_a_name_and_repeated_unread_ones_do_no_harm(tmp_path):
    table = read_table(put(tmp_path, ",image_id,dx,note,note,\n0,a,nv,x,y,\n1,b,mel\n"), NAMES)
    assert table.frame.to_dict("list") == {"image_id": ["a", "b"], "dx": ["nv", "mel"], "note": ["x", ""]}
    assert isinstance(table.frame, pd.DataFrame)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from([0, 1, 2]), at=st.floats(0, 1), put_in=st.binary(max_size=12), cut=st.integers(0, 40))
def test_damaged_files_end_in_one_line_or_are_read(tmp_path_factory, kind, at, put_in, cut):
    """Bytes put over a table or a workbook, or any bytes at all: never another error."""
    folder = tmp_path_factory.mktemp("t")
    rows = [list(NAMES), ["a", "nv", "54,5"], ["b", "mel", ""]]
    whole = (text_of(rows).encode(), workbook(folder / "t.xlsx", rows).read_bytes(), b"")[kind]
    start = int(at * len(whole))
    spoilt = whole[:start] + put_in + whole[start + cut :]
    try:
        table = read_table(put(folder, spoilt), NAMES)
        table.require(*NAMES)
        table.filled("dx")
        table.numbers("age", 0, 120, "a number of years")
    except InputError as error:
        assert "\n" not in str(error)
