"""Shards to batches, in an order that no worker and no process can change."""

import hashlib
import itertools
import operator
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import ValidationError

from mmcl import distributed
from mmcl.data.mixture import Batches, Places, order_over
from mmcl.data.pool import Ref
from mmcl.data.remote import ShardCache
from mmcl.data.rows import Filled, Reader
from mmcl.data.shards import find_shards
from mmcl.data.source import Source
from mmcl.data.store import ShardSet, default_cache
from mmcl.errors import MmclError, did_you_mean
from mmcl.registry import explain
from mmcl.types import Bad, Batch, Transform

AHEAD = 2  # batches that are being made while one is in use
LastBatch = Literal["carry", "drop", "pad", "keep"]


@dataclass(frozen=True)
class _Plan:
    """One global batch to come: what is in it, and where the order stands after it."""

    places: Places
    size: int  # rows, padding included
    epoch: int
    news: list[Bad]
    state: dict[str, Any]
    dropped: int


class Stream:
    """Batches of shards.

    Step s takes the s-th slice of ``batch_size`` positions of one global order, of which this process gets its share.
    Iterating goes on to the end of the epoch, and iterating again gives the next one; an endless stream goes on over
    the ends of epochs.

    What happens to the samples that do not fill a batch at the end of an epoch, the same on every process:
    ``carry``: the batch is filled from the next epoch (endless streams only); ``keep``: it is smaller; ``pad``: it is
    filled with rows in which everything is absent; ``drop``: they are left out and counted in ``dropped``.

    Args:
        sources: what to read: one, or several. Several without weights are one pool of shards in one order, each sample
            once an epoch; with weights each batch is a mixture of them (see `Mixture`).
        batch_size: rows of the global batch, over all processes.
        seed: of the order and of the transforms' draws.
        workers: threads of this process that read and decode; 0 does it in the caller's.
        shuffle: False reads in the order of the shards.
        endless: see above.
        last_batch: see above; ``carry`` in endless streams and ``keep`` in others unless told.
        transforms: what makes rows of decoded values, by modality; without one a column is a list.
        copies: how many columns each modality has (``image``, ``image.2``, ...): see `Reader`.
        batches: of sources with weights: each batch a mixture of all (``mixed``), or of one of them (``by_source``).
        share: (rank, world size), where it is not that of this process.
        cache: opens where remote shards are put, if there are any; see `default_cache`.
        own_ids: sets samples that do not say what they show apart from those of other streams: ids of the first samples
            of two streams would be the same otherwise.

    Raises:
        MmclError: shards are missing, or no sample of them has a modality.
    """

    def __init__(  # noqa: PLR0913 - all of them are choices of the caller's
        self,
        sources: Source | Sequence[Source],
        *,
        batch_size: int,
        seed: int = 0,
        workers: int = 2,
        shuffle: bool = True,
        endless: bool = False,
        last_batch: LastBatch | None = None,
        transforms: Mapping[str, Transform] | None = None,
        copies: Mapping[str, int] | None = None,
        batches: Batches = "mixed",
        share: tuple[int, int] | None = None,
        cache: Callable[[], ShardCache] | None = None,
        own_ids: str = "",
    ) -> None:
        batch_size, workers = _integer("batch_size", batch_size, 1), _integer("workers", workers, 0)
        seed = _integer("seed", seed)
        self.last_batch: LastBatch = last_batch or ("carry" if endless else "keep")
        if self.last_batch not in get_args(LastBatch):
            raise MmclError(f"last_batch must be one of {', '.join(get_args(LastBatch))}; got {last_batch!r}.")
        if self.last_batch == "carry" and not endless:
            raise MmclError("last_batch: carry needs an endless stream; keep, pad or drop it.")
        self.sources = [sources] if isinstance(sources, Source) else list(sources)
        self.batch_size, self.seed, self.workers, self.endless = batch_size, seed, workers, endless
        self.rank, self.world_size = share or (distributed.rank(), distributed.world_size())
        found = [find_shards(source.shards) for source in self.sources]
        listed = [shard for shards in found for shard in shards]
        self.shards = ShardSet(listed, cache or default_cache)
        self.order, settings = order_over(
            self.sources, [len(shards) for shards in found], self.shards, seed, shuffle, endless, batches
        )
        of_shard = [number for number, shards in enumerate(found) for _ in shards]
        self.reader = Reader(self.sources, of_shard, seed, dict(transforms or {}), copies, own_ids)
        if unknown := sorted(set(transforms or {}) - set(self.reader.modalities)):
            raise MmclError(
                f"transforms: {unknown[0]} is none of the modalities{did_you_mean(unknown[0], self.reader.modalities)} "
                f"They are: {', '.join(self.reader.modalities)}."
            )
        self.reader.check(self.shards)
        self.reader.measure(self.shards)
        self.fingerprint = _hash(batch_size, self.last_batch, settings, [shard.name for shard in listed])
        self._content = [_known([shard.digest for shard in listed]), _known(self.shards.sizes)]
        self.samples_seen = self.dropped = 0
        self._after = self.order.state()  # the last batch that was handed out
        self._end = (self._after, 0)
        self._iterations = 0
        self._stop: int | None = None

    @property
    def samples(self) -> int:
        """Of one epoch.

        Raises:
            MmclError: a pipe or an undescribed remote shard has them, and nobody knows how many.
        """
        return self.order.samples

    def state(self) -> dict[str, Any]:
        """Where the stream is: a few numbers that can go into JSON. Batches made ahead do not count."""
        return {
            "samples_seen": self.samples_seen,
            "dropped": self.dropped,
            "order": self._after,
            "fingerprint": self.fingerprint,
            "content": self._content,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a stream over the same samples was, whatever its number of processes and workers.

        Raises:
            MmclError: the shards, the seed or the batch size are not the same.
        """
        try:
            self._restore(state)
        except MmclError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise MmclError(f"data: this is no state of a stream ({type(error).__name__}: {error}).") from None

    def _restore(self, state: Mapping[str, Any]) -> None:
        if missing := {*self.state()} - {*state}:
            raise MmclError(f"data: this is no state of a stream; it lacks {', '.join(sorted(missing))}.")
        pairs = zip(state["content"], self._content, strict=True)
        changed = any(None not in pair and pair[0] != pair[1] for pair in pairs)
        if state["fingerprint"] != self.fingerprint or changed:
            names = ", ".join(str(source.shards) for source in self.sources)
            raise MmclError(
                f"data: {names}: the shards, the seed, the window, the weights, the kind of batches or their size are "
                "not those of the run that is to be resumed, so its order cannot be continued. Restore them, or start "
                "a new run."
            )
        self.order.restore(state["order"])
        self._after = dict(state["order"])
        self.samples_seen, self.dropped, self._stop = int(state["samples_seen"]), int(state["dropped"]), None

    def seek(self, start: int, stop: int) -> None:
        """Have the next iteration give some samples of the first epoch, counted in the order of the shards.

        Shards that hold none of them are not read. What is wrong with a shard itself is told where its first sample is.

        Args:
            start: number of the first sample.
            stop: number of the sample after the last one.

        Raises:
            MmclError: the order is not that of the shards, or they have no such samples.
        """
        if not 0 <= start < stop <= self.samples:
            raise MmclError(f"data: there are samples 0 to {self.samples - 1}; asked for {start} to {stop - 1}.")
        self.order.seek(start)
        self._after, self._stop = self.order.state(), stop
        self.samples_seen, self.dropped = start, 0

    def __iter__(self) -> Generator[Batch, None, None]:
        self._iterations += 1
        mine = self._iterations
        for batch in self._iterate():
            yield batch
            if mine != self._iterations:
                raise MmclError(
                    "data: this stream was iterated anew meanwhile, and went on from here; an older iterator would "
                    "repeat samples. Use one iterator at a time, or a stream for each."
                )

    def _iterate(self) -> Iterator[Batch]:
        if self.order.state() != self._after:  # an iteration before made batches that were not handed out
            self.order.restore(self._after)
        if self.workers == 0:
            yield from self._iterate_here()
        else:
            pool = ThreadPoolExecutor(self.workers, thread_name_prefix="mmcl-data")
            try:
                yield from self._iterate_ahead(pool)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        self._after, self.dropped = self._end

    def _iterate_here(self) -> Iterator[Batch]:
        for plan in self._plans():
            own = self._own(plan)
            filled = self.reader.empty(len(own))
            self.reader.fill(own, filled, 0)
            yield self._finish(plan, filled)

    def _iterate_ahead(self, pool: ThreadPoolExecutor) -> Iterator[Batch]:
        waiting: deque[tuple[_Plan, Filled, list[Future[None]]]] = deque()
        plans = self._plans()
        while True:
            for plan in itertools.islice(plans, AHEAD + 1 - len(waiting)):
                own = self._own(plan)
                filled = self.reader.empty(len(own))
                size = -(-len(own) // (2 * self.workers)) or 1
                pieces = [pool.submit(self.reader.fill, own[i : i + size], filled, i) for i in range(0, len(own), size)]
                waiting.append((plan, filled, pieces))
            if not waiting:
                return
            plan, filled, pieces = waiting.popleft()
            for piece in pieces:
                piece.result()
            yield self._finish(plan, filled)

    def _plans(self) -> Iterator[_Plan]:
        """The global batches to come; the last one also tells what was found in windows after it that hold nothing."""
        if self.endless:
            yield from self._taken()
            return
        held: _Plan | None = None
        for plan in self._taken():
            if held is not None:
                yield held
            held = plan
        if held is not None:
            held.news.extend(self.order.news())
            yield held
        elif self._end[1] == self.dropped:
            why = "".join(f" ({bad.shard}: {bad.reason})" for bad in self.order.news()[:1])
            raise MmclError(f"data: {', '.join(str(source.shards) for source in self.sources)} hold no samples{why}.")

    def _taken(self) -> Iterator[_Plan]:
        """The global batches to come, as they are taken from the order."""
        dropped, barren = self.dropped, 0  # ends of epochs since the last batch
        while True:
            epoch = self.order.epoch
            room = self.batch_size
            if self._stop is not None:
                room = min(room, self._stop - self.order.position)
                if not room:
                    self._end = self.order.state(), dropped
                    return
            places = self.order.take(room, across=self.last_batch == "carry")
            count = len(places)
            if count < self.batch_size and self.last_batch == "drop":
                dropped += count
                barren += 1
                if self.endless and barren > 1:
                    raise MmclError(
                        f"data: an epoch has fewer samples than the {self.batch_size} of a batch, and last_batch: drop "
                        "leaves all of them out. Make batch_size smaller, or carry the last batch on."
                    )
            elif count:
                barren = 0
                size = self.batch_size if self.last_batch == "pad" else count
                yield _Plan(places, size, epoch, self.order.news(), self.order.state(), dropped)
            if not self.endless and (self.order.ended or not count):
                self._end = self.order.state(), dropped
                return

    def _own(self, plan: _Plan) -> list[Ref | None]:
        """This process's rows; None is padding."""
        offset, count = distributed.share(plan.size, self.rank, self.world_size)
        rows = len(plan.places)
        return [plan.places[row] if row < rows else None for row in range(offset, offset + count)]

    def _finish(self, plan: _Plan, filled: Filled) -> Batch:
        self.samples_seen += len(plan.places)
        self._after, self.dropped = plan.state, plan.dropped
        columns, present, counts = self.reader.finish(filled)
        return Batch(
            columns=columns,
            present=present,
            keys=filled.keys,
            ids=torch.tensor(filled.ids, dtype=torch.int64),
            size=plan.size,
            offset=distributed.share(plan.size, self.rank, self.world_size)[0],
            bad=[*(plan.news if self.rank == 0 else []), *(bad for row in filled.bad for bad in row)],
            epoch=plan.epoch,
            counts=counts,
            carried=None if plan.places.source is None else self.reader.carried[plan.places.source],
        )

    def raw(self, key: str, modality: str) -> tuple[str, bytes]:
        """(extension, bytes) of a modality of one sample, undecoded.

        Raises:
            MmclError: no shard, or more than one, has the key.
        """
        return self.reader.raw(self.shards, key, modality)


def _integer(name: str, value: Any, least: int | None = None) -> int:
    """What can be an integer (numpy's are) as Python's own, which JSON can hold."""
    try:
        number = operator.index(value)
    except TypeError:
        raise MmclError(f"{name} must be an integer; got {value!r}.") from None
    if least is not None and number < least:
        raise MmclError(f"{name} must be {least} or more; got {number}.")
    return number


def _known(parts: list[Any]) -> str | None:
    """A hash of what is known of all shards."""
    return None if None in parts else _hash(parts)


def _hash(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def stream(  # noqa: PLR0913 - the public face of Source and Stream
    shards: str | Path | Sequence[str | Path],
    modalities: Mapping[str, str],
    *,
    batch_size: int,
    seed: int = 0,
    workers: int = 2,
    shuffle: bool = True,
    endless: bool = False,
    last_batch: LastBatch | None = None,
    transforms: Mapping[str, Transform] | None = None,
    copies: Mapping[str, int] | None = None,
    **source: Any,
) -> Stream:
    """Batches of tar shards, in one global order.

    Args:
        shards: files: braces (``{000..009}.tar``), globs, folders, URLs.
        modalities: modality -> members (``jpg;png``) or a field of a JSON member (``json:caption``).
        batch_size: rows of the global batch, over all processes.
        seed: of the order.
        workers: threads that read and decode.
        shuffle: False reads in the order of the shards.
        endless: go on over the ends of epochs.
        last_batch: what becomes of a batch that the end of an epoch leaves incomplete: see `Stream`.
        transforms: what makes rows of decoded values, by modality.
        copies: how many columns each modality has (``image``, ``image.2``, ...): see `Reader`.
        **source: further keys of `Source`: ``window``, ``captions``, ``identity``, ``optional``, ``extras``.

    Returns:
        An iterable of `Batch`: without transforms ``batch["image"]`` is a list of uint8 (3, height, width) tensors,
        ``batch["text"]`` of strings, ``batch["audio"]`` of (samples, rate).

    Example:
        >>> import mmcl
        >>> stream = mmcl.data.stream("shards/{000..009}.tar", {"image": "jpg;png", "text": "txt"}, batch_size=256)
        ... # doctest: +SKIP
    """
    listed = str(shards) if isinstance(shards, str | Path) else [str(s) for s in shards]
    try:
        read = Source(shards=listed, modalities=dict(modalities), **source)
    except ValidationError as error:
        raise explain(error, "data") from None
    return Stream(
        read,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        shuffle=shuffle,
        endless=endless,
        last_batch=last_batch,
        transforms=transforms,
        copies=copies,
    )
