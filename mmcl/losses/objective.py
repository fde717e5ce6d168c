"""Terms to a total: what the optimizer minimises."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import BeforeValidator, Field, PlainValidator, SerializeAsAny, TypeAdapter
from ruamel.yaml import YAML
from torch import Tensor, nn

from mmcl.errors import MmclError, did_you_mean
from mmcl.losses.base import LossOutput
from mmcl.losses.line import Line, LineSpec
from mmcl.losses.multiview.base import MultiViewSpec
from mmcl.losses.regularizers.base import RegularizerSpec, RegularizerTerm
from mmcl.losses.term_spec import TermSpec
from mmcl.types import Embeddings


@cache
def presets() -> dict[str, list[dict[str, Any]]]:
    """The papers' names and the terms that they stand for."""
    return YAML(typ="safe").load(Path(__file__).with_name("presets.yaml"))


def with_presets(value: Any) -> Any:
    """What a recipe says of an objective, as a list of terms: presets' names are the terms that they stand for.

    Example:
        >>> [line.get("regularize", "contrast") for line in with_presets(["clip", {"regularize": "koleo"}])]
        ['contrast', 'koleo']

    Raises:
        MmclError: there is no such preset.
    """
    if isinstance(value, str):
        if value not in presets():
            hint = did_you_mean(value, presets())
            known = ", ".join(sorted(presets()))
            raise MmclError(f"no objective is called {value!r}{hint} Known: {known} (`mmcl objectives` says more).")
        return deepcopy(presets()[value])
    if isinstance(value, list):
        return [term for one in value for term in (with_presets(one) if isinstance(one, str) else [one])]
    return [value] if isinstance(value, dict | LineSpec) else value


def _line(value: Any) -> LineSpec:
    """One line of an objective: a regularizer, a loss of several views at once, or else a contrast."""
    if isinstance(value, LineSpec):
        return value
    kinds: dict[str, type[LineSpec]] = {"regularize": RegularizerSpec, "multi_view": MultiViewSpec}
    said = [kind for key, kind in kinds.items() if isinstance(value, dict) and key in value]
    return (said[0] if said else TermSpec).model_validate(value)


ObjectiveSpec = Annotated[
    list[Annotated[SerializeAsAny[LineSpec], PlainValidator(_line)]], BeforeValidator(with_presets), Field(min_length=1)
]
"""Type of a recipe's field that holds an objective."""


def check_objective(value: Any) -> list[LineSpec]:
    """Turn what a recipe says (a preset's name, one term, or a list of both) into checked terms."""
    return TypeAdapter(ObjectiveSpec).validate_python(value)


@runtime_checkable
class AfterStep(Protocol):
    """A part that has something to do once the optimizer has stepped."""

    def after_step_(self, taken: Bool[Tensor, ""] | None = None) -> None:
        """Do it.

        Args:
            taken: whether the optimizer took the step, on the device, where nobody waits for it; it did unless told. Of
                a step that was left out, because something in it is not finite, nothing is remembered.
        """
        ...


class Objective(nn.Module):
    """Weighted sum of terms.

    Args:
        terms: the lines of an objective.
        dim: width of the shared space, for parts that have weights of that width.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> objective = Objective(check_objective("clip"))
        >>> out = objective({"image": torch.randn(8, 16), "text": torch.randn(8, 16)})
        >>> out.total.shape, list(out.parts)
        (torch.Size([]), ['cosine_softmax'])
    """

    def __init__(self, terms: Sequence[LineSpec], dim: int | None = None) -> None:
        super().__init__()
        specs = check_objective(list(terms))
        self.titles = titles(specs)
        self.terms = nn.ModuleList(spec.build(dim) for spec in specs)
        self._checked: tuple[Any, ...] = ()  # what is known of the last record that fits
        for _, term in self:
            if isinstance(term, RegularizerTerm):
                term.regularizer.meet([line for _, line in self])
                term.borrowed = term.regularizer.borrowed

    def forward(
        self,
        embeddings: Embeddings | Mapping[str, Float[Tensor, "batch dim"]],
        *,
        present: Mapping[str, Bool[Tensor, " batch"]] | None = None,
        keys: Sequence[str] | None = None,
        extras: Mapping[str, Shaped[Tensor, "batch ..."]] | None = None,
        step: int = 0,
    ) -> LossOutput:
        """Loss and its parts.

        Args:
            embeddings: the gathered record of a training step, or one (batch, dim) tensor a modality.
            present: which rows have which modality, where the embeddings are plain tensors; all unless told.
            keys: rows with equal keys show the same thing, and what is remembered of a sample is kept under its key;
                unless told, all differ and a sample is its place in the batch.
            extras: what else is known of the rows, such as a teacher's vectors.
            step: terms switch on and off by it, and it seeds what is drawn; where plain tensors are given.
        """
        if not isinstance(embeddings, Embeddings):
            embeddings = replace(Embeddings.single(embeddings, present, keys, extras), step=step)
        parts: dict[str, Tensor] = {}
        self._check(embeddings)
        # every process has gradients of the same parameters, also where a term finds no rows
        none = embeddings.ids.new_zeros((), dtype=torch.float32)
        total = sum((p.sum() * 0.0 for p in self.parameters_at(embeddings.step)), start=none)
        for title, term in self:
            if term.spec.active(embeddings.step):
                part = term(embeddings)
                parts[title] = part.detach()
                total = total + term.spec.weight_at(embeddings.step) * part
        return LossOutput(total=total, parts=parts)

    def _check(self, e: Embeddings) -> None:
        """Refuse a record with which a term can do nothing; once for all that are alike."""
        kind = tuple(e.all), tuple((name, x.ndim) for name, x in e.extras.items()), tuple(e.mixed), e.dim
        if kind == self._checked:
            return
        names, extras, mixed, dim = kind
        for title, term in self:
            try:
                term.spec.fits(list(names), dict(extras), mixed, dim)
            except MmclError as error:
                raise MmclError(f"objective: {title}: {error}") from None
        self._checked = kind

    def __iter__(self) -> Iterator[tuple[str, Line]]:
        """Terms by their titles."""
        for title, term in zip(self.titles, self.terms, strict=True):
            assert isinstance(term, Line)
            yield title, term

    def after_step_(self, taken: Bool[Tensor, ""] | None = None) -> None:
        """What the parts do once the optimizer has stepped: temperatures go back inside their limits, averages move on.

        Every process must call it.

        Args:
            taken: whether the optimizer took the step; it did unless told.
        """
        for module in self.modules():
            if module is not self and isinstance(module, AfterStep):
                module.after_step_(taken)

    def parameters_at(self, step: int) -> list[nn.Parameter]:
        """Parameters of the terms that count at a step; those of the others have no gradient, and stand still."""
        active = [term for _, term in self if term.spec.active(step)]
        terms = [*active, *(line for term in active for line in term.borrowed)]
        return list(dict.fromkeys(p for term in terms for p in term.parameters()))

    def temperatures(self, step: int = 0) -> dict[str, Float[Tensor, ""]]:
        """Temperature of each term that has one and counts at a step, detached."""
        return {
            title: term.temperature.value
            for title, term in self
            if term.temperature is not None and term.spec.active(step)
        }


def titles(terms: Sequence[LineSpec]) -> list[str]:
    """What terms are called in logs, each by a name of its own."""
    said = [term.title for term in terms]
    return [t if said.count(t) == 1 else f"{t}_{i}" for i, t in enumerate(said)]
