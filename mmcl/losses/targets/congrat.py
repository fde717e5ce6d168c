"""Targets smoothed toward what is similar (ConGraT)."""

from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.statistics import Largest, Statistic
from mmcl.losses.targets.base import TARGETS, By, SoftTargets


@TARGETS.register("congrat")
class Congrat(SoftTargets):
    r"""Label smoothing that knows who is similar (ConGraT).

    .. math:: q_i = (1-\alpha)\,\mathbb{1}_i + \alpha\, w_i, \quad w_{ij} \propto s_{ij} - \min_k s_{ik}

    over all candidates of the row, its own among them.

    Use when: something beside the pairs says what is similar: tags, a graph, a frozen model, as vectors.
    Cost: one walk over the similarities before the other, for the smallest of each row.
    Range: a distribution over the candidates.
    Differs from the paper: similarities are cosines of vectors (of a graph's, its rows); the decay of low ranks is left
        out.
    Related: `soft`; `label_smoothing` of softmax knows nobody.

    Args:
        by: whose similarities.
        alpha: mass of the soft targets; the paper takes 0.1.
        toward: modality whose candidates the soft targets are for; both directions where nothing is said.

    Reference:
        Brannon et al., "ConGraT: Self-Supervised Contrastive Pretraining for Joint Graph and Text Embeddings", 2023,
        Section 3.2 (https://arxiv.org/abs/2305.14321).

    Example:
        >>> Congrat("teacher.text").alpha
        0.1
    """

    def __init__(self, by: By, alpha: Annotated[float, Field(ge=0, le=1)] = 0.1, toward: str | None = None) -> None:
        super().__init__(by, alpha, toward)

    def known(self) -> Mapping[str, Statistic]:
        """The smallest similarity with the others, by its negative."""
        return {"smallest": Largest(scale=-1.0)}

    def log_weights(
        self, t: Float[Tensor, "..."], known: Mapping[str, Float[Tensor, "..."]], own: bool
    ) -> Float[Tensor, "..."]:
        """Log of what a similarity has more than the smallest."""
        smallest = torch.minimum(-known["smallest"], known["own"])
        return (t - smallest).clamp_min(0.0).log()
