"""What one shard holds."""

import json
from collections import Counter as Counts
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmcl.data.index import Member
from mmcl.data.shards import Listed
from mmcl.data.source import Choice, Selector, Source
from mmcl.data.store import Shard, ShardSet
from mmcl.data_stats.fields import Fields
from mmcl.data_stats.tally import Counter, Place
from mmcl.data_stats.values import NUMBERS, Asked, hash64, told
from mmcl.errors import AbsentError, BadSampleError, MmclError

EXAMPLES = 10  # of each reason
JSON = "json"


class Job(NamedTuple):
    """A shard to look at."""

    number: int
    listed: Listed
    source: Source
    asked: Asked
    chosen: NDArray[np.uint32] | None
    """Samples to look at; all of them unless told."""


@dataclass
class Values:
    """What is known of the values of one modality: a number of each a value, and counts of their kinds."""

    kind: str = ""
    sample: list[Any] = field(default_factory=list)
    """Number of each value's sample in its shard."""
    numbers: dict[str, Any] = field(default_factory=lambda: defaultdict(list))
    """By name, a list while values are added, an array afterwards."""
    kinds: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))

    def arrays(self) -> "Values":
        """The same, with arrays; of two kinds of values, what does not fit is left out."""
        sizes = {name: np.asarray(found, NUMBERS[self.kind][name]) for name, found in self.numbers.items()}
        return Values(self.kind, [np.asarray(self.sample, np.uint32)], sizes, self.kinds)


class Reason(NamedTuple):
    """Why values of a modality are not there; or, of no modality, what is wrong with the shard."""

    modality: str
    reason: str
    absent: bool
    """Whether the samples lack it, rather than that it cannot be read."""


@dataclass
class Look:
    """What is known of one shard."""

    samples: int = 0
    members: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Extension -> how many, bytes, how many of no bytes."""
    together: Counter = field(default_factory=Counter)
    """Samples by which members they have."""
    keys: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    values: dict[str, Values] = field(default_factory=dict)
    fields: Fields = field(default_factory=Fields)
    reasons: Counts[Reason] = field(default_factory=Counts)
    examples: dict[Reason, list[str]] = field(default_factory=dict)
    """Keys of the first samples of each reason."""

    def bad(self, key: str, reason: Reason) -> None:
        """Count what is not there."""
        self.reasons[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(key)


def look_at(job: Job) -> "Look | str":
    """What a shard holds, or why nobody can say."""
    try:
        return _Looking(job).look()
    except MmclError as error:
        return str(error)


class _Looking:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.shard: Shard = ShardSet([job.listed]).open(0)
        source = job.source
        where = {**source.modalities, **source.extras}
        self.selectors = {name: Selector.parse(said, f"data: {name}") for name, said in where.items()}
        self.found = Look()

    def look(self) -> Look:
        index, found = self.shard.index, self.found
        chosen = range(len(index)) if self.job.chosen is None else self.job.chosen.tolist()
        if self.job.chosen is None:
            for key, why in index.problems:
                found.bad(key, Reason("", why, absent=False))
        members = Counts[str](), Counts[str](), Counts[str]()
        keys = list[int]()
        for sample in chosen:
            there = index.members(sample)
            for extension, (_, size, _) in there.items():
                members[0][extension] += 1
                members[1][extension] += size
                members[2][extension] += not size
            place = Place(self.job.number, sample)
            found.together.add(" + ".join(sorted(there)), place)
            key = self.shard.key(sample)
            keys.append(hash64(key.encode()))
            self._look_at(key, place, there)
        found.samples = len(chosen)
        found.members = {
            extension: (n, members[1][extension], members[2][extension]) for extension, n in members[0].items()
        }
        found.keys = np.array(keys, np.uint64)
        found.values = {name: values.arrays() for name, values in found.values.items()}
        return found

    def _look_at(self, key: str, place: Place, there: dict[str, Member]) -> None:
        """Take up all values of one sample."""
        choices = {name: selector.find(there) for name, selector in self.selectors.items()}
        wanted = dict.fromkeys([*(c.extension for c in choices.values() if c), *(e for e in there if _is_json(e))])
        data = dict(zip(wanted, self.shard.read([there[e] for e in wanted]), strict=True))
        for name, choice in choices.items():
            try:
                if choice is None:
                    raise AbsentError(f"no {' or '.join(self.selectors[name].extensions)}")
                self._add(name, choice, data[choice.extension], place)
            except BadSampleError as error:
                self.found.bad(key, Reason(name, str(error), absent=isinstance(error, AbsentError)))
        for extension in data:
            if _is_json(extension):
                self._add_json(key, extension, data[extension], place)

    def _add(self, name: str, choice: Choice, data: bytes, place: Place) -> None:
        if choice.kind == JSON and choice.field is None:  # an extra, of which the fields tell
            return
        value = choice.decode(data)
        for one in value if isinstance(value, list) else [value]:
            said = told(one, data, self.job.asked)
            values = self.found.values.get(name)
            if values is None:
                values = self.found.values[name] = Values(said.kind)
            if said.kind != values.kind:
                raise BadSampleError(f"a {said.kind} where others have a {values.kind}")
            values.sample.append(place.sample)
            for what, number in said.numbers.items():
                values.numbers[what].append(number)
            for what, kind in said.kinds.items():
                values.kinds[what].add(kind, place)

    def _add_json(self, key: str, extension: str, data: bytes, place: Place) -> None:
        try:
            record = json.loads(data)
        except (ValueError, RecursionError):
            self.found.bad(key, Reason(extension, "JSON cannot be read" if data else "empty JSON", absent=False))
            return
        self.found.fields.add(record, place)


def _is_json(extension: str) -> bool:
    return extension.rpartition(".")[2] == JSON
