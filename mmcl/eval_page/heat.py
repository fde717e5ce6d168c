"""What was taken for what: a table of classes as colors, and the most frequent mistakes in words."""

from typing import NamedTuple

import torch

from mmcl.evaluators import Confusion

CLASSES = 60  # of a table
MISTAKES = 12  # that are told in words
LETTERS = 22  # of a class's name beside the table
WIDE = {12: 29, 25: 21, CLASSES: 15}  # classes -> size of a cell, in pixels
COUNTED = 25  # classes up to which counts stand in the cells


class Square(NamedTuple):
    """A cell that is not empty."""

    row: int
    column: int
    n: int
    share: float
    """Of its row."""


class Mistake(NamedTuple):
    """One class taken for another."""

    n: int
    of: int
    right: str
    found: str


class Heat(NamedTuple):
    """A table, ready to be drawn."""

    classes: list[str]
    cell: int
    margin: int
    squares: list[Square]
    counted: bool
    mistakes: list[Mistake]
    left: int
    """Other pairs of classes that were confused."""
    whole: bool
    """Whether every item is in it."""
    items: int


def heat(confusion: Confusion, items: int) -> Heat:
    """The table of a confusion; of more than 60 classes, of those with the most mistakes.

    Args:
        confusion: what was counted.
        items: how many were measured.
    """
    table = torch.tensor(confusion.counts).view(len(confusion.classes), len(confusion.classes))
    wrong = table - table.diag().diag()
    kept = torch.arange(len(table))
    if len(table) > CLASSES:
        kept = (wrong.sum(0) + wrong.sum(1)).argsort(descending=True, stable=True)[:CLASSES].sort().values
        table, wrong = table[kept][:, kept], wrong[kept][:, kept]
    classes = [confusion.classes[i] for i in kept.tolist()]
    sums = table.sum(1).tolist()
    squares = [
        Square(i, j, count, count / sums[i])
        for i, row in enumerate(table.tolist())
        for j, count in enumerate(row)
        if count
    ]
    mistakes = sorted((one for one in squares if one.row != one.column), key=lambda one: -one.n)
    return Heat(
        classes,
        next(size for most, size in WIDE.items() if len(classes) <= most),
        margin=16 + 7 * min(max(map(len, classes), default=0), LETTERS),
        squares=squares,
        counted=len(classes) <= COUNTED,
        mistakes=[Mistake(m.n, sums[m.row], classes[m.row], classes[m.column]) for m in mistakes[:MISTAKES]],
        left=max(len(mistakes) - MISTAKES, 0),
        whole=int(table.sum()) >= items,
        items=int(table.sum()),
    )
