"""OpenAI's GLIDE checkpoints to diffusers folders and back, exact to the bit for fp32 files.

Source: the layer order of openai/glide-text2im (unet.py, xf.py, text2im_model.py). Upstream keeps query, key and value
interleaved by head; diffusers keeps them apart.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import GPT2Tokenizer

from dermstudy.diffusion import architecture, glide, schedules
from dermstudy.diffusion.checkpoint_files import read_checkpoint as read_checkpoint  # where callers look for it
from dermstudy.files import InputError

# Input channels tell the kind: image; image and mask; image and low resolution; all three.
KINDS = {3: "base", 7: "base-inpaint", 6: "upsampler", 10: "upsampler-inpaint"}


@dataclass(frozen=True)
class Rule:
    """One upstream tensor and the diffusers tensors it becomes: `parts` interleaved by head, or one taken whole."""

    upstream: str
    names: tuple[str, ...]
    heads: int = 1
    kernel: bool = False  # upstream's 1 x 1 convolution over one dimension is a linear layer here

    def split(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """The diffusers tensors of one upstream tensor."""
        tensor = tensor.squeeze(-1) if self.kernel else tensor
        if len(self.names) == 1:
            return {self.names[0]: tensor}
        rest = tensor.shape[1:]
        by_head = tensor.reshape(self.heads, len(self.names), -1, *rest)
        return {name: by_head[:, place].reshape(-1, *rest) for place, name in enumerate(self.names)}

    def join(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """The upstream tensor again: the inverse of `split`."""
        parts = [tensors[name] for name in self.names]
        if len(parts) > 1:
            rest = parts[0].shape[1:]
            by_head = torch.stack([part.reshape(self.heads, -1, *rest) for part in parts], dim=1)
            parts = [by_head.reshape(-1, *rest)]
        return parts[0].unsqueeze(-1) if self.kernel else parts[0]


def infer_preset(
    state: dict[str, torch.Tensor], head_width: int = 64, text_heads: int | None = None
) -> architecture.Preset:
    """The sizes of a GLIDE model from the shapes of its tensors.

    Shapes do not tell the width of the U-Net's heads (64 upstream), the number of the text transformer's (`text_heads`;
    known where all other sizes are those of OpenAI's release), the side (64 for base models, 256 for upsamplers) or the
    noise schedule, which follows the kind. InputError names a tensor without which nothing can be inferred, and heads
    that are not known or do not divide their width.
    """
    _, channels = _shape(state, "time_embed.0.weight", 2)
    _, in_channels, *_ = _shape(state, "input_blocks.0.0.weight", 4)
    length, width = _shape(state, "positional_embedding", 2)
    if in_channels not in KINDS:
        raise InputError(f"input_blocks.0.0.weight takes {in_channels} channels; GLIDE models take {sorted(KINDS)}")
    upsampler = KINDS[in_channels].startswith("upsampler")
    found = [match for name in state if (match := re.match(r"output_blocks\.(\d+)\.(\d+)\.(.*)", name))]
    entries = len({match[1] for match in found})
    levels = len({match[1] for match in found if match[2] != "0" and match[3] == "in_layers.2.weight"}) + 1
    if entries == 0 or entries % levels:
        raise InputError(f"{entries} output blocks do not divide over {levels} levels: the checkpoint is incomplete")
    blocks = entries // levels - 1
    firsts = [1 + level * (blocks + 1) for level in range(levels)]
    side = 256 if upsampler else 64
    widths = [_shape(state, f"input_blocks.{first}.0.in_layers.2.weight", 4)[0] for first in firsts]
    attention = tuple(
        side >> level for level, first in enumerate(firsts) if f"input_blocks.{first}.1.qkv.weight" in state
    )
    layers = len({match[1] for name in state if (match := re.match(r"transformer\.resblocks\.(\d+)\.", name))})
    attended = [own for level, own in enumerate(widths) if side >> level in attention] + widths[-1:]
    odd = [own for own in attended if head_width < 1 or own % head_width]
    if odd:
        raise InputError(
            f"heads of {head_width} channels do not divide the U-Net's level of {odd[0]}: give --head-width"
        )
    preset = architecture.Preset(
        side=side, in_channels=in_channels, channels=channels, multipliers=tuple(w // channels for w in widths),
        blocks=blocks, attention_sides=attention, head_width=head_width, text_width=width, text_layers=layers,
        text_heads=text_heads or 0, text_length=length,
        beta_schedule="linear" if upsampler else "squaredcos_cap_v2", dropout=0.1,
    )  # fmt: skip
    if text_heads is None:
        return _as_released(preset)
    if text_heads < 1 or width % text_heads:
        raise InputError(f"{text_heads} heads do not divide the text transformer's width of {width}: give --text-heads "
                         "the number that the model was trained with")  # fmt: skip
    return preset


def _shape(state: dict[str, torch.Tensor], name: str, dimensions: int) -> torch.Size:
    """The shape of a tensor without which no size is known; InputError where it lacks, or has another number of dimensions."""
    if name not in state:
        raise InputError(f"the checkpoint lacks {name}: it is not a GLIDE text-to-image model, or incomplete")
    shape = state[name].shape
    if len(shape) != dimensions or 0 in shape:
        raise InputError(f"{name} has the shape {tuple(shape)}, expected {dimensions} dimensions")
    return shape


def _as_released(preset: architecture.Preset) -> architecture.Preset:
    """`preset` with the text heads of OpenAI's release, where its other sizes are OpenAI's."""
    for name in ("openai-base", "openai-upsampler"):
        released = architecture.PRESETS[name]
        if replace(preset, text_heads=released.text_heads, in_channels=released.in_channels) == released:
            return replace(preset, text_heads=released.text_heads)
    raise InputError(f"the checkpoint does not say how many heads its text transformer of width {preset.text_width} has: "
                     "give --text-heads (upstream's xf_heads; only OpenAI's released sizes are known)")  # fmt: skip


def to_diffusers(
    state: dict[str, torch.Tensor], tokenizer: GPT2Tokenizer, head_width: int = 64, text_heads: int | None = None
) -> glide._Glide:
    """A pipeline with the weights of an upstream state dict; head_width and text_heads as in `infer_preset`.

    InputError names missing, extra and mis-shaped tensors, and heads that are not known.
    """
    preset = infer_preset(state, head_width, text_heads)
    vocabulary, _ = _shape(state, "token_embedding.weight", 2)
    if vocabulary != len(tokenizer):
        raise InputError(f"the checkpoint knows {vocabulary} tokens, the tokenizer {len(tokenizer)}: give the vocabulary "
                         "that the model was trained with")  # fmt: skip
    with torch.device("meta"):  # shapes alone: wrong ones are found before anything is made
        wanted = _named(_modules(preset, vocabulary))
    rules = list(_rules(preset))
    missing = [rule.upstream for rule in rules if rule.upstream not in state]
    extra = sorted(set(state) - {rule.upstream for rule in rules})
    for kind, names in (("lacks", missing), ("has unknown", extra)):
        if names:
            raise InputError(f"the checkpoint {kind} {len(names)} tensors, {names[0]} first: it is not a GLIDE model of "
                             "these sizes")  # fmt: skip
    for rule in rules:
        expected, found = rule.join({name: wanted[name] for name in rule.names}).shape, state[rule.upstream].shape
        if found != expected:
            raise InputError(f"{rule.upstream} has the shape {tuple(found)}, expected {tuple(expected)}")
    made: dict[str, torch.Tensor] = {}
    for rule in rules:
        made |= rule.split(state[rule.upstream])
    modules = _modules(preset, vocabulary)
    for part, module in modules.items():
        own = {name.removeprefix(f"{part}."): tensor for name, tensor in made.items() if name.startswith(f"{part}.")}
        module.load_state_dict(own)
        module.eval()
    kind = glide.GlideUpsamplePipeline if KINDS[preset.in_channels].startswith("upsampler") else glide.GlidePipeline
    return kind(modules["unet"], modules["text_encoder"], tokenizer, schedules.scheduler_from(preset))


def _modules(preset: architecture.Preset, vocabulary: int) -> dict[str, torch.nn.Module]:
    """The networks of `preset`; InputError where no U-Net has such sizes."""
    try:
        unet = architecture.unet_from(preset)
        return {"unet": unet, "text_encoder": architecture.text_encoder_from(preset, vocabulary)}
    except (ValueError, AssertionError, ZeroDivisionError) as error:
        raise InputError(f"the checkpoint's sizes make no GLIDE model ({' '.join(str(error).split())})") from error


def _named(modules: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": value for part, module in modules.items() for name, value in module.state_dict().items()}


def to_openai(pipeline: glide._Glide) -> dict[str, torch.Tensor]:
    """The upstream state dict of a pipeline: the inverse of `to_diffusers`."""
    tensors = _named({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder})
    return {rule.upstream: rule.join(tensors).contiguous() for rule in _rules(preset_of(pipeline))}


def preset_of(pipeline: glide._Glide) -> architecture.Preset:
    """The sizes of a pipeline, from its configuration."""
    unet, text = pipeline.unet.config, pipeline.text_encoder.config
    attends = [kind == "SimpleCrossAttnDownBlock2D" for kind in unet.down_block_types]
    return architecture.Preset(
        side=unet.sample_size, in_channels=unet.in_channels, channels=unet.block_out_channels[0],
        multipliers=tuple(width // unet.block_out_channels[0] for width in unet.block_out_channels),
        blocks=unet.layers_per_block,
        attention_sides=tuple(unet.sample_size >> level for level, attend in enumerate(attends) if attend),
        head_width=unet.attention_head_dim, text_width=text.width, text_layers=text.layers, text_heads=text.heads,
        text_length=text.length, beta_schedule=pipeline.scheduler.config.beta_schedule, dropout=unet.dropout,
    )  # fmt: skip


def read_tokenizer(folder: str | Path) -> GPT2Tokenizer:
    """GPT-2's byte-level BPE from vocab.json and merges.txt, or from upstream's encoder.json.gz and vocab.bpe.gz."""
    folder = Path(folder)
    forms = (("vocab.json", "merges.txt"), open), (("encoder.json.gz", "vocab.bpe.gz"), gzip.open)
    names, reader = next((form for form in forms if all((folder / name).is_file() for name in form[0])), ((), open))
    if not names:
        raise InputError(f"no vocabulary in {folder}: it needs vocab.json and merges.txt (GPT-2's), or upstream's "
                         "encoder.json.gz and vocab.bpe.gz")  # fmt: skip
    texts = []
    try:
        for name in names:
            with reader(folder / name, "rt", encoding="utf-8") as stream:
                texts.append(stream.read())
        vocab = json.loads(texts[0])
        if sorted(vocab.values()) != list(range(len(vocab))) or not vocab:
            raise ValueError("its tokens are not numbered from 0 on")
        merges = [tuple(line.split()) for line in texts[1].split("\n") if line and not line.startswith("#version")]
        wrong = [pair for pair in merges if len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys()]
        if wrong:
            raise ValueError(f"{' '.join(wrong[0])!r} is no merge of its tokens")
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{folder / names[0]} and {names[1]} are no vocabulary of GPT-2's form ({reason}): get both again"
        ) from error
    return GPT2Tokenizer(vocab=vocab, merges=merges, pad_token=architecture.PAD_TOKEN)


def _rules(preset: architecture.Preset) -> Iterator[Rule]:
    yield from _plain("time_embed.0", "unet.time_embedding.linear_1")
    yield from _plain("time_embed.2", "unet.time_embedding.linear_2")
    yield from _plain("input_blocks.0.0", "unet.conv_in")
    levels, blocks = len(preset.multipliers), preset.blocks
    attends = [preset.side >> level in preset.attention_sides for level in range(levels)]
    widths = [preset.channels * multiplier for multiplier in preset.multipliers]
    into = [preset.channels]
    place = 1
    for level in range(levels):
        for block in range(blocks):
            changes = into[-1] != widths[level]
            yield from _residual(f"input_blocks.{place}.0", f"unet.down_blocks.{level}.resnets.{block}", changes)
            if attends[level]:
                yield from _attention(f"input_blocks.{place}.1", f"unet.down_blocks.{level}.attentions.{block}",
                                      widths[level] // preset.head_width)  # fmt: skip
            into.append(widths[level])
            place += 1
        if level < levels - 1:
            yield from _residual(f"input_blocks.{place}.0", f"unet.down_blocks.{level}.downsamplers.0", False)
            into.append(widths[level])
            place += 1
    yield from _residual("middle_block.0", "unet.mid_block.resnets.0", False)
    yield from _attention("middle_block.1", "unet.mid_block.attentions.0", widths[-1] // preset.head_width)
    yield from _residual("middle_block.2", "unet.mid_block.resnets.1", False)
    place = 0
    for up, level in enumerate(reversed(range(levels))):
        for block in range(blocks + 1):
            own = f"output_blocks.{place}"
            yield from _residual(f"{own}.0", f"unet.up_blocks.{up}.resnets.{block}", True)  # it joins a skip connection
            after = 1
            if attends[level]:
                yield from _attention(f"{own}.1", f"unet.up_blocks.{up}.attentions.{block}",
                                      widths[level] // preset.head_width)  # fmt: skip
                after = 2
            if level and block == blocks:
                yield from _residual(f"{own}.{after}", f"unet.up_blocks.{up}.upsamplers.0", False)
            place += 1
    yield from _plain("out.0", "unet.conv_norm_out")
    yield from _plain("out.2", "unet.conv_out")
    for name in ("positional_embedding", "padding_embedding"):
        yield Rule(name, (f"text_encoder.{name}",))
    yield Rule("token_embedding.weight", ("text_encoder.token_embedding.weight",))
    for layer in range(preset.text_layers):
        upstream, own = f"transformer.resblocks.{layer}", f"text_encoder.transformer.layers.{layer}"
        for parameter in ("weight", "bias"):
            yield _TextAttention(f"{upstream}.attn.c_qkv.{parameter}", (f"{own}.self_attn.in_proj_{parameter}",),
                                 preset.text_heads)  # fmt: skip
        for theirs, ours in (("attn.c_proj", "self_attn.out_proj"), ("ln_1", "norm1"), ("ln_2", "norm2"),
                             ("mlp.c_fc", "linear1"), ("mlp.c_proj", "linear2")):  # fmt: skip
            yield from _plain(f"{upstream}.{theirs}", f"{own}.{ours}")
    yield from _plain("final_ln", "text_encoder.final_norm")
    yield from _plain("transformer_proj", "text_encoder.projection")


class _TextAttention(Rule):
    """torch's attention keeps all queries, then all keys, then all values in one tensor."""

    def split(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        rest = tensor.shape[1:]
        return {self.names[0]: tensor.reshape(self.heads, 3, -1, *rest).transpose(0, 1).reshape(-1, *rest)}

    def join(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        tensor = tensors[self.names[0]]
        rest = tensor.shape[1:]
        return tensor.reshape(3, self.heads, -1, *rest).transpose(0, 1).reshape(-1, *rest)


def _plain(upstream: str, own: str, kernel: bool = False) -> Iterator[Rule]:
    yield Rule(f"{upstream}.weight", (f"{own}.weight",), kernel=kernel)
    yield Rule(f"{upstream}.bias", (f"{own}.bias",))


def _residual(upstream: str, own: str, changes_width: bool) -> Iterator[Rule]:
    for theirs, ours in (("in_layers.0", "norm1"), ("in_layers.2", "conv1"), ("emb_layers.1", "time_emb_proj"),
                         ("out_layers.0", "norm2"), ("out_layers.3", "conv2")):  # fmt: skip
        yield from _plain(f"{upstream}.{theirs}", f"{own}.{ours}")
    if changes_width:
        yield from _plain(f"{upstream}.skip_connection", f"{own}.conv_shortcut")


def _attention(upstream: str, own: str, heads: int) -> Iterator[Rule]:
    yield from _plain(f"{upstream}.norm", f"{own}.group_norm")
    for theirs, ours in (("qkv", ("to_q", "to_k", "to_v")), ("encoder_kv", ("add_k_proj", "add_v_proj"))):
        for parameter in ("weight", "bias"):
            names = tuple(f"{own}.{name}.{parameter}" for name in ours)
            yield Rule(f"{upstream}.{theirs}.{parameter}", names, heads, kernel=parameter == "weight")
    yield from _plain(f"{upstream}.proj_out", f"{own}.to_out.0", kernel=True)
