"""InfoNCE that weighs negatives by how hard they are (HN-NCE)."""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.base import CONTRASTS, Contrast, Side
from mmcl.losses.statistics import LogSumExp, Statistic


@CONTRASTS.register("hard_negative")
class HardNegative(Contrast):
    r"""Let the hardest negatives count most, at the same total weight.

    .. math:: \ell_i = -\log \frac{e^{z_{ip}}}{\alpha e^{z_{ip}} + \sum_{j \ne p} w_{ij} e^{z_{ij}}}, \quad
              w_{ij} = \frac{n_i\, e^{\beta z_{ij}}}{\sum_{k \ne p} e^{\beta z_{ik}}}

    with the number :math:`n_i` of negatives. :math:`\alpha = 1, \beta = 0` is `softmax`.

    Use when: captions of a batch are easily told apart and the loss is near zero early.
    Range: [log alpha, inf) for alpha > 0.
    Differs from the paper: nothing in the value. The weights carry gradient unless `detach` is set (the paper does not
        say; either is one log-sum-exp more, since :math:`\log \sum_j w_j e^{z_j}` is
        :math:`\log n + \mathrm{LSE}((1+\beta) z) - \mathrm{LSE}(\beta z)`).
    Related: `softmax`, `debiased` (which says that the hardest may be positives).

    Args:
        alpha: weight of the positive in the denominator.
        beta: how much harder negatives count more. The paper takes 0.25.
        detach: whether the weights are constants for the gradient.

    Reference:
        Radenovic et al., "Filtering, Distillation, and Hard Negatives for Vision-Language Pre-Training", CVPR 2023,
        Eq. 5 to 7 (https://arxiv.org/abs/2301.02280); after Robinson et al., "Contrastive Learning with Hard Negative
        Samples", ICLR 2021 (https://arxiv.org/abs/2010.04592).

    Example:
        >>> HardNegative(alpha=1.0, beta=0.25).statistics(shared=False)["up"].scale
        1.25
    """

    def __init__(
        self,
        alpha: Annotated[float, Field(ge=0)] = 1.0,
        beta: Annotated[float, Field(ge=0)] = 0.25,
        detach: bool = False,
    ) -> None:
        self.alpha, self.beta, self.detach = alpha, beta, detach

    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """Log-sum-exp of the others at two temperatures."""
        return {"up": LogSumExp(scale=1 + self.beta), "down": LogSumExp(scale=self.beta)}

    def __call__(self, side: Side) -> Float[Tensor, " rows"]:
        """Loss of each row; that of its positive alone for a row without others."""
        alone = side["up"] == float("-inf")
        up, down = side["up"].masked_fill(alone, 0.0), side["down"].masked_fill(alone, 0.0)
        negatives = up - down
        if self.detach:  # of log sum w e^z only e^z moves: with softmax((1 + beta) z) as its weights
            still = up / (1 + self.beta)
            negatives = still + (negatives - still).detach()
        negatives = torch.where(alone, float("-inf"), side.others.clamp(min=1).log() + negatives)
        z = side.logit
        if self.alpha == 0:
            return torch.where(alone, 0.0, negatives - z)
        return torch.logaddexp(z + math.log(self.alpha), negatives) - z
