"""Soft neighbours, as many as the similarities are sure of (ASCL)."""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.statistics import Count, LogSumExp, SoftmaxMean, Statistic
from mmcl.losses.targets.base import TARGETS, By, SoftTargets


@TARGETS.register("neighbours")
class Neighbours(SoftTargets):
    r"""Nearest neighbours are positives too, the more the surer their distribution is (ASCL).

    .. math:: p_i = \mathrm{softmax}_{j \ne i}(t_{ij}/\tau_t), \quad c_i = 1 - \frac{H(p_i)}{\log n_i}, \quad
              y_{ij} = \min(1,\; c_i K p_{ij}), \quad y_{ii} = 1, \quad q_i = y_i / \sum_j y_{ij}

    over the :math:`n_i` other candidates: with flat similarities nothing changes.

    Use when: several samples of a batch show the same kind of thing, and nobody marked them.
    Cost: one walk over the similarities before the other.
    Range: a distribution over the candidates; at least 1 / (1 + K) for the row's own.
    Differs from the paper: neighbours are those of the batch (its bank is a `queue` of a MoCo-like run); similarities
        are those of `by`, where the paper takes the weakly augmented view's.
    Related: `soft`, `alike` among the negatives (which takes near neighbours out instead).

    Args:
        by: whose similarities; `image` or `text`, the embeddings themselves held still, or an averaged tower.
        temperature: of the similarities, below the term's own.
        k: K, how many neighbours there can be.
        toward: modality whose candidates the soft targets are for; both directions where nothing is said.

    Reference:
        Feng and Patras, "Adaptive Soft Contrastive Learning", ICPR 2022, Eq. 4 to 7
        (https://arxiv.org/abs/2207.11163); after Zheng et al., "ReSSL", NeurIPS 2021.

    Example:
        >>> Neighbours("image", k=3).k
        3
    """

    def __init__(
        self,
        by: By,
        temperature: Annotated[float, Field(gt=0)] = 0.05,
        k: Annotated[int, Field(ge=1)] = 1,
        toward: str | None = None,
    ) -> None:
        super().__init__(by, 1.0, toward)
        self.temperature, self.k = temperature, k

    def known(self) -> Mapping[str, Statistic]:
        """What the entropy of each row's neighbours is made of."""
        scale = 1 / self.temperature
        return {"log": LogSumExp(scale), "mean": SoftmaxMean(scale), "count": Count()}

    def log_weights(
        self, t: Float[Tensor, "..."], known: Mapping[str, Float[Tensor, "..."]], own: bool
    ) -> Float[Tensor, "..."]:
        """Log of y."""
        if own:
            return torch.zeros_like(t)
        entropy = known["log"] - known["mean"]
        sure = 1 - entropy / known["count"].clamp(min=2).log()
        nothing = known["count"] < 1
        p = t / self.temperature - known["log"].masked_fill(nothing, 0.0)
        y = p + sure.masked_fill(nothing, 0.0).clamp_min(0.0).log() + math.log(self.k)
        return y.clamp_max(0.0)
