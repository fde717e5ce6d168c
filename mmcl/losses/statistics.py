# ruff: noqa: D102 (what a method does stands where it is abstract)
"""What a contrast may ask of each row (or column) of the logits: numbers that need no more than a tile at a time.

A statistic sees the logits tile by tile (`update`), ends in one number per row (`result`), and says how that number
moves with a tile's logits (`gradient`), so the walk can throw the tiles away and make them again in backward. `plain`
is the same number from the whole matrix at once, for autograd.

Everywhere ``dim`` is the dimension that is summed over: 1 for a number per row, 0 for a number per column.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Over = Literal["others", "negatives", "positives"]
State = tuple[Tensor, ...]
INFINITY = float("inf")
LOG2_E = 1 / math.log(2)


@dataclass(frozen=True)
class Statistic(ABC):
    """One number per row of the logits ``a = scale * z``; masked entries are -inf and take no part."""

    scale: float = 1.0
    """Factor of the logits."""
    over: Over = "others"
    """Which columns of a row: all candidates but the row's own, those that show something else, or those that show the
    same thing and are not the row's own."""
    guided: ClassVar[bool] = False
    """Whether it sees (2, rows, columns): the logits, and log-weights that a guide gives them."""

    @abstractmethod
    def empty(self, count: int, like: Tensor) -> State:
        """What is known before the first tile."""

    @abstractmethod
    def update(self, state: State, a: Tensor, dim: int, start: int) -> State:
        """Take up a tile whose first summed entry is number ``start`` of the whole."""

    @abstractmethod
    def gradient(self, state: State, a: Tensor, g: Tensor, dim: int, start: int) -> Tensor:
        """Gradient with respect to a tile of ``a``, for the gradient ``g`` of the result."""

    @abstractmethod
    def plain(self, a: Tensor, dim: int) -> Tensor:
        """The result from the whole matrix, by ordinary operations."""

    def result(self, state: State) -> Tensor:
        """The number, once all tiles were seen."""
        return state[0]

    def merge(self, one: Tensor, other: Tensor) -> Tensor:
        """The result over the candidates of two matrices, from the results over each."""
        raise NotImplementedError(f"{type(self).__name__} of several matrices")


@dataclass(frozen=True)
class LogSumExp(Statistic):
    r"""Log of the summed exponentials :math:`r = \log \sum_j e^{a_j}`; -inf where nothing takes part."""

    def empty(self, count: int, like: Tensor) -> State:
        return (like.new_full((count,), -INFINITY),)

    def update(self, state: State, a: Tensor, dim: int, start: int) -> State:
        return (torch.logaddexp(state[0], _log_sum_exp(a, dim)),)

    def gradient(self, state: State, a: Tensor, g: Tensor, dim: int, start: int) -> Tensor:
        return _softmax(a, state[0], dim).mul_(g.unsqueeze(dim))

    def plain(self, a: Tensor, dim: int) -> Tensor:
        return a.logsumexp(dim)

    def merge(self, one: Tensor, other: Tensor) -> Tensor:
        return log_sum_exp(torch.stack([one, other]))


@dataclass(frozen=True)
class SoftmaxMean(Statistic):
    r"""Mean weighted by its own softmax, :math:`e = \sum_j \mathrm{softmax}(a)_j\, a_j`; 0 where nothing takes part."""

    def empty(self, count: int, like: Tensor) -> State:
        return like.new_zeros(count), like.new_full((count,), -INFINITY)

    def update(self, state: State, a: Tensor, dim: int, start: int) -> State:
        mean, log = state
        here = _log_sum_exp(a, dim)
        both = torch.logaddexp(log, here)
        part = (_softmax(a, here, dim) * _finite(a)).sum(dim)
        return mean * _weight(log, both) + part * _weight(here, both), both

    def gradient(self, state: State, a: Tensor, g: Tensor, dim: int, start: int) -> Tensor:
        mean, log = state
        spread = _finite(a) - mean.unsqueeze(dim)
        return _softmax(a, log, dim).mul_(spread.add_(1)).mul_(g.unsqueeze(dim))

    def plain(self, a: Tensor, dim: int) -> Tensor:
        weights = (a - _anchored(a.logsumexp(dim)).unsqueeze(dim)).exp()
        return (weights * _finite(a)).sum(dim)


@dataclass(frozen=True)
class Sum(Statistic):
    r"""Plain sum :math:`\sum_j a_j`."""

    def empty(self, count: int, like: Tensor) -> State:
        return (like.new_zeros(count),)

    def update(self, state: State, a: Tensor, dim: int, start: int) -> State:
        return (state[0] + self.plain(a, dim),)

    def gradient(self, state: State, a: Tensor, g: Tensor, dim: int, start: int) -> Tensor:
        return torch.where(a == -INFINITY, 0.0, g.unsqueeze(dim))

    def plain(self, a: Tensor, dim: int) -> Tensor:
        return _finite(a).sum(dim)

    def merge(self, one: Tensor, other: Tensor) -> Tensor:
        return one + other


@dataclass(frozen=True)
class SquareSum(Sum):
    r"""Sum of squares :math:`\sum_j a_j^2`."""

    def gradient(self, state: State, a: Tensor, g: Tensor, dim: int, start: int) -> Tensor:
        return _finite(a).mul_(2 * g.unsqueeze(dim))

    def plain(self, a: Tensor, dim: int) -> Tensor:
        return _finite(a).square().sum(dim)


@dataclass(frozen=True)
class SoftplusSum(Sum):
    r"""Sum of the binary losses of entries that should be small, :math:`\sum_j \log(1 + e^{a_j})`."""

    def gradient(self, state: State, a: Tensor, g: Tensor, dim: int, start: int) -> Tensor:
        return a.sigmoid().mul_(g.unsqueeze(dim))

    def plain(self, a: Tensor, dim: int) -> Tensor:
        return torch.nn.functional.softplus(a).sum(dim)


@dataclass(frozen=True)
class Count(Sum):
    """How many entries take part."""

    def gradient(self, state: State, a: Tensor, g: Tensor, dim: int, start: int) -> Tensor:
        return torch.zeros_like(a)

    def plain(self, a: Tensor, dim: int) -> Tensor:
        return (a != -INFINITY).sum(dim).to(a.dtype)


@dataclass(frozen=True)
class Largest(Statistic):
    """The k largest entries, largest first, as (rows, k); -inf where there are fewer."""

    k: int = 1

    def empty(self, count: int, like: Tensor) -> State:
        index = torch.zeros(count, self.k, dtype=torch.long, device=like.device)
        return like.new_full((count, self.k), -INFINITY), index

    def update(self, state: State, a: Tensor, dim: int, start: int) -> State:
        values, index = (a if dim == 1 else a.T).topk(min(self.k, a.shape[dim]), dim=1)
        values, best = torch.cat([state[0], values], 1).topk(self.k, dim=1)
        return values, torch.cat([state[1], index + start], 1).gather(1, best)

    def gradient(self, state: State, a: Tensor, g: Tensor, dim: int, start: int) -> Tensor:
        values, index = state
        here = (index >= start) & (index < start + a.shape[dim]) & (values != -INFINITY)
        rows = torch.zeros_like(a if dim == 1 else a.T)
        rows.scatter_add_(1, (index - start).clamp(0, a.shape[dim] - 1), torch.where(here, g, 0.0))
        return rows if dim == 1 else rows.T

    def plain(self, a: Tensor, dim: int) -> Tensor:
        rows = a if dim == 1 else a.T
        missing = max(0, self.k - rows.shape[1])
        return torch.nn.functional.pad(rows, (0, missing), value=-INFINITY).topk(self.k, dim=1).values

    def merge(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.cat([one, other], 1).topk(self.k, dim=1).values


@dataclass(frozen=True)
class LargestPlaces(Largest):
    """Where the k largest entries are, largest first; -1 where there are fewer. Without gradient."""

    def result(self, state: State) -> Tensor:
        return state[1].masked_fill(state[0] == -INFINITY, -1)

    def gradient(self, state: State, a: Tensor, g: Tensor, dim: int, start: int) -> Tensor:
        return torch.zeros_like(a)

    def plain(self, a: Tensor, dim: int) -> Tensor:
        state = self.update(self.empty(a.shape[1 - dim], a), a.detach(), dim, 0)
        return self.result(state)


@dataclass(frozen=True)
class Expected(Statistic):
    r"""Mean of the logits under given weights, :math:`\sum_j \mathrm{softmax}(b)_j\, a_j`.

    As (rows, 2), with the log of the weights' sum beside it; 0 and -inf where nothing takes part. The weights carry no
    gradient.
    """

    guided: ClassVar[bool] = True

    def empty(self, count: int, like: Tensor) -> State:
        return (torch.stack([like.new_zeros(count), like.new_full((count,), -INFINITY)], 1),)

    def update(self, state: State, a: Tensor, dim: int, start: int) -> State:
        mean, log = state[0].unbind(1)
        here = _log_sum_exp(a[1], dim)
        both = torch.logaddexp(log, here)
        part = (_softmax(a[1], here, dim) * _finite(a[0])).sum(dim)
        return (torch.stack([mean * _weight(log, both) + part * _weight(here, both), both], 1),)

    def gradient(self, state: State, a: Tensor, g: Tensor, dim: int, start: int) -> Tensor:
        return _softmax(a[1], state[0][:, 1], dim).mul_(g[:, 0].unsqueeze(dim))

    def plain(self, a: Tensor, dim: int) -> Tensor:
        log = a[1].detach().logsumexp(dim)
        mean = (_softmax(a[1].detach(), log, dim) * _finite(a[0])).sum(dim)
        return torch.stack([mean, log], 1)


def log_sum_exp(
    logits: Float[Tensor, "some rows"], there: Bool[Tensor, "some rows"] | None = None
) -> Float[Tensor, " rows"]:
    """Over the first dimension, of what is there; -inf where nothing is, and no gradient then instead of NaN."""
    logits = logits if there is None else logits.masked_fill(~there, -INFINITY)
    nothing = (logits == -INFINITY).all(0)
    return logits.masked_fill(nothing, 0.0).logsumexp(0).masked_fill(nothing, -INFINITY)


def _log_sum_exp(a: Tensor, dim: int) -> Tensor:
    largest = _anchored(a.amax(dim))
    return _exp_of_difference(a, largest, dim).sum(dim).log_().add_(largest)


def _softmax(a: Tensor, log: Tensor, dim: int) -> Tensor:
    """Share of each entry in ``exp(log)``; 0 for all of an empty row."""
    return _exp_of_difference(a, _anchored(log), dim)


def _exp_of_difference(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """``exp(a - b)``, by powers of two: nearly twice as fast on CPUs, and the difference is scaled as it is taken."""
    return torch.add(-LOG2_E * b.unsqueeze(dim), a, alpha=LOG2_E).exp2_()


def _anchored(log: Tensor) -> Tensor:
    """Finite also for an empty row, whose entries all are -inf: they stay so, and do not become NaN."""
    return log.masked_fill(log == -INFINITY, 0.0)


def _weight(part: Tensor, whole: Tensor) -> Tensor:
    return (part - _anchored(whole)).exp()


def _finite(a: Tensor) -> Tensor:
    """Entries that take no part, as 0."""
    return a.masked_fill(a == -INFINITY, 0.0)
