"""Samples to the rows of a batch."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl.data.order import digest
from mmcl.data.pool import Ref
from mmcl.data.remote import is_remote
from mmcl.data.shards import is_pipe
from mmcl.data.source import Choice, Selector, Source, chosen, plain
from mmcl.data.store import Shard, ShardSet
from mmcl.errors import AbsentError, BadSampleError, MmclError
from mmcl.types import Bad, Draw, Transform, sample_id

TOGETHER = 16  # samples that a thread has read at a time
_thread = threading.local()


class Filled:
    """The rows of one batch, as threads fill them in.

    Args:
        rows: how many.
        columns: by modality, with room for them: a tensor where a transform made it, a list otherwise.
    """

    def __init__(self, rows: int, columns: dict[str, Any]) -> None:
        self.columns = columns
        self.present = {modality: np.zeros(rows, bool) for modality in columns}
        self.keys, self.ids = [""] * rows, [0] * rows
        self.bad: list[list[Bad]] = [[] for _ in range(rows)]


class Reader:
    """Reads, decodes and transforms the samples of a stream's shards.

    Args:
        sources: of the shards.
        of_shard: number of the source of each shard.
        seed: of the draws.
        transforms: by modality.

    Raises:
        MmclError: a source does not say where a modality lies in words that mean something.
    """

    def __init__(
        self, sources: Sequence[Source], of_shard: Sequence[int], seed: int, transforms: Mapping[str, Transform]
    ) -> None:
        self.sources, self.of_shard, self.seed, self.transforms = list(sources), of_shard, seed, dict(transforms)
        self.selectors = [
            {m: Selector.parse(said, f"data: {m}") for m, said in source.modalities.items()} for source in sources
        ]
        self.identities = [
            None if s.identity is None else Selector.parse(s.identity, "data: identity") for s in sources
        ]
        self.modalities = list(dict.fromkeys(m for source in sources for m in source.modalities))
        # the rows of a sample's texts are counted where all of them are asked for
        every = [x for s, x in zip(sources, self.selectors, strict=True) if s.captions == "all"]
        self.ragged = {m for selectors in every for m, selector in selectors.items() if selector.is_text}
        self._where: dict[str, tuple[int, int] | None] | None = None

    def empty(self, rows: int) -> Filled:
        """Room for some rows."""
        columns = {
            m: self.transforms[m].empty(rows) if m in self.transforms and m not in self.ragged else [None] * rows
            for m in self.modalities
        }
        return Filled(rows, columns)

    def fill(self, refs: Sequence[Ref | None], filled: Filled, start: int) -> None:
        """Fill the rows from ``start`` on."""
        rows = [(row, ref) for row, ref in enumerate(refs, start) if ref is not None]
        for i in range(0, len(rows), TOGETHER):
            some = [(row, ref, self._read(ref, filled, row)) for row, ref in rows[i : i + TOGETHER]]
            for modality in self.modalities:  # one after the other, since code that has just run runs faster
                for row, ref, read in some:
                    if modality in read:
                        self._fill(ref, modality, *read[modality], filled, row)

    def finish(self, filled: Filled) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """Columns, presence and counts of a batch whose rows are all filled."""
        present = {m: torch.from_numpy(there) for m, there in filled.present.items()}
        columns, counts = dict(filled.columns), {}
        for m, transform in self.transforms.items():
            if m not in columns:
                continue
            if m in self.ragged:
                rows = [piece for piece in columns[m] if piece is not None]
                counts[m] = torch.tensor([0 if piece is None else len(piece) for piece in columns[m]])
                columns[m] = torch.cat(rows) if rows else transform.empty(0)
            everything = torch.ones(len(columns[m]), dtype=torch.bool) if m in self.ragged else present[m]
            columns[m] = transform.finish(columns[m], everything)
        return columns, present, counts

    def check(self, shards: ShardSet) -> None:
        """See that every source's modalities are there, as far as its shards can be opened for nothing.

        Raises:
            MmclError: no sample of a source has a modality, or there are no samples.
        """
        for number, source in enumerate(self.sources):
            mine = [n for n, of in enumerate(self.of_shard) if of == number]
            urls = [shards.listed[n].url for n in mine]
            if not any(is_remote(url) or is_pipe(url) for url in urls):
                self._check_source(source, self.selectors[number], (shards.open(n) for n in mine))

    def raw(self, shards: ShardSet, key: str, modality: str) -> tuple[str, bytes]:
        """(extension, bytes) of a modality of one sample, undecoded.

        Raises:
            MmclError: no shard, or more than one, has the key.
        """
        if self._where is None:
            self._where = {}
            for number in range(len(shards.listed)):
                for sample, found in enumerate(shards.open(number).index.keys):
                    self._where[found] = None if found in self._where else (number, sample)
        place = self._where.get(key)
        if place is None:
            several = "several shards have" if key in self._where else "no shard has"
            raise MmclError(f"data: {several} a sample {key!r}.")
        shard, sample = shards.open(place[0]), place[1]
        members = shard.members(sample)
        choice = self.selectors[self.of_shard[shard.number]][modality].find(members)
        assert choice is not None, f"{key} has no {modality}"
        return choice.kind, shard.read([members[choice.extension]])[0]

    def _read(self, ref: Ref, filled: Filled, row: int) -> dict[str, tuple[Choice | None, bytes]]:
        """Bytes of each modality of a sample, where it has them."""
        shard, number = ref.shard, self.of_shard[ref.shard.number]
        key, members = shard.key(ref.sample), shard.members(ref.sample)
        choices = {m: selector.find(members) for m, selector in self.selectors[number].items()}
        identity = self.identities[number]
        who = identity.find(members) if identity else None
        wanted = list({c.extension: None for c in (*choices.values(), who) if c is not None})
        data = dict(zip(wanted, shard.read([members[e] for e in wanted]), strict=True))
        filled.keys[row] = key
        filled.ids[row] = sample_id(_identity(who, data) or f"{shard.number}/{key}")
        return {m: (choice, b"" if choice is None else data[choice.extension]) for m, choice in choices.items()}

    def _fill(self, ref: Ref, modality: str, choice: Choice | None, data: bytes, filled: Filled, row: int) -> None:
        number, key = ref.shard.number, filled.keys[row]
        source = self.sources[self.of_shard[number]]
        try:
            if choice is None:
                raise AbsentError(f"no {' or '.join(self.selectors[self.of_shard[number]][modality].extensions)}")
            draw = partial(_generator, self.seed, ref.epoch, number, key, modality)
            self._put(choice.decode(data), modality, draw, filled, row, source.captions)
            filled.present[modality][row] = True
        except BadSampleError as error:
            if not isinstance(error, AbsentError) or modality not in source.optional:
                filled.bad[row].append(Bad(ref.shard.url, key, modality, str(error)))

    def _put(self, value: Any, modality: str, draw: Draw, filled: Filled, row: int, policy: str) -> None:
        column, transform = filled.columns[modality], self.transforms.get(modality)
        if isinstance(value, list):
            value = chosen(value, policy, draw)
        if transform is None:
            column[row] = plain(value)
        elif modality in self.ragged:
            texts = value if isinstance(value, list) else [value]
            made = transform.empty(len(texts))
            for place, text in enumerate(texts):
                transform(text, draw, made[place])
            column[row] = made  # when all of them could be used
        else:
            transform(value, draw, column[row])

    def _check_source(self, source: Source, selectors: dict[str, Selector], shards: Iterable[Shard]) -> None:
        missing, members, samples = set(selectors) - set(source.optional), set(), 0
        for shard in shards:
            samples += len(shard)
            members.update(shard.index.extensions)
            missing = {m for m in missing if not members.intersection(selectors[m].extensions)}
            if samples and not missing:
                return
        if not samples:
            raise MmclError(f"data: the shards of {source.shards} hold no samples.")
        m = sorted(missing)[0]
        shown = ", ".join(sorted(members)[:20]) + (", ..." if len(members) > 20 else "")
        raise MmclError(
            f"data: no sample of {source.shards} has {m} ({source.modalities[m]}); their members are: {shown}. "
            f"Correct `modalities`, or leave {m} out."
        )


def _identity(choice: Choice | None, data: Mapping[str, bytes]) -> str | None:
    """What a sample says it shows; one that does not say is only itself."""
    if choice is None:
        return None
    try:
        value = choice.decode(data[choice.extension])
    except BadSampleError:
        return None
    return value[0] if isinstance(value, list) else None


def _generator(*what: int | str) -> np.random.Generator:
    """This thread's generator, set to where `draws` begins: a new one would first ask the system for entropy."""
    generator = getattr(_thread, "generator", None)
    if generator is None:
        generator = _thread.generator = np.random.Generator(np.random.Philox(key=0))
        _thread.start = generator.bit_generator.state
    _thread.start["state"]["key"][:] = np.frombuffer(digest(*what), "<u8")
    generator.bit_generator.state = _thread.start
    return generator
