"""eval/tasks/*.yaml: an evaluator, and the data to measure on."""

import base64
import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmcl import bundled, distributed
from mmcl.data import Source, Stream
from mmcl.errors import MmclError
from mmcl.evaluators import RAW, Embedded, Evaluator, EvaluatorPart, Example
from mmcl.model import Encoder
from mmcl.recipe import check, read_yaml
from mmcl.registry import Spec
from mmcl.types import Batch

EXAMPLES = 10
WORKERS = 2


class TaskSpec(Spec):
    """A task as its file says it."""

    title: str
    """What is measured, in a few words."""
    evaluator: EvaluatorPart
    data: Source
    """Shards, where the modalities lie, and other fields of the samples under names of their own (`label`)."""
    key: str | None = None
    """Where the numbers stand in results.json; the task's name unless told."""
    source: str | None = None
    """Paper or page that the task comes from."""
    licence: str | None = None
    """Of the data."""


class Measured(NamedTuple):
    """What a task gives."""

    metrics: dict[str, float]
    examples: list[dict[str, Any]]  # as JSON can hold them, pictures included
    skipped: int  # items that lack what the task needs


class Task:
    """One task, ready to measure any encoder.

    Args:
        name: of the task.
        spec: what its file says.

    Raises:
        MmclError: the shards are missing, or lack what the evaluator needs.
    """

    def __init__(self, name: str, spec: TaskSpec) -> None:
        self.name, self.spec = name, spec
        self.evaluator: Evaluator = spec.evaluator.build()
        needed = [*self.evaluator.modalities(), *self.evaluator.fields()]
        missing = [field for field in needed if field not in spec.data.modalities]
        if missing:
            raise MmclError(f"task {name}: data.modalities does not say where {', '.join(missing)} lies.")
        if spec.data.extras:
            raise MmclError(f"task {name}: data.extras: only training looks at extras; leave them out.")
        try:
            self._stream({}, {})  # missing shards are told before anything is trained or embedded
        except MmclError as error:
            raise MmclError(f"task {name}: {error}") from None

    @property
    def key(self) -> str:
        """Where its numbers stand in results.json."""
        return self.spec.key or self.name

    def measure(self, encoder: Encoder) -> Measured:
        """Metrics and a few examples. Every process embeds its share, and every process has the numbers.

        Raises:
            MmclError: the model lacks a modality, or classes and labels do not match.
        """
        self.check(encoder.modalities)
        data, skipped, stream = self._embed(encoder)
        try:
            metrics = self.evaluator.measure(data, encoder)
            examples = self.evaluator.examples(data, encoder, EXAMPLES)
        except MmclError as error:
            raise MmclError(f"task {self.name}: {error}") from None
        pictures = [m for m in self.evaluator.modalities() if encoder.takes(m) == "image"]
        return Measured(metrics, [_shown(example, stream, pictures) for example in examples], skipped)

    def check(self, modalities: Sequence[str]) -> None:
        """Refuse a model that cannot be measured.

        Raises:
            MmclError: the model lacks a modality.
        """
        for modality in (*self.evaluator.modalities(), *self.evaluator.prompted()):
            if modality not in modalities:
                raise MmclError(f"task {self.name} needs {modality}, but the model has: {', '.join(modalities)}.")

    def _stream(self, more: dict[str, str], transforms: dict[str, Any]) -> Stream:
        return Stream(
            self.spec.data.fixed(**more), batch_size=256, workers=WORKERS, shuffle=False, transforms=transforms
        )

    def _embed(self, encoder: Encoder) -> tuple[Embedded, int, Stream]:
        """All items that have every modality and field; every process gets all of them."""
        modalities, source = self.evaluator.modalities(), self.spec.data
        more = {f"{RAW}{m}": source.modalities[m] for m in modalities if encoder.takes(m) == "text"}
        stream = self._stream(more, {m: encoder.transforms[m] for m in modalities})
        mine = [_piece(batch, modalities, encoder) for batch in stream]
        # each batch was dealt out over the processes, in the order of the ranks
        pieces = [piece for batch in zip(*distributed.collect(mine), strict=True) for piece in batch]
        keys = [key for piece in pieces for key in piece.keys]
        if not keys:
            raise MmclError(
                f"task {self.name}: no sample of {source.shards} has all of {', '.join(source.modalities)}."
            )
        names = pieces[0].fields
        data = Embedded(
            vectors={m: torch.cat([piece.vectors[m] for piece in pieces if piece.keys]) for m in modalities},
            fields={name: [value for piece in pieces for value in piece.fields[name]] for name in names},
            keys=keys,
            ids=[number for piece in pieces for number in piece.ids],
        )
        return data, stream.samples - len(keys), stream


class _Piece(NamedTuple):
    """One process's rows of one batch, embedded."""

    vectors: dict[str, Tensor]
    fields: dict[str, list[str]]
    keys: list[str]
    ids: list[int]


def _piece(batch: Batch, modalities: Sequence[str], encoder: Encoder) -> _Piece:
    whole = torch.stack(list(batch.present.values())).all(0)
    keep = whole.nonzero()[:, 0].tolist()
    vectors = {m: encoder.embed_rows(m, batch[m][whole]).cpu() for m in modalities} if keep else {}
    fields = {name: [column[i] for i in keep] for name, column in batch.columns.items() if isinstance(column, list)}
    return _Piece(vectors, fields, [batch.keys[i] for i in keep], batch.ids[whole].tolist())


def load_task(name: str) -> Task:
    """A task that ships with mmcl, or one from a file of the user's own.

    Args:
        name: as `mmcl tasks` lists it, or a path to a YAML file.

    Raises:
        MmclError: there is no such task, something in it is wrong, or its shards are missing.
    """
    path = bundled.find("task", name, bundled.shelf("eval") / "tasks", ".yaml", "mmcl tasks")
    return Task(name, check(TaskSpec, read_yaml(path), str(path)))


def _shown(example: Example, stream: Stream, pictures: Sequence[str]) -> dict[str, Any]:
    """An example with the pictures of its items, as data URLs."""
    row: dict[str, Any] = {**asdict(example), "pictures": {}}
    keys = [*(example.found if example.kind == "items" else []), *([example.query] if example.kind == "labels" else [])]
    if pictures:
        with contextlib.suppress(MmclError):  # several shards have the key: no picture rather than a wrong one
            row["pictures"] = {key: _data_url(*stream.raw(key, pictures[0])) for key in keys}
    return row


def _data_url(extension: str, data: bytes) -> str:
    kind = {"jpg": "jpeg", "tif": "tiff"}.get(extension, extension)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
