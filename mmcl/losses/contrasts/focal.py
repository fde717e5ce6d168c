"""InfoNCE that forgets what is easy (focal)."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.base import CONTRASTS, Contrast, Side
from mmcl.losses.statistics import LogSumExp, Statistic


@CONTRASTS.register("focal")
class Focal(Contrast):
    r"""Weigh each row by how far its positive is from certain.

    .. math:: \ell_i = -(1 - p_i)^{\gamma} \log p_i, \quad p_i = \frac{e^{z_{ip}}}{\sum_{j} e^{z_{ij}}}

    Use when: many pairs are learned early and noise among the rest is low.
    Range: [0, inf).
    Differs from the paper: over the softmax of a row instead of a detector's classes; the weight carries gradient, as
        in the paper.
    Related: `softmax` is gamma = 0.

    Args:
        gamma: how fast easy rows lose weight. The paper takes 2.

    Reference:
        Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, Eq. 4 (https://arxiv.org/abs/1708.02002).

    Example:
        >>> even = Side(own=torch.zeros(1), statistics={"others": torch.zeros(1)}, others=torch.ones(1))
        >>> [round(x, 4) for x in Focal(gamma=2)(even).tolist()]  # log(2) / 4
        [0.1733]
    """

    def __init__(self, gamma: Annotated[float, Field(ge=0)] = 2.0) -> None:
        self.gamma = gamma

    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """Log-sum-exp of the others."""
        return {"others": LogSumExp()}

    def __call__(self, side: Side) -> Float[Tensor, " rows"]:
        """Loss of each row."""
        z = side.logit
        everyone = torch.logaddexp(side["others"], z)
        if self.gamma == 0:
            return everyone - z
        missed = (side["others"] - everyone).exp()  # 1 - p, exact also where p is nearly one
        return missed.clamp(min=torch.finfo(z.dtype).tiny) ** self.gamma * (everyone - z)
