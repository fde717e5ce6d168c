"""Multilinear inner product of an anchor and a tuple (Symile)."""

from collections.abc import Sequence
from functools import reduce
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmcl.losses.base import SCORES, Features
from mmcl.losses.scores.cosine import Cosine
from mmcl.losses.scores.unit import unit
from mmcl.losses.temperature import TemperatureSpec


@SCORES.register("symile")
class Symile(Cosine):
    r"""Multilinear inner product of the unit vectors of an anchor and of all modalities of a candidate.

    .. math:: s_{ij} = \sum_d t_{id}\, x^1_{jd} \cdots x^m_{jd}

    Candidates that are not a row's own are put together anew: each modality's rows are permuted by themselves, so that
    the objective bounds the total correlation, what all modalities say together and no two of them do.

    Use when: a modality can only be told from all others together (an exclusive or); otherwise pairs do better.
    Cost: one product (rows, dim) x (dim, columns).
    Range: [-1, 1], but about 1/dim for unrelated vectors: the temperature must be far below that of cosines.
    Differs from the paper: nothing; `shuffle: false` keeps other samples' tuples together, which the paper does not do.
        All combinations (its n^2 negatives) are not offered: they cost rows^3 for three modalities.
    Related: `gram`.

    Args:
        shuffle: whether candidates that are not a row's own are put together anew.

    Reference:
        Saporta et al., "Contrasting with Symile: Simple Model-Agnostic Representation Learning for Unlimited
        Modalities", NeurIPS 2024, Eq. 3 and Algorithm 1 (https://arxiv.org/abs/2411.01053).

    Example:
        >>> x = torch.tensor([[1.0, 0.0]])
        >>> Symile()(x, x, torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])[:1])
        tensor([[1.]])
    """

    least: ClassVar[int] = 2
    view: ClassVar[Literal["pairs", "tuple", "rotating"]] = "rotating"
    temperature: ClassVar[TemperatureSpec] = TemperatureSpec(init=0.02, min=0.0001)

    def __init__(self, shuffle: bool = True) -> None:
        self.shuffle = shuffle

    def candidates(self, xs: Sequence[Float[Tensor, "columns dim"]]) -> Features:
        """The product of the unit vectors, coordinate by coordinate."""
        return (reduce(torch.mul, [unit(x) for x in xs]),)
