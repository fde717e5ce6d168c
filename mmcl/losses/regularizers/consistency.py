"""Geometric consistency of two modalities (CyCLIP, CARE)."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from mmcl.losses.regularizers.base import REGULARIZERS, Regularizer, over_pairs, share
from mmcl.losses.scores.unit import unit
from mmcl.losses.views import ModalityPairs
from mmcl.types import Embeddings


@REGULARIZERS.register("consistency")
class Consistency(Regularizer):
    r"""Similarities that are the same in both modalities, and in both directions between them.

    .. math:: \frac{1}{n^2}\sum_{ij} \Bigl[ \lambda_{in}\,(x_i^\top x_j - y_i^\top y_j)^2
              + \lambda_{cross}\,(x_i^\top y_j - x_j^\top y_i)^2 \Bigr]

    over unit vectors; pairs of modalities are averaged. With :math:`U = x - y`, :math:`V = x + y` and
    :math:`A = V^\top U` the sums are :math:`\frac12(\langle U^\top U, V^\top V\rangle \pm \langle A, A^\top\rangle)`:
    matrices of (dim, dim), and no cancellation where the modalities agree. The first term alone is CARE's.

    Use when: zero-shot answers in image space and in text space should agree.
    Cost: three products of (dim, rows) x (rows, dim), on every process.
    Range: [0, 4] for each part.
    Differs from the paper: mean over n^2 entries, where its code divides by n (multiply its weights 0.25 by n); no
        temperature.
    Related: `alignment`.

    Args:
        in_modal: weight of the first part.
        cross_modal: weight of the second.
        pairs: of modalities; all where nothing is said.

    Reference:
        Goel et al., "CyCLIP: Cyclic Contrastive Language-Image Pretraining", NeurIPS 2022, Eq. 2 and 3
        (https://arxiv.org/abs/2205.14459); Gupta et al., "Structuring Representation Geometry with Rotationally
        Equivariant Contrastive Learning", ICLR 2024, Eq. 3 (https://arxiv.org/abs/2306.13924).

    Example:
        >>> x = torch.nn.functional.normalize(torch.randn(6, 4), dim=-1)
        >>> rotation = torch.linalg.qr(torch.randn(4, 4)).Q  # a rotated modality has the same similarities
        >>> bool(Consistency(cross_modal=0.0)(Embeddings.single({"a": x, "b": x @ rotation})) < 1e-6)
        True
    """

    least = 2

    def __init__(
        self,
        in_modal: Annotated[float, Field(ge=0)] = 1.0,
        cross_modal: Annotated[float, Field(ge=0)] = 1.0,
        pairs: ModalityPairs | None = None,
    ) -> None:
        self.in_modal, self.cross_modal, self.pairs = in_modal, cross_modal, pairs

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        e = embeddings

        def value(a: str, b: str, both: Bool[Tensor, " all_batch"]) -> Tensor:
            x, y = (torch.where(both[:, None], unit(e.all[m]), 0.0) for m in (a, b))
            within, across = squared_differences(x, y)
            return (self.in_modal * within + self.cross_modal * across) / both.sum().clamp(min=1).square() * share(e)

        return over_pairs(e, self.pairs, value)


@REGULARIZERS.register("care")
class Care(Consistency):
    r"""Similarities that are the same in two views: one has become the other by a rotation of the sphere.

    .. math:: \frac{1}{n^2}\sum_{ij} (x_i^\top x_j - y_i^\top y_j)^2

    over the unit vectors x and y of two views that differ by one and the same change for all samples. It is
    `consistency` without its second part, and of pairs that are named.

    Use when: what a change does to a sample should be seen in its embedding, and not be forgotten.
    Cost: as `consistency`.
    Range: [0, 4].
    Differs from the paper: mean over all entries, the diagonal (zero) among them.
    Related: `consistency`; `structure` has a teacher in place of the second view.

    Args:
        pairs: of views, such as `[[image, image.2]]`.

    Reference:
        Gupta et al., "Structuring Representation Geometry with Rotationally Equivariant Contrastive Learning", ICLR
        2024, Eq. 3 (https://arxiv.org/abs/2306.13924).

    Example:
        >>> x = torch.nn.functional.normalize(torch.randn(6, 4), dim=-1)
        >>> rotation = torch.linalg.qr(torch.randn(4, 4)).Q
        >>> bool(Care([("a", "a.2")])(Embeddings.single({"a": x, "a.2": x @ rotation})) < 1e-6)
        True
    """

    least = 1

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        super().__init__(cross_modal=0.0, pairs=pairs)


def squared_differences(
    x: Float[Tensor, "rows dim"], y: Float[Tensor, "rows dim"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""Sums of :math:`(x_i^\top x_j - y_i^\top y_j)^2` and of :math:`(x_i^\top y_j - x_j^\top y_i)^2` over all i, j.

    By :math:`XX^\top - YY^\top = \frac12(UV^\top + VU^\top)` with U = X - Y and V = X + Y, and its like, in matrices of
    (dim, dim).
    """
    u, v = x - y, x + y
    mixed = v.T @ u
    same, crossed = ((u.T @ u) * (v.T @ v)).sum(), (mixed * mixed.T).sum()
    return 0.5 * (same + crossed), 0.5 * (same - crossed)
