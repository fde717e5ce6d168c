"""A common candidate for what matches nothing (Visualness)."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mmcl.losses.matrix import Candidates, Matrix
from mmcl.losses.negatives.base import NEGATIVES, Negatives, weight_name


@NEGATIVES.register("null_anchor")
class NullAnchor(Negatives):
    r"""One more candidate, learned, which rows without a candidate of their own must find; a negative of all others.

    A sentence that shows nothing is a sample with text and without image: its own candidate is the null image. What a
    row finds closer than its null is a match, so the cosine with it also is an answer "none of these".

    Use when: part of one modality matches nothing: sentences that cannot be drawn, silence, noise.
    Cost: one column.
    Differs from the paper: its null image is one fixed picture of noise, sent through the tower; here the vector itself
        is learned. The null searches for nothing.
    Related: rows without a partner are left out where there is no null.

    Args:
        of: modalities that have a null: those that the unmatched rows lack.

    Reference:
        Verma et al., "Learning the Visualness of Text Using Large Vision-Language Models", EMNLP 2023, Section 3
        (https://arxiv.org/abs/2305.10434).

    Example:
        >>> NullAnchor(["image"], dim=4).vectors["image"].shape
        torch.Size([4])
    """

    unmatched: ClassVar[bool] = True

    def __init__(self, of: Annotated[list[str], Field(min_length=1)], *, dim: int) -> None:
        super().__init__()
        self.vectors = nn.ParameterDict({weight_name(m): nn.Parameter(torch.randn(dim) / dim**0.5) for m in of})

    def more(self, matrix: Matrix, forward: bool) -> Sequence[Candidates | Float[Tensor, "rows drawn"]]:
        """The null, for rows that have a candidate of their own."""
        (m,) = matrix.modalities(forward)
        if weight_name(m) not in self.vectors:
            return []
        matched = matrix.anchors_there & matrix.tuples_there
        return [Candidates([self.vectors[weight_name(m)][None].to(matrix.scale.dtype)], rows=matched)]

    def sink(self, matrix: Matrix, forward: bool) -> Float[Tensor, " rows"] | None:
        """The null's score with every row."""
        (m,) = matrix.modalities(forward)
        if weight_name(m) not in self.vectors:
            return None
        rows = matrix.e.own.stop - matrix.e.own.start
        return matrix.paired(
            forward, matrix.rows(forward), [self.vectors[weight_name(m)].to(matrix.scale.dtype).expand(rows, -1)]
        )
