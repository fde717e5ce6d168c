"""What negatives must offer: more candidates for each row, or fewer."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from jaxtyping import Float
from pydantic import PlainValidator, SerializeAsAny
from torch import Tensor, nn

from mmcl.losses.guide import Alike
from mmcl.losses.matrix import Candidates, Matrix
from mmcl.losses.views import Edge
from mmcl.registry import Part, Registry
from mmcl.types import Embeddings


class Negatives(nn.Module):
    """More candidates for each row than those of the batch, or fewer.

    A module, because some keep candidates from step to step: whatever a resumed run needs is a buffer or a parameter.
    """

    drop_same: ClassVar[bool] = False
    """Whether what shows the same thing as the row is left out."""
    unmatched: ClassVar[bool] = False
    """Whether rows take part that have no candidate of their own."""
    adds: ClassVar[bool] = True
    """Whether there are candidates of other matrices among them."""
    pairs: ClassVar[bool] = True
    """Whether it is for two modalities at a time only."""

    def __init__(self) -> None:
        super().__init__()

    def more(self, matrix: Matrix, forward: bool) -> Sequence[Candidates | Float[Tensor, "rows drawn"]]:
        """More candidates of a direction, or scores of each row with some of its own; none unless told."""
        return []

    def replaces(self, matrix: Matrix, forward: bool) -> bool:
        """Whether they take the place of the batch's other candidates in a direction."""
        return False

    def sink(self, matrix: Matrix, forward: bool) -> Float[Tensor, " rows"] | None:
        """Scores of this process's rows with what those must find whose own candidate is missing."""
        return None

    def alike(self, embeddings: Embeddings, edge: Edge) -> Alike | None:
        """Which entries are so similar that they may be positives, and are left out."""
        return None

    @classmethod
    def looks_for(cls, said: Any) -> list[str]:
        """Modalities whose search the part that a recipe says bears on, its ``of``; all, where it names none."""
        of = getattr(said, "of", [])
        return [of] if isinstance(of, str) else list(of)

    @classmethod
    def named(cls, said: Any) -> list[str]:
        """Modalities and copies that must be there."""
        return cls.looks_for(said)


NEGATIVES: Registry[Negatives] = Registry("negatives")
NegativesPart = Annotated[SerializeAsAny[Part], PlainValidator(NEGATIVES.check)]


def weight_name(modality: str) -> str:
    """Name of what a part keeps of a modality, since names of weights have no dots."""
    return modality.replace(".", "-")
