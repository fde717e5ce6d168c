"""A binary decision for every pair (SigLIP)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmcl.losses.base import CONTRASTS, Contrast, Side
from mmcl.losses.statistics import SoftplusSum, Statistic


@CONTRASTS.register("sigmoid")
class Sigmoid(Contrast, nn.Module):
    r"""Decide of every pair by itself whether it belongs together.

    .. math:: \ell_i = -\log\sigma(z_{ip}) - \sum_{j \ne p} \log\sigma(-z_{ij}), \quad z = s/\tau + b

    with a learned bias b, which begins low because most pairs do not belong together. With several positives
    (`targets: shared`) each of them is decided as one.

    Use when: batches of a few thousand and fewer, or many processes: no row needs the sum over all others.
    Range: [0, inf).
    Differs from the paper: nothing; the rows' losses already hold every pair, so columns are not asked.
    Related: `softmax`.

    Args:
        bias: b at the start.
        learn_bias: whether b is learned.

    Reference:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, Eq. 1 and Algorithm 1
        (https://arxiv.org/abs/2303.15343).

    Example:
        >>> even = Side(own=torch.zeros(1), statistics={"negatives": 3 * torch.ones(1).log1p()}, others=torch.ones(1))
        >>> [round(x, 4) for x in Sigmoid(bias=0.0)(even).tolist()]  # four decisions at chance: 4 log 2
        [2.7726]
    """

    one_way: ClassVar[bool] = True
    shared: ClassVar[bool] = True

    def __init__(self, bias: float = -10.0, learn_bias: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias), requires_grad=learn_bias)

    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """Binary losses of the negatives, and of other positives."""
        if not shared:
            return {"negatives": SoftplusSum()}
        return {
            "negatives": SoftplusSum(over="negatives"),
            "positives": SoftplusSum(scale=-1.0, over="positives"),
        }

    def logit_bias(self) -> Float[Tensor, ""]:
        """B now."""
        return self.bias

    def __call__(self, side: Side) -> Float[Tensor, " rows"]:
        """Loss of each row."""
        return F.softplus(-side.logit) + sum(side.statistics.values())
