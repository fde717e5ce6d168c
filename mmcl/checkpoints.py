"""Folders of tensors and a little JSON that are either whole or not there."""

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.files import replacing_folder, sha256_of

FORMAT = 2
SUMS = "checksums.json"  # of the other files of a checkpoint, which is whole where they fit
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint."""

    path: Path
    state: dict[str, Any]

    def check_format(self) -> None:
        """Refuse to go on from what another version of mmcl has written.

        Raises:
            MmclError: it has.
        """
        if self.state["format"] != FORMAT:
            raise MmclError(
                f"{self.path} is of format {self.state['format']}, and this version of mmcl goes on from format "
                f"{FORMAT}. Go on with the version that began the run (environment.json names it), or begin another "
                "run with its weights: towers.NAME.weights=RUN."
            )

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors of one of its files, on the CPU."""
        return load_file(self.path / f"{name}.safetensors")


def write(
    folder: Path,
    step: int,
    files: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
    best: int | None = None,
) -> Path:
    """Write a checkpoint; a kill at any instant leaves the previous ones as they were.

    All goes to a temporary name and to the disk before it is renamed.

    Args:
        folder: of the run's checkpoints.
        step: that has been done.
        files: tensors by name, a safetensors file each.
        state: what JSON can hold.
        keep: how many to leave; older ones are removed after the new one is in place.
        best: the step of one that is left besides.
    """
    final = _path(folder, step)
    with replacing_folder(final) as partial:
        for name, tensors in files.items():
            save_tensors(tensors, partial / f"{name}.safetensors")
        (partial / "state.json").write_text(json.dumps({"format": FORMAT, **state}, indent=1))
        sums = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
        (partial / SUMS).write_text(json.dumps(sums, indent=1))
    for path in listed(folder):
        if path > final:  # of a future that was damaged and did not happen
            shutil.rmtree(path)
    prune(folder, keep, best)
    return final


def prune(folder: Path, keep: int, best: int | None = None) -> None:
    """Remove all but the newest ones, and the best one."""
    for path in listed(folder)[:-keep]:
        if path != _path(folder, best):
            shutil.rmtree(path)
    for path in folder.glob(".step-*.partial"):  # of a process that was killed while it wrote
        shutil.rmtree(path)


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """A safetensors file; a tensor that is known under several names (tied weights) is written under each of them."""
    whole: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        one = tensor.detach().cpu().contiguous()
        whole[name] = one.clone() if one.untyped_storage().data_ptr() in taken else one
        taken.add(one.untyped_storage().data_ptr())
    try:
        save_file(whole, file)
    except SafetensorError as error:  # a full disk, as safetensors says it
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from None


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are what was written, passing over damaged ones with a warning."""
    for path in reversed(listed(folder)):
        if (found := _whole(path)) is not None:
            return found
        _log.warning("%s is damaged and is passed over", path)
    return None


def _whole(path: Path) -> Checkpoint | None:
    """A checkpoint, where its files are what was written."""
    try:
        sums = json.loads((path / SUMS).read_text())
        if "state.json" in sums and all(sha256_of(path / name) == expected for name, expected in sums.items()):
            return Checkpoint(path, json.loads((path / "state.json").read_text()))
    except (OSError, ValueError, AttributeError):
        pass
    return None


def place(path: Path) -> tuple[Path, str | None]:
    """The run folder that a path means, and which of its checkpoints, where it means one."""
    of_one = path.parent.name == "checkpoints" and (path.parents[1] / "recipe.yaml").is_file()
    return (path.parents[1], path.name) if of_one else (path, None)


def chosen(path: Path) -> Checkpoint | None:
    """The checkpoint that a path means: of a run folder the newest whole one, if it has any.

    Args:
        path: a run folder, one of its checkpoints, or ``best`` in their place.

    Raises:
        MmclError: it is not there, or damaged.
    """
    run, which = place(path)
    folder = run / "checkpoints"
    if which is None:
        return latest(folder)
    if which == "best":
        if not (folder / "best.json").is_file():
            raise MmclError(f"{path}: the run has no best checkpoint; training.best asks for one.")
        try:
            which = _path(folder, json.loads((folder / "best.json").read_text())["step"]).name
        except (ValueError, KeyError, TypeError):
            raise MmclError(f"{folder / 'best.json'} is damaged; say one of the checkpoints beside it.") from None
    if not (folder / which).is_dir():
        there = ", ".join(one.name for one in listed(folder))
        raise MmclError(f"{path}: {which} is not there; the run has: {there or 'no checkpoint'}.")
    if (found := _whole(folder / which)) is None:
        raise MmclError(f"{folder / which} is damaged: its files are not those that were written.")
    return found


def listed(folder: Path) -> list[Path]:
    """All of a folder, oldest first, whole or not."""
    named = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name) and path.is_dir()]
    return sorted(named, key=step_of)


def step_of(path: Path) -> int:
    """The step that was done when a checkpoint was written."""
    return int(path.name.removeprefix("step-"))


def _path(folder: Path, step: int | None) -> Path:
    return folder / f"step-{step or 0:08d}"
