"""What a score and a contrast must offer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import PlainValidator, SerializeAsAny
from torch import Tensor

from mmcl.losses.precision import full_precision
from mmcl.losses.statistics import Statistic
from mmcl.losses.temperature import TemperatureSpec
from mmcl.registry import Part, Registry

Features = tuple[Tensor, ...]
"""What a score keeps of each row: tensors whose first dimension is the row."""
Pull = Callable[[Tensor, Sequence[Tensor | None], Sequence[Tensor | None]], None]


class Score(ABC):
    """How well an anchor agrees with a candidate: one embedding of another modality, or a tuple of several.

    Inside objectives larger is closer, and there is no temperature. What can be said of a row alone is done once a row
    (`anchors`, `candidates`, by ordinary autograd); what must be done for every pair is done in `tile`, which the walk
    calls for one tile of the matrix at a time.
    """

    most: ClassVar[int | None] = 1
    """How many modalities a candidate may have; any number where None."""
    least: ClassVar[int] = 1
    smaller_is_closer: ClassVar[bool] = False
    """Whether the paper's own score is a distance (or a volume, or an area); objectives see its negative."""
    lowest: float | None = None
    """Smallest value that the score can have, where there is one."""
    block: ClassVar[int] = 512
    """Side of the tiles on a CPU: what a tile keeps should stay in its cache."""
    exact: ClassVar[bool] = False
    """Whether the score is a difference of near numbers, so that TF32 would ruin it."""
    symmetric: ClassVar[bool] = False
    """Whether it takes anchors and single candidates alike: the matrix of y with x is that of x with y, transposed."""
    view: ClassVar[Literal["pairs", "tuple", "rotating"]] = "pairs"
    """Which score matrices there are where a recipe does not say."""
    temperature: ClassVar[TemperatureSpec] = TemperatureSpec()
    """Where a recipe does not say."""

    @abstractmethod
    def anchors(self, x: Float[Tensor, "rows dim"]) -> Features:
        """What the score keeps of anchors; fp32 at least."""

    @abstractmethod
    def candidates(self, xs: Sequence[Float[Tensor, "columns dim"]]) -> Features:
        """What the score keeps of candidates, whose modalities come in the order of the batch."""

    @abstractmethod
    def tile(self, anchors: Features, candidates: Features) -> Float[Tensor, "rows columns"]:
        """Scores of every anchor with every candidate."""

    @abstractmethod
    def pairs(self, anchors: Features, candidates: Features) -> Float[Tensor, " rows"]:
        """Scores of each anchor with the candidate of the same number, as exact as can be."""

    def vjp(self, anchors: Features, candidates: Features) -> tuple[Float[Tensor, "rows columns"], Pull]:
        """The tile, and what adds a gradient of it to the gradients of the features (in place; None is skipped).

        This default asks autograd; a score that is worth it writes it by hand.
        """
        return vjp_of(self.tile, anchors, candidates)

    def __call__(
        self, anchor: Float[Tensor, "rows dim"], *candidate: Float[Tensor, "columns dim"]
    ) -> Float[Tensor, "rows columns"]:
        """All scores at once, larger is closer."""
        with full_precision(anchor.device, self.exact):
            return self.tile(self.anchors(anchor), self.candidates(candidate))


def vjp_of(
    function: Callable[[Features, Features], Tensor], anchors: Features, candidates: Features
) -> tuple[Tensor, Pull]:
    """What a function makes of features, and what adds a gradient of it to theirs, by autograd."""
    with torch.enable_grad():
        leaves = [f.detach().requires_grad_() for f in (*anchors, *candidates)]
        made = function(tuple(leaves[: len(anchors)]), tuple(leaves[len(anchors) :]))

    def pull(g: Tensor, of_anchors: Sequence[Tensor | None], of_candidates: Sequence[Tensor | None]) -> None:
        found = torch.autograd.grad(made, leaves, g, allow_unused=True)
        for sum_, part in zip((*of_anchors, *of_candidates), found, strict=True):
            if sum_ is not None and part is not None:
                sum_ += part

    return made.detach(), pull


@dataclass(frozen=True)
class Side:
    """What a contrast sees: the rows of a score matrix, or its columns.

    A row's own candidate (its positive) stands apart from the others: `own` is its score, and the statistics are over
    the other candidates.
    """

    own: Float[Tensor, " rows"]
    statistics: Mapping[str, Tensor]
    others: Shaped[Tensor, " rows"]  # how many other candidates there are
    scale: Float[Tensor, ""] = field(default_factory=lambda: torch.ones(()))  # one over the temperature
    bias: Float[Tensor, ""] | None = None
    lowest: float | None = None  # smallest value of the score
    mean: Callable[[Float[Tensor, " rows"]], Float[Tensor, ""]] = (
        torch.mean
    )  # over the rows of all processes that count
    ids: Int[Tensor, " rows"] | None = None  # what the rows show; stable over the epochs of a run
    counted: Bool[Tensor, " rows"] | None = None  # which rows count; others may hold anything
    gather: Callable[[Shaped[Tensor, " rows"]], Shaped[Tensor, " all_rows"]] = lambda x: x  # of all processes, detached
    name: str = ""  # whose rows against whose candidates, as in "text>image"
    target: Float[Tensor, " rows"] | None = None  # expected logit under the row's target; the positive's, where None
    mass: Float[Tensor, " rows"] | None = None  # sum of the target's weights; 1 where None

    @property
    def logit(self) -> Float[Tensor, " rows"]:
        """Logit of the positive."""
        z = self.own * self.scale
        return z if self.bias is None else z + self.bias

    def __getitem__(self, name: str) -> Tensor:
        return self.statistics[name]


class Contrast(ABC):
    """How a row of logits becomes a loss."""

    one_way: ClassVar[bool] = False
    """Whether the columns would say again what the rows said, so that only the rows are asked."""
    tempered: ClassVar[bool] = True
    """Whether the loss has a temperature."""
    shared: ClassVar[bool] = False
    """Whether rows that show the same thing can be positives too (`targets: shared`)."""
    soft: ClassVar[bool] = False
    """Whether a row's target can be a distribution."""
    single: ClassVar[bool] = False
    """Whether its statistics cannot be put together from several matrices."""
    bounded: ClassVar[bool] = False
    """Whether it must know the smallest value of the score."""
    temperature: ClassVar[TemperatureSpec | None] = None
    """Where a recipe does not say; None leaves it to the score."""

    @classmethod
    def check(cls, said: Any, term: Any) -> None:
        """Refuse what does not go together.

        Args:
            said: what a recipe says of the contrast.
            term: what it says of the whole term (`TermSpec`).
        """
        return

    @abstractmethod
    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """What it must know of the other candidates of each row.

        Args:
            shared: whether candidates that show the same thing as the row are positives too.
        """

    def logit_bias(self) -> Float[Tensor, ""] | None:
        """What is added to all logits, if anything."""
        return None

    def factors(self, ids: Int[Tensor, " rows"], name: str) -> Float[Tensor, " rows"] | None:
        """Factors of each row's logits in its statistics, constants; None where rows do not differ.

        Args:
            ids: what the rows show.
            name: whose rows against whose candidates, as in `Side`.
        """
        return None

    @abstractmethod
    def __call__(self, side: Side) -> Float[Tensor, " rows"]:
        """Loss of each row."""


@dataclass(frozen=True)
class LossOutput:
    """This process's part of the loss: parts of all processes sum to the loss of the global batch."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]  # by term, detached, before weighting


SCORES: Registry[Score] = Registry("score")
CONTRASTS: Registry[Contrast] = Registry("contrast")
ScorePart = Annotated[SerializeAsAny[Part], PlainValidator(SCORES.check)]
ContrastPart = Annotated[SerializeAsAny[Part], PlainValidator(CONTRASTS.check)]
