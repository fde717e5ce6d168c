"""Scores of the candidates of an item, and groups of items."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError, did_you_mean
from mmcl.evaluators.base import Embedded, Items
from mmcl.evaluators.figures import Figure, group_sums, mean, numbered
from mmcl.registry import Spec

ROWS = 65_536  # candidates that are compared at once


class Groups(Spec):
    """What items are grouped by."""

    field: str
    """The field that holds an item's group."""
    least: Annotated[int, Field(ge=1)] = 1
    """Groups with fewer questions do not count in the mean over groups."""
    without: list[str] = []
    """Groups that do not count in the mean over groups."""
    named: list[str] = []
    """Groups that have a figure of their own. (What was found for every group stands in the details.)"""

    def check(self, groups: Sequence[str], questions: Sequence[int]) -> None:
        """Refuse names that no item has, and bounds that leave nothing.

        Args:
            groups: of the items.
            questions: how many each item asks.

        Raises:
            MmclError: there are such.
        """
        counts: dict[str, int] = {}
        for group, asked in zip(groups, questions, strict=True):
            counts[group] = counts.get(group, 0) + asked
        asked_in = {group: count for group, count in counts.items() if count}
        for said, names in (("without", self.without), ("named", self.named)):
            for name in names:
                if name not in asked_in:
                    raise MmclError(
                        f"groups: {said}: no question is of the group {name!r}{did_you_mean(name, asked_in)} "
                        f"Groups that field {self.field!r} has: {', '.join(sorted(asked_in)[:20])}."
                    )
        if all(group in self.without or count < self.least for group, count in asked_in.items()):
            raise MmclError(
                f"groups: no group of field {self.field!r} is left: `least` is {self.least}, the largest has "
                f"{max(asked_in.values(), default=0)} questions, and `without` takes away {len(self.without)}."
            )


def pair_scores(
    queries: Float[Tensor, "items dim"], owner: Int[Tensor, " rows"], rows: Float[Tensor, "rows dim"]
) -> Float[Tensor, " rows"]:
    """Cosine of each row with the query of its item, in fp32. All vectors are unit vectors."""
    parts = zip(owner.split(ROWS), rows.split(ROWS), strict=True)
    return torch.cat([(queries[of].float() * part.float()).sum(-1) for of, part in parts])


def best(scores: Float[Tensor, " wrong"], of: Int[Tensor, " wrong"], questions: int) -> Float[Tensor, " questions"]:
    """The largest score of the wrong candidates of each question; what is not a number beats everything.

    A question that has none gets minus infinity.
    """
    feared = torch.where(scores.isnan(), torch.inf, scores)
    return torch.full((questions,), -torch.inf).scatter_reduce(0, of, feared, "amax")


def words(data: Embedded, name: str) -> list[str] | None:
    """The text of each row of a column; None where it holds no texts."""
    if name not in data.items.texts:
        return None
    texts = [text for of_item in data.items.several(name) for text in of_item]
    assert len(texts) == len(data.owner[name]), f"{len(texts)} texts of {name}, but {len(data.owner[name])} vectors"
    return texts


def counted(data: Embedded, names: Sequence[str]) -> Int[Tensor, " items"]:
    """How many rows each item has in some columns together.

    Raises:
        MmclError: an item has none.
    """
    counts = sum((torch.bincount(data.owner[name], minlength=len(data.items)) for name in names), torch.tensor(0))
    if bool((counts == 0).any()):
        key = data.items.keys[int((counts == 0).nonzero()[0])]
        raise MmclError(f"item {key} has none of {', '.join(names)}; each item needs one at least. Leave it out.")
    return counts


def part(values: Tensor, unit: Int[Tensor, " values"], inside: Bool[Tensor, " values"]) -> Figure:
    """Mean over some of the values, as a figure of the units of all of them."""
    return replace(mean(values, unit, inside), n=int(inside.sum()))


def macro_part(
    values: Tensor,
    unit: Int[Tensor, " values"],
    group: Int[Tensor, " values"],
    counts: Bool[Tensor, " groups"],
    least: int,
) -> Figure:
    """Mean over groups of the mean of each one's values.

    Args:
        values: numbers, or flags.
        unit: of each.
        group: of each.
        counts: groups that may count.
        least: groups with fewer values do not count; under weights, with values that weigh less.
    """

    def statistic(w: Tensor) -> Tensor:
        each = w.double()[:, unit]
        there = group_sums(each, group, len(counts))
        means = group_sums(each * values.double(), group, len(counts)) / there
        counted = (there >= least) & counts
        return torch.where(counted, means, 0).sum(1) / counted.sum(1)

    sizes = torch.bincount(group, minlength=len(counts))
    return Figure(statistic, int(unit.max()) + 1, int(((sizes >= least) & counts).sum()))


def grouped(
    groups: Groups, items: Items, item: Int[Tensor, " questions"]
) -> tuple[Int[Tensor, " questions"], list[str]]:
    """Number of the group of each question, and the names of the numbers."""
    said = items.one(groups.field)
    return numbered([said[i] for i in item.tolist()])
