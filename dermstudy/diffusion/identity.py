"""One hash over all that an image of a pipeline depends on but its prompt, seed and settings: the key of caches."""

from __future__ import annotations

import hashlib
import inspect
import json

from dermstudy.diffusion import architecture, folded, glide, guidance
from dermstudy.diffusion.checkpoints import weights_hash
from dermstudy.files import code_hash


def identity(pipeline: glide._Glide) -> str:
    """SHA-256 over all that an image of `pipeline` depends on but its prompt, seed and settings.

    That is the weights in their precision, the networks' sizes, the tokens, the sampler, and this code.
    """
    digest = hashlib.sha256(code_hash(architecture, folded, glide, guidance).encode())
    names = ("unet", "text_encoder", "pixels", "guide_unet", "guide_text_encoder")
    parts = {name: getattr(pipeline, name) for name in names if getattr(pipeline, name)}
    digest.update(weights_hash(parts).encode())
    for module in parts.values():
        sizes = {name: value for name, value in module.config.items() if not name.startswith("_")}  # not where it lies
        digest.update(json.dumps(sizes, sort_keys=True).encode())
    content = json.loads(pipeline.tokenizer.backend_tokenizer.to_str())
    digest.update(json.dumps([content["model"], content["added_tokens"]], sort_keys=True).encode())
    scheduler = type(pipeline.scheduler)
    own = {name: pipeline.scheduler.config.get(name) for name in inspect.signature(scheduler).parameters}
    digest.update(f"{scheduler.__name__} {sorted(own.items(), key=str)}".encode())
    return digest.hexdigest()
