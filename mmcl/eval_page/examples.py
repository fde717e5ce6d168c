"""Examples: what was asked and what was found, with small pictures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmcl.media.thumbnail import small

FOUND, RIGHT = 5, 2  # of what was found, and of what is right, that is shown
GROUPS = ("best", "worst", "spread evenly")


class Thing(NamedTuple):
    """A text, a label or a picture."""

    text: str
    picture: str
    right: bool


class Shown(NamedTuple):
    """One query, what was found, and what is right."""

    query: Thing
    found: list[Thing]
    place: int | None
    """Of the first that is right, from 1."""
    right: list[Thing]
    """What is right, where it is not among what was found."""
    more: int
    """How many more are right."""


class Group(NamedTuple):
    """Examples of one kind."""

    title: str
    kind: str
    pictured: bool
    """Whether pictures are found."""
    examples: list[Shown]


def groups(examples: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Examples by what asks what, and by why they are shown.

    Args:
        examples: as a task gives them.
    """
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for one in examples:
        way = f"{one['modality']} → {one['gallery']}" if one["kind"] == "items" else ""
        found.setdefault((way, one["group"], one["kind"]), []).append(one)
    order = {group: i for i, group in enumerate(GROUPS)}
    ways = list(dict.fromkeys(way for way, _, _ in found))
    made = []
    for way, group, kind in sorted(found, key=lambda key: (ways.index(key[0]), order.get(key[1], len(order)))):
        shown = [_shown(one) for one in found[way, group, kind]]
        title = ": ".join(filter(None, [way, group]))
        made.append(Group(title, kind, any(thing.picture for one in shown for thing in one.found), shown))
    return made


def _shown(one: Mapping[str, Any]) -> Shown:
    right, found, pictures = one["correct"], one["found"], one["pictures"]
    # of what is no picture, but of the sample whose picture asks, that picture is not shown as if it were found
    pictured = any(text in pictures for text in found if text != one["query"])

    def thing(text: str, shown: bool = pictured) -> Thing:
        return Thing(text, small(pictures.get(text, "")) if shown else "", text in right)

    place = next((i for i, text in enumerate(found, 1) if text in right), None)
    missed = [] if place is not None and place <= FOUND else right
    return Shown(
        thing(one["query"], True)._replace(right=False),
        [thing(text) for text in found[:FOUND]],
        place,
        [thing(text) for text in missed[:RIGHT]],
        max(len(missed) - RIGHT, 0),
    )
