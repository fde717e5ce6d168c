"""Counts of what comes again and again, in bounded memory."""

from collections.abc import Iterator
from typing import NamedTuple

MOST = 1000  # different values that are counted one by one
LETTERS = 100  # of a value's text


class Place(NamedTuple):
    """Where a sample lies: numbers of the shard and of the sample in it."""

    shard: int
    sample: int


class Counted(NamedTuple):
    """A value, how often it comes, and where it came first."""

    value: str
    n: int
    first: Place


class Counter:
    """How often values come, and where each came first: the first 1,000 different ones, and the rest together.

    Where there was a rest, a count is the least that it can be: a value that came among the rest of one shard may have
    been counted in others.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, Place]] = {}
        self.rest = 0

    def __len__(self) -> int:
        return len(self._found)

    def add(self, value: str, place: Place, count: int = 1) -> None:
        """Count a value once more."""
        if len(value) > LETTERS:
            value = f"{value[: LETTERS - 1]}…"
        before = self._found.get(value)
        if before is not None:
            self._found[value] = before[0] + count, before[1]
        elif len(self._found) < MOST:
            self._found[value] = count, place
        else:
            self.rest += count

    def merge(self, later: "Counter") -> None:
        """Add what was counted in a later shard."""
        for one in later:
            self.add(one.value, one.first, one.n)
        self.rest += later.rest

    def __iter__(self) -> Iterator[Counted]:
        """In the order in which they came first."""
        return (Counted(value, count, place) for value, (count, place) in self._found.items())

    def most(self, number: int | None = None) -> list[Counted]:
        """The most frequent ones; of equally frequent ones, what came first."""
        return sorted(self, key=lambda one: -one.n)[:number]

    @property
    def total(self) -> int:
        """Of all counts."""
        return sum(one.n for one in self) + self.rest
