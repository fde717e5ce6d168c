"""Shards to batches, in an order that no worker and no process can change."""

import contextlib
import hashlib
import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mmcl import distributed
from mmcl.data.decode import BadSampleError, Selector
from mmcl.data.order import EpochOrder, draws
from mmcl.data.shards import ShardIndex, find_shards, load_index
from mmcl.errors import MmclError
from mmcl.registry import Spec
from mmcl.types import Bad, Batch, Transform

AHEAD = 2  # batches that are being made while one is in use


class Source(Spec):
    """Shards, and where the modalities lie in their samples."""

    shards: str | list[str]
    """Files: braces, globs, folders."""
    modalities: dict[str, str]
    """Modality -> members (`jpg;png`, the first that a sample has) or a field of a JSON member (`json:caption`)."""
    identity: str | None = None
    """A field whose equal values mean that samples show the same thing; the sample's key unless told."""
    window: Annotated[int, Field(ge=1)] = 16
    """Shards whose samples are shuffled together."""


class Stream:
    """Batches of one source.

    Step s takes the s-th slice of ``batch_size`` positions of one global order, of which this process gets its share.
    Iterating goes on to the end of the epoch (its last batch may be smaller), and iterating again gives the next
    epoch; an endless stream goes on over the ends of epochs, in full batches, each sample once an epoch.

    Args:
        source: what to read.
        batch_size: rows of the global batch, over all processes.
        seed: of the order and of the transforms' draws.
        workers: threads of this process that read and decode; 0 does it in the caller's.
        shuffle: False reads in the order of the shards.
        endless: see above.
        transforms: what makes rows of decoded values, by modality; without one a column is a list.
        share: (rank, world size), where it is not that of this process.

    ``problems`` lists what the shards' indexes could not take up: members beyond a cut, second members of a name.

    Raises:
        MmclError: shards are missing, or no sample of them has a modality.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        seed: int = 0,
        workers: int = 2,
        shuffle: bool = True,
        endless: bool = False,
        transforms: Mapping[str, Transform] | None = None,
        share: tuple[int, int] | None = None,
    ) -> None:
        if batch_size < 1 or workers < 0:
            raise MmclError(f"batch_size must be 1 or more and workers 0 or more; got {batch_size} and {workers}.")
        self.source, self.batch_size, self.seed, self.workers, self.endless = source, batch_size, seed, workers, endless
        self.transforms = dict(transforms or {})
        self.window = source.window if shuffle else 0
        self.selectors = {m: Selector.parse(said, f"data: {m}") for m, said in source.modalities.items()}
        self._identity = Selector.parse(source.identity, "data: identity") if source.identity else None
        self.indexes = _load_indexes(find_shards(source.shards), workers)
        self.problems = [Bad(i.path.name, key, "", reason) for i in self.indexes for key, reason in i.problems]
        self._samples = sum(len(index.keys) for index in self.indexes)
        self._check_modalities()
        self.rank, self.world_size = share or (distributed.rank(), distributed.world_size())
        self.samples_seen = 0
        self._orders: dict[int, EpochOrder] = {}

    def __len__(self) -> int:
        """Samples of one epoch."""
        return self._samples

    @property
    def fingerprint(self) -> str:
        """Changes with the samples and with what decides on their order."""
        parts = [self.batch_size, self.seed, self.window, *(index.digest for index in self.indexes)]
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def state(self) -> dict[str, Any]:
        """Where the stream is: a few numbers that can go into JSON. Batches made ahead do not count."""
        return {"samples_seen": self.samples_seen, "fingerprint": self.fingerprint}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a stream over the same samples was, whatever its number of processes and workers.

        Raises:
            MmclError: the shards, the seed or the batch size are not the same.
        """
        if state["fingerprint"] != self.fingerprint:
            raise MmclError(
                f"data: {self.source.shards}: the shards, the seed, the window or the batch size are not those of the "
                "run that is to be resumed, so its order cannot be continued. Restore them, or start a new run."
            )
        self.samples_seen = int(state["samples_seen"])

    def raw(self, key: str, modality: str) -> tuple[str, bytes]:
        """(extension, bytes) of a modality of one sample, undecoded."""
        index = self._by_key[key]
        if index is None:
            raise MmclError(f"data: {self.source.shards}: several shards have a sample {key!r}.")
        extension = self.selectors[modality].find(index.samples[key])
        assert extension is not None, f"{key} has no {modality}"
        return extension, index.read(key, extension)

    @cached_property
    def _by_key(self) -> dict[str, ShardIndex | None]:
        """Index of the shard that has a key; None where several have it."""
        found: dict[str, ShardIndex | None] = {}
        for index in self.indexes:
            found |= {key: None if key in found else index for key in index.keys}
        return found

    def __iter__(self) -> Iterator[Batch]:
        if self.workers == 0:
            for start, stop in self._slices():
                batch = self._assemble([self._rows(self._own(start, stop))], start, stop)
                self.samples_seen = stop
                yield batch
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="mmcl-data")
        try:
            yield from self._iterate_ahead(pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _iterate_ahead(self, pool: ThreadPoolExecutor) -> Iterator[Batch]:
        waiting: deque[tuple[int, int, list[Future[list[_Row]]]]] = deque()
        slices = self._slices()
        while True:
            for start, stop in itertools.islice(slices, AHEAD + 1 - len(waiting)):
                own = self._own(start, stop)
                size = -(-len(own) // self.workers) or 1
                pieces = [own[i : i + size] for i in range(0, len(own), size)]
                waiting.append((start, stop, [pool.submit(self._rows, piece) for piece in pieces]))
            if not waiting:
                return
            start, stop, futures = waiting.popleft()
            batch = self._assemble([future.result() for future in futures], start, stop)
            self.samples_seen = stop
            yield batch

    def _slices(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of the global batches to come, in samples since the beginning of the run."""
        start = self.samples_seen
        end = None if self.endless else (start // len(self) + 1) * len(self)
        while end is None or start < end:
            stop = start + self.batch_size if end is None else min(start + self.batch_size, end)
            yield start, stop
            start = stop

    def _own(self, start: int, stop: int) -> range:
        offset, count = distributed.share(stop - start, self.rank, self.world_size)
        return range(start + offset, start + offset + count)

    def _rows(self, positions: Sequence[int]) -> "list[_Row]":
        return [self._row(position) for position in positions]

    def _row(self, position: int) -> "_Row":
        epoch, place = divmod(position, len(self))
        shard, sample = self._order(epoch)[place]
        index = self.indexes[shard]
        key = index.keys[sample]  # keys may repeat from shard to shard
        values: dict[str, Any] = {}
        bad: list[Bad] = []
        for modality, selector in self.selectors.items():
            try:
                value = selector.load(index, key)
                if modality in self.transforms:
                    value = self.transforms[modality](
                        value, partial(_generator, self.seed, epoch, shard, key, modality)
                    )
                values[modality] = value
            except BadSampleError as error:
                bad.append(Bad(index.path.name, key, modality, str(error)))
        return _Row(key, self._who(shard, key), values, bad)

    def _who(self, shard: int, key: str) -> int:
        """A number that samples which show the same thing share."""
        index, who = self.indexes[shard], f"{shard}/{key}"
        if self._identity is not None:
            with contextlib.suppress(BadSampleError):  # a sample that does not say is only itself
                who = str(self._identity.load(index, key))
        return int.from_bytes(hashlib.blake2b(who.encode(), digest_size=8).digest(), "little", signed=True)

    def _order(self, epoch: int) -> EpochOrder:
        order = self._orders.get(epoch)
        if order is None:
            order = EpochOrder([len(i.keys) for i in self.indexes], self.seed, epoch, self.window)
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1} | {epoch: order}
        return order

    def _assemble(self, pieces: "list[list[_Row]]", start: int, stop: int) -> Batch:
        rows = [row for piece in pieces for row in piece]
        columns, present = {}, {}
        for modality in self.selectors:
            there = torch.tensor([modality in row.values for row in rows], dtype=torch.bool)
            values = [row.values.get(modality) for row in rows]
            transform = self.transforms.get(modality)
            columns[modality] = values if transform is None else _stack(transform, values, there)
            present[modality] = there
        return Batch(
            columns=columns,
            present=present,
            keys=[row.key for row in rows],
            ids=torch.tensor([row.who for row in rows], dtype=torch.int64),
            size=stop - start,
            offset=distributed.share(stop - start, self.rank, self.world_size)[0],
            bad=[bad for row in rows for bad in row.bad],
        )

    def _check_modalities(self) -> None:
        if not len(self):
            raise MmclError(f"data: the shards of {self.source.shards} hold no samples.")
        members = {extension for index in self.indexes for m in index.samples.values() for extension in m}
        for modality, selector in self.selectors.items():
            if not members.intersection(selector.extensions):
                raise MmclError(
                    f"data: no sample of {self.source.shards} has {modality} ({self.source.modalities[modality]}); "
                    f"their members are: {', '.join(sorted(members))}. Correct `modalities`, or leave {modality} out."
                )


class _Row:
    """One decoded sample."""

    __slots__ = ("bad", "key", "values", "who")

    def __init__(self, key: str, who: int, values: dict[str, Any], bad: list[Bad]) -> None:
        self.key, self.who, self.values, self.bad = key, who, values, bad


def _generator(*what: int | str) -> np.random.Generator:
    return np.random.Generator(draws(*what))


def _stack(transform: Transform, values: list[Any], there: Tensor) -> Tensor:
    rows = [value for value in values if value is not None]
    if not rows:
        return torch.zeros(len(values), 0)
    stacked = transform.collate(rows)
    if len(rows) == len(values):
        return stacked
    full = stacked.new_zeros((len(values), *stacked.shape[1:]))
    full[there] = stacked
    return full


def _load_indexes(shards: list[Path], workers: int) -> list[ShardIndex]:
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        return list(pool.map(load_index, shards))


def stream(
    shards: str | Path | Sequence[str | Path],
    modalities: Mapping[str, str],
    *,
    batch_size: int,
    seed: int = 0,
    workers: int = 2,
    shuffle: bool = True,
    endless: bool = False,
    window: int = 16,
) -> Stream:
    """Decoded batches of tar shards, in one global order.

    Args:
        shards: files: braces (``{000..009}.tar``), globs, folders.
        modalities: modality -> members (``jpg;png``) or a field of a JSON member (``json:caption``).
        batch_size: rows of the global batch, over all processes.
        seed: of the order.
        workers: threads that read and decode.
        shuffle: False reads in the order of the shards.
        endless: go on over the ends of epochs.
        window: shards whose samples are shuffled together.

    Returns:
        An iterable of `Batch`: ``batch["image"]`` is a list of uint8 (3, height, width) tensors, ``batch["text"]`` of
        strings.
    """
    listed = str(shards) if isinstance(shards, str | Path) else [str(s) for s in shards]
    source = Source(shards=listed, modalities=dict(modalities), window=window)
    return Stream(source, batch_size=batch_size, seed=seed, workers=workers, shuffle=shuffle, endless=endless)
