"""What a score and a contrast must offer."""

from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from pydantic import PlainValidator, SerializeAsAny
from torch import Tensor

from mmcl.registry import Part, Registry


@runtime_checkable
class Score(Protocol):
    """How well an anchor and a candidate agree. Larger is closer; no temperature."""

    def __call__(
        self, rows: Float[Tensor, "rows dim"], columns: Float[Tensor, "columns dim"]
    ) -> Float[Tensor, "rows columns"]:
        """Scores of every row with every column, in fp32 at least."""
        ...


@runtime_checkable
class Contrast(Protocol):
    """How a row of scores, divided by the temperature, becomes a loss."""

    def __call__(
        self,
        logits: Float[Tensor, "rows columns"],
        positive: Int[Tensor, " rows"],
        candidate: Bool[Tensor, "rows columns"],
    ) -> Float[Tensor, " rows"]:
        """Loss of each row.

        Args:
            logits: scores over the temperature.
            positive: the column that belongs to each row.
            candidate: which columns take part in a row; the positive always does.
        """
        ...


@dataclass(frozen=True)
class LossOutput:
    """This process's part of the loss: parts of all processes sum to the loss of the global batch."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]  # by term, detached, before weighting


SCORES: Registry[Score] = Registry("score")
CONTRASTS: Registry[Contrast] = Registry("contrast")
ScorePart = Annotated[SerializeAsAny[Part], PlainValidator(SCORES.check)]
ContrastPart = Annotated[SerializeAsAny[Part], PlainValidator(CONTRASTS.check)]
