"""Samples to the rows of a batch."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl.data.extras import Numbers, extra_selector, in_words, numbers, shape_of
from mmcl.data.order import digest
from mmcl.data.pool import Ref
from mmcl.data.remote import is_remote
from mmcl.data.shards import is_pipe
from mmcl.data.source import Choice, Selector, Source, carried, chosen, columns, plain
from mmcl.data.store import Shard, ShardSet
from mmcl.errors import AbsentError, BadSampleError, MmclError
from mmcl.types import Bad, Draw, Transform, sample_id

TOGETHER = 16  # samples that a thread has read at a time
_thread = threading.local()


class Filled:
    """The rows of one batch, as threads fill them in.

    Args:
        rows: how many.
        columns: by name, with room for them: a tensor where a transform made it, a list otherwise.
        blocks: what those tensors are parts of: one of each transform.
    """

    def __init__(self, rows: int, columns: dict[str, Any], blocks: list[Tensor]) -> None:
        self.columns, self.blocks = columns, blocks
        self.present = {modality: np.zeros(rows, bool) for modality in columns}
        self.keys, self.ids = [""] * rows, [0] * rows
        self.bad: list[list[Bad]] = [[] for _ in range(rows)]


class Reader:
    """Reads, decodes and transforms the samples of a stream's shards.

    Args:
        sources: of the shards.
        of_shard: number of the source of each shard.
        seed: of the draws.
        transforms: by modality, or extra.
        copies: how many each modality has. Those of a text are captions of its sample: where there are fewer, the last
            copies are absent; where there are more, some are drawn. None gives a row for every caption instead, where a
            source asks for all.
        own_ids: sets samples that do not say what they show apart from those of other streams.

    Raises:
        MmclError: a source does not say where a modality lies in words that mean something.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        of_shard: Sequence[int],
        seed: int,
        transforms: Mapping[str, Transform],
        copies: Mapping[str, int] | None = None,
        own_ids: str = "",
    ) -> None:
        self.own_ids = own_ids
        self.sources, self.of_shard, self.seed, self.transforms = list(sources), of_shard, seed, dict(transforms)
        self.selectors = [
            {m: Selector.parse(said, f"data: {m}") for m, said in source.modalities.items()}
            | {name: extra_selector(said, f"data: extras: {name}") for name, said in source.extras.items()}
            for source in sources
        ]
        self.identities = [
            None if s.identity is None else Selector.parse(s.identity, "data: identity") for s in sources
        ]
        named = columns(sources, copies or {})
        self.modalities = list(named)
        self.extras = list(dict.fromkeys(name for source in sources for name in source.extras))
        self.names = named | {name: [name] for name in self.extras}
        self.carried = [carried(source, named) for source in self.sources]
        # the rows of a sample's texts are counted where all of them are asked for
        every = [x for s, x in zip(sources, self.selectors, strict=True) if s.captions == "all" and copies is None]
        texts = {m for selectors in every for m, selector in selectors.items() if selector.is_text}
        self.ragged = texts - set(self.extras)
        self._where: dict[str, tuple[int, int] | None] | None = None

    def _together(self) -> list[tuple[Transform, list[str]]]:
        """Each transform, and the columns that it fills: what goes through one tower becomes rows of one form."""
        together: dict[int, tuple[Transform, list[str]]] = {}
        for modality, transform in self.transforms.items():
            if modality in self.names and modality not in self.ragged:
                together.setdefault(id(transform), (transform, []))[1].extend(self.names[modality])
        return list(together.values())

    def empty(self, rows: int) -> Filled:
        """Room for some rows."""
        places: dict[str, Any] = {name: [None] * rows for names in self.names.values() for name in names}
        blocks = []
        for transform, names in self._together():
            blocks.append(transform.empty(rows * len(names)))
            places |= _parts(blocks[-1], names)
        return Filled(rows, places, blocks)

    def fill(self, refs: Sequence[Ref | None], filled: Filled, start: int) -> None:
        """Fill the rows from ``start`` on."""
        rows = [(row, ref) for row, ref in enumerate(refs, start) if ref is not None]
        for i in range(0, len(rows), TOGETHER):
            some = [(row, ref, self._read(ref, filled, row)) for row, ref in rows[i : i + TOGETHER]]
            for modality in self.names:  # one after the other, since code that has just run runs faster
                for row, ref, read in some:
                    if modality in read:
                        self._fill(ref, modality, *read[modality], filled, row)

    def finish(self, filled: Filled) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """Columns, presence and counts of a batch whose rows are all filled."""
        present = {m: torch.from_numpy(there) for m, there in filled.present.items()}
        made, counts = dict(filled.columns), {}
        for m in self.ragged & set(self.transforms):
            transform = self.transforms[m]
            rows = [piece for piece in made[m] if piece is not None]
            counts[m] = torch.tensor([0 if piece is None else len(piece) for piece in made[m]])
            every = torch.cat(rows) if rows else transform.empty(0)
            made[m] = transform.finish(every, torch.ones(len(every), dtype=torch.bool))
        for (transform, names), block in zip(self._together(), filled.blocks, strict=True):
            made |= _parts(transform.finish(block, torch.cat([present[name] for name in names])), names)
        return made, present, counts

    def check(self, shards: ShardSet) -> None:
        """See that every source's modalities are there, as far as its shards can be opened for nothing.

        Raises:
            MmclError: no sample of a source has a modality, or there are no samples.
        """
        for number, source in enumerate(self.sources):
            mine = self._shards_of(number)
            urls = [shards.listed[n].url for n in mine]
            if not any(is_remote(url) or is_pipe(url) for url in urls):
                wanted = {m: self.selectors[number][m] for m in source.modalities}
                self._check_source(source, wanted, (shards.open(n) for n in mine))

    def measure(self, shards: ShardSet) -> None:
        """Find out how many numbers each extra has, and make room for them from now on.

        Raises:
            MmclError: a source has no such extra, or sources have different ones of one name.
        """
        said: dict[str, tuple[Source, tuple[int, ...]]] = {}
        for number, source in enumerate(self.sources):
            mine = self._shards_of(number)
            if source.extras and any(is_pipe(shards.listed[n].url) for n in mine):
                raise MmclError(
                    f"data: {source.shards}: extras of a pipe are not known before it is read. Write it to .tar files."
                )
            for name in source.extras:
                opened = (shards.open(n) for n in mine)
                shape = shape_of(name, self.selectors[number][name], opened, str(source.shards))
                other, before = said.setdefault(name, (source, shape))
                if shape != before:
                    raise MmclError(
                        f"data: extras: {name} is {in_words(before)} in {other.shards}, and {in_words(shape)} in "
                        f"{source.shards}. Give them different names."
                    )
        self.transforms |= {name: Numbers(shape) for name, (_, shape) in said.items()}

    def _shards_of(self, source: int) -> list[int]:
        return [number for number, of in enumerate(self.of_shard) if of == source]

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
        filled.ids[row] = sample_id(_identity(who, data) or f"{self.own_ids}{shard.number}/{key}")
        return {m: (choice, b"" if choice is None else data[choice.extension]) for m, choice in choices.items()}

    def _fill(self, ref: Ref, modality: str, choice: Choice | None, data: bytes, filled: Filled, row: int) -> None:
        number, key = ref.shard.number, filled.keys[row]
        source = self.sources[self.of_shard[number]]
        known = modality in source.extras
        try:
            if choice is None:
                raise AbsentError(f"no {' or '.join(self.selectors[self.of_shard[number]][modality].extensions)}")
            value = numbers(choice, data) if known else choice.decode(data)
            draw = partial(_generator, self.seed, ref.epoch, number, key)
            if modality in self.ragged:
                self._put_all(value, modality, partial(draw, modality), filled, row, source.captions)
            else:
                self._put(value, modality, draw, filled, row, source.captions)
        except BadSampleError as error:
            if not isinstance(error, AbsentError) or not (known or modality in source.optional):
                filled.bad[row].append(Bad(ref.shard.url, key, modality, str(error)))

    def _put(self, value: Any, modality: str, draw: "partial[Any]", filled: Filled, row: int, policy: str) -> None:
        """A value into all copies of a modality, each drawn for itself; of a text's there may be too few."""
        names, transform = self.names[modality], self.transforms.get(modality)
        values = [value] * len(names)
        if isinstance(value, list):
            values = chosen(value, policy, partial(draw, modality), len(names))
        for name, one in zip(names, values, strict=False):
            if transform is None:
                filled.columns[name][row] = plain(one)
            else:
                transform(one, partial(draw, name), filled.columns[name][row])
            filled.present[name][row] = True

    def _put_all(self, value: Any, modality: str, draw: Draw, filled: Filled, row: int, policy: str) -> None:
        """All texts of a sample, when all of them could be used."""
        transform = self.transforms.get(modality)
        texts = value if isinstance(value, list) else [value]
        texts = texts if policy == "all" else chosen(texts, policy, draw)
        if transform is None:
            filled.columns[modality][row] = plain(texts if policy == "all" else texts[0])
        else:
            made = transform.empty(len(texts))
            for place, text in enumerate(texts):
                transform(text, draw, made[place])
            filled.columns[modality][row] = made
        filled.present[modality][row] = True

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


def _parts(block: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """A block of rows as columns of equal length."""
    rows = len(block) // len(names)
    return {name: block[place * rows : (place + 1) * rows] for place, name in enumerate(names)}


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
