"""Alignment of positives."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.regularizers.base import REGULARIZERS, Regularizer, over_pairs
from mmcl.losses.scores.unit import unit
from mmcl.losses.views import ModalityPairs
from mmcl.types import Embeddings


@REGULARIZERS.register("alignment")
class Alignment(Regularizer):
    r"""Distance of what belongs together.

    .. math:: \frac1n\sum_i \lVert x_i - y_i\rVert_2^{\alpha}

    over the unit vectors of each pair of modalities; pairs are averaged.

    Use when: beside `uniformity`, with or without a contrast; alone it ends in collapse.
    Cost: O(rows x dim).
    Range: [0, 2^alpha].
    Related: `uniformity`, `cross_uniformity`.

    Args:
        alpha: power of the distance.
        pairs: of modalities; all where nothing is said.

    Reference:
        Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere", ICML 2020, Eq. 4 (https://arxiv.org/abs/2005.10242).

    Example:
        >>> Alignment()(Embeddings.single({"a": torch.eye(2), "b": torch.eye(2).flip(0)}))  # all at right angles
        tensor(2.)
    """

    least = 2

    def __init__(self, alpha: Annotated[float, Field(ge=1)] = 2.0, pairs: ModalityPairs | None = None) -> None:
        self.alpha, self.pairs = alpha, pairs

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        e = embeddings

        def value(a: str, b: str, both: Bool[Tensor, " all_batch"]) -> Tensor:
            square = (unit(e.all[a][e.own]) - unit(e.all[b][e.own])).square().sum(-1)
            # powers below two have no finite gradient at zero
            distance = square if self.alpha == 2 else square.clamp(min=1e-12) ** (self.alpha / 2)
            return torch.where(both[e.own], distance, 0.0).sum() / both.sum().clamp(min=1)

        return over_pairs(e, self.pairs, value)
