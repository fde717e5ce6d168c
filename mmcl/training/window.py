"""The numbers of the steps between two rows of metrics.jsonl."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from mmcl.training.learner import Outcome


@dataclass(frozen=True)
class Found:
    """What the host knows of a window once it has looked."""

    means: dict[str, float]
    """Of the steps that were taken."""
    skipped: int
    """Steps that were left out."""
    streak: int
    """Most of them one after another, those before the window included."""
    open: bool
    """Whether the last step is one of them."""
    step: int
    """The first of them."""
    broken: dict[str, float]
    """Its numbers that are not finite."""


class Window:
    """Sums over the steps since the last row, on the device, where nobody waits for them until `read`.

    Args:
        step: that has been done before.
        samples: that were seen before.
        device: where the learner's numbers are.
        streak: steps that were left out just before.
    """

    def __init__(self, step: int, samples: int, device: torch.device, streak: Tensor | None = None) -> None:
        self.first, self.samples, self.device = step, samples, device
        self.start = time.perf_counter()
        self._rests: float | None = None
        self.sums: dict[tuple[str, ...], Tensor] = {}  # of numbers, and how many; terms may be switched on in between
        self.broken: dict[tuple[str, ...], Tensor] = {}  # numbers of the first step that was left out, and the step
        self.skipped = torch.zeros((), device=device)
        self.streak = self.skipped if streak is None else streak
        self.longest = self.streak

    @property
    def seconds(self) -> float:
        """Since the window began, rests aside."""
        return (time.perf_counter() if self._rests is None else self._rests) - self.start

    @contextmanager
    def resting(self) -> Iterator[None]:
        """What is done within it takes no time of the steps."""
        self._rests = time.perf_counter()
        try:
            yield
        finally:
            self.start += time.perf_counter() - self._rests
            self._rests = None

    def add(self, outcome: Outcome, step: int) -> None:
        """Take up a step, which is number ``step``."""
        names, values, taken = outcome
        none = values.new_zeros(len(names) + 1)
        now = torch.cat([values, none[:1] + 1])
        self.sums[names] = self.sums.get(names, none) + torch.where(taken, now, 0.0)
        first = ~taken & (self.skipped == 0)
        now = torch.cat([values, none[:1] + step])
        self.broken[names] = torch.where(first, now, self.broken.get(names, none))
        self.skipped = self.skipped + ~taken
        self.streak = (self.streak + 1) * ~taken
        self.longest = torch.maximum(self.longest, self.streak)

    def read(self) -> Found:
        """Wait for the device, and look."""
        pulled = self.state()
        sums, counts = Counter[str](), Counter[str]()
        for names, (*values, count) in pulled["sums"]:
            sums.update(dict(zip(names, values, strict=True)))
            counts.update(dict.fromkeys(names, count))
        means = {name: sums[name] / count for name, count in counts.items() if count and not _is_flag(name)}
        skipped, streak, longest = map(int, pulled["skipped"])
        firsts = [(int(step), dict(zip(names, v, strict=True))) for names, (*v, step) in pulled["broken"] if step]
        step, numbers = min(firsts, key=itemgetter(0), default=(0, {}))
        broken = {n: x for n, x in numbers.items() if not math.isfinite(x)}
        return Found(means, skipped, longest, streak > 0, step, broken)

    def state(self) -> dict[str, Any]:
        """All of it, as JSON can hold it; waits for the device."""
        tensors = [*self.sums.values(), *self.broken.values(), torch.stack([self.skipped, self.streak, self.longest])]
        numbers = iter(torch.cat(tensors).tolist())
        sums, broken = (
            [[list(n), list(islice(numbers, len(x)))] for n, x in d.items()] for d in (self.sums, self.broken)
        )
        return {
            "first": self.first,
            "samples": self.samples,
            "seconds": self.seconds,
            "sums": sums,
            "broken": broken,
            "skipped": list(numbers),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.first, self.samples = state["first"], state["samples"]
        self.start = time.perf_counter() - state["seconds"]
        for own, kept in ((self.sums, state["sums"]), (self.broken, state["broken"])):
            own.update({tuple(names): torch.tensor(numbers, device=self.device) for names, numbers in kept})
        self.skipped, self.streak, self.longest = torch.tensor(state["skipped"], device=self.device)


def _is_flag(name: str) -> bool:
    return name.startswith("vectors/")


def broken_in_words(broken: Mapping[str, float]) -> str:
    """Where a step broke, as far as can be seen: the first thing on the way from the batch to the weights.

    >>> broken_in_words({"loss": math.nan, "loss/clip": math.nan, "grad_norm": math.nan, "vectors/image": math.nan})
    'the tower of image gives vectors that are not finite'
    >>> broken_in_words({"loss": math.inf, "loss/clip": math.inf, "grad_norm": math.nan})
    'the term clip is inf although all vectors are finite'
    >>> broken_in_words({"grad_norm": math.inf, "towers/image/grad_norm": math.inf})
    'the loss is finite, but the gradient of towers/image is inf'
    """
    towers = [name.removeprefix("vectors/") for name in broken if _is_flag(name)]
    terms = {name.removeprefix("loss/"): value for name, value in broken.items() if name.startswith("loss/")}
    owners = {name.removesuffix("/grad_norm"): x for name, x in broken.items() if name.endswith("/grad_norm")}
    if towers:
        return f"the tower of {' and that of '.join(towers)} give{'s' * (len(towers) == 1)} vectors that are not finite"
    if terms:
        said = " and ".join(f"{name} is {value}" for name, value in terms.items())
        return f"the term {said} although all vectors are finite"
    said = " and ".join(f"of {name} is {value}" for name, value in owners.items())
    return f"the loss is finite, but the gradient {said}"
