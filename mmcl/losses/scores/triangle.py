"""Area of the triangle between an anchor and two others (TRIANGLE)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from mmcl.losses.base import SCORES, Features, Score
from mmcl.losses.scores.unit import floored_sqrt, unit
from mmcl.losses.temperature import TemperatureSpec

FLOOR = 1e-6  # of four times the squared area, below which fp32 knows nothing of it
TINY = 1e-12  # the same where the sides are known exactly


@SCORES.register("triangle")
class Triangle(Score):
    r"""Area of the triangle whose corners are the unit vectors of an anchor and of a candidate's two modalities.

    .. math:: A_{ij} = \tfrac12\sqrt{\lVert u\rVert^2\lVert w\rVert^2 - (u^\top w)^2},
              \quad u = t_i - x_j, \; w = t_i - y_j

    All inner products of u and w follow from those of t, x and y, so no tensor of (rows, columns, dim) is made.
    Objectives see -A.

    Use when: exactly three modalities, where `gram` is blind to signs.
    Cost: two products (rows, dim) x (dim, columns).
    Range: A in [0, 1.299]; zero also where only two corners meet.
    Differs from the paper: nothing in the formula; the published code forgets the square root (it takes
        (|u|^2 |w|^2 - (u.w)^2) / 2) and makes tensors of (B, B, dim). Areas below 5e-4 count as that and have no
        gradient (5e-7 for what belongs together).
    Related: `gram`.

    Reference:
        Cicchetti et al., "A TRIANGLE Enables Multimodal Alignment Beyond Cosine Similarity", NeurIPS 2025, the area
        formula (https://arxiv.org/abs/2509.24734).

    Example:
        >>> import torch
        >>> x, y, z = torch.eye(3).split(1)  # an equilateral triangle with sides of sqrt(2)
        >>> Triangle()(x, y, z).abs().round(decimals=4)
        tensor([[0.8660]])
    """

    least: ClassVar[int] = 2
    most: ClassVar[int | None] = 2
    smaller_is_closer: ClassVar[bool] = True
    lowest: float | None = -1.2990381  # three corners of one great circle, 120 degrees apart
    exact: ClassVar[bool] = True
    view: ClassVar[Literal["pairs", "tuple", "rotating"]] = "tuple"
    temperature: ClassVar[TemperatureSpec] = TemperatureSpec(min=0.001)

    def anchors(self, x: Float[Tensor, "rows dim"]) -> Features:
        """Unit vectors and their squared lengths."""
        t = unit(x)
        return t, t.square().sum(-1)

    def candidates(self, xs: Sequence[Float[Tensor, "columns dim"]]) -> Features:
        """Both unit vectors, their squared lengths and their inner product."""
        x, y = (unit(x) for x in xs)
        return x, y, x.square().sum(-1), y.square().sum(-1), (x * y).sum(-1)

    def tile(self, anchors: Features, candidates: Features) -> Float[Tensor, "rows columns"]:
        """Areas from inner products, negative."""
        (t, tt), (x, y, xx, yy, xy) = anchors, candidates
        tx, ty = t @ x.T, t @ y.T
        uu, ww = tt[:, None] + xx - 2 * tx, tt[:, None] + yy - 2 * ty
        uw = tt[:, None] + xy - tx - ty
        return floored_sqrt(uu * ww - uw.square(), FLOOR) * -0.5

    def pairs(self, anchors: Features, candidates: Features) -> Float[Tensor, " rows"]:
        """Areas from the sides themselves: one side, times the part of the other that is across it."""
        (t, _), (x, y, *_) = anchors, candidates
        u, w = t - x, t - y
        uu = u.square().sum(-1, keepdim=True)
        across = w - u * ((u * w).sum(-1, keepdim=True) / uu.clamp(min=TINY))
        return floored_sqrt(uu.squeeze(-1) * across.square().sum(-1), TINY) * -0.5
