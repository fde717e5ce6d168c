"""What a loss of several views at once must offer: many score matrices stand under one logarithm."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PlainValidator, SerializeAsAny, field_validator, model_validator
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.losses.base import SCORES, Features, Score, ScorePart
from mmcl.losses.line import Line, LineSpec, built
from mmcl.losses.precision import full_precision
from mmcl.losses.scores.unit import unit
from mmcl.losses.statistics import LogSumExp, log_sum_exp
from mmcl.losses.temperature import Temperature, TemperatureSpec, temperature_said
from mmcl.losses.views import check_once
from mmcl.losses.walk import Block, Mask, Walk, unless_all
from mmcl.registry import Part, Registry
from mmcl.types import Embeddings, without_copies


class Views:
    """What a multi-view loss sees: logits of this process's rows, by the numbers of the views (modalities).

    A row may lack views. One with fewer than two of them does not count: it has no loss, and is nobody's negative. Of
    the others, the views that they have take part, as anchors and as negatives. Losses are averaged over the rows that
    count; with fewer than two in the global batch there is no loss.

    A matrix of logits is walked when it is first asked for. On one process the matrix of two views is walked once for
    both; on many, each walks its rows with all rows.
    """

    def __init__(
        self,
        e: Embeddings,
        names: Sequence[str],
        score: Score,
        scale: Float[Tensor, ""],
        distinct: bool = False,
        block: Block = "auto",
    ) -> None:
        present = torch.stack([e.present[m] for m in names])
        counts = present.sum(0) >= 2
        self.count = counts.sum()
        self.counted: Bool[Tensor, " rows"] = counts[e.own] & (self.count >= 2)
        self.everywhere: Bool[Tensor, "views all_rows"] = present & counts
        self.there: Bool[Tensor, "views rows"] = self.everywhere[:, e.own]
        self.pairs = list(combinations(range(len(names)), 2))
        self._features = [score.anchors(e.all[m]) for m in names]
        self._e, self._score, self._distinct = e, score, distinct
        self._block: Block = block
        self._scale = scale.to(self._features[0][0].dtype)
        self._found: dict[tuple[int, int], Tensor] = {}

    def own(self, a: int, b: int) -> Float[Tensor, " rows"]:
        """Logits of each row's view a with its own view b; finite, but meaningless, where one is missing."""
        return self._score.pairs(self._rows(a), self._rows(b)) * self._scale

    def positives(self) -> Float[Tensor, " rows"]:
        """Log-sum-exp of the logits of all pairs of a row's own views; 0 for a row that does not count."""
        both = torch.stack([self.there[a] & self.there[b] for a, b in self.pairs])
        logits = log_sum_exp(torch.stack([self.own(*pair) for pair in self.pairs]), both)
        return torch.where(self.counted, logits, 0.0)

    def others(self, a: int, b: int) -> Float[Tensor, " rows"]:
        """Log-sum-exp of the logits of each row's view a with view b of the other rows; -inf where there are none."""
        if (a, b) not in self._found:
            both = a != b and self._e.own == slice(0, self._e.ids.shape[0])
            found = self._walk(self._rows(a), a, b, columns=both)
            self._found[a, b] = found[0]
            if both:
                self._found[b, a] = found[1]
        return self._found[a, b]

    def rest(self, a: int) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
        """The mean of each row's views but a: its logit with a, and the log-sum-exp of those with others' views."""
        others = [b for b in range(len(self._features)) if b != a]
        there = torch.stack([self.there[b] for b in others])  # a list as an index would wait for a device
        units = torch.stack([self._rows(b)[0] for b in others])
        mean = torch.where(there[:, :, None], units, 0.0).sum(0) / there.sum(0).clamp(min=1)[:, None]
        anchor = (unit(mean) if getattr(self._score, "tuples", "mean") == "centroid" else mean,)
        found = [self._walk(anchor, a, b)[0] for b in range(len(self._features))]
        return self._score.pairs(anchor, self._rows(a)) * self._scale, log_sum_exp(torch.stack(found))

    def _rows(self, a: int) -> Features:
        return tuple(f[self._e.own] for f in self._features[a])

    def _walk(self, anchors: Features, a: int, b: int, columns: bool = False) -> list[Tensor]:
        """Over other rows' views b, and for ``columns`` over other rows' anchors: anchors stand for views a."""
        e, asked = self._e, {"log": LogSumExp()}
        rows, there = unless_all(self.there[a]), unless_all(self.everywhere[b])
        mask = Mask(rows, there, e.offset, e.ids[e.own], e.ids, drop_same=self._distinct)
        walk = Walk(self._score, mask, rows=asked, columns=asked if columns else {}, block=self._block)
        found = walk(anchors, self._features[b], self._scale)
        return [*found.rows.values(), *found.columns.values()]


class MultiView(ABC):
    """How the logits of all views of a row become one loss."""

    @abstractmethod
    def __call__(self, views: Views) -> Float[Tensor, " rows"]:
        """Loss of each row; finite, with finite gradients, also for rows that do not count."""


MULTI_VIEWS: Registry[MultiView] = Registry("multi_view")
MultiViewPart = Annotated[SerializeAsAny[Part], PlainValidator(MULTI_VIEWS.check)]


class MultiViewSpec(LineSpec):
    """A multi-view loss as a recipe says it."""

    multi_view: MultiViewPart
    """How the logits of all views of a row become one loss."""
    score: ScorePart = Field(default_factory=lambda: SCORES.check("cosine"))
    """How well two embeddings agree."""
    modalities: Annotated[list[str], Field(min_length=2)] | None = None
    """The views; all modalities where nothing is said. Copies (`image.2`) only where they are named."""
    negatives: Literal["in_batch", "distinct"] = "in_batch"
    """`in_batch`: every other row. `distinct`: every other row that does not show the same thing."""
    temperature: TemperatureSpec | None = Field(default=None, validate_default=True)
    """A number is fixed; a mapping may learn it. Where nothing is said, what suits the score."""
    block: Annotated[int, Field(ge=16)] | Literal["auto"] | None = "auto"
    """Side of the tiles in which score matrices are made, so that none exists whole; none makes them at once."""

    @field_validator("temperature", mode="before")
    @classmethod
    def _default_temperature(cls, value: Any, info: Any) -> Any:
        usual = SCORES.classes[info.data["score"].name].temperature if "score" in info.data else TemperatureSpec()
        return temperature_said(value, usual)

    @model_validator(mode="after")
    def _sense(self) -> "MultiViewSpec":
        if not SCORES.classes[self.score.name].symmetric:
            can = ", ".join(sorted(n for n, c in SCORES.classes.items() if c.symmetric))
            raise MmclError(f"score: {self.score.name} does not compare two views that have no roles; these do: {can}.")
        if getattr(self.multi_view, "form", "") == "sufficient" and self.score.name != "cosine":
            raise MmclError(
                f"score: the sufficient form compares means of unit vectors, so cosine; not {self.score.name}."
            )
        check_once("modalities", self.modalities or [])
        return self

    @property
    def title(self) -> str:
        """Name in logs."""
        return f"{self.score.name}_{self.multi_view.name}"

    def check(self, modalities: list[str]) -> None:
        """Refuse modalities with which it can do nothing."""
        for m in self.modalities or []:
            if m not in modalities:
                raise MmclError(f"{m!r} is not among {modalities}.")
        if len(self.modalities or without_copies(modalities)) < 2:
            raise MmclError(f"it compares two modalities or more; got {modalities}.")

    def looks_at(self, modalities: list[str]) -> set[str]:
        """The views."""
        return set(self.modalities or without_copies(modalities))

    def build(self, dim: int | None = None) -> "MultiViewTerm":
        """The term."""
        return MultiViewTerm(self, dim)


class MultiViewTerm(Line):
    """A multi-view loss as a term of an objective: its mean over the rows that have two views or more."""

    spec: MultiViewSpec

    def __init__(self, spec: MultiViewSpec, dim: int | None = None) -> None:
        super().__init__(spec, dim)
        self.score: Score = built(spec.score, dim)
        self.multi_view: MultiView = built(spec.multi_view, dim)
        assert spec.temperature is not None
        self.temperature = Temperature(spec.temperature)

    def value(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        names = self.spec.modalities or embeddings.modalities
        with full_precision(embeddings.ids.device, self.score.exact):
            distinct = self.spec.negatives == "distinct"
            assert self.temperature is not None
            views = Views(embeddings, names, self.score, self.temperature.scale, distinct, self.spec.block)
            losses = self.multi_view(views)
            return torch.where(views.counted, losses, 0.0).sum() / views.count.clamp(min=1)
