"""Towers to one shared space."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as TF

from mmcl.data.decode import BadSampleError
from mmcl.data.decode import image as decode_picture
from mmcl.errors import MmclError
from mmcl.towers import Tower
from mmcl.types import Batch, Transform


class MultiTower(nn.Module):
    """One tower a modality, all of the same output width.

    Args:
        towers: by modality; its name is free.
        dim: width of the shared space.
    """

    def __init__(self, towers: Mapping[str, Tower], dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.towers = nn.ModuleDict(towers)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return tuple(self.towers)

    def tower(self, modality: str) -> Tower:
        """Tower of one modality."""
        if modality not in self.towers:
            raise MmclError(f"the model has no tower for {modality!r}; it has: {', '.join(self.modalities)}.")
        tower = self.towers[modality]
        assert isinstance(tower, Tower)
        return tower

    def transforms(self, train: bool) -> dict[str, Transform]:
        """What makes rows of decoded values, by modality."""
        return {modality: self.tower(modality).transform(train) for modality in self.towers}

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "_ dim"]]:
        """Vectors, not normalised, of the rows of each modality that is given. Absent modalities cost nothing."""
        if not inputs:  # no rows at all: DDP still waits for this process, so something must depend on a parameter
            nothing = next(p for p in self.parameters() if p.requires_grad).reshape(-1)[:0]
            return {self.modalities[0]: nothing[:, None].expand(0, self.dim)}
        return {modality: self.tower(modality)(rows) for modality, rows in inputs.items()}


def present_rows(batch: Batch, modalities: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """The rows of a batch that are there, on the device, by modality; those without any are left out."""
    inputs = {}
    for modality in modalities:
        there = batch.present[modality]
        if there.any():
            column = batch[modality]
            inputs[modality] = (column if there.all() else column[there]).to(device, non_blocking=True)
    return inputs


class Encoder:
    """A model in use: values in, unit vectors out. What `mmcl.load` returns and what tasks measure.

    Args:
        model: the towers.
        device: where they compute; where they are unless told.
        batch_size: rows that go through a tower at once.
    """

    def __init__(self, model: MultiTower, device: torch.device | None = None, batch_size: int = 256) -> None:
        self.device = device or next(model.parameters()).device
        self.model = model.to(self.device)
        self.batch_size = batch_size
        self.transforms = model.transforms(train=False)

    @property
    def dim(self) -> int:
        """Width of the shared space."""
        return self.model.dim

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that can be embedded."""
        return self.model.modalities

    def takes(self, modality: str) -> str:
        """Kind of input of a modality: ``image``, ``text``."""
        return self.model.tower(modality).takes

    def embed(self, modality: str, values: Sequence[Any]) -> Float[Tensor, "values dim"]:
        """Unit vectors, in fp32 on the CPU, of values that are prepared as in evaluation.

        Args:
            modality: one of `modalities`.
            values: for an image tower PIL pictures, (height, width, 3) uint8 arrays, (3, height, width) uint8 tensors
                or paths; for a text tower strings.

        Raises:
            MmclError: there is no such modality, or a value cannot be used.
        """
        tower = self.model.tower(modality)
        if isinstance(values, str | Path | Image.Image | Tensor | np.ndarray):
            raise MmclError(f"{modality}: embed takes a list of values; got one {type(values).__name__}.")
        transform = self.transforms[modality]
        rows = [transform(_value(tower.takes, value, i), np.random.default_rng) for i, value in enumerate(values)]
        chunks = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        if not chunks:
            raise MmclError(f"{modality}: nothing to embed.")
        return torch.cat([self.embed_rows(modality, transform.collate(chunk)) for chunk in chunks]).cpu()

    @torch.no_grad()
    def embed_rows(self, modality: str, rows: Tensor) -> Float[Tensor, "batch dim"]:
        """Unit vectors, in fp32 on the device, of rows that the transform has made."""
        training = self.model.training
        self.model.eval()
        try:
            vectors = self.model({modality: rows.to(self.device, non_blocking=True)})[modality]
        finally:
            self.model.train(training)
        return F.normalize(vectors.float(), dim=-1)


def _value(takes: str, value: Any, place: int) -> Any:
    """What a user hands in, as the decoder would have made it."""
    if takes == "image":
        return _picture(value, place)
    if takes == "text" and isinstance(value, str):
        return value
    raise MmclError(f"value {place}: a {takes} tower cannot take {type(value).__name__}.")


def _picture(value: Any, place: int) -> UInt8[Tensor, "3 height width"]:
    if isinstance(value, str | Path):
        if not Path(value).is_file():
            raise MmclError(f"value {place}: there is no file {str(value)!r}.")
        try:
            return decode_picture(Path(value).read_bytes())
        except BadSampleError as error:
            raise MmclError(f"value {place}: {value}: {error}.") from None
    if isinstance(value, Image.Image):
        return TF.pil_to_tensor(value.convert("RGB"))
    if isinstance(value, np.ndarray) and value.ndim == 3 and value.shape[2] == 3 and value.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(value)).permute(2, 0, 1)
    if isinstance(value, Tensor) and value.ndim == 3 and value.shape[0] == 3 and value.dtype == torch.uint8:
        return value
    raise MmclError(
        f"value {place}: an image is a path, a PIL picture, a uint8 array (height, width, 3) or a uint8 tensor (3, "
        f"height, width); got {type(value).__name__}."
    )
