"""Cosine similarity."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmcl.losses.base import SCORES, Features, Pull, Score
from mmcl.losses.scores.unit import unit


@SCORES.register("cosine")
class Cosine(Score):
    r"""Cosine of the angle between an anchor and a candidate.

    .. math:: s_{ij} = \frac{x_i^\top y_j}{\lVert x_i\rVert\,\lVert y_j\rVert}

    A candidate of several modalities is one vector: the mean of its unit vectors (then the score is the mean of the
    cosines, which ranks as their sum does), or that mean brought to length one (the centroid).

    Use when: two modalities, or several in pairs; embeddings are to be searched with a plain inner product.
    Cost: one (rows, dim) x (dim, columns) product.
    Range: [-1, 1]; vectors are brought to fp32 before they are normalised, and a zero vector scores 0.
    Related: `gram` and `span` look at the whole tuple instead of its mean.

    Args:
        tuples: what stands for a candidate of several modalities: `mean` or `centroid`.

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, Figure 3
        (https://arxiv.org/abs/2103.00020).

    Example:
        >>> Cosine()(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[1., 0.]])
    """

    most: ClassVar[int | None] = None
    lowest: float | None = -1.0
    symmetric: ClassVar[bool] = True
    block: ClassVar[int] = 1024

    def __init__(self, tuples: Literal["mean", "centroid"] = "mean") -> None:
        self.tuples = tuples

    def anchors(self, x: Float[Tensor, "rows dim"]) -> Features:
        """Unit vectors."""
        return (unit(x),)

    def candidates(self, xs: Sequence[Float[Tensor, "columns dim"]]) -> Features:
        """Unit vectors, or one vector a tuple."""
        if len(xs) == 1:
            return (unit(xs[0]),)
        mean = torch.stack([unit(x) for x in xs]).mean(0)
        return (mean if self.tuples == "mean" else unit(mean),)

    def tile(self, anchors: Features, candidates: Features) -> Float[Tensor, "rows columns"]:
        """One product."""
        return anchors[0] @ candidates[0].T

    def pairs(self, anchors: Features, candidates: Features) -> Float[Tensor, " rows"]:
        """Row by row."""
        return (anchors[0] * candidates[0]).sum(-1)

    def vjp(self, anchors: Features, candidates: Features) -> tuple[Float[Tensor, "rows columns"], Pull]:
        """By hand: two products that add to the sums."""
        (x,), (y,) = anchors, candidates

        def pull(g: Tensor, of_anchors: Sequence[Tensor | None], of_candidates: Sequence[Tensor | None]) -> None:
            if of_anchors[0] is not None:
                of_anchors[0].addmm_(g, y)
            if of_candidates[0] is not None:
                of_candidates[0].addmm_(g.T, x)

        return x @ y.T, pull
