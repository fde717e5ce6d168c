"""Tables of numbers: models side by side, with intervals, and bars of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mmcl.tasks import Result
from mmcl.tasks.formats import number


class Cell(NamedTuple):
    """A number of a model."""

    value: str
    ends: str
    best: bool


class Bar(NamedTuple):
    """An interval, in hundredths of the axis."""

    model: int
    at: float
    low: float
    high: float
    said: str


class Row(NamedTuple):
    """A metric of a task."""

    group: str
    metric: str
    n: str
    smaller: bool
    """Whether smaller is better."""
    cells: list[Cell | None]
    """Of the models; None of one that was not measured."""
    bars: list[Bar]
    axis: tuple[str, str]


def row(results: Sequence[Result | None], metric: str, larger: bool | None) -> Row:
    """A metric of several models.

    Args:
        results: of the models, on one task.
        metric: its name.
        larger: whether larger is better; None where it is not known.
    """
    there = [one for one in results if one is not None and metric in one]
    first = best(results, metric, larger)
    group, _, name = metric.rpartition("/")
    low, high = _axis([v for one in there for v in (one[metric], *(one.interval(metric) or ()))])
    cells = [
        None if one is None or metric not in one else Cell(number(one[metric]), _ends(one, metric), i == first)
        for i, one in enumerate(results)
    ]
    counts = dict.fromkeys(f"{one.about['counts'][metric]:,}" for one in there)
    return Row(
        group.replace("_", " "),
        name.replace("_", " "),
        " / ".join(counts),
        larger is False,
        cells,
        list(_bars(results, metric, low, high)),
        (f"{low:g}", f"{high:g}"),
    )


def best(results: Sequence[Result | None], metric: str, larger: bool | None) -> int | None:
    """The place of the best number, if its interval overlaps no other's.

    None as well where there is no other, where a number or an interval is missing, and where what is better is unknown.
    """
    ends = [None if one is None or metric not in one else one.interval(metric) for one in results]
    values = [math.nan if one is None else one.get(metric, math.nan) for one in results]
    known = [end for end in ends if end is not None and all(map(math.isfinite, end))]
    if larger is None or len(results) < 2 or len(known) < len(results) or not all(map(math.isfinite, values)):
        return None
    first = (max if larger else min)(range(len(values)), key=values.__getitem__)
    others = [end for i, end in enumerate(known) if i != first]
    apart = (known[first][0] > high if larger else known[first][1] < low for low, high in others)
    return first if all(apart) else None


def _ends(one: Result, metric: str) -> str:
    ends = one.interval(metric)
    if ends is None or math.isnan(one[metric]):
        return ""
    return f"{number(ends[0])} – {number(ends[1])}" if all(map(math.isfinite, ends)) else "no interval"


def _axis(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that shares, cosines or anything else has."""
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if low >= -1 and high <= 1:
        return -1.0, 1.0
    return min(0.0, _rounded(low, math.floor)), max(0.0, _rounded(high, math.ceil))


def _rounded(value: float, to: Callable[[float], int]) -> float:
    """The next number with two digits below or above."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{to(value / unit) * unit:.6g}")


def _bars(results: Sequence[Result | None], metric: str, low: float, high: float) -> Iterator[Bar]:
    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    for i, one in enumerate(results):
        if one is not None and math.isfinite(one.get(metric, math.nan)):
            ends = one.interval(metric) or (one[metric], one[metric])
            if not all(map(math.isfinite, ends)):
                ends = (one[metric], one[metric])
            said = " ".join(filter(None, [number(one[metric]), _ends(one, metric)]))
            yield Bar(i, place(one[metric]), place(ends[0]), place(ends[1]), said)
