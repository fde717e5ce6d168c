"""InfoNCE corrected for negatives that are positives (debiased contrastive learning)."""

import math
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.base import CONTRASTS, Contrast, Side
from mmcl.losses.statistics import LogSumExp, Statistic


@CONTRASTS.register("debiased")
class Debiased(Contrast):
    r"""Take from the negatives what a share of hidden positives among them would add.

    .. math:: \ell_i = -\log \frac{e^{z_{ip}}}{e^{z_{ip}} + n_i\,g_i}, \quad g_i = \max\Bigl\{
              \frac{1}{1-\tau^+}\Bigl(\frac1{n_i}\sum_{j \ne p} e^{z_{ij}} - \tau^+ e^{z_{ip}}\Bigr),\,
              e^{z_{\min}}\Bigr\}

    with the share :math:`\tau^+` of negatives that show the same thing as the row, the number :math:`n_i` of negatives,
    and the smallest logit :math:`z_{\min}` that there can be (:math:`-1/\tau` for cosines). :math:`\tau^+ = 0` is
    `softmax`.

    Use when: batches hold duplicates that nobody marked; where they are marked, `negatives: distinct` is exact. The
        temperature must be high: once :math:`\tau^+ e^{z_{ip}}` exceeds the mean of the others, the row has reached
        its floor and has no gradient. Beside unrelated others that never happens at 0.5, and at CLIP's 0.07 from a
        cosine of about 0.25 on.
    Range: [0, inf).
    Differs from the paper: one positive, as in its main experiments; in logarithms, because e^(-1/tau) is no fp32
        number for small temperatures.
    Related: `hard_negative`.

    Args:
        tau_plus: share of hidden positives, in [0, 1).

    Reference:
        Chuang et al., "Debiased Contrastive Learning", NeurIPS 2020, Eq. 7 and 8 (https://arxiv.org/abs/2007.00224).

    Example:
        >>> Debiased(tau_plus=0.1).tau_plus
        0.1
    """

    bounded: ClassVar[bool] = True

    def __init__(self, tau_plus: Annotated[float, Field(ge=0, lt=1)] = 0.1) -> None:
        self.tau_plus = tau_plus

    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """Log-sum-exp of the others."""
        return {"others": LogSumExp()}

    def __call__(self, side: Side) -> Float[Tensor, " rows"]:
        """Loss of each row; zero for a row without others."""
        assert side.lowest is not None
        z, alone = side.logit, side["others"] == float("-inf")
        count = side.others.clamp(min=1).log()
        mean = side["others"].masked_fill(alone, 0.0) - count
        smallest = (side.lowest * side.scale).expand_as(z)
        if self.tau_plus:
            hidden = z + math.log(self.tau_plus)
            positive = mean - hidden > 1e-6
            left = mean + (-torch.where(positive, hidden - mean, -1.0).expm1()).log() - math.log1p(-self.tau_plus)
            mean = torch.where(positive & (left > smallest), left, smallest)
        return torch.where(alone, 0.0, torch.logaddexp(z, count + mean) - z)
