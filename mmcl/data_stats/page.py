"""What shards hold, as a page: one HTML file without scripts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmcl.data_stats.cards import Card, examples, read
from mmcl.data_stats.charts import histogram, short
from mmcl.data_stats.languages import teller
from mmcl.data_stats.report import Twins, sizes
from mmcl.data_stats.stats import Stats
from mmcl.data_stats.tally import Counter, Place
from mmcl.data_stats.values import hash64
from mmcl.errors import MmclError
from mmcl.files import replacing
from mmcl.report import template

ALIKE = 6  # members of a group that are shown
ROWS = 12  # of a table of kinds


class Kind(NamedTuple):
    """A row of a table of kinds."""

    value: str
    n: int
    example: str


class Repeated(NamedTuple):
    """A group of what is alike."""

    n: int
    text: str
    cards: list[Card]


class Alikes(NamedTuple):
    """What comes more than once in one way, and where the values lie that are shown."""

    twins: Twins
    places: list[list[Place]]
    kind: str


def write_page(path: Path, stats: Stats, report: Mapping[str, Any], found: Sequence[Twins]) -> Path:
    """Write a page; the samples that it shows are read once more from their shards.

    Args:
        path: of the page.
        stats: of the shards.
        report: all of it, as `mmcl.data_stats.report` makes it.
        found: what comes more than once.

    Raises:
        MmclError: a folder lies there, or a shard has changed since it was looked at.
    """
    if path.is_dir():
        raise MmclError(f"page {path} is a folder; say a file in it, such as {path / 'stats.html'}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    groups = examples(stats) if stats.samples else []
    kinds = {modality: stats.kinds(modality) for modality in stats.modalities}
    alikes = [_alikes(stats, one) for one in found if one.found.groups]
    wanted = [place for _, places in groups for place in places]
    wanted += [place for one in alikes for places in one.places for place in places]
    wanted += [one.first for said in kinds.values() for one in said.get("language", Counter()).most(ROWS)]
    cards = read(stats, wanted)
    page = template("data_stats/page.html.jinja").render(
        title=_title(stats),
        report=report,
        modalities=[_modality(stats, modality, report, kinds[modality], cards) for modality in stats.modalities],
        alikes=[(one, _repeated(stats, one, cards)) for one in alikes],
        examples=[(title, [cards[place] for place in places]) for title, places in groups],
        short=short,
        size=bytes_in_words,
    )
    with replacing(path) as file:
        file.write(page.encode())
    return path


def bytes_in_words(count: float) -> str:
    """A number of bytes.

    >>> bytes_in_words(999), bytes_in_words(35_063_566)
    ('999 B', '35.1 MB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


def _title(stats: Stats) -> str:
    said = [s.shards if isinstance(s.shards, str) else " ".join(s.shards) for s in stats.sources]
    return ", ".join(dict.fromkeys(said))


def _alikes(stats: Stats, one: Twins) -> Alikes:
    places = [[stats.place(one.modality, int(row)) for row in rows[:ALIKE]] for rows in one.found.largest]
    return Alikes(one, places, stats.kind(one.modality))


def _repeated(stats: Stats, one: Alikes, cards: Mapping[Place, Card]) -> list[Repeated]:
    """Groups with what they show; of texts, the text itself."""
    made = []
    for rows, places in zip(one.twins.found.largest, one.places, strict=True):
        shown = [cards[place] for place in dict.fromkeys(places)]
        text = ""
        if one.kind == "text":
            wanted = int(stats.column(one.twins.modality, "hash")[rows[0]])
            text = next((said for m, said in shown[0].texts if m == one.twins.modality and _is(said, wanted)), "")
        made.append(Repeated(len(rows), text, shown))
    return made


def _is(text: str, wanted: int) -> bool:
    return hash64(text.encode()) == wanted


def _modality(
    stats: Stats, modality: str, report: Mapping[str, Any], kinds: Mapping[str, Counter], cards: Mapping[Place, Card]
) -> dict[str, Any]:
    """What the page says of one modality."""
    numbers = sizes(stats, modality)
    drawn = [histogram(found, name, place) for place, (name, found) in enumerate(numbers.items())]
    return {
        "name": modality,
        "said": report["modalities"][modality],
        "plots": [plot for plot in drawn if plot is not None],
        "kinds": {name: _kinds(modality, name, counter, cards) for name, counter in kinds.items()},
    }


def _kinds(modality: str, name: str, counter: Counter, cards: Mapping[Place, Card]) -> tuple[list[Kind], int, int]:
    """The most frequent kinds, how many values are of others, and of all."""
    made = []
    for one in counter.most(ROWS):
        card = cards.get(one.first) if name == "language" else None
        made.append(Kind(one.value, one.n, "" if card is None else _written(card, modality, one.value)))
    return made, counter.total - sum(one.n for one in made), counter.total


def _written(card: Card, modality: str, language: str) -> str:
    """The text of a sample that is in a language."""
    tell = teller()
    return next((text for m, text in card.texts if m == modality and tell is not None and tell(text) == language), "")
