"""What a tower must offer."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar

from jaxtyping import Float
from pydantic import PlainValidator, SerializeAsAny
from torch import Tensor, nn

from mmcl.registry import Part, Registry
from mmcl.types import Transform


class Asset:
    """Marks an argument that names a file a run cannot do without; the run keeps a copy of it."""


asset = Annotated[Path, Asset()]
"""Type of such an argument."""


class Tower(nn.Module, ABC):
    """One encoder: from a batch of one modality to one vector of the shared width per row."""

    takes: ClassVar[str]
    """Kind of input: ``image`` (uint8 picture tensors) or ``text`` (strings). A modality may have any name."""

    @abstractmethod
    def transform(self, train: bool) -> Transform:
        """What makes a row of one decoded value: augmented in training, the same every time otherwise."""

    @abstractmethod
    def forward(self, rows: Any) -> Float[Tensor, "batch dim"]:
        """Vectors, not normalised, of collated rows on this tower's device."""


TOWERS: Registry[Tower] = Registry("tower")
TowerPart = Annotated[SerializeAsAny[Part], PlainValidator(TOWERS.check)]
