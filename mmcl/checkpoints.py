"""Folders of tensors and a little JSON that are either whole or not there."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mmcl.files import replacing_folder, sha256_of

FORMAT = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint."""

    path: Path
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors of one of its files, on the CPU."""
        return load_file(self.path / f"{name}.safetensors")


def write(
    folder: Path, step: int, files: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int
) -> Path:
    """Write a checkpoint; a kill at any instant leaves the previous ones as they were.

    All goes to a temporary name and to the disk before it is renamed.

    Args:
        folder: of the run's checkpoints.
        step: that has been done.
        files: tensors by name, a safetensors file each.
        state: what JSON can hold.
        keep: how many to leave; older ones are removed after the new one is in place.
    """
    final = folder / f"step-{step:08d}"
    with replacing_folder(final) as partial:
        for name, tensors in files.items():
            save_tensors(tensors, partial / f"{name}.safetensors")
        (partial / "state.json").write_text(json.dumps({"format": FORMAT, **state}, indent=1))
        sums = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
        (partial / "checksums.json").write_text(json.dumps(sums, indent=1))
    older = [path for path in _listed(folder) if path < final]
    newer = [path for path in _listed(folder) if path > final]  # of a future that was damaged and did not happen
    for path in [*older[: max(len(older) - keep + 1, 0)], *newer]:
        shutil.rmtree(path)
    return final


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """A safetensors file; a tensor that is known under several names (tied weights) is written under each of them."""
    whole: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        one = tensor.detach().cpu().contiguous()
        whole[name] = one.clone() if one.untyped_storage().data_ptr() in taken else one
        taken.add(one.untyped_storage().data_ptr())
    save_file(whole, file)


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are what was written, passing over damaged ones with a warning."""
    for path in reversed(_listed(folder)):
        try:
            sums = json.loads((path / "checksums.json").read_text())
            whole = all(sha256_of(path / name) == expected for name, expected in sums.items())
            if whole:
                return Checkpoint(path, json.loads((path / "state.json").read_text()))
        except (OSError, ValueError):
            pass
        _log.warning("%s is damaged and is passed over", path)
    return None


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []
