"""What is general entails what is special: cones in hyperbolic space (MERU)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.losses.base import Features
from mmcl.losses.line import Line
from mmcl.losses.regularizers.base import REGULARIZERS, Regularizer, over_pairs
from mmcl.losses.scores.lorentz import Lorentz
from mmcl.losses.scores.unit import floored_sqrt
from mmcl.losses.temperature import Positive
from mmcl.losses.term import Term
from mmcl.types import Embeddings

NEAR = 1e-4  # of a distance in units of the curvature's radius, below which two points are one and have no angle
TINY = 1e-12  # of a squared sine


@REGULARIZERS.register("entailment")
class Entailment(Regularizer):
    r"""Keep what is special inside the cone of what is general.

    .. math:: \frac1n\sum_i \max\bigl(0,\; \mathrm{ext}(x_i, y_i) - \mathrm{aper}(x_i)\bigr), \quad
              \mathrm{aper}(x) = \arcsin\frac{2K}{\sqrt c\,\lVert x\rVert}

    where ext is the angle at the general point x between the way from the origin, gone on, and the way to the special
    point y. With distances a, b from the origin in units of the curvature's radius and the angle :math:`\theta` at the
    origin,

    .. math:: \mathrm{ext} = \operatorname{atan2}\bigl(\sinh b\,\sin\theta,\;
              \sinh(b - a) - \sinh b \cosh a\,(1 - \cos\theta)\bigr)

    which is the paper's arccos without differences of near numbers: exact for points near one another. Curvature and
    scales are those of the objective's `lorentz` term, which must be there; pairs are averaged.

    Use when: beside `lorentz`, where captions say less than what they tell of.
    Cost: O(rows x dim).
    Range: [0, pi].
    Differs from the paper: points nearer than 1e-4 radii to the origin entail everything, and points so near to one
        another entail each other (its code gives a right angle), both without gradient, which has no bound there.
    Related: `lorentz`.

    Args:
        general: the modality whose points have cones; every other is special.
        radius: K; points within about 2K radii of the origin have the widest cone, a half-space.

    Reference:
        Desai et al., "Hyperbolic Image-Text Representations", ICML 2023, the entailment loss
        (https://arxiv.org/abs/2304.09172); after Ganea et al., "Hyperbolic Entailment Cones for Learning Hierarchical
        Embeddings", ICML 2018 (https://arxiv.org/abs/1804.01882).

    Example:
        >>> from mmcl.losses.objective import Objective, check_objective
        >>> objective = Objective(check_objective([{"score": "lorentz"}, {"regularize": "entailment"}]))
        >>> text = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> objective({"text": text, "image": 2 * text}).parts["entailment"]  # farther out, on the same ways
        tensor(0.)
    """

    least = 2

    def __init__(self, general: str = "text", radius: Positive = 0.1) -> None:
        self.general, self.radius = general, radius
        self.term: Term | None = None

    def meet(self, lines: Sequence[Line]) -> None:
        """Find the term with a Lorentz score. It stays that term's: weights have one place in a checkpoint."""
        found = [line for line in lines if isinstance(line, Term) and isinstance(line.score, Lorentz)]
        if len(found) != 1:
            raise MmclError(
                f"entailment takes curvature and scales from the objective's term with `score: lorentz`; "
                f"there are {len(found)} such terms."
            )
        self.term, self.borrowed = found[0], found

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        e, term = embeddings, self.term
        assert term is not None, "no objective has built it"
        score, lifted = term.score, dict[str, tuple[Features, Features]]()
        for anchor, others, _ in term.view.edges(list(e.all)):
            first, second = score.anchors(e.all[anchor][e.own]), score.candidates([e.all[others[0]][e.own]])
            if anchor == self.general:
                lifted[others[0]] = first, second
            elif others[0] == self.general:
                lifted[anchor] = second, first
        if not lifted:
            raise MmclError(f"objective: entailment: no pair of the lorentz term has {self.general!r}.")

        def value(general: str, special: str, both: Bool[Tensor, " all_batch"]) -> Tensor:
            outside = self._outside(*lifted[special])
            return torch.where(both[e.own], outside, 0.0).sum() / both.sum().clamp(min=1)

        return over_pairs(e, [(self.general, m) for m in lifted], value)

    def _outside(self, general: Features, special: Features) -> Float[Tensor, " batch"]:
        """By how much the exterior angle is larger than half the cone's aperture."""
        (x, a, sinh_a, _), (y, b, sinh_b, _) = general, special
        apart, together = (x - y).square().sum(-1), (x + y).square().sum(-1)
        across = sinh_b * floored_sqrt(apart * together / 4, TINY)
        along = (b - a).sinh() - sinh_b * a.cosh() * (apart / 2)
        one = (a < NEAR) | (across.square() + along.square() < NEAR**2)
        angle = torch.atan2(across.masked_fill(one, 0.0), along.masked_fill(one, 1.0))
        ratio = 2 * self.radius / sinh_a.clamp(min=NEAR)
        widest = ratio >= 1
        aperture = torch.where(widest, math.pi / 2, ratio.masked_fill(widest, 0.5).asin())
        return (angle - aperture).clamp(min=0)
