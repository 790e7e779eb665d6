"""One hash over all that an image of a pipeline depends on but its prompt, seed and settings: the key of caches."""

from __future__ import annotations

import hashlib
import inspect
import json

import torch

from dermstudy.diffusion import architecture, folded, glide
from dermstudy.files import code_hash


def identity(pipeline: glide._Glide) -> str:
    """SHA-256 over all that an image of `pipeline` depends on but its prompt, seed and settings.

    That is the weights in their precision, the networks' sizes, the tokens, the sampler, and this code.
    """
    digest = hashlib.sha256(code_hash(architecture, folded, glide).encode())
    for module in filter(None, (pipeline.unet, pipeline.text_encoder, pipeline.pixels)):
        sizes = {name: value for name, value in module.config.items() if not name.startswith("_")}  # not where it lies
        digest.update(json.dumps(sizes, sort_keys=True).encode())
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    content = json.loads(pipeline.tokenizer.backend_tokenizer.to_str())
    digest.update(json.dumps([content["model"], content["added_tokens"]], sort_keys=True).encode())
    scheduler = type(pipeline.scheduler)
    own = {name: pipeline.scheduler.config.get(name) for name in inspect.signature(scheduler).parameters}
    digest.update(f"{scheduler.__name__} {sorted(own.items(), key=str)}".encode())
    return digest.hexdigest()
