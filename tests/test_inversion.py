"""Textual inversion: only the new vectors move, the file is small and the same in another process, misuse is named."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from dermstudy.adaptation import inversion, teaching
from dermstudy.diffusion import architecture, finetune, glide
from dermstudy.files import InputError

CAPTIONS = ["melanoma", "a dermatoscopic image of melanoma", "dermatofibroma"]


@pytest.fixture
def tokenizer():  # each test's own, for a model may be given tokens
    return architecture.train_tokenizer(CAPTIONS)


@pytest.fixture
def model(tokenizer):
    return glide.build("tiny-base", tokenizer, "v_prediction", 0)


def config(steps=6):
    return finetune.TrainingConfig(steps=steps, batch=4, learning_rate=0.05, trains="tokens", validate_every=steps)


def test_only_the_new_vectors_learn(model, tmp_path):
    before = {key: value.clone() for key, value in model.text_encoder.state_dict().items()}
    unet = {key: value.clone() for key, value in model.unet.state_dict().items()}
    adapted = inversion.extend(model, "<melanoma>", "melanoma", vectors=3)
    start = inversion.learned(adapted).clone()
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    with torch.no_grad():  # an untrained model ignores its captions; let it hear them
        adapted.unet.conv_out.weight.normal_(0, 0.1)
    log = finetune.train(adapted, images, [inversion.phrase("<melanoma>", 3)] * 4, config(), tmp_path)
    assert len(log) == 1 and not torch.equal(inversion.learned(adapted), start)
    after = adapted.text_encoder.state_dict()
    assert torch.equal(after["token_embedding.known"], before["token_embedding.weight"])
    assert all(torch.equal(after[key], value) for key, value in before.items() if key != "token_embedding.weight")
    assert all(
        torch.equal(value, unet[key]) for key, value in adapted.unet.state_dict().items() if key != "conv_out.weight"
    )
    assert all(torch.equal(value, before[key]) for key, value in model.text_encoder.state_dict().items())


def test_the_vectors_begin_as_the_words_they_replace(model):
    adapted = inversion.extend(model, "<a>", "melanoma", vectors=4)
    ids, mask = architecture.tokenize(model.tokenizer, ["melanoma"], 32)
    words = model.text_encoder.token_embedding.weight[ids[0][mask[0].bool()]]
    start = inversion.learned(adapted)
    assert all((words - row).norm(dim=1).min() < 0.1 * row.norm() for row in start)
    assert len({tuple(row.tolist()) for row in start}) == 4


@pytest.mark.slow
def test_a_fresh_process_paints_the_same_images(model, tmp_path):
    """The learned file and the unadapted weights are all that another machine needs."""
    with torch.no_grad():
        model.unet.conv_out.weight.normal_(0, 0.05)
    model.save_pretrained(tmp_path / "model")
    adapted = inversion.extend(model, "<melanoma>", "melanoma", vectors=2, seed=3)
    with torch.no_grad():
        adapted.text_encoder.token_embedding.added.add_(0.5)
    path = inversion.save(inversion.learned(adapted), "<melanoma>", tmp_path / "melanoma.safetensors")
    assert set(load_file(path)) == {"<melanoma>"}
    settings = {"guidance_scale": 3.0, "num_inference_steps": "4", "seeds": [5]}
    here = adapted("a dermatoscopic image of <melanoma> <melanoma>_1", **settings)
    code = (
        "import numpy as np; from dermstudy.diffusion import glide; from dermstudy.adaptation import inversion; "
        f"model = glide.load({str(tmp_path / 'model')!r}); phrase = inversion.load(model, {str(path)!r}); "
        f"np.save({str(tmp_path / 'there.npy')!r}, model('a dermatoscopic image of ' + phrase, **{settings!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert np.array_equal(np.load(tmp_path / "there.npy"), here)


def test_every_vector_reaches_the_model(model, tmp_path):
    """As many as the caption has tokens, and not one of them is cut off or lost to a space."""
    adapted = inversion.extend(model, "<a>", "melanoma", vectors=32)
    ids, mask = architecture.tokenize(adapted.tokenizer, [inversion.phrase("<a>", 32)], 32)
    known = len(model.tokenizer)
    assert ids[0].tolist() == list(range(known, known + 32)) and mask.all()
    path = inversion.save(inversion.learned(adapted), "<a>", tmp_path / "a.safetensors")
    loaded = copy.deepcopy(model)
    said = inversion.load(loaded, path)
    again = architecture.tokenize(loaded.tokenizer, [said], 32)[0]
    assert torch.equal(again, ids)
    loaded.save_pretrained(tmp_path / "model")
    kept = glide.load(tmp_path / "model").tokenizer
    assert torch.equal(architecture.tokenize(kept, [said], 32)[0], ids)
    few = inversion.extend(model, "<b>", "melanoma", vectors=2)
    ids, mask = architecture.tokenize(few.tokenizer, ["melanoma <b> <b>_1 on skin", "melanoma on skin"], 32)
    rest = [token for token in ids[0][mask[0].bool()].tolist() if token < known]
    assert rest == ids[1][mask[1].bool()].tolist()  # the words around them are read as ever


def test_a_caption_that_would_lose_learned_vectors_is_refused(model):
    adapted = inversion.extend(model, "<a>", "melanoma", vectors=30)
    with pytest.raises(InputError, match=r"a caption of \d+ tokens is cut to 32 and loses learned vectors: shorten it"):
        adapted.encode(["a dermatoscopic image of " + inversion.phrase("<a>", 30)])
    adapted.encode([inversion.phrase("<a>", 30) + " a dermatoscopic image of the skin of the back"])  # words may be cut


def test_more_vectors_than_a_caption_holds_are_refused_before_any_training(model):
    assert teaching.inversion_settings(model, [1, 16, 32], [100, 50]) == [(1, 100), (16, 100), (32, 100), (32, 50)]
    with pytest.raises(InputError, match="64 vectors an entity: give 1 to 32, the longest caption in tokens"):
        teaching.inversion_settings(model, [1, 16, 64], [100, 50])
    with pytest.raises(InputError, match="40 vectors an entity: give 1 to 32"):
        inversion.give(model, "<a>", torch.zeros(40, 32))


@pytest.mark.parametrize(
    ("token", "start", "vectors", "message"),
    [
        ("<a>", "melanoma", 0, "0 vectors an entity: give 1 to 32"),
        ("<a>", "", 2, "the words to start from are empty"),
        ("Melanoma", "melanoma", 2, "is no token name"),
    ],
)
def test_misuse_is_named(model, token, start, vectors, message):
    with pytest.raises(InputError, match=message):
        inversion.extend(model, token, start, vectors)


def test_files_that_do_not_fit(model, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="is no file of learned vectors"):
        inversion.load(model, path)
    for tensors, message in (
        ({"<a>": torch.zeros(2, 7)}, "it was learned for another model"),
        ({"<a>": torch.zeros(2, 32), "<b>": torch.zeros(2, 32)}, "it should hold one token's vectors"),
        ({"<a>": torch.full((1, 32), torch.inf)}, "a.safetensors: <a> holds numbers that are not finite"),
    ):
        save_file(tensors, path)
        with pytest.raises(InputError, match=message):
            inversion.load(model, path)
    inversion.save(torch.zeros(2, 32), "<a>", path)
    assert inversion.load(model, path) == "<a> <a>_1"
    with pytest.raises(InputError, match="the model knows <a> already"):
        inversion.load(model, path)


def test_training_tokens_needs_some(model, tmp_path):
    images = np.zeros((4, 64, 64, 3), np.uint8)
    with pytest.raises(InputError, match="no token can learn"):
        finetune.train(model, images, ["melanoma"] * 4, config(), tmp_path)


def test_a_run_does_not_go_on_from_captions_that_were_read_otherwise(model, tmp_path, monkeypatch, capsys):
    images = np.zeros((4, 64, 64, 3), np.uint8)
    for kind in (inversion.AddedToken, lambda name, **options: name):  # as words of their own the spaces are tokens too
        monkeypatch.setattr(inversion, "AddedToken", kind)
        adapted = inversion.extend(model, "<a>", "melanoma", vectors=2)
        finetune.train(adapted, images, [inversion.phrase("<a>", 2)] * 4, config(1), tmp_path)
    assert "going on from" not in capsys.readouterr().out


def test_points_between_two_entities(model, tmp_path):
    ends = torch.zeros(2, 32), torch.ones(2, 32)
    files = [inversion.save(end, f"<{name}>", tmp_path / name) for name, end in zip("ab", ends, strict=True)]
    said = inversion.between(model, *files, [0, 0.25, 1])
    assert said[1] == "<between_25> <between_25>_1"
    assert torch.equal(model.text_encoder.token_embedding.weight[-6:, 0], torch.tensor([0, 0, 0.25, 0.25, 1, 1]))
    short = inversion.save(torch.ones(1, 32), "<c>", tmp_path / "c")
    with pytest.raises(InputError, match="hold 2 and 1 vectors: learn as many for both"):
        inversion.between(model, files[0], short, [0.5])
