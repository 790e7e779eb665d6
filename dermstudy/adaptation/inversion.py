"""Textual inversion: an entity learned as a few token vectors, everything else frozen; the file they travel in.

Sources: Gal et al. (arXiv 2208.01618); de Wilde et al. (arXiv 2303.13430) for dermatoscopy's neighbours in radiology.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AddedToken

from dermstudy.diffusion.architecture import tokenize
from dermstudy.diffusion.checkpoints import save_tensors
from dermstudy.files import InputError

LARGEST = 1_000_000  # bytes of a file of learned vectors
MOST = 64  # vectors an entity


class AddedTokens(nn.Module):
    """An embedding table whose known rows are fixed and whose last rows can learn."""

    def __init__(self, known: torch.Tensor, added: torch.Tensor):
        super().__init__()
        self.register_buffer("known", known.detach().clone())
        self.added = nn.Parameter(added.detach().clone())

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """int64 [n, length] to [n, length, width]."""
        return nn.functional.embedding(input_ids, torch.cat([self.known, self.added]))


def names(token: str, vectors: int) -> list[str]:
    """The tokens of an entity in the ecosystem's manner: "<melanoma>", "<melanoma>_1", …"""
    return [token if place == 0 else f"{token}_{place}" for place in range(vectors)]


def phrase(token: str, vectors: int) -> str:
    """What a caption says to mean the learned entity."""
    return " ".join(names(token, vectors))


def extend(pipeline, token: str, start: str, vectors: int, seed: int = 0):
    """A copy of `pipeline` with `vectors` new tokens that can learn, and nothing else that can.

    They begin as the vectors of the words of `start`, in turn, with a little noise so that no two are alike. Train with
    TrainingConfig(trains="tokens"). InputError where they would not fit a caption, or the token is known.
    """
    check_fits(pipeline, vectors)
    model = copied(pipeline)
    ids, mask = tokenize(model.tokenizer, [start], model.text_encoder.config.length)
    words = ids[0][mask[0].bool()]
    if not len(words):
        raise InputError("the words to start from are empty: name an entity")
    known = model.text_encoder.token_embedding.weight
    begin = known[words[torch.arange(vectors) % len(words)].to(known.device)]
    noise = torch.randn(begin.shape, generator=torch.Generator().manual_seed(seed)).to(known.device)
    _add(model, token, vectors)
    model.text_encoder.token_embedding = AddedTokens(known, begin + 0.01 * known.std() * noise)
    return model


def check_fits(pipeline, vectors: int) -> None:
    """InputError where a caption of `pipeline` does not hold `vectors` tokens, or there are more than MOST."""
    length = pipeline.text_encoder.config.length
    if not 1 <= vectors <= min(MOST, length):
        bound = "the longest caption in tokens" if length <= MOST else "the most that are kept"
        raise InputError(f"{vectors} vectors an entity: give 1 to {min(MOST, length)}, {bound}")


def copied(pipeline):
    """A model with weights of its own, equal to those of `pipeline`."""
    return copy.deepcopy(pipeline)


def learned(model) -> torch.Tensor:
    """The vectors that `extend` added, [vectors, width]."""
    return model.text_encoder.token_embedding.added.detach().cpu()


def save(vectors: torch.Tensor, token: str, path: str | Path) -> Path:
    """Write learned vectors, [vectors, width], as safetensors: one tensor under the token's name.

    InputError where the file would be larger than LARGEST.
    """
    size = vectors.numel() * vectors.element_size()
    if size > LARGEST:
        raise InputError(f"{size / 1e6:.1f} MB of learned vectors: keep them to {LARGEST / 1e6:g}")
    save_tensors(Path(path), {token: vectors.float()})
    return Path(path)


def read(path: str | Path) -> tuple[str, torch.Tensor]:
    """The token in a file of learned vectors, and the vectors, [vectors, width]; InputError where it is none."""
    path = Path(path)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is no file of learned vectors: it should be safetensors with one token") from error
    if len(tensors) != 1 or next(iter(tensors.values())).ndim != 2:
        raise InputError(f"{path} holds {', '.join(tensors) or 'nothing'}: it should hold one token's vectors")
    return next(iter(tensors.items()))


def load(pipeline, path: str | Path) -> str:
    """Give `pipeline` the learned tokens in `path` and return the phrase that a caption uses for them.

    InputError where the file is none of learned vectors, does not fit the model, or names a token that it knows.
    """
    token, vectors = read(path)
    known = pipeline.text_encoder.token_embedding.weight
    if vectors.shape[1] != known.shape[1] or len(vectors) > pipeline.text_encoder.config.length:
        raise InputError(
            f"{path} holds {len(vectors)} vectors of width {vectors.shape[1]}; this model takes up to "
            f"{pipeline.text_encoder.config.length} of width {known.shape[1]}: it was learned for another model"
        )
    return give(pipeline, token, vectors)


def give(pipeline, token: str, vectors: torch.Tensor) -> str:
    """Give `pipeline` a token that means `vectors`, [vectors, width], and return the phrase that a caption uses for it.

    InputError where a caption does not hold them, or the model knows the token.
    """
    check_fits(pipeline, len(vectors))
    known = pipeline.text_encoder.token_embedding.weight
    _add(pipeline, token, len(vectors))
    table = nn.Embedding(len(known) + len(vectors), known.shape[1], device=known.device, dtype=known.dtype)
    with torch.no_grad():
        table.weight.copy_(torch.cat([known, vectors.to(known)]))
    pipeline.text_encoder.token_embedding = table.requires_grad_(False)
    pipeline.text_encoder.register_to_config(vocabulary=len(table.weight))
    return phrase(token, len(vectors))


def between(pipeline, first: str | Path, second: str | Path, shares: Sequence[float]) -> list[str]:
    """The phrases for points on the line between the vectors of two files: 0 is the first's, 1 the second's.

    Source: de Wilde et al., disease interpolation. InputError where the files hold unequal numbers of vectors.
    """
    (_, start), (_, end) = read(first), read(second)
    if start.shape != end.shape:
        raise InputError(f"{first} and {second} hold {len(start)} and {len(end)} vectors: learn as many for both")
    return [give(pipeline, f"<between_{100 * share:.0f}>", start + share * (end - start)) for share in shares]


def _add(pipeline, token: str, vectors: int) -> None:
    if token != token.lower() or not (token.startswith("<") and token.endswith(">")) or " " in token:
        raise InputError(f"{token!r} is no token name: write it in lower case between < and >, without a space")
    known = set(pipeline.tokenizer.get_vocab())
    if known & set(names(token, vectors)):
        raise InputError(f"the model knows {token} already: choose another name")
    # Each takes the space before it: spaces of their own would fill half of the caption and cut off half of the vectors.
    pipeline.tokenizer.add_tokens([AddedToken(name, lstrip=True) for name in names(token, vectors)])
    pipeline.register_modules(guide_unet=None, guide_text_encoder=None)  # a guide cannot read what it has not learned
