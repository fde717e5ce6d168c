"""One term of an objective: a score, a contrast and a temperature over pairs of modalities."""

from itertools import combinations
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.losses.base import CONTRASTS, SCORES, Contrast, ContrastPart, Score, ScorePart
from mmcl.losses.temperature import Temperature, TemperatureSpec
from mmcl.registry import Spec
from mmcl.types import Embeddings

Pair = tuple[str, str]


def _temperature(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"init": value, "learn": False, "min": value}
    return value


class TermSpec(Spec):
    """A term as a recipe says it."""

    score: ScorePart = Field(default_factory=lambda: SCORES.check("cosine"))
    """How well two embeddings agree."""
    contrast: ContrastPart = Field(default_factory=lambda: CONTRASTS.check("softmax"))
    """How a row of scores becomes a loss."""
    negatives: Literal["in_batch", "distinct"] = "in_batch"
    """`in_batch`: every other row. `distinct`: every other row that does not show the same thing (see `identity` of a
    data source)."""
    pairs: list[Pair] | None = None
    """Pairs of modalities; all pairs where nothing is said."""
    temperature: Annotated[TemperatureSpec, BeforeValidator(_temperature)] = TemperatureSpec()
    """A number is fixed; a mapping may learn it."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Factor of this term in the total."""
    from_step: Annotated[int, Field(ge=0)] = 0
    """First step at which the term counts."""
    until_step: int | None = None
    """First step at which it counts no more."""

    @model_validator(mode="after")
    def _sense(self) -> "TermSpec":
        if self.until_step is not None and self.until_step <= self.from_step:
            raise MmclError(f"until_step {self.until_step} is not after from_step {self.from_step}.")
        for pair in self.pairs or []:
            if pair[0] == pair[1]:
                raise MmclError(f"pairs: {list(pair)} pairs a modality with itself.")
        return self

    @property
    def title(self) -> str:
        """Name of the term in logs."""
        return f"{self.score.name}_{self.contrast.name}"


class Term(nn.Module):
    """Symmetric contrast of pairs of modalities.

    Each pair (a, b) adds the mean over all rows that have both of half the loss of finding b_i among all b for a_i, and
    half of finding a_i among all a for b_i; pairs are averaged. A pair with fewer than two such rows in the global
    batch adds zero.
    """

    def __init__(self, spec: TermSpec) -> None:
        super().__init__()
        self.spec = spec
        self.score: Score = spec.score.build()
        self.contrast: Contrast = spec.contrast.build()
        self.temperature = Temperature(spec.temperature)

    def active(self, step: int) -> bool:
        """Whether the term counts at a step."""
        return self.spec.from_step <= step and (self.spec.until_step is None or step < self.spec.until_step)

    def forward(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part of the term."""
        pairs = self.spec.pairs or list(combinations(embeddings.local, 2))
        return torch.stack([self._pair(embeddings, a, b) for a, b in pairs]).mean()

    def _pair(self, e: Embeddings, a: str, b: str) -> Float[Tensor, ""]:
        both = e.present[a] & e.present[b]
        candidate = self._candidates(e, both)
        scores = self.score(e.local[a], e.all[b])
        # one process: the other direction's scores are the same matrix; several: local columns against all rows
        back = scores.T if e.local[a] is e.all[a] else self.score(e.local[b], e.all[a])
        positive = torch.arange(e.own.start, e.own.stop, device=both.device)
        losses = [self.contrast(self.temperature(s), positive, candidate) for s in (scores, back)]
        count = both.sum()
        counted = both[e.own] & (count >= 2)
        return torch.where(counted, losses[0] + losses[1], 0.0).sum() / (2 * count.clamp(min=1))

    def _candidates(self, e: Embeddings, both: Bool[Tensor, " all_batch"]) -> Bool[Tensor, "batch all_batch"]:
        own = e.ids[e.own]
        candidate = both[None, :].expand(own.shape[0], -1)
        if self.spec.negatives == "distinct":
            itself = torch.eye(e.ids.shape[0], dtype=torch.bool, device=e.ids.device)[e.own]
            candidate = candidate & ((own[:, None] != e.ids[None, :]) | itself)
        return candidate
