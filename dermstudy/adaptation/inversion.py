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
from dermstudy.weight_files import check_finite


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
    return [token, *(f"{token}_{number}" for number in range(1, vectors))]


def phrase(token: str, vectors: int) -> str:
    """What a caption says to mean the learned entity."""
    return " ".join(names(token, vectors))


def extend(pipeline, token: str, start: str, vectors: int, seed: int = 0):
    """A copy of `pipeline` with `vectors` new tokens that can learn, and nothing else that can.

    They begin as the vectors of the words of `start`, in turn, with a little noise so that no two are alike. Train with
    TrainingConfig(trains="tokens"). InputError where they would not fit a caption, or the token is known.
    """
    check_fits(pipeline, vectors)
    model = copy.deepcopy(pipeline)
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
    """InputError where a caption of `pipeline` does not hold `vectors` tokens."""
    length = pipeline.text_encoder.config.length
    if not 1 <= vectors <= length:
        raise InputError(f"{vectors} vectors an entity: give 1 to {length}, the longest caption in tokens")


def learned(model) -> torch.Tensor:
    """The vectors that `extend` added, [vectors, width]."""
    return model.text_encoder.token_embedding.added.detach().cpu()


def save(vectors: torch.Tensor, token: str, path: str | Path) -> Path:
    """Write learned vectors, [vectors, width], as safetensors: one tensor under the token's name."""
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
    check_finite(tensors, path)
    return next(iter(tensors.items()))


def load(pipeline, path: str | Path) -> str:
    """Give `pipeline` the learned tokens in `path`; returns and refuses as `give`, and a file that holds none."""
    token, vectors = read(path)
    width = pipeline.text_encoder.token_embedding.weight.shape[1]
    if vectors.shape[1] != width:
        raise InputError(
            f"{path} holds vectors of width {vectors.shape[1]}, not {width}: it was learned for another model"
        )
    return give(pipeline, token, vectors)


def give(pipeline, token: str, vectors: torch.Tensor) -> str:
    """Give `pipeline` a token that means `vectors`, [vectors, width], and return the phrase that a caption uses for it.

    InputError where a caption does not hold them, or the model knows the token.
    """
    check_fits(pipeline, len(vectors))
    encoder = pipeline.text_encoder
    _add(pipeline, token, len(vectors))
    known = encoder.token_embedding.weight
    encoder.token_embedding = nn.Embedding.from_pretrained(torch.cat([known, vectors.to(known)]))
    encoder.register_to_config(vocabulary=len(encoder.token_embedding.weight))
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
