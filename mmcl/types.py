"""The records that pass between the parts: what a stream yields, and what a loss sees."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mmcl.errors import MmclError

Draw = Callable[[], np.random.Generator]
"""Gives the generator of one value, seeded by (seed, epoch, sample, copy), from its beginning; only asked for where
something is drawn. It is the thread's only one: what is drawn for another value begins it anew."""


def modality_of(name: str) -> str:
    """The modality, and so the tower, of which a name with dots is a copy.

    >>> modality_of("image"), modality_of("text.wrong.2")
    ('image', 'text')
    """
    return name.partition(".")[0]


def without_copies(names: Iterable[str]) -> list[str]:
    """The modalities among names."""
    return [name for name in names if "." not in name]


def sample_id(who: str) -> int:
    """The number of what shows the same thing, the same in every batch and run."""
    return int.from_bytes(hashlib.blake2b(who.encode(), digest_size=8).digest(), "little", signed=True)


class Transform(ABC):
    """What a tower does to decoded values before they can stand in a batch (called from many threads)."""

    @abstractmethod
    def empty(self, rows: int) -> Tensor:
        """Room for a batch, one row a value, which `__call__` fills."""

    @abstractmethod
    def __call__(self, value: Any, draw: Draw, out: Tensor) -> None:
        """Fill one row. Whoever decodes a sample draws the same crop for it; its copies are other ones."""

    def finish(self, rows: Tensor, present: Bool[Tensor, " rows"]) -> Tensor:
        """The batch, once all present rows are filled. What stands in the others does not matter, and becomes zero."""
        if not present.all():
            rows[~present] = 0
        return rows


class Bad(NamedTuple):
    """A modality of a sample that could not be used, and why."""

    shard: str
    key: str
    modality: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """This process's rows of one global batch.

    ``columns[m]`` is a tensor with one row per sample where a transform made tensors (absent rows are zero), and a list
    of decoded values otherwise (absent rows are None). ``present[m]`` says which rows are there; it lies on the CPU.
    Copies (``image.2``) and extras are columns as well; extras are always tensors.
    Where all captions of a sample are asked for, the tensor has a row per caption (the list a list of captions), and
    ``counts[m]`` says how many rows belong to each sample.
    """

    columns: dict[str, Any]
    present: dict[str, Bool[Tensor, " batch"]]
    keys: list[str]
    ids: Int[
        Tensor, " batch"
    ]  # who is who: rows with equal ids show the same thing and are never each other's negatives
    size: int  # rows of the global batch
    offset: int  # of this process's first row in it
    bad: list[Bad]  # what could not be used, and so is absent
    epoch: int = 0  # of the last row, from 0
    counts: dict[str, Int[Tensor, " batch"]] = field(default_factory=dict)
    carried: frozenset[str] | None = None  # what rows of the global batch can have, and copies; None: anything

    def __getitem__(self, modality: str) -> Any:
        return self.columns[modality]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Mixed:
    """Rows of a modality that are mixtures: of a row of one's own, and of one other row.

    A row that holds nothing but itself has the weight 1, whoever its partner is.
    """

    partner: Int[Tensor, " all_batch"]  # number of the other row
    weight: Float[Tensor, " all_batch"]  # of what is the row's own; the partner has the rest of one


@dataclass(frozen=True)
class Embeddings:
    """What every loss term sees, gathered once a step.

    ``local`` are this process's rows and ``all`` the rows of every process, in the order of the ranks and with
    gradients; ``present`` and ``ids`` describe all rows. Vectors come as the towers made them: a score normalises.
    Partial losses of the processes SUM to the loss of the global batch.

    A name with a dot is one more copy of a modality, ``image.2`` another crop and ``text.2`` another caption of the
    same sample, ``text.wrong`` a caption that does not fit: terms look at copies only where they are told to.

    ``extras`` are what else is known of all rows, without gradient: vectors of a frozen tower, a grade, a flag; any
    width. What a row lacks is said by ``present``, under the same name.

    ``mixed[m]`` says that rows of m are mixtures (CutMix on the pictures, or the transform `mixup`): a contrast's
    targets are then the weights of both rows.
    """

    local: Mapping[str, Float[Tensor, "batch dim"]]
    all: Mapping[str, Float[Tensor, "all_batch dim"]]
    present: Mapping[str, Bool[Tensor, " all_batch"]]
    ids: Int[Tensor, " all_batch"]
    offset: int
    total: Callable[[Tensor], Tensor]  # differentiable sum over processes
    extras: Mapping[str, Shaped[Tensor, "all_batch ..."]] = field(default_factory=dict)
    step: int = 0  # of the optimizer
    seed: int = 0  # of the run
    number: int = 0  # of this record, where transforms make several of one
    mixed: Mapping[str, Mixed] = field(default_factory=dict)

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities, without further copies."""
        return without_copies(self.all)

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return next(iter(self.all.values())).shape[1]

    def generator(self, *numbers: int) -> torch.Generator:
        """A generator of the CPU for this step, the same on every process; ``numbers`` tell draws of a step apart."""
        words = np.random.SeedSequence([self.seed % 2**64, self.step, *numbers]).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))

    def everyone(self, x: Shaped[Tensor, " batch"]) -> Shaped[Tensor, " all_batch"]:
        """Numbers of the rows of all processes, from those of this process's rows; detached."""
        whole = x.new_zeros(self.ids.shape[0])
        whole[self.own] = x.detach()
        return self.total(whole)

    @property
    def own(self) -> slice:
        """Where this process's rows lie in `all`."""
        return slice(self.offset, self.offset + next(iter(self.local.values())).shape[0])

    @classmethod
    def single(
        cls,
        vectors: Mapping[str, Float[Tensor, "batch dim"]],
        present: Mapping[str, Bool[Tensor, " batch"]] | None = None,
        keys: Sequence[str] | None = None,
        extras: Mapping[str, Shaped[Tensor, "batch ..."]] | None = None,
    ) -> "Embeddings":
        """The record of one process that holds the whole batch; everything present and distinct unless told."""
        _check(vectors, present, keys, extras or {})
        extras = {name: _seen(x.detach(), (present or {}).get(name)) for name, x in (extras or {}).items()}
        first = next(iter(vectors.values()))
        rows, device = first.shape[0], first.device
        everything = torch.ones(rows, dtype=torch.bool, device=device)
        if present is not None:  # whatever stands in absent rows, it is not looked at
            unknown = set(present) - set(vectors) - set(extras)
            if unknown:
                raise MmclError(f"present names {sorted(unknown)}, which are not among {[*vectors, *extras]}.")
            vectors = {m: x.masked_fill(~present.get(m, everything)[:, None], 0.0) for m, x in vectors.items()}
        return cls(
            local=vectors,
            all=vectors,
            present={m: everything if present is None else present.get(m, everything) for m in (*vectors, *extras)},
            ids=torch.tensor([sample_id(k) for k in keys] if keys else range(rows), dtype=torch.long, device=device),
            offset=0,
            total=lambda x: x,
            extras=extras,
        )


def _seen(x: Tensor, there: Tensor | None) -> Tensor:
    """Rows that are there; what stands in others is not looked at."""
    if there is None or not x.is_floating_point() or there.shape != x.shape[:1]:
        return x
    return x.masked_fill(~there.view(-1, *[1] * (x.ndim - 1)), 0.0)


def _tensors(given: Mapping[str, Any]) -> None:
    for name, x in given.items():
        if not isinstance(x, Tensor):
            raise MmclError(f"{name}: a tensor is needed; got {type(x).__name__}.")


def _check(
    vectors: Mapping[str, Tensor],
    present: Mapping[str, Tensor] | None,
    keys: Sequence[str] | None,
    extras: Mapping[str, Tensor],
) -> None:
    """Refuse what is no batch."""
    if not vectors:
        raise MmclError("there are no embeddings.")
    _tensors({**(present or {}), **extras, **vectors})
    shapes = {m: tuple(x.shape) for m, x in vectors.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise MmclError(f"embeddings are (rows, dim) tensors, all of the same shape; got {shapes}.")
    kinds = {m: x.dtype for m, x in vectors.items() if not x.is_floating_point()}
    if kinds:
        raise MmclError(f"embeddings are floating-point numbers; got {kinds}.")
    rows = next(iter(shapes.values()))[0]
    for m, there in (present or {}).items():
        if there.shape != (rows,) or there.dtype != torch.bool:
            raise MmclError(f"present[{m!r}] is one bool a row, {rows}; got {there.dtype} of {tuple(there.shape)}.")
    for name, x in extras.items():
        if x.shape[:1] != (rows,) or name in vectors:
            raise MmclError(
                f"extras[{name!r}] has a row for each of {rows}, and a name of its own; got {tuple(x.shape)}."
            )
    if keys is not None and (len(keys) != rows or not all(isinstance(key, str) for key in keys)):
        kinds = sorted({type(key).__name__ for key in keys})
        raise MmclError(f"keys are strings, one a row, {rows}; got {len(keys)} ({', '.join(kinds)}).")
