"""Figures that are made of other figures of the same units."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mmcl.evaluators.figures import Figure


def combined(rule: Callable[[Float[Tensor, "figures times"]], Float[Tensor, " times"]], of: Sequence[Figure]) -> Figure:
    """A figure that is computed of others, under the same weights.

    Args:
        rule: from the values of all, in their order.
        of: figures of the same units, such as those of one evaluator on the same items.
    """
    units = {figure.units for figure in of}
    assert len(units) == 1, f"figures of different units: {sorted(units)}"

    def statistic(w: Tensor) -> Tensor:
        return rule(torch.stack([figure.statistic(w) for figure in of]))

    return Figure(statistic, of[0].units, min(figure.n for figure in of))


def mean_of(figures: Sequence[Figure]) -> Figure:
    """The mean of figures of the same units, each counting once."""
    return combined(lambda values: values.mean(0), figures)
