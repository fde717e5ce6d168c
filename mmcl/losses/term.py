"""One term of an objective: a score, a contrast and a temperature over the matrices of a view."""

from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.losses.base import CONTRASTS, SCORES, Contrast, ContrastPart, Features, Score, ScorePart, Side
from mmcl.losses.draws import permutation
from mmcl.losses.line import Line, LineSpec, built, plain
from mmcl.losses.precision import full_precision
from mmcl.losses.statistics import Count, Statistic
from mmcl.losses.temperature import Temperature, TemperatureSpec
from mmcl.losses.transforms.base import TRANSFORMS
from mmcl.losses.views import VIEWS, Edge, View, ViewPart
from mmcl.losses.walk import Mask, Walk
from mmcl.registry import Part
from mmcl.types import Embeddings

COUNTED = "candidates that are not left out"  # a statistic of the term's own
_Who = tuple[Tensor | None, Tensor]  # which rows are there, and what they show


class TermSpec(LineSpec):
    """A contrast as a recipe says it. `pairs: [...]` and `anchor: m` are short for a `view`."""

    score: ScorePart = Field(default_factory=lambda: SCORES.check("cosine"))
    """How well two embeddings agree."""
    contrast: ContrastPart = Field(default_factory=lambda: CONTRASTS.check("softmax"))
    """How a row of scores becomes a loss."""
    targets: Literal["identity", "shared"] = "identity"
    """Who is positive: a row's own candidate (`identity`), or every candidate that shows the same thing (`shared`; see
    `identity` of a data source)."""
    negatives: Literal["in_batch", "distinct"] = "in_batch"
    """`in_batch`: every other row. `distinct`: every other row that does not show the same thing."""
    view: ViewPart | None = Field(default=None, validate_default=True)
    """Which score matrices there are; where nothing is said, all pairs, or what the score is made for."""
    temperature: TemperatureSpec | None = Field(default=None, validate_default=True)
    """A number is fixed; a mapping may learn it. Where nothing is said, what suits the score."""
    block: Annotated[int, Field(ge=16)] | Literal["auto"] | None = "auto"
    """Side of the tiles in which the score matrix is made, so that it never exists whole; none makes it at once."""

    @model_validator(mode="before")
    @classmethod
    def _view_in_short(cls, value: Any) -> Any:
        """`pairs` and `anchor`, as the view that they stand for."""
        short = {"pairs", "anchor"} & set(value) if isinstance(value, dict) else set()
        if not short:
            return value
        if len(short) > 1 or value.get("view") is not None:
            raise MmclError("`pairs`, `anchor` and `view` say the same thing; give one of them.")
        key, rest = short.pop(), {k: v for k, v in value.items() if k not in short}
        said = rest.pop(key)
        name = "pairs"
        if key == "anchor":
            name = "star" if _class(SCORES.check(rest.get("score", "cosine")), SCORES).view == "pairs" else "tuple"
        return {**rest, "view": {"name": name, key: said}}

    @field_validator("view", mode="after")
    @classmethod
    def _default_view(cls, value: Part | None, info: Any) -> Part | None:
        if value is None and "score" in info.data:
            view = _class(info.data["score"], SCORES).view
            return None if view == "tuple" else VIEWS.check(view)
        for pair in getattr(value, "pairs", None) or []:
            if pair[0] == pair[1]:
                raise MmclError(f"{list(pair)} pairs a modality with itself.")
        return value

    @field_validator("temperature", mode="before")
    @classmethod
    def _default_temperature(cls, value: Any, info: Any) -> Any:
        if not {"score", "contrast"} <= set(info.data):
            return None  # they are told by themselves
        contrast: type[Contrast] = _class(info.data["contrast"], CONTRASTS)
        if not contrast.tempered:
            if value is not None:
                raise MmclError(f"{info.data['contrast'].name} takes scores as they are and has no temperature.")
            return None
        usual: TemperatureSpec = contrast.temperature or _class(info.data["score"], SCORES).temperature
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"init": value, "learn": False, "min": value}
        if isinstance(value, dict):
            return {**usual.model_dump(), **value}
        return usual if value is None else value

    @model_validator(mode="after")
    def _sense(self) -> "TermSpec":
        score: type[Score] = _class(self.score, SCORES)
        contrast: type[Contrast] = _class(self.contrast, CONTRASTS)
        title = f"{self.score.name} x {self.contrast.name}"
        if self.view is None:
            raise MmclError(f"{self.score.name} compares an anchor with a tuple; say `anchor`, or `view: rotating`.")
        if _class(self.view, VIEWS).tuples and score.most == 1:
            raise MmclError(f"view: {self.score.name} compares two modalities, and {self.view.name} makes tuples.")
        if not _class(self.view, VIEWS).tuples and score.least > 1:
            raise MmclError(
                f"view: {self.score.name} compares an anchor with {score.least} modalities or more at once."
            )
        if contrast.bounded and score.lowest is None:
            raise MmclError(f"{title}: {self.contrast.name} needs a score that has a smallest value.")
        if self.targets == "shared" and not contrast.shared:
            can = sorted(n for n, c in CONTRASTS.classes.items() if c.shared)
            raise MmclError(f"targets: {self.contrast.name} takes one positive a row; several: {', '.join(can)}.")
        if self.targets == "shared" and self.negatives == "distinct":
            raise MmclError(
                "targets: what is a positive is no negative anyway; `negatives: distinct` says nothing more."
            )
        if getattr(self.score, "shuffle", False) and (self.targets == "shared" or self.negatives == "distinct"):
            raise MmclError(f"{title}: shuffled candidates show nothing in particular, so none shows the same thing.")
        if any(_class(part, TRANSFORMS).mixes for part in self.transform):
            self.check_mixed()
        return self

    def check_mixed(self) -> None:
        """Refuse rows that are mixtures where targets cannot be."""
        if not _class(self.contrast, CONTRASTS).soft:
            can = sorted(n for n, c in CONTRASTS.classes.items() if c.soft)
            raise MmclError(f"rows are mixtures, and {self.contrast.name} has one target a row: take {', '.join(can)}.")
        if self.targets == "shared":
            raise MmclError("rows are mixtures, whose targets are the two that were mixed: take `targets: identity`.")
        if getattr(self.score, "shuffle", False):
            raise MmclError(f"rows are mixtures, and {self.score.name} shuffles the candidates that they hold.")

    @property
    def title(self) -> str:
        """Name of the term in logs."""
        return f"{self.score.name}_{self.contrast.name}"

    def check(self, modalities: list[str]) -> None:
        """Refuse modalities with which the term can do nothing."""
        modalities = plain(modalities)
        if len(modalities) < 2:
            raise MmclError(f"a contrast needs two modalities or more; got {modalities}.")
        assert self.view is not None
        view: View = self.view.build()
        score: type[Score] = _class(self.score, SCORES)
        for edge in view.edges(modalities):
            if len(edge.others) < score.least or (score.most or len(edge.others)) < len(edge.others):
                needed = f"{score.least + 1}{'' if score.least == score.most else ' or more'}"
                raise MmclError(f"{self.score.name} is for {needed} modalities; got {modalities}.")

    def build(self, dim: int | None = None) -> "Term":
        """The term."""
        return Term(self, dim)


def _class(part: Part, registry: Any) -> Any:
    return registry.classes[part.name]


class Term(Line):
    """A contrast over score matrices, in both directions.

    Each matrix adds the mean, over all rows that have all that it compares, of half the loss of finding a row's own
    candidate among all candidates, and half of finding the candidate's own anchor among all anchors; matrices are
    averaged. A matrix with fewer than two such rows in the global batch adds zero.
    """

    spec: TermSpec

    def __init__(self, spec: TermSpec, dim: int | None = None) -> None:
        super().__init__(spec, dim)
        self.score: Score = built(spec.score, dim)
        self.contrast: Contrast = built(spec.contrast, dim)
        assert spec.view is not None
        self.view: View = spec.view.build()
        self.temperature = None if spec.temperature is None else Temperature(spec.temperature)

    def value(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part of the term."""
        edges = self.view.edges(embeddings.modalities)
        with full_precision(embeddings.ids.device, self.score.exact):
            return torch.stack([self._edge(embeddings, edge, i) for i, edge in enumerate(edges)]).mean()

    def _edge(self, e: Embeddings, edge: Edge, number: int) -> Float[Tensor, ""]:
        """One matrix: this process's rows with all columns, and all rows with this process's columns."""
        valid = torch.stack([e.present[m] for m in (edge.anchor, *edge.others)]).all(0)
        anchors = self.score.anchors(e.all[edge.anchor])
        tuples = self.score.candidates([e.all[m] for m in edge.others])
        shuffle, candidates, there = getattr(self.score, "shuffle", False), tuples, valid
        if shuffle:
            candidates, there = self._shuffled(e, edge, valid, number)
        scale, bias = self._scale(anchors[0]), self.contrast.logit_bias()
        asked = self._statistics()
        both = not self.contrast.one_way and not shuffle
        whole = e.own == slice(0, valid.shape[0])  # one process: both directions are one walk
        own, every = (_partial(valid[e.own]), e.ids[e.own]), (_partial(there), e.ids)
        walk = Walk(self.score, self._mask(own, every, e.offset), rows=asked, own=not shuffle, block=self.spec.block)
        if both and whole:
            walk = replace(walk, columns=asked)
        found = walk(_rows(anchors, e.own), candidates, scale, bias)
        score = self.score.pairs(_rows(anchors, e.own), _rows(tuples, e.own)) if found.own is None else found.own
        sides = [found.rows, found.columns] if both else [found.rows]
        if both and not whole:
            walk = Walk(self.score, self._mask(every, own, -e.offset), columns=asked, block=self.spec.block)
            sides[1] = walk(anchors, _rows(candidates, e.own), scale, bias).columns
        count = valid.sum()
        counted = valid[e.own] & (count >= 2)

        def mean(x: Float[Tensor, " rows"]) -> Float[Tensor, ""]:
            return e.total(torch.where(counted, x, 0.0).sum()) / count.clamp(min=1)

        def gather(x: Shaped[Tensor, " rows"]) -> Shaped[Tensor, " all_batch"]:
            everyone = x.new_zeros(valid.shape[0])
            everyone[e.own] = x.detach()
            return e.total(everyone)

        others = (there.sum() - there[e.own].long()).to(score)
        common = scale, bias, self.score.lowest, mean, e.ids[e.own], counted, gather
        names = (edge.anchor, "+".join(edge.others)) * 2
        targets = self._mixed(e, edge, valid, anchors, tuples, score) or [(None, None)] * 2
        losses = [
            self.contrast(
                Side(
                    score,
                    side,
                    side.pop(COUNTED, others),
                    *common,
                    name=f"{names[i]}>{names[i + 1]}",
                    target=targets[i][0],
                    mass=targets[i][1],
                )
            )
            for i, side in enumerate(sides)
        ]
        losses = torch.stack(losses).mean(0)
        return torch.where(counted, losses, 0.0).sum() / count.clamp(min=1)

    def _mixed(
        self,
        e: Embeddings,
        edge: Edge,
        valid: Bool[Tensor, " all_batch"],
        anchors: Features,
        tuples: Features,
        score: Float[Tensor, " rows"],
    ) -> list[tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]] | None:
        """Expected logit and mass of the targets of this process's rows, and of its columns, where rows are mixtures.

        A mixture asks for its own counterpart and for its partner's, and both ask for it by the same weights. A partner
        that lacks one of the two has no counterpart: its weight falls away.
        """
        mixed = [m for m in (edge.anchor, *edge.others) if m in e.mixed]
        if not mixed:
            return None
        self.spec.check_mixed()
        if len(mixed) > 1 or (mixed != [edge.anchor] and len(edge.others) > 1):
            raise MmclError(f"{', '.join(mixed)}: only the anchor, or a candidate of one modality, can be mixtures.")
        partner, weight = e.mixed[mixed[0]].partner, e.mixed[mixed[0]].weight.to(score.dtype)
        own, other = torch.where(valid, weight, 0.0), torch.where(valid & valid[partner], 1 - weight, 0.0)
        if self.spec.negatives == "distinct":  # a partner that shows the same thing is no candidate but one's own
            same = e.ids == e.ids[partner]
            own, other = torch.where(same, own + other, own), torch.where(same, 0.0, other)
        rows = mixed == [edge.anchor]
        pair = (anchors, _rows(tuples, partner)) if rows else (_rows(anchors, partner), tuples)
        expected = other * self.score.pairs(*pair)

        def target(more: Float[Tensor, " all_batch"], mass: Float[Tensor, " all_batch"]) -> tuple[Tensor, Tensor]:
            z = (own[e.own] * score + more[e.own]) * self._scale(score)
            bias = self.contrast.logit_bias()
            mass = (own + mass)[e.own]
            return (z if bias is None else z + bias * mass), mass

        back = [torch.zeros_like(x).index_add(0, partner, x) for x in (expected, other)]
        made = [target(expected, other), target(*back)]
        return made if rows else made[::-1]

    def _statistics(self) -> dict[str, Statistic]:
        asked = self.contrast.statistics(shared=self.spec.targets == "shared")
        if self.spec.negatives == "distinct":
            asked = {**asked, COUNTED: Count()}
        return asked

    def _scale(self, like: Tensor) -> Float[Tensor, ""]:
        if self.temperature is None:
            return torch.ones((), dtype=like.dtype, device=like.device)
        return self.temperature.scale.to(like.dtype)

    def _mask(self, rows: "_Who", columns: "_Who", diagonal: int) -> Mask:
        distinct = self.spec.negatives == "distinct"
        return Mask(rows[0], columns[0], diagonal, rows[1], columns[1], drop_same=distinct)

    def _shuffled(
        self, e: Embeddings, edge: Edge, valid: Bool[Tensor, " all_batch"], number: int
    ) -> tuple[Features, Bool[Tensor, " all_batch"]]:
        """Candidates put together anew from rows that count: by step and matrix, the same on every process."""
        generator = e.generator(number)
        return self.score.candidates([e.all[m][permutation(valid, generator)] for m in edge.others]), valid


def _rows(features: Features, part: slice | Tensor) -> Features:
    return tuple(f[part] for f in features)


def _partial(there: Bool[Tensor, " rows"]) -> Bool[Tensor, " rows"] | None:
    """None where all is there, if that can be known without waiting for a device."""
    return None if there.device.type == "cpu" and cast("bool", there.all().item()) else there
