"""The first look at a task's data: texts, labels and what each sample holds; nothing is decoded or embedded."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmcl.data import Source, Stream
from mmcl.data.shards import is_pipe
from mmcl.data.source import Selector
from mmcl.errors import MmclError
from mmcl.evaluators import Items
from mmcl.types import Batch, Draw, Transform

BATCH = 1024
WORKERS = 2
NAMED = 3  # samples that a message names


def read_items(source: Source, fields: Sequence[str], modalities: Sequence[str], where: str) -> Items:
    """Texts and labels of all samples, in the order of the shards.

    Args:
        source: the shards, and where things lie.
        fields: that must be there: all their texts are read, or their numbers where they are .npy.
        modalities: whose texts are read, where they are texts: all of them, or the first, as the source says.
        where: whose data they are, for messages.

    Raises:
        MmclError: a sample lacks something that it is not allowed to lack.
    """
    selectors = {m: Selector.parse(said, m) for m, said in source.modalities.items()}
    read = [m for m in source.modalities if m in fields or (m in modalities and selectors[m].is_text)]
    stream = _stream(source, read)
    _check_members(stream, source, selectors, [m for m in modalities if m not in read], where)
    keys: list[str] = []
    ids: list[Tensor] = []
    columns: dict[str, list[object]] = {name: [] for name in read}
    for batch in stream:
        _check_there(batch, source, read, where)
        keys += batch.keys
        ids.append(batch.ids)
        for name in read:
            columns[name] += batch[name]
    texts: dict[str, list[list[str]]] = {}
    numbers: dict[str, Tensor] = {}
    for name, column in columns.items():
        if isinstance(column[0], Tensor):
            numbers[name] = _stacked(name, column, keys, where)
            continue
        several = [[] if value is None else [str(v) for v in _listed(value)] for value in column]
        first = name in modalities and name not in fields and source.captions != "all"
        texts[name] = [some[:1] for some in several] if first else several
    return Items(keys, torch.cat(ids), texts, numbers)


def _stream(source: Source, read: Sequence[str]) -> Stream:
    """What reads all of some texts of all samples; keys alone, where there are none."""
    only = {m: source.modalities[m] for m in read} or dict(list(source.modalities.items())[:1])
    changed = {"modalities": only, "optional": list(only), "extras": {}, "captions": "all", "weight": None}
    transforms = {} if read else dict.fromkeys(only, _Nothing())
    return Stream(
        source.model_copy(update=changed),
        batch_size=BATCH,
        workers=WORKERS,
        shuffle=False,
        share=(0, 1),
        transforms=transforms,
    )


class _Nothing(Transform):
    """In place of a transform, where only keys are wanted."""

    def empty(self, rows: int) -> Tensor:
        return torch.empty(rows, 0)

    def __call__(self, value: Any, draw: Draw, out: Tensor) -> None:
        pass


def _check_members(
    stream: Stream, source: Source, selectors: dict[str, Selector], modalities: Sequence[str], where: str
) -> None:
    """See that samples have what is to be embedded, as far as their indexes say."""
    wanted = [m for m in modalities if m not in source.optional]
    lacking: list[str] = []
    for number in range(len(stream.shards.listed)):
        if is_pipe(stream.shards.listed[number].url):
            continue
        shard = stream.shards.open(number)
        for sample in range(len(shard)):
            members = shard.members(sample)
            for m in wanted:
                if selectors[m].find(members) is None:
                    lacking.append(f"{shard.key(sample)} of {shard.url} has no {m} ({source.modalities[m]})")
    _refuse(lacking, where)


def _check_there(batch: Batch, source: Source, read: Sequence[str], where: str) -> None:
    """See that texts and labels of a batch can be read."""
    reasons = {(bad.key, bad.modality): bad.reason for bad in batch.bad}
    lacking = [f"{key}: {reason} ({name})" for (key, name), reason in reasons.items()]
    for name in read:
        if name not in source.optional:
            absent = (~batch.present[name]).nonzero()[:, 0].tolist()
            missing = [batch.keys[row] for row in absent if (batch.keys[row], name) not in reasons]
            lacking += [f"{key} has no {name} ({source.modalities[name]})" for key in missing]
    _refuse(lacking, where)


def _refuse(lacking: Sequence[str], where: str) -> None:
    if lacking:
        more = f", and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        raise MmclError(
            f"{where}: {'; '.join(lacking[:NAMED])}{more}. Every sample must have all that is measured; mend the "
            "shards, or name what samples may lack under `optional`, and those that do are left out and counted."
        )


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def _stacked(name: str, column: list[object], keys: Sequence[str], where: str) -> Tensor:
    rows = [value.flatten() for value in column if isinstance(value, Tensor)]
    widths = {len(row) for row in rows}
    if len(rows) != len(column) or len(widths) != 1:
        raise MmclError(f"{where}: {name} must have as many numbers in each of {len(keys)} samples; got {widths}.")
    return torch.stack(rows)
