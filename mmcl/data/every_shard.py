"""One function over many shards, on all cores."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmcl.errors import MmclError

S = TypeVar("S")
R = TypeVar("R")


def every_shard(
    work: Callable[[S], R], shards: Sequence[S], title: str, processes: int | None = None
) -> Iterator[tuple[S, R | None]]:
    """Results as they come, in no order, with a progress bar on a terminal's standard error.

    Args:
        work: a function of a module, which may end in an MmclError.
        shards: its arguments.
        title: of the bar.
        processes: one a core unless told.

    Yields:
        Shard and result; None where reading the shard killed the process that read it, twice.

    Raises:
        MmclError: there are to be no processes.
    """
    if processes is not None and processes < 1:
        raise MmclError(f"processes must be 1 or more; got {processes}.")
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(TextColumn(title), *columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=len(shards))
        count = min(processes or len(os.sched_getaffinity(0)), len(shards))
        for shard, result, died in _run(work, shards, count):
            if died:  # perhaps by its neighbour's fault
                ((shard, result, _),) = _run(work, [shard], 1)
            yield shard, result
            bar.advance(task)


def _run(work: Callable[[S], R], shards: Sequence[S], processes: int) -> Iterator[tuple[S, R | None, bool]]:
    context = multiprocessing.get_context("forkserver")  # a fork of this process would take over its threads' locks
    context.set_forkserver_preload([work.__module__])
    with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = {pool.submit(work, shard): shard for shard in shards}
        for future in as_completed(futures):
            shard = futures.pop(future)  # or all results would be kept
            try:
                yield shard, future.result(), False
            except BrokenProcessPool:
                yield shard, None, True
