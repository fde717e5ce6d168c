"""Pairs that count as much as they are relevant (GCL)."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.line import Extra
from mmcl.losses.targets.base import TARGETS, Targets
from mmcl.types import Embeddings


@TARGETS.register("graded")
class Graded(Targets):
    r"""A pair's loss counts by its grade (generalized contrastive learning).

    .. math:: \mathcal{L} = \frac{1}{2n} \sum_i w(g_i)\,(\ell_i^{\to} + \ell_i^{\leftarrow})

    with :math:`w(g)` the grade itself (`linear`), :math:`1/g` of a rank (`inverse`), :math:`\log(1 + g)` (`log`) or 1
    (`constant`), times `scale`. A row without a grade, or with one that makes no
    weight (0 for `inverse`, below 0), weighs 1.

    Use when: pairs come with ranks or scores of relevance, clicks or ratings.
    Range: that of the loss, times the weights; they are not normalised.
    Differs from the paper: fields that are averaged into one embedding are a matter of the towers.
    Related: `shared`.

    Args:
        by: the extra that holds a grade a sample.
        map: of grades to weights.
        scale: factor of all weights.

    Reference:
        Zhu et al., "Generalized Contrastive Learning for Multi-Modal Retrieval and Ranking", WWW 2025, Eq. 4 and 5
        (https://arxiv.org/abs/2404.08535).

    Example:
        >>> e = Embeddings.single({"text": torch.eye(2), "image": torch.eye(2)}, extras={"rank": torch.tensor([1, 4])})
        >>> Graded("rank", map="inverse").weights(e)
        tensor([1.0000, 0.2500])
    """

    def __init__(
        self,
        by: Annotated[str, Extra(axes=1)],
        map: Literal["linear", "inverse", "log", "constant"] = "linear",
        scale: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        self.by, self.map, self.scale = by, map, scale

    def weights(self, embeddings: Embeddings) -> Float[Tensor, " all_batch"]:
        """One a row."""
        g = embeddings.extras[self.by]
        g = g.to(torch.promote_types(g.dtype, torch.float32)) if g.is_floating_point() else g.float()
        there = embeddings.present[self.by]
        w = {"linear": g, "inverse": 1 / g.where(there, 1.0), "log": g.log1p(), "constant": torch.ones_like(g)}[
            self.map
        ]
        return torch.where(there & (w >= 0) & w.isfinite(), self.scale * w, 1.0)
