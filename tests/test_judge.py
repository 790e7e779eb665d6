"""Judging a folder: how it is read, what is measured and left out, that real images help and wrong labels do not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

from dermstudy.classification.frozen_features import Basis
from dermstudy.data.external import load_labelled
from dermstudy.entities import CODES
from dermstudy.evaluation import judge
from dermstudy.evaluation.judge import Seen
from dermstudy.files import InputError
from dermstudy_commands import cli
from dermstudy_commands.judge import bank, command, compare, page, record
from dermstudy_commands.judge.look import Looked, look
from dermstudy_commands.maintenance import curve, judged


def pictures(folder, names, side=64):
    """Grey noise under each of `names`."""
    for place, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(place).integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(noise).save(path)
    return folder


# Reading


def test_folders_are_named_by_entity_code_or_alias_and_the_rest_is_counted(tmp_path):
    folder = pictures(tmp_path, ["mel/a.png", "Benign_Keratosis/a.png", "naevus/deep/b.png", "misc/c.png", "d.png"])
    (folder / "mel" / "notes.docx").write_text("x")
    own = load_labelled(folder)
    assert dict(zip(own.cohort.frame["image_id"], own.cohort.frame["dx"], strict=True)) == {
        "mel/a.png": "mel", "Benign_Keratosis/a.png": "bkl", "naevus/deep/b.png": "nv",
    }  # fmt: skip
    assert own.cohort.frame["group"].nunique() == 3 and own.cohort.images(8).shape == (3, 8, 8, 3)
    assert "1 .docx" in own.lines[0] and "misc 1" in own.lines[1] and "no folder 1" in own.lines[1]


@pytest.mark.parametrize("header", ["picture,label\n", ""])
def test_a_table_of_two_columns_needs_no_known_names(tmp_path, header):
    folder = pictures(tmp_path, ["one.png", "x/two.png", "three.png"])
    (folder / "labels.csv").write_text(f"{header}one.png,melanoma\ntwo,Dermatofibroma\nthree,scar\n")
    own = load_labelled(folder)
    assert list(own.cohort.frame["dx"]) == ["mel", "df"] and list(own.cohort.frame["file"]) == ["one.png", "x/two.png"]
    assert any("scar 1" in line for line in own.lines)


def test_a_table_in_a_known_layout_names_lesions(tmp_path):
    folder = pictures(tmp_path, ["a.png", "b.png", "c.png"])
    (folder / "index.csv").write_text("image_id,dx,lesion_id\na,mel,L1\nb,mel,L1\nc,nv,\n")
    assert list(load_labelled(folder).cohort.frame["group"]) == ["L1", "L1", "c"]


@pytest.mark.parametrize(
    ("names", "table", "message"),
    [
        ([], "", "no image in"),
        (["a.png"], "", "no table in .* name a folder for each entity"),
        (["a.png"], "a.png,scar\n", "names no known entity, but"),
        (["a.png"], "a.png,mel\na.png,nv\n", "a.png stands twice"),
        (["a.png"], "b.png,mel\n", "1 of 1 images of labels.csv are not in"),
    ],
)
def test_bad_input_ends_in_one_line_and_writes_nothing(tmp_path, capsys, names, table, message):
    folder = pictures(tmp_path / "in", names)
    folder.mkdir(exist_ok=True)
    if table:
        (folder / "labels.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        load_labelled(folder)
    assert cli.main(["judge", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    folder = pictures(tmp_path, ["mel/a.png", "nv/b.png"])
    (folder / "mel" / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="broken.png"):
        load_labelled(folder)


def test_reading_that_was_cut_goes_on_with_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr("dermstudy_commands.judge.look.AT_ONCE", 4)
    names = [f"{code}/{number}.png" for code in CODES[:2] for number in range(3)]
    cohort = load_labelled(pictures(tmp_path / "in", names)).cohort
    with monkeypatch.context() as patch:
        patch.setattr(type(cohort), "images", cut_after(type(cohort).images, 2))
        with pytest.raises(KeyboardInterrupt):
            look(cohort, tmp_path / "cut", None, probe=False)
    (kept,) = (tmp_path / "cut").iterdir()
    written = kept.stat().st_mtime_ns
    resumed, whole = (look(cohort, tmp_path / folder, None, probe=False) for folder in ("cut", "anew"))
    assert kept.stat().st_mtime_ns == written and len(resumed.pixels) == 6
    assert (resumed.pixels == whole.pixels).all() and (resumed.seen.colours == whole.seen.colours).all()
    for name, vectors in whole.seen.vectors.items():
        assert (resumed.seen.vectors[name] == vectors).all()


def cut_after(images, calls: int):
    """`images` that is interrupted after so many calls."""
    left = iter(range(calls))

    def until_cut(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return images(*arguments)

    return until_cut


# Features


def seen(each: int, shift: float = 0.0, seed: int = 0, codes=CODES) -> Seen:
    """Features of `each` images of each entity, a lesion an image, all moved by `shift`."""
    random, dx = np.random.default_rng(seed), np.repeat(codes, each)
    frame = pd.DataFrame({"image_id": [f"{seed}-{place}" for place in range(len(dx))], "dx": dx})
    vectors = {name: (random.normal(size=(len(dx), 8)) + shift).astype(np.float32) for name in ("one", "two")}
    return Seen(frame.assign(group=frame["image_id"]), vectors, random.normal(50 + shift, 1, (len(dx), 6)))


def test_distances_stand_beside_a_baseline_and_a_shift_is_seen():
    near, far = (judge.measured(seen(40, shift, 1), seen(40, 0, 2), seen(40, 0, 3), fewest=15) for shift in (0, 2))
    for quality, small in ((near, True), (far, False)):
        kid = quality.distances.query("metric == 'kid' and entity == 'overall'")
        assert set(kid["encoder"]) == {"one", "two"} and (kid["baseline"].abs() < 60).all()
        assert ((kid["value"] - kid["baseline"]).abs() < 60).all() == small
    assert (far.colours["low"] > 0).all() and set(near.colours["entity"]) == set(CODES)


def test_few_images_leave_figures_out_by_name():
    few = judge.measured(seen(3, 0, 1), seen(40, 0, 2), seen(40, 0, 3))
    assert few.distances.empty and few.colours.empty
    assert few.left_out[0].startswith("KID, precision and recall: 7 images") and "colour" in few.left_out[1]
    some = judge.measured(seen(40, 0, 1), seen(40, 0, 2), seen(40, 0, 3))
    assert set(some.distances["metric"]) == {"kid", "precision", "recall"}
    assert any(line.startswith("FID: 140 images") for line in some.left_out)
    part = judge.measured(seen(60, 0, 1, ("nv", "mel")), seen(60, 0, 2), seen(60, 0, 3), fewest=30)
    assert set(part.distances["entity"]) == {"overall", "nv", "mel"}
    assert any("by entity" in line and "dermatofibroma" in line for line in part.left_out)


# The comparison


@pytest.fixture(scope="module")
def real() -> bank.Bank:
    """A bank of made-up features that tell the entities apart in part; half of the training images are the subset."""
    frame, components = images(60, 0)
    frame["split"] = np.resize(["train", "train", "train", "train", "validation", "test"], len(frame))
    frame["subset"] = (frame["split"] == "train") & (frame.index % 6 == 0)
    frame = frame.assign(pixels=[f"{place:016x}" for place in range(len(frame))], side="")
    frame.loc[frame["split"] == "train", "side"] = "train"
    frame.loc[frame["split"] == "test", "side"] = "test"
    sides = {name: side_of(frame[frame["side"] == name]) for name in ("train", "test")}
    basis = Basis(np.zeros(6, np.float32), np.ones(6, np.float32), np.eye(6, dtype=np.float32))
    return bank.Bank("made up", frame, basis, components, sides)


def images(each: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    random, dx = np.random.default_rng(seed), np.tile(CODES, each)
    directions = np.random.default_rng(99).normal(size=(7, 6))
    values = random.normal(size=(len(dx), 6)) + directions[[CODES.index(code) for code in dx]]
    frame = pd.DataFrame({"image_id": [f"i{seed}-{place}" for place in range(len(dx))], "dx": dx})
    return frame.assign(group=frame["image_id"]), values.astype(np.float32)


def side_of(frame: pd.DataFrame) -> Seen:
    random = np.random.default_rng(len(frame))
    vectors = {
        "fid-inception": random.normal(size=(len(frame), 8)),
        "efficientnet-lite0": random.normal(size=(len(frame), 8)),
    }
    return Seen(
        frame[["image_id", "dx", "group"]].reset_index(drop=True), vectors, random.normal(50, 3, (len(frame), 6))
    )


def test_images_that_tell_entities_apart_help_and_wrong_labels_do_not(real):
    frame, inputs = images(150, 1)
    right = compare.compare(real, frame["dx"], inputs, 4).table.iloc[0]
    wrong = compare.compare(real, pd.Series(np.roll(frame["dx"], 1)), inputs, 4).table.iloc[0]
    assert right["difference"] > 0 > wrong["difference"] and wrong["high"] < 0


def test_repeated_originals_weigh_as_the_control_has_them(real):
    train = real.images("train")
    dx, inputs = real.frame["dx"][train], real.components[train]
    own, control = (compare.training_set(real, name, dx, inputs) for name in (compare.ADDED, compare.REPEATED))
    heads = [taught.fitted(1e-3) for taught in (own, control)]
    np.testing.assert_allclose(heads[0].weights, heads[1].weights, atol=2e-3)
    nevi = dx[dx == "nv"]
    shares = compare.training_set(real, compare.REPEATED, nevi, inputs[: len(nevi)])
    weights = pd.Series(shares.weights(None)).groupby(shares.rows["dx"].to_numpy()).sum()
    assert weights["nv"] == pytest.approx(2 * weights["mel"])
    seeds = [
        compare.training_set(real, name, dx, inputs).weights(3)[: train.sum()]
        for name in (compare.ADDED, compare.ORIGINALS)
    ]
    np.testing.assert_allclose(seeds[0] / seeds[0].sum(), seeds[1])  # originals are weighed alike


def test_a_scale_weighs_what_is_added_alone(real):
    frame, inputs = images(10, 3)
    train = real.images("train").sum()
    for side in (compare.ADDED, compare.REPEATED):
        whole = compare.training_set(real, side, frame["dx"], inputs)
        once, none = (replace(whole, scale=scale).weights(2) for scale in (1.0, 0.0))
        quarter = replace(whole, scale=0.25).weights(2)
        added = once * (train + len(frame)) - none * train  # weights before they add up to 1
        np.testing.assert_allclose(quarter * (train + len(frame) / 4), none * train + added / 4, atol=1e-4)


def test_a_share_of_the_lesions_keeps_two_of_each_entity_and_the_test_side(real):
    part = curve.of_share(real, 0.03, 0)
    assert (part.frame.loc[part.images("train")].groupby("dx")["group"].nunique() == 2).all()
    assert part.images("test").sum() == real.images("test").sum() and len(part.components) == len(part.frame)
    assert not part.frame["image_id"].equals(curve.of_share(real, 0.03, 1).frame["image_id"])
    runs = list(
        curve.learned(
            part, "few", compare.training_set(part, compare.ORIGINALS, pd.Series([], dtype=object), None), [4, 5]
        )
    )
    assert [run.runs["seed"][0] for run in runs] == [4, 5] and set(runs[0].images["split"]) == {"test"}


def test_runs_of_originals_that_are_kept_change_nothing(real, tmp_path):
    frame, inputs = images(10, 2)
    kept = bank.load(bank.save(compare.with_originals(real, 3), tmp_path / "bank"))
    again, anew = (compare.compare(own, frame["dx"], inputs, 2) for own in (kept, replace(kept, originals=None)))
    np.testing.assert_allclose(again.table["difference"], anew.table["difference"], atol=1e-3)
    np.testing.assert_allclose(again.reference.weights, anew.reference.weights, atol=1e-2)


# The record and the page


def judgement(real, each: int, saw: str = "unknown", copied: int = 0) -> record.Judged:
    frame, inputs = images(each, 5)
    inputs[:copied] = real.components[real.images("test")][:copied]
    looked = Looked(
        np.sign(inputs) * inputs**2, Seen(frame, {}, np.zeros((len(frame), 6))), np.full(len(frame), "x" * 16)
    )
    looked.pixels[:copied] = "0" * 15 + "5"  # the sixth image's, of the test side
    quality = judge.Quality(pd.DataFrame(), pd.DataFrame(), ())
    return command.of_features(looked, real, quality, ("made up", saw, ()), 2)


def test_a_judgement_says_what_it_found_in_one_sentence_and_one_page(real, tmp_path):
    own = judgement(real, 20, copied=1)
    assert own.verdict.startswith("Adding these 140 images to 280 real training images changed macro AUC")
    assert "margin of ±0.015" in own.verdict and "0 of training and 1 of test images pixel for pixel" in own.verdict
    assert record.Judged.model_validate_json(page.as_json(own)) == own
    assert own.effect.low < own.effect.difference < own.effect.high and len(own.controls) == 2
    text = page.write(own, tmp_path / "out").read_text()
    assert own.verdict in text and "nan" not in text.lower()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.html", "judged.json", "judged.png"}


def test_few_images_have_no_verdict(real):
    own = judgement(real, 1)
    assert own.effect is None and own.verdict == "Too few images for a verdict."
    assert any("7 images, and 50 are needed" in line for line in own.left_out)
    assert record.Judged.model_validate(json.loads(page.as_json(own))).fidelity == []


# The bank


def test_a_bank_comes_back_within_its_steps_and_damage_is_told(real, tmp_path):
    again = bank.load(bank.save(real, tmp_path / "bank"))
    pd.testing.assert_frame_equal(again.frame.reset_index(drop=True), real.frame, check_dtype=False)
    step = np.ptp(real.components, axis=0).max() / 255
    np.testing.assert_allclose(again.components, real.components, atol=step)
    assert list(again.seen["test"].vectors) == ["fid-inception", "efficientnet-lite0"]
    (tmp_path / "bank" / bank.IMAGES).write_text("image_id,subset\n")
    with pytest.raises(InputError, match="does not belong"):
        bank.load(tmp_path / "bank")
    with pytest.raises(InputError, match="no features of real images"):
        bank.load(tmp_path / "nowhere")


# What is committed


def test_every_committed_judgement_fits_its_schema_and_the_page_has_it():
    files = sorted((ROOT / judged.FOLDER).glob("*.json"))
    for path in files:
        own = record.Judged.model_validate_json(path.read_text())
        assert own.name == path.stem and set(own.images) <= set(CODES)
    assert (ROOT / judged.PAGE).read_text() == judged.page()


def test_a_row_that_misses_its_demand_is_told():
    demands = pd.read_csv(ROOT / judged.DEMANDS, keep_default_na=False)
    assert set(demands["demand"]) == set(judged.MEANING)
    path = ROOT / judged.ROWS
    for row in pd.read_csv(path, keep_default_na=False).to_dict("records") if path.is_file() else ():
        assert row["met"] == {True: "yes", False: "no", None: ""}[judged.MEANING[row["demand"]](row)]
