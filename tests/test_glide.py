"""GLIDE on diffusers: shapes, tokens, seeds, saving, samplers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dermstudy import glide
from dermstudy.files import InputError

CAPTIONS = ["melanoma", "basal cell carcinoma on the back", "a dermatoscopic image of dermatofibroma"]


@pytest.fixture(scope="module")
def tokenizer():
    return glide.train_tokenizer(CAPTIONS)


@pytest.fixture
def base(tokenizer):
    return stirred(glide.build("tiny-base", tokenizer, seed=1))


@pytest.fixture
def upsampler(tokenizer):
    return stirred(glide.build("tiny-upsampler", tokenizer, seed=2))


def stirred(pipeline):
    """The last convolution starts at zero, which would hide every fault behind it."""
    torch.manual_seed(5)
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.1)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_tokens_are_lower_case_padded_and_cover_any_text(tokenizer):
    ids, mask = glide.tokenize(tokenizer, ["Melanoma", "", "Kaposi-Sarkom é 日"], 32)
    assert ids.shape == mask.shape == (3, 32)
    assert torch.equal(ids[0], glide.tokenize(tokenizer, ["melanoma"], 32)[0][0])
    assert mask[1].sum() == 0 and (ids[1] == tokenizer.pad_token_id).all()
    assert tokenizer.decode(ids[2][mask[2].bool()]) == "kaposi-sarkom é 日"


def test_text_encoder_replaces_padding_and_pools_the_last_position(base):
    ids, mask = glide.tokenize(base.tokenizer, CAPTIONS, base.text_encoder.config.length)
    with torch.inference_mode():
        hidden, pooled = base.text_encoder(ids, mask)
        assert hidden.shape == (3, 32, 32) and pooled.shape == (3, 4 * 8)
        assert torch.allclose(pooled, base.text_encoder.projection(hidden[:, -1]))
        scrambled = torch.where(mask.bool(), ids, 0)  # what a padded position holds must not matter
        assert torch.allclose(base.text_encoder(scrambled, mask)[0], hidden)


def test_full_size_presets_have_upstreams_parameter_counts():
    """385 M and 398 M with GPT-2's 50,257 tokens, counted without allocating them."""
    for name, millions in (("openai-base", 385), ("openai-upsampler", 398)):
        with torch.device("meta"):
            preset = glide.PRESETS[name]
            modules = glide.unet_from(preset), glide.text_encoder_from(preset, 50_257)
        count = sum(parameter.numel() for module in modules for parameter in module.parameters())
        assert round(count / 1e6) == millions, (name, count)


@pytest.mark.parametrize(("sampler", "steps"), [("ancestral", "fast27"), ("ddim", 5), ("dpm-solver", "5")])
def test_an_image_depends_on_its_own_seed_alone(base, sampler, steps):
    base.scheduler = glide.sampler_from(base.scheduler, sampler)
    options = {"guidance_scale": 3.0, "num_inference_steps": steps, "output_type": "pt"}
    together = base(["melanoma", "dermatofibroma"], num_images=2, seeds=[5, 6, 7, 8], **options)
    alone = base("dermatofibroma", seeds=[8], **options)
    assert together.shape == (4, 3, 64, 64)
    assert torch.allclose(together[3:], alone, atol=1e-3)
    assert not torch.allclose(together[2], together[3], atol=0.1)


def test_guidance_by_hand(base):
    """One ancestral step against the formula of classifier-free guidance, variance from the conditional branch."""
    base.scheduler = glide.sampler_from(base.scheduler, "ancestral")
    seen = []
    result = base("melanoma", guidance_scale=4.0, num_inference_steps="1", seeds=[3], output_type="pt",
                  callback=lambda index, timestep, sample: seen.append(timestep))  # fmt: skip
    noise = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(3))[None]
    with torch.inference_mode():
        hidden, pooled = base.encode(["melanoma", ""])
        out = base.unet(noise.repeat(2, 1, 1, 1), 0, encoder_hidden_states=hidden, class_labels=pooled).sample
        guided = out[1:, :3] + 4.0 * (out[:1, :3] - out[1:, :3])
        signal = base.scheduler.alphas_cumprod[0]
        expected = ((noise - (1 - signal).sqrt() * guided) / signal.sqrt()).clamp(-1, 1)
    assert seen == [0] and torch.allclose(result, expected, atol=1e-4)


def test_upsampler_reads_the_small_image(upsampler):
    upsampler.scheduler = glide.sampler_from(upsampler.scheduler, "ddim")
    small = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    first = upsampler(["melanoma"] * 2, small, num_inference_steps=2, seeds=[1, 1])
    assert first.shape == (2, 256, 256, 3) and first.dtype == np.uint8 and (first[0] != first[1]).any()
    with pytest.raises(InputError, match="2 images need one prompt each, got 3"):
        upsampler(["melanoma"] * 3, small)


def test_saving_and_opening_changes_nothing(base, upsampler, tmp_path):
    for pipeline in (base, upsampler):
        folder = tmp_path / type(pipeline).__name__
        pipeline.save_pretrained(folder)
        again = glide.load(folder, type(pipeline))
        assert type(again) is type(pipeline) and not again.unet.training
        for module in ("unet", "text_encoder"):
            left, right = getattr(pipeline, module).state_dict(), getattr(again, module).state_dict()
            assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
        assert again.tokenizer("melanoma")["input_ids"] == pipeline.tokenizer("melanoma")["input_ids"]
        assert again.scheduler.config.variance_type == "learned_range"


def test_upstreams_respacing():
    """Literal values of upstream's space_timesteps: ends kept, sections strided, fast27 without the noisiest step."""
    assert glide.respaced_timesteps("100")[0] == 999 and glide.respaced_timesteps("100")[-1] == 0
    assert len(glide.respaced_timesteps("100")) == 100
    fast = glide.respaced_timesteps("fast27")
    assert len(fast) == 27 and fast[0] == 997 and 999 not in fast and fast[-1] == 0
    assert glide.respaced_timesteps("2,2", total=10) == [9, 5, 4, 0]
    with pytest.raises(InputError, match="cannot take 11 steps from a section of 10"):
        glide.respaced_timesteps("11", total=10)


def test_bad_requests(base, tmp_path):
    with pytest.raises(InputError, match="no GLIDE weights in .*dermstudy convert"):
        glide.load(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(InputError, match="not a complete GLIDE folder"):
        glide.load(tmp_path)
    with pytest.raises(InputError, match="unknown sampler 'euler'"):
        glide.sampler_from(base.scheduler, "euler")
    with pytest.raises(InputError, match="unknown GLIDE preset 'huge'"):
        glide.build("huge", base.tokenizer)
    with pytest.raises(InputError, match="2 images need as many seeds, got 1"):
        base("melanoma", num_images=2, seeds=[1])
    base.scheduler = glide.sampler_from(base.scheduler, "ddim")
    with pytest.raises(InputError, match="'fast27' sampling steps"):
        base("melanoma", num_inference_steps="fast27")
