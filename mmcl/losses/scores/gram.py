"""Volume of the parallelotope that an anchor and a tuple span (GRAM)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmcl.losses.base import SCORES, Features, Pull, Score
from mmcl.losses.scores.unit import floored_sqrt, unit
from mmcl.losses.temperature import TemperatureSpec

RIDGE = 1e-6  # added to the diagonal of every Gram matrix; 1e-4 would show in small volumes
FLOOR = 1e-6  # of a squared height, below which fp32 knows nothing of it


@SCORES.register("gram")
class Gram(Score):
    r"""Volume that the unit vectors of an anchor and of all modalities of a candidate span; small where they agree.

    .. math:: V_{ij} = \sqrt{\det G(t_i, x_j^1, \dots, x_j^m)} = \sqrt{\det M_j}\;\sqrt{1 - \lVert Q_j t_i\rVert^2}

    with the Gram matrix :math:`M_j = X_j X_j^\top` of the candidate alone and an orthonormal basis
    :math:`Q_j = L_j^{-1} X_j` of its span (:math:`M_j = L_j L_j^\top`). So all volumes cost one matrix product a
    modality and no determinant of a pair (Schur's complement). A ridge of 1e-6 stands on the diagonal of G, on both
    sides of the identity, which stays exact. Objectives see -V.

    Use when: three modalities and more that should agree as a whole.
    Cost: m products (rows, dim) x (dim, columns), as much as m pairs of modalities; m x m Cholesky factors a row.
    Range: V in [0, 1]; values of tuples of different sizes cannot be compared.
    Differs from the paper: computed by the identity above, in fp32 whatever the towers' type, with a ridge and a floor,
        so gradients stay finite for identical, collinear and zero vectors; the published code takes determinants of
        k x k matrices a pair (B^2 of them, twice), in which autocast rounds the products, and gathers without gradient.
    Traps: the volume does not see signs: V(t, -x) = V(t, x), so towers that start from random weights can end with
        opposite signs; the preset `gram` adds InfoNCE of cosines, which decides them. The factor sqrt(det M_j) favours
        candidates whose own modalities agree, whatever the anchor; `span` is the volume without it. The others are not
        aligned with one another by an anchor: `view: rotating` does it.
    Related: `span`, `triangle`, `symile`.

    Reference:
        Cicchetti et al., "Gramian Multimodal Representation Learning and Alignment", ICLR 2025, Eq. 5 and 6
        (https://arxiv.org/abs/2412.11959).

    Example:
        >>> x, y, z = torch.eye(3).split(1)
        >>> Gram()(x, y, z).abs().round(decimals=3), Gram()(x, y, x).abs().round(decimals=2)
        (tensor([[1.]]), tensor([[0.]]))
    """

    most: ClassVar[int | None] = None
    smaller_is_closer: ClassVar[bool] = True
    lowest: float | None = -1.0
    exact: ClassVar[bool] = True
    view: ClassVar[Literal["pairs", "tuple", "rotating"]] = "tuple"
    # volumes of four and more modalities that agree lie near one another: the temperature must be free to fall
    temperature: ClassVar[TemperatureSpec] = TemperatureSpec(min=0.001)

    def anchors(self, x: Float[Tensor, "rows dim"]) -> Features:
        """Unit vectors and their squared lengths, with the ridge."""
        t = unit(x)
        return t, t.square().sum(-1) + RIDGE

    def candidates(self, xs: Sequence[Float[Tensor, "columns dim"]]) -> Features:
        """Volume of the candidate alone, the inverse of its Cholesky factor, and its basis, one tensor a vector."""
        x = torch.stack([unit(x) for x in xs], 1)
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        factor = torch.linalg.cholesky_ex(x @ x.mT + RIDGE * eye).L  # of what is not finite, too
        inverse = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
        basis = inverse @ x
        volume = self._weight(factor.diagonal(dim1=-2, dim2=-1).prod(-1))
        return volume, inverse, *(q.contiguous() for q in basis.unbind(1))

    def _weight(self, volume: Float[Tensor, " columns"]) -> Float[Tensor, " columns"]:
        return volume

    def tile(self, anchors: Features, candidates: Features) -> Float[Tensor, "rows columns"]:
        """Volumes by the factored form, negative."""
        (t, length), (volume, _, *basis) = anchors, candidates
        height = length[:, None] - sum((t @ q.T).square() for q in basis)
        return floored_sqrt(height, FLOOR).mul(-volume)

    def pairs(self, anchors: Features, candidates: Features) -> Float[Tensor, " rows"]:
        r"""Heights as lengths of what the span leaves of the anchor: no difference of near numbers.

        .. math:: h^2 + \epsilon = \lVert t - X^\top a\rVert^2 + \epsilon \lVert a\rVert^2 + \epsilon,
                  \quad a = (M + \epsilon I)^{-1} X t
        """
        (t, _), (volume, inverse, *basis) = anchors, candidates
        q = torch.stack(basis, 1)
        inside = torch.einsum("nmd,nd->nm", q, t)
        rest = t - torch.einsum("nm,nmd->nd", inside, q)
        weights = torch.einsum("nm,nml->nl", inside, inverse)
        height = rest.square().sum(-1) + RIDGE * (weights.square().sum(-1) + 1)
        return floored_sqrt(height, RIDGE / 4).mul(-volume)

    def vjp(self, anchors: Features, candidates: Features) -> tuple[Float[Tensor, "rows columns"], Pull]:
        """By hand: the products are kept for the way back."""
        (t, length), (volume, _, *basis) = anchors, candidates
        products = [t @ q.T for q in basis]
        square = length[:, None].repeat(1, volume.shape[0])
        for product in products:
            square.addcmul_(product, product, value=-1)
        height = square.clamp_(min=FLOOR).sqrt_()

        def pull(g: Tensor, of_anchors: Sequence[Tensor | None], of_candidates: Sequence[Tensor | None]) -> None:
            (of_t, of_length), (of_volume, _, *of_basis) = of_anchors, of_candidates
            if of_volume is not None:
                of_volume -= (g * height).sum(0)
            # d(-V)/d(h^2) = -volume / (2 h), and nothing under the floor
            g = g.mul_(volume * -0.5).div_(height).masked_fill_(height <= FLOOR**0.5, 0.0)
            if of_length is not None:
                of_length += g.sum(1)
            for product, q, of_q in zip(products, basis, of_basis, strict=True):
                product.mul_(g)
                if of_t is not None:
                    of_t.addmm_(product, q, alpha=-2)
                if of_q is not None:
                    of_q.addmm_(product.T, t, alpha=-2)

        return height * -volume, pull


@SCORES.register("span")
class Span(Gram):
    r"""Distance of an anchor from the span of a candidate's vectors: the volume without the candidate's own.

    .. math:: h_{ij} = \frac{V_{ij}}{\sqrt{\det M_j}} = \sqrt{1 - \lVert Q_j t_i\rVert^2}

    Use when: `gram` ranks candidates first whose modalities agree with one another, whatever the anchor (hubs).
    Cost: as `gram`.
    Range: [0, 1]; also between candidates of different sizes.
    Differs from the paper: not one of it; the volume divided by what does not depend on the anchor.
    Traps: blind to signs as `gram` is; nothing brings the candidates' own modalities together.
    Related: `gram`.

    Reference:
        derived from Cicchetti et al., "Gramian Multimodal Representation Learning and Alignment", ICLR 2025, Eq. 5
        (https://arxiv.org/abs/2412.11959), by Schur's complement.

    Example:
        >>> x, y, z = torch.eye(3).split(1)
        >>> Span()(x, (x + y), z).abs().round(decimals=4)
        tensor([[0.7071]])
    """

    def _weight(self, volume: Float[Tensor, " columns"]) -> Float[Tensor, " columns"]:
        return torch.ones_like(volume)
