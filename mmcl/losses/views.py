"""Which score matrices a term is made of: who is an anchor, and who its candidates."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field, PlainValidator, SerializeAsAny

from mmcl.errors import MmclError
from mmcl.registry import Part, Registry
from mmcl.types import without_copies

Modalities = Annotated[list[str], Field(min_length=1)]
ModalityPairs = Annotated[list[tuple[str, str]], Field(min_length=1)]


class Edge(NamedTuple):
    """One score matrix: rows of one modality, candidates of one or several others."""

    anchor: str
    others: tuple[str, ...]
    copies: tuple[str, ...] = ()  # further copies of a candidate: each is a positive, and searches its anchor itself


def check_once(name: str, said: Sequence[str]) -> None:
    """Refuse a list that names something twice: it would count twice."""
    for m in said:
        if said.count(m) > 1:
            raise MmclError(f"{name}: {list(said)} names {m!r} twice.")


def check_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse a modality with itself, and what is said twice."""
    for pair in pairs:
        if pair[0] == pair[1]:
            raise MmclError(f"{list(pair)} pairs a modality with itself.")
        if sum(set(pair) == set(other) for other in pairs) > 1:
            raise MmclError(f"pairs: {list(pair)} stands there twice, and would count twice.")


class View(ABC):
    """Which score matrices there are."""

    tuples: ClassVar[bool] = False
    """Whether candidates have all modalities but the anchor's."""

    @abstractmethod
    def edges(self, modalities: Sequence[str]) -> list[Edge]:
        """The matrices, for the modalities of a batch and their copies (`image.2`)."""


VIEWS: Registry[View] = Registry("view")
ViewPart = Annotated[SerializeAsAny[Part], PlainValidator(VIEWS.check)]


@VIEWS.register("pairs")
class Pairs(View):
    """Pairs of modalities, each a matrix.

    Args:
        pairs: which; all where nothing is said.

    Example:
        >>> [tuple(edge) for edge in Pairs().edges(["text", "image", "audio"])]
        [('text', ('image',), ()), ('text', ('audio',), ()), ('image', ('audio',), ())]
    """

    def __init__(self, pairs: ModalityPairs | None = None) -> None:
        self.pairs = pairs

    def edges(self, modalities: Sequence[str]) -> list[Edge]:
        """One matrix a pair."""
        for pair in self.pairs or []:
            if not set(pair) <= set(modalities):
                raise MmclError(f"the pair {list(pair)} is not among {list(modalities)}.")
        return [Edge(a, (b,)) for a, b in self.pairs or combinations(without_copies(modalities), 2)]


class _Anchored(View):
    """One modality is the anchor."""

    def __init__(self, anchor: str) -> None:
        self.anchor = anchor

    def others(self, modalities: Sequence[str]) -> tuple[str, ...]:
        """All modalities but the anchor."""
        if self.anchor not in modalities:
            raise MmclError(f"the anchor {self.anchor!r} is not among {list(modalities)}.")
        return tuple(m for m in without_copies(modalities) if m != self.anchor)


@VIEWS.register("star")
class Star(_Anchored):
    """One modality with each of the others (ImageBind).

    Args:
        anchor: the modality in the middle.

    Example:
        >>> [tuple(edge) for edge in Star("text").edges(["image", "text", "audio"])]
        [('text', ('image',), ()), ('text', ('audio',), ())]
    """

    def edges(self, modalities: Sequence[str]) -> list[Edge]:
        """One matrix for every other modality."""
        return [Edge(self.anchor, (m,)) for m in self.others(modalities)]


@VIEWS.register("tuple")
class Tuple(_Anchored):
    """One modality with all others at once (GRAM).

    Args:
        anchor: the modality of the rows.

    Example:
        >>> [tuple(edge) for edge in Tuple("text").edges(["image", "text", "audio"])]
        [('text', ('image', 'audio'), ())]
    """

    tuples: ClassVar[bool] = True

    def edges(self, modalities: Sequence[str]) -> list[Edge]:
        """One matrix."""
        return [Edge(self.anchor, self.others(modalities))]


@VIEWS.register("rotating")
class Rotating(View):
    """Every modality in its turn with all others at once (Symile; GRAM over all anchors).

    Example:
        >>> [tuple(edge) for edge in Rotating().edges(["text", "image", "audio"])][-1]
        ('audio', ('text', 'image'), ())
    """

    tuples: ClassVar[bool] = True

    def __init__(self) -> None:
        pass

    def edges(self, modalities: Sequence[str]) -> list[Edge]:
        """One matrix a modality."""
        modalities = without_copies(modalities)
        return [Edge(a, tuple(m for m in modalities if m != a)) for a in modalities]


@VIEWS.register("captions")
class Captions(View):
    """One modality with all copies of another: several captions of a picture, as many as it has.

    The anchor's positives are all its captions (`targets: shared`; `softmax` takes the mean inside or outside the
    logarithm), among the captions of all rows; every caption searches its anchor. `directions: joint` with
    `positives: in` is MIL-NCE. Rows that show the same thing are positives of one another in both searches. A row takes
    part where it has the first caption.

    Args:
        anchor: the modality that has one copy.
        of: the modality that has several: `text` beside `text.2`, `text.3`.

    Example:
        >>> [tuple(edge) for edge in Captions("image", "text").edges(["image", "text", "text.2", "text.wrong.2"])]
        [('image', ('text',), ('text.2',))]
    """

    def __init__(self, anchor: str, of: str) -> None:
        self.anchor, self.of = anchor, of

    def edges(self, modalities: Sequence[str]) -> list[Edge]:
        """One matrix, and one more for each further copy."""
        for m in (self.anchor, self.of):
            if m not in modalities:
                raise MmclError(f"{m!r} is not among {list(modalities)}.")
        if self.anchor == self.of:
            raise MmclError(f"{self.anchor!r} cannot be searched in its own captions.")
        copies = [m for m in modalities if m.startswith(f"{self.of}.") and m.removeprefix(f"{self.of}.").isdigit()]
        return [Edge(self.anchor, (self.of,), tuple(copies))]
