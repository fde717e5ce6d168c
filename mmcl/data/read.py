"""Samples out of shards, as they were written."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmcl.data.shards import find_shards, load_index


def read_samples(shards: str | Path | Sequence[str | Path]) -> Iterator[dict[str, Any]]:
    """Every sample of shards in their order, in the form that `write_shards` takes.

    Args:
        shards: files: braces, globs, folders.

    Yields:
        ``__key__``, and an extension -> bytes for each member.
    """
    for shard in find_shards(shards):
        index = load_index(shard)
        for key, members in index.samples.items():
            yield {"__key__": key, **{extension: index.read(key, extension) for extension in members}}
