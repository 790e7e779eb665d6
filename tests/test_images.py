"""Image files of every mode, tag and kind of damage: the same pixels, or the same refusal by name, at every door."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from dermstudy.classification import shipped_head
from dermstudy.classification.encoding import Settings, View
from dermstudy.data import dataset, external, image_files, images
from dermstudy.data.images import read_image
from dermstudy.entities import CODES
from dermstudy.files import InputError
from dermstudy_commands import cli
from dermstudy_commands.web import generator

COLOUR = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
LEVELS = np.asarray(Image.fromarray(COLOUR).convert("L"))
GREY = np.repeat(LEVELS[..., None], 3, axis=2)
DEEP = LEVELS.astype(np.uint16) * 257
BLACK_OR_WHITE = np.where(GREY > 127, 255, 0).astype(np.uint8)
FLAT = np.full((70, 90, 3), 200, np.uint8)
TRANSPARENT = np.dstack([COLOUR, np.where(LEVELS > 250, 0, 255).astype(np.uint8)])
OPAQUE = np.dstack([COLOUR, np.full((70, 90), 255, np.uint8)])

BLACK_BELOW = np.full((64, 64, 3), 255, np.uint8)
BLACK_BELOW[32:, :32] = 0


def stored(pixels, form, mode=None, **options) -> io.BytesIO:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, form, **options)
    stream.seek(0)
    return stream


def png_of_16_bits(pixels: np.ndarray) -> io.BytesIO:
    """RGB uint16 [h, w, 3] as PNG, which Pillow does not write."""
    height, width = pixels.shape[:2]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    stream = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    stream.seek(0, io.SEEK_END)
    for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")):
        PngImagePlugin.putchunk(stream, name, content)
    stream.seek(0)
    return stream


def profile(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def exchanged() -> bytes:
    """sRGB's profile with red and blue exchanged."""
    content = bytearray(profile("sRGB"))
    red, blue = content.index(b"rXYZ"), content.index(b"bXYZ")
    content[red : red + 4], content[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(content)


def written(space: bytes, connection: bytes, **tags: bytes) -> bytes:
    """An ICC profile of version 2.4."""
    white = struct.pack(">3i", 63190, 65536, 54061)  # D50
    tags["wtpt"] = b"XYZ \0\0\0\0" + white
    start, table, content = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name.encode() + struct.pack(">2I", start + len(content), len(data))
        content += data + b"\0" * (-len(data) % 4)
    header = struct.pack(">I4sI4s4s4s12s4s28s12s48s", start + len(content), b"", 0x02400000, b"mntr", space, connection, b"",
                         b"acsp", b"", white, b"")  # fmt: skip
    return header + struct.pack(">I", len(tags)) + table + content


def grey_of_another_gamma() -> bytes:
    return written(b"GRAY", b"XYZ ", kTRC=b"curv\0\0\0\0" + struct.pack(">IH", 1, 461))


def inks() -> bytes:
    """CMYK of which black alone is dark: the other inks leave the paper white."""
    ramp = bytes(range(256))
    corners = b"".join(bytes([0 if corner & 1 else 255, 128, 128]) for corner in range(16))  # black turns fastest
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    return written(
        b"CMYK", b"Lab ", A2B0=b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + corners + ramp * 3
    )


def with_black(profile: bytes, form: str) -> io.BytesIO:
    """Ink left of the middle: cyan above, black below."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:32, :32, 0] = pixels[32:, :32, 3] = 255
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    return stored(Image.fromarray(pixels, "CMYK"), form, icc_profile=profile, **options)


def encoded(levels: np.ndarray) -> np.ndarray:
    """Levels 0..255 of a gamma of 461 / 256 in sRGB's encoding (IEC 61966-2-1)."""
    light = (levels / 255) ** (461 / 256)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[images.ORIENTATION] = orientation
    return tags


@pytest.mark.parametrize(
    ("file", "expected", "told"),
    [
        (lambda: stored(COLOUR, "PNG"), COLOUR, ()),
        (lambda: stored(COLOUR, "BMP"), COLOUR, ()),
        (lambda: stored(COLOUR, "PPM"), COLOUR, ()),
        (lambda: stored(COLOUR, "JPEG2000"), COLOUR, ()),
        (lambda: stored(COLOUR, "WEBP", lossless=True), COLOUR, ()),
        (lambda: stored(COLOUR, "TIFF", compression="tiff_lzw"), COLOUR, ()),
        (lambda: stored(COLOUR, "TIFF", "RGBX"), COLOUR, ()),
        (lambda: stored(OPAQUE, "PNG"), COLOUR, ()),
        (lambda: stored(OPAQUE, "TIFF"), COLOUR, ()),
        (lambda: stored(GREY, "PNG", "L"), GREY, (images.GREY,)),
        (lambda: stored(GREY, "PNG", "LA"), GREY, (images.GREY,)),
        (lambda: stored(GREY, "TIFF", "LA"), GREY, (images.GREY,)),
        (lambda: stored(BLACK_OR_WHITE, "PNG", "1"), BLACK_OR_WHITE, (images.BILEVEL,)),
        (lambda: stored(Image.fromarray(GREY).quantize(256), "PNG"), GREY, (images.PALETTE,)),
        (lambda: stored(Image.fromarray(GREY).quantize(256), "GIF"), GREY, (images.PALETTE,)),
        (lambda: stored(DEEP, "PNG"), GREY, (images.GREY_16,)),
        (lambda: stored(DEEP, "TIFF"), GREY, (images.GREY_16,)),
        (lambda: stored(DEEP.astype(">u2"), "TIFF"), GREY, (images.GREY_16,)),
        (lambda: stored(DEEP.astype(np.int32), "PPM"), GREY, (images.GREY_16,)),
        (lambda: stored(65535 - DEEP, "TIFF", tiffinfo={images.PHOTOMETRIC: 0}), GREY, (images.GREY_16,)),
        (lambda: stored(DEEP // 16, "PNG"), np.round(DEEP[..., None] // 16 / 257), (images.DARK_16,)),
        (lambda: png_of_16_bits(COLOUR.astype(np.uint16) * 257), COLOUR, (images.COLOUR_16,)),
        (lambda: stored(COLOUR, "PNG", icc_profile=profile("sRGB")), COLOUR, ()),
        (lambda: stored(COLOUR, "PNG", icc_profile=exchanged()), COLOUR[..., ::-1], (images.PROFILE,)),
        (lambda: stored(GREY, "PNG", "L", icc_profile=profile("sRGB")), GREY, (images.GREY,)),
        (lambda: stored(GREY, "PNG", "L", icc_profile=grey_of_another_gamma()), encoded(GREY), (images.GREY, images.PROFILE)),
        (lambda: with_black(inks(), "TIFF"), BLACK_BELOW, (images.PROFILE,)),
        (lambda: with_black(inks(), "JPEG"), BLACK_BELOW, (images.PROFILE,)),
        (lambda: stored(COLOUR, "PNG", icc_profile=b"no profile"), COLOUR, (images.UNUSED_TAG,)),
        (lambda: stored(COLOUR, "PNG", exif=exif(1)), COLOUR, ()),
        (lambda: stored(COLOUR, "PNG", exif=exif(6)), np.rot90(COLOUR, -1), (images.TURNED,)),
        (lambda: stored(COLOUR, "TIFF", tiffinfo={images.ORIENTATION: 3}), COLOUR[::-1, ::-1], (images.TURNED,)),
        (lambda: stored(COLOUR, "WEBP", lossless=True, exif=exif(5)), COLOUR.swapaxes(0, 1), (images.TURNED,)),
        (lambda: stored(GREY, "PNG", "L", exif=exif(8)), np.rot90(GREY), (images.GREY, images.TURNED)),
        (lambda: stored(COLOUR, "TIFF", save_all=True, append_images=[thumbnail()]), COLOUR, ()),
        (lambda: stored(FLAT, "MPO", save_all=True, append_images=[thumbnail()]), FLAT, (images.FIRST,)),
    ],
)  # fmt: skip
def test_what_can_be_converted_truly_is_and_is_told(file, expected, told):
    image, ways = images.converted(file(), "a file")
    assert ways == told
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= (images.CLOSE if images.PROFILE in told else 0)
    assert np.array_equal(read_image(file()), np.asarray(image)) and read_image(file(), 32).shape == (32, 32, 3)


def thumbnail() -> Image.Image:
    """A further page that says of itself that it is of reduced resolution."""
    image = Image.fromarray(COLOUR[::2, ::2])
    image.encoderinfo = {"tiffinfo": {images.SUBFILE: 1}}
    return image


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (lambda: stored(TRANSPARENT, "PNG"), "has transparent pixels"),
        (lambda: stored(TRANSPARENT, "WEBP", lossless=True), "has transparent pixels"),
        (lambda: stored(GREY, "PNG", "L", transparency=int(LEVELS[0, 0])), "has transparent pixels"),
        (lambda: stored(DEEP, "PNG", transparency=int(DEEP[0, 0])), "has transparent pixels"),
        (lambda: stored(LEVELS.astype(np.float32), "TIFF"), "has floating-point values"),
        (lambda: stored(DEEP.astype(np.int32), "TIFF"), "has values of 32 bits"),
        (lambda: stored(COLOUR, "JPEG", "CMYK"), "has CMYK colours without a profile"),
        (lambda: stored(COLOUR, "TIFF", "CMYK", icc_profile=profile("sRGB")), "a profile that cannot be used"),
        (lambda: stored(Image.merge("LAB", Image.fromarray(COLOUR).split()), "TIFF"), "has Lab colours"),
        (lambda: stored(COLOUR, "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]), "holds 2 pictures"),
        (lambda: stored(COLOUR, "GIF", save_all=True, append_images=[Image.fromarray(GREY)]), "holds 2 pictures"),
        (lambda: stored(COLOUR, "PNG", save_all=True, append_images=[Image.fromarray(GREY)]), "holds 2 pictures"),
        (lambda: stored(COLOUR, "WEBP", save_all=True, append_images=[Image.fromarray(GREY)]), "holds 2 pictures"),
        (lambda: stored(np.zeros((9000, 9000), np.uint8), "PNG"), "has more than 80 million pixels"),
        (lambda: stored(np.zeros((1, 1), np.uint8), "PNG", "1"), None),
        (lambda: io.BytesIO(b"no image"), "is not an image"),
        (lambda: io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "is not an image"),
        *((lambda form=form: io.BytesIO(stored(COLOUR, form).getvalue()[:-900]), "is broken")
          for form in ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "PPM")),
    ],
)  # fmt: skip
def test_what_cannot_be_read_truly_is_refused_by_name(file, message):
    if message is None:
        assert read_image(file()).shape == (1, 1, 3)
        return
    with pytest.raises(InputError, match=f"^a file .*{message}") as caught:
        images.converted(file(), "a file")
    assert "\n" not in str(caught.value)


def test_no_damage_ends_in_anything_but_one_line():
    """Each format with bytes changed, by chance: read, or refused in one line."""
    random = np.random.default_rng(1)
    for form in ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM"):
        whole = stored(COLOUR, form, exif=exif(6)) if form in ("JPEG", "PNG") else stored(COLOUR, form)
        for _ in range(40):
            content = np.frombuffer(whole.getvalue(), np.uint8).copy()
            content[random.integers(0, min(400, len(content)), 4)] = random.integers(0, 256, 4)
            try:
                assert read_image(io.BytesIO(content.tobytes())).dtype == np.uint8
            except InputError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is a pipe or a device"),
        (lambda path: path.mkdir(), "is a folder, not an image"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.symlink_to("nowhere"), "is missing"),
        (lambda path: path.with_name("a" * 300), "File name too long"),
    ],
)
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, make, message):
    path = tmp_path / "a.jpg"
    with pytest.raises(InputError, match=message):
        read_image(make(path) or path)


# Folders


def named(folder, *files):
    """Files of the same image in `folder`, which is returned."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(COLOUR).save(folder / file, "PNG")
    return folder


def test_images_are_found_by_every_suffix_and_the_others_are_counted(tmp_path):
    files = "a.jpg b.JPG c.jpeg d.png e.tif f.TIFF g.bmp h.webp i.gif j.jp2 deep/er/k.avif".split()
    others = ".hidden.png ._a.jpg __MACOSX/a.jpg .git/b.png x.heic y.HEIC notes.txt README".split()
    named(tmp_path, *files, *others)
    found = image_files.find_images(tmp_path)
    assert sorted(found.images) == sorted(files)
    assert found.left_out() == (
        "left out, for their names are not those of images: 2 .heic, 1 without a suffix, 1 .txt"
    )
    assert image_files.find_images(named(tmp_path / "only", "a.png")).left_out() == ""


def test_links_to_folders_are_followed_once(tmp_path):
    elsewhere = named(tmp_path / "elsewhere", "a.png", "b.png")
    folder = named(tmp_path / "folder", "c.png")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder)
    (elsewhere / "up").symlink_to(folder)
    assert image_files.find_images(folder).images == ["c.png", "linked/a.png", "linked/b.png"]
    (folder / "z").mkdir()
    (folder / "a_link").symlink_to(named(folder / "z", "d.png"))
    assert "z/d.png" in image_files.find_images(folder).images


def test_two_files_of_one_id_are_named_and_copies_are_one(tmp_path):
    folder = named(
        tmp_path, "images/A.jpg", "images/B.jpg", "masks/A_segmentation.png", "masks/B_mask.png", "part/a.JPG"
    )
    found = image_files.find_images(folder)
    files, lines = image_files.files_of(found, ["A", "B.jpg"], "table.csv")
    assert files == ["images/A.jpg", "images/B.jpg"]
    assert lines == [
        "copies of other images, byte for byte, so each image is read once: 1 files",
        "left out, for no row that is used names them: 2 image files",
    ]
    Image.fromarray(GREY).save(folder / "masks" / "b.png")
    with pytest.raises(InputError, match="1 of 2 images .* such as images/B.jpg and masks/b.png in .*: keep one file"):
        image_files.files_of(image_files.find_images(folder), ["A", "B"], "table.csv")
    # Ids that differ by case alone are two images.
    assert image_files.files_of(image_files.find_images(folder), ["B", "b"], "table.csv")[0] == [
        "images/B.jpg",
        "masks/b.png",
    ]


def test_an_image_in_a_format_that_is_not_read_is_named(tmp_path):
    folder = named(tmp_path, "A.jpg", "B.heic")
    with pytest.raises(
        InputError, match=r"1 of 2 images of t.csv are not in .*: B \(B.heic is there, in a format that"
    ):
        image_files.files_of(image_files.find_images(folder), ["A", "B"], "t.csv")
    with pytest.raises(InputError, match="1 of 2 images"):
        image_files.files_of(image_files.find_images(folder), ["A", "x" * 300], "t.csv")


# Doors


def table_of(folder, codes=CODES):
    """The metadata of every image in `folder`, as HAM10000 has it."""
    ids = [file.stem for file in sorted(folder.iterdir())]
    rows = {"lesion_id": ids, "image_id": ids, "dx": [codes[place % 7] for place in range(len(ids))], "dx_type": "histo",
            "age": 45, "sex": "male", "localization": "back", "dataset": "own"}  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "HAM10000_metadata.csv", index=False)


@pytest.fixture
def head(monkeypatch):
    """The pixels, by file, that a head without knowledge has been asked for."""
    seen = {}

    def kept(cohort, view, ids):
        seen.update(zip(ids, cohort.images(64, ids), strict=True))
        return np.zeros((len(ids), 6246), np.float16)

    unknowing = shipped_head.ShippedHead(
        Settings((View(64),), ("pixels",), 1), np.zeros((6, 7)), np.zeros(7), np.full(7, 1 / 7), {}
    )
    monkeypatch.setattr(shipped_head, "encoded_now", kept)
    monkeypatch.setattr(shipped_head, "load_head", lambda _: unknowing)
    return seen


def at_cohort(folder, **_):
    table_of(folder)
    cohort = dataset.load_folder(folder)
    dataset.verify_images(cohort)
    return dict(zip(cohort.frame["image_id"], cohort.images(64), strict=True))


def at_external(folder, **_):
    table_of(folder)
    own = external.load_external(folder)
    print(*own.lines, sep="\n")
    return dict(zip(own.cohort.frame["image_id"], own.cohort.images(64), strict=True))


def at_classify(folder, tmp_path, head):
    assert cli.main(["classify", str(folder), "--out", str(tmp_path / "out.csv")]) == 0
    assert list(pd.read_csv(tmp_path / "out.csv")["image"]) == list(head)
    return {name.partition(".")[0]: pixels for name, pixels in head.items()}


def at_page(folder, **_):
    opened = {file.stem: generator.opened(file.read_bytes(), 64) for file in sorted(folder.iterdir())}
    print(*(line for _, line in opened.values()), sep="\n")
    return {name: pixels for name, (pixels, _) in opened.items()}


@pytest.mark.parametrize("door", [at_cohort, at_external, at_classify, at_page])
@pytest.mark.parametrize(
    ("case", "count", "told"),
    [("sixteen", 3, "1 greyscale of more than 8 bits"), ("exif", 2, "1 turned upright"), ("mixed", 8, "")],
)
def test_a_file_gives_the_same_pixels_at_every_door(cases, case, count, told, door, head, tmp_path, capsys):
    folder = tmp_path / "own"
    shutil.copytree(cases / "pictures" / case, folder)
    folder.chmod(0o755)
    expected = {file.stem: read_image(file, 64) for file in sorted(folder.iterdir())}
    found = door(folder, tmp_path=tmp_path, head=head)
    assert len(found) == count and found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    out = capsys.readouterr().out
    assert told.removeprefix("1 " if door is at_page else "") in out
    if case == "sixteen":
        assert np.array_equal(found["c_grey16"], found["b_grey8"]) and found["c_grey16"].max() < 255
    if case == "exif":
        assert np.abs(found["a_upright"].astype(int) - found["b_exif6"]).mean() < 3


def test_masks_beside_images_are_named_at_both_doors(cases):
    message = "140 of 140 images .* such as GroundTruth/PHANTOM_0000000.png and images/PHANTOM_0000000.jpg"
    for door in (dataset.load_folder, external.load_external):
        with pytest.raises(InputError, match=message):
            door(cases / "masks_beside_images")


def test_the_copy_that_holds_every_part_twice_is_read_once(cases, capsys):
    cohort = dataset.load_folder(cases / "kaggle_download")
    assert len(cohort) == 140 and cohort.frame["file"].str.startswith("HAM10000_images").all()
    assert "each image is read once: 140 files\n" in capsys.readouterr().out


def test_all_that_cannot_be_classified_is_named_in_one_line(head, tmp_path, capsys):
    folder = named(tmp_path / "own", "a.png", "b.png", "c.png")
    (folder / "b.png").write_bytes(b"no image")
    (folder / "c.png").write_bytes(stored(TRANSPARENT, "PNG").getvalue())
    os.mkfifo(folder / "d.jpg")
    arguments = ["classify", str(folder), "--out", str(tmp_path / "out.csv")]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "3 of 4 images cannot be used" in error and not (tmp_path / "out.csv").exists()
    assert all(
        f"{name} {why}" in error for name, why in (("b.png", "is not"), ("c.png", "has"), ("d.jpg", "is a pipe"))
    )


def test_a_name_that_no_table_can_hold_is_refused(head, tmp_path, capsys):
    folder = named(tmp_path / "own", "a.png")
    shutil.copy(folder / "a.png", os.fsencode(folder) + b"/b\xff.png")
    arguments = ["classify", str(folder), "--out", str(tmp_path / "out.csv")]
    assert cli.main(arguments) == 2
    assert "b\\udcff.png has a name that no table can hold" in capsys.readouterr().err
    table_of(named(tmp_path / "other", *(f"{code}.png" for code in CODES)))
    shutil.copy(folder / "a.png", os.fsencode(tmp_path / "other") + b"/b\xff.png")
    assert len(dataset.load_folder(tmp_path / "other")) == 7


def test_ham10000s_pixels_are_the_decoders(ham10000):
    for path in sorted(ham10000.rglob("*.jpg"))[::200]:
        with Image.open(path) as image:
            assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))
        assert images.converted(path)[1] == ()
