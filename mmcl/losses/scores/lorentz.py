"""Distance in hyperbolic space (MERU)."""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mmcl.losses.base import SCORES, Features, Score
from mmcl.losses.scores.unit import wide

FLOOR = 1e-6  # of cosh(distance) - 1, below which fp32 knows nothing of it
TINY = 1e-12  # the same where the difference is known exactly
LONGEST = 10.0  # of a tangent vector times the root of the curvature; sinh(10) is 11,013


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
    Differs from the paper: the distance of a pair that belongs together is taken from differences, and tangent vectors
        longer than 10 are shortened, so that nothing overflows.
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
        self.start, self.width = math.log(curvature), 1
        self.log_curvature = nn.Parameter(torch.tensor(self.start), requires_grad=learn_curvature)
        self.log_anchor_scale = nn.Parameter(torch.zeros(()))  # alpha * sqrt(dim)
        self.log_candidate_scale = nn.Parameter(torch.zeros(()))

    @property
    def curvature(self) -> Float[Tensor, ""]:
        """The curvature now."""
        return self.log_curvature.exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Hold the curvature within a tenth and ten times of its start, and the scales at or below one."""
        self.log_curvature.clamp_(self.start - math.log(10), self.start + math.log(10))
        for log_scale in (self.log_anchor_scale, self.log_candidate_scale):
            log_scale.clamp_(max=0.5 * math.log(self.width))

    def anchors(self, x: Float[Tensor, "rows dim"]) -> Features:
        """Points in units of the curvature's radius: space, time, squared lengths, and the radius."""
        return self._lift(x, self.log_anchor_scale)

    def candidates(self, xs: Sequence[Float[Tensor, "columns dim"]]) -> Features:
        """As for anchors."""
        return self._lift(xs[0], self.log_candidate_scale)

    def _lift(self, x: Tensor, log_scale: Tensor) -> Features:
        v = wide(x)
        self.width = v.shape[-1]
        alpha = (log_scale - 0.5 * math.log(self.width)).exp()
        root = self.curvature.sqrt().to(v.dtype)
        tangent = v * (alpha * root).to(v.dtype)
        length = tangent.square().sum(-1, keepdim=True).clamp(min=TINY).sqrt()
        short = length.clamp(max=LONGEST)
        space = tangent * (short.sinh() / length)
        return space, short.squeeze(-1).cosh(), space.square().sum(-1), root.expand(v.shape[0])

    def tile(self, anchors: Features, candidates: Features) -> Float[Tensor, "rows columns"]:
        """Distances from inner products."""
        (x, time, _, root), (y, other, _, _) = anchors, candidates
        return self._distance(time[:, None] * other - x @ y.T - 1, FLOOR) / -root[:, None]

    def pairs(self, anchors: Features, candidates: Features) -> Float[Tensor, " rows"]:
        """Distances from differences: cosh d - 1 is half the Lorentzian square of x - y."""
        (x, time, length, root), (y, other, other_length, _) = anchors, candidates
        across = (length - other_length) / (time + other)
        return self._distance(0.5 * ((x - y).square().sum(-1) - across.square()), TINY) / -root

    @staticmethod
    def _distance(less_one: Tensor, floor: float) -> Tensor:
        """Distance from cosh(distance) - 1."""
        return 2 * torch.asinh((less_one.clamp(min=floor) / 2).sqrt())
