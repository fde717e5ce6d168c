"""Samples to look at: read once more, with their pictures made small and their sounds short."""

import base64
import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import soundfile

from mmcl.data.source import Selector
from mmcl.data.store import ShardSet
from mmcl.data_stats.charts import short
from mmcl.data_stats.stats import SEED, Stats
from mmcl.data_stats.tally import Place
from mmcl.errors import BadSampleError
from mmcl.media import Picture, Sound
from mmcl.media.thumbnail import small

FIRST, DRAWN, EXTREME = 6, 18, 6  # samples that are shown
PLAYED = {"WAV": "wav", "FLAC": "flac", "OGG": "ogg", "MPEG": "mpeg"}  # what browsers play
SOUND, SECONDS, RATE = 48_000, 4.0, 16_000  # bytes above which a sound is cut, to which length, at which rate


class Card(NamedTuple):
    """A sample, as the page shows it."""

    key: str
    shard: str
    pictures: list[str]
    sounds: list[str]
    texts: list[tuple[str, str]]
    """Modality, and text."""
    note: str
    """Sizes."""


class Group(NamedTuple):
    """Samples that are shown together."""

    title: str
    cards: list[Card]


def examples(stats: Stats) -> list[tuple[str, list[Place]]]:
    """Which samples are shown, in groups: the first, some that are drawn (the same each time), and extreme ones."""
    drawn = np.random.default_rng(SEED).choice(stats.samples, min(DRAWN, stats.samples), replace=False)
    found = [
        ("The first", [stats.sample(number) for number in range(min(FIRST, stats.samples))]),
        ("Drawn", [stats.sample(int(number)) for number in np.sort(drawn)]),
    ]
    for modality in stats.modalities:
        for title, ranks in _extremes(stats, modality).items():
            rows = np.argsort(ranks, kind="stable")[:EXTREME]
            if ranks.min() < ranks.max():
                places = dict.fromkeys(stats.place(modality, int(row)) for row in rows)
                found.append((f"{modality}: {title}", list(places)))
    return found


def _extremes(stats: Stats, modality: str) -> dict[str, np.ndarray]:
    """Which values come first in which order."""
    kind = stats.kind(modality)
    if kind == "picture":
        width, height = (stats.column(modality, name).astype(np.float64) for name in ("width", "height"))
        shape = np.abs(np.log(width / height))
        return {"smallest": width * height, "largest": -width * height, "longest shape": -shape}
    name = {"sound": "seconds", "text": "characters", "vector": "numbers"}[kind]
    numbers = stats.column(modality, name).astype(np.float64)
    return {"shortest": numbers, "longest": -numbers}


def read(stats: Stats, places: Iterable[Place]) -> dict[Place, Card]:
    """Samples as cards; each shard is opened once more, one after the other.

    Args:
        stats: of the shards.
        places: of the samples.
    """
    made, opened = dict[Place, Card](), None
    for place in sorted(set(places)):
        source, listed = stats.shards[place.shard]
        if opened is None or opened[0] != place.shard:
            opened = place.shard, ShardSet([listed]).open(0)
        shard = opened[1]
        members, card = shard.members(place.sample), Card(shard.key(place.sample), listed.shown, [], [], [], "")
        notes = list[str]()
        for modality, where in source.modalities.items():
            choice = Selector.parse(where, modality).find(members)
            if choice is not None:
                data = shard.read([members[choice.extension]])[0]
                try:
                    notes += _put(card, modality, choice.decode(data), data)
                except BadSampleError as error:
                    notes.append(f"{modality}: {error}")
        made[place] = card._replace(note=", ".join(notes))
    return made


def _put(card: Card, modality: str, value: object, data: bytes) -> list[str]:
    """Put a value on a card; what is noted of it."""
    if isinstance(value, Picture):
        kind = value.format.lower() or "png"
        card.pictures.append(small(f"data:image/{kind};base64,{base64.b64encode(data).decode()}"))
        return [f"{value.width} × {value.height} {value.format}"]
    if isinstance(value, Sound):
        card.sounds.append(sound_url(value, data))
        return [f"{short(value.seconds)}\N{NO-BREAK SPACE}s"]
    if isinstance(value, list):
        card.texts.extend((modality, text) for text in value)
    return []


def sound_url(sound: Sound, data: bytes) -> str:
    """A sound that every browser plays, of few bytes: as it is, or its first seconds.

    Args:
        sound: opened.
        data: its bytes.

    Raises:
        BadSampleError: it cannot be decoded.
    """
    kind = sound.format.partition(" ")[0]
    if len(data) <= SOUND and kind in PLAYED:
        return f"data:audio/{PLAYED[kind]};base64,{base64.b64encode(data).decode()}"
    out = io.BytesIO()
    soundfile.write(out, sound.read(RATE, seconds=SECONDS), RATE, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(out.getvalue()).decode()}"
