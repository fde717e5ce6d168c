"""Tensors by name, from the files that libraries and runs leave behind. Nothing in a file is ever executed."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmcl import checkpoints
from mmcl.errors import MmclError
from mmcl.files import sha256_of

TORCH = (b"PK", b"\x80")  # what files of torch begin with, new and old
PICKLED = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *PICKLED)
WHOLE = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
"""What libraries call the one file of a model, the better one first; `.index.json` behind it lists several."""
NESTED = ("state_dict", "model_state_dict", "model", "module")
WRAPPED = ("module.", "_orig_mod.")  # what DDP and torch.compile put before every name


@dataclass(frozen=True)
class Tensors:
    """Tensors by name, and where they are from."""

    source: str
    state: Mapping[str, Tensor]
    files: tuple[Path, ...] = ()

    def under(self, prefix: str) -> "Tensors":
        """Those whose names begin so, without it.

        Raises:
            MmclError: there are none.
        """
        state = {name.removeprefix(prefix): t for name, t in self.state.items() if name.startswith(prefix)}
        if not state:
            starts = sorted({name.partition(".")[0] + "." * ("." in name) for name in self.state})
            raise MmclError(f"no tensor of {self.source} is called {prefix}*; names begin with {few(starts, 20)}.")
        return Tensors(self.source, state, self.files)

    def described(self) -> list[dict[str, Any]]:
        """The files, each with its size and checksum."""
        return [{"file": str(path), "bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in self.files]


def few(names: list[str], most: int = 5) -> str:
    """Some of many names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def read(path: Path) -> Tensors:
    """Tensors of a file, or of the folder of one model.

    Raises:
        MmclError: they cannot be read, or reading them would run code.
    """
    files = _files(path) if path.is_dir() else (path,)
    state: dict[str, Tensor] = {}
    for file in files:
        state |= _read_file(file)
    if not state:
        raise MmclError(f"{path} holds no tensors.")
    return Tensors(str(path), state, files)


def read_hub(name: str) -> Tensors:
    """Tensors of the model that the hub, or its cache on this machine, has under a name.

    Raises:
        MmclError: there is none, or it cannot be fetched.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reason: object = "it has no weights there"
    for whole in (each for one in WHOLE for each in (one, f"{one}.index.json")):
        try:
            found = Path(hf_hub_download(name, whole))
            for shard in _shards(found) if found.suffix == ".json" else ():
                hf_hub_download(name, shard)
        except LocalEntryNotFoundError as error:  # the hub does not answer; it is an EntryNotFoundError, too
            reason = error
            break
        except EntryNotFoundError as error:  # perhaps it is called otherwise
            reason = error
        except (OSError, ValueError) as error:  # what the hub's errors are
            reason = error
            break
        else:
            read_ = read(found.parent)
            return Tensors(f"hf-hub:{name}", read_.state, read_.files)
    said = str(reason).strip().partition("\n")[0]
    raise MmclError(f"the hub does not give weights of {name!r}: {said}")


def read_run(path: Path) -> Tensors:
    """Tensors of a run's towers, of its newest whole checkpoint; the averaged ones where it evaluates these.

    Args:
        path: the run's folder, or one of its checkpoints.

    Raises:
        MmclError: it has no checkpoint.
    """
    checkpoint = checkpoints.chosen(path)
    path, _ = checkpoints.place(path)
    if checkpoint is None:
        if not (path / "environment.json").is_file():  # which a run has from its first second on
            raise MmclError(f"{path} is no run: it has a recipe.yaml alone. An export has a manifest.json beside it.")
        if damaged := checkpoints.listed(path / "checkpoints"):
            names = ", ".join(one.name for one in damaged)
            raise MmclError(
                f"{path}: none of its checkpoints is whole ({names}); their files are not what was written."
            )
        raise MmclError(f"{path} has no checkpoint yet. Train it on with: mmcl train {path} --resume")
    recipe = YAML(typ="safe", pure=True).load((path / "recipe.yaml").read_text(encoding="utf-8"))
    ema = recipe["training"].get("ema")
    weights = checkpoint.tensors("weights")
    kind = "ema.module." if isinstance(ema, dict) and ema.get("evaluate") else "model."
    if not any(name.startswith(kind) for name in weights):  # the average begins with the weights of this checkpoint
        kind = "model."
    own = {k.removeprefix(kind): t for k, t in weights.items() if k.startswith(kind)}
    said = f"{path} ({checkpoint.path.name}{', averaged' if kind != 'model.' else ''})"
    return Tensors(said, own, (checkpoint.path / "weights.safetensors",))


def _files(folder: Path) -> tuple[Path, ...]:
    """The files of one model in a folder."""
    for whole in WHOLE:
        if (folder / whole).is_file():
            return (folder / whole,)
        if (index := folder / f"{whole}.index.json").is_file():
            return tuple(folder / shard for shard in _shards(index))
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(found) != 1:
        there = f"several ({few([path.name for path in found])}): name one of them" if found else "none"
        raise MmclError(f"{folder}: which file holds the weights? There is {there}.")
    return (found[0],)


def _shards(index: Path) -> list[str]:
    """The files that an index lists."""
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise MmclError(f"{index} does not say which tensors lie in which file.") from None


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MmclError(f"{path} is not there.")
    if path.suffix not in SUFFIXES:
        raise MmclError(f"{path}: weights are read from {', '.join(SUFFIXES)}.")
    if not path.stat().st_size:
        raise MmclError(f"{path} is empty.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise MmclError(f"{path} is damaged, or no safetensors file: {error}.") from None
    except Exception as error:  # torch lets through whatever unpickling ends in
        with path.open("rb") as file:
            beginning = file.read(8)
        if not beginning.startswith(TORCH):
            raise MmclError(
                f"{path} is no file of weights: it begins with {beginning!r}. Perhaps its download ended early."
            ) from None
        said = " ".join(str(error).split()).split(" Check the documentation")[0].split(" Please use")[0]
        last = re.split(r"(?<=[.:]) ", said)[-1]  # before it stands what to do to have the file's code run
        raise MmclError(
            f"{path} cannot be read as tensors alone, and mmcl runs no code of a file. Save its state dict as "
            f"safetensors (safetensors.torch.save_file). torch says: {last}"
        ) from None
    return _unwrapped(content)


def _unwrapped(content: Any) -> dict[str, Tensor]:
    """The tensors of what a training script has saved."""
    while isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[key] for key in NESTED if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        return {}
    state = {str(name): t for name, t in content.items() if isinstance(t, Tensor)}
    for prefix in WRAPPED:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): t for name, t in state.items()}
    return state
