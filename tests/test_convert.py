"""Conversion of upstream checkpoints: exact round trips, named faults, and parity with a copy of upstream."""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from dermstudy.diffusion import architecture, convert, folded, glide, schedules
from dermstudy.files import InputError
from dermstudy_commands import cli

SMALL = replace(architecture.PRESETS["tiny-base"], channels=32, multipliers=(1, 2), blocks=2, attention_sides=(32,),
                head_width=16, text_width=32, text_layers=2, text_heads=2)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return architecture.train_tokenizer(["melanoma", "dermatofibroma"])


def pipeline_of(preset, tokenizer):
    torch.manual_seed(0)
    kind = glide.GlidePipeline if preset.in_channels in (3, 7) else glide.GlideUpsamplePipeline
    modules = architecture.unet_from(preset), architecture.text_encoder_from(preset, len(tokenizer))
    for module in modules:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return kind(modules[0].eval(), modules[1].eval(), tokenizer, schedules.scheduler_from(preset))


@pytest.mark.parametrize("channels", sorted(convert.KINDS))
def test_round_trip_is_exact(tokenizer, channels, tmp_path):
    preset = replace(SMALL, in_channels=channels, side=64 if channels in (3, 7) else 256,
                     attention_sides=(32,) if channels in (3, 7) else (128,))  # fmt: skip
    pipeline = pipeline_of(preset, tokenizer)
    state = convert.to_openai(pipeline)
    assert "input_blocks.4.1.qkv.weight" in state and state["input_blocks.4.1.qkv.weight"].shape == (192, 64, 1)
    again = convert.to_diffusers(state, tokenizer, head_width=16, text_heads=2)
    assert convert.preset_of(again) == replace(convert.infer_preset(state, 16, 2), dropout=0.1)
    for part in ("unet", "text_encoder"):
        left, right = getattr(pipeline, part).state_dict(), getattr(again, part).state_dict()
        assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    back = convert.to_openai(again)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


def test_files_both_ways(tokenizer, tmp_path):
    state = convert.to_openai(pipeline_of(SMALL, tokenizer))
    torch.save(state, tmp_path / "base.pt")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    vocabulary = tmp_path / "vocabulary"
    write_vocabulary(tokenizer, vocabulary)
    files = [str(tmp_path / "base.pt"), str(tmp_path / "out"), "--tokenizer", str(vocabulary)]
    assert cli.main(["convert", *files, "--head-width", "16", "--text-heads", "2"]) == 0
    assert cli.main(["convert", str(tmp_path / "out"), str(tmp_path / "back.pt"), "--to-openai"]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    opened = glide.load(tmp_path / "out")
    assert opened.tokenizer("melanoma")["input_ids"] == tokenizer("melanoma")["input_ids"]


def write_vocabulary(tokenizer, folder):
    import json

    folder.mkdir()
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


def test_a_tensor_that_lacks_or_is_unknown_is_named(small_state, tokenizer):
    for state, message in (
        ({k: v for k, v in small_state.items() if k != "out.2.bias"}, "lacks 1 tensors, out.2.bias first"),
        ({k: v for k, v in small_state.items() if k != "time_embed.0.weight"}, "lacks time_embed.0.weight"),
        (small_state | {"extra": torch.zeros(1)}, "has unknown 1 tensors, extra first"),
        (small_state | {"token_embedding.weight": torch.zeros(9, 32)}, "knows 9 tokens"),
    ):
        with pytest.raises(InputError, match=message):
            convert.to_diffusers(state, tokenizer, head_width=16, text_heads=2)


def literal_text(state, ids, kept, heads):
    """Upstream's text transformer written out (xf.py, text2im_model.py): the last hidden states and their projection."""

    def linear(name, values):
        return values @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def normal(name, values):
        centred = values - values.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = state["token_embedding.weight"][ids] + state["positional_embedding"]
    x = torch.where(kept[..., None], x, state["padding_embedding"])
    for layer in range(len({name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")})):
        own = f"transformer.resblocks.{layer}"
        qkv = linear(f"{own}.attn.c_qkv", normal(f"{own}.ln_1", x)).view(*x.shape[:2], heads, -1)
        query, key, value = qkv.split(qkv.shape[-1] // 3, dim=-1)
        weight = torch.einsum("bthc,bshc->bhts", query, key) / query.shape[-1] ** 0.5
        attended = torch.einsum("bhts,bshc->bthc", weight.softmax(dim=-1), value).reshape(x.shape)
        x = x + linear(f"{own}.attn.c_proj", attended)
        inner = linear(f"{own}.mlp.c_fc", normal(f"{own}.ln_2", x))
        x = x + linear(f"{own}.mlp.c_proj", inner * (1 + torch.erf(inner / 2**0.5)) / 2)
    hidden = normal("final_ln", x)
    return hidden, linear("transformer_proj", hidden[:, -1])


@pytest.mark.parametrize(("width", "heads"), [(32, 1), (32, 8), (64, 4), (96, 3)])
def test_text_heads_are_those_asked_for(tokenizer, width, heads):
    """Against upstream's text transformer written out: another number of heads than the U-Net's head width gives."""
    sizes = replace(SMALL, text_width=width, text_heads=heads)
    state = convert.to_openai(pipeline_of(sizes, tokenizer))
    generator = torch.Generator().manual_seed(1)
    state = {
        name: torch.randn(value.shape, generator=generator) * (value[0].numel() ** -0.5 if value.dim() > 1 else 0.1)
        for name, value in state.items()
    }
    pipeline = convert.to_diffusers(state, tokenizer, head_width=16, text_heads=heads)
    ids, mask = architecture.tokenize(tokenizer, ["melanoma on the back", ""], sizes.text_length)
    with torch.no_grad():
        for ours, theirs in zip(
            pipeline.text_encoder(ids, mask), literal_text(state, ids, mask.bool(), heads), strict=True
        ):
            assert (ours - theirs).norm() / theirs.norm() < 1e-5
    back = convert.to_openai(pipeline)
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((16, None), "does not say how many heads its text transformer of width 32 has: give --text-heads"),
        ((16, 5), "5 heads do not divide the text transformer's width of 32"),
        ((16, 0), "0 heads do not divide"),
        ((48, 2), "heads of 48 channels do not divide the U-Net's level of 64"),
    ],
)
def test_unknown_heads_are_refused(small_state, tokenizer, widths, message):
    with pytest.raises(InputError, match=message):
        convert.to_diffusers(small_state, tokenizer, *widths)


@pytest.mark.parametrize("name", ["openai-base", "openai-upsampler"])
@pytest.mark.parametrize("inpaints", [0, 4])
def test_released_sizes_need_no_heads(tokenizer, name, inpaints):
    preset = replace(architecture.PRESETS[name], in_channels=architecture.PRESETS[name].in_channels + inpaints)
    with torch.device("meta"):  # shapes alone
        modules = architecture.unet_from(preset), architecture.text_encoder_from(preset, 9)
    state = convert.to_openai(glide.GlidePipeline(*modules, tokenizer, schedules.scheduler_from(preset)))
    assert convert.infer_preset(state) == preset
    assert convert.infer_preset(state, text_heads=4) == replace(preset, text_heads=4)
    with pytest.raises(InputError, match="give --text-heads"):
        convert.infer_preset(state | {"positional_embedding": state["positional_embedding"][:64]})


@pytest.fixture(scope="module")
def small_state(tokenizer):
    return convert.to_openai(pipeline_of(SMALL, tokenizer))


def under(prefix):
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrapped",
    [
        under("_orig_mod."),  # a compiled model, as glide-finetune saves it
        under("module."),
        under("module._orig_mod."),
        under("_orig_mod.module.model."),
        lambda state: {name.replace("transformer.", "transformer._orig_mod."): value for name, value in state.items()},
        lambda state: {"state_dict": under("model.")(state), "epoch": 3, "optimizer": {"lr": 1e-5}},
        lambda state: {"step": 7, "checkpoint": {"model_state_dict": under("module.")(state)}},
        lambda state: {"n_averaged": torch.tensor(3)} | under("module.")(state),
        lambda state: {"model": {k: 0 * v for k, v in state.items()}, "ema": state, "optimizer": {"m": torch.zeros(2)}},
        lambda state: {name: value.half() for name, value in state.items()},
    ],
)
def test_what_wrappers_add_is_taken_off(small_state, tmp_path, capsys, wrapped):
    torch.save(wrapped(small_state), tmp_path / "model.pt")
    state = convert.read_checkpoint(tmp_path / "model.pt")
    assert state.keys() == small_state.keys()
    assert all(torch.allclose(state[name], value, atol=1e-3) for name, value in small_state.items())
    assert ("the averaged one is taken, ema" in capsys.readouterr().out) == ("ema" in wrapped(small_state))


def test_a_safetensors_file_is_read(small_state, tmp_path):
    save_file({f"module.{name}": value.contiguous() for name, value in small_state.items()}, tmp_path / "a.safetensors")
    assert convert.read_checkpoint(tmp_path / "a.safetensors").keys() == small_state.keys()


class Pickled(torch.nn.Module):
    """A whole model, pickled with its class."""


def cut_zip(path):
    torch.save({"w": torch.zeros(10_000)}, path)
    path.write_bytes(path.read_bytes()[:20_000])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.save(Pickled(), path), r"pickles the class test_convert\.Pickled, .*model\.state_dict\(\)"),
        (lambda path: torch.save({"args": argparse.Namespace()}, path), "pickles the class argparse.Namespace"),
        (cut_zip, "cut off, damaged or no PyTorch checkpoint"),
        (lambda path: path.write_text("<!DOCTYPE html><html>"), "is a web page"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "is a Git LFS pointer"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.mkdir(), "no checkpoint"),
        (lambda path: torch.save({}, path), "holds no plain state dict"),
        (lambda path: torch.save({"optimizer": {"lr": 0.1}}, path), "holds no plain state dict"),
        (lambda path: torch.save({"a.lora_A.weight": torch.zeros(2)}, path), "holds low-rank additions .* merge them"),
        (
            lambda path: torch.save({f"{m}.time_embed.0.weight": torch.zeros(2, 2) for m in "ab"}, path),
            "holds 2 models .*: save the state dict of one",
        ),
        (
            lambda path: torch.save({"w": torch.tensor([1.0, float("nan")])}, path),
            "w holds numbers that are not finite",
        ),
    ],
)
def test_the_true_cause_is_named(tokenizer, tmp_path, capsys, write, message):
    path = tmp_path / "base.pt"
    write(path)
    write_vocabulary(tokenizer, tmp_path / "vocabulary")
    arguments = ["convert", str(path), str(tmp_path / "out"), "--tokenizer", str(tmp_path / "vocabulary")]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1 and str(path) in error
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base.pt", "vocabulary"]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("time_embed.0.weight", (128,), r"time_embed.0.weight has the shape \(128,\), expected 2 dimensions"),
        ("token_embedding.weight", (), "token_embedding.weight has the shape"),
        ("input_blocks.4.0.in_layers.2.weight", (63, 32, 3, 3), "heads of 16 channels do not divide"),
        ("input_blocks.1.0.in_layers.2.weight", (8, 32, 3, 3), "it is not a GLIDE model of these sizes"),
        ("time_embed.0.weight", (128, 33), "sizes make no GLIDE model|has the shape"),
        ("middle_block.1.qkv.weight", (192, 63, 1), r"has the shape \(192, 63, 1\), expected"),
    ],
)
def test_a_wrong_shape_is_named(small_state, tokenizer, name, shape, message):
    with pytest.raises(InputError, match=message) as caught:
        convert.to_diffusers(small_state | {name: torch.zeros(shape)}, tokenizer, head_width=16, text_heads=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", b"{", "are no vocabulary of GPT-2's form"),
        ("vocab.json", b"[]", "are no vocabulary of GPT-2's form"),
        ("vocab.json", b'{"a": 5}', "its tokens are not numbered from 0 on"),
        ("vocab.json", b"\xff\xfe", "are no vocabulary"),
        ("merges.txt", b"one two three\n", "'one two three' is no merge of its tokens"),
    ],
)
def test_a_damaged_vocabulary_is_named(tokenizer, tmp_path, name, content, message):
    write_vocabulary(tokenizer, tmp_path / "vocabulary")
    (tmp_path / "vocabulary" / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        convert.read_tokenizer(tmp_path / "vocabulary")
    with pytest.raises(InputError, match="no vocabulary in"):
        convert.read_tokenizer(tmp_path)


def test_one_stage_is_not_taken_for_the_other(tokenizer, tmp_path):
    pipeline_of(SMALL, tokenizer).save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match="base holds a base model, and an upsampler is needed: give the other folder"):
        glide.load(tmp_path / "base", glide.GlideUpsamplePipeline)
    sizes = replace(SMALL, in_channels=6, side=256, attention_sides=(128,))
    pipeline_of(sizes, tokenizer).save_pretrained(tmp_path / "upsampler")
    assert cli.main(["convert", str(tmp_path / "upsampler"), str(tmp_path / "back.pt"), "--to-openai"]) == 0
    with pytest.raises(InputError, match="upsampler holds an upsampler, and a base model is needed"):
        glide.load(tmp_path / "upsampler")


@pytest.fixture(scope="module")
def upstream():
    """A copy of openai/glide-text2im, its folder given in GLIDE_TEXT2IM."""
    folder = os.environ.get("GLIDE_TEXT2IM")
    if not folder:
        pytest.skip("set GLIDE_TEXT2IM=/path/to/glide-text2im to compare with upstream")
    sys.path.insert(0, folder)
    try:
        import glide_text2im.model_creation as creation
        from glide_text2im.text2im_model import (
            InpaintText2ImUNet,
            SuperResInpaintText2ImUnet,
            SuperResText2ImUNet,
            Text2ImUNet,
        )
        from glide_text2im.tokenizer.bpe import get_encoder
    finally:
        sys.path.remove(folder)
    classes = {3: Text2ImUNet, 7: InpaintText2ImUNet, 6: SuperResText2ImUNet, 10: SuperResInpaintText2ImUnet}
    return {"creation": creation, "classes": classes, "encoder": get_encoder(),
            "tokenizer": convert.read_tokenizer(os.path.join(folder, "glide_text2im", "tokenizer"))}  # fmt: skip


SIZES = {
    "small": {"text_ctx": 16, "xf_width": 64, "xf_layers": 2, "xf_heads": 1, "model_channels": 64, "num_res_blocks": 1,
              "channel_mult": (1, 1, 2)},
    "many heads": {"text_ctx": 16, "xf_width": 64, "xf_layers": 2, "xf_heads": 8, "model_channels": 64,
                   "num_res_blocks": 1, "channel_mult": (1, 1, 2)},
    "few heads": {"text_ctx": 16, "xf_width": 192, "xf_layers": 2, "xf_heads": 2, "model_channels": 64,
                  "num_res_blocks": 1, "channel_mult": (1, 1, 2)},
    "full": {"text_ctx": 128, "xf_width": 512, "xf_layers": 16, "xf_heads": 8, "model_channels": 192},
}  # fmt: skip


def upstream_model(upstream, channels, size, respacing=""):
    """Upstream's model of that kind and size with random weights of normal scale, and its diffusion."""
    base = channels in (3, 7)
    sizes = dict(SIZES[size])
    if size == "full":
        sizes |= {"num_res_blocks": 3 if base else 2, "channel_mult": (1, 2, 3, 4) if base else (1, 1, 2, 2, 4, 4)}
    sides = (32, 16, 8) if size == "full" else (16,) if base else (64,)
    torch.manual_seed(channels)
    model = upstream["classes"][channels](
        **sizes, xf_final_ln=True, xf_padding=True, tokenizer=upstream["encoder"], in_channels=3, out_channels=6,
        attention_resolutions=tuple((64 if base else 256) // side for side in sides), dropout=0.0, num_heads=1,
        num_head_channels=64, num_heads_upsample=-1, use_scale_shift_norm=True, resblock_updown=True,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02 if "embedding" in name else parameter[0].numel() ** -0.5)
            elif not name.endswith("weight"):
                parameter.normal_(std=0.05)
    diffusion = upstream["creation"].create_gaussian_diffusion(
        steps=1000, noise_schedule="squaredcos_cap_v2" if base else "linear", timestep_respacing=respacing
    )
    return model, diffusion


def upstream_tokens(upstream, captions, length):
    encoder = upstream["encoder"]
    pairs = [encoder.padded_tokens_and_mask(encoder.encode(caption), length) for caption in captions]
    tokens, mask = zip(*pairs, strict=True)
    return {"tokens": torch.tensor(tokens), "mask": torch.tensor(mask)}


@pytest.mark.upstream
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", sorted(convert.KINDS))
def test_outputs_equal_upstreams(upstream, channels, size):
    """Random weights of normal scale: relative error of the output below 1e-5 in fp32, and a round trip to the bit."""
    side = 64 if channels in (3, 7) else 256
    model, _ = upstream_model(upstream, channels, size)
    state, length = model.state_dict(), SIZES[size]["text_ctx"]
    heads = None if size == "full" else SIZES[size]["xf_heads"]
    pipeline = convert.to_diffusers(state, upstream["tokenizer"], text_heads=heads)
    back = convert.to_openai(pipeline)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    captions = ["melanoma on the back", ""]
    tokens = upstream_tokens(upstream, captions, length)
    noisy, timesteps = torch.randn(2, 3, side, side), torch.tensor([7, 930])
    extra, parts = {}, [noisy]
    if channels in (7, 10):
        extra |= {
            "inpaint_image": torch.randn(2, 3, side, side),
            "inpaint_mask": (torch.rand(2, 1, side, side) > 0.5).float(),
        }
        parts += [extra["inpaint_image"] * extra["inpaint_mask"], extra["inpaint_mask"]]
    if channels in (6, 10):
        extra["low_res"] = torch.randn(2, 3, 64, 64)
        parts.append(folded.enlarge(extra["low_res"], side))
    with torch.inference_mode():
        theirs = model(noisy, timesteps, **tokens, **extra)
        ids, attention = architecture.tokenize(upstream["tokenizer"], captions, length)
        assert torch.equal(ids, tokens["tokens"]) and torch.equal(attention.bool(), tokens["mask"])
        hidden, pooled = pipeline.text_encoder(ids, attention)
        ours = pipeline.unet(
            torch.cat(parts, dim=1), timesteps, encoder_hidden_states=hidden, class_labels=pooled
        ).sample
    error = ((ours - theirs).norm() / theirs.norm()).item()
    print(f"{convert.KINDS[channels]}, {size}: relative error {error:.1e}")
    assert theirs.std() > 0.05 and error < 1e-5


class SameNoise:
    """torch.randn_like that draws image by image from seeded generators, as the pipelines do."""

    def __init__(self, seeds):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, like):
        drawn = [torch.randn(like.shape[1:], generator=generator) for generator in self.generators]
        return torch.stack((drawn * 2)[: len(like)])  # upstream draws again for the half of a guided batch it drops


@pytest.mark.upstream
@pytest.mark.parametrize("inpaint", [False, True])
def test_the_sampling_loop_equals_upstreams(upstream, monkeypatch, inpaint):
    """100 guided ancestral steps and 27 DDIM steps of upstream's notebooks, image for image under the same noise."""
    seeds, scale, length = [5, 6], 3.0, SIZES["small"]["text_ctx"]
    captions = ["melanoma on the back", "dermatofibroma"]
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    keep = torch.ones(2, 1, 64, 64, dtype=torch.bool)
    keep[:, :, 20:] = False
    model, diffusion = upstream_model(upstream, 7 if inpaint else 3, "small", "100")

    def guided(noisy, timesteps, **conditions):
        half = noisy[:2]
        output = model(torch.cat([half, half]), timesteps, **conditions)
        conditional, empty = output[:, :3].chunk(2)
        mean = empty + scale * (conditional - empty)
        return torch.cat([torch.cat([mean, mean]), output[:, 3:]], dim=1)

    conditions = upstream_tokens(upstream, captions + ["", ""], length)
    known = {"inpaint_image": (image * keep).repeat(2, 1, 1, 1), "inpaint_mask": keep.float().repeat(2, 1, 1, 1)}
    options = {}
    if inpaint:
        conditions |= known
        options["denoised_fn"] = lambda clean: (
            clean * (1 - known["inpaint_mask"]) + known["inpaint_image"] * known["inpaint_mask"]
        )
    noise = SameNoise(seeds)
    first = noise(torch.empty(4, 3, 64, 64))
    monkeypatch.setattr(torch, "randn_like", noise)
    with torch.no_grad():
        small = diffusion.p_sample_loop(
            guided, first.shape, noise=first, device="cpu", model_kwargs=conditions, **options
        )[:2]
    monkeypatch.undo()
    base = convert.to_diffusers(model.state_dict(), upstream["tokenizer"], text_heads=1)
    base.set_progress_bar_config(disable=True)
    given = {"inpaint_image": image, "inpaint_keep": keep[:, 0].numpy()} if inpaint else {}
    ours = base(captions, guidance_scale=scale, num_inference_steps="100", seeds=seeds, output_type="pt", **given)
    error = (ours - small).abs().max().item()
    print(f"base{'-inpaint' if inpaint else ''}, 100 steps: largest difference {error:.1e} in -1..1")
    assert small.std() > 0.05 and error < 5e-3
    if inpaint:
        outside = (ours - image).abs()[keep.expand_as(image)].max().item()
        print(f"largest change of a known pixel: {outside:.1e}")
        assert outside < 1e-5
        return

    model, diffusion = upstream_model(upstream, 6, "small", "fast27")
    low = (small + 1).mul(127.5).round() / 127.5 - 1
    noise = SameNoise(seeds)(torch.empty(2, 3, 256, 256)) * 0.997
    with torch.no_grad():
        large = diffusion.ddim_sample_loop(
            model, noise.shape, noise=noise, device="cpu",
            model_kwargs=upstream_tokens(upstream, captions, length) | {"low_res": low},
        )  # fmt: skip
    upsampler = convert.to_diffusers(model.state_dict(), upstream["tokenizer"], text_heads=1)
    upsampler.set_progress_bar_config(disable=True)
    upsampler.scheduler = schedules.sampler_from(upsampler.scheduler, "ddim")
    ours = upsampler(captions, low, num_inference_steps="fast27", seeds=seeds, output_type="pt")
    error = (ours - large).abs().max().item()
    print(f"upsampler, fast27 by DDIM: largest difference {error:.1e} in -1..1")
    assert large.std() > 0.05 and error < 5e-3


@pytest.mark.upstream
def test_tokens_equal_upstreams_for_a_thousand_prompts(upstream):
    import random

    words = random.Random(0)
    alphabet = "abcdefghijklmnopqrstuvwxyz     ABC'.,;-0123456789éßñ日"
    prompts = ["".join(words.choice(alphabet) for _ in range(words.randint(0, 80))) for _ in range(990)]
    prompts += ["melanoma", "Basal cell carcinoma", "it's the patient's nevus", "  two  spaces ", "\n", "日本", "é", ""]
    ids, mask = architecture.tokenize(upstream["tokenizer"], prompts, 128)
    for prompt, row, kept in zip(prompts, ids, mask, strict=True):
        tokens, padding = upstream["encoder"].padded_tokens_and_mask(upstream["encoder"].encode(prompt), 128)
        assert row.tolist() == tokens and kept.bool().tolist() == padding, prompt
    assert ids[990][mask[990].bool()].tolist() == [17694, 272, 6086]


@pytest.mark.upstream
@pytest.mark.parametrize("respacing", ["100", "fast27", "25,25,50", "250"])
def test_respacing_equals_upstreams(upstream, respacing):
    from glide_text2im.respace import space_timesteps

    assert sorted(space_timesteps(1000, respacing), reverse=True) == schedules.respaced_timesteps(respacing)
