"""What training would say of shards, before training: every sample read and decoded, on all cores."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl.data.every_shard import every_shard
from mmcl.data.pool import Ref
from mmcl.data.remote import is_remote
from mmcl.data.rows import Reader
from mmcl.data.shards import Listed, find_shards, indexed
from mmcl.data.source import IMAGES, SOUNDS, TEXTS, Selector, Source
from mmcl.data.store import ShardSet
from mmcl.errors import MmclError
from mmcl.files import sha256_of
from mmcl.media import Picture, Sound
from mmcl.types import Bad, Transform

FORMAT = 1
GUESSED = 8  # shards
ROWS = 256  # that are decoded at once
HELD = 100_000  # values of a modality from which quantiles are taken
EXAMPLES = 10  # of a reason, or of keys that come twice
QUANTILES = (0.0, 0.01, 0.5, 0.99, 1.0)


class Measure(Transform):
    """Decodes a value to its end, and gives its size."""

    quantities: tuple[str, ...] = ()  # what the two numbers are

    def empty(self, rows: int) -> Tensor:
        """Two numbers a row."""
        return torch.zeros(rows, 2, dtype=torch.float64)

    def __call__(self, value: Any, draw: Any, out: Tensor) -> None:
        """Height and width, seconds and rate, letters, or how many numbers."""
        if isinstance(value, Picture):
            value.view()
            self.quantities = ("height in pixels", "width in pixels")
            out[0], out[1] = value.height, value.width
        elif isinstance(value, Sound):
            value.read()
            self.quantities = ("seconds", "frames per second")
            out[0], out[1] = value.seconds, value.rate
        elif isinstance(value, str):
            self.quantities = ("letters",)
            out[0] = len(value)
        else:
            self.quantities = ("numbers",)
            out[0] = value.numel()


@dataclass
class ShardReport:
    """What one shard holds."""

    samples: int = 0
    bad_samples: int = 0
    bad: list[Bad] = field(default_factory=list)
    present: Counter[str] = field(default_factory=Counter)  # by modality
    members: Counter[str] = field(default_factory=Counter)  # by extension
    hashes: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))  # of the keys
    sizes: dict[str, np.ndarray] = field(default_factory=dict)  # two columns a modality, see `Measure`
    quantities: dict[str, tuple[str, ...]] = field(default_factory=dict)  # what they are


def check_shard(source: Source, listed: Listed) -> ShardReport:
    """Read and decode every sample of one shard of a source, as a stream does; hold it to its checksum.

    Raises:
        MmclError: the shard cannot be had, or is no tar.
    """
    shard = ShardSet([listed]).open(0)
    every = source.model_copy(update={"captions": "all"})
    read = [*source.modalities, *source.extras]
    measures = {modality: Measure() for modality in read}
    reader = Reader([every], [0], 0, measures)
    index = shard.index
    report = ShardReport(samples=len(shard), bad=[Bad(shard.url, key, "", why) for key, why in index.problems])
    if listed.sha256 and not is_remote(listed.url) and sha256_of(listed.url) != listed.sha256.lower():
        report.bad.append(Bad(shard.url, "", "", f"its sha256 is not the one in {listed.said_by}"))
    counts = np.bincount(index.extension, minlength=len(index.extensions)).tolist()
    report.members.update(dict(zip(index.extensions, counts, strict=True)))
    sizes: dict[str, list[np.ndarray]] = {modality: [] for modality in read}
    for start in range(0, len(shard), ROWS):
        refs = [Ref(0, shard, sample) for sample in range(start, min(start + ROWS, len(shard)))]
        filled = reader.empty(len(refs))
        reader.fill(refs, filled, 0)
        columns, present, counted = reader.finish(filled)
        report.bad += [bad for row in filled.bad for bad in row]
        report.bad_samples += sum(map(bool, filled.bad))
        for modality, there in present.items():
            report.present[modality] += int(there.sum())
            rows = columns[modality] if modality in counted else columns[modality][there]
            sizes[modality].append(rows.numpy())
    report.quantities = {modality: measure.quantities for modality, measure in measures.items()}
    report.sizes = {modality: np.concatenate(rows) for modality, rows in sizes.items() if rows}
    report.hashes = np.array([_hash(index.key(sample)) for sample in range(len(shard))], np.uint64)
    return report


class Check:
    """The sum of the reports of all shards.

    Args:
        sources: what to check.

    Raises:
        MmclError: shards are missing, or have no index.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources, self.shards = list(sources), list[tuple[Source, Listed]]()
        for source in sources:
            self.shards += [(source, listed) for listed in indexed(find_shards(source.shards))]
        self.samples = self.bad_samples = self.bad_shards = 0
        self.present, self.members = Counter[str](), Counter[str]()
        self.reasons: dict[str, Counter[str]] = {}  # modality (or nothing, for a shard's own) -> reason -> count
        self.examples: dict[str, list[Bad]] = {}
        self.sizes: dict[str, np.ndarray] = {}
        self.quantities: dict[str, tuple[str, ...]] = {}
        self._hashes: list[tuple[Listed, np.ndarray]] = []
        self.seconds = 0.0

    def run(self, processes: int | None = None, note: Callable[[Bad], None] = lambda bad: None) -> None:
        """Check all shards.

        Args:
            processes: one a core unless told.
            note: is told of everything that is bad.
        """
        start = time.perf_counter()
        for (_, listed), report in every_shard(_guarded, self.shards, "checking", processes):
            if report is None:
                report = ShardReport(bad=[Bad(listed.shown, "", "", "reading it kills the process that reads it")])
            elif isinstance(report, str):
                report = ShardReport(bad=[Bad(listed.shown, "", "", report)])
            self._add(listed, report)
            for bad in report.bad:
                note(bad)
        self.seconds = time.perf_counter() - start

    def _add(self, listed: Listed, report: ShardReport) -> None:
        self.samples += report.samples
        self.bad_samples += report.bad_samples
        self.bad_shards += any(not bad.modality for bad in report.bad)
        self.present += report.present
        self.members += report.members
        for bad in report.bad:
            self.reasons.setdefault(bad.modality, Counter())[bad.reason] += 1
            examples = self.examples.setdefault(f"{bad.modality} {bad.reason}", [])
            if len(examples) < EXAMPLES:
                examples.append(bad)
        for modality, rows in report.sizes.items():
            held = np.concatenate([self.sizes.get(modality, rows[:0]), rows])
            self.sizes[modality] = held[:: 1 + len(held) // HELD]  # thinned evenly
            self.quantities[modality] = report.quantities[modality] or self.quantities.get(modality, ())
        self._hashes.append((listed, report.hashes))

    def repeated(self) -> tuple[int, list[str]]:
        """How many samples have a key that another one has, and a few of those keys."""
        if not self._hashes:
            return 0, []
        values, counts = np.unique(np.concatenate([h for _, h in self._hashes]), return_counts=True)
        twice = values[counts > 1]
        examples: list[str] = []
        for listed, hashes in self._hashes:
            for sample in np.flatnonzero(np.isin(hashes, twice[:EXAMPLES])):
                if len(examples) < EXAMPLES:
                    examples.append(f"{ShardSet([listed]).open(0).key(int(sample))} in {listed.shown}")
        return int(counts[counts > 1].sum()), examples

    def merged(self) -> list[str]:
        """Extensions that were part of a name: a key ends at the first dot."""
        said = {said for s in self.sources for said in (*s.modalities.values(), *s.extras.values())}
        read = {extension for where in said for extension in Selector.parse(where, "").extensions}
        known = IMAGES | SOUNDS | TEXTS
        return sorted(e for e in self.members if "." in e and e not in read and e.rpartition(".")[2] in known)

    def report(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        repeated, examples = self.repeated()
        return {
            "format": FORMAT,
            "shards": len(self.shards),
            "samples": self.samples,
            "bad_samples": self.bad_samples,
            "bad_shards": self.bad_shards,
            "modalities": dict(self.present),
            "members": dict(self.members.most_common()),
            "sizes": {m: _quantiles(rows, self.quantities[m]) for m, rows in self.sizes.items() if len(rows)},
            "reasons": {modality or "shard": dict(counts.most_common()) for modality, counts in self.reasons.items()},
            "examples": [bad._asdict() for listed in self.examples.values() for bad in listed],
            "repeated_keys": {"samples": repeated, "examples": examples},
            "extensions_with_dots": self.merged(),
            "seconds": round(self.seconds, 2),
            "samples_per_second": round(self.samples / self.seconds, 1) if self.seconds else 0.0,
        }


def guess(shards: Sequence[str]) -> Source:
    """A source with the modalities that the extensions in the first shards suggest.

    A sample may lack what less than half of those samples have.

    Raises:
        MmclError: they have none that mmcl decodes, or none at all.
    """
    found, members, samples, refused = indexed(find_shards(list(shards))), Counter[str](), 0, None
    opened = ShardSet(found[:GUESSED])
    for number in range(len(opened.listed)):
        try:
            index = opened.open(number).index
        except MmclError as error:  # the check itself will say so, where there are others
            refused = refused or error
            continue
        samples += len(index)
        counts = np.bincount(index.extension, minlength=len(index.extensions)).tolist()
        members.update(dict(zip(index.extensions, counts, strict=True)))
    plain = Counter({extension: count for extension, count in members.items() if "." not in extension})
    kinds = {"image": IMAGES, "audio": SOUNDS, "text": TEXTS}
    fits = {m: [e for e, _ in plain.most_common() if e in known] for m, known in kinds.items()}
    guessed = {modality: ";".join(extensions) for modality, extensions in fits.items() if extensions}
    if not members:
        raise refused or MmclError(f"{found[0].shown}{' and others' if len(found) > 1 else ''}: no samples in there.")
    if not guessed:
        some = ", ".join(extension for extension, _ in members.most_common(20))
        raise MmclError(
            f"{found[0].shown}: its members are {some}; a key ends at the first dot of a name. Say where modalities "
            "lie, as in --modality text=json:caption."
        )
    rare = [modality for modality in guessed if 2 * sum(members[e] for e in fits[modality]) < samples]
    return Source(shards=list(shards), modalities=guessed, optional=rare)


def _guarded(job: tuple[Source, Listed]) -> "ShardReport | str":
    """The report of a shard, or why there is none."""
    try:
        return check_shard(*job)
    except MmclError as error:
        return str(error)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _quantiles(rows: np.ndarray, quantities: Sequence[str]) -> dict[str, dict[str, float]]:
    names = ["least", "1%", "half", "99%", "most"]
    return {
        quantity: dict(zip(names, np.quantile(column, QUANTILES).round(3).tolist(), strict=True))
        for quantity, column in zip(quantities, rows.T, strict=False)  # texts and vectors have one
    }
