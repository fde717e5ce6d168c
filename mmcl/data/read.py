"""Samples out of shards, as they were written."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmcl.data.shards import find_shards, indexed
from mmcl.data.store import ShardSet


def read_samples(shards: str | Path | Sequence[str | Path]) -> Iterator[dict[str, Any]]:
    """Every sample of shards in their order, in the form that `write_shards` takes.

    Args:
        shards: files: braces, globs, folders, URLs.

    Yields:
        ``__key__``, and an extension -> bytes for each member.

    Raises:
        MmclError: shards are missing, or have no index.
    """
    opened = ShardSet(indexed(find_shards(shards)))
    for number in range(len(opened.listed)):
        shard = opened.open(number)
        for sample in range(len(shard)):
            members = shard.members(sample)
            data = shard.read(list(members.values()))
            yield {"__key__": shard.key(sample), **dict(zip(members, data, strict=True))}
