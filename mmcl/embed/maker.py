"""Makes parts: samples are read ahead, embedded here, and written behind."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch

from mmcl.embed.layouts import LAYOUTS
from mmcl.embed.progress import Progress
from mmcl.embed.rows import Rows
from mmcl.embed.samples import Samples
from mmcl.embed.work import Claim, Work, told
from mmcl.model import Encoder
from mmcl.types import Bad, Batch

AHEAD = 2  # blocks that are ready while one is embedded
BEHIND = 2  # blocks that a device may have before it
T = TypeVar("T")


class Block(NamedTuple):
    """Samples of a claimed part."""

    claim: Claim
    batch: Batch
    problems: list[Bad]
    """Of the part's shards; with its first block."""


class Maker:
    """What makes the parts of one process.

    Memory holds the vectors of one part that is being embedded and of one that is being written, and the blocks that
    are read ahead, whatever the size of the data.

    Args:
        encoder: what embeds.
        samples: of the export.
        work: the export.
        progress: is told.
    """

    def __init__(self, encoder: Encoder, samples: Samples, work: Work, progress: Progress) -> None:
        self.encoder, self.samples, self.work, self.progress = encoder, samples, work, progress
        self._options = work.plan.options

    def make(self, numbers: Iterable[int]) -> int:
        """Make those of some parts that nobody else makes or has made, and say how many that were."""
        made, rows, writing = 0, None, Future[None]()
        writing.set_result(None)
        lead = _Lead(self.encoder.device)
        with ThreadPoolExecutor(1, thread_name_prefix="mmcl-write") as writer:
            try:
                with closing(ahead(self._blocks(numbers), AHEAD)) as blocks:
                    for claim, batch, problems in blocks:
                        rows = rows or Rows(self.encoder, self.samples, self._options, claim.part, problems)
                        rows.add(batch)
                        lead.keep()
                        self.progress.add(len(batch))
                        if rows.done == len(claim.part):
                            writing.result()
                            writing, rows = writer.submit(self._write, rows, claim), None
                            made += 1
                writing.result()
            finally:
                writer.shutdown()
                self.work.release_all()
        return made

    def _blocks(self, numbers: Iterable[int]) -> Generator[Block, None, None]:
        for number in numbers:
            claim = self.work.claim(number)
            if claim is not None:
                problems = self.samples.problems(claim.part.start, claim.part.stop)
                for batch in self.samples.blocks(claim.part.start, claim.part.stop):
                    yield Block(claim, _pinned(batch, self.encoder.device), problems)

    def _write(self, rows: Rows, claim: Claim) -> None:
        with told(self.work.out):
            files = LAYOUTS[self._options.layout](rows, claim.name, claim.folder)
        self.work.put(claim, files, rows.bad)
        self.progress.written(len(claim.part))


class _Lead:
    """How far this process may run ahead of a device that computes on its own."""

    def __init__(self, device: torch.device) -> None:
        self._alone = device.type != "cpu"
        self._events: deque[Any] = deque()

    def keep(self) -> None:
        """A block more is on its way; wait for the one before the last ones."""
        if self._alone:
            event = torch.Event()
            event.record()
            self._events.append(event)
            if len(self._events) > BEHIND:
                self._events.popleft().synchronize()


def ahead(items: Generator[T, None, None], count: int) -> Generator[T, None, None]:
    """Items that a thread of their own takes, some of them ahead."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="mmcl-ahead")
    end = object()
    try:
        waiting = deque(thread.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item  # pyright: ignore[reportReturnType]
    finally:
        thread.shutdown(cancel_futures=True)
        items.close()


def _pinned(batch: Batch, device: torch.device) -> Batch:
    """The same where a GPU can fetch it while the processor goes on."""
    if device.type != "cuda":
        return batch
    columns = {name: c.pin_memory() if isinstance(c, torch.Tensor) else c for name, c in batch.columns.items()}
    return replace(batch, columns=columns)
