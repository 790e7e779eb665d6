"""Folded diffusion: lossless folds, crops without copies, training that goes on exactly, also from a state of before."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dermstudy.adaptation import inversion
from dermstudy.diffusion import architecture, batches, checkpoints, finetune, folded, glide, schedules, weights
from dermstudy.files import InputError
from dermstudy_commands.maintenance import commands, folded_weights, long_training, stage_kid, taught_text

BASE = folded.FoldedPreset(16, 2, 0, (16, 32), 1, (1,), 16, 16, 1, 2, 8, 0.0, 1.6, 80.0, 0.01)
UPSAMPLER = replace(BASE, side=32, low_side=8)
CAPTIONS = ["melanoma", "a dermatoscopic image of melanoma"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(folded.FOLDED_PRESETS, "tiny-base", BASE)
    monkeypatch.setitem(folded.FOLDED_PRESETS, "tiny-upsampler", UPSAMPLER)


@pytest.fixture(scope="module")
def tokenizer():
    return architecture.train_tokenizer(CAPTIONS)


@pytest.fixture(scope="module")
def pictures():
    """Six images of 32 pixels, and the same reduced to 8."""
    large = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    return large, large.reshape(6, 8, 4, 8, 4, 3).mean((2, 4)).round().astype(np.uint8)


def of(preset: folded.FoldedPreset, pictures) -> dict:
    """What a training of `preset` is given of `pictures`, four captions an image."""
    images, small = pictures if preset.low_side else (pictures[0][:, ::2, ::2], None)
    return {"images": images, "small": small, "captions": [CAPTIONS * 4] * 6, "entities": list("aaaabb")}


def trained(folder, preset, pictures, tokenizer, steps: int, **changes):
    """The pipeline of a training of `steps` in `folder`, as the command runs it."""
    data, pipeline = of(preset, pictures), glide.build(preset, tokenizer)
    pipeline.pixels.fit(data["images"], data["small"])
    name = "tiny-upsampler" if preset.low_side else "tiny-base"
    about = {"preset": name, "scaling": "tempered", "taught_text": False, "captions": "metadata"}
    settings = {
        "batch": 3,
        "learning_rate": 1e-3,
        "decay_share": 0.4,
        "balance": 0.5,
        "validate_every": 3,
        "high_share": 0.3,
    }
    settings |= {"even_levels": not preset.low_side, "crop": 16 if preset.low_side else 0}
    settings |= {"noise_augmentation": preset.low_noise if preset.low_side else 0.0}
    config = finetune.TrainingConfig(
        steps, **(long_training.SHARED | settings | {"warmup_steps": 2, "precision": "fp32"} | changes)
    )
    long_training.run(folder, pipeline, config=config, about=about, **data)
    return pipeline


@pytest.mark.parametrize("factor", [2, 4])
def test_a_fold_loses_nothing(factor):
    pixels = torch.randn(2, 3, 16, 24)
    channels = folded.fold(pixels, factor)
    assert channels.shape == (2, 3 * factor**2, 16 // factor, 24 // factor)
    assert torch.equal(folded.unfold(channels, factor), pixels)


def test_tempered_components_keep_their_order_and_span_the_root():
    values = np.array([0.1, 0.01, 0.001]) ** 2
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    mix, unmix = folded.tempered((turn * values) @ turn.T)
    assert np.allclose(mix @ unmix, np.eye(3)) and np.allclose(mix, mix.T)
    spread = np.sqrt(np.linalg.eigvalsh(mix @ (turn * values) @ turn.T @ mix.T))[::-1]
    assert np.allclose(spread / spread[0], np.sqrt([1, 0.1, 0.01])) and np.isclose((spread**2).mean(), 1)


def test_plain_scaling_is_one_number_of_unit_mean_variance(pictures, tokenizer):
    pixels = glide.build(UPSAMPLER, tokenizer).pixels
    pixels.fit(*pictures, even=True)
    mix = pixels.mix.numpy()
    assert np.allclose(mix, np.eye(12) * mix[0, 0]) and np.allclose(mix @ pixels.unmix.numpy(), np.eye(12), atol=1e-4)
    data = pixels.encode(*(folded.to_float(side) for side in pictures))
    assert data.var(dim=(0, 2, 3)).mean() == pytest.approx(1, rel=0.05)


def test_crops_are_the_eight_symmetries_of_a_square():
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)
    seen = set()
    for flags in np.ndindex(2, 2, 2):
        crop = batches.turned_crops(images, np.array([1]), np.array([[2], [3]]), 5, np.array([flags]) > 0)
        pixels = ((crop[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        square = images[1, 2:7, 3:8]
        turned = [np.rot90(part, turn) for part in (square, square[:, ::-1]) for turn in range(4)]
        (match,) = [place for place, one in enumerate(turned) if np.array_equal(one, pixels)]
        seen.add(match)
    assert seen == set(range(8))


def test_a_crop_with_its_margin_gives_the_data_and_the_condition_of_the_whole_image(pictures, tokenizer):
    pipeline = made(UPSAMPLER, tokenizer)
    large, small = (folded.to_float(side) for side in pictures)
    whole = batches.data_of(pipeline, large, small)
    every, straight = np.arange(6), np.zeros((6, 3), bool)
    for corner in (0, 3, 4):  # of the small image: its edge, its middle, its other edge
        place = np.full((2, 6), corner)
        crop = batches.turned_crops(pictures[0], every, place * 4, 16, straight)
        padded = batches.turned_crops(pictures[1], every, place, 4, straight, batches.MARGIN)
        found = batches.data_of(pipeline, crop, padded, padded, torch.zeros(6), batches.MARGIN)
        window = (..., slice(2 * corner, 2 * corner + 8), slice(2 * corner, 2 * corner + 8))
        assert all(torch.allclose(a, b[window], atol=1e-4) for a, b in zip(found, whole, strict=True)), corner


@pytest.mark.parametrize("preset", [BASE, UPSAMPLER])
def test_a_sitting_that_was_cut_goes_on_as_if_it_had_not_been(preset, pictures, tokenizer, tmp_path, capsys):
    asked = pictures, tokenizer
    trained(tmp_path / "whole", preset, *asked, 6)
    trained(tmp_path / "cut", preset, *asked, 3, decay_share=0.0)  # what would have come to its end in the same way
    trained(tmp_path / "cut", preset, *asked, 6)
    whole, cut = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)
    (tmp_path / "cut" / "state.safetensors").write_bytes(b"")
    trained(tmp_path / "cut", preset, *asked, 6)
    assert "state.safetensors is empty or cut" in capsys.readouterr().out
    again = load_file(tmp_path / "cut" / "state.safetensors")
    assert all(torch.equal(whole[key], again[key]) for key in whole) and any("optimizer" in key for key in whole)
    with pytest.raises(InputError, match="another recipe"):
        trained(tmp_path / "cut", preset, *asked, 6, learning_rate=0.1)
    with pytest.raises(InputError, match="of other images"):
        trained(tmp_path / "cut", preset, [side[::-1] // 2 for side in pictures], tokenizer, 6)


# What the trainer of before, whose networks predicted the target of Karras et al., reached from the same states, in fp32:
# the losses of its steps 4 to 6, and the last five averaged weights of the text encoder.
BEFORE = {
    "base": ([0.97145587, 0.98658514, 0.97532916], [-0.18632759, -0.21277961, -0.10274025, -0.18776907, 0.27426198]),
    "upsampler": (
        [1.00897563, 0.98778915, 1.01800787],
        [-0.1905078, -0.21211536, -0.10401864, -0.18543734, 0.27586821],
    ),
}


@pytest.mark.parametrize("name", BEFORE)
def test_a_state_of_the_trainer_before_is_gone_on_from_equally(name, pictures, tokenizer, tmp_path):
    """A velocity is that target with the sign turned: losses and averages are the same to rounding."""
    sizes = {"widths": (4,), "attention_levels": (), "head_width": 4, "text_width": 4, "text_heads": 1}
    preset = replace(UPSAMPLER if name == "upsampler" else BASE, **sizes)
    shutil.copy(Path(__file__).with_name("states") / f"{name}.safetensors", tmp_path / "state.safetensors")
    pipeline = trained(tmp_path, preset, pictures, tokenizer, 6, validate_every=1)
    log = json.loads((tmp_path / "log.json").read_text())
    assert [row["step"] for row in log] == [3, 4, 5, 6] and log[-1]["images"] == 18
    assert np.allclose([row["loss"] for row in log[1:]], BEFORE[name][0], atol=2e-6)
    assert np.allclose(pipeline.text_encoder.projection.bias.detach()[-5:], BEFORE[name][1], atol=2e-6)


def test_an_average_of_a_network_of_before_is_turned(tokenizer, pictures, tmp_path):
    pipeline = trained(tmp_path, BASE, pictures, tokenizer, 2)
    tensors, notes = folded_weights.averages_in(tmp_path / "short-0000002.safetensors")
    tensors["unet.conv_out.weight"], tensors["unet.conv_out.bias"] = (
        -tensors[f"unet.conv_out.{kind}"] for kind in ("weight", "bias")
    )
    del notes["predicts"]
    checkpoints.save_tensors(tmp_path / "before.safetensors", tensors, {"dermstudy": json.dumps(notes)})
    again = folded_weights.pipeline_from(tmp_path / "before.safetensors", tokenizer)
    assert torch.allclose(again.unet.conv_out.weight, pipeline.unet.conv_out.weight, atol=1e-5)
    assert pipeline.unet.conv_out.weight.abs().max() > 1e-3 and again.pixels.scale == pipeline.pixels.scale


def made(preset: folded.FoldedPreset, tokenizer, kind: str = "dpm-solver"):
    """A pipeline whose last convolution is not zero, with colours and residual components that are not even."""
    pipeline = glide.build(preset, tokenizer)
    with torch.no_grad():
        torch.manual_seed(0)
        torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.02)
        pipeline.pixels.mean.copy_(torch.tensor([0.1, 0.0, -0.1]).view(3, 1, 1))
        pipeline.pixels.spread.copy_(torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1))
        covariance = np.cov(np.random.default_rng(0).normal(size=(12, 40)) * 0.05)
        for name, matrix in zip(("mix", "unmix"), folded.tempered(covariance), strict=True):
            getattr(pipeline.pixels, name).copy_(torch.from_numpy(matrix))
    pipeline.scheduler = schedules.sampler_from(pipeline.scheduler, kind)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("preset", [BASE, UPSAMPLER])
def test_data_decode_to_the_image_that_they_encode(preset, tokenizer):
    pixels = made(preset, tokenizer).pixels
    image, low = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 8, 8) * 2 - 1 if preset.low_side else None
    data = pixels.encode(image, low)
    assert data.shape == (2, 12, 16, 16) and torch.allclose(pixels.decode(data, low), image, atol=1e-5)


def test_the_schedule_is_even_in_the_logarithm_and_its_velocity_is_the_target_with_the_sign_turned():
    schedule = folded.folded_schedule(BASE)
    sigmas = folded.sigmas_of(schedule, torch.arange(1000))
    assert torch.allclose(sigmas[[0, -1]], torch.tensor([BASE.sigma_min, BASE.sigma_max]), rtol=2e-3)
    assert torch.allclose(sigmas.log().diff(), sigmas.log().diff().mean(), atol=2e-3)
    clean, noise, times = torch.randn(3, 12, 8, 8), torch.randn(3, 12, 8, 8), torch.tensor([100, 500, 900])
    velocity = schedule.get_velocity(clean, noise, times)
    sigma = sigmas[times]
    noisy = clean + sigma.view(-1, 1, 1, 1) * noise
    wide = sigma.view(-1, 1, 1, 1)  # equation 7 of Karras et al. with unit data variance
    assert torch.allclose(velocity, -(clean - noisy / (1 + wide**2)) / (wide / (1 + wide**2).sqrt()), atol=2e-3)


def test_noise_is_log_normal_and_a_share_of_it_high(tokenizer):
    pipeline = made(UPSAMPLER, tokenizer)

    def drawn(**settings):
        config = finetune.TrainingConfig(1, batch=20_000, **settings)
        sigma, told = batches.noise_levels(pipeline, config, np.random.default_rng(0))
        assert torch.equal(told, folded.time_of(sigma))
        return sigma.log().numpy()

    alone, both = drawn(), drawn(high_share=0.25, high_mean=9.0, high_spread=0.5)
    assert alone.mean() == pytest.approx(UPSAMPLER.noise_mean, abs=0.05)
    assert alone.std() == pytest.approx(UPSAMPLER.noise_spread, abs=0.05)
    assert (both > 7).mean() == pytest.approx(0.25, abs=0.02) and both[both > 7].std() == pytest.approx(0.5, abs=0.05)
    assert np.array_equal(both[both < 7], alone[both < 7])


def test_a_saved_pipeline_opens_as_it_was(tokenizer, tmp_path):
    before = made(BASE, tokenizer)
    before.save_pretrained(tmp_path / "base")
    after = glide.load(tmp_path / "base")
    after.scheduler = schedules.sampler_from(schedules.sampler_from(after.scheduler, "ancestral"), "dpm-solver")
    after.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 5, "guidance_scale": 2.0, "guidance_interval": (0.2, 5.0)}
    assert after.side == 16 and glide.identity(after) == glide.identity(before)
    assert np.array_equal(before(CAPTIONS, **settings), after(CAPTIONS, **settings))
    after.pixels.mean.add_(0.01)
    assert glide.identity(after) != glide.identity(before)


@pytest.mark.parametrize("solver", ["dpm-solver", "ancestral"])
def test_sampling_begins_from_an_image_with_as_much_noise_as_asked(tokenizer, solver):
    image = np.random.default_rng(0).integers(64, 192, (2, 16, 16, 3), np.uint8)
    pipeline = made(BASE, tokenizer)
    pipeline.scheduler = schedules.sampler_from(pipeline.scheduler, solver)
    near, far = (
        np.abs(pipeline(CAPTIONS, num_inference_steps=6, begin=(image, noise)).astype(int) - image).mean()
        for noise in (0.02, 20.0)
    )
    assert near < 4 < far
    large = np.random.default_rng(1).integers(64, 192, (2, 32, 32, 3), np.uint8)
    low = large.reshape(2, 8, 4, 8, 4, 3).mean((2, 4)).round().astype(np.uint8)
    enlarged = made(UPSAMPLER, tokenizer)(CAPTIONS, low, num_inference_steps=6, begin=(large, 0.02))
    assert np.abs(enlarged.astype(int) - large).mean() < 4
    for wrong in ((image[:1], 1.0), (image, 0.0)):
        with pytest.raises(InputError, match="beginning from images takes"):
            pipeline(CAPTIONS, num_inference_steps=6, begin=wrong)


def test_guidance_acts_within_its_interval_only(tokenizer):
    pipeline = made(BASE, tokenizer)
    plain, without, within = (
        pipeline(CAPTIONS, seeds=[3, 4], num_inference_steps=6, guidance_scale=scale, guidance_interval=interval)
        for scale, interval in ((1.0, glide.EVERYWHERE), (3.0, (1e3, 1e4)), (3.0, (0.2, 5.0)))
    )
    assert np.abs(plain.astype(int) - without).max() <= 1 < np.abs(plain.astype(int) - within).max()


def test_what_is_known_stays_and_the_rest_is_painted(tokenizer):
    keep = np.zeros((16, 16), bool)
    keep[:9] = True  # an odd line: of a block that is known in part, what is known stays only where the whole is
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    painted = made(BASE, tokenizer)("melanoma", num_inference_steps=6, inpaint_image=image, inpaint_keep=keep)
    assert np.array_equal(painted[:, :8], image[:, :8]) and not np.array_equal(painted[:, 10:], image[:, 10:])
    large = np.random.default_rng(1).integers(64, 192, (1, 32, 32, 3), np.uint8)
    keep = np.zeros((32, 32), bool)
    keep[:16] = True
    low = large.reshape(1, 8, 4, 8, 4, 3).mean((2, 4)).round().astype(np.uint8)
    enlarged = made(UPSAMPLER, tokenizer)(
        "melanoma", low, num_inference_steps=6, inpaint_image=large, inpaint_keep=keep
    )
    assert np.abs(enlarged[:, :16].astype(int) - large[:, :16]).max() <= 1
    assert np.abs(enlarged[:, 16:].astype(int) - large[:, 16:]).max() > 4


def test_an_untrained_upsampler_adds_noise_of_the_residuals_spread(tokenizer):
    """Its prediction, zero, is right for normal data of unit variance, and such data the solver draws."""
    pipeline = glide.build(UPSAMPLER, tokenizer)
    pipeline.scheduler = schedules.sampler_from(pipeline.scheduler, "dpm-solver")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.pixels.unmix.mul_(0.05)
    pipeline.pixels.mix.div_(0.05)
    small = np.full((6, 8, 8, 3), 128, np.uint8)  # far from black and white, which clip
    large = pipeline(CAPTIONS * 3, small, num_inference_steps=20, temperature=1.0)
    assert large.shape == (6, 32, 32, 3) and large.std() == pytest.approx(0.05 * 127.5, rel=0.1)
    assert large.mean() == pytest.approx(128, abs=1)


@pytest.mark.parametrize("preset", [BASE, UPSAMPLER])
def test_folded_models_are_fine_tuned_like_any_other(preset, pictures, tokenizer, tmp_path):
    data = of(preset, pictures) | {"captions": CAPTIONS * 3}
    config = finetune.TrainingConfig(4, 2, 1e-3, augment=True, validate_every=2, caption_dropout=0.1)
    config = replace(config, crop=16, noise_augmentation=0.05) if preset.low_side else config
    whole, cut = glide.build(preset, tokenizer), glide.build(preset, tokenizer)
    before = whole.unet.conv_out.weight.clone()
    held_out = (data["images"][:2], CAPTIONS) + ((data["small"][:2],) if preset.low_side else ())
    log = finetune.train(whole, config=config, folder=tmp_path / "whole", validation=held_out, **data)
    finetune.train(cut, config=replace(config, steps=2), folder=tmp_path / "cut", validation=held_out, **data)
    cut = glide.build(preset, tokenizer)
    finetune.train(cut, config=config, folder=tmp_path / "cut", validation=held_out, **data)
    one, other = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "cut"))
    assert one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())
    assert not torch.equal(one["weight.unet.conv_out.weight"], before)
    assert log["validation_loss"].between(0.3, 3).all()
    if preset.low_side:
        data["small"] = data["small"][:, ::2, ::2]
        with pytest.raises(InputError, match="side of 8, not 4"):
            finetune.train(whole, config=config, folder=tmp_path / "other", **data)


def test_what_a_caption_tells_is_nothing_to_an_untrained_model(cohort, tokenizer):
    """Its answer is zero for every caption; one that hears captions of noise does worse with the right ones or better."""
    few = cohort.select(image_id=cohort.frame["image_id"].iloc[::5].tolist())
    pipeline = glide.build(BASE, tokenizer)
    assert stage_kid.caption_gains(pipeline, few, (6.0, 20.0)) == [0.0, 0.0]
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.3)
    assert min(map(abs, stage_kid.caption_gains(pipeline, few, (6.0, 20.0)))) > 1e-6


def test_entities_are_drawn_as_asked():
    entities = ["nv"] * 90 + ["df"] * 10
    shares = {balance: batches.draw_weights(entities, balance)[90:].sum() for balance in (0.0, 0.5, 1.0)}
    assert shares == pytest.approx({0.0: 0.1, 0.5: 0.25, 1.0: 0.5})


@pytest.mark.slow
def test_a_taught_encoder_tells_its_captions_apart(tokenizer):
    """Entities lie SPREAD apart and the mean stays; an encoder that was not taught has them nearer."""
    names = ["melanoma", "dermatofibroma"]
    texts = [f"a dermatoscopic image of {name} on the {place}" for name in names for place in ("back", "face")] * 8
    labels = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]] * 8)
    ids, mask = architecture.tokenize(tokenizer, texts, BASE.text_length)
    torch.manual_seed(0)
    encoder = architecture.text_encoder_from(BASE, len(tokenizer))

    def means():
        with torch.inference_mode():
            pooled = encoder(ids, mask)[1]
        return torch.stack([pooled[labels[:, 0] == entity].mean(dim=0) for entity in (0, 1)])

    before = means()
    assert taught_text.teach(encoder, ids, mask, labels, steps=150, batch=16) > 0.95
    after = means()
    assert (after[0] - after[1]).norm() / 2 == pytest.approx(taught_text.SPREAD, rel=0.2)
    assert (before[0] - before[1]).norm() < 0.5 * (after[0] - after[1]).norm()
    assert (after.mean(dim=0) - before.mean(dim=0)).norm() < 0.2 * taught_text.SPREAD


def test_averaged_weights_become_a_pipeline_and_its_start(pictures, tokenizer, tmp_path):
    made = trained(tmp_path / "run", UPSAMPLER, pictures, tokenizer, 3)
    again = folded_weights.pipeline_from(tmp_path / "run" / "short-0000003.safetensors", tokenizer)
    assert again.pixels.scale == made.pixels.scale
    folded_weights.save_half(again, tmp_path / "upsampler")
    for start in (tmp_path / "run" / "short-0000003.safetensors", tmp_path / "upsampler"):
        begun = glide.build(UPSAMPLER, tokenizer, seed=9)
        folded_weights.begin_with(start, begun)
        for one in (again, begun):
            found = zip(one.unet.parameters(), made.unet.parameters(), strict=True)
            assert all(torch.allclose(left, right, atol=1e-3) for left, right in found)
    with pytest.raises(InputError, match="at 64 pixels: it cannot start this one"):
        folded_weights.begin_with(tmp_path / "upsampler", glide.build(replace(UPSAMPLER, side=64), tokenizer))


def test_maintainers_commands_say_what_to_mend(tmp_path, capsys):
    (tmp_path / "text.safetensors").write_text("no weights")
    arguments = [str(tmp_path / "text.safetensors"), str(tmp_path / "out")]
    assert folded_weights.main(arguments) == 2 and not (tmp_path / "out").exists()
    assert "text.safetensors is no file of averaged weights" in capsys.readouterr().err
    assert folded_weights.main([*arguments, "--tokenizer", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"dermstudy: no tokenizer in {tmp_path}: name the folder")
    assert (
        long_training.main(
            ["mini-base", str(tmp_path), "--data", str(tmp_path / "none"), "--split", "x", "--steps", "1"]
        )
        == 2
    )
    assert capsys.readouterr().err.count("\n") == 1


def test_a_long_training_sees_the_lesions_that_it_is_asked_for(cohort, phantom_folder, tmp_path):
    frame = cohort.frame.copy()
    lesions = sorted(frame["lesion_id"].unique())
    side = {lesion: ("train", "validation", "test")[place % 3] for place, lesion in enumerate(lesions)}
    frame["split"] = frame["lesion_id"].map(side)
    frame["subset"] = frame["lesion_id"].isin([own for own in lesions if side[own] == "train"][::2])
    frame[["image_id", "split", "subset"]].to_csv(tmp_path / "split.csv", index=False)
    given = str(phantom_folder), str(tmp_path / "split.csv")

    def seen(*rest) -> set[str]:
        return set(commands.training_cohort(*given, *rest).frame["image_id"])

    train = set(frame.loc[frame["split"] == "train", "image_id"])
    assert seen() == seen("train") == train and 0 < len(train) < len(frame)
    assert seen("subset") == set(frame.loc[frame["subset"], "image_id"]) < train
    assert seen("all") == set(frame["image_id"])
    assert seen("train", ["mel"]) == train - set(frame.loc[frame["dx"] == "mel", "image_id"])
    with pytest.raises(InputError, match="no entity 'mole'"):
        commands.training_cohort(*given, "train", ["mole"])


def test_guidance_leads_away_from_the_guide(tokenizer, tmp_path):
    def painted(pipeline, scale, **options):
        options = {"guidance_scale": scale, "num_inference_steps": 3, "output_type": "pt"} | options
        return pipeline(["melanoma"] * 2, **options)

    pipeline, worse = made(BASE, tokenizer), made(BASE, tokenizer)
    alone, classifier_free = painted(pipeline, 1.0), painted(pipeline, 2.0)
    folded_weights.guided(pipeline, made(BASE, tokenizer))
    pipeline.set_progress_bar_config(disable=True)
    assert torch.allclose(painted(pipeline, 2.0), alone, atol=1e-5)  # away from itself is nowhere
    with torch.no_grad():
        worse.unet.conv_out.weight.mul_(0.5)
    before = glide.identity(pipeline)
    folded_weights.guided(pipeline, worse)
    led = painted(pipeline, 2.0)
    assert glide.identity(pipeline) != before and torch.equal(painted(pipeline, 1.0), alone)
    assert not torch.allclose(led, alone, atol=1e-3) and not torch.allclose(led, classifier_free, atol=1e-3)
    away = painted(pipeline, 2.0, negative_prompt="nevus")
    assert not torch.allclose(away, led, atol=1e-3)
    folded_weights.save_half(pipeline, tmp_path / "base")
    again = glide.load(tmp_path / "base")
    again.scheduler = schedules.sampler_from(again.scheduler, "dpm-solver")
    assert torch.allclose(painted(again, 1.0), alone, atol=2e-3)
    apart = (painted(again, 2.0) - led).abs().mean() / (led - alone).abs().mean()
    assert apart < 0.25, apart  # the guide is kept as fp8
    inversion.give(again, "<new>", torch.zeros(1, BASE.text_width))
    assert again.guide_unet is None


def test_an_average_becomes_the_guide_of_a_pipeline(pictures, tokenizer, tmp_path):
    trained(tmp_path / "run", BASE, pictures, tokenizer, 2)
    (tmp_path / "run" / "inputs.json").write_text(json.dumps({"data_hash": "d", "split": "s", "commit": "c"}))
    folder, average = tmp_path / "weights" / "base", tmp_path / "run" / "short-0000002.safetensors"
    folded_weights.save_half(made(BASE, tokenizer), folder)
    tokens = ["--tokenizer", str(folder / "tokenizer")]
    assert folded_weights.main([str(average), str(folder), "--as-guide", *tokens]) == 0
    pipeline = glide.load(folder)
    expected = folded_weights.pipeline_from(average, tokenizer)
    assert all(
        torch.allclose(one, other, rtol=0.07, atol=2e-3)
        for one, other in zip(pipeline.guide_unet.parameters(), expected.unet.parameters(), strict=True)
    )
    assert weights.lineage(tmp_path / "weights")["guide"]["average"] == "short-0000002"
    other = tmp_path / "twin" / "base"
    assert folded_weights.main([str(average), str(other), "--guide", str(folder), *tokens]) == 0
    known = weights.lineage(tmp_path / "twin")
    assert known["guide"] == weights.lineage(tmp_path / "weights")["guide"] and set(known) == {"base", "guide"}
    assert glide.load(other).guide_unet is not None and glide.load(other, with_guide=False).guide_unet is None


def test_packed_averages_are_nearly_the_same_and_half_as_large(pictures, tokenizer, tmp_path):
    trained(tmp_path, UPSAMPLER, pictures, tokenizer, 2)
    average, small = tmp_path / "short-0000002.safetensors", tmp_path / "small.safetensors"
    assert folded_weights.main([str(average), str(small)]) == 0
    (before, notes), (after, same) = map(folded_weights.averages_in, (average, small))
    assert notes == same and before.keys() == after.keys()
    for name, value in before.items():
        assert (value - after[name]).abs().max() <= value.abs().max() / 250, name
    assert small.stat().st_size < 0.7 * average.stat().st_size
    text = "text_encoder.transformer.layers.0.linear1.weight"
    assert torch.equal(folded_weights.pipeline_from(small, tokenizer).text_encoder.state_dict()[text[13:]], after[text])
