"""Hours of training for glide-mini, in sittings: `python -m dermstudy_commands.maintenance.long_training`.

diffusion.finetune trains; here is what it is given. A run that was cut short goes on when its command is given again. The
learning rate decays within a sitting, whose averaged weights are usable; a later sitting begins from them with another seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dermstudy import workspace
from dermstudy.data import dataset
from dermstudy.diffusion import finetune, glide, losses, training
from dermstudy.diffusion.architecture import tokenize
from dermstudy.diffusion.checkpoints import save_tensors
from dermstudy.diffusion.folded import FOLDED_PRESETS
from dermstudy.files import answered, atomic_path, sha256_file, sha256_text, write_text
from dermstudy.source import code_hash
from dermstudy_commands.maintenance import appearance
from dermstudy_commands.maintenance.commands import open_tokenizer, training_cohort
from dermstudy_commands.maintenance.folded_weights import INPUTS, LOG, begin_with, trained_preset
from dermstudy_commands.maintenance.taught_text import labels_of, teach

CAPTION_VARIANTS = 8  # templates an image is captioned by
MINUTES = 5  # between saved states
# What every sitting has; the other settings are options of the command.
SHARED = {
    "warmup_steps": 200, "second_beta": 0.99, "caption_dropout": 0.1, "gradient_clip": 1.0, "augment": True, "averaged": True,
    "precision": "bf16",
}  # fmt: skip


def run(folder: Path, pipeline, images, captions, config: finetune.TrainingConfig, about: dict, **data) -> None:
    """Train until the sitting's last step; after each record the log and the averaged weights, fp16, lie in `folder`.

    about and data: as finetune.train takes them.
    """

    def after(pipeline, log: list[dict]) -> None:
        networks = losses.Denoiser(pipeline.unet, pipeline.text_encoder)
        tensors = {name: value.half() for name, value in networks.named_parameters()}
        path = folder / f"{training.AVERAGE}-{log[-1]['step']:07d}.safetensors"
        save_tensors(path, tensors, {"dermstudy": json.dumps(training.notes_of(pipeline, config, about))})
        rows = [row | {"images": row["step"] * config.batch, "learning_rate": config.rate(row["step"])} for row in log]
        write_text(folder / LOG, json.dumps(rows, indent=1))

    finetune.train(pipeline, images, captions, config, folder, after=after, about=about, minutes=MINUTES, **data)


def read_images(cohort: dataset.Cohort, side: int, cache: Path) -> np.ndarray:
    """The images of `cohort`, uint8 [n, side, side, 3], kept in `cache` as an uncompressed array."""
    names = sha256_text(" ".join([code_hash(dataset.__name__), *cohort.frame["image_id"]]))
    path = cache / f"{cohort.data_hash[:16]}-{names[:16]}-{side}.npy"
    if not path.is_file():
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.save(stream, cohort.images(side))
    return np.load(path)


def inputs_of(cohort: dataset.Cohort, options: argparse.Namespace) -> dict:
    """What a training was begun with and by: hashes of data, split and starting weights, lesions, threads, commit."""
    inputs = {"data_hash": cohort.data_hash, "split": sha256_file(options.split), "lesions": options.lesions}
    if options.leave_out:
        inputs["left_out"] = options.leave_out
    if options.start:  # of a pipeline, its U-Net
        unet = options.start / "unet" / "diffusion_pytorch_model.safetensors"
        inputs["start"] = sha256_file(unet if options.start.is_dir() else options.start)
    if torch.cuda.is_available():
        inputs["device"] = torch.cuda.get_device_name()
    return inputs | {"threads": torch.get_num_threads(), "commit": workspace.commit()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for anything the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m dermstudy_commands.maintenance.long_training", description=__doc__)
    add = parser.add_argument
    add("preset", choices=FOLDED_PRESETS)
    add("folder", type=Path, help="state, averages and log go here")
    add("--data", required=True, help="a HAM10000 download")
    add("--split", required=True, help="a split file (image_id, split)")
    add("--lesions", choices=("train", "subset", "all"), default="train", help="that train")
    add("--leave-out", nargs="*", default=[], metavar="ENTITY", help="codes that do not train")
    add("--tokenizer", default="weights/glide-mini/base/tokenizer")
    add("--start", type=Path, help="averages or a pipeline of the same sizes")
    add("--steps", type=int, required=True)
    add("--batch", type=int, default=16)
    add("--learning-rate", type=float, default=1e-3)
    add("--decay-share", type=float, default=0.4)
    add("--crop", type=int, default=0)
    add("--scaling", choices=("tempered", "plain"), default="tempered", help="of an upsampler's residual")
    add("--balance", type=float, default=0.5, help="of the entities' draws: 0 none, 1 evenly")
    add("--taught-text", action="store_true", help="the text encoder first learns to read its captions")
    add("--noise", nargs=2, type=float, metavar=("MEAN", "SPREAD"), default=(None, None),
        help="of the logarithm of noise over signal at which it trains (default the preset's)")  # fmt: skip
    add("--high-noise", nargs=3, type=float, metavar=("SHARE", "MEAN", "SPREAD"), default=(0.0, 2.3, 0.8),
        help="a share of the draws at noise of its own, where captions are learned (default none)")  # fmt: skip
    add("--captions", choices=("metadata", "appearance"), default="metadata", help="what they say")
    add("--even-levels", action="store_true", help="every noise level counts alike")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    return answered(lambda: _act(options))


def _act(options: argparse.Namespace) -> None:
    cohort = training_cohort(options.data, options.split, options.lesions, options.leave_out)
    about = {name: getattr(options, name) for name in ("preset", "scaling", "taught_text", "captions")}
    about |= dict(zip(("noise_mean", "noise_spread"), options.noise, strict=True))
    tokenizer, sizes = open_tokenizer(options.tokenizer), trained_preset(about)
    new = not [*options.folder.glob("state*.safetensors")]
    images = read_images(cohort, sizes.side, options.folder)
    small = read_images(cohort, sizes.low_side, options.folder) if sizes.low_side else None
    seen = cohort.frame if options.captions == "metadata" else appearance.with_appearance(cohort, options.folder)
    variants = [
        dataset.captions(seen, "metadata", seed) if seen is cohort.frame else appearance.captions(seen, seen, seed)
        for seed in range(CAPTION_VARIANTS)
    ]
    captions = list(zip(*variants, strict=True))
    pipeline = glide.build(sizes, tokenizer, seed=options.seed)
    pipeline.pixels.fit(images, small, even=options.scaling == "plain")
    if options.start and new:
        begin_with(options.start, pipeline)
    if options.taught_text and new:
        flat = [text for texts in captions for text in texts]
        labels = np.repeat(labels_of(seen), CAPTION_VARIANTS, axis=0)
        named = teach(pipeline.text_encoder, *tokenize(tokenizer, flat, sizes.text_length), labels, seed=options.seed)
        print(f"the text encoder names the entity of {named:.0%} of captions", flush=True)
    names = ("steps", "batch", "learning_rate", "decay_share", "crop", "balance", "even_levels", "seed")
    settings = {name: getattr(options, name) for name in names} | SHARED
    settings |= dict(zip(("high_share", "high_mean", "high_spread"), options.high_noise, strict=True))
    config = finetune.TrainingConfig(**settings, noise_augmentation=sizes.low_noise if small is not None else 0.0)
    if new:  # what goes on from a state was begun by the call that left it
        write_text(options.folder / INPUTS, json.dumps(inputs_of(cohort, options)))
    run(options.folder, pipeline, images, captions, config, about, small=small, entities=list(cohort.frame["dx"]))


if __name__ == "__main__":
    sys.exit(main())
