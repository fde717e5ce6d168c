"""Hinge on the hardest negative (VSE++, PromCSE)."""

from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.base import CONTRASTS, Contrast, Side
from mmcl.losses.statistics import Largest, Statistic


@CONTRASTS.register("hinge")
class Hinge(Contrast):
    r"""Ask that the positive is better than the best of the others, by a margin.

    .. math:: \ell_i = \max\bigl(0,\; m + \max_{j \ne p} s_{ij} - s_{ip}\bigr)

    Scores are taken as they are: there is no temperature.

    Use when: beside `softmax`, late in training; by itself a single wrong caption decides a row.
    Range: [0, inf).
    Differs from the paper: PromCSE's term is this one, with weight 10 beside InfoNCE; VSE++ sums both directions, here
        their mean is taken as everywhere.
    Related: `margin`.

    Args:
        m: the margin, in units of the score. PromCSE and VSE++ take 0.2.

    Reference:
        Jiang et al., "Improved Universal Sentence Embeddings with Prompt-based Contrastive Learning and Energy-based
        Learning", Findings of EMNLP 2022, Eq. 5 (https://arxiv.org/abs/2203.06875); Faghri et al., "VSE++: Improving
        Visual-Semantic Embeddings with Hard Negatives", BMVC 2018, Eq. 6 (https://arxiv.org/abs/1707.05612).

    Example:
        >>> side = Side(own=torch.zeros(1), statistics={"hardest": torch.zeros(1, 1)}, others=torch.ones(1))
        >>> Hinge(m=0.2)(side)
        tensor([0.2000])
    """

    tempered: ClassVar[bool] = False

    def __init__(self, m: Annotated[float, Field(ge=0)] = 0.2) -> None:
        self.m = m

    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """The best of the others."""
        return {"hardest": Largest(k=1)}

    def __call__(self, side: Side) -> Float[Tensor, " rows"]:
        """Loss of each row; zero for a row without others."""
        hardest = side["hardest"].squeeze(-1)
        alone = hardest == float("-inf")
        return torch.where(alone, 0.0, (self.m + hardest.masked_fill(alone, 0.0) - side.own).clamp(min=0))
