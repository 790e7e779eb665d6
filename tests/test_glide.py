"""GLIDE on diffusers: shapes, tokens, seeds, saving, samplers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dermstudy.diffusion import architecture, convert, glide, guidance, schedules
from dermstudy.files import InputError
from dermstudy.published import paper

CAPTIONS = ["melanoma", "basal cell carcinoma on the back", "a dermatoscopic image of dermatofibroma"]


@pytest.fixture(scope="module")
def tokenizer():
    return architecture.train_tokenizer(CAPTIONS)


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
    ids, mask = architecture.tokenize(tokenizer, ["Melanoma", "", "Kaposi-Sarkom é 日"], 32)
    assert ids.shape == mask.shape == (3, 32)
    assert torch.equal(ids[0], architecture.tokenize(tokenizer, ["melanoma"], 32)[0][0])
    assert mask[1].sum() == 0 and (ids[1] == tokenizer.pad_token_id).all()
    assert tokenizer.decode(ids[2][mask[2].bool()]) == "kaposi-sarkom é 日"


def test_text_encoder_replaces_padding_and_pools_the_last_position(base):
    ids, mask = architecture.tokenize(base.tokenizer, CAPTIONS, base.text_encoder.config.length)
    with torch.inference_mode():
        hidden, pooled = base.text_encoder(ids, mask)
        assert hidden.shape == (3, 32, 32) and pooled.shape == (3, 4 * 8)
        assert torch.allclose(pooled, base.text_encoder.projection(hidden[:, -1]))
        scrambled = torch.where(mask.bool(), ids, 0)  # what a padded position holds must not matter
        assert torch.allclose(base.text_encoder(scrambled, mask)[0], hidden)


def test_full_size_presets_have_upstreams_parameter_counts():
    """385 M and 398 M with GPT-2's 50,257 tokens, counted without allocating them."""
    for name, millions in (("openai-base", paper.RELEASED_PARAMETERS // 1_000_000), ("openai-upsampler", 398)):
        with torch.device("meta"):
            preset = architecture.PRESETS[name]
            modules = architecture.unet_from(preset), architecture.text_encoder_from(preset, 50_257)
        count = sum(parameter.numel() for module in modules for parameter in module.parameters())
        assert round(count / 1e6) == millions, (name, count)


@pytest.mark.parametrize(("sampler", "steps"), [("ancestral", "fast27"), ("ddim", 5), ("dpm-solver", "5")])
def test_an_image_depends_on_its_own_seed_alone(base, sampler, steps):
    base.scheduler = schedules.sampler_from(base.scheduler, sampler)
    options = {"guidance_scale": 3.0, "num_inference_steps": steps, "output_type": "pt"}
    together = base(["melanoma", "dermatofibroma"], num_images=2, seeds=[5, 6, 7, 8], **options)
    alone = base("dermatofibroma", seeds=[8], **options)
    assert together.shape == (4, 3, 64, 64)
    assert torch.allclose(together[3:], alone, atol=2e-3)  # a quarter of one of 256 levels
    assert not torch.allclose(together[2], together[3], atol=0.1)


def test_guidance_by_hand(base):
    """One ancestral step against the formula of classifier-free guidance, variance from the conditional branch."""
    base.scheduler = schedules.sampler_from(base.scheduler, "ancestral")
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
    upsampler.scheduler = schedules.sampler_from(upsampler.scheduler, "ddim")
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
    assert schedules.respaced_timesteps("100")[0] == 999 and schedules.respaced_timesteps("100")[-1] == 0
    assert len(schedules.respaced_timesteps("100")) == 100
    fast = schedules.respaced_timesteps("fast27")
    assert len(fast) == 27 and fast[0] == 997 and 999 not in fast and fast[-1] == 0
    assert schedules.respaced_timesteps("2,2", total=10) == [9, 5, 4, 0]
    with pytest.raises(InputError, match="cannot take 11 steps from a section of 10"):
        schedules.respaced_timesteps("11", total=10)


def test_bad_requests(base, tmp_path):
    with pytest.raises(InputError, match="no GLIDE weights in .*dermstudy convert"):
        glide.load(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(InputError, match="not a complete GLIDE folder"):
        glide.load(tmp_path)
    with pytest.raises(InputError, match="unknown sampler 'euler'"):
        schedules.sampler_from(base.scheduler, "euler")
    with pytest.raises(InputError, match="unknown GLIDE preset 'huge'"):
        glide.build("huge", base.tokenizer)
    with pytest.raises(InputError, match="2 images need as many seeds, got 1"):
        base("melanoma", num_images=2, seeds=[1])
    with pytest.raises(InputError, match="0 sampling steps: give a number from 1 to 1000"):
        base("melanoma", num_inference_steps=0)
    image = np.zeros((1, 64, 64, 3), np.uint8)
    with pytest.raises(InputError, match="needs both the image and the mask"):
        base("melanoma", inpaint_image=image)
    with pytest.raises(InputError, match="needs as many images and masks of that size"):
        base("melanoma", inpaint_image=image, inpaint_keep=np.zeros((32, 32), bool))


def test_ddim_by_hand(base):
    """Song et al., equation 12 with eta 0, over the same timesteps: equal to 1e-4 in -1..1."""
    base.scheduler = schedules.sampler_from(base.scheduler, "ddim")
    seen = []
    result = base("melanoma", guidance_scale=1.0, num_inference_steps="fast27", seeds=[3], output_type="pt",
                  callback=lambda index, timestep, sample: seen.append(timestep))  # fmt: skip
    sample = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(3))[None]
    signals = base.scheduler.alphas_cumprod.double()
    with torch.inference_mode():
        hidden, pooled = base.encode(["melanoma"])
        for now, after in zip(seen, [*seen[1:], None], strict=True):
            output = base.unet(sample.float(), now, encoder_hidden_states=hidden, class_labels=pooled).sample[:, :3]
            clean = ((sample - (1 - signals[now]).sqrt() * output) / signals[now].sqrt()).clamp(-1, 1)
            noise = (sample - signals[now].sqrt() * clean) / (1 - signals[now]).sqrt()
            signal = signals[after] if after is not None else torch.tensor(1.0)
            sample = signal.sqrt() * clean + (1 - signal).sqrt() * noise
    assert len(seen) == 27 and seen[-1] == 0
    assert torch.allclose(result.double(), sample.double().clamp(-1, 1), atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("sampler", "steps"), [("ancestral", "10"), ("ddim", 5), ("dpm-solver", 5)])
def test_inpainting_keeps_what_is_known(tokenizer, prediction, sampler, steps):
    """Known pixels come back to the last of 256 levels; the others are painted, and differ by seed."""
    base = stirred(glide.build("tiny-base", tokenizer, prediction, seed=1))
    base.scheduler = schedules.sampler_from(base.scheduler, sampler)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    keep = np.ones((64, 64), bool)
    keep[20:50, 10:40] = False
    painted = base("melanoma", 2, guidance_scale=2.0, num_inference_steps=steps, inpaint_image=image, inpaint_keep=keep)
    assert np.abs(painted[:, keep].astype(int) - image[:, keep]).max() <= 1
    assert (painted[0][~keep] != painted[1][~keep]).mean() > 0.5
    free = base("melanoma", 2, guidance_scale=2.0, num_inference_steps=steps)
    assert (free[:, keep] != image[:, keep]).mean() > 0.5


def test_the_negative_caption_steers(base):
    base.scheduler = schedules.sampler_from(base.scheduler, "ddim")
    options = {"guidance_scale": 3.0, "num_inference_steps": 2, "output_type": "pt"}
    plain, empty = base("melanoma", **options), base("melanoma", negative_prompt="", **options)
    assert torch.equal(plain, empty)
    assert not torch.allclose(plain, base("melanoma", negative_prompt="dermatofibroma", **options), atol=1e-3)


def test_half_precision_keeps_the_image(base):
    base.scheduler = schedules.sampler_from(base.scheduler, "ddim")
    options = {"guidance_scale": 1.0, "num_inference_steps": 3, "output_type": "pt"}
    exact = base("melanoma", **options)
    coarse = base.to(torch.bfloat16)("melanoma", **options)
    assert coarse.dtype == torch.float32 and (exact - coarse).abs().mean() < 0.05


def test_a_base_model_at_another_side(tokenizer, tmp_path, capsys):
    """Built at 128 x 128 it has the same weights at the same levels; it paints, is saved and is opened at that side."""
    small, large = (glide.build("tiny-base", tokenizer, seed=1, side=side) for side in (None, 128))
    assert not capsys.readouterr().out
    left, right = (model.unet.state_dict() for model in (small, large))
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    stirred(large).save_pretrained(tmp_path / "large")
    again = glide.load(tmp_path / "large")
    again.set_progress_bar_config(disable=True)
    assert again("melanoma", num_inference_steps="2").shape == (1, 128, 128, 3)
    back = convert.preset_of(again)
    assert back.side == 128 and back.attention_sides == (16,)
    guidance.at_side(again, 128)
    assert not capsys.readouterr().out  # its own side: nothing to say


def test_trained_weights_at_another_side_say_so(base, capsys):
    before = {name: value.clone() for name, value in base.unet.state_dict().items()}
    guidance.at_side(base, 128)
    said = capsys.readouterr().out
    assert "128 x 128" in said and "trained at 64 x 64" in said and said.count("\n") == 1
    assert base("melanoma", num_inference_steps="2").shape == (1, 128, 128, 3)
    assert all(torch.equal(value, before[name]) for name, value in base.unet.state_dict().items())


@pytest.mark.parametrize("side", [0, -64, 4, 100, 128.0])
def test_sides_that_the_levels_do_not_divide_are_refused(base, tokenizer, side):
    message = rf"a side of {side}: the 4 levels of this U-Net need a multiple of 8, such as \d+"
    for act in (lambda: guidance.at_side(base, side), lambda: glide.build("tiny-base", tokenizer, side=side)):
        with pytest.raises(InputError, match=message):
            act()
    assert base.unet.config.sample_size == 64
