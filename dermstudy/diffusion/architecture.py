"""GLIDE's networks on diffusers' layers: the presets of both U-Nets, the caption encoder, and its tokens.

Sources: Nichol et al., "GLIDE" (arXiv 2112.10741) and the openai/glide-text2im release.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn
from transformers import GPT2Tokenizer

from dermstudy.files import InputError

PAD_TOKEN = "<|endoftext|>"
TOLD = 3  # cut captions of one call that have a line each
_told: set[tuple[str, int]] = set()  # of this process: cut captions that had their line, with the length


@dataclass(frozen=True)
class Preset:
    """The sizes of one GLIDE model: a U-Net with the text encoder that conditions it."""

    side: int  # pixels of the output image
    in_channels: int  # 3, or 6 with the enlarged low-resolution image beside the noisy one
    channels: int  # of the first level
    multipliers: tuple[int, ...]  # of the levels
    blocks: int  # residual blocks a level
    attention_sides: tuple[int, ...]  # feature-map sides with attention to text and image
    head_width: int
    text_width: int
    text_layers: int
    text_heads: int
    text_length: int  # tokens
    beta_schedule: str
    dropout: float


# fmt: off
PRESETS = {
    # name                      side in chan multipliers         n  attention    head  text: w  l  h  n  betas             dropout
    "openai-base":       Preset(64,  3, 192, (1, 2, 3, 4),       3, (32, 16, 8), 64, 512, 16, 8, 128, "squaredcos_cap_v2", 0.1),
    "openai-upsampler":  Preset(256, 6, 192, (1, 1, 2, 2, 4, 4), 2, (32, 16, 8), 64, 512, 16, 8, 128, "linear",            0.1),
    "tiny-base":         Preset(64,  3, 8,   (1, 2, 2, 2),       1, (8,),        8,  32,  1,  2, 32,  "squaredcos_cap_v2", 0.0),
    "tiny-upsampler":    Preset(256, 6, 8,   (1, 1, 2, 2),       1, (),          8,  32,  1,  2, 32,  "linear",            0.0),
}  # fmt: skip
# fmt: on


def unet_from(preset: Preset) -> UNet2DConditionModel:
    """The U-Net of `preset`, randomly initialised: six output channels, three of noise and three of variance range."""
    return glide_unet(
        [preset.side >> level in preset.attention_sides for level in range(len(preset.multipliers))],
        sample_size=preset.side,
        in_channels=preset.in_channels,
        out_channels=6,
        block_out_channels=tuple(preset.channels * multiplier for multiplier in preset.multipliers),
        layers_per_block=preset.blocks,
        attention_head_dim=preset.head_width,
        cross_attention_dim=preset.text_width,
        dropout=preset.dropout,
        norm_num_groups=min(32, preset.channels),
    )


def glide_unet(attends: Sequence[bool], **sizes) -> UNet2DConditionModel:
    """GLIDE's U-Net with random weights; attends: whether each level attends to text and image; sizes: diffusers' own names."""
    unet = UNet2DConditionModel(
        down_block_types=tuple("SimpleCrossAttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attends),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=tuple("SimpleCrossAttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in attends[::-1]),
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
        norm_eps=1e-5,
        **sizes,
    )
    # As upstream: the last convolution starts at zero, so that an untrained model predicts the mean.
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet


class GlideTextEncoder(ModelMixin, ConfigMixin):
    """GLIDE's caption encoder: a transformer over tokens whose padding has an embedding of its own."""

    @register_to_config
    def __init__(self, vocabulary: int, length: int, width: int, layers: int, heads: int, pooled_width: int):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(length, width) * 0.01)
        self.padding_embedding = nn.Parameter(torch.randn(length, width) * 0.01)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.final_norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, pooled_width)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode captions.

        input_ids: int64 [n, length]; attention_mask: [n, length], 0 where a token is padding.
        Returns hidden states [n, length, width] and the pooled projection [n, 4 * channels] of the last position.
        """
        embedded = self.token_embedding(input_ids) + self.positional_embedding  # [n, length, width]
        embedded = torch.where(attention_mask.bool()[..., None], embedded, self.padding_embedding)
        hidden = self.final_norm(self.transformer(embedded))
        return hidden, self.projection(hidden[:, -1])


def text_encoder_from(preset, vocabulary: int) -> GlideTextEncoder:
    """The text encoder of `preset` (a Preset or a folded one) for a tokenizer of `vocabulary` entries, randomly initialised."""
    return GlideTextEncoder(
        vocabulary, preset.text_length, preset.text_width, preset.text_layers, preset.text_heads, 4 * preset.channels
    )


def train_tokenizer(captions: Sequence[str], vocabulary: int = 512) -> GPT2Tokenizer:
    """A byte-level BPE in GPT-2's form trained on `captions`; any text still encodes, byte by byte where unseen."""
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        sorted({caption.lower() for caption in captions}), vocab_size=vocabulary, min_frequency=1, show_progress=False
    )
    content = json.loads(trained.to_str())["model"]
    vocab = dict(content["vocab"]) | {PAD_TOKEN: len(content["vocab"])}
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in content["merges"]]
    return GPT2Tokenizer(vocab=vocab, merges=merges, pad_token=PAD_TOKEN)


def tokenize(tokenizer: GPT2Tokenizer, captions: Sequence[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, each [n, length]: lower case as upstream, no begin or end mark, padded and cut to length.

    Says on standard error what is read of a caption that is cut, once a process. InputError where the cut would take
    learned vectors (tokens that were added to the tokenizer) from a caption.
    """
    texts = [caption.lower() for caption in captions]
    learned = set(tokenizer.get_added_vocab().values()) - set(tokenizer.all_special_ids)
    cut = [(text, ids) for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True) if len(ids) > length]
    for _, ids in cut:
        if not learned.isdisjoint(ids[length:]):
            raise InputError(f"a caption of {len(ids)} tokens is cut to {length} and loses learned vectors: shorten it")
    _tell_cut(tokenizer, list(dict.fromkeys(text for text, _ in cut)), length)
    encoded = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=length,
        return_tensors="pt",
    )
    return encoded["input_ids"], encoded["attention_mask"]


def read_part(tokenizer: GPT2Tokenizer, caption: str, length: int) -> str:
    """What a model of `length` tokens reads of a caption: all of it, or its first tokens in lower case, in whole characters."""
    text = caption.lower()
    places = tokenizer([text], return_offsets_mapping=True)["offset_mapping"][0]
    # Up to where the first token begins that is not read; a table's reader would drop a blank at the end.
    return caption if len(places) <= length else text[: places[length][0]].rstrip()


def cut_line(tokenizer: GPT2Tokenizer, caption: str, length: int) -> str:
    """A line that says what is read of a caption; "" where that is all of it."""
    count = len(tokenizer([caption.lower()])["input_ids"][0])
    read = read_part(tokenizer, caption, length)
    return "" if count <= length else f'caption of {count} tokens: the model reads {length}; read: "{read}"'


def _tell_cut(tokenizer: GPT2Tokenizer, captions: list[str], length: int) -> None:
    """Name on standard error what is read of captions that are cut, each once, and pairs that read alike."""
    fresh = [caption for caption in captions if (caption, length) not in _told]
    _told.update((caption, length) for caption in fresh)
    alike: dict[str, list[str]] = {}
    for caption in captions if fresh else ():
        alike.setdefault(read_part(tokenizer, caption, length), []).append(caption)
    lines = [cut_line(tokenizer, caption, length) for caption in fresh[:TOLD]]
    if len(fresh) > TOLD:
        lines.append(
            f"{len(fresh) - TOLD} more captions have more than {length} tokens: the model reads the first {length}"
        )
    for first, second, *_ in [texts for texts in alike.values() if len(texts) > 1][:TOLD]:
        lines.append(f'"{first}" and "{second}" differ only after what is read: one seed gives the same picture')
    for line in lines:
        print(line, file=sys.stderr, flush=True)
