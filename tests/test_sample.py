"""The synthetic dataset: pairing, seeds, resuming, whole or not at all."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dermstudy import files
from dermstudy.data import dataset
from dermstudy.diffusion import architecture, glide, sample, schedules
from dermstudy.files import InputError


@pytest.fixture(scope="module")
def models():
    tokenizer = architecture.train_tokenizer(["melanoma"])
    made = glide.build("tiny-base", tokenizer), glide.build("tiny-upsampler", tokenizer)
    for model in made:
        model.scheduler = schedules.sampler_from(model.scheduler, "ddim")
    return made


def make(models, originals, folder, **changes):
    options = {"seed": 0, "guidance_scale": 2.0, "base_steps": 2, "upsample_steps": 1, "batch": 2} | changes
    return sample.synthesise(*models, originals, folder, **options)


def test_pairs_captions_and_seeds(cohort, models, tmp_path):
    originals = sample.choose_originals(cohort.frame, 7, seed=0, equal=True)
    assert originals["dx"].nunique() == 7
    synthetic = dataset.open_synthetic(make(models, originals, tmp_path / "synthetic"))
    assert synthetic.frame["source_image_id"].tolist() == originals["image_id"].tolist()
    assert synthetic.images(256).shape == (7, 256, 256, 3)
    for row in synthetic.frame.itertuples():
        assert (synthetic.root / f"{row.image_id}.txt").read_text() == row.caption + "\n"
    fewer = dataset.open_synthetic(make(models, originals.tail(2), tmp_path / "fewer", batch=1))
    ids = fewer.frame["image_id"].tolist()
    assert np.abs(fewer.images(256).astype(int) - synthetic.images(256, ids).astype(int)).max() <= 1


def test_an_interrupted_run_goes_on(cohort, models, tmp_path, monkeypatch, capsys):
    originals = sample.choose_originals(cohort.frame, 7, seed=0, equal=True)
    whole = make(models, originals, tmp_path / "whole")
    calls = iter([None, None, KeyboardInterrupt])
    real = sample.enlarged

    def interrupted(*arguments):
        if next(calls) is not None:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(sample, "enlarged", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(models, originals, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    monkeypatch.setattr(sample, "enlarged", real)
    capsys.readouterr()
    cut = make(models, originals, tmp_path / "cut")
    assert capsys.readouterr().out.startswith("6 of 7 images")  # four were there
    for path in whole.glob("*.png"):
        difference = dataset.read_image(path).astype(int) - dataset.read_image(cut / path.name).astype(int)
        assert np.abs(difference).max() <= 1, path.name
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_dataset_is_there_until_the_next_one_is(cohort, models, tmp_path, monkeypatch):
    """A death at the rename leaves the old one to be found, not nothing."""
    originals = sample.choose_originals(cohort.frame, 7, seed=0, equal=True).head(2)
    folder = make(models, originals, tmp_path / "synthetic", made_with="one")
    before = sorted(path.name for path in folder.iterdir())
    rename, replace = Path.rename, os.replace

    def dying(source, target):
        if Path(target) == folder and Path(source).name != ".synthetic.replaced":
            raise KeyboardInterrupt
        return replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    monkeypatch.setattr(Path, "rename", lambda own, target: dying(own, target) and rename)
    with pytest.raises(KeyboardInterrupt):
        make(models, originals, folder, made_with="two")
    monkeypatch.undo()
    files.restore(folder)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_finished_dataset_is_kept_until_a_setting_changes(cohort, models, tmp_path, capsys):
    originals = sample.choose_originals(cohort.frame, 7, seed=0, equal=True).head(2)
    folder = make(models, originals, tmp_path / "synthetic", made_with="one")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    capsys.readouterr()
    assert make(models, originals, folder, made_with="one") == folder
    assert capsys.readouterr().out.startswith("2 of 2 images are there")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    make(models, originals, folder, made_with="two")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} != before


@pytest.mark.parametrize("part", ["base", "upsampler", "caption", "sampler", "precision", "code"])
def test_a_finished_dataset_is_known_by_all_that_makes_it(cohort, models, tmp_path, part, monkeypatch, capsys):
    """Same names, seeds and settings; other weights, captions, sampler, precision or code paint anew."""
    originals = sample.choose_originals(cohort.frame, 7, seed=0, equal=True).head(1)
    folder = make(models, originals, tmp_path / "synthetic")
    base, upsampler = (copy.deepcopy(model) for model in models)
    if part == "caption":
        originals = originals.assign(caption="another caption")
    elif part == "sampler":
        base.scheduler = schedules.sampler_from(base.scheduler, "ancestral")
    elif part == "precision":
        base.text_encoder.to(torch.bfloat16).to(torch.float32)
    elif part == "code":
        monkeypatch.setattr(sample, "code_hash", lambda *objects: "another")
    else:
        module = base.text_encoder if part == "base" else upsampler.unet
        with torch.no_grad():
            next(module.parameters()).add_(1e-3)
    capsys.readouterr()
    make((base, upsampler), originals, folder)
    assert "are there" not in capsys.readouterr().out


def test_rare_entities_lend_their_captions_again(cohort, models, tmp_path):
    few = cohort.frame.groupby("dx").head(2)
    originals = sample.choose_originals(few, 21, seed=0, equal=True, repeat=True)
    assert originals["dx"].value_counts().tolist() == [3] * 7
    assert originals.groupby("image_id").size().max() == 2
    synthetic = dataset.open_synthetic(make(models, originals, tmp_path / "synthetic"))
    assert synthetic.frame["image_id"].is_unique and synthetic.frame["seed"].is_unique
    assert set(synthetic.frame["source_image_id"]) <= set(few["image_id"])


def test_each_entity_lends_as_often_as_it_is_asked_and_each_original_in_turn(cohort):
    counts = cohort.frame["dx"].value_counts()
    wanted = (counts * 2).clip(lower=50)
    wanted["df"] = counts["df"] - 1
    originals = sample.originals_in_turn(cohort.frame, wanted, seed=0)
    assert originals["dx"].value_counts().to_dict() == wanted.to_dict()
    lent = originals.groupby(["dx", "image_id"]).size().groupby("dx").agg(["min", "max"])
    assert ((lent["max"] - lent["min"]) <= 1).all() and lent.loc["mel", "min"] >= 2
    assert not originals.duplicated(["image_id", "copy"]).any()
    with pytest.raises(InputError, match="no original of 'vasc'"):
        sample.originals_in_turn(cohort.frame[cohort.frame["dx"] != "vasc"], wanted, seed=0)


@pytest.mark.parametrize(
    ("count", "equal", "message"),
    [(8, True, "do not divide over 7 entities"), (700, True, "100 originals an entity asked for"),
     (999, False, "999 originals asked for, the cohort has 140")],
)  # fmt: skip
def test_too_many_or_uneven(cohort, count, equal, message):
    with pytest.raises(InputError, match=message):
        sample.choose_originals(cohort.frame, count, 0, equal)
    assert len(sample.choose_originals(cohort.frame, 0, 0)) == 140


LONG = "a dermatoscopic image of a lesion on the back of a person, brown and round, with a network and "


def test_what_was_read_of_a_caption_is_said_and_recorded(cohort, models, tmp_path, capsys):
    """Two captions that differ after the cut are named; the text beside an image is what was read, the whole one is kept."""
    base, _ = models
    originals = sample.choose_originals(cohort.frame, 7, seed=0, equal=True).head(3)
    captions = [LONG + "melanoma", LONG + "dermatofibroma", "melanoma"]
    synthetic = dataset.open_synthetic(make(models, originals.assign(caption=captions), tmp_path / "synthetic"))
    told = capsys.readouterr().err
    read = synthetic.frame["caption"].tolist()
    length = base.text_encoder.config.length
    assert (
        read[0] == read[1] == base.tokenizer.decode(base.tokenizer(LONG)["input_ids"][:length]).strip()
        and read[2] == "melanoma"
    )
    assert synthetic.frame["caption_whole"].tolist() == captions
    assert [(synthetic.root / f"{name}.txt").read_text() for name in synthetic.frame["image_id"]] == [
        f"{r}\n" for r in read
    ]
    count = len(base.tokenizer(captions[0])["input_ids"])
    assert told.count(f'caption of {count} tokens: the model reads {length}; read: "{read[0]}"') == 1
    assert told.count("differ only after what is read: one seed gives the same picture") == 1
    base(LONG + "melanoma", num_inference_steps=2)
    assert "caption of" not in capsys.readouterr().err  # once a caption
    blended = {"negative_prompt": LONG + "no hair", "blend": (LONG + "nevi", 0.5)}
    base("melanoma", num_inference_steps=2, **blended)
    told = capsys.readouterr().err
    assert told.count("caption of") == 2 and f'"{LONG}nevi" and "{LONG}no hair" differ only' in told


def test_what_was_read_ends_with_a_whole_character():
    """Tokens are bytes: a cut inside a character leaves it out."""
    tokenizer = architecture.train_tokenizer(["melanoma"])
    assert [architecture.read_part(tokenizer, "Melanoma 日本", length) for length in (1, 2, 4, 5, 8, 9)] == [
        "melanoma", "melanoma", "melanoma", "melanoma 日", "Melanoma 日本", "Melanoma 日本",
    ]  # fmt: skip


def test_a_thousand_long_captions_take_a_few_lines(capsys):
    tokenizer = architecture.train_tokenizer(["melanoma"])
    architecture.tokenize(tokenizer, [f"{number} melanoma" + " on the back" * 9 for number in range(1000)], 16)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == architecture.TOLD + 1 and "997 more captions have more than 16 tokens" in lines[-1]
