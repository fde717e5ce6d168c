"""Which index suits how many vectors, and why."""

import math
from typing import Literal, NamedTuple

FLAT = 50_000
"""As many vectors are compared one by one: exact, and within some tens of milliseconds."""
GRAPH = 200_000
"""Up to as many, a graph is built within minutes on two cores; for more, lists are quicker to build."""
NEIGHBOURS = 32
PER_LIST = 40  # vectors that the centre of a list is learned from
Kind = Literal["flat", "hnsw", "ivf"]


class Plan(NamedTuple):
    """An index that is to be made."""

    kind: Kind
    vectors: int
    dim: int

    @property
    def lists(self) -> int:
        """Of an IVF index: twice the square root of the vectors."""
        return round(2 * math.sqrt(self.vectors))

    @property
    def bytes(self) -> int:
        """That the index takes, in memory while it is made and then in its file."""
        vector = {"flat": 4 * self.dim, "hnsw": 4 * self.dim + 8 * NEIGHBOURS + 24, "ivf": 2 * self.dim + 8}
        return self.vectors * (vector[self.kind] + 8) + (self.lists * self.dim * 4 if self.kind == "ivf" else 0)

    @property
    def why(self) -> str:
        """What it is, and why this one, in a sentence."""
        size = f"{self.bytes / 1e9:.2g} GB" if self.bytes > 1e8 else f"{self.bytes / 1e6:.2g} MB"
        if self.kind == "flat":
            return f"flat: {self.vectors:,} vectors are few enough to compare all of them, which is exact ({size})"
        if self.kind == "hnsw":
            return (
                f"HNSW: {self.vectors:,} vectors would take long to compare one by one, so a graph of {NEIGHBOURS} "
                f"neighbours each leads to the nearest ({size})"
            )
        return (
            f"IVF: {self.vectors:,} vectors would take long to compare, or to join to a graph, so they lie in "
            f"{self.lists:,} lists by their nearest centre, of which only some are read ({size}, in fp16)"
        )


def planned(vectors: int, dim: int) -> Plan:
    """The index for so many vectors.

    >>> planned(500, 512).kind, planned(100_000, 512).kind, planned(1_000_000, 512).lists
    ('flat', 'hnsw', 2000)
    """
    return Plan("flat" if vectors <= FLAT else "hnsw" if vectors <= GRAPH else "ivf", vectors, dim)
