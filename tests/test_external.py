"""Other people's folders: every layout of tables, what is left out and why, and known images, refused by name."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermstudy.data import external, image_tables
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError

CLASSES = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]


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


def ids(rows: int) -> list[str]:
    return [f"OTHER_{i:04d}" for i in range(rows)]


def write(folder, source, table: pd.DataFrame | None = None, name: str = "metadata.csv"):
    """A folder with the images of `source` under new names, and their table."""
    folder.mkdir(parents=True)
    for image_id, file in zip(ids(len(source)), source.frame["file"], strict=True):
        shutil.copy(source.root / file, (folder / image_id).with_suffix((source.root / file).suffix))
    own = pd.DataFrame({"image_id": ids(len(source)), "dx": list(source.frame["dx"])}) if table is None else table
    own.to_csv(folder / name, index=False)
    return folder


def test_a_folder_of_ids_and_diagnoses_is_read_and_intervals_are_by_image(parts, tmp_path):
    own = external.load_external(write(tmp_path / "own", parts[0]))
    assert len(own.cohort) == 14 and list(own.cohort.frame["dx"]) == list(parts[0].frame["dx"])
    assert own.cohort.images(16).shape == (14, 16, 16, 3)
    assert (own.cohort.frame["group"] == own.cohort.frame["image_id"]).all()
    assert own.lines[0].startswith("14 images (14 of unknown lesions): ")
    assert own.lines[1:] == (
        "lesions are unknown, so intervals are by image: too narrow where images show the same lesion",
        "absent, so in no score: actinic keratosis, benign keratosis, dermatofibroma, vascular lesion",
    )
    table = pd.DataFrame({"image": [f"{name}.JPG" for name in ids(14)], "dx": list(parts[0].frame["dx"])})
    table["lesion_id"] = [f"L{name}" for name in ids(14)]
    known = external.load_external(write(tmp_path / "known", parts[0], table))
    assert known.lines[0].startswith("14 images of 14 lesions: ") and not any("unknown" in x for x in known.lines)
    assert list(known.cohort.frame["image_id"]) == ids(14)


def test_the_isic_archives_table_is_read_and_what_is_no_entity_counted(parts, tmp_path):
    table = pd.DataFrame(
        {
            "isic_id": ids(14),
            "diagnosis_1": "Benign",
            "diagnosis_2": "Benign melanocytic proliferations",
            "diagnosis_3": ["Nevus", "Melanoma, NOS", "Scar", "Squamous cell carcinoma, NOS"] + ["Nevus"] * 10,
            "image_type": ["dermoscopic"] * 13 + ["clinical: close-up"],
            "lesion_id": ["IL_1", "IL_2"] + [""] * 12,
            "patient_id": ["IP_1"] * 2 + ["IP_2"] * 4 + [""] * 8,
        }
    )
    own = external.load_external(write(tmp_path / "isic", parts[0], table))
    assert list(own.cohort.frame["group"][:4]) == ["IL_1", "IL_2", "IP_2", "IP_2"] and len(own.cohort) == 11
    assert own.cohort.frame["group"].iloc[-1] == own.cohort.frame["image_id"].iloc[-1]
    assert own.lines[-1].endswith(": Scar 1, Squamous cell carcinoma, NOS 1")


def test_only_dermatoscopic_images_count_and_the_others_are_counted_by_type(parts, tmp_path):
    """Every kind that the archive knows, and the wordings of its exports."""
    types = ["dermoscopic", "Dermoscopic", "dermoscopy", "contact polarized dermoscopy", "TBP tile: close-up", "", "NaN",
             "TBP tile: overview", "clinical: close-up", "clinical: overview", "RCM: mosaic", "non-dermoscopic",
             "TBP tile: close-up", "clinical and dermoscopic"]  # fmt: skip
    table = pd.DataFrame({"isic_id": ids(14), "diagnosis": ["Nevus", "Melanoma, NOS"] * 7, "image_type": types})
    own = external.load_external(write(tmp_path / "isic", parts[0], table))
    assert list(own.cohort.frame["image_id"]) == ids(4)
    assert own.lines[-1] == (
        "left out, for they are no dermatoscopic images: no image type 2, TBP tile: close-up 2, RCM: mosaic 1, "
        "TBP tile: overview 1, clinical and dermoscopic 1, clinical: close-up 1, clinical: overview 1, non-dermoscopic 1"
    )
    again = external.load_external(write(tmp_path / "plain", parts[0], table.drop(columns="image_type")))
    assert len(again.cohort) == 14 and not any("dermatoscopic" in line for line in again.lines)


@pytest.mark.parametrize("year", [2018, 2019, 2020])
def test_a_challenges_tables_are_joined_by_image(parts, tmp_path, year):
    codes = list(parts[0].frame["dx"])
    lesions = [f"L{row // 2}" for row in range(12)] + ["", ""]
    marks = pd.DataFrame({name: [1.0 * (code.upper() == name) for code in codes] for name in CLASSES})
    first = marks.assign(image=ids(14))
    if year == 2020:
        names = [NAMES[code] for code in codes]
        first = pd.DataFrame({"image_name": ids(14), "patient_id": "IP_1", "diagnosis": names})
    second = {
        2018: pd.DataFrame({"image": ids(14), "lesion_id": lesions, "diagnosis confirm type": "histopathology"}),
        2019: pd.DataFrame({"image": ids(14), "age_approx": 50, "lesion_id": lesions, "sex": "female"}),
        2020: pd.DataFrame({"image_name": ids(14), "lesion_id": lesions, "diagnosis": "unknown", "target": 0}),
    }[year]
    folder = write(tmp_path / "own", parts[0], first, "ISIC_GroundTruth.csv")
    second.sample(frac=1, random_state=0).to_csv(folder / "ISIC_Metadata.csv", index=False, sep=";")
    (folder / "hmnist_8_8_L.csv").write_text("pixel0000,pixel0001,label\n1,2,3\n")
    pd.DataFrame({"image_name_1": ids(2), "image_name_2": ids(2)}).to_csv(folder / "Duplicates.csv", index=False)
    own = external.load_external(folder)
    assert list(own.cohort.frame["dx"]) == codes and list(own.cohort.frame["lesion_id"]) == lesions
    assert own.lines[0] == "tables left out, for they say nothing of images: Duplicates.csv, hmnist_8_8_L.csv"
    if year == 2020:
        assert list(own.cohort.frame["group"][-2:]) == ["IP_1", "IP_1"]
        assert (
            "14 images (12 of 6 lesions, 2 of 1 patients, 0 of unknown lesions)" in own.lines[1] and len(own.lines) == 3
        )
    else:
        assert "14 images (12 of 6 lesions, 2 of unknown lesions)" in own.lines[1]
        assert own.lines[2].startswith("lesions are unknown, so intervals are by image for 2 of 14 images: too narrow")


def test_a_challenges_class_of_no_entity_is_counted(parts, tmp_path):
    marks = pd.DataFrame(
        {name: [1.0 * (name == right) for right in ["MEL", "AK", "SCC"] + ["NV"] * 11] for name in CLASSES}
    )
    marks.insert(0, "image", ids(14))
    own = external.load_external(write(tmp_path / "challenge", parts[0], marks, "GroundTruth.csv"))
    assert list(own.cohort.frame["dx"]) == ["mel", "akiec"] + ["nv"] * 11 and own.lines[-1].endswith("entities: scc 1")


def test_folders_that_users_brought_are_read(cases):
    archive = external.load_external(cases / "isic_archive")
    types = pd.read_csv(cases / "isic_archive" / "metadata.csv", keep_default_na=False)["image_type"]
    others = types[types != "dermoscopic"].value_counts()
    told = next(line for line in archive.lines if "no dermatoscopic images" in line)
    assert all(f"{name or 'no image type'} {count}" in told for name, count in others.items())
    assert others["TBP tile: close-up"] >= 40 and 40 < len(archive.cohort) <= (types == "dermoscopic").sum()
    challenge = external.load_external(cases / "isic2019")
    assert len(challenge.cohort) == 140 and challenge.cohort.frame["lesion_id"].str.startswith("PHANTOM_L").all()
    assert len(external.load_external(cases / "external_semicolons").cohort) == 140
    suffixed = external.load_external(cases / "ids_with_suffix").cohort.frame
    assert suffixed["image_id"].iloc[0] == "PHANTOM_0000000"


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
    assert image_tables.entity_of([diagnosis]) == code


def test_images_of_the_same_id_or_file_are_refused_by_name(parts, tmp_path):
    own, known = parts
    folder, first = write(tmp_path / "own", own), known.frame["image_id"][0]
    (there,) = folder.glob("OTHER_0002.*")
    shutil.copy(known.root / known.frame["file"][0], there)
    with pytest.raises(InputError, match=rf"1 images .* by the same file: OTHER_0002 \({first}\)"):
        external.load_external(folder, known)
    there.rename(there.with_stem(f"{first}_downsampled"))
    (folder / "metadata.csv").write_text(
        (folder / "metadata.csv").read_text().replace("OTHER_0002", f"{first}_downsampled")
    )
    with pytest.raises(InputError, match=rf"by the same image_id: {first}_downsampled \({first}\)"):
        external.load_external(folder, known)


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


def changed(**columns):
    """Writes the table anew with these columns, or without those that are None."""

    def damage(folder):
        table = pd.read_csv(folder / "metadata.csv").assign(**columns)
        table.drop(columns=[name for name, value in columns.items() if value is None]).to_csv(
            folder / "metadata.csv", index=False
        )

    return damage


def beside(**columns):
    """Writes a second table."""
    return lambda folder: pd.DataFrame(columns).to_csv(folder / "other.csv", index=False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no folder .*: give a folder"),
        (lambda folder: (folder / "metadata.csv").rename(folder / "notes.txt"), "no table in"),
        (
            beside(image_id=["OTHER_0000"], dx=["df"]),
            r"other.csv, line 2: OTHER_0000 has diagnosis df, and .*metadata.csv, line 2 says \w+: mend",
        ),
        (
            lambda folder: (
                changed(lesion_id=ids(14))(folder),
                beside(image=ids(14)[::-1], **{"Lesion ID": "L2"})(folder),
            ),
            "other.csv, line 2: OTHER_0013 has lesion_id L2, and .*metadata.csv, line 15 says OTHER_0013",
        ),
        (changed(dx=None, MEL=1.0, NV=0.0, BCC=1.0), r"line 2 marks several classes \(mel, bcc\)"),
        (changed(dx=None, MEL=1.0, NV=0.0, BCC=2.5), "line 2: BCC '2.5' is not a mark from 0 to 1"),
        (changed(image_type="TBP tile: close-up"), "no dermatoscopic image, but TBP tile: close-up 14"),
        (lambda folder: (folder / "metadata.csv").write_bytes(b"\xff\xfe\x00image_id"), "cannot be read as a table"),
        (changed(dx="scar"), "names no known entity, but scar: name melanoma"),
        (changed(dx="nv"), "names melanocytic nevus only"),
        (changed(image_id=[f"GONE_{i}" for i in range(14)]), "14 of 14 images of metadata.csv are not in"),
        (changed(image_id="OTHER_0000"), "line 3: image_id OTHER_0000 stands twice, first in 2"),
        (changed(image_id=None), "no column of images"),
        (changed(dx=None), "no column of diagnoses"),
        (lambda folder: (folder / "metadata.csv").write_text("image_id,dx\n"), "a header but no row"),
        (changed(image_id=["", *ids(14)[1:]]), "line 2: image_id is empty"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_clear_line(parts, tmp_path, damage, message):
    damage(write(tmp_path / "own", parts[0]))
    with pytest.raises(InputError, match=message) as raised:
        external.load_external(tmp_path / "own")
    assert "\n" not in str(raised.value)
