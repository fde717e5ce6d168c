"""Distance in hyperbolic space (MERU)."""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from mmcl.losses.base import SCORES, Features, Score
from mmcl.losses.scores.unit import floored_sqrt, unit, wide

FLOOR = 1e-6  # of cosh(distance) - 1, below which fp32 knows nothing of it
TINY = 1e-12  # the same where the difference is known exactly
HUGE = 1e6  # of an embedding, beyond which its length is taken for this
LONGEST = 5.0  # of a tangent vector times the root of the curvature; fp32 errors grow with the square of its sinh, 74


@SCORES.register("lorentz")
class Lorentz(Score, nn.Module):
    r"""Geodesic distance in the Lorentz model of hyperbolic space; objectives see its negative.

    .. math:: d(x, y) = \tfrac{1}{\sqrt c} \operatorname{arcosh}(-c \langle x, y\rangle_{\mathcal L}), \quad
              \langle x, y\rangle_{\mathcal L} = x^\top y - \sqrt{1/c + \lVert x\rVert^2}\sqrt{1/c + \lVert y\rVert^2}

    where embeddings v, as the towers made them, are tangent vectors at the origin, scaled and lifted:
    :math:`x = \sinh(\sqrt c\,\alpha\lVert v\rVert)\,v / (\sqrt c \lVert v\rVert)`. The curvature c and the scales
    :math:`\alpha` of anchors and of candidates are learned; :math:`\alpha` begins at :math:`1/\sqrt{dim}`.

    Use when: captions are more general than what they tell of: general ones move to the origin, `entailment` helps.
    Cost: one product (rows, dim) x (dim, columns), and an arcosh of each entry.
    Range: [0, inf).
    Differs from the paper: the same distance by the hyperbolic law of cosines, exact from differences for pairs that
        belong together; tangent vectors longer than 5 radii are shortened, beyond which fp32 knows too little.
    Related: `cosine`, which forgets lengths.

    Args:
        curvature: c at the start, in (0, 10].
        learn_curvature: whether it is learned; it stays within a tenth and ten times of its start.

    Reference:
        Desai et al., "Hyperbolic Image-Text Representations", ICML 2023, Eq. 1 to 7 (https://arxiv.org/abs/2304.09172).

    Example:
        >>> origin, x = torch.zeros(1, 4), torch.tensor([[2.0, 0.0, 0.0, 0.0]])  # half as long, once scaled
        >>> Lorentz()(origin, x).detach().round(decimals=4)
        tensor([[-1.]])
    """

    smaller_is_closer: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def __init__(self, curvature: Annotated[float, Field(gt=0, le=10)] = 1.0, learn_curvature: bool = True) -> None:
        super().__init__()
        self.start, self.width = math.log(curvature), 0  # of embeddings, once they are seen
        self.log_curvature = nn.Parameter(torch.tensor(self.start), requires_grad=learn_curvature)
        self.log_anchor_scale = nn.Parameter(torch.zeros(()))  # alpha * sqrt(dim)
        self.log_candidate_scale = nn.Parameter(torch.zeros(()))

    @property
    def curvature(self) -> Float[Tensor, ""]:
        """The curvature now."""
        return self.log_curvature.exp()

    @torch.no_grad()
    def after_step_(self, taken: Bool[Tensor, ""] | None = None) -> None:
        """Hold the curvature within a tenth and ten times of its start, and the scales at or below one."""
        self.log_curvature.clamp_(self.start - math.log(10), self.start + math.log(10))
        if self.width:
            for log_scale in (self.log_anchor_scale, self.log_candidate_scale):
                log_scale.clamp_(max=0.5 * math.log(self.width))

    def anchors(self, x: Float[Tensor, "rows dim"]) -> Features:
        """Directions, distances from the origin in units of the curvature's radius, their sinh, and that radius."""
        return self._polar(x, self.log_anchor_scale)

    def candidates(self, xs: Sequence[Float[Tensor, "columns dim"]]) -> Features:
        """As for anchors."""
        return self._polar(xs[0], self.log_candidate_scale)

    def _polar(self, x: Tensor, log_scale: Tensor) -> Features:
        v = wide(x)
        self.width = v.shape[-1]
        root = self.curvature.sqrt().to(v.dtype)
        alpha = (log_scale - 0.5 * math.log(self.width)).exp().to(v.dtype)
        length = torch.linalg.vector_norm(v, dim=-1).clamp(max=HUGE) * (alpha * root)
        length = length.clamp(max=LONGEST)
        return unit(v), length, length.sinh(), root.expand(v.shape[0])

    def tile(self, anchors: Features, candidates: Features) -> Float[Tensor, "rows columns"]:
        """Distances by the law of cosines, from inner products of directions."""
        (x, a, sinh_a, root), (y, b, sinh_b, _) = anchors, candidates
        apart = 1 - x @ y.T
        return self._distance(a[:, None] - b, sinh_a[:, None] * sinh_b * apart, FLOOR) / -root[:, None]

    def pairs(self, anchors: Features, candidates: Features) -> Float[Tensor, " rows"]:
        """The same from differences of directions."""
        (x, a, sinh_a, root), (y, b, sinh_b, _) = anchors, candidates
        apart = 0.5 * (x - y).square().sum(-1)
        return self._distance(a - b, sinh_a * sinh_b * apart, TINY) / -root

    @staticmethod
    def _distance(along: Tensor, across: Tensor, floor: float) -> Tensor:
        """Cosh d - 1 = 2 sinh^2((a - b) / 2) + sinh a sinh b (1 - cos)."""
        less_one = 2 * (along / 2).sinh().square() + across
        return 2 * torch.asinh(floored_sqrt(less_one / 2, floor))
