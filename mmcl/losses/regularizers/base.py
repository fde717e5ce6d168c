"""What a regularizer must offer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from itertools import combinations
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import PlainValidator, SerializeAsAny
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.losses.line import Line, LineSpec, built
from mmcl.losses.precision import full_precision
from mmcl.losses.views import check_once, check_pairs
from mmcl.registry import Part, Registry
from mmcl.types import Embeddings, without_copies


class Regularizer(ABC):
    """Something of the embeddings that should be small."""

    least: ClassVar[int] = 1
    """How many modalities there must be."""
    borrowed: Sequence[Line] = ()
    """Other lines whose parameters it uses; `meet` may find them."""

    def meet(self, lines: Sequence[Line]) -> None:
        """See all lines of the objective, once they are built. Most share nothing with any of them."""
        return

    @abstractmethod
    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part: parts of all processes sum to the value of the global batch."""


REGULARIZERS: Registry[Regularizer] = Registry("regularizer")
RegularizerPart = Annotated[SerializeAsAny[Part], PlainValidator(REGULARIZERS.check)]


class RegularizerSpec(LineSpec):
    """A regularizer as a recipe says it."""

    regularize: RegularizerPart
    """What should be small."""

    @property
    def title(self) -> str:
        """Name in logs."""
        return self.regularize.name

    def check(self, modalities: list[str]) -> None:
        """Refuse modalities with which it can do nothing."""
        least = REGULARIZERS.classes[self.regularize.name].least
        pairs: list[tuple[str, str]] = getattr(self.regularize, "pairs", None) or []
        if not pairs and len(without_copies(modalities)) < least:
            raise MmclError(f"it compares {least} modalities; got {modalities}.")
        for m in [*_spoken_of(self.regularize), *(m for pair in pairs for m in pair)]:
            if m not in modalities:
                raise MmclError(f"{m!r} is not among {modalities}.")
        check_pairs(pairs)
        check_once("modalities", getattr(self.regularize, "modalities", None) or [])

    def looks_at(self, modalities: list[str]) -> set[str]:
        """What the part's arguments name; and all modalities, unless it says which."""
        which = any(getattr(self.regularize, key, None) for key in ("modalities", "others", "pairs", "teachers"))
        said = self.regularize.model_dump(exclude={"name"})
        return {m for m in modalities if _names(said, m)} | (set() if which else set(without_copies(modalities)))

    def is_about(self, carried: Collection[str], modalities: list[str]) -> bool:
        """Whether a row can have as many modalities as it needs."""
        least = REGULARIZERS.classes[self.regularize.name].least
        return len(self.looks_at(modalities).intersection(carried)) >= least

    def build(self, dim: int | None = None) -> "RegularizerTerm":
        """The term."""
        return RegularizerTerm(self, dim)


class RegularizerTerm(Line):
    """A regularizer as a term of an objective."""

    def __init__(self, spec: RegularizerSpec, dim: int | None = None) -> None:
        super().__init__(spec, dim)
        self.regularizer: Regularizer = built(spec.regularize, dim)

    def value(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part."""
        with full_precision(embeddings.ids.device):
            return self.regularizer(embeddings)


def _spoken_of(part: Part) -> list[str]:
    """Modalities that a part's arguments name, but for its pairs."""
    said: list[str] = [m for name in ("modalities", "others", "teachers") for m in getattr(part, name, None) or []]
    said += [m for pair in (getattr(part, "views", None) or {}).items() for m in pair]
    return [*said, *(getattr(part, name) for name in ("anchor", "general") if hasattr(part, name))]


def _names(said: Any, name: str) -> bool:
    """Whether a name stands somewhere in what is said."""
    inside = [*said, *said.values()] if isinstance(said, dict) else said if isinstance(said, list | tuple) else []
    return said == name or any(_names(one, name) for one in inside)


def at_least_two(valid: Bool[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
    """Rows to compute with: all where fewer than two are valid, whose finite value is then thrown away."""
    return valid | (valid.sum() < 2)


def share(e: Embeddings) -> float:
    """This process's share of a number that every process computes as a whole; shares sum to one."""
    return (e.own.stop - e.own.start) / max(1, e.ids.shape[0])


def over_pairs(
    e: Embeddings,
    pairs: Sequence[tuple[str, str]] | None,
    value: Callable[[str, str, Bool[Tensor, " all_batch"]], Float[Tensor, ""]],
) -> Float[Tensor, ""]:
    """Mean over pairs of modalities of a value that sees which rows have both; zero for fewer than two such rows."""
    values = []
    for a, b in pairs or combinations(e.modalities, 2):
        both = e.present[a] & e.present[b]
        values.append(torch.where(both.sum() >= 2, value(a, b, both), 0.0))
    return torch.stack(values).mean()
