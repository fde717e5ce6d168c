"""What a tower must offer."""

from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from jaxtyping import Float
from open_clip.transformer import QuickGELU
from pydantic import PlainValidator, SerializeAsAny
from torch import Tensor, nn

from mmcl.registry import Part, Registry
from mmcl.types import Transform

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
"""Of a transformer's MLPs: exact, by tanh (cheaper on CPUs), or OpenAI's own approximation."""
ACTIVATIONS: dict[Activation, Any] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
}


class Asset:
    """Marks an argument that names a file a run cannot do without; the run keeps a copy of it."""


asset = Annotated[Path, Asset()]
"""Type of such an argument."""


class Tower(nn.Module, ABC):
    """One encoder: from a batch of one modality to one vector of the shared width per row."""

    takes: ClassVar[str]
    """Kind of input: ``image`` (pictures), ``audio`` (sounds) or ``text`` (strings). A modality may have any name."""

    patchy: ClassVar[bool] = False
    """Whether it has vectors of parts of its input (`patches`)."""

    @property
    def varies(self) -> bool:
        """Whether two passes of one value may differ in training: by what the transform draws, or by dropout."""
        return True

    @abstractmethod
    def transform(self, train: bool) -> Transform:
        """What makes a row of one decoded value: augmented in training, the same every time otherwise."""

    def patches(self, rows: Any) -> Float[Tensor, "batch height width dim"]:
        """Vectors of the parts of each input, in the shared space; of towers that are `patchy`."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, rows: Any) -> Float[Tensor, "batch dim"]:
        """Vectors, not normalised, of collated rows on this tower's device."""


TOWERS: Registry[Tower] = Registry("tower")
TowerPart = Annotated[SerializeAsAny[Part], PlainValidator(TOWERS.check)]
