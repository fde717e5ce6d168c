"""Powers of distances (Kernel-InfoNCE)."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.base import SCORES, Features, Score
from mmcl.losses.scores.unit import unit

FLOOR = 1e-6  # of a squared distance, below which fp32 knows nothing of it
TINY = 1e-12  # the same where the difference is known exactly


@SCORES.register("kernel")
class Kernel(Score):
    r"""Power of the distance of unit vectors, the exponent of a kernel; objectives see its negative.

    .. math:: s_{ij} = -\bigl(\lambda \lVert x_i - y_j\rVert_2^{\gamma} + (1 - \lambda)\lVert x_i - y_j\rVert_2^2\bigr)

    so that :math:`e^{s/\tau}` is the Gaussian kernel for :math:`\gamma = 2` (cosine, with half the temperature), the
    Laplacian kernel for :math:`\gamma = 1`, and their product for a :math:`\lambda` between.

    Use when: the tails of the Gaussian are too light: a smaller power still pulls at pairs that are far apart.
    Cost: one product (rows, dim) x (dim, columns), and a power of each entry.
    Range: distances in [0, 2], so [-(lambda 2^gamma + (1 - lambda) 4), 0].
    Differs from the paper: distances are Euclidean (p = 2); others cannot be had from a matrix product. The paper's
        "simple sum" adds kernels, which is `mix` of their exponents' weighted sum here as in its code. Distances below
        a thousandth count as one, and have no gradient (a millionth for pairs that belong together).
    Related: `cosine`.

    Args:
        gamma: the power, in (0, 4].
        mix: weight of the power beside the square, in [0, 1].

    Reference:
        Tan et al., "Contrastive Learning Is Spectral Clustering On Similarity Graph", ICLR 2024, Section 5
        (https://arxiv.org/abs/2303.15103).

    Example:
        >>> import torch
        >>> x, y = torch.eye(2).split(1)
        >>> Kernel(gamma=1)(x, torch.cat([y, -x])).round(decimals=4)
        tensor([[-1.4142, -2.0000]])
    """

    smaller_is_closer: ClassVar[bool] = True
    lowest: float | None = -16.0  # of any power; an instance knows its own
    exact: ClassVar[bool] = True
    symmetric: ClassVar[bool] = True

    def __init__(
        self, gamma: Annotated[float, Field(gt=0, le=4)] = 1.0, mix: Annotated[float, Field(ge=0, le=1)] = 1.0
    ) -> None:
        self.gamma, self.mix = gamma, mix
        self.lowest = -(mix * 2**gamma + (1 - mix) * 4)

    def anchors(self, x: Float[Tensor, "rows dim"]) -> Features:
        """Unit vectors and their squared lengths."""
        x = unit(x)
        return x, x.square().sum(-1)

    def candidates(self, xs: Sequence[Float[Tensor, "columns dim"]]) -> Features:
        """Unit vectors and their squared lengths."""
        return self.anchors(xs[0])

    def tile(self, anchors: Features, candidates: Features) -> Float[Tensor, "rows columns"]:
        """Distances from inner products."""
        (x, xx), (y, yy) = anchors, candidates
        return self._kernel(xx[:, None] + yy - 2 * (x @ y.T), FLOOR)

    def pairs(self, anchors: Features, candidates: Features) -> Float[Tensor, " rows"]:
        """Distances from differences."""
        return self._kernel((anchors[0] - candidates[0]).square().sum(-1), TINY)

    def _kernel(self, square: Tensor, floor: float) -> Tensor:
        power = square.clamp(min=floor) ** (self.gamma / 2)
        return -(self.mix * power + (1 - self.mix) * square)
