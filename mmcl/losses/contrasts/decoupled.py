"""InfoNCE without the positive in the denominator (DCL)."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.base import CONTRASTS, Contrast, Side
from mmcl.losses.statistics import LogSumExp, Statistic


@CONTRASTS.register("decoupled")
class Decoupled(Contrast):
    r"""Pull the positive, push the others, and let neither weaken the other.

    .. math:: \ell_i = -w_i\,z_{ip} + \log \sum_{j \ne p} e^{z_{ij}}, \quad
              w_i = 2 - \frac{e^{s_{ip}/\sigma}}{\mathbb E_k\, e^{s_{kp}/\sigma}}

    with :math:`w = 1` where no `sigma` is given (DCL), and weights without gradient where one is (DCLW).

    Use when: small batches, in which InfoNCE's gradient fades once the positive is found.
    Range: (-inf, inf): a loss below zero is no mistake.
    Differs from the paper: the others are the other modality's, as in `softmax`; the paper's images have two views of
        one modality, both of which are negatives.
    Related: `softmax`.

    Args:
        sigma: width of the weights' kernel; harder positives (below the mean) weigh more. The paper takes 0.5.

    Reference:
        Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, Eq. 6 and 7 (https://arxiv.org/abs/2110.06848).

    Example:
        >>> side = Side(own=torch.ones(1), statistics={"others": torch.zeros(1)}, others=torch.ones(1))
        >>> Decoupled()(side)
        tensor([-1.])
    """

    def __init__(self, sigma: Annotated[float, Field(gt=0)] | None = None) -> None:
        self.sigma = sigma

    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """Log-sum-exp of the others."""
        return {"others": LogSumExp()}

    def __call__(self, side: Side) -> Float[Tensor, " rows"]:
        """Loss of each row; zero for a row without others."""
        weight: float | Tensor = 1.0
        if self.sigma is not None:
            own = side.own.detach()
            closeness = ((own - side.mean(own)) / self.sigma).clamp(max=80).exp()  # the shift cancels
            usual = side.mean(closeness)
            weight = torch.where(usual > 0, 2 - closeness / usual, 1.0)
        alone = side["others"] == float("-inf")
        return torch.where(alone, 0.0, side["others"].masked_fill(alone, 0.0) - weight * side.logit)
