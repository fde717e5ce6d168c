"""The vectors of one modality of all samples of a task."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from mmcl.types import Bad

BLOCK = 256  # rows that are embedded at once


class Column(NamedTuple):
    """The vectors of one modality of all samples."""

    vectors: Float[Tensor, "rows dim"]
    owner: Int[Tensor, " rows"]  # number of the sample that each row is of, ascending
    bad: list[Bad]
