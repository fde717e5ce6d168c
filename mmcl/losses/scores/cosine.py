"""Cosine similarity."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmcl.losses.base import SCORES


@SCORES.register("cosine")
class Cosine:
    r"""Cosine of the angle between an anchor and a candidate.

    .. math:: s_{ij} = \frac{x_i^\top y_j}{\lVert x_i\rVert\,\lVert y_j\rVert}

    Use when: two modalities, or several in pairs; embeddings are to be searched with a plain inner product.
    Cost: one (rows, dim) x (dim, columns) product.
    Range: [-1, 1]; vectors are brought to fp32 before they are normalised, and a zero vector scores 0.

    Example:
        >>> Cosine()(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[1., 0.]])
    """

    def __call__(
        self, rows: Float[Tensor, "rows dim"], columns: Float[Tensor, "columns dim"]
    ) -> Float[Tensor, "rows columns"]:
        """Cosines of every row with every column."""
        return _unit(rows) @ _unit(columns).T


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
