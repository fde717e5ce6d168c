"""The second look at a task's data: everything is embedded, or found in the cache.

The same digits come out on any number of processes: whole blocks of rows go through the towers, and which rows a block
holds does not depend on who embeds it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmcl import distributed
from mmcl.data import Source, Stream
from mmcl.errors import MmclError
from mmcl.evaluators import Items, View
from mmcl.model import Encoder
from mmcl.tasks.columns import BLOCK, Column
from mmcl.tasks.ready import ReadyVectors
from mmcl.tasks.store import Maker, VectorStore, column_key, identities, maker
from mmcl.tasks.views import Viewed
from mmcl.types import Bad, Batch, modality_of

WORKERS = 2
TOGETHER = 4  # columns that are read in one pass: a picture of 224 pixels a side is 0.6 MB


Columns = Mapping[str, tuple[str, View | None]]
"""Name -> the modality that it is of, and another look at it."""


class Prompts:
    """Embeds prompts with all processes together; each gets all of them.

    Args:
        encoder: the model, if there is one.
        store: keeps the vectors of many prompts, if it is kept.
    """

    def __init__(self, encoder: Encoder | None, store: VectorStore | None = None) -> None:
        self.encoder, self.store = encoder, store

    def embed(self, modality: str, values: Sequence[Any]) -> Float[Tensor, "values dim"]:
        """Unit vectors, in fp32 on the CPU.

        Raises:
            MmclError: there is no model, or a value cannot be used.
        """
        if self.encoder is None:
            raise MmclError(f"{modality} must be embedded for prompts, and there is no model; name one.")
        if not len(values):
            return torch.empty(0, self.encoder.dim)
        if self.store is None or len(values) < BLOCK:  # ImageNet has 80,000 prompts, and so have its variants
            return self._embed(self.encoder, modality, values)
        made_by = maker(self.encoder, modality, values)
        column = self.store.load(made_by.digest, made_by)
        if all(distributed.collect(column is not None)) and column is not None:
            return column.vectors
        vectors = self._embed(self.encoder, modality, values)
        if distributed.rank() == 0:
            self.store.save(made_by.digest, Column(vectors, torch.arange(len(vectors)), []), made_by)
        return vectors

    def _embed(self, encoder: Encoder, modality: str, values: Sequence[Any]) -> Tensor:
        starts = range(0, len(values), BLOCK)
        rank, world = distributed.rank(), distributed.world_size()
        mine = [self._block(encoder, modality, values[s : s + BLOCK]) for s in starts[rank::world]]
        every = distributed.collect(mine)
        return torch.cat([every[block % world][block // world] for block in range(len(starts))])

    def _block(self, encoder: Encoder, modality: str, values: Sequence[Any]) -> Tensor:
        return encoder.embed_rows(modality, encoder.rows(modality, values)).cpu()


class Vectors:
    """Where the vectors of a task come from: files, the cache, or else the model.

    Args:
        encoder: the model, if there is one.
        store: keeps what it makes, if that is kept.
        ready: vectors that lie in files, if there are any; they come first.
    """

    def __init__(
        self, encoder: Encoder | None, store: VectorStore | None = None, ready: ReadyVectors | None = None
    ) -> None:
        self.encoder, self.store, self.ready = encoder, store, ready

    def columns(
        self, source: Source, items: Items, names: Sequence[str], views: Mapping[str, tuple[str, View]]
    ) -> dict[str, Column]:
        """Vectors of some modalities of all items.

        Args:
            source: the shards, and where the modalities lie.
            items: all samples, in the order of the shards.
            names: of the modalities; a name with a dot goes through the tower of what stands before the dot.
            views: further looks at pictures, by name.
        """
        lie = [name for name in names if self.ready is not None and name in self.ready.modalities]
        every = {name: (name, None) for name in names if name not in lie}
        every |= {name: (of, view) for name, (of, view) in views.items()}
        found = {name: self.ready.column(name, items) for name in lie if self.ready is not None}
        if every:
            assert self.encoder is not None  # Task.check
            found |= _columns(self.encoder, source, items, every, self.store)
        return {name: found[name] for name in (*names, *views)}


def _columns(
    encoder: Encoder, source: Source, items: Items, every: Columns, store: VectorStore | None
) -> dict[str, Column]:
    """Columns from the cache, or of the model.

    Args:
        encoder: the model.
        source: the shards.
        items: all samples.
        every: name -> the modality, and another look at it.
        store: the cache.
    """
    found: dict[str, Column] = {}
    keys: dict[str, str] = {}
    makers: dict[str, Maker] = {}
    if store is not None:
        first = next(iter(every))
        shards = identities(_stream(encoder, source, {first: every[first]}))
        of_each = dict.fromkeys(of for of, _ in every.values())  # views are of the same tower
        makers = {of: maker(encoder, modality_of(of), _texts(items, of)) for of in of_each}
        for name, (of, view) in every.items():
            keys[name] = column_key(makers[of], source, of, None if view is None else repr(view), shards)
            column = store.load(keys[name], makers[of])
            if all(distributed.collect(column is not None)) and column is not None:
                found[name] = column
    left = [name for name in every if name not in found]
    for start in range(0, len(left), TOGETHER):
        made = _embed(encoder, source, len(items), {name: every[name] for name in left[start : start + TOGETHER]})
        for name, column in made.items():
            if store is not None and distributed.rank() == 0:
                store.save(keys[name], column, makers[every[name][0]])
        found |= made
    return found


def _texts(items: Items, name: str) -> list[str]:
    return [text for some in items.texts.get(name, []) for text in some]


def _stream(encoder: Encoder, source: Source, columns: Columns) -> Stream:
    world = distributed.world_size()
    transforms = {}
    for name, (of, view) in columns.items():
        own = encoder.transforms[modality_of(of)]
        transforms[name] = own if view is None else Viewed(own, view)
    lies = {name: source.modalities[of] for name, (of, _) in columns.items()}
    captions = "first" if source.captions == "random" else source.captions
    changed = {"modalities": lies, "optional": [], "extras": {}, "captions": captions, "identity": None}
    return Stream(
        source.model_copy(update=changed),
        batch_size=BLOCK * world,
        workers=WORKERS,
        shuffle=False,
        last_batch="pad",
        transforms=transforms,
    )


def _embed(encoder: Encoder, source: Source, samples: int, columns: Columns) -> dict[str, Column]:
    stream = _stream(encoder, source, columns)
    mine: list[dict[str, tuple[Tensor, Tensor, list[Bad]]]] = []
    for step, batch in enumerate(stream):
        first = step * BLOCK * distributed.world_size() + batch.offset
        rows = min(max(samples - first, 0), len(batch))  # the others only fill the last batch
        mine.append({name: _block(encoder, batch, name, of, first, rows) for name, (of, _) in columns.items()})
    pieces = [piece for together in zip(*distributed.collect(mine), strict=True) for piece in together]
    made = {}
    for name in columns:
        vectors, owners, bad = zip(*(piece[name] for piece in pieces), strict=True)
        made[name] = Column(torch.cat(vectors), torch.cat(owners), [one for some in bad for one in some])
    return made


def _block(
    encoder: Encoder, batch: Batch, name: str, of: str, first: int, rows: int
) -> tuple[Tensor, Tensor, list[Bad]]:
    """Vectors of one block: its rows go through the tower as they are, absent ones as well, and are left out then."""
    there = batch.present[name][:rows]
    bad = [one._replace(modality=of) for one in batch.bad if one.modality == name]
    if not there.any():
        return torch.empty(0, encoder.dim), torch.empty(0, dtype=torch.long), bad
    counts = batch.counts.get(name)
    own = torch.arange(rows) if counts is None else torch.repeat_interleave(torch.arange(rows), counts[:rows])
    values = batch[name]
    if isinstance(values, list):
        raise MmclError(f"data: {name}: values of this modality cannot be embedded.")
    vectors = encoder.embed_rows(modality_of(of), values[: len(own)]).cpu()
    kept = there[own]
    return vectors[kept], first + own[kept], bad
