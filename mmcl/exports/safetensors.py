"""A run without its training: the recipe, the files that it names, and all towers' weights."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from mmcl.checkpoints import save_tensors
from mmcl.exports.base import Source, Written, built
from mmcl.model import Encoder, MultiTower

WEIGHTS = "model.safetensors"


def write(source: Source, folder: Path) -> Written:
    """Any towers."""
    states = {f"{m}.{name}": t for m in source.modalities for name, t in source.state(m).items()}
    save_tensors(states, folder / WEIGHTS)
    return Written(source.modalities)


def save(model: MultiTower, folder: Path) -> None:
    """All weights of towers that such a file was opened as."""
    states = {f"{m}.{name}": t for m in model.modalities for name, t in model.tower(m).state_dict().items()}
    save_tensors(states, folder / WEIGHTS)


def opened(folder: Path, manifest: dict[str, Any]) -> Encoder:
    """The same towers."""
    tensors = load_file(folder / WEIGHTS)
    states = {
        m: {name.removeprefix(f"{m}."): t for name, t in tensors.items() if name.startswith(f"{m}.")}
        for m in manifest["modalities"]
    }
    return built(folder, manifest["modalities"], states)
