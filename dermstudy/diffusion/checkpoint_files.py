"""The state dict in a checkpoint file, whatever saved or wrapped it; a file that holds none is named by what it is.

Sources: the saves of afiaka87/glide-finetune (plain or compiled models), of torch.compile, DistributedDataParallel, FSDP and
torch.optim.swa_utils, and of trainers that keep a model beside its average and optimizer.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from dermstudy.files import InputError
from dermstudy.weight_files import check_finite

ANCHOR = "time_embed.0.weight"  # every GLIDE model has it: what stands before it in a name, a wrapper added
AROUND = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")  # anywhere in a name
AVERAGED = ("ema", "average")  # in the name of a part: of a model and its average, the average is taken
GIVE = "give OpenAI's base.pt or upsample.pt, or what torch.save(model.state_dict(), …) wrote"


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """The state dict of a GLIDE checkpoint (OpenAI's, glide-finetune's, or safetensors), in fp32, under upstream's names.

    Pickled weights alone are read, no class. Prints a line where the file holds a model and its average. InputError names
    the cause where it cannot be read, and a value that is not finite.
    """
    path = Path(path)
    found = _tensors(_content(path))
    if not found:
        raise InputError(f"{path} holds no plain state dict: {GIVE}")
    state = {name: tensor.float() for name, tensor in _unwrapped(found, path).items()}
    check_finite(state, path)
    return state


def _content(path: Path) -> object:
    if not path.is_file():
        raise InputError(f"no checkpoint {path}: {GIVE}")
    try:
        with open(path, "rb") as stream:
            start = stream.read(64)
        if path.suffix == ".safetensors" or start[8:10] == b'{"':
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint
        if found := re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error)):
            raise InputError(
                f"{path} pickles the class {found[1]}, and unpickling could run any program: where it was made, write the "
                "weights alone, torch.save(model.state_dict(), 'plain.pt'), and convert that"
            ) from error
        what = "a web page" if start.lstrip().startswith(b"<") else "a Git LFS pointer" if b"git-lfs" in start else ""
        what = f"is {what}" if what else "is empty, cut off, damaged or no PyTorch checkpoint of weights"
        raise InputError(f"{path} {what}: download the file itself again, or {GIVE}") from error


def _tensors(part: object, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a state dict, or of the state dicts in the parts of what a trainer saved, by their names with the part's."""
    found = {}
    for name, value in part.items() if isinstance(part, dict) else ():
        if isinstance(value, torch.Tensor):
            found[f"{prefix}{name}"] = value
        else:
            found |= _tensors(value, f"{prefix}{name}.")
    return found


def _unwrapped(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """One model's tensors under upstream's names: without what wrappers add to them, and without what lies beside it."""
    if lora := [name for name in tensors if "lora_" in name]:
        raise InputError(f"{path} holds low-rank additions ({lora[0]}): merge them into the model, and save that")
    names = {name: AROUND.sub("", name) for name in tensors}
    prefixes = [name.removesuffix(ANCHOR) for name in names.values() if name == ANCHOR or name.endswith(f".{ANCHOR}")]
    prefixes = list(dict.fromkeys(prefixes))
    averaged = [prefix for prefix in prefixes if any(word in prefix.lower() for word in AVERAGED)]
    prefix = (averaged or prefixes or [""])[0]
    if len(prefixes) > 1:
        if len(averaged) != 1:
            raise InputError(f"{path} holds {len(prefixes)} models ({', '.join(prefixes)}): save the state dict of one")
        print(f"{path} holds {len(prefixes)} models: the averaged one is taken, {prefix.rstrip('.')}", flush=True)
    return {new.removeprefix(prefix): tensors[name] for name, new in names.items() if new.startswith(prefix)}
