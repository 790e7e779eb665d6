import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermstudy.data import external, near_duplicates
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError


@pytest.fixture(scope="module")
def parts(cohort):
    """Half of the phantom's lesions of three entities as other people's images, the other half known."""
    frame = cohort.frame
    lesions = sorted(frame["lesion_id"].unique())
    own = frame["lesion_id"].isin(lesions[::2])
    return (
        cohort.select(image_id=list(frame.loc[own & frame["dx"].isin(["mel", "nv", "bcc"]), "image_id"][:14])),
        cohort.select(image_id=list(frame.loc[~own, "image_id"][:30])),
    )


def write(folder, source, table: pd.DataFrame | None = None, name: str = "metadata.csv"):
    """A folder with the images of `source` under new names, and their table."""
    folder.mkdir(parents=True)
    ids = [f"OTHER_{i:04d}" for i in range(len(source))]
    for image_id, file in zip(ids, source.frame["file"], strict=True):
        shutil.copy(source.root / file, (folder / image_id).with_suffix((source.root / file).suffix))
    own = pd.DataFrame({"image_id": ids, "dx": list(source.frame["dx"])}) if table is None else table
    own.to_csv(folder / name, index=False)
    return folder


def test_a_folder_of_ids_and_diagnoses_is_read(parts, tmp_path):
    own = external.load_external(write(tmp_path / "own", parts[0]))
    assert len(own.cohort) == 14 and list(own.cohort.frame["dx"]) == list(parts[0].frame["dx"])
    assert own.absent == ("akiec", "bkl", "df", "vasc") and not own.left_out
    assert own.cohort.images(16).shape == (14, 16, 16, 3)
    assert "absent, so in no score: actinic keratosis" in own.lines()[1]


def test_the_isic_archives_table_is_read_and_what_is_no_entity_counted(parts, tmp_path):
    rows = len(parts[0])
    table = pd.DataFrame(
        {
            "isic_id": [f"OTHER_{i:04d}" for i in range(rows)],
            "diagnosis_1": "Benign",
            "diagnosis_2": "Benign melanocytic proliferations",
            "diagnosis_3": ["Nevus", "Melanoma, NOS", "Scar", "Squamous cell carcinoma, NOS"] + ["Nevus"] * (rows - 4),
            "image_type": ["dermoscopic"] * (rows - 1) + ["clinical: close-up"],
            "lesion_id": ["IL_1", "IL_2"] + [""] * (rows - 2),
            "patient_id": ["IP_1"] * 2 + ["IP_2"] * 4 + [""] * (rows - 6),
        }
    )
    own = external.load_external(write(tmp_path / "isic", parts[0], table))
    assert own.left_out == {"Scar": 1, "Squamous cell carcinoma, NOS": 1} and len(own.cohort) == rows - 3
    assert list(own.cohort.frame["group"][:4]) == ["IL_1", "IL_2", "IP_2", "IP_2"]
    assert own.cohort.frame["group"].iloc[-1] == own.cohort.frame["image_id"].iloc[-1]
    assert own.lines()[-1].endswith("Scar 1, Squamous cell carcinoma, NOS 1")


def test_a_challenges_table_of_classes_is_read(parts, tmp_path):
    rows = len(parts[0])
    marks = pd.DataFrame(0.0, index=range(rows), columns=["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"])
    for place, name in enumerate(["MEL", "AK", "SCC"] + ["NV"] * (rows - 3)):
        marks.loc[place, name] = 1.0
    marks.insert(0, "image", [f"OTHER_{i:04d}" for i in range(rows)])
    own = external.load_external(write(tmp_path / "challenge", parts[0], marks, "GroundTruth.csv"))
    assert list(own.cohort.frame["dx"]) == ["mel", "akiec"] + ["nv"] * (rows - 3) and own.left_out == {"scc": 1}


@pytest.mark.parametrize(
    ("diagnosis", "code"),
    [
        *((NAMES[code], code) for code in CODES),
        *((code.upper(), code) for code in CODES),
        ("Nevus, NOS, Junctional", "nv"),
        ("Melanoma in situ", "mel"),
        ("Solar or actinic keratosis", "akiec"),
        ("Bowen's disease", "akiec"),
        ("seborrheic keratosis", "bkl"),
        ("Lichen planus-like keratosis", "bkl"),
        ("Basal cell carcinoma, Nodular", "bcc"),
        ("Pyogenic granuloma", "vasc"),
        ("Squamous cell carcinoma, Invasive", None),
        ("Nevus sebaceous", None),
        ("", None),
    ],
)
def test_terms(diagnosis, code):
    assert external.entity_of([diagnosis]) == code


def test_images_of_the_same_id_or_file_are_refused_by_name(parts, tmp_path):
    own, known = parts
    folder = write(tmp_path / "file", own)
    shutil.copy(known.root / known.frame["file"][3], folder / "OTHER_0002.jpg")
    for other in folder.glob("OTHER_0002.*"):
        if other.suffix != ".jpg":
            other.unlink()
    with pytest.raises(InputError, match=rf"1 images .* by the same file: OTHER_0002 \({known.frame['image_id'][3]}\)"):
        external.load_external(folder, known)
    table = pd.DataFrame({"isic_id": [f"OTHER_{i:04d}" for i in range(len(own))], "dx": list(own.frame["dx"])})
    again = write(tmp_path / "id", own, table)
    image = next(again.glob("OTHER_0005.*"))
    image.rename(image.with_stem(known.frame["image_id"][0]))
    table.loc[5, "isic_id"] = known.frame["image_id"][0]
    table.to_csv(again / "metadata.csv", index=False)
    with pytest.raises(InputError, match=f"by the same image_id: {known.frame['image_id'][0]}"):
        external.load_external(again, known)


@pytest.mark.slow
def test_the_same_skin_in_another_picture_is_refused_by_name(parts, tmp_path):
    """A known image, moved, turned, brightened and compressed anew, among images that are not known."""
    own, known = parts
    clean = write(tmp_path / "clean", own)
    assert len(external.load_external(clean, known, tmp_path / "cache").cohort) == 14
    kept = list((tmp_path / "cache").iterdir())
    for path in clean.glob("OTHER_0004.*"):
        path.unlink()
    with Image.open(known.root / known.frame["file"][7]) as image:
        pixels = np.asarray(image.convert("RGB").rotate(90).crop((4, 2, 126, 124)), float)
    Image.fromarray(np.clip(pixels * 1.05 + 3, 0, 255).astype(np.uint8)).save(clean / "OTHER_0004.jpg", quality=90)
    with pytest.raises(
        InputError, match=rf"by the same skin: OTHER_0004 \({known.frame['image_id'][7]}\); remove them"
    ):
        external.load_external(clean, known, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == kept  # the known images' features served twice


def test_features_kept_of_the_known_are_those_computed(parts, tmp_path):
    few = parts[1].select(image_id=list(parts[1].frame["image_id"][:3]))
    first = near_duplicates._kept_features(few, tmp_path)
    assert np.array_equal(first, near_duplicates._kept_features(few, tmp_path))
    np.testing.assert_allclose(first, near_duplicates._kept_features(few, None), atol=1e-5)


def bad(name: str, own, folder):
    """A folder with one fault."""
    if name == "no folder":
        return folder
    if name == "no table":
        return write(folder, own, name="notes.txt")
    write(folder, own)
    table = pd.read_csv(folder / "metadata.csv")
    if name == "two tables":
        (folder / "metadata.csv").rename(folder / "a.csv")
        table.to_csv(folder / "b.csv")
        return folder
    if name == "unreadable":
        (folder / "metadata.csv").write_bytes(b"\xff\xfe\x00image_id")
        return folder
    changes = {
        "no known entity": {"dx": "scar"},
        "one entity": {"dx": "nv"},
        "missing images": {"image_id": [f"GONE_{i}" for i in range(len(table))]},
        "twice": {"image_id": "OTHER_0000"},
    }
    table = table.assign(**changes.get(name, {}))
    renamed = {"no image column": {"image_id": "picture"}, "no diagnosis column": {"dx": "what"}}.get(name, {})
    if name == "no row":
        table = table[:0]
    if name == "empty id":
        table["image_id"] = ["", *table["image_id"][1:]]
    table.rename(columns=renamed).to_csv(folder / "metadata.csv", index=False)
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no folder", "no folder .*: give a folder"),
        ("no table", "no table in"),
        ("two tables", r"several tables \(a.csv, b.csv\)"),
        ("unreadable", "cannot be read as a table"),
        ("no known entity", "names no known entity, but scar: name melanoma"),
        ("one entity", "names melanocytic nevus only"),
        ("missing images", "14 of 14 images of metadata.csv are not in"),
        ("twice", "line 3: OTHER_0000 stands twice"),
        ("no image column", "no column of images"),
        ("no diagnosis column", "no column of diagnoses"),
        ("no row", "a header but no row"),
        ("empty id", "line 2: image_id is empty"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_clear_line(parts, tmp_path, name, message):
    with pytest.raises(InputError, match=message) as raised:
        external.load_external(bad(name, parts[0], tmp_path / "own"))
    assert "\n" not in str(raised.value)
