"""Galleries that are narrowed for each query: without some rows, or down to a few of them.

A query says in a field what it means, by the names that the data's `identity` gives to things.
"""

from typing import Annotated

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import Items
from mmcl.evaluators.ranking import Relevant, Scores
from mmcl.evaluators.sides import Side, joined
from mmcl.registry import Spec
from mmcl.types import sample_id

NAMED = 3  # of what is wrong


class Subset(Spec):
    """A few things for each query, among which what belongs to it is looked for once more."""

    field: str
    """The field of a query that names them."""
    at: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [1, 2, 3]
    """The k of recall among them."""


def check_names(items: Items, name: str) -> None:
    """See that what a field names is there, and that some items name something.

    Args:
        items: of the data.
        name: of the field.

    Raises:
        MmclError: a name is no item's identity, or no item names any.
    """
    there = set(items.ids.tolist())
    said = items.several(name)
    unknown = [
        (key, one) for key, some in zip(items.keys, said, strict=True) for one in some if sample_id(one) not in there
    ]
    if unknown:
        told = "; ".join(f"item {key} names {one!r}" for key, one in unknown[:NAMED])
        more = f", and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        raise MmclError(
            f"{name}: {told}{more}: no item has this `identity`. Names must be written as `identity` has them."
        )
    if not any(said):
        raise MmclError(f"{name}: no item names anything in this field.")


def named(queries: Side, gallery: Side, items: Items, name: str) -> Relevant:
    """The rows of the gallery that each query names in a field.

    Args:
        queries: rows that ask.
        gallery: rows that are found.
        items: of the data.
        name: of the field.
    """
    said = items.several(name)
    pairs = [(row, sample_id(one)) for row, item in enumerate(queries.item.tolist()) for one in said[item]]
    rows, ids = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return Relevant.of_pairs(joined(rows, ids, items.ids[gallery.item].numpy()), len(queries))


def without_rows(scores: Scores, left_out: Relevant) -> Scores:
    """The same scores; what is left out of a query's gallery is below all else.

    Args:
        scores: of the queries with the whole gallery.
        left_out: rows of each query that do not count.
    """

    def narrowed(start: int, end: int) -> Tensor:
        tile = scores(start, end)
        query, row = _cells(left_out, start, end)
        tile[query.to(tile.device), row.to(tile.device)] = -torch.inf
        return tile

    return narrowed


def only(scores: Scores, kept: Relevant) -> Scores:
    """The same scores; all but what is kept of a query's gallery is below all else.

    Args:
        scores: of the queries with the whole gallery.
        kept: rows of each query that count.
    """

    def narrowed(start: int, end: int) -> Tensor:
        tile = scores(start, end)
        query, row = (cells.to(tile.device) for cells in _cells(kept, start, end))
        found = torch.full_like(tile, -torch.inf)
        found[query, row] = tile[query, row]
        return found

    return narrowed


def both_of(one: Relevant, other: Relevant, gallery: int) -> Relevant:
    """What is in both, of each query."""
    first, second = (_numbers(some, gallery) for some in (one, other))
    return _of_numbers(np.intersect1d(first, second), gallery, len(one.counts))


def less_of(one: Relevant, other: Relevant, gallery: int) -> Relevant:
    """What is in the one and not in the other, of each query."""
    first, second = (_numbers(some, gallery) for some in (one, other))
    return _of_numbers(np.setdiff1d(first, second), gallery, len(one.counts))


def _numbers(some: Relevant, gallery: int) -> np.ndarray:
    """A number for each pair of a query and a row."""
    query = torch.repeat_interleave(torch.arange(len(some.counts)), some.counts)
    return (query * gallery + some.rows).numpy()


def _of_numbers(numbers: np.ndarray, gallery: int, queries: int) -> Relevant:
    return Relevant.of_pairs(np.stack(np.divmod(numbers, gallery), 1), queries)


def _cells(some: Relevant, start: int, end: int) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Places in a tile of the queries from one number to another."""
    query = torch.repeat_interleave(torch.arange(end - start), some.counts[start:end])
    return query, some.rows[int(some.starts[start]) : int(some.starts[end])]
