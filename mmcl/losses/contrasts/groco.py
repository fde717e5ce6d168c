"""The positive must come out on top of a sorting network (GroCo)."""

import math
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.base import CONTRASTS, Contrast, Side
from mmcl.losses.statistics import Largest, Statistic


@CONTRASTS.register("groco")
class Groco(Contrast):
    r"""Sort the hardest negatives and the positive, softly, and ask that the positive end on top.

    .. math:: \ell_i = -\frac{1}{k+1}\Bigl(\log p_{ip} + \sum_{j \in \mathrm{top}_k} \log(1 - p_{ij})\Bigr)

    where :math:`p_{ij}` is the share of candidate j in the largest output of an odd-even sorting network, whose input
    is the k largest negatives, rising, and then the positive. Two neighbours a, b change places softly:

    .. math:: v = \tfrac12 + \tfrac1\pi \arctan(\beta\,(b - a)), \quad
              \min = v\,a + (1-v)\,b, \quad \max = (1-v)\,a + v\,b

    Use when: what counts is the first place (R@1, nearest neighbours), and noise among the hardest negatives is low.
    Cost: `hinge`'s walk, and some 12 (k+1)^2 numbers a row.
    Range: (0, inf). Above zero always: softly, any two may change places.
    Differs from the paper: one positive a row, so the paper's two cross-entropies (positive ranks and negative ranks)
        are the same number, and only the top row of its permutation matrix is needed, which is found backwards, without
        the matrix. The input is sorted but for the positive, so a hard network would only need the k swaps along the
        positive's way; softly, swaps of what is in order blur too and belong to the paper's loss, so none is left out.
        Negatives are the other modality's, and gradients reach both towers; the paper's one tower sees two views, and
        there candidates have no gradient. Rows with fewer than k negatives go through a smaller network.
    Related: `hinge` looks at the hardest negative only.

    Args:
        top_k: how many negatives.
        steepness: beta. The paper takes 1; scores that differ less need more.

    Reference:
        Shvetsova et al., "Learning by Sorting: Self-supervised Learning with Group Ordering Constraints", ICCV 2023,
        as in its code (https://arxiv.org/abs/2301.02009); the Cauchy network: Petersen et al., "Monotonic
        Differentiable Sorting Networks", ICLR 2022 (https://arxiv.org/abs/2203.09630).

    Example:
        >>> even = Side(own=torch.zeros(1), statistics={"hardest": torch.zeros(1, 1)}, others=torch.ones(1))
        >>> [round(x, 4) for x in Groco(top_k=1)(even).tolist()]  # either may win: log 2
        [0.6931]
    """

    tempered: ClassVar[bool] = False

    def __init__(
        self,
        top_k: Annotated[int, Field(ge=1)] = 10,
        steepness: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        self.top_k, self.steepness = top_k, steepness

    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """The hardest negatives."""
        return {"hardest": Largest(k=self.top_k)}

    def __call__(self, side: Side) -> Float[Tensor, " rows"]:
        """Loss of each row; zero for a row without others."""
        hardest = side["hardest"]  # falling; -inf where there are no more
        last = (hardest != float("-inf")).sum(1, keepdim=True)  # the positive's wire; those above it are not used
        wires = torch.arange(self.top_k + 1, device=hardest.device)
        rising = hardest.masked_fill(hardest == float("-inf"), 0.0).gather(1, (last - 1 - wires[:-1]).clamp(min=0))
        x = torch.cat([rising, side.own[:, None]], 1)
        x = torch.where(wires == last, side.own[:, None], x)
        top = self._shares_of_the_top(x, last, wires)
        right = torch.where(wires == last, top, 1 - top).clamp(min=torch.finfo(top.dtype).tiny)
        return -torch.where(wires <= last, right.log(), 0.0).sum(1) / (last[:, 0] + 1)

    def _shares_of_the_top(self, x: Tensor, last: Tensor, wires: Tensor) -> Float[Tensor, "rows wires"]:
        """How much of each input is in the largest output of a network as wide as the row needs, and as deep."""
        layers = []
        for layer in range(self.top_k + 1):
            a, b = _neighbours(x, layer % 2)
            keep = (self.steepness * (b - a)).atan() / math.pi + 0.5
            used = (wires[1:][layer % 2 :: 2] <= last) & (layer <= last)
            layers.append(torch.where(used, 1 - keep, 0.0))
            x = _swapped(x, layers[-1], layer % 2)
        share = (wires == last).to(x)
        for layer in range(self.top_k, -1, -1):  # a swap is its own transpose
            share = _swapped(share, layers[layer], layer % 2)
        return share


def _neighbours(x: Float[Tensor, "rows wires"], start: int) -> tuple[Tensor, Tensor]:
    b = x[:, start + 1 :: 2]
    return x[:, start : start + 2 * b.shape[1] : 2], b


def _swapped(x: Float[Tensor, "rows wires"], swap: Float[Tensor, "rows pairs"], start: int) -> Tensor:
    """Neighbours, from a wire on, exchanged by a share of their difference."""
    a, b = _neighbours(x, start)
    moved = swap * (b - a)
    end = start + 2 * b.shape[1]
    return torch.cat([x[:, :start], torch.stack([a + moved, b - moved], 2).flatten(1), x[:, end:]], 1)
