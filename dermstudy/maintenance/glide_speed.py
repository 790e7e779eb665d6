"""Speeds: features of images, and GLIDE at full size against openai/glide-text2im, side by side in one run.

`make bench` with a copy of upstream in GLIDE_TEXT2IM. Weights are random and of normal scale; both sides hold the same
ones. Every case is timed in a process of its own, upstream and ours in turn, so that peak memory is each case's own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SIDES = ("upstream", "ours fp32", "ours bf16")
CASES = {
    "guided base step": "one image at 64 x 64, conditional and empty caption",
    "upsampler step": "one image at 256 x 256",
    "training step": "base model, batch 4, forward, backward and AdamW",
    "whole image": "256 x 256 by upstream's notebook recipe: 100 guided base steps, 27 upsampler steps",
    "whole image, 10 + 4": "DPM-Solver++; as good on glide-mini by its model card, not compared on OpenAI's weights",
}
FEW = (10, 4)  # steps of the last case, base model and upsampler
PROMPT = "a dermatoscopic image of melanoma on the back"
GUIDANCE_SCALE = 3.0  # upstream's notebook


def measure(case: str, side: str, repeats: int, batch: int = 1) -> dict[str, float]:
    """Median seconds of `repeats` runs after a first one, and this process's peak memory in GiB."""
    action = (_upstream if side == "upstream" else _ours)(case, side, batch)
    whole = case.startswith("whole")
    if not whole:
        action()
    seconds = []
    for _ in range(1 if whole else repeats):
        _synchronise()
        started = time.perf_counter()
        action()
        _synchronise()
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds), "peak_gib": _peak()}


def _synchronise() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak() -> float:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# Upstream


def _upstream_model(kind: str):
    """Upstream's base or upsampler with random weights, in fp32, and its diffusion."""
    import torch

    sys.path.insert(0, os.environ["GLIDE_TEXT2IM"])
    from glide_text2im import model_creation as creation

    base = kind == "base"
    options = creation.model_and_diffusion_defaults() if base else creation.model_and_diffusion_defaults_upsampler()
    options |= {"use_fp16": False, "timestep_respacing": "100" if base else "fast27"}
    torch.manual_seed(0)
    model, diffusion = creation.create_model_and_diffusion(**options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02 if "embedding" in name else parameter[0].numel() ** -0.5)
    return model.eval(), diffusion, options


def _tokens(model, options: dict, captions: list[str]) -> dict:
    import torch

    pairs = [
        model.tokenizer.padded_tokens_and_mask(model.tokenizer.encode(caption), options["text_ctx"])
        for caption in captions
    ]
    return {"tokens": torch.tensor([a for a, _ in pairs]), "mask": torch.tensor([b for _, b in pairs])}


def _guided(model) -> Callable:
    import torch

    def call(noisy, timesteps, **conditions):
        half = noisy[: len(noisy) // 2]
        output = model(torch.cat([half, half]), timesteps, **conditions)
        predicted, rest = output[:, :3], output[:, 3:]
        with_caption, empty = predicted.chunk(2)
        mean = empty + GUIDANCE_SCALE * (with_caption - empty)
        return torch.cat([torch.cat([mean, mean]), rest], dim=1)

    return call


def _upstream(case: str, side: str, batch: int) -> Callable[[], object]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    captions = [PROMPT] * batch

    def moved(conditions: dict) -> dict:
        return {name: value.to(device) for name, value in conditions.items()}

    if case == "training step":
        model, diffusion, options = _upstream_model("base")
        model.to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        conditions = moved(_tokens(model, options, [PROMPT] * 4))

        def train():
            noise, timesteps = torch.randn(4, 3, 64, 64, device=device), torch.randint(0, 100, (4,), device=device)
            noisy = diffusion.q_sample(torch.zeros_like(noise), timesteps, noise)
            loss = (model(noisy, timesteps * 10, **conditions)[:, :3] - noise).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return train
    models = {kind: _upstream_model(kind) for kind in ("base", "upsampler") if _needs(case, kind)}
    for model, _, _ in models.values():
        model.to(device)

    @torch.no_grad()
    def base(steps: int | None = None):
        model, diffusion, options = models["base"]
        conditions = moved(_tokens(model, options, captions + [""] * batch))
        shape = (2 * batch, 3, 64, 64)
        if steps == 1:
            at = torch.full((2 * batch,), 50, device=device)
            return diffusion.p_sample(_guided(model), torch.randn(shape, device=device), at, model_kwargs=conditions)
        return diffusion.p_sample_loop(_guided(model), shape, device=device, model_kwargs=conditions)[:batch]

    @torch.no_grad()
    def upsample(small, steps: int | None = None):
        model, diffusion, options = models["upsampler"]
        conditions = moved(_tokens(model, options, captions)) | {"low_res": small}
        noise = torch.randn(batch, 3, 256, 256, device=device) * 0.997
        if steps == 1:
            return diffusion.ddim_sample(model, noise, torch.full((batch,), 13, device=device), model_kwargs=conditions)
        return diffusion.ddim_sample_loop(model, noise.shape, noise=noise, device=device, model_kwargs=conditions)

    if case == "guided base step":
        return lambda: base(1)
    if case == "upsampler step":
        small = torch.zeros(batch, 3, 64, 64, device=device)
        return lambda: upsample(small, 1)
    return lambda: upsample(base())


def _needs(case: str, kind: str) -> bool:
    return case.startswith("whole") or kind in case


# Ours


def _ours(case: str, side: str, batch: int) -> Callable[[], object]:
    import torch

    from dermstudy.diffusion import batches, convert, finetune, losses, schedules

    precision = torch.bfloat16 if side.endswith("bf16") else torch.float32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = convert.read_tokenizer(Path(os.environ["GLIDE_TEXT2IM"]) / "glide_text2im" / "tokenizer")

    def pipeline(kind: str):
        made = convert.to_diffusers(_upstream_model(kind)[0].state_dict(), tokenizer)
        made.set_progress_bar_config(disable=True)
        return made.to(device)

    if case == "training step":
        model = pipeline("base")
        model.unet.train()
        denoise = losses.Denoiser(model.unet, model.text_encoder)
        optimizer = torch.optim.AdamW(denoise.parameters(), lr=1e-5)
        ids, mask = (part.to(device) for part in finetune.tokenize(tokenizer, [PROMPT] * 4, 128))
        config = finetune.TrainingConfig(steps=1)

        def train():
            pixels = torch.zeros(4, 3, 64, 64, device=device)
            timesteps = torch.randint(0, 1000, (4,), device=device)
            batch = batches.Batch(pixels, torch.randn_like(pixels), timesteps)
            with torch.autocast(device, torch.bfloat16, enabled=precision == torch.bfloat16):
                loss = losses.diffusion_loss(denoise, model.scheduler, batch, ids, mask, config).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return train
    models = {kind: pipeline(kind).to(precision) for kind in ("base", "upsampler") if _needs(case, kind)}
    fast = case.endswith("10 + 4")
    if "base" in models:
        models["base"].scheduler = schedules.sampler_from(
            models["base"].scheduler, "dpm-solver" if fast else "ancestral"
        )
    if "upsampler" in models:
        models["upsampler"].scheduler = schedules.sampler_from(
            models["upsampler"].scheduler, "dpm-solver" if fast else "ddim"
        )

    def base(steps):
        return models["base"](PROMPT, batch, guidance_scale=GUIDANCE_SCALE, num_inference_steps=steps, output_type="pt")

    def upsample(small, steps):
        return models["upsampler"](PROMPT, small, num_inference_steps=steps, output_type="pt")

    if case == "guided base step":
        return lambda: base("1")
    if case == "upsampler step":
        small = torch.zeros(batch, 3, 64, 64)
        return lambda: upsample(small, "1" if not fast else 1)
    if fast:
        return lambda: upsample(base(FEW[0]), FEW[1])
    return lambda: upsample(base("100"), "fast27")


# The machine's limit


def operations(kind: str, batch: int) -> float:
    """Floating-point operations of one pass of "base" or "upsampler" at full size over `batch` images and captions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dermstudy.diffusion.architecture import PRESETS, unet_from

    sizes = PRESETS[f"openai-{kind}"]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet_from(sizes)(
            torch.empty(batch, sizes.in_channels, sizes.side, sizes.side),
            torch.zeros(()),
            encoder_hidden_states=torch.empty(batch, sizes.text_length, sizes.text_width),
            class_labels=torch.empty(batch, 4 * sizes.channels),
        )
    return counter.get_total_flops()


def matrix_rate(side: int = 4096) -> float:
    """Floating-point operations a second of this machine's product of two bf16 matrices, the best of five."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    seconds = []
    for _ in range(5):
        _synchronise()
        started = time.perf_counter()
        torch.mm(left, right)
        _synchronise()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)


def limits() -> None:
    """Print what each case would take if every multiplication ran at the rate of one large bf16 product."""
    base, upsampler, rate = operations("base", 2), operations("upsampler", 1), matrix_rate()
    counts = {
        "guided base step": base,
        "upsampler step": upsampler,
        "training step": 3 * operations("base", 4),  # the backward pass multiplies twice as much as the forward
        "whole image": 100 * base + 27 * upsampler,
        "whole image, 10 + 4": FEW[0] * base + FEW[1] * upsampler,
    }
    print(f"\n{'at ' + format(rate / 1e9, '.0f') + ' GFLOP/s in bf16':24}{'GFLOP':>9}{'seconds':>9}")
    for case, count in counts.items():
        print(f"{case:24}{count / 1e9:9.0f}{count / rate:9.2f}")


# Metrics


def feature_rates(images: int = 64) -> None:
    """Print images a second of the stages of notebook 04, measured on `images` random images, and the whole of it."""
    import numpy as np

    from dermstudy.evaluation import encoders, metrics

    pixels = np.random.default_rng(0).integers(0, 256, (images, 256, 256, 3), np.uint8)
    encoders.fid_inception_features(pixels[:16])

    def seconds(action) -> float:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started

    encoding = seconds(lambda: [encoders.fid_inception_features(pixels[at : at + 16]) for at in range(0, images, 16)])
    pairs = seconds(lambda: metrics.pair_metrics(pixels[: images // 2], pixels[images // 2 :]))
    features = np.random.default_rng(1).normal(size=(2, 1000, 2048)).astype(np.float32)
    distances = seconds(lambda: metrics.feature_metrics(*features))
    whole = (2 * 10_015 * encoding / images + 10_015 * pairs / (images // 2)) / 60
    print(f"FID-Inception features: {images / encoding:.1f} images a second")
    print(f"SSIM, PSNR and MSE: {images / 2 / pairs:.1f} pairs a second")
    print(f"FID, KID, precision and recall of 1,000 + 1,000 features: {distances:.1f} s")
    print(f"10,015 pairs of images: about {whole:.0f} min, from {images} images measured\n")


# The command


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; a line in place of GLIDE's where GLIDE_TEXT2IM is not set."""
    parser = argparse.ArgumentParser(prog="python -m dermstudy.maintenance.glide_speed", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--growth", type=int, nargs="*", default=[1, 2, 4, 8], help="batch sizes of the second table")
    parser.add_argument("--images", type=int, default=64, help="images of the feature rates; 0 leaves them out")
    parser.add_argument("--one", nargs=3, metavar=("CASE", "SIDE", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        case, side, batch = options.one
        print(json.dumps(measure(case, side, options.repeats, int(batch))))
        return 0
    print(_machine())
    if options.images:
        feature_rates(options.images)
    if not Path(os.environ.get("GLIDE_TEXT2IM") or "absent", "glide_text2im").is_dir():
        print("GLIDE skipped: set GLIDE_TEXT2IM to a copy of openai/glide-text2im to compare with it")
        return 0
    print(f"{'case':24}{'side':12}{'seconds':>9}{'ratio':>8}{'peak GiB':>10}")
    seconds: dict[tuple[str, str], float] = {}
    for case in options.cases:
        for side in SIDES:
            if case.endswith("10 + 4") and side == "upstream":
                continue  # it has no such recipe: the ratio is to its notebook's, above
            result = _apart(case, side, 1, options.repeats)
            seconds[case, side] = result["seconds"]
            reference = seconds.get((case, "upstream"), seconds.get(("whole image", "upstream")))
            ratio = f"{reference / result['seconds']:7.2f}x" if reference else ""
            print(f"{case:24}{side:12}{result['seconds']:9.2f}{ratio:>8}{result['peak_gib']:10.2f}", flush=True)
    limits()
    if options.growth:
        print(f"\n{'images at once':24}" + "".join(f"{batch:>9}" for batch in options.growth))
        for side in ("upstream", "ours bf16"):
            rates = [
                batch / _apart("guided base step", side, batch, options.repeats)["seconds"] for batch in options.growth
            ]
            print(
                f"{'base steps x images / s':24}" + "".join(f"{rate:9.2f}" for rate in rates) + f"  {side}", flush=True
            )
    return 0


def _apart(case: str, side: str, batch: int, repeats: int) -> dict[str, float]:
    options = ["--repeats", str(repeats), "--one", case, side, str(batch)]
    command = [sys.executable, "-m", "dermstudy.maintenance.glide_speed", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: {case}, {side}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _machine() -> str:
    import torch

    from dermstudy.processor import described

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{described()}, torch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main())
