"""What a recipe says of a term, and what cannot go together."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mmcl.errors import MmclError
from mmcl.losses.base import CONTRASTS, SCORES, Contrast, ContrastPart, Score, ScorePart
from mmcl.losses.line import LineSpec, several
from mmcl.losses.negatives.base import NEGATIVES, NegativesPart
from mmcl.losses.targets.base import TARGETS, SoftTargets, Targets, TargetsPart
from mmcl.losses.temperature import TemperatureSpec, temperature_said
from mmcl.losses.views import VIEWS, Edge, View, ViewPart, check_pairs
from mmcl.registry import Part
from mmcl.types import without_copies

if TYPE_CHECKING:
    from mmcl.losses.term import Term


class TermSpec(LineSpec):
    """A contrast as a recipe says it. `pairs: [...]` and `anchor: m` are short for a `view`."""

    score: ScorePart = Field(default_factory=lambda: SCORES.check("cosine"))
    """How well two embeddings agree."""
    contrast: ContrastPart = Field(default_factory=lambda: CONTRASTS.check("softmax"))
    """How a row of scores becomes a loss."""
    targets: TargetsPart = Field(default_factory=lambda: TARGETS.check("identity"))
    """Who is positive, and how much: a row's own candidate (`identity`), every candidate that shows the same thing
    (`shared`; see `identity` of a data source), or a distribution."""
    negatives: Annotated[list[NegativesPart], BeforeValidator(several), Field(min_length=1)] = Field(
        default_factory=lambda: [NEGATIVES.check("in_batch")]
    )
    """Who stands beside the positive: the batch's other rows (`in_batch`), those of them that do not show the same
    thing (`distinct`), and further candidates."""
    directions: Literal["both", "forward", "backward", "joint"] = "both"
    """Anchors search candidates and candidates search anchors (`both`), only one of them, or both in one denominator
    (`joint`)."""
    view: ViewPart | None = Field(default=None, validate_default=True)
    """Which score matrices there are; where nothing is said, all pairs, or what the score is made for."""
    temperature: TemperatureSpec | None = Field(default=None, validate_default=True)
    """A number is fixed; a mapping may learn it. Where nothing is said, what suits the score."""
    block: Annotated[int, Field(ge=16)] | Literal["auto"] | None = "auto"
    """Side of the tiles in which the score matrix is made, so that it never exists whole; none makes it at once."""

    mixable: ClassVar[bool] = True

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
        check_pairs(getattr(value, "pairs", None) or [])
        return value

    @field_validator("temperature", mode="before")
    @classmethod
    def _default_temperature(cls, value: Any, info: Any) -> Any:
        if not {"score", "contrast"} <= set(info.data):
            return None  # they are told by themselves
        contrast: type[Contrast] = _class(info.data["contrast"], CONTRASTS)
        if not contrast.tempered:
            if value is not None:
                name = info.data["contrast"].name
                raise MmclError(
                    f"{name} takes scores as they are, or has settings of its own: it has no `temperature`."
                )
            return None
        usual: TemperatureSpec = contrast.temperature or _class(info.data["score"], SCORES).temperature
        return temperature_said(value, usual)

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
        self._targets_fit(title)
        self._matrices_fit()
        if self.mixers:
            self._targets_can_be_mixed()
        contrast.check(self.contrast, self)
        return self

    def check_mixed(self, mixed: Collection[str], modalities: list[str]) -> None:
        """Refuse rows that are mixtures where targets cannot be, or that would be mixed again."""
        if mixed and self.mixers:
            raise MmclError(f"transform: {self.mixers[0].name}: rows of {', '.join(mixed)} are mixtures already.")
        self.takes_mixed(mixed, modalities)

    def takes_mixed(self, mixed: Collection[str], modalities: list[str]) -> None:
        """Refuse mixtures among what a matrix compares, where it has no targets for them."""
        assert self.view is not None
        view: View = self.view.build()
        for edge in view.edges(modalities):
            found = [m for m in (edge.anchor, *edge.others, *edge.copies) if m in mixed]
            if found:
                self._targets_can_be_mixed()
            if len(found) > 1 or (found not in ([], [edge.anchor]) and len(edge.others) > 1):
                raise MmclError(
                    f"{', '.join(found)}: only the anchor, or a candidate of one modality, can be mixtures."
                )

    def _targets_can_be_mixed(self) -> None:
        if not _class(self.contrast, CONTRASTS).soft:
            can = sorted(n for n, c in CONTRASTS.classes.items() if c.soft)
            raise MmclError(f"rows are mixtures, and {self.contrast.name} has one target a row: take {', '.join(can)}.")
        if self.targets.name not in ("identity", "graded"):
            raise MmclError("rows are mixtures, whose targets are the two that were mixed: take `targets: identity`.")
        if getattr(self.score, "shuffle", False):
            raise MmclError(f"rows are mixtures, and {self.score.name} shuffles the candidates that they hold.")
        if self.directions == "joint" or {"null_anchor", "alike", "queue"} & {part.name for part in self.negatives}:
            raise MmclError("rows are mixtures, with two targets: no `joint`, `null_anchor`, `alike` or `queue`.")

    def _targets_fit(self, title: str) -> None:
        """Targets that the contrast, the negatives and the directions can take."""
        contrast: type[Contrast] = _class(self.contrast, CONTRASTS)
        targets: type[Targets] = _class(self.targets, TARGETS)
        soft = issubclass(targets, SoftTargets)
        if targets.shared and not contrast.shared:
            can = sorted(n for n, c in CONTRASTS.classes.items() if c.shared)
            raise MmclError(f"targets: {self.contrast.name} takes one positive a row; several: {', '.join(can)}.")
        if soft and not contrast.soft:
            can = ", ".join(sorted(n for n, c in CONTRASTS.classes.items() if c.soft))
            raise MmclError(f"targets: {self.contrast.name} takes no distribution ({self.targets.name}); {can} does.")
        if soft and self.directions == "joint":
            raise MmclError(f"directions: {self.targets.name} gives each direction its own target; `joint` has one.")
        if targets.shared and any(part.name == "mixed" for part in self.negatives):
            raise MmclError("negatives: the hardest that `mixed` would mix may be positives here; leave it out.")
        if targets.shared and any(_class(part, NEGATIVES).drop_same for part in self.negatives):
            raise MmclError(
                "targets: what is a positive is no negative anyway; `negatives: distinct` says nothing more."
            )
        plain = self.targets.name == "identity" and [part.name for part in self.negatives] == ["in_batch"]
        if getattr(self.score, "shuffle", False) and not (plain and self.directions == "both"):
            raise MmclError(
                f"{title}: shuffled candidates show nothing in particular and search nothing: only `targets: identity` "
                "and `negatives: in_batch`, in both directions, go with them; or say `shuffle: false`."
            )

    def _matrices_fit(self) -> None:
        """Negatives, directions and a view that the contrast can take."""
        contrast: type[Contrast] = _class(self.contrast, CONTRASTS)
        if contrast.one_way and self.directions != "both":
            raise MmclError(f"directions: {self.contrast.name} looks at every pair once; there are no directions.")
        many = self.directions == "joint" or any(_class(part, NEGATIVES).adds for part in self.negatives)
        assert self.view is not None
        captions, names = self.view.name == "captions", [part.name for part in self.negatives]
        self._negatives_fit(names)
        if captions and "bank" in names:
            raise MmclError("negatives: a bank holds the captions of all rows already; no `view: captions`.")
        if "null_anchor" in names and (contrast.one_way or self.directions == "joint"):
            raise MmclError(
                "negatives: null_anchor: each direction has a null of its own, so both must be asked, one by one."
            )
        if contrast.single and (many or captions):
            raise MmclError(
                f"{self.contrast.name} cannot put candidates of several matrices into one row: no further negatives, "
                "no `directions: joint`, no captions."
            )
        for part in self.negatives:
            if _class(part, NEGATIVES).pairs and _class(self.view, VIEWS).tuples:
                raise MmclError(f"negatives: {part.name} is for pairs of modalities; {self.view.name} makes tuples.")
        if captions and (not _class(self.targets, TARGETS).shared or contrast.one_way):
            raise MmclError(
                "view: captions are several positives of their anchor: they need `targets: shared`, and a contrast "
                "that asks both directions."
            )

    def _negatives_fit(self, names: list[str]) -> None:
        """Negatives that go together, and with the score and the transforms."""
        if any(part in self.negatives[:i] for i, part in enumerate(self.negatives)):
            raise MmclError(f"negatives: {names} says one of them twice, and it would count twice.")
        if {"in_batch", "distinct"} & set(names) and any(getattr(part, "alone", False) for part in self.negatives):
            raise MmclError("negatives: the bank takes the place of the batch's rows; say `alone: false` to have both.")
        if "mixed" in names and not _class(self.score, SCORES).symmetric:
            raise MmclError(f"negatives: mixed mixes directions, and {self.score.name} is about lengths too.")
        wide = sorted({"null_anchor", "queue", "bank"} & set(names))
        if wide and any(part.name == "matryoshka" for part in self.transform):
            raise MmclError(f"transform: matryoshka makes embeddings of several widths, and {wide} have one.")

    @property
    def shared(self) -> bool:
        """Whether a row can have several positives."""
        return _class(self.targets, TARGETS).shared

    @property
    def title(self) -> str:
        """Name of the term in logs."""
        return f"{self.score.name}_{self.contrast.name}"

    def check(self, modalities: list[str]) -> None:
        """Refuse modalities with which the term can do nothing."""
        if len(modalities) < 2:
            raise MmclError(f"a contrast needs two modalities or more; got {modalities}.")
        assert self.view is not None
        view: View = self.view.build()
        score: type[Score] = _class(self.score, SCORES)
        for part in self.negatives:
            if unknown := [m for m in _class(part, NEGATIVES).named(part) if m not in modalities]:
                raise MmclError(f"negatives: {part.name}: {unknown[0]!r} is not among {modalities}.")
        for part in self.mixers:
            for m in getattr(part, "modalities", None) or without_copies(modalities):
                self.takes_mixed([m], modalities)
        edges = view.edges(modalities)
        self._is_looked_for(edges)
        for edge in edges:
            if len(edge.others) < score.least or (score.most or len(edge.others)) < len(edge.others):
                needed = f"{score.least + 1}{'' if score.least == score.most else ' or more'}"
                raise MmclError(f"{self.score.name} is for {needed} modalities; got {modalities}.")
        if not edges:
            raise MmclError(f"view: {self.view.name} finds nothing to compare among {modalities}.")

    def looks_at(self, modalities: list[str]) -> set[str]:
        """What the view's matrices compare, and what negatives name."""
        assert self.view is not None
        view: View = self.view.build()
        compared = {m for edge in view.edges(modalities) for m in (edge.anchor, *edge.others, *edge.copies)}
        return compared.union(*(_class(part, NEGATIVES).named(part) for part in self.negatives))

    def is_about(self, carried: Collection[str], modalities: list[str]) -> bool:
        """Whether a row can have all that a matrix compares; what a transform makes is there."""
        assert self.view is not None
        edges: list[Edge] = self.view.build().edges(modalities)
        return any(set(modalities).difference(carried).isdisjoint((edge.anchor, *edge.others)) for edge in edges)

    def _is_looked_for(self, edges: list[Edge]) -> None:
        """Refuse targets and negatives of modalities that no direction looks for."""
        looked = {m for edge in edges for m in edge.others} if self.directions != "backward" else set[str]()
        looked |= {edge.anchor for edge in edges} if self.directions != "forward" else set()
        toward = getattr(self.targets, "toward", None)
        wanted = {} if toward is None else {toward: f"targets: toward: {toward!r}"}
        for part in self.negatives:
            said = _class(part, NEGATIVES).looks_for(part)
            wanted |= {m: f"negatives: {part.name}: {m!r}" for m in said}
        for m, where in wanted.items():
            if m not in looked:
                raise MmclError(f"{where} is nothing that the term looks for; it looks for {sorted(looked)}.")

    def build(self, dim: int | None = None) -> "Term":
        """The term."""
        from mmcl.losses.term import Term  # it is made of this

        return Term(self, dim)


def _class(part: Part, registry: Any) -> Any:
    return registry.classes[part.name]
