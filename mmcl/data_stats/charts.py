"""Sizes as histograms."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mmcl.plots import COLORS, Drawn, as_svg

BARS, FEW = 30, 40  # of a histogram; different whole numbers that have a bar each
SPREAD = 20  # times the median from which the largest is so far out that the axis is logarithmic
LAST = 0.995  # share of the values up to which a linear axis reaches, if the others lie far out


def histogram(numbers: NDArray[Any], title: str, color: int = 0) -> Drawn | None:
    """How many values are of which size; None where all are the same.

    Args:
        numbers: the sizes.
        title: what they are.
        color: number of its color.
    """
    values = numbers.astype(np.float64)
    low, half, high = np.quantile(values, [0, 0.5, 1]).tolist()
    if low == high:
        return None
    figure = Figure(figsize=(4.2, 2.1), layout="constrained")
    axes = figure.subplots()
    about = _draw(axes, values, (low, half, high), COLORS[color % len(COLORS)])
    axes.xaxis.set_major_formatter(lambda x, _: short(x))
    axes.yaxis.set_major_formatter(lambda x, _: short(x))
    axes.locator_params(axis="y", nbins=4)
    axes.minorticks_off()
    axes.tick_params(which="both", labelsize=9, colors="#6a6d76", length=0)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    said = f"{short(low)} to {short(high)}, half of them below {short(half)}{about}"
    return Drawn(title, said, as_svg(figure, title), [])


def _draw(axes: Axes, values: NDArray[np.float64], at: tuple[float, float, float], color: str) -> str:
    """Draw the bars; what must be said of the axis."""
    low, half, high = at
    style: dict[str, Any] = {"color": color, "alpha": 0.85}
    if high - low <= FEW and not (values % 1).any():
        whole, counts = np.unique(values, return_counts=True)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        axes.bar(whole, counts, width=0.9, **style)
        return ""
    if low > 0 and high > SPREAD * half:
        edges = np.geomspace(low, high, BARS + 1)
        edges[-1] = high
        axes.stairs(np.histogram(values, edges)[0], edges, fill=True, **style)
        axes.set_xscale("log")
        return "; the axis is logarithmic"
    last = float(np.quantile(values, LAST))
    last = last if low < last < 0.7 * high else high
    edges = np.linspace(low, last, BARS + 1)
    axes.stairs(np.histogram(values.clip(max=last), edges)[0], edges, fill=True, **style)
    return "" if last == high else f"; the last bar holds all from {short(edges[-2])} on"


def short(number: float) -> str:
    """A number in few letters.

    >>> short(3.0), short(12345.0), short(0.1234), short(2_500_000.0)
    ('3', '12.3k', '0.123', '2.5M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            return f"{number / (size if letter != 'k' else 1e3):.3g}{letter}"
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"
