"""Cohorts: reading every layout, refusing bad input in one line, captions, and splits that keep lesions apart."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dermstudy.data import dataset, near_duplicates, splits
from dermstudy.entities import CODES, HAM10000_IMAGES, codes_of
from dermstudy.files import InputError
from dermstudy_commands import cli

METADATA = "HAM10000_metadata.csv"
HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"


@pytest.fixture
def folder(tmp_path):
    """Fourteen small images, two of each entity, in two image folders."""
    root = tmp_path / "download"
    random = np.random.default_rng(0)
    rows = [HEADER]
    for number, code in enumerate(CODES * 2):
        part = root / f"HAM10000_images_part_{number % 2 + 1}"
        part.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (66, 88, 3), np.uint8)
        Image.fromarray(pixels).save(part / f"ISIC_{number:07d}.jpg")
        age = "" if number == 3 else "45.0"
        rows.append(f"HAM_{number % 7:07d},ISIC_{number:07d},{code},histo,{age},male,back,vidir")
    (root / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    return root


def edit(folder, old, new):
    path = folder / "HAM10000_metadata.csv"
    path.write_text(path.read_text().replace(old, new))


def test_every_layout_of_one_download_reads_the_same(folder, tmp_path):
    first = dataset.load_folder(folder)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in folder.rglob("*.jpg"):
        shutil.copy(path, flat)
    table = pd.read_csv(folder / "HAM10000_metadata.csv", dtype=str, keep_default_na=False)
    table.sample(frac=1, random_state=1).to_csv(flat / "HAM10000_metadata", sep="\t", index=False, quoting=1)
    second = dataset.load_folder(flat)
    assert first.data_hash == second.data_hash
    assert first.frame.drop(columns="file").equals(second.frame.drop(columns="file"))
    (flat / "HAM10000_metadata").rename(flat / "HAM10000_metadata.tab")
    assert dataset.load_folder(flat).data_hash == first.data_hash
    edit(folder, "45.0,male", "50.0,male")
    assert dataset.load_folder(folder).data_hash != first.data_hash


def test_images_are_centre_squares(folder):
    cohort = dataset.load_folder(folder)
    pixels = cohort.images(16)
    assert pixels.shape == (14, 16, 16, 3) and pixels.dtype == np.uint8
    whole = np.asarray(Image.open(cohort.root / cohort.frame["file"][0]).convert("RGB"))
    assert np.array_equal(cohort.images(66)[0], whole[:, 11:77])
    chosen = cohort.images(16, ["ISIC_0000003", "ISIC_0000001"])
    assert np.array_equal(chosen, pixels[[3, 1]])


def one(folder):
    return next(folder.rglob("ISIC_0000002.jpg"))


def truncated(folder):
    one(folder).write_bytes(one(folder).read_bytes()[:200])


def reduced(folder, size):
    Image.open(one(folder)).resize(size).save(one(folder))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "no folder"),
        (lambda f: (f / "HAM10000_metadata.csv").unlink(), "no metadata in"),
        (lambda f: edit(f, "localization", "site"), "has no column localization"),
        (lambda f: edit(f, "ISIC_0000004,bcc", "ISIC_0000004,xyz"), "line 6: unknown dx 'xyz' of ISIC_0000004"),
        (lambda f: edit(f, "ISIC_0000004,bcc", "ISIC_0000004,"), "line 6: dx is empty"),
        (lambda f: edit(f, "ISIC_0000005", "ISIC_0000004"), "line 7: image_id ISIC_0000004 stands twice"),
        (lambda f: one(f).unlink(), "1 of 14 images .* not in .*ISIC_0000002"),
        (lambda f: (f / METADATA).write_text(""), "cannot be read as a table"),
        (lambda f: (f / METADATA).write_text(HEADER + "\n"), "a header but no row"),
        (lambda f: (f / METADATA).write_bytes(b"\xff\xfe\x00lesion"), "cannot be read as a table"),
        (lambda f: edit(f, "bcc,histo", "bcc,histo,extra"), "line 6 has 9 cells, and the header 8"),
        (lambda f: edit(f, ",back", ',"back'), "line 2: a quotation mark is not closed"),
        (lambda f: edit(f, "45.0", "old"), "line 2: age 'old' is not a number of years"),
        (lambda f: edit(f, "45.0", "-45"), "line 2: age '-45' is not a number of years"),
        (lambda f: edit(f, "ISIC_0000004,bcc", "ISIC_0000004,mel"), "HAM_0000004 has images of several entities"),
        (truncated, "ISIC_0000002.jpg is broken"),
        (lambda f: one(f).write_text("no image"), "ISIC_0000002.jpg is not an image"),
        (lambda f: reduced(f, (3, 2)), "ISIC_0000002.jpg has 3 x 2 pixels, and the study needs 64 on its shorter side"),
        (lambda f: reduced(f, (88, 63)), "ISIC_0000002.jpg has 88 x 63 pixels"),
    ],
)
def test_bad_downloads_end_in_one_line(folder, damage, message, capsys):
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        dataset.verify_images(dataset.load_folder(folder))
    assert "\n" not in str(caught.value)
    assert cli.main(["data", "check", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def rewritten(folder, change, encoding="utf-8"):
    path = folder / METADATA
    path.write_bytes(change(path.read_text()).encode(encoding))


@pytest.mark.parametrize(
    "change",
    [
        lambda f: rewritten(f, lambda text: text.replace(",", ";").replace("45.0", "45,0")),
        lambda f: rewritten(f, lambda text: text.replace(",", "\t"), "utf-16"),
        lambda f: rewritten(f, lambda text: text.replace(",", " , ").replace("\n", "\r\n"), "utf-8-sig"),
        lambda f: (f / "HAM10000_images_part_1" / "._ISIC_0000002.jpg").write_text("left by another system"),
        lambda f: rewritten(f, lambda text: text + ",,,,,,,\n;;;;\n \n"),
        lambda f: rewritten(f, lambda text: text.replace(HEADER, HEADER.upper().replace("_", " "))),
        lambda f: rewritten(f, lambda text: "Export of 2023,,,,,,,\n" + text),
        lambda f: rewritten(f, lambda text: text.replace(",akiec,", ",Actinic keratosis,").replace(",mel,", ",MEL,")),
        lambda f: [edit(f, f"ISIC_{n:07d}", f"part/ISIC_{n:07d}.{'JPG' if n % 2 else 'jpg'}") for n in range(14)],
        lambda f: edit(f, "histo,,", "histo,NaN,"),
        lambda f: (
            pd.read_csv(f / METADATA).to_excel(f / "HAM10000_metadata.xlsx", index=False),
            (f / METADATA).unlink(),
        ),
    ],
)
def test_metadata_as_spreadsheets_and_other_copies_write_it_reads_the_same(folder, change, recwarn):
    first = dataset.load_folder(folder)
    change(folder)
    assert dataset.load_folder(folder).data_hash == first.data_hash and not recwarn.list


def test_columns_that_nothing_reads_are_not_required(folder):
    first = dataset.load_folder(folder)
    rewritten(folder, lambda text: text.replace(",dataset", "").replace(",vidir", ""))
    kaggle = dataset.load_folder(folder)
    assert (kaggle.frame["dataset"] == "").all() and kaggle.data_hash != first.data_hash
    assert kaggle.frame.drop(columns="dataset").equals(first.frame.drop(columns="dataset"))


def test_missing_values_and_windows_letters_are_read_and_told(folder, capsys):
    edit(folder, "45.0,male,back", "N/A,nan,back")
    rewritten(folder, lambda text: text.replace("back", "Rücken"), "cp1252")
    cohort = dataset.load_folder(folder)
    assert cohort.frame["age"].isna().all() and (cohort.frame["sex"] == "").sum() == 13
    assert (cohort.frame["localization"] == "Rücken").all()
    assert capsys.readouterr().out == f"{METADATA} is not UTF-8 and was read as Windows-1252, for example 'Rücken'\n"
    assert not dataset.captions(cohort.frame, "metadata").str.contains("(?i)nan").any()


def test_two_metadata_files_that_differ_are_not_chosen_among(folder):
    (folder / "HAM10000_metadata.tab").write_text((folder / METADATA).read_text().replace(",", "\t"))
    assert len(dataset.load_folder(folder)) == 14
    edit(folder, "45.0", "50.0")
    with pytest.raises(InputError, match="HAM10000_metadata.csv and HAM10000_metadata.tab in .* differ"):
        dataset.load_folder(folder)


@pytest.mark.parametrize(
    "name", ["kaggle_download", "semicolons", "cp1252", "blank_rows", "nan_age", "ids_with_suffix"]
)
def test_downloads_that_users_brought_are_read(cases, name):
    loaded = dataset.load_folder(cases / name)
    assert len(loaded) == 140 and loaded.frame["dx"].value_counts().eq(20).all()
    assert loaded.frame["age"].isna().sum() == (2 if name == "nan_age" else 0)
    assert loaded.frame["image_id"].iloc[0] == "PHANTOM_0000000"


def test_a_split_file_from_a_spreadsheet_is_read(cohort, tmp_path):
    path = tmp_path / "split.csv"
    part = cohort.frame.head(20).assign(subset=lambda frame: frame["split"].eq("train"))
    part[["image_id", "split", "subset"]].to_csv(path, index=False)
    written = path.read_text()
    path.write_text(written.upper().replace(",", ";") + ";;\n")
    assert splits.apply_split(part, path).tolist() == part["split"].tolist()
    assert splits.subset_of(part, path, 0).tolist() == part["subset"].tolist()
    path.write_text(written + written.splitlines()[1] + "\n")
    with pytest.raises(InputError, match="line 22: image_id PHANTOM_.* stands twice, first in 2"):
        splits.apply_split(part, path)
    path.write_text(written)
    with pytest.raises(InputError, match="gives no split for 1 images, STRANGER"):
        splits.apply_split(part.assign(image_id=["STRANGER", *part["image_id"][1:]]), path)
    path.write_text("image,split\na,train\n")
    with pytest.raises(InputError, match="has no column image_id"):
        splits.apply_split(part, path)


def test_names_of_digits_keep_their_zeros(folder, tmp_path):
    for path in folder.rglob("ISIC_*.jpg"):
        path.rename(path.with_name(path.name.removeprefix("ISIC_")))
    edit(folder, "ISIC_", "")
    edit(folder, "HAM_", "")
    cohort = dataset.load_folder(folder)
    opened = dataset.open_cohort(dataset.save_cohort(cohort, tmp_path / "cohort"))
    assert opened.frame.equals(cohort.frame) and opened.frame["image_id"][0] == "0000000"


def test_a_cap_keeps_whole_lesions(cohort):
    kept = dataset.subsample(cohort, 9, seed=3)
    assert kept.frame["dx"].value_counts().between(8, 9).all()
    whole = cohort.frame[cohort.frame["lesion_id"].isin(kept.frame["lesion_id"])]
    assert kept.frame["image_id"].tolist() == whole["image_id"].tolist()
    assert kept.data_hash != cohort.data_hash and kept.frame["image_id"].is_monotonic_increasing
    assert dataset.subsample(cohort, 0, seed=3) is cohort
    for cap, message in ((-1, "-1 images an entity"), (1, "no lesion of")):
        pairs = cohort.frame.groupby("dx").head(2).assign(lesion_id=lambda frame: frame["dx"])
        with pytest.raises(InputError, match=message):
            dataset.subsample(replace(cohort, frame=pairs), cap, seed=3)


def test_entities_are_given_by_name_or_by_code():
    assert codes_of(["melanoma", "bcc"], count=2) == ["mel", "bcc"]
    assert codes_of([]) == []
    with pytest.raises(InputError, match="unknown entity 'nevi': choose melanoma, melanocytic nevus"):
        codes_of(["melanoma", "nevi"])
    for names in (["melanoma"], ["melanoma", "mel"], ["mel", "nv", "df"]):
        with pytest.raises(InputError, match="2 different entities are wanted"):
            codes_of(names, count=2)


def test_a_few_images_are_dealt_over_the_entities(cohort):
    assert set(dataset.spread(cohort.frame, 7)["dx"]) == set(CODES)
    assert dataset.spread(cohort.frame, 15)["dx"].value_counts().max() == 3
    assert dataset.spread(cohort.frame, 10**6).equals(cohort.frame)


def test_some_images_of_each_entity_are_drawn_by_chance_and_kept_in_order(cohort):
    some = dataset.some_of_each(cohort, 3, seed=1)
    assert some.frame["dx"].value_counts().tolist() == [3] * 7
    places = cohort.frame.reset_index().set_index("image_id").loc[some.frame["image_id"], "index"]
    assert places.is_monotonic_increasing and set(places) != set(cohort.frame.groupby("dx").head(3).index)
    assert dataset.some_of_each(cohort, 3, seed=1).data_hash == some.data_hash
    assert dataset.some_of_each(cohort, 0, seed=1) is cohort
    assert len(dataset.some_of_each(cohort, 10**6, seed=1)) == len(cohort)


@pytest.mark.slow
def test_bad_data_leaves_no_result(folder, tmp_path, capsys):
    truncated(folder)
    results = tmp_path / "results"
    assert cli.main(["run", "smoke", "--data", str(folder), "--results", str(results), "--only", "00"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "ISIC_0000002.jpg is broken" in error
    assert not list(results.glob("*.ipynb")) and not (results / "artifacts" / "cohort").exists()


def test_greyscale_is_converted_and_said(folder, capsys):
    Image.open(one(folder)).convert("L").save(one(folder))
    cohort = dataset.load_folder(folder)
    assert dataset.verify_images(cohort) == {"images": 14, "greyscale": 1}
    assert "1 of 14 images was converted to upright 8-bit sRGB: 1 greyscale" in capsys.readouterr().out
    assert cohort.images(16).shape[-1] == 3


def test_captions_name_the_entity_and_never_the_confirmation(cohort):
    plain = dataset.captions(cohort.frame, "entity")
    assert set(plain) == {"melanoma", "melanocytic nevus", "actinic keratosis", "benign keratosis",
                          "basal cell carcinoma", "dermatofibroma", "vascular lesion"}  # fmt: skip
    rich = dataset.captions(cohort.frame, "metadata", seed=3)
    assert all(name in caption for name, caption in zip(plain, rich, strict=True))
    assert not rich.str.contains("histo|follow|nan|unknown").any() and rich.nunique() > 20
    shuffled = cohort.frame.sample(frac=1, random_state=0)
    assert dataset.captions(shuffled, "metadata", seed=3).sort_index().equals(rich)


lesions = st.lists(st.tuples(st.sampled_from(CODES), st.integers(1, 4)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(lesions, st.integers(0, 99), st.integers(1, 3))
def test_no_group_stands_on_both_sides(lesions, seed, minimum):
    rows = [(code, f"L{n:03d}", f"I{n:03d}{k}") for n, (code, images) in enumerate(lesions) for k in range(images)]
    frame = pd.DataFrame(rows, columns=["dx", "lesion_id", "image_id"])
    counts = frame.groupby("dx")["lesion_id"].nunique()
    needed = counts.map(lambda n: max(minimum, round(0.2 * n)) + max(1, round(0.1 * n)))
    if (needed >= counts).any():
        with pytest.raises(InputError, match="MIN_TEST_LESIONS"):
            splits.lesion_split(frame, seed, minimum_test_lesions=minimum)
        return
    split = splits.lesion_split(frame, seed, minimum_test_lesions=minimum)
    assert split.groupby(frame["lesion_id"]).nunique().eq(1).all()
    tested = frame[split == "test"].groupby("dx")["lesion_id"].nunique()
    assert (tested.reindex(counts.index) >= minimum).all()
    assert set(frame["dx"][split == "train"]) == set(counts.index)
    mixed = frame.sample(frac=1, random_state=1)
    assert splits.lesion_split(mixed, seed, minimum_test_lesions=minimum).sort_index().equals(split)


def test_an_entity_with_too_few_lesions_is_named(cohort):
    with pytest.raises(InputError, match=r"melanoma \(mel\) has \d+ lesions; the split needs 40 for test"):
        splits.lesion_split(cohort.frame, 0, minimum_test_lesions=40)


def test_leak_counts_sister_images_by_hand():
    frame = pd.DataFrame({
        "image_id": list("abcdef"), "dx": ["nv", "nv", "nv", "mel", "mel", "mel"],
        "lesion_id": ["1", "1", "2", "3", "3", "3"], "published": ["train", "test", "test", "test", "test", "train"],
    })  # fmt: skip
    leak = splits.sister_leak(frame, "published")
    assert leak.loc["nv", ["test_images", "leaked"]].tolist() == [2, 1]
    assert leak.loc["mel", ["test_images", "leaked"]].tolist() == [2, 2]
    assert leak.loc["all", "share"] == 0.75


@pytest.mark.slow
def test_the_people_of_each_part_are_counted_by_lesion():
    frame = pd.DataFrame(
        [("a1", "a", 29.0, "male", "back", "train"), ("a2", "a", 30.0, "male", "back", "train"),
         ("b1", "b", 30.0, "female", "", "train"), ("c1", "c", None, "unknown", "ear", "test"),
         ("d1", "d", 85.0, "male", "ear", "validation")],
        columns=["image_id", "lesion_id", "age", "sex", "localization", "split"],
    )  # fmt: skip
    people = splits.demographics(frame)
    assert people.columns.tolist() == list(splits.SPLITS) and people.groupby(level=0).sum().eq([2, 1, 1]).all(axis=None)
    assert people.loc["age in years", "train"].to_dict() == {
        "0 to 29": 1, "30 to 44": 1, "45 to 59": 0, "60 to 74": 0, "75 and over": 0, "unknown": 0
    }  # fmt: skip
    assert people.loc[("age in years", "75 and over")].tolist() == [0, 1, 0]
    assert people.loc["sex", "test"].to_dict() == {"female": 0, "male": 0, "unknown": 1}
    assert people.loc["body site"].index.tolist() == ["back", "ear", "unknown"]


def test_look_alikes_are_joined_across_lesions(phantom_folder, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(phantom_folder, root)
    frame = dataset.load_folder(root).frame
    first, second = frame[frame["dx"] == "bkl"].drop_duplicates("lesion_id").head(2).itertuples()
    with Image.open(root / first.file) as image:  # the same skin, turned, brighter, recompressed, under another lesion
        turned = image.transpose(Image.Transpose.ROTATE_90).point(lambda value: min(255, int(value * 1.1)))
    turned.save(root / second.file, quality=80)
    cohort = dataset.load_folder(root)
    pairs, counts = near_duplicates.look_alikes(cohort)
    assert counts["false_alarms"] == 0
    assert pairs[["image_id", "other_image_id"]].to_numpy().tolist() == [[first.image_id, second.image_id]]
    groups = near_duplicates.join_groups(cohort.frame, pairs)
    joined = groups[cohort.frame["lesion_id"].isin([first.lesion_id, second.lesion_id])]
    assert joined.nunique() == 1 and groups.nunique() == cohort.frame["lesion_id"].nunique() - 1


@pytest.mark.slow
def test_the_search_finds_what_an_audit_confirmed(ham10000):
    """Most of the 18 pairs that a published audit confirmed by hand, among images of other patients."""
    cohort = dataset.load_folder(ham10000)
    known = near_duplicates.confirmed_pairs(cohort.frame).query("source == 'published audit'")
    assert len(known) == 18
    ids = [*known["image_id"], *known["other_image_id"]]
    strangers = cohort.frame[~cohort.frame["lesion_id"].isin(cohort.frame.set_index("image_id").loc[ids, "lesion_id"])]
    ids += strangers.drop_duplicates("lesion_id").sample(120, random_state=0)["image_id"].tolist()
    found, counts = near_duplicates.look_alikes(cohort.select(image_id=ids))
    pairs = {frozenset(pair) for pair in known[["image_id", "other_image_id"]].to_numpy()}
    hits = {frozenset(pair) for pair in found[["image_id", "other_image_id"]].to_numpy()}
    assert len(hits & pairs) >= 13, counts
    confirmed = near_duplicates.confirmed_pairs(cohort.frame)[["image_id", "other_image_id"]].to_numpy()
    assert counts["false_alarms"] == 0 and hits <= {frozenset(pair) for pair in confirmed}


def test_the_split_of_ham10000_is_what_the_code_makes(ham10000):
    frame = dataset.load_folder(ham10000).frame
    known = near_duplicates.confirmed_pairs(frame)
    frame["group"] = near_duplicates.join_groups(frame, known)
    frame["split"] = splits.lesion_split(frame, splits.HAM10000_SEED)
    frame["subset"] = splits.nested_subset(frame, splits.HAM10000_SEED)
    shipped = pd.read_csv(ROOT / "weights" / "ham10000-split.csv").set_index("image_id").loc[frame["image_id"]]
    assert shipped["split"].tolist() == frame["split"].tolist()
    assert shipped["subset"].tolist() == frame["subset"].tolist()
    lesions = frame.groupby(["dx", "split"])["group"].nunique().unstack()
    assert lesions["test"].min() >= 25 and lesions.loc["df", "train"] >= 40
    assert frame.groupby("group")["split"].nunique().max() == 1
    part = frame[frame["subset"]].groupby("dx")["group"].nunique() / lesions["train"]
    assert part.between(0.28, 0.32).all()
    both = known.merge(frame, on="image_id").merge(frame, left_on="other_image_id", right_on="image_id")
    assert (both["split_x"] == both["split_y"]).all()


def test_cohort_survives_saving(cohort, tmp_path):
    dataset.save_cohort(cohort, tmp_path / "cohort")
    again = dataset.open_cohort(tmp_path / "cohort")
    assert again.data_hash == cohort.data_hash and again.frame["image_id"].equals(cohort.frame["image_id"])
    assert np.array_equal(again.images(16), cohort.images(16))
    with pytest.raises(InputError, match="run notebook 00_dataset again"):
        dataset.open_cohort(tmp_path)


def test_synthetic_folder_without_labels(tmp_path):
    with pytest.raises(InputError, match="no index.csv with labels"):
        dataset.open_synthetic(tmp_path)
    (tmp_path / "index.csv").write_text("image_id,file\na,a.png\n")
    with pytest.raises(InputError, match="has no column dx, caption, source_image_id, seed"):
        dataset.open_synthetic(tmp_path)


def test_the_hash_of_synthetic_images_follows_their_pixels(tmp_path):
    row = "image_id,dx,file,caption,source_image_id,seed\ns,mel,s.png,melanoma,o,1\n"
    hashes = []
    for value in (10, 10, 20):
        folder = tmp_path / str(len(hashes))
        folder.mkdir()
        (folder / "index.csv").write_text(row)
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(folder / "s.png")
        hashes.append(dataset.open_synthetic(folder).data_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_ham10000_as_published(ham10000):
    cohort = dataset.load_folder(ham10000)
    assert cohort.data_hash.startswith("fb94dccef16bd818")
    assert len(cohort) == 10_015 and cohort.frame["lesion_id"].nunique() == 7_470
    assert cohort.frame["dx"].value_counts().to_dict() == HAM10000_IMAGES
    assert cohort.frame["age"].isna().sum() == 57
    frame = cohort.frame.assign(
        published=splits.published_split(cohort.frame, 0), split=splits.lesion_split(cohort.frame, 0)
    )
    assert 0.36 < splits.sister_leak(frame, "published").loc["all", "share"] < 0.42
    assert splits.sister_leak(frame, "split").loc["all", "leaked"] == 0
    tested = frame[frame["split"] == "test"].groupby("dx")["lesion_id"].nunique()
    assert tested.min() >= 10 and len(tested) == 7


def test_an_image_is_reduced_alike_whatever_file_it_comes_from(tmp_path):
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (16, 21, 3), np.uint8))
    coarse.resize((341, 256), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=85)
    whole = dataset.read_image(tmp_path / "a.jpg")
    Image.fromarray(whole).save(tmp_path / "a.png")
    for side in (32, 64, 128, 256):
        reduced = dataset.read_image(tmp_path / "a.jpg", side)
        np.testing.assert_array_equal(reduced, dataset.read_image(tmp_path / "a.png", side))


def test_captions_come_from_the_originals_that_are_asked_for(cohort):
    lessons = cohort.frame["split"].eq("train") & cohort.frame["image_id"].isin(cohort.frame["image_id"].iloc[::2])
    own = replace(cohort, frame=cohort.frame.assign(subset=lessons))
    assert dataset.paired_with(own, "all") is own
    assert dataset.paired_with(own, "train").frame["split"].eq("train").all()
    assert set(dataset.paired_with(own, "subset").frame["image_id"]) == set(own.frame.loc[lessons, "image_id"])
    for without, whose in ((own, "training"), (cohort, "subset")):
        with pytest.raises(InputError, match=f"no originals '{whose}' to pair with"):
            dataset.paired_with(without, whose)


def test_the_full_download_keeps_its_data_hash(ham10000):
    assert dataset.load_folder(ham10000).data_hash.startswith("fb94dccef16bd818")
