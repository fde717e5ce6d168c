"""A line of an objective: what all kinds of terms have in common."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, Field, PlainValidator, TypeAdapter, model_validator
from torch import Tensor, nn

from mmcl.errors import MmclError, did_you_mean
from mmcl.losses.temperature import Temperature
from mmcl.losses.transforms.base import TRANSFORMS, EmbeddingTransform, Seen, TransformPart
from mmcl.registry import Part, Spec
from mmcl.types import Embeddings


class Ramp(Spec):
    """A weight that changes evenly with the steps, and then stays."""

    start: Annotated[float, Field(ge=0)]
    """Weight at `from_step` of the term."""
    end: Annotated[float, Field(ge=0)]
    """Weight after so many steps."""
    steps: Annotated[int, Field(gt=0)]
    """How many."""


_NUMBER = TypeAdapter(Annotated[float, Field(ge=0, allow_inf_nan=False)])


def _weight(value: Any) -> float | Ramp:
    return Ramp.model_validate(value) if isinstance(value, dict | Ramp) else _NUMBER.validate_python(value)


@dataclass(frozen=True)
class Extra:
    """Marks an argument that names one of `Embeddings.extras`, or several (a mapping's values)."""

    held: bool = False
    """Whether it may name a modality too, whose own vectors are held still."""
    axes: int = 2
    """Of the extra: 2 for a vector a row, 1 for a number."""


def looked_up(e: Embeddings, name: str) -> Tensor:
    """Vectors of an extra, or of a modality, held still.

    Raises:
        MmclError: there are none of that name.
    """
    found = e.extras.get(name, e.all.get(name))
    if found is None:
        raise MmclError(
            f"{name!r} is neither among the extras {list(e.extras)} nor among {list(e.all)}"
            f"{did_you_mean(name, [*e.extras, *e.all])}"
        )
    if found.ndim != 2:
        raise MmclError(f"{name!r} is no vector a row but of shape {tuple(found.shape)}.")
    return found.detach()


def several(value: Any) -> Any:
    """A list, also where one thing alone is said."""
    return value if isinstance(value, list) else [value]


class LineSpec(Spec):
    """What every line of an objective says: how much it counts, and when, and of what."""

    mixable: ClassVar[bool] = False
    """Whether rows can be mixtures of two."""

    weight: Annotated[float | Ramp, PlainValidator(_weight)] = 1.0
    """Factor of this term in the total: a number, or `{start, end, steps}`."""
    from_step: Annotated[int, Field(ge=0)] = 0
    """First step at which the term counts."""
    until_step: int | None = None
    """First step at which it counts no more."""
    transform: Annotated[list[TransformPart], BeforeValidator(several)] = []
    """What is done with the embeddings before this term sees them, one thing after the other."""

    @model_validator(mode="after")
    def _order(self) -> "LineSpec":
        if self.until_step is not None and self.until_step <= self.from_step:
            raise MmclError(f"until_step {self.until_step} is not after from_step {self.from_step}.")
        return self

    @model_validator(mode="after")
    def _mixtures(self) -> "LineSpec":
        for part in self.mixers:
            if not self.mixable:
                raise MmclError(f"transform: {part.name} mixes rows, and {self.title} has no targets to be mixed too.")
        if len(self.mixers) > 1:
            raise MmclError(f"transform: rows are mixed once; {[part.name for part in self.mixers]} mix them again.")
        return self

    @property
    def mixers(self) -> list[Part]:
        """Transforms that make mixtures of rows."""
        return [part for part in self.transform if TRANSFORMS.classes[part.name].mixes]  # type: ignore[attr-defined]

    @property
    def title(self) -> str:
        """Name of the term in logs."""
        raise NotImplementedError

    def check(self, modalities: list[str]) -> None:
        """Refuse modalities with which the term can do nothing; copies (`image.2`) are among them."""
        raise NotImplementedError

    def looks_at(self, modalities: list[str]) -> set[str]:
        """Which modalities and copies the term is about, and so trains; what it holds still is among `extras`."""
        raise NotImplementedError

    def is_about(self, carried: Collection[str], modalities: list[str]) -> bool:
        """Whether rows that have nothing but some of the modalities can bring anything into the term."""
        return len(self.looks_at(modalities).intersection(carried)) >= 2

    def extras(self) -> dict[str, Extra]:
        """Names that parts of the term look up among the extras, and what each must be."""
        return _extras(self)

    def check_mixed(self, mixed: Collection[str], modalities: list[str]) -> None:
        """Refuse rows of some modalities that are mixtures of two, where the term has no targets to be mixed too."""
        if mixed:
            raise MmclError(
                f"rows of {', '.join(mixed)} are mixtures, and {self.title} has no targets to be mixed too."
            )

    def fits(self, modalities: list[str], extras: Mapping[str, int | None], mixed: Collection[str], dim: int) -> None:
        """Refuse a record with which the term can do nothing.

        Args:
            modalities: those of the record, and their copies.
            extras: those of the record, and how many axes each has, where that is known.
            mixed: modalities whose rows are mixtures.
            dim: width of the embeddings.

        Raises:
            MmclError: it lacks modalities or extras, or has others than parts of the term can take.
        """
        seen = Seen(modalities, (dim,))
        for part in self.transform:
            seen = TRANSFORMS.classes[part.name].check(part, seen)  # type: ignore[attr-defined]
        self.check(seen.names)
        self.check_mixed(mixed, seen.names)
        for name, wanted in sorted(self.extras().items()):
            if extras.get(name, wanted.axes) not in (wanted.axes, None):
                kinds = {1: "a number", 2: "a vector"}
                have = kinds.get(extras[name] or 0, f"of {extras[name]} axes")
                raise MmclError(f"the extra {name!r} is {have} a row, and {kinds[wanted.axes]} is needed.")
            if name in extras or (wanted.held and name in modalities):
                continue
            how = "training.ema" if name.startswith("ema.") else "extras of the data"
            have = f"there are: {', '.join(sorted(extras))}" if extras else "there are none"
            hint = did_you_mean(name, extras).rstrip("?.") if extras else ""
            average = not name.startswith("ema.") or any(extra.startswith("ema.") for extra in extras)
            advice = "" if average else " Say `training: {ema: 0.999}`."
            raise MmclError(f"it needs the extra {name!r}{hint}, which is one of {how}; {have}.{advice}")

    def build(self, dim: int | None = None) -> "Line":
        """The term; ``dim`` is the width of the shared space, where a part of it must know."""
        raise NotImplementedError

    def weight_at(self, step: int) -> float:
        """Factor of the term at a step."""
        if not isinstance(self.weight, Ramp):
            return self.weight
        done = min(1.0, (step - self.from_step) / self.weight.steps)
        return self.weight.start + (self.weight.end - self.weight.start) * done

    def active(self, step: int) -> bool:
        """Whether the term counts at a step."""
        return self.from_step <= step and (self.until_step is None or step < self.until_step)


class Line(nn.Module):
    """A term: what one line of an objective makes of the embeddings."""

    borrowed: "Sequence[Line]" = ()
    """Other lines whose parameters it uses."""

    def __init__(self, spec: LineSpec, dim: int | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.temperature: Temperature | None = None
        self.transforms = nn.ModuleList(built(part, dim) for part in spec.transform)

    def forward(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part: parts of all processes sum to the value of the global batch."""
        records = [(1.0, embeddings)]
        for transform in self.transforms:
            assert isinstance(transform, EmbeddingTransform)
            records = [(w * more, made) for w, record in records for more, made in transform(record)]
        records = [(w, replace(record, number=i)) for i, (w, record) in enumerate(records)]
        values = [self.value(record) for _, record in records]
        if any(value.ndim for value in values):
            raise MmclError(f"objective: {self.spec.title} must be one number; got {tuple(values[0].shape)}.")
        return torch.stack([w * value for (w, _), value in zip(records, values, strict=True)]).sum()

    @abstractmethod
    def value(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """The same, once the embeddings are as the term wants them."""


def built(part: Part, dim: int | None) -> Any:
    """The part, told what it must know.

    Raises:
        MmclError: it must know the width of the shared space, and nobody said it.
    """
    if "dim" in part.wants and dim is None:
        raise MmclError(
            f"{part.name} has weights of the embeddings' width: say it, as in mmcl.objective(..., dim=512)."
        )
    made = part.build(**dict.fromkeys(part.wants, dim))
    held = (
        []
        if isinstance(made, nn.Module)
        else [k for k, v in vars(made).items() if isinstance(v, nn.Parameter | nn.Module)]
    )
    if held:
        raise MmclError(
            f"{part.name}: {held[0]} would be neither trained nor saved; make {type(made).__name__} an nn.Module too."
        )
    return made


def _extras(said: Any) -> dict[str, Extra]:
    """Names in fields that are marked with `Extra`, at any depth."""
    found: list[tuple[str, Extra]] = []
    if isinstance(said, list):
        found = [named for one in said for named in _extras(one).items()]
    elif isinstance(said, Spec):
        for key, field in type(said).model_fields.items():
            value = getattr(said, key)
            mark = next((mark for mark in field.metadata if isinstance(mark, Extra)), None)
            if mark is None:
                found += _extras(value).items()
            else:
                names = [value] if isinstance(value, str) else list((value or {}).values())
                found += [(name, mark) for name in names]
    return dict(sorted(found, key=lambda one: one[1].held, reverse=True))  # the strictest of a name
