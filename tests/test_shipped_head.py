from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dermstudy import pretrained
from dermstudy.classification import encoding, frozen_features, shipped_head
from dermstudy.classification.encoding import Settings, View
from dermstudy.entities import CODES, NAMES
from dermstudy.files import InputError
from dermstudy_commands import cli

SETTINGS = Settings((View(64), View(64, 0.7, 6)), ("pixels", "block 2"), 10)


@pytest.fixture(scope="module")
def some(cohort):
    """The first images of a few entities."""
    return cohort.select(image_id=list(cohort.frame.groupby("dx").head(3)["image_id"]))


@pytest.fixture(scope="module")
def fitted(some):
    """Features of a few phantom images, a basis and a head fitted in it."""
    ids = list(some.frame["image_id"])
    features = SETTINGS.features([encoding.encoded_now(some, view, ids) for view in SETTINGS.views])
    places = pd.Index(CODES).get_indexer(some.frame["dx"])
    basis = frozen_features.fit_basis(features, SETTINGS.components, SETTINGS.blocks)
    head = frozen_features.fit_head(basis.inputs(features), places, np.full(len(places), 1 / len(places)), 1e-3)
    return features, basis, head


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory) -> Path:
    _, basis, head = fitted
    shipped = shipped_head.fold(SETTINGS, basis, head, {"penalty": 1e-3})
    return shipped_head.save_head(shipped, tmp_path_factory.mktemp("head") / "head.safetensors")


def test_features_and_blocks_lie_side_by_side():
    views = [np.full((2, 6246), value, np.float16) for value in (1, 2)]
    features = SETTINGS.features(views)
    size = 2 * (pretrained.DEPTHS["pixels"] + pretrained.DEPTHS["block 2"])
    assert features.shape == (2, 2 * size) == (2, len(SETTINGS.blocks))
    assert (features[:, :size] == 1).all() and (features[:, size:] == 2).all()
    assert list(np.bincount(SETTINGS.blocks)) == [6, 48, 6, 48]


def test_a_head_folded_saved_and_read_answers_as_the_fitted_one(fitted, saved):
    features, basis, head = fitted
    shipped = shipped_head.load_head(saved)
    expected = head.log_probabilities(basis.inputs(features))
    np.testing.assert_allclose(shipped.log_probabilities(features), expected, atol=2e-3)
    assert shipped.settings == SETTINGS and shipped.lineage == {"penalty": 1e-3}
    nobody = pd.DataFrame(index=range(len(features)))
    corrected = frozen_features.one_run(head, basis.inputs(features), nobody).corrected()
    np.testing.assert_allclose(shipped.probabilities(features), corrected[0], atol=2e-3)
    np.testing.assert_allclose(shipped.probabilities(features, "ham10000"), np.exp(expected), atol=2e-3)


def test_a_folder_is_classified_into_one_table(some, saved, tmp_path, capsys):
    ids = list(some.frame["image_id"])[:5]
    folder = tmp_path / "images" / "deeper"
    folder.mkdir(parents=True)
    for image_id, file in some.frame.set_index("image_id").loc[ids, "file"].items():
        (folder / image_id).with_suffix(Path(file).suffix).write_bytes((some.root / file).read_bytes())
    (folder.parent / "=1+1.png").write_bytes(next(folder.iterdir()).read_bytes())
    out = tmp_path / "answers.csv"
    assert cli.main(["classify", str(folder.parent), "--out", str(out), "--weights", str(saved)]) == 0
    assert "6 images in" in capsys.readouterr().out
    table = pd.read_csv(out)
    assert table["image"][0] == "'=1+1.png"  # no spreadsheet runs a name
    table = table[1:].reset_index(drop=True)
    assert list(table.columns) == ["image", "answer", *(NAMES[code] for code in CODES)]
    assert [Path(image).stem for image in table["image"]] == sorted(ids) and table["image"][0].startswith("deeper/")
    values = table[[NAMES[code] for code in CODES]].to_numpy()
    np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)
    assert list(table["answer"]) == [NAMES[CODES[place]] for place in values.argmax(axis=1)]
    shipped = shipped_head.load_head(saved)
    views = [encoding.encoded_now(some, view, sorted(ids)) for view in SETTINGS.views]
    np.testing.assert_allclose(values, shipped.probabilities(SETTINGS.features(views)), atol=1e-3)


@pytest.mark.parametrize(
    ("changed", "files", "message"),
    [
        ({}, None, "no folder"),
        ({}, {}, "no image in"),
        ({}, {"a.jpg": None, "z.jpg": b"no pixels"}, "is not an image"),
        ({"--prior": "odd"}, {"a.jpg": None}, "unknown prior 'odd': choose even or ham10000"),
        ({"--weights": "gone"}, {"a.jpg": None}, "no head"),
        ({"--weights": "{here}/images/z.txt"}, {"a.jpg": None, "z.txt": b"nothing"}, "is no head of this study"),
        ({"--out": "images"}, {"a.jpg": None}, "is a folder: give the name of the table"),
    ],
)
def test_what_cannot_be_classified_is_one_line_and_no_file(
    changed, files, message, some, saved, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    image = (some.root / some.frame["file"].iloc[0]).read_bytes()
    if files is not None:
        Path("images").mkdir()
    for name, content in (files or {}).items():
        (Path("images") / name).write_bytes(content or image)
    before = sorted(tmp_path.rglob("*"))
    options = {"--out": "answers.csv", "--weights": str(saved)} | changed
    assert (
        cli.main(["classify", "images", *(word.format(here=tmp_path) for pair in options.items() for word in pair)])
        == 2
    )
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("weights", float("nan"), "weights holds numbers that are not finite"),
        ("bias", float("inf"), "bias holds numbers that are not finite"),
        ("prior", float("nan"), "prior holds numbers that are not finite"),
        ("prior", 0.0, "its prior gives melanoma no share"),
    ],
)
def test_a_broken_head_is_refused(saved, tmp_path, part, value, message):
    whole = shipped_head.load_head(saved)
    broken = getattr(whole, part).copy()
    broken.reshape(-1, len(CODES))[0, CODES.index("mel")] = value
    path = shipped_head.save_head(replace(whole, **{part: broken}), tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match=f"{path}: {message}"):
        shipped_head.load_head(path)


def test_features_that_are_not_finite_get_no_answer_and_a_head_of_others_is_refused(fitted, saved, tmp_path):
    features, shipped = fitted[0].astype(float), shipped_head.load_head(saved)
    features[0, 0] = float("nan")
    with pytest.raises(InputError, match="no answer: a probability holds numbers that are not finite"):
        shipped.probabilities(features)
    other = replace(shipped, settings=Settings((View(64),), ("pixels",), 3))
    with pytest.raises(InputError, match="a head for other entities or features"):
        shipped_head.load_head(shipped_head.save_head(other, tmp_path / "other.safetensors"))
