"""The samples of shards as an export has them: one row each, in the order of the shards."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np

from mmcl.data import Source, Stream
from mmcl.data.source import Selector
from mmcl.errors import MmclError
from mmcl.model import Encoder
from mmcl.types import Bad, Batch

RESERVED = ("key", "shard", "image_path", "json", "bad")  # columns of the metadata that every export has


class Samples:
    """What is embedded, and what goes into the metadata.

    Args:
        encoder: what embeds; modalities that it has no tower for go into the metadata as texts.
        source: shards, and where the modalities lie.
        batch_size: rows of a block.
        workers: threads that read and decode.

    Raises:
        MmclError: shards are missing, or the model and the shards share no modality.

    Attributes:
        modalities: those that are embedded.
        texts: names of columns of texts: those of modalities, and those that have no tower.
        source: what is read.
        stream: that reads it.
    """

    def __init__(self, encoder: Encoder, source: Source, batch_size: int, workers: int) -> None:
        self.modalities = [m for m in source.modalities if m in encoder.modalities]
        if not self.modalities:
            raise MmclError(
                f"the model has {', '.join(encoder.modalities)}; the shards bring {', '.join(source.modalities)}."
            )
        others = [m for m in source.modalities if m not in self.modalities]
        others = [m for m in others if Selector.parse(source.modalities[m], m).is_text]
        if taken := [m for m in others if m in RESERVED]:
            raise MmclError(f"modalities: {taken[0]} is a column of every export; give this one another name.")
        lies = {m: s for m, s in source.modalities.items() if m in (*self.modalities, *others)}
        fields = {_column(m): lies[m] for m in self.modalities if encoder.takes(m) == "text"}
        self.texts = [*fields, *others]
        self._copied = {*fields, "json"}  # what is bad in them is bad in their modality, or only absent
        self.source = source.model_copy(
            update={"modalities": lies, "captions": "first", "extras": {}, "identity": None, "weight": None}
        )
        self.stream = Stream(
            self.source.fixed(**fields, json="json"),
            batch_size=batch_size,
            workers=workers,
            shuffle=False,
            transforms={m: encoder.transforms[m] for m in self.modalities},
            share=(0, 1),
        )
        counts = [self.stream.shards.count(number) for number in range(len(self.stream.shards.listed))]
        self._ends = np.cumsum(counts)
        self._begins = self._ends - counts

    def blocks(self, start: int, stop: int) -> Iterator[Batch]:
        """Some samples, in blocks of the batch size from the first one on."""
        self.stream.seek(start, stop)
        with closing(iter(self.stream)) as batches:
            yield from batches

    def shards_of(self, start: int, stop: int) -> np.ndarray:
        """Number of the shard of each of some samples."""
        return np.searchsorted(self._ends, np.arange(start, stop), side="right").astype(np.int32)

    def bad_of(self, batch: Batch) -> list[Bad]:
        """What could not be used of a batch's samples."""
        return [bad for bad in batch.bad if bad.modality and bad.modality not in self._copied]

    def problems(self, start: int, stop: int) -> list[Bad]:
        """What is wrong with shards themselves: those whose first sample is one of some."""
        last = self._ends[-1] if stop == self._ends[-1] else stop - 1  # empty shards at the end belong to the last part
        shards = self.stream.shards
        begin = np.flatnonzero((self._begins >= start) & (self._begins <= last))
        opened = [shards.open(int(number)) for number in begin]
        return [Bad(shard.url, key, "", reason) for shard in opened for key, reason in shard.index.problems]


def _column(modality: str) -> str:
    """Name of the column of a modality's texts."""
    return "caption" if modality == "text" else f"{modality} text"
