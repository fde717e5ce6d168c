"""What an evaluator sees, and what it must offer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

from jaxtyping import Float
from pydantic import PlainValidator, SerializeAsAny
from torch import Tensor

from mmcl.registry import Part, Registry

RAW = "raw "
"""Before a modality's name: the field that holds its texts as they were written."""


@runtime_checkable
class Embedder(Protocol):
    """What embeds prompts: a model, or anything else that gives unit vectors."""

    def embed(self, modality: str, values: Sequence[Any]) -> Float[Tensor, "values dim"]:
        """Unit vectors, on the CPU, of values of one modality."""
        ...


@dataclass(frozen=True)
class Embedded:
    """A task's data after the towers."""

    vectors: Mapping[str, Float[Tensor, "items dim"]]  # unit rows, fp32, on the CPU
    fields: Mapping[str, list[str]]  # texts and labels, by name
    keys: list[str]
    ids: list[int]  # items with equal ids show the same thing


@dataclass(frozen=True)
class Example:
    """What was found for one query, for a person to look at."""

    query: str  # what was asked, in words, or the key of the item that was shown
    modality: str  # of the query
    correct: str  # key of the item that belongs to it, or the right label
    found: list[str]  # keys of items, or labels, best first
    kind: str  # "items" or "labels"


@runtime_checkable
class Evaluator(Protocol):
    """One way to measure."""

    headline: str
    """The metric to quote."""

    def modalities(self) -> list[str]:
        """What must be embedded."""
        ...

    def fields(self) -> list[str]:
        """Labels that the data must bring, by name."""
        ...

    def prompted(self) -> list[str]:
        """Modalities that the model must have for prompts, beside those of the data."""
        ...

    def metrics(self) -> dict[str, bool]:
        """Names of what it measures, and of each whether larger is better."""
        ...

    def measure(self, data: Embedded, embedder: Embedder) -> dict[str, float]:
        """Metric -> number; ``n`` is the number of items."""
        ...

    def examples(self, data: Embedded, embedder: Embedder, count: int) -> list[Example]:
        """A few queries and what was found, spread evenly over the data."""
        ...


EVALUATORS: Registry[Evaluator] = Registry("evaluator")
EvaluatorPart = Annotated[SerializeAsAny[Part], PlainValidator(EVALUATORS.check)]
