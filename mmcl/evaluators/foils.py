"""Wrong captions that are made from right ones."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple, get_args

import numpy as np
from pydantic import Field, PlainValidator, SerializeAsAny

from mmcl.errors import MmclError
from mmcl.registry import Part, Registry
from mmcl.types import sample_id

DRAWS = 20  # of an order, until it is another one


class Foil(NamedTuple):
    """A wrong caption."""

    kind: str
    """What was done to the right one."""
    text: str


class Foils(ABC):
    """Makes wrong captions. The same caption gets the same ones, wherever it stands."""

    @abstractmethod
    def kinds(self) -> list[str]:
        """All that may be done to a caption."""

    @abstractmethod
    def __call__(self, text: str) -> list[Foil]:
        """Wrong captions that differ from the right one and from each other; none where none can be made."""


FOILS: Registry[Foils] = Registry("maker of wrong captions")
FoilsPart = Annotated[SerializeAsAny[Part], PlainValidator(FOILS.check)]


@FOILS.register("swapped")
class Swapped(Foils):
    """Exchanges words with their opposites: a wrong caption for every pair of words of which one occurs.

    All occurrences of both words of a pair change places: `left up and right down` becomes `right up and left down`.
    Words end at letters, digits and underscores, so that `left-pointing` has the word `left`, and `leftwards` has not.
    Small and capital letters do not matter; a word that began with a capital letter does so again.

    Use when: captions say what is seen in few words that have opposites.
    Differs from the paper: ARO exchanges nouns and adjectives that a tagger finds in one caption, which need not have
    an opposite; SugarCrepe's captions were written by a language model.

    Args:
        pairs: words, or several words in a row, and their opposites. A word may stand in several pairs.
        kept: several words in a row that are left as they are: names (`small capital`), and what means the same with
            its words exchanged (`up down arrow`).

    Raises:
        MmclError: a pair is no pair, is there twice, or something to be kept has none of the words.
    """

    def __init__(self, pairs: Annotated[list[tuple[str, str]], Field(min_length=1)], kept: list[str] = []) -> None:  # noqa: B006
        seen: set[frozenset[str]] = set()
        for pair in pairs:
            both = frozenset(word.casefold() for word in pair)
            if len(both) < 2 or not all(word.strip() == word and word for word in pair) or both in seen:
                raise MmclError(f"pairs: {list(pair)} is no pair of two different words, or is there twice.")
            seen.add(both)
        every = _pattern([], [word for pair in pairs for word in pair])
        for phrase in kept:
            if not every.search(phrase):
                raise MmclError(f"kept: {phrase!r} has none of the words of `pairs`; leave it out.")
        self.pairs = pairs
        self.patterns = [_pattern(kept, pair) for pair in pairs]
        self.opposites = [{one.casefold(): other, other.casefold(): one} for one, other in pairs]

    def kinds(self) -> list[str]:
        """A pair of words each, as in `left/right`."""
        return ["/".join(pair) for pair in self.pairs]

    def __call__(self, text: str) -> list[Foil]:
        """One for every pair that occurs."""
        found: dict[str, str] = {}
        for kind, opposites, pattern in zip(self.kinds(), self.opposites, self.patterns, strict=True):
            made = pattern.sub(partial(_exchanged, opposites), text)
            if made != text:
                found.setdefault(made, kind)
        return [Foil(kind, made) for made, kind in found.items()]


def _pattern(kept: Sequence[str], words: Sequence[str]) -> re.Pattern[str]:
    """Finds what is to be kept, or else one of some words; longer ones first."""
    names, found = ("|".join(map(re.escape, sorted(said, key=len, reverse=True))) for said in (kept, words))
    keep = f"(?:{names})|" if names else ""
    return re.compile(rf"(?<!\w)(?:{keep}(?P<word>{found}))(?!\w)", re.IGNORECASE)


def _exchanged(opposites: Mapping[str, str], match: re.Match[str]) -> str:
    """The opposite of what was found; what is to be kept as it is."""
    word = match["word"]
    return match[0] if word is None else _cased(opposites[word.casefold()], word)


def _cased(word: str, like: str) -> str:
    """A word with the capital letters of another one."""
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


Kind = Literal["trigrams", "within_trigrams", "words"]


@FOILS.register("order")
class Order(Foils):
    """Puts the words of a caption in another order.

    `trigrams`: the caption is cut into threes of words, which are shuffled; `within_trigrams`: the words of each three
    are shuffled; `words`: all words are shuffled. A caption whose order does not change in 20 draws, such as one word,
    has no wrong caption of that kind.

    Differs from the paper: the other two of ARO's four ways shuffle nouns and adjectives, or all other words, and need
    a tagger; captions that were made with one can be measured as a column of the data. Words end at blanks here, and
    signs stay with their word, where ARO's code splits with NLTK and then drops signs. Wrong captions always differ.

    Args:
        kinds: what is done, a wrong caption each.
        seed: of the draws.

    Reference:
        Yuksekgonul et al., "When and why vision-language models behave like bags-of-words, and what to do about it?",
        ICLR 2023, section 2.3 (section from memory). https://arxiv.org/abs/2210.01936
    """

    def __init__(
        self,
        kinds: Annotated[list[Kind], Field(min_length=1)] = ["trigrams", "within_trigrams"],  # noqa: B006
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        if len(set(kinds)) < len(kinds):
            raise MmclError(f"kinds: {kinds} says one thing twice.")
        self.ways, self.seed = kinds, seed

    def kinds(self) -> list[str]:
        """As they were asked for."""
        return list(self.ways)

    def __call__(self, text: str) -> list[Foil]:
        """One of each kind that changes anything."""
        words = text.split()
        found: dict[str, str] = {}
        for kind in self.ways:
            rng = np.random.default_rng([self.seed, get_args(Kind).index(kind), sample_id(text) % 2**64])
            drawn = (_shuffled(kind, words, rng) for _ in range(DRAWS))
            other = next((made for made in drawn if made != words), None)
            if other is not None:
                found.setdefault(" ".join(other), kind)
        return [Foil(kind, made) for made, kind in found.items()]


def _shuffled(kind: Kind, words: list[str], rng: np.random.Generator) -> list[str]:
    threes = [words[i : i + 3] for i in range(0, len(words), 3)]
    if kind == "within_trigrams":
        threes = [[three[i] for i in rng.permutation(len(three))] for three in threes]
    elif kind == "trigrams":
        threes = [threes[i] for i in rng.permutation(len(threes))]
    else:
        threes = [[words[i]] for i in rng.permutation(len(words))]
    return [word for three in threes for word in three]
