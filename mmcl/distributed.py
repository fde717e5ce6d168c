"""The one file that talks to torch.distributed.

Convention: partial losses of the processes SUM to the loss of the global batch. So `gather`'s backward sums the
gradients that the other processes have for our rows, and whoever averages gradients over processes afterwards (DDP
does) is told by scaling the loss with the number of processes.
"""

import os
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import psutil
import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from mmcl import marks


def rank() -> int:
    """Number of this process; 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launched() -> tuple[int, int]:
    """(rank, number of processes) as a launcher says them, before the processes know of one another."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def own_device() -> torch.device:
    """The device of this process among those that a launcher (torchrun, accelerate, srun) started on this machine.

    Nobody waits for the other processes here.
    """
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    return torch.device(kind.type, local % max(torch.accelerator.device_count(), 1))


def share(rows: int, rank: int, world_size: int) -> tuple[int, int]:
    """(offset, count) of one process's part of ``rows``: equal parts, the first ones one longer where need be.

    >>> [share(10, rank, 3) for rank in range(3)]
    [(0, 4), (4, 3), (7, 3)]
    """
    small, longer = divmod(rows, world_size)
    return rank * small + min(rank, longer), small + (rank < longer)


@cache
def _group() -> Any:
    """A group of our own: DDP reduces parameters that nothing reached already in forward, before our collectives."""
    return dist.new_group()


@cache
def _hosts() -> Any:
    """A group for what lies on the CPU, also where devices talk over nccl."""
    return dist.new_group(backend="gloo")


def gather(x: Shaped[Tensor, "batch ..."], rows: int) -> Shaped[Tensor, "all_batch ..."]:
    """Rows of all processes in the order of the ranks, with gradient.

    Args:
        x: this process's `share` of the rows.
        rows: of the global batch.
    """
    if world_size() == 1:
        return x
    with marks.part("gather"):
        return _Gather.apply(x, rows)  # type: ignore[no-any-return]


def total(x: Tensor) -> Tensor:
    """Sum over processes, with gradient."""
    if world_size() == 1:
        return x
    with marks.part("gather"):
        return _Total.apply(x)  # type: ignore[no-any-return]


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over processes, as DDP does for the parameters that it wraps."""
    if world_size() == 1:
        return
    with marks.part("gather"):
        for parameter in parameters:
            if parameter.grad is None:  # nothing reached it here, but something may have elsewhere
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad, group=_group())
            parameter.grad /= world_size()


def collect(value: Any) -> list[Any]:
    """``value`` of every process, on every process (small picklable things, between our own processes)."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def anywhere(flags: Sequence[bool]) -> list[bool]:
    """Which of some flags any process has set: between the hosts alone, so that no device is waited for."""
    if world_size() == 1:
        return list(flags)
    seen = torch.tensor(flags, dtype=torch.uint8)
    with marks.part("gather"):
        dist.all_reduce(seen, dist.ReduceOp.MAX, group=_hosts())
    return [bool(flag) for flag in seen.tolist()]


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


class Agreement:
    """A few numbers that processes agree on, one step late: of each the largest that any process has said.

    They travel beside the training, between CPUs, so that nobody waits for a device. Every process must ask at the same
    steps. One process agrees with itself at once.

    Args:
        numbers: how many.
    """

    def __init__(self, numbers: int) -> None:
        self._said = torch.zeros(numbers, dtype=torch.long)
        self._work: Any = None

    def on(self, *numbers: int) -> list[int]:
        """What was agreed on at the call before, while these are said for the next one."""
        if world_size() == 1:
            return list(numbers)
        if self._work is not None:
            self._work.wait()
        agreed, self._said = self._said.tolist(), torch.tensor(numbers)
        self._work = dist.all_reduce(self._said, op=dist.ReduceOp.MAX, group=_hosts(), async_op=True)
        return agreed

    def end(self) -> None:
        """Wait for what is still on its way."""
        if self._work is not None:
            self._work.wait()


def of_a_lost_process(error: BaseException) -> bool:
    """Whether an error of a collective says that another process is gone."""
    said = str(error).lower()
    signs = ("closed by peer", "connection reset", "connection refused", "broken pipe", "timed out", "remote process")
    return world_size() > 1 and isinstance(error, RuntimeError) and any(sign in said for sign in signs)


def requested_processes() -> int | None:
    """How many processes the launcher above this one was asked for, where it can be told.

    On CPUs ``accelerate launch --cpu --num_processes 2`` starts one process and leaves no trace of the 2 in the
    environment, so its own command line is read.
    """
    if tasks := os.environ.get("SLURM_STEP_NUM_TASKS"):
        return int(tasks)
    try:
        words = psutil.Process().parent().cmdline()  # type: ignore[union-attr]
    except (psutil.Error, AttributeError):
        return None
    if not any("accelerate" in word for word in words[:3]):
        return None
    for word, value in zip(words, [*words[1:], ""], strict=True):
        name, _, joined = word.partition("=")
        if name in ("--num_processes", "--num-processes") and (joined or value).isdigit():
            return int(joined or value)
    return None


class _Gather(torch.autograd.Function):
    """All rows from local rows; backward: the sum over processes of the gradient of the local rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: int) -> Tensor:  # type: ignore[override]
        shares = [share(rows, r, world_size()) for r in range(world_size())]
        ctx.offset, ctx.count = shares[rank()]
        assert x.shape[0] == ctx.count, f"{x.shape[0]} rows where this process's share of {rows} is {ctx.count}"
        # gloo aborts the process on unequal rows, so the shorter shares are padded by the one row that they may lack
        longest = shares[0][1]
        padded = x.new_zeros((longest, *x.shape[1:]))
        padded[: ctx.count] = x
        parts = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(parts, padded, group=_group())
        return torch.cat([part[:count] for part, (_, count) in zip(parts, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        grad = grad.contiguous().clone()
        with marks.part("gather"):
            dist.all_reduce(grad, group=_group())
        return grad[ctx.offset : ctx.offset + ctx.count], None


class _Total(torch.autograd.Function):
    """Sum over processes; backward: the sum over processes of what each process's partial loss owes to it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        x = x.clone()
        dist.all_reduce(x, group=_group())
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad = grad.contiguous().clone()
        with marks.part("gather"):
            dist.all_reduce(grad, group=_group())
        return grad
