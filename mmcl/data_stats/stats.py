"""What shards hold, from all of them."""

from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcl.data.every_shard import every_shard
from mmcl.data.shards import Listed, find_shards, indexed
from mmcl.data.source import Source
from mmcl.data.store import ShardSet
from mmcl.data_stats.fields import Fields
from mmcl.data_stats.look import EXAMPLES, Job, Look, Reason, Values, look_at
from mmcl.data_stats.tally import Counter, Place
from mmcl.data_stats.tokens import tokens
from mmcl.data_stats.values import Asked
from mmcl.errors import MmclError

SEED = 0  # of what is drawn


class Stats:
    """What is known of shards, added up in their order, so that it is the same each time.

    Of each sample some numbers are held (hashes of its key, its values and its pictures' looks, sizes): 8 bytes, and
    about 36 for a picture, 28 for a text, 16 for a sound; all else is bounded.

    Args:
        sources: what to look at.
        asked: what is to be told beside what always is.
        sample: how many samples to look at, drawn with a fixed seed; all of them unless told. Shards on this machine
            are read only where these lie, remote ones are fetched whole.

    Raises:
        MmclError: shards are missing, or have no index; or there is no such tokenizer.
    """

    def __init__(self, sources: Sequence[Source], asked: Asked | None = None, sample: int | None = None) -> None:
        self.sources, self.asked = list(sources), asked or Asked()
        self.shards: list[tuple[Source, Listed]] = []
        for source in sources:
            self.shards += [(source, listed) for listed in indexed(find_shards(source.shards))]
        self.context_length = None
        if self.asked.tokenizer:
            self.context_length = tokens(self.asked.tokenizer, self.asked.context_length).context_length
        self.of: int | None = None
        """Samples that there are, where only some are looked at."""
        self._chosen = self._draw(sample) if sample is not None else [None] * len(self.shards)
        self.samples = 0
        self.counts = [0] * len(self.shards)
        """Samples that were looked at, by shard."""
        self.members: dict[str, tuple[int, int, int]] = {}
        self.together = Counter()
        self.fields = Fields()
        self.reasons = Counts[Reason]()
        self.examples: dict[Reason, list[tuple[int, str]]] = {}
        """Shard and key of the first samples of each reason."""
        self._keys: list[NDArray[np.uint64]] = []
        self._values: dict[str, list[tuple[int, Values]]] = {}

    def run(self, processes: int | None = None) -> None:
        """Look at all shards.

        Args:
            processes: one a core unless told.
        """
        jobs = [
            Job(number, listed, source, self.asked, chosen)
            for number, ((source, listed), chosen) in enumerate(zip(self.shards, self._chosen, strict=True))
            if chosen is None or len(chosen)
        ]
        waiting, numbers = dict[int, Look | str | None](), iter([job.number for job in jobs])
        due = next(numbers, None)
        for job, look in every_shard(look_at, jobs, "looking", processes):
            waiting[job.number] = look
            while due in waiting:
                self._add(due, waiting.pop(due))
                due = next(numbers, None)

    def _draw(self, sample: int) -> list[NDArray[np.uint32] | None]:
        if sample < 1:
            raise MmclError(f"--sample must be 1 or more; got {sample}.")
        shards = ShardSet([listed for _, listed in self.shards])
        counts = [shards.count(number) for number in range(len(self.shards))]
        self.of = sum(counts)
        drawn = np.sort(np.random.default_rng(SEED).choice(self.of, min(sample, self.of), replace=False))
        ends = np.cumsum(counts)
        parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
        return [(part - (end - count)).astype(np.uint32) for part, end, count in zip(parts, ends, counts, strict=True)]

    def _add(self, number: int, look: Look | str | None) -> None:
        if not isinstance(look, Look):
            said, look = look or "reading it kills the process that reads it", Look()
            look.bad("", Reason("", said, absent=False))
        self.samples += look.samples
        self.counts[number] = look.samples
        for extension, three in look.members.items():
            before = self.members.get(extension, (0, 0, 0))
            self.members[extension] = (before[0] + three[0], before[1] + three[1], before[2] + three[2])
        self.together.merge(look.together)
        self.fields.merge(look.fields)
        self.reasons += look.reasons
        for reason, keys in look.examples.items():
            examples = self.examples.setdefault(reason, [])
            examples += [(number, key) for key in keys][: EXAMPLES - len(examples)]
        self._keys.append(look.keys)
        for modality, values in look.values.items():
            self._values.setdefault(modality, []).append((number, values))

    @property
    def keys(self) -> NDArray[np.uint64]:
        """A hash of each sample's key."""
        return np.concatenate([np.empty(0, np.uint64), *self._keys])

    def column(self, modality: str, name: str) -> NDArray[Any]:
        """A number of each value of a modality, in the order of shards and samples; none where it was not asked for."""
        found = [v.numbers[name] for _, v in self._same(modality) if name in v.numbers]
        return np.concatenate(found) if found else np.empty(0)

    def kind(self, modality: str) -> str:
        """What the values of a modality are: picture, sound, text, vector."""
        return self._values[modality][0][1].kind

    def kinds(self, modality: str) -> dict[str, Counter]:
        """How many values of a modality are of each kind, by what the kinds are of."""
        found: dict[str, Counter] = {}
        for _, values in self._same(modality):
            for name, counter in values.kinds.items():
                found.setdefault(name, Counter()).merge(counter)
        return found

    @property
    def modalities(self) -> list[str]:
        """Those of which there are values."""
        said = dict.fromkeys(name for s in self.sources for name in (*s.modalities, *s.extras))
        return [name for name in said if name in self._values]

    def place(self, modality: str, row: int) -> Place:
        """Where the value of a row of a column lies."""
        for number, values in self._same(modality):
            (samples,) = values.sample
            if row < len(samples):
                return Place(number, int(samples[row]))
            row -= len(samples)
        raise IndexError(row)

    def sample(self, number: int) -> Place:
        """Where a sample lies, of its number among those that were looked at."""
        shard = int(np.searchsorted(np.cumsum(self.counts), number, side="right"))
        row, chosen = number - sum(self.counts[:shard]), self._chosen[shard]
        return Place(shard, row if chosen is None else int(chosen[row]))

    def owner(self, modality: str) -> NDArray[np.int64]:
        """A number for each value of a modality that its sample's other values share."""
        parts = [
            (np.int64(number) << 32) | values.sample[0].astype(np.int64) for number, values in self._same(modality)
        ]
        return np.concatenate(parts)

    def _same(self, modality: str) -> Iterator[tuple[int, Values]]:
        """Values of the kind that the first ones are of."""
        return ((n, values) for n, values in self._values[modality] if values.kind == self.kind(modality))
