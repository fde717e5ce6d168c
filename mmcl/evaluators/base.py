"""What an evaluator sees, and what it must offer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import PlainValidator, SerializeAsAny
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.figures import Figure
from mmcl.registry import Part, Registry

View = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Another look at a picture: (height, width, 3) uint8 in and out, by draws that are the same each time."""


@runtime_checkable
class Embedder(Protocol):
    """What embeds prompts: a model, or anything else that gives unit vectors."""

    def embed(self, modality: str, values: Sequence[Any]) -> Float[Tensor, "values dim"]:
        """Unit vectors, in fp32 on the CPU, of values of one modality."""
        ...


@dataclass(frozen=True)
class Items:
    """What is known of a task's items before anything is embedded."""

    keys: list[str]
    ids: Int[Tensor, " items"]
    """Items with equal ids show the same thing."""
    texts: Mapping[str, list[list[str]]] = field(default_factory=dict)
    """Field, or modality of texts -> the texts of each item, as they were written."""
    numbers: Mapping[str, Float[Tensor, "items width"]] = field(default_factory=dict)
    """Field -> numbers of each item (members that are .npy)."""

    def __len__(self) -> int:
        return len(self.keys)

    def one(self, name: str) -> list[str]:
        """The text of each item in a field that has one.

        Raises:
            MmclError: an item has several.
        """
        for key, texts in zip(self.keys, self._of(name), strict=True):
            if len(texts) != 1:
                raise MmclError(f"item {key} has {len(texts)} texts in {name}, where one is needed: {texts[:3]}.")
        return [texts[0] for texts in self.texts[name]]

    def take(self, rows: Int[Tensor, " some"]) -> "Items":
        """Some of the items."""
        some = rows.tolist()
        texts = {name: [texts[row] for row in some] for name, texts in self.texts.items()}
        return Items(
            [self.keys[row] for row in some], self.ids[rows], texts, {n: x[rows] for n, x in self.numbers.items()}
        )

    def several(self, name: str) -> list[list[str]]:
        """The texts of each item in a field."""
        return self._of(name)

    def _of(self, name: str) -> list[list[str]]:
        if name not in self.texts:
            raise MmclError(f"{name} lies in numbers (.npy), where texts are needed.")
        return self.texts[name]


@dataclass(frozen=True)
class Embedded:
    """A task's items after the towers."""

    items: Items
    vectors: Mapping[str, Float[Tensor, "_ dim"]]
    """Modality -> unit rows, in fp32, on the CPU: one an item, or as many as it has texts."""
    owner: Mapping[str, Int[Tensor, " _"]]
    """Modality -> number of the item that each row belongs to, ascending."""
    train: "Embedded | None" = None
    """What an evaluator may learn from."""

    @classmethod
    def single(cls, vectors: Mapping[str, Tensor], items: Items, train: "Embedded | None" = None) -> "Embedded":
        """Items that all have one row of every modality."""
        return cls(items, vectors, {m: torch.arange(len(items)) for m in vectors}, train)

    def only(self, modality: str) -> Float[Tensor, "items dim"]:
        """The vectors of a modality of which every item has one.

        Raises:
            MmclError: an item has none, or several.
        """
        counts = torch.bincount(self.owner[modality], minlength=len(self.items))
        for key, count in zip(self.items.keys, counts.tolist(), strict=True):
            if count != 1:
                raise MmclError(f"item {key} has {count} of {modality}, where one is needed (captions: first?).")
        return self.vectors[modality]


@dataclass(frozen=True)
class Example:
    """What was found for one query, for a person to look at."""

    query: str  # what was asked, in words, or the key of the item that was shown
    modality: str  # of the query
    correct: list[str]  # keys of the items that belong to it, or the right labels
    found: list[str]  # keys of items, or labels, best first
    kind: str  # "items" or "labels"
    gallery: str = ""  # the modality of what was found, where it is items
    group: str = "spread evenly"  # why it is shown: "spread evenly", "best", "worst"


@dataclass(frozen=True)
class Confusion:
    """How often items of one class were taken for another."""

    classes: list[str]
    counts: list[list[int]]  # [true][found]


@dataclass(frozen=True)
class Findings:
    """What an evaluator found."""

    figures: dict[str, Figure]
    examples: list[Example] = field(default_factory=list)
    confusion: Confusion | None = None
    details: dict[str, Any] = field(default_factory=dict)
    """What else a reader may want, as JSON can hold it: the regulariser that was chosen, accuracies of classes."""


class Evaluator(ABC):
    """One way to measure.

    A task hands it the items' texts and labels first (`check`), so that what is wrong is said before anything is
    embedded; then their vectors (`measure`).
    """

    headline: str
    """The metric to quote."""
    score: str = "cosine"
    """How vectors are compared, in words for a reader."""
    partial: bool = False
    """Whether items may lack what the data call optional; those that do are left out, unless told."""

    @abstractmethod
    def modalities(self) -> list[str]:
        """What must be embedded; a name with a dot is another value of a modality, as in `image.target`."""

    @abstractmethod
    def metrics(self) -> dict[str, bool]:
        """Names of what it measures, and of each whether larger is better."""

    @abstractmethod
    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        """The figures, and examples.

        Raises:
            MmclError: the data are not what the evaluator needs.
        """

    def fields(self) -> list[str]:
        """Labels and other fields that the data must bring, by name."""
        return []

    def prompted(self) -> list[str]:
        """Modalities that the model must have for prompts, beside those of the data."""
        return []

    def trained_on(self) -> list[str]:
        """Modalities of `train` data, where it learns from such; their fields are those of the data."""
        return []

    def views(self) -> dict[str, tuple[str, View]]:
        """Further looks at pictures that must be embedded as well: name with a dot -> (modality, what is done)."""
        return {}

    def check(self, items: Items, train: Items | None = None) -> None:  # noqa: B027 - most have nothing to look at
        """Look at texts and labels before anything is embedded.

        Raises:
            MmclError: they are not what the evaluator needs.
        """


@runtime_checkable
class Labelled(Protocol):
    """An evaluator of items that have a label each, by which a map of them is coloured."""

    label: str
    """The field of the labels."""


EVALUATORS: Registry[Evaluator] = Registry("evaluator")
EvaluatorPart = Annotated[SerializeAsAny[Part], PlainValidator(EVALUATORS.check)]


def spread(count: int, shown: int) -> list[int]:
    """Numbers of a few of some things, spread evenly."""
    return torch.linspace(0, count - 1, min(shown, count)).round().long().tolist()
