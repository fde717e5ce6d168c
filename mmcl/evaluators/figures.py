"""Figures: numbers that are measured, and how far they would scatter on other data of the same kind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Weights = Float[Tensor, "times units"]
Statistic = Callable[[Weights], Float[Tensor, " times"]]
"""A number, as a function of how often each unit counts."""

TIMES = 1000  # resamples of a bootstrap
LEVEL = 0.95
CELLS = 1_000_000  # weights that are held at once


@dataclass(frozen=True)
class Figure:
    """A number that is measured.

    It is a function of how often each unit counts: once each for its value; as often as it was drawn, in a bootstrap.
    Units are what is independent of one another: pictures, say, and not the five captions of each.
    """

    statistic: Statistic
    units: int
    n: int
    """What it is a mean of: queries, items, classes. Often more or fewer than the units."""

    @property
    def value(self) -> float:
        """With every unit once."""
        return self.statistic(torch.ones(1, self.units, dtype=torch.float64)).item()


def mean(
    values: Tensor,
    unit: Int[Tensor, " values"] | None = None,
    counts: Tensor | None = None,
    units: int | None = None,
) -> Figure:
    """Mean over values.

    Args:
        values: numbers, or flags.
        unit: the unit that each value belongs to; its own, unless told.
        counts: how much each value counts; once, unless told.
        units: how many there are; as many as have values, unless told.
    """
    numbers = values.double()
    weights = torch.ones_like(numbers) if counts is None else counts.double()
    unit = torch.arange(len(numbers)) if unit is None else unit
    units = (int(unit.max()) + 1 if len(unit) else 0) if units is None else units
    sums = torch.zeros(units, 2, dtype=torch.float64)
    sums.index_add_(0, unit, torch.stack([numbers * weights, weights], 1))

    def statistic(w: Tensor) -> Tensor:
        both = w.double() @ sums
        return both[:, 0] / both[:, 1]

    return Figure(statistic, units, len(numbers))


def median(values: Tensor, unit: Int[Tensor, " values"] | None = None, units: int | None = None) -> Figure:
    """Median; where there are two middles, their mean (the lower one would flatter ranks).

    Args:
        values: numbers.
        unit: see `mean`.
        units: see `mean`.
    """
    unit = torch.arange(len(values)) if unit is None else unit
    numbers, order = values.double().sort()
    of = unit[order]

    def statistic(w: Tensor) -> Tensor:
        below = w.double()[:, of].cumsum(1)
        half = below[:, -1:] / 2
        last = len(numbers) - 1
        lower = (below < half).sum(1).clamp(max=last)
        upper = (below <= half).sum(1).clamp(max=last)
        return torch.where(half[:, 0] > 0, (numbers[lower] + numbers[upper]) / 2, torch.nan)

    return Figure(statistic, int(unit.max()) + 1 if units is None else units, len(values))


def macro(values: Tensor, group: Int[Tensor, " values"], groups: int) -> Figure:
    """Mean over groups of the mean of each one's values; groups without a value do not count.

    Args:
        values: numbers, or flags, one a unit.
        group: of each.
        groups: how many there are.
    """

    def statistic(w: Tensor) -> Tensor:
        means, there = group_means(w, values, group, groups)
        return torch.where(there, means, 0).sum(1) / there.sum(1)

    return Figure(statistic, len(values), int(group.unique().numel()))


def worst(values: Tensor, group: Int[Tensor, " values"], groups: int) -> Figure:
    """The smallest mean of any group; groups without a value do not count. Arguments: see `macro`."""

    def statistic(w: Tensor) -> Tensor:
        means, there = group_means(w, values, group, groups)
        return torch.where(there, means, torch.inf).amin(1)

    return Figure(statistic, len(values), int(group.unique().numel()))


def group_means(
    w: Weights, values: Tensor, group: Int[Tensor, " values"], groups: int
) -> tuple[Float[Tensor, "times groups"], Bool[Tensor, "times groups"]]:
    """Mean of each group, and whether it has a value, under some weights."""
    sums, counts = (group_sums(w * x, group, groups) for x in (values.double(), torch.ones(len(values)).double()))
    return sums / counts, counts > 0


def group_sums(x: Float[Tensor, "times values"], group: Int[Tensor, " values"], groups: int) -> Tensor:
    """Sums over the values of each group."""
    return torch.zeros(len(x), groups, dtype=torch.float64).index_add_(1, group, x.double())


def intervals(
    figures: Mapping[str, Figure], times: int = TIMES, level: float = LEVEL, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Bootstrap percentile intervals: units are drawn with replacement, as many as there are.

    Figures of the same units share the draws. The same seed gives the same intervals, on every machine.

    Args:
        figures: by name.
        times: how often all units are drawn.
        level: share of the draws between both ends.
        seed: of the draws.

    Reference:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    drawn: dict[str, list[Tensor]] = {name: [] for name in figures}
    for units in sorted({figure.units for figure in figures.values()}):
        generator = torch.Generator().manual_seed(seed)
        rows = max(CELLS // max(units, 1), 1)
        for start in range(0, times, rows):
            w = _draw(min(rows, times - start), units, generator)
            for name, figure in figures.items():
                if figure.units == units:
                    drawn[name].append(figure.statistic(w))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    found: dict[str, tuple[float, float]] = {}
    for name, parts in drawn.items():
        low, high = torch.cat(parts).nanquantile(ends).tolist()
        found[name] = (low, high)
    return found


def _draw(rows: int, units: int, generator: torch.Generator) -> Weights:
    """How often each unit is drawn, in some draws of as many as there are."""
    chosen = torch.randint(units, (rows, units), generator=generator)
    chosen += torch.arange(rows)[:, None] * units
    return torch.bincount(chosen.view(-1), minlength=rows * units).view(rows, units).double()


def values(figures: Mapping[str, Figure]) -> dict[str, float]:
    """Each figure's value."""
    return {name: figure.value for name, figure in figures.items()}


def numbered(names: Sequence[str]) -> tuple[Int[Tensor, " names"], list[str]]:
    """Equal names as equal numbers, in the order of the alphabet; and the names of the numbers."""
    known = sorted(set(names))
    number = {name: i for i, name in enumerate(known)}
    return torch.tensor([number[name] for name in names], dtype=torch.long), known
