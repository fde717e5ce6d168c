"""mmcl search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from mmcl.search import Collection, Hit, Part

WIDE = 160  # columns, where nobody says how wide a line may be
SHOWN = 80  # letters of a caption
LEAST = {"rank": 4, "score": 7, "key": None, "caption": 16, "shard": None}  # letters that a column keeps


def search(  # noqa: PLR0913 - each is a choice of the user's
    folder: Path,
    text: str | None = None,
    /,
    *,
    image: Path | None = None,
    audio: Path | None = None,
    like: str | None = None,
    other: dict[str, str] | None = None,
    weight: dict[str, float] | None = None,
    among: str | None = None,
    k: Annotated[int, Parameter(name=["--k", "-k"])] = 10,
    where: list[str] | None = None,
    json: bool = False,
    explain: bool = False,
    model: str | None = None,
    weights: str | None = None,
    shards: str | None = None,
    serve: bool = False,
    host: str = "127.0.0.1",
    port: int = 8707,
) -> None:
    """Search what `mmcl embed` wrote: by a text, a picture, a sound, a sample of the export, or several at once.

    Several things are one query: the sum of their unit vectors.

    Args:
        folder: of the export.
        text: that is looked for.
        image: a file that is looked for.
        audio: a file that is looked for.
        like: the key of a sample of the export: more like it.
        other: a text or a file for another modality of the model, as in --other.eeg FILE.
        weight: of one of several things that are looked for, 1 unless told, as in --weight.image 0.5 or --weight.like
            -1, which leads away from it.
        among: the modality that is searched; the first of the export that is no text, unless told.
        k: how many samples are wanted.
        where: a condition that all of them meet, as in script=GREEK, width>=200, width<=400, 'caption contains hat'.
            Columns of the metadata, or fields of the samples' JSON; several times for several conditions.
        json: as JSON.
        explain: say which index is searched, why, and what it finds of exact search.
        model: where the model that made it lies now, if not where the manifest says.
        weights: of a model of a library, if others than the manifest says.
        shards: where they lie now, if not where the manifest says.
        serve: open a local page to search in.
        host: address that the page is served at; another than the loopback lets others in.
        port: that it is served at; 0 takes a free one.
    """
    import sys

    from mmcl.search import Collection, Filter

    def say(told: str) -> None:
        print(told, file=sys.stderr)

    collection = Collection.open(folder, model=model, weights=weights, shards=shards, say=say)
    if serve:
        from mmcl.search.serve import serve as run

        run(collection, host, port, lambda told: print(told, flush=True))
        return
    among = among or collection.first
    conditions = [Filter.parse(one) for one in where or []]
    given = {"text": text, "image": image, "audio": audio, **(other or {})}
    said = {name: value for name, value in given.items() if value is not None}
    _check_weights(weight or {}, {*said, *(["like"] if like is not None else [])})
    if explain:
        say(collection.index(among).why)
        if not said and like is None:
            return
    rows = [] if like is None else [collection.row(like)]
    ready = [(collection.like(row, among), (weight or {}).get("like", 1.0)) for row in rows]
    vector = collection.embed(_parts(collection, said, set(other or {}), weight or {}), ready)
    hits = collection.search(vector, among=among, k=k, where=conditions, without=rows)
    if json:
        _print_json(collection, hits)
    elif hits:
        _table(collection, hits)
    else:
        say("no sample meets the conditions." if where else "there is nothing else to find.")


def _check_weights(weight: Mapping[str, float], looked_for: set[str]) -> None:
    from mmcl.errors import MmclError

    for name in weight:
        if name not in looked_for:
            raise MmclError(
                f"--weight.{name}: no {name} is looked for; there is: {', '.join(sorted(looked_for)) or 'nothing'}."
            )


def _parts(
    collection: "Collection", said: Mapping[str, Any], named: set[str], weight: Mapping[str, float]
) -> list["Part"]:
    """What is looked for, each for the tower that takes it: one of this name, or else the first that takes its kind."""
    from mmcl.errors import MmclError
    from mmcl.search import Part

    parts = []
    for name, value in said.items():
        takes = {one: collection.takes(one) for one in collection.query_modalities}
        if not takes:
            collection.takes(name)  # refused: nothing says which model it is
        fitting = [one for one, kind in takes.items() if one == name or (kind == name and name not in named)]
        if not fitting:
            raise MmclError(
                f"the model has no tower for {name}; it has: {', '.join(f'{m} ({kind})' for m, kind in takes.items())}."
            )
        modality = name if name in fitting else fitting[0]
        content = str(value) if takes[modality] == "text" else Path(value)
        parts.append(Part(modality, content, weight.get(name, 1.0)))
    return parts


def _print_json(collection: "Collection", hits: Sequence["Hit"]) -> None:
    import json

    found = [
        {
            "rank": rank,
            "score": round(hit.score, 6),
            "key": hit.key,
            "caption": hit.caption,
            "shard": collection.shard_name(hit.shard),
            "row": hit.row,
            "columns": hit.columns,
        }
        for rank, hit in enumerate(hits, 1)
    ]
    print(json.dumps(found, indent=1, ensure_ascii=False, default=str))


def _table(collection: "Collection", hits: Sequence["Hit"]) -> None:
    import os

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table()
    for name, least in LEAST.items():
        side = "right" if name in ("rank", "score") else "left"
        shown.add_column(name, justify=side, no_wrap=side == "right", overflow="fold", min_width=least)
    for rank, hit in enumerate(hits, 1):
        texts = (hit.key, (hit.caption or "")[:SHOWN], collection.shard_name(hit.shard))
        shown.add_row(str(rank), f"{hit.score:.4f}", *(Text(_printable(text)) for text in texts))
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    console.print(shown)


def _printable(text: str) -> str:
    """Without what would steer the terminal: captions come from anywhere."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
