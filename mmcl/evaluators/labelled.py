"""Vectors whose classes are known, to learn from; what is drawn of them, and what is held out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import Embedded, Evaluator, Items
from mmcl.evaluators.figures import numbered

Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
METRICS = dict.fromkeys(["acc1", "acc5", "mean_per_class_recall", "f1_macro"], True)
NAMED = 5  # of many names, in an error
NOTHING = "this evaluator learns, and the task names no data to learn from: give it a `train:` source."
NOT_TWO = "every class has one training example, so none can be held out to choose by; give `c`."


class Learner(Evaluator):
    """What learns the classes of one modality from `train`, and is tested on the same modality."""

    modality: str
    label: str

    def modalities(self) -> list[str]:
        """What is tested."""
        return [self.modality]

    def trained_on(self) -> list[str]:
        """What is learnt from."""
        return [self.modality]

    def fields(self) -> list[str]:
        """The classes."""
        return [self.label]

    def metrics(self) -> dict[str, bool]:
        """Shares of what is right; ``acc5`` where there are five classes."""
        return dict(METRICS)


@dataclass(frozen=True)
class Labelled:
    """Rows to learn from."""

    vectors: Float[Tensor, "rows dim"]
    labels: Int[Tensor, " rows"]
    unit: Int[Tensor, " rows"]
    """Rows of one unit are of one class and show the same thing: they are drawn, and held out, together."""
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: Bool[Tensor, " rows"]) -> "Labelled":
        """Some of the rows."""
        return Labelled(self.vectors[chosen], self.labels[chosen], self.unit[chosen], self.classes)

    def places(self, seed: int) -> Int[Tensor, " rows"]:
        """Place of each row's unit, from 0, among those of its class in an order that is drawn.

        The draw knows units by the names of their items: another order of the items draws the same.
        """
        generator = torch.Generator().manual_seed(seed)
        units, number = self.unit.unique(return_inverse=True)
        label = torch.zeros(len(units), dtype=torch.long).scatter_(0, number, self.labels)
        place = torch.zeros_like(label)
        for c in range(len(self.classes)):
            members = (label == c).nonzero()[:, 0]
            place[members] = torch.randperm(len(members), generator=generator)
        return place[number]

    def sizes(self) -> Int[Tensor, " classes"]:
        """Units of each class."""
        units = torch.stack([self.unit, self.labels]).unique(dim=1)
        return torch.bincount(units[1], minlength=len(self.classes))

    def shots(self, k: int, seed: int) -> "Labelled":
        """Up to k units of every class; those of a smaller k are among those of a larger."""
        return self.where(self.places(seed) < k)

    def held_out(self, share: float, seed: int) -> tuple["Labelled", "Labelled"]:
        """What is left to learn from, and a share of each class that is held out.

        At least one unit of a class stays, and at least one is held out; a class that has only one keeps it.

        Raises:
            MmclError: every class has only one, so that nothing can be held out.
        """
        sizes = self.sizes()
        count = (sizes * share).round().long().clamp(min=1).minimum(sizes - 1)
        out = self.places(seed) < count[self.labels]
        if not out.any():
            raise MmclError(NOT_TWO)
        return self.where(~out), self.where(out)


def labelled(train: Embedded, modality: str, label: str, classes: Sequence[str] | None = None) -> Labelled:
    """The training vectors of a modality, each with the class of its item.

    Args:
        train: what is learnt from.
        modality: of the vectors; an item may have several.
        label: field of the items' classes.
        classes: all of them, in order; those that occur, in the order of the alphabet, unless told.

    Raises:
        MmclError: a vector is not made of numbers.
    """
    vectors, owner = train.vectors[modality].float(), train.owner[modality]
    bad = int((~vectors.isfinite().all(1)).sum())
    if bad:
        raise MmclError(
            f"{bad} of {len(vectors)} training vectors of {modality} are not finite: nothing can be learnt."
        )
    names = train.items.one(label)
    classes = numbered(names)[1] if classes is None else list(classes)
    labels = as_numbers(names, classes)
    return Labelled(vectors, labels[owner], _units(train.items, labels)[owner], list(classes))


def as_numbers(names: Sequence[str], classes: Sequence[str]) -> Int[Tensor, " names"]:
    """Each name's place among the classes."""
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[name] for name in names], dtype=torch.long)


def training(train: Embedded | None) -> Embedded:
    """What may be learnt from.

    Raises:
        MmclError: there is nothing.
    """
    if train is None:
        raise MmclError(NOTHING)
    return train


def check_labels(items: Items, train: Items | None, label: str) -> Items:
    """The training items, whose classes must hold all that is asked for.

    Raises:
        MmclError: there are none, or of a single class, or a class to find is not among theirs.
    """
    if train is None:
        raise MmclError(NOTHING)
    classes = sorted(set(train.one(label)))
    unseen = sorted(set(items.one(label)) - set(classes))
    if unseen:
        raise MmclError(
            f"{label}: the training data never show {listed(unseen)}, which the test data ask for; leave them out of "
            "the test data, or add them to `train:`."
        )
    if len(classes) < 2:
        raise MmclError(f"{label}: the training data show one class, {classes[0]!r}; nothing can be told apart.")
    return train


def check_holdout(train: Items, label: str) -> None:
    """Some class must have two examples.

    Raises:
        MmclError: none has.
    """
    if max(_sizes(train, label).values()) < 2:
        raise MmclError(NOT_TWO)


def check_shots(train: Items, label: str, shots: int, classes: Sequence[str] | None = None) -> None:
    """Every class must have as many different examples as are drawn.

    Args:
        train: what is drawn from.
        label: field of the items' classes.
        shots: of each class.
        classes: all of them; those that occur, unless told.

    Raises:
        MmclError: one has fewer.
    """
    sizes = _sizes(train, label)
    short = [name for name in classes or sorted(sizes) if sizes.get(name, 0) < shots]
    if short:
        raise MmclError(
            f"shots: {shots} different training examples of each class are needed; {short[0]} has "
            f"{sizes.get(short[0], 0)} ({len(short)} of {len(classes or sizes)} classes have fewer)."
        )


def _sizes(items: Items, label: str) -> dict[str, int]:
    """Class -> how many different things are of it."""
    return Counter(name for name, _ in set(zip(items.one(label), items.ids.tolist(), strict=True)))


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def distinct(seeds: Sequence[int]) -> list[int]:
    """Seeds, if no two are the same.

    Raises:
        MmclError: two are.
    """
    if len(set(seeds)) < len(seeds):
        raise MmclError(f"seeds: each counts once, and some are given twice: {list(seeds)}.")
    return list(seeds)


def _units(items: Items, labels: Int[Tensor, " items"]) -> Int[Tensor, " items"]:
    """Equal numbers for items of one class and id; numbered by class, and by the smallest key."""
    pairs = list(zip(labels.tolist(), items.ids.tolist(), strict=True))
    first: dict[tuple[int, int], str] = {}
    for pair, key in zip(pairs, items.keys, strict=True):
        first[pair] = min(key, first.get(pair, key))
    number = {pair: i for i, pair in enumerate(sorted(first, key=lambda pair: (pair[0], first[pair], pair[1])))}
    return torch.tensor([number[pair] for pair in pairs], dtype=torch.long)
