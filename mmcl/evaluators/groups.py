"""Gaps between groups of items."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.figures import Figure, group_means, numbered, worst


def group_figures(
    correct: Bool[Tensor, " items"] | Float[Tensor, " items"], groups: Sequence[str]
) -> dict[str, Figure]:
    """Accuracy of each group, of the worst one, and the gap from the best to the worst.

    ``group/NAME`` for each, ``worst_group``, and ``gap`` (0 where all are treated alike). Units are items. A group of
    which nothing is drawn does not count in a resample. The worst of many small groups is low by chance alone, and the
    gap large: their intervals tell of scatter, not of that.

    Args:
        correct: flags, or numbers such as reciprocal ranks, one an item.
        groups: of each item.

    Raises:
        MmclError: there is one group only.

    Reference:
        Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020, of the worst group.
        https://arxiv.org/abs/1911.08731
    """
    group, names = numbered(groups)
    if len(names) < 2:
        raise MmclError(f"groups: all items are of {names or 'no group'}; a gap needs two groups at least.")
    values = correct.double()

    def of(number: int) -> Figure:
        def statistic(w: Tensor) -> Tensor:
            return group_means(w, values, group, len(names))[0][:, number]

        return Figure(statistic, len(values), int((group == number).sum()))

    def gap(w: Tensor) -> Tensor:
        means, there = group_means(w, values, group, len(names))
        best = torch.where(there, means, -torch.inf).amax(1)
        return best - torch.where(there, means, torch.inf).amin(1)

    return {
        "worst_group": worst(values, group, len(names)),
        "gap": Figure(gap, len(values), len(names)),
        **{f"group/{name}": of(number) for number, name in enumerate(names)},
    }
