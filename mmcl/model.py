"""Towers to one shared space."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from mmcl import marks
from mmcl.data.source import array
from mmcl.errors import BadSampleError, MmclError
from mmcl.media import Picture, Sound
from mmcl.media.image import decoded
from mmcl.towers import Tower
from mmcl.types import Batch, Transform, modality_of

OPENED: dict[str, Callable[[Path], Any]] = {
    "image": lambda path: Picture(path.read_bytes()),
    "audio": Sound,  # which reads no more of it than is used
    "vector": lambda path: array(path.read_bytes()),
}
"""What opens a file of what a tower takes."""


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

    def at_step(self, step: int) -> None:
        """Let each tower learn, or stand still, as its policy has it at a step of the optimizer."""
        for modality in self.towers:
            self.tower(modality).at_step(step)

    def lr_factors(self) -> dict[str, float]:
        """Parameter -> factor of the learning rate, of those that do not learn at 1."""
        return {
            f"towers.{modality}.{name}": factor
            for modality in self.towers
            for name, factor in self.tower(modality).lr_factors().items()
        }

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "_ dim"]]:
        """Vectors, not normalised, of the rows of each modality that is given. Absent modalities cost nothing."""
        vectors: dict[str, Tensor] = {}
        for modality, rows in inputs.items():
            with marks.part(f"forward: {modality}"):
                vectors[modality] = self.tower(modality)(rows)
        if not vectors or (torch.is_grad_enabled() and not any(made.requires_grad for made in vectors.values())):
            vectors |= self._depending(vectors)
        return vectors

    def _depending(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One of the vectors, or none of any rows, made to depend on a parameter: DDP waits for this process.

        Here are no rows, or only those of towers that stand still. The parameter is one that learns now, because the
        optimizer would decay it. Where none learns (graphs of ONNX), nobody trains.
        """
        learning = (p for modality in self.towers for p in self.tower(modality).learning_parameters())
        parameter = next(learning, None)
        if parameter is None:
            return {} if vectors else {self.modalities[0]: torch.empty(0, self.dim)}
        nothing = parameter.reshape(-1)[:0, None].expand(0, self.dim)
        name = next(iter(vectors), self.modalities[0])
        return {name: torch.cat([vectors[name], nothing.to(vectors[name].dtype)]) if name in vectors else nothing}


def present_rows(batch: Batch, names: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """The rows of a batch that are there, on the device, by name; those without any are left out."""
    inputs = {}
    for name in names:
        there = batch.present[name]
        if there.any():
            column = batch[name]
            inputs[name] = (column if there.all() else column[there]).to(device, non_blocking=True)
    return inputs


def embedded(model: nn.Module, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Vectors of rows, by name: one pass through each tower, over all copies of its modality together.

    Args:
        model: the towers, perhaps wrapped.
        rows: of the names that have any, those of one tower in one form.
    """
    if not rows:
        return model({})
    names: dict[str, list[str]] = {}
    for name in rows:
        names.setdefault(modality_of(name), []).append(name)
    inputs = {t: rows[own[0]] if len(own) == 1 else torch.cat([rows[name] for name in own]) for t, own in names.items()}
    vectors = {}
    for tower, made in model(inputs).items():
        own = names[tower]
        vectors |= dict(zip(own, made.split([len(rows[name]) for name in own]), strict=True))
    return vectors


def embedded_in_parts(model: nn.Module, rows: Mapping[str, Tensor], chunk: int | None) -> dict[str, Tensor]:
    """Vectors of rows, by name, in fp32; ``chunk`` rows of a name go through its tower at once, or all of them."""
    if chunk is None or not rows:
        return {name: vectors.float() for name, vectors in embedded(model, rows).items()}
    parts = {name: [embedded(model, {name: part})[name] for part in some.split(chunk)] for name, some in rows.items()}
    return {name: torch.cat(some).float() for name, some in parts.items()}


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Modules in evaluation mode, and then each as it was."""
    turned = [module for module in modules if any(part.training for part in module.modules())]  # to turn one takes long
    before = [module.training for module in turned]
    for module in turned:
        module.eval()
    try:
        yield
    finally:
        for module, training in zip(turned, before, strict=True):
            module.train(training)


def hash_tensors(digest: "hashlib.blake2b", tensors: Mapping[str, Tensor]) -> None:
    """Feed a hash with tensors: names, types, shapes and contents, in the order of the names."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())


class Encoder:
    """A model in use: values in, unit vectors out. What `mmcl.load` returns and what tasks measure.

    Args:
        model: the towers.
        device: where they compute; where they are unless told.
        batch_size: rows that go through a tower at once.
    """

    def __init__(self, model: MultiTower, device: torch.device | None = None, batch_size: int = 256) -> None:
        self.device = device or next(model.parameters(), torch.empty(0)).device
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
        """Kind of input of a modality: ``image``, ``audio``, ``text`` or ``vector``."""
        return self.model.tower(modality).takes

    def embed(self, modality: str, values: Sequence[Any] | np.ndarray | Tensor) -> Float[Tensor, "values dim"]:
        """Unit vectors, in fp32 on the CPU, of values that are prepared as in evaluation.

        Args:
            modality: one of `modalities`.
            values: for an image tower PIL pictures, (height, width, 3) uint8 arrays, (3, height, width) uint8 tensors
                or paths; for an audio tower (samples, rate) with samples (frames,) or (frames, channels), floats in
                [-1, 1] or integers of 8, 16 or 32 bits, or paths; for a text tower strings; for a vector tower
                arrays, tensors or lists of numbers, or paths to .npy files, or one array with a row a value.

        Raises:
            MmclError: there is no such modality, or a value cannot be used.
        """
        tower = self.model.tower(modality)
        one = isinstance(values, str | Path | Image.Image | Tensor | np.ndarray)
        if one and not (tower.takes == "vector" and getattr(values, "ndim", 0) == 2):
            raise MmclError(f"{modality}: embed takes a list of values; got one {type(values).__name__}.")
        if not len(values):
            raise MmclError(f"{modality}: nothing to embed.")
        starts = range(0, len(values), self.batch_size)
        chunks = (self.rows(modality, values[start : start + self.batch_size], start) for start in starts)
        return torch.cat([self.embed_rows(modality, rows) for rows in chunks]).cpu()

    def rows(self, modality: str, values: Sequence[Any] | np.ndarray | Tensor, first: int = 0) -> Tensor:
        """One batch of rows, as the transform makes them in evaluation, of values as `embed` takes them.

        Args:
            modality: one of `modalities`.
            values: of that modality.
            first: number of the first one, for errors.

        Raises:
            MmclError: there is no such modality, or a value cannot be used.
        """
        tower, transform = self.model.tower(modality), self.transforms[modality]
        rows = transform.empty(len(values))
        for place, value in enumerate(values):
            _fill(transform, tower.takes, value, rows[place], first + place)
        return transform.finish(rows, torch.ones(len(rows), dtype=torch.bool))

    @torch.no_grad()
    def embed_rows(self, modality: str, rows: Tensor) -> Float[Tensor, "batch dim"]:
        """Unit vectors, in fp32 on the device, of rows that the transform has made."""
        with evaluating(self.model):
            vectors = self.model({modality: rows.to(self.device, non_blocking=True)})[modality]
        return F.normalize(vectors.float(), dim=-1)


def _fill(transform: Transform, takes: str, value: Any, row: Tensor, place: int) -> None:
    """One row from what a user hands in."""
    try:
        transform(_value(takes, value), np.random.default_rng, row)
    except BadSampleError as error:
        named = f"{value}: " if isinstance(value, str | Path) and takes != "text" else ""
        raise MmclError(f"value {place}: {named}{error}.") from None


def _value(takes: str, value: Any) -> Any:
    """What a user hands in, as the decoder would have made it."""
    if takes == "text" and isinstance(value, str):
        return value
    if takes in OPENED and isinstance(value, str | Path):
        if not Path(value).is_file():
            raise BadSampleError("there is no such file")
        return OPENED[takes](Path(value))
    if takes == "image":
        return _picture(value)
    if takes == "vector":
        return _vector(value)
    if takes == "audio" and isinstance(value, tuple) and len(value) == 2:
        return _sound(*value)
    raise BadSampleError(
        f"{'an' if takes in ('image', 'audio') else 'a'} {takes} tower cannot take {type(value).__name__}"
    )


def _picture(value: Any) -> Picture:
    if isinstance(value, Image.Image):
        return Picture.of(decoded(value))
    if isinstance(value, np.ndarray) and value.ndim == 3 and value.shape[2] == 3 and value.dtype == np.uint8:
        return Picture.of(np.require(value, requirements=["C", "W"]))
    if isinstance(value, Tensor) and value.ndim == 3 and value.shape[0] == 3 and value.dtype == torch.uint8:
        return Picture.of(value.permute(1, 2, 0).contiguous().cpu().numpy())
    raise BadSampleError(
        "an image is a path, a PIL picture, a uint8 array (height, width, 3) or a uint8 tensor (3, height, width); got "
        f"{type(value).__name__}"
    )


def _sound(samples: Any, rate: Any) -> Sound:
    if isinstance(samples, Tensor):
        samples = samples.detach().cpu()
        samples = samples.float() if samples.is_floating_point() else samples
    try:
        if rate != int(rate):
            raise ValueError
        return Sound.of(np.asarray(samples), int(rate))
    except (TypeError, ValueError, OverflowError):  # rows of several lengths, a rate that is no whole number
        raise BadSampleError(
            f"a sound is (samples, rate), an array and a whole number; got ({type(samples).__name__}, {rate!r})"
        ) from None


def _vector(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    try:
        given = np.array(value)
        return torch.from_numpy(given.astype(given.dtype.newbyteorder("=")))  # torch has one order of bytes
    except (TypeError, ValueError):  # rows of several lengths, words
        raise BadSampleError(
            f"a vector is an array, a tensor or a list of numbers; got {type(value).__name__}"
        ) from None
