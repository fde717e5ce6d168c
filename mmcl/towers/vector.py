"""Ready vectors: what another model, or a sensor, has made already."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.errors import BadSampleError
from mmcl.towers.base import TOWERS, Backbone
from mmcl.types import Draw, Transform


@TOWERS.register("vector")
class Vector(Backbone):
    """Ready vectors, as they are: what is learned of them is the head.

    Use when: a modality comes as one vector a sample: embeddings of another model, features of a sensor, an EEG. Take
        ``head: norm_linear`` where its numbers have any scale, ``head: mlp`` where a matrix is too little.
    Expects: arrays of ``width`` finite numbers (``.npy`` members of shards).
    Returns: the same, as fp32.

    Args:
        width: numbers of a vector.
        normalize: scale each vector to unit length; a vector of zeros, which has none, is then a bad sample. Otherwise
            it is a value like others, of which a head without bias makes zeros.
    """

    takes = "vector"

    def __init__(self, width: Annotated[int, Field(ge=1)], normalize: bool = False) -> None:
        super().__init__()
        self.width, self.normalize = width, normalize

    @property
    def varies(self) -> bool:
        """Nothing is drawn."""
        return False

    def transform(self, train: bool) -> "VectorTransform":
        """Rows of floats; the same in training and after."""
        return VectorTransform(self.width, directed=self.normalize)

    def forward(self, rows: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """The vectors."""
        return F.normalize(rows, dim=-1) if self.normalize else rows


class VectorTransform(Transform):
    """An array of numbers to a row of fp32.

    Args:
        width: how many numbers.
        directed: refuse a vector of zeros, which has no direction.
    """

    def __init__(self, width: int, directed: bool = False) -> None:
        self.width, self.directed = width, directed

    def empty(self, rows: int) -> Float[Tensor, "rows width"]:
        """Room for a batch."""
        return torch.empty(rows, self.width)

    def __call__(self, value: Any, draw: Draw, out: Float[Tensor, " width"]) -> None:
        """Fill one row."""
        if not isinstance(value, Tensor) or value.dtype == torch.bool or value.is_complex():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise BadSampleError(f"a vector is an array of numbers, in a member `npy`; got {kind}")
        if value.shape != (self.width,):
            raise BadSampleError(f"the vector has the shape {tuple(value.shape)}, and its tower takes ({self.width},)")
        out.copy_(value)
        if not out.isfinite().all():
            raise BadSampleError("the vector is not finite")
        if self.directed and not out.any():
            raise BadSampleError("the vector is all zeros, which has no direction (normalize: true)")
