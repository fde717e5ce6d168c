"""InfoNCE with a handicap for the positive (AM, AAM)."""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.base import CONTRASTS, Contrast, Side
from mmcl.losses.scores.unit import floored_sqrt
from mmcl.losses.statistics import LogSumExp, Statistic


@CONTRASTS.register("margin")
class Margin(Contrast):
    r"""Ask that the positive wins by a margin.

    .. math:: \ell_i = -\log \frac{e^{\tilde s_{ip}/\tau}}{e^{\tilde s_{ip}/\tau} + \sum_{j \ne p} e^{s_{ij}/\tau}},
              \quad \tilde s = s - m \;\text{ or }\; \cos(\arccos s + m)

    for the kinds `additive` (AM) and `angular` (AAM).

    Use when: classes are close and verification by a threshold matters (speakers, faces, products).
    Range: [0, inf).
    Differs from the paper: angles beyond pi - m, where the cosine would rise again, take the straight line
        s - m sin m, as ArcFace's code does; the sine is no smaller than the root of what the number type can tell from
        one (3e-4 in fp32), and has no gradient there.
    Related: `softmax` is m = 0.

    Args:
        m: the margin, in units of the score or in radians.
        kind: `additive`, or `angular` (the score is read as a cosine).

    Reference:
        Lepage and Dehak, "Experimenting with Additive Margins for Contrastive Self-Supervised Speaker Verification",
        Interspeech 2023, Eq. 3 to 5 (https://arxiv.org/abs/2306.03664).

    Example:
        >>> side = Side(own=torch.ones(1), statistics={"others": torch.zeros(1)}, others=torch.ones(1))
        >>> bool(Margin(m=0.2)(side) > Margin(m=0.0)(side))
        True
    """

    def __init__(
        self, m: Annotated[float, Field(ge=0, lt=3.14)] = 0.1, kind: Literal["additive", "angular"] = "additive"
    ) -> None:
        self.m, self.kind = m, kind

    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """Log-sum-exp of the others."""
        return {"others": LogSumExp()}

    def __call__(self, side: Side) -> Float[Tensor, " rows"]:
        """Loss of each row."""
        z = self._handicapped(side.own) * side.scale
        return torch.logaddexp(side["others"], z) - z

    def _handicapped(self, s: Tensor) -> Tensor:
        if self.kind == "additive":
            return s - self.m
        cos, sin = math.cos(self.m), math.sin(self.m)
        sine = floored_sqrt(1 - s.square(), torch.finfo(s.dtype).eps)
        return torch.where(s > -cos, s * cos - sine * sin, s - self.m * sin)
