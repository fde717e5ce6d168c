"""Contrastive attraction and contrastive repulsion (CACR)."""

from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.base import CONTRASTS, Contrast, Side
from mmcl.losses.statistics import Count, LogSumExp, SoftmaxMean, Statistic
from mmcl.losses.temperature import TemperatureSpec


@CONTRASTS.register("cacr")
class Cacr(Contrast):
    r"""Pull hardest at the farthest positives, push hardest at the nearest others.

    .. math:: \ell_i = \sum_{k \in P_i} w^+_{ik} d_{ik} - \sum_{j} w^-_{ij} d_{ij}, \quad
              w^+ = \mathrm{softmax}_k(t^+ d_{ik}), \; w^- = \mathrm{softmax}_j(-t^- d_{ij})

    with the squared distances :math:`d = 2 - 2 s` of unit vectors, :math:`t^- = 1/(2\tau)` from the temperature, and
    :math:`t^+ = \rho\, t^-`. With one positive its weight is one; several come from `targets: shared`.

    Use when: a sample has several positives of different quality.
    Range: for cosines [-4, 4].
    Differs from the paper: written in scores, so that any score will do; the weights carry gradient, as in its code.
    Related: `softmax` pushes with the same weights.

    Args:
        ratio: rho; the paper takes t+ = 1 and t- = 2, a half.

    Reference:
        Zheng et al., "Contrastive Attraction and Contrastive Repulsion for Representation Learning", TMLR 2023, Eq. 4
        to 7 (https://arxiv.org/abs/2105.03746).

    Example:
        >>> known = {"repulsion": torch.zeros(1), "negatives": torch.ones(1)}
        >>> far = Side(own=torch.zeros(1), statistics=known, others=torch.ones(1))
        >>> Cacr()(far)
        tensor([0.])
    """

    shared: ClassVar[bool] = True
    single: ClassVar[bool] = True
    # it falls as the temperature rises, so the temperature is no parameter; t- = 2 as in the paper
    temperature: ClassVar[TemperatureSpec | None] = TemperatureSpec(init=0.25, learn=False, min=0.25)

    def __init__(self, ratio: Annotated[float, Field(gt=0)] = 0.5) -> None:
        self.ratio = ratio

    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """Means of the negatives and of other positives under their own softmax."""
        over = "negatives" if shared else "others"
        asked: dict[str, Statistic] = {"repulsion": SoftmaxMean(over=over), "negatives": Count(over=over)}
        if shared:
            asked |= {
                "attraction": SoftmaxMean(scale=-self.ratio, over="positives"),
                "weight": LogSumExp(scale=-self.ratio, over="positives"),
            }
        return asked

    def __call__(self, side: Side) -> Float[Tensor, " rows"]:
        """Loss of each row."""
        z = attraction = side.logit
        if "attraction" in side.statistics:
            own = -self.ratio * z
            log = torch.logaddexp(own, side["weight"])
            mean = (own - log).exp() * own + (side["weight"] - log).exp() * side["attraction"]
            attraction = mean / -self.ratio
        return torch.where(
            side["negatives"] > 0,
            2 * (side["repulsion"] - attraction) / side.scale,
            2 - 2 * attraction / side.scale,  # nobody to be pushed from
        )
