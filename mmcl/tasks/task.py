"""One task: an evaluator, and the data to measure on."""

import base64
import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mmcl.data import Source, Stream
from mmcl.data.remote import is_remote
from mmcl.data.shards import expand
from mmcl.data.source import IMAGES, Selector
from mmcl.errors import MissingDataError, MmclError
from mmcl.evaluators import Confusion, Embedded, Evaluator, Example, Findings, Items, intervals
from mmcl.evaluators.figures import values
from mmcl.layouts import packed
from mmcl.model import Encoder
from mmcl.tasks.columns import Column
from mmcl.tasks.items import read_items
from mmcl.tasks.ready import ReadyVectors
from mmcl.tasks.result import Result, described, rounded
from mmcl.tasks.spec import TaskData, TaskSpec, find_spec, read_prompts
from mmcl.tasks.store import VectorStore
from mmcl.tasks.vectors import Prompts, Vectors
from mmcl.types import Bad, modality_of

KEPT = 20  # of the samples that could not be used, in a result


class Measured(NamedTuple):
    """What a task gives."""

    result: Result
    examples: list[dict[str, Any]]  # as JSON can hold them, pictures included
    confusion: Confusion | None
    data: Embedded


class Split(NamedTuple):
    """The data of a task, or those that its evaluator learns from."""

    where: str
    source: Source
    modalities: list[str]


class Task:
    """One task, ready to measure any encoder.

    Args:
        name: of the task.
        spec: what its file says.
        path: of the file.

    Raises:
        MmclError: the shards are missing, or lack what the evaluator needs.
    """

    def __init__(self, name: str, spec: TaskSpec, path: Path) -> None:
        self.name, self.spec = name, spec
        with self._told():
            self._check_root()
            context = {"read": lambda file: read_prompts(file, spec.root, path)}
            self.evaluator: Evaluator = spec.evaluator.build(
                **{key: value for key, value in context.items() if key in spec.evaluator.wants}
            )
            self.headline = spec.headline or self.evaluator.headline
            if self.headline not in self.evaluator.metrics():
                raise MmclError(f"headline: there is no {self.headline}; known: {', '.join(self.evaluator.metrics())}.")
            if bool(self.evaluator.trained_on()) != (spec.train is not None):
                more = "learns: say its `train` data" if spec.train is None else "learns nothing: leave `train` out"
                raise MmclError(f"evaluator {spec.evaluator.name} {more}.")
            self.test = self._split("data", spec.data, self.evaluator.modalities())
            self.train = None
            if spec.train is not None:
                self.train = self._split("train", spec.train, self.evaluator.trained_on())
                if both := sorted({*_urls(self.train.source)} & {*_urls(self.test.source)}):
                    raise MmclError(
                        f"train: {both[0]} is a shard of the data that are measured, too; learn from others."
                    )

    @property
    def key(self) -> str:
        """Where its numbers stand in results.json."""
        return self.spec.key or self.name

    @cached_property
    def items(self) -> tuple[Items, Items | None]:
        """Texts and labels, of `data` and of `train`: read once, and what is wrong with them is told.

        Raises:
            MmclError: samples lack something, or labels and classes do not match.
        """
        with self._told():
            items = self._read(self.test)
            train = None if self.train is None else self._read(self.train)
            self.evaluator.check(self._with_labels(items), train and self._with_labels(train))
        return items, train

    def _read(self, split: Split) -> Items:
        return read_items(split.source, self.evaluator.fields(), split.modalities, split.where)

    def _with_labels(self, items: Items) -> Items:
        return items.take(self._labelled(items).nonzero()[:, 0])

    def _labelled(self, items: Items) -> torch.Tensor:
        """Which items have all fields; only what is optional can be missing by now."""
        if self.evaluator.partial:
            return torch.ones(len(items), dtype=torch.bool)
        fields = [items.texts[name] for name in self.evaluator.fields() if name in items.texts]
        return torch.tensor([all(texts[row] for texts in fields) for row in range(len(items))], dtype=torch.bool)

    def check(self, modalities: Sequence[str], ready: Sequence[str] = ()) -> None:
        """Refuse a model that cannot be measured.

        Args:
            modalities: that the model has.
            ready: modalities whose vectors are there already.

        Raises:
            MmclError: the model lacks a modality.
        """
        embedded = [*self.evaluator.modalities(), *self.evaluator.trained_on(), *self.evaluator.views()]
        needed = [*(m for m in embedded if m not in ready), *self.evaluator.prompted()]
        for modality in map(modality_of, needed):
            if modality not in modalities:
                has = f"the model has: {', '.join(modalities)}" if modalities else "there is no model"
                raise MmclError(f"task {self.name} needs {modality}, but {has}.")

    def measure(
        self,
        encoder: Encoder | None,
        store: VectorStore | None = None,
        with_intervals: bool = False,
        ready: ReadyVectors | None = None,
    ) -> Measured:
        """Metrics and a few examples. Every process embeds its share, and every process has the numbers.

        Args:
            encoder: what is measured; it may be missing where nothing is embedded.
            store: keeps vectors from one task to the next.
            with_intervals: whether bootstrap intervals are wanted.
            ready: vectors that are taken instead of the model's.

        Raises:
            MmclError: the model lacks a modality, or the data cannot be measured.
        """
        self.check(encoder.modalities if encoder else (), ready.modalities if ready else ())
        items, train = self.items
        made_by = Vectors(encoder, store, ready)
        with self._told():
            data, bad = self._embed(made_by, self.test, items)
            if self.train is not None and train is not None:
                data = dataclasses.replace(data, train=self._embed(made_by, self.train, train)[0])
            found = self.evaluator.measure(data, Prompts(encoder, store))
        return Measured(
            self._result(found, data, bad, len(items), made_by, with_intervals),
            self._shown(found.examples),
            found.confusion,
            data,
        )

    def _check_root(self) -> None:
        root = self.spec.root
        if root is not None and not is_remote(f"{root}/") and not Path(root).expanduser().exists():
            get = f" Get it: {self.spec.get}" if self.spec.get else ""
            raise MissingDataError(f"{root} is not there (looked for from {Path.cwd()}).{get}")

    def _split(self, where: str, said: TaskData, modalities: Sequence[str]) -> Split:
        """Data that are there, and say where everything lies."""
        needed = [*modalities, *self.evaluator.fields()]
        if missing := [field for field in needed if field not in said.modalities]:
            raise MmclError(f"{where}.modalities does not say where {', '.join(missing)} lies.")
        if said.extras:
            raise MmclError(f"{where}.extras: only training looks at extras; leave them out.")
        if said.layout is not None:
            said = said.model_copy(update={"layout": None, "shards": str(packed(said.layout, self.spec.root))})
        source = Source(**{key: value for key, value in said.model_dump().items() if key != "layout"})
        Stream(source.fixed(), batch_size=1, shuffle=False)  # missing shards are told before anything is embedded
        return Split(f"task {self.name}: {where}", source, list(modalities))

    def _embed(self, made_by: Vectors, split: Split, items: Items) -> tuple[Embedded, list[Bad]]:
        """Items that have every modality, with their vectors."""
        views = self.evaluator.views() if split is self.test else {}
        columns = made_by.columns(split.source, items, split.modalities, views)
        bad = [one for column in columns.values() for one in column.bad]
        whole = self._labelled(items)
        if not self.evaluator.partial:
            there = [torch.bincount(column.owner, minlength=len(items)) > 0 for column in columns.values()]
            whole &= torch.stack(there).all(0)
        if not whole.any():
            raise MmclError(f"no sample of {split.source.shards} has all of {', '.join(columns)}.")
        return _of(items, columns, whole.nonzero()[:, 0]), bad

    def _result(
        self, found: Findings, data: Embedded, bad: Sequence[Bad], samples: int, made_by: Vectors, wanted: bool
    ) -> Result:
        numbers = rounded(values(found.figures))
        about = {
            "task": self.name,
            "title": self.spec.title,
            "version": self.spec.version,
            "language": self.spec.language,
            "headline": self.headline,
            "evaluator": self.spec.evaluator.name,
            "score": self.evaluator.score,
            **described(made_by.encoder, made_by.ready),
            "counts": {name: figure.n for name, figure in found.figures.items()},
            "details": rounded(found.details),
        }
        if wanted:
            about["intervals"] = rounded(intervals(found.figures))
        skipped = samples - len(data.items)
        if skipped:
            about["skipped"] = {"samples": skipped, "bad": [one._asdict() for one in bad[:KEPT]]}
        numbers["n"] = len(data.items)
        return Result(numbers | ({"skipped": skipped} if skipped else {}), about)

    def _shown(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """Examples with the pictures of their items, as data URLs."""
        pictures = {m for m in self.test.modalities if self._is_pictures(m)}
        stream = Stream(self.test.source.fixed(), batch_size=1, shuffle=False) if pictures and examples else None
        return [_shown(example, stream, pictures) for example in examples]

    def _is_pictures(self, modality: str) -> bool:
        choices = Selector.parse(self.test.source.modalities[modality], modality).choices
        return all(choice.kind in IMAGES for choice in choices)

    @contextlib.contextmanager
    def _told(self) -> Any:
        """Say of which task an error is."""
        try:
            yield
        except MmclError as error:
            said = str(error)
            kind = MissingDataError if isinstance(error, MissingDataError) else MmclError
            raise kind(said if said.startswith(f"task {self.name}: ") else f"task {self.name}: {said}") from None


def _urls(source: Source) -> list[str]:
    return [os.path.realpath(url) if os.path.exists(url) else url for url in expand(source.shards)]


def _of(items: Items, columns: Mapping[str, Column], kept: torch.Tensor) -> Embedded:
    """Some of the items, with their vectors."""
    if len(kept) == len(items):
        return Embedded(items, {m: c.vectors for m, c in columns.items()}, {m: c.owner for m, c in columns.items()})
    number = torch.full((len(items),), -1)
    number[kept] = torch.arange(len(kept))
    own = {m: number[column.owner] for m, column in columns.items()}
    return Embedded(
        items.take(kept),
        {m: column.vectors[own[m] >= 0] for m, column in columns.items()},
        {m: owner[owner >= 0] for m, owner in own.items()},
    )


def load_task(name: str, data: str | None = None) -> Task:
    """A task that ships with mmcl, or one from a file of the user's own.

    Args:
        name: as `mmcl tasks` lists it, or a path to a YAML file.
        data: the folder that shards of tasks lie in; ``data`` unless told.

    Raises:
        MmclError: there is no such task, something in it is wrong, or its shards are missing.
    """
    return Task(name, *find_spec(name, data))


def _shown(example: Example, stream: Stream | None, pictures: set[str]) -> dict[str, Any]:
    row: dict[str, Any] = {**dataclasses.asdict(example), "pictures": {}}
    shown = {}
    if example.gallery in pictures:
        shown |= dict.fromkeys([*example.found, *example.correct], example.gallery)
    if example.modality in pictures:
        shown[example.query] = example.modality
    if stream is not None:
        for key, modality in shown.items():
            with contextlib.suppress(MmclError):  # several shards have the key: no picture rather than a wrong one
                row["pictures"][key] = _data_url(*stream.raw(key, modality))
    return row


def _data_url(extension: str, data: bytes) -> str:
    kind = {"jpg": "jpeg", "tif": "tiff"}.get(extension, extension)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
