"""What comes more than once: equal numbers, and numbers that differ in few bits."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

BITS = 2  # in which looks of one group may differ from the one that leads it; of 64
TURNS = range(0, 64, 8)  # of the bits, before they are sorted
NEIGHBOURS = 4  # in the order, that a look is compared with


class Alike(NamedTuple):
    """Groups of what is alike."""

    groups: int
    values: int
    """In all groups."""
    largest: list[NDArray[np.int64]]
    """Rows of the largest groups; of equally large ones, those that come first."""


def alike(values: NDArray[Any], shown: int) -> Alike:
    """Groups of rows of equal values.

    Args:
        values: a number a row.
        shown: groups of which the rows are told.
    """
    if not len(values):
        return Alike(0, 0, [])
    order = np.argsort(values, kind="stable")
    ends = np.append(np.flatnonzero(values[order][1:] != values[order][:-1]) + 1, len(values))
    starts = np.append(0, ends[:-1])
    several = np.flatnonzero(ends - starts > 1)
    largest = several[np.lexsort((order[starts[several]], -(ends - starts)[several]))][:shown]
    rows = [order[starts[group] : ends[group]] for group in largest]
    return Alike(len(several), int((ends - starts)[several].sum()), rows)


def near(looks: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A number of its group for each look: those that differ in at most 2 bits from the one that most are near to.

    Looks are sorted eight times, each time with other bits in front, and compared with their neighbours: two of which
    no turn brings near each other are missed.

    Reference:
        Manku et al., "Detecting Near-Duplicates for Web Crawling", WWW 2007, section 3 (permuted, sorted tables).
    """
    different, back = np.unique(looks, return_inverse=True)
    pairs = [np.empty((0, 2), np.int64)]
    for turn in TURNS:
        turned = (different << np.uint64(turn)) | (different >> np.uint64((64 - turn) % 64))
        order = np.argsort(turned, kind="stable")
        for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            a, b = order[:-step], order[step:]
            close = np.bitwise_count(different[a] ^ different[b]) <= BITS
            pairs.append(np.stack([a[close], b[close]], 1))
    return _led(np.concatenate(pairs), len(different))[back]


def _led(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The leader of each of some things: what has the most neighbours leads them first, and nothing is led on.

    A chain of neighbours would join what has nothing in common.
    """
    both = np.concatenate([pairs, pairs[:, ::-1]])
    neighbours = coo_array((np.ones(len(both), np.bool_), (both[:, 0], both[:, 1])), shape=(count, count)).tocsr()
    degrees = np.diff(neighbours.indptr)
    leader = np.arange(count)
    free = np.ones(count, np.bool_)
    for node in np.argsort(-degrees, kind="stable")[: np.count_nonzero(degrees)]:
        if free[node]:
            near_it = neighbours.indices[neighbours.indptr[node] : neighbours.indptr[node + 1]]
            near_it = near_it[free[near_it]]
            leader[near_it] = leader[node] = node
            free[near_it] = free[node] = False
    return leader
