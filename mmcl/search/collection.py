"""A whole export, opened to be searched."""

import threading
from collections.abc import Callable, Sequence
from collections.abc import Collection as Several
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmcl.embed import Vectors
from mmcl.embed.read import KEYS
from mmcl.errors import MmclError, did_you_mean
from mmcl.search.filters import Filter, Metadata
from mmcl.search.index import Index, open_index
from mmcl.search.originals import Originals
from mmcl.search.query import Part, Questions, unit


@dataclass(frozen=True)
class Hit:
    """A sample that was found."""

    row: int
    """Of the export, from 0."""
    key: str
    shard: int
    """Its number in the manifest; -1 where nothing says it."""
    score: float
    """Cosine of the angle to the query."""
    caption: str | None
    columns: dict[str, Any]
    """What else the metadata says."""


class Collection:
    """A whole export, opened to be searched; the model, the metadata and the indexes are read when they are needed.

    Many threads may ask one collection at once.

    Attributes:
        vectors: of the export.
    """

    def __init__(
        self,
        vectors: Vectors,
        questions: Questions,
        originals: Originals,
        say: Callable[[str], None] = lambda told: None,
    ) -> None:
        self.vectors = vectors
        self._questions, self._originals, self._say = questions, originals, say
        self._indexes: dict[str, Index] = {}
        self._one = threading.RLock()

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        model: str | Path | None = None,
        weights: str | Path | None = None,
        shards: str | Path | Sequence[str | Path] | None = None,
        device: str | torch.device | None = None,
        say: Callable[[str], None] = lambda told: None,
    ) -> "Collection":
        """Open what `mmcl embed` or clip-retrieval wrote.

        Args:
            folder: of the export.
            model: where the model that made it lies now, if not where the manifest says.
            weights: of a model of a library, if others than the manifest says.
            shards: where they lie now, if not where the manifest says.
            device: where the model computes; a GPU if there is one, unless told.
            say: tells what takes time, such as building an index.

        Raises:
            MmclError: it is no export, or an unfinished one.
        """
        vectors = Vectors(folder)
        manifest = vectors.manifest
        questions = Questions(manifest, vectors.folder, model, weights, device)
        return cls(vectors, questions, Originals(manifest, vectors.folder, shards), say)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that have vectors, and so can be searched."""
        return self.vectors.modalities

    @property
    def query_modalities(self) -> tuple[str, ...]:
        """Those that the model, which this opens, can embed; none where nothing says which model made the export.

        Raises:
            MmclError: the model is not there, or it is another one.
        """
        return self._questions.encoder.modalities if self._questions.known else ()

    def takes(self, modality: str) -> str:
        """What a modality of the model is a query of: `text`, `image`, `audio` or `vector` (an .npy file).

        Raises:
            MmclError: the model is not there, or it has no such modality.
        """
        return self._questions.encoder.takes(modality)

    @property
    def model(self) -> str | None:
        """What made the vectors, as it is opened; None where nothing says it."""
        return self._questions.model

    @property
    def samples(self) -> int:
        """How many there are."""
        return self.vectors.samples

    @cached_property
    def metadata(self) -> Metadata:
        """What is known of the samples; all of it lies in memory."""
        return Metadata(self.vectors.metadata())

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Name -> type of what samples can be filtered by; fields of the JSON column are called `json.NAME`."""
        return self.metadata.columns

    def shard_name(self, shard: int) -> str:
        """File name of a shard; empty where nothing says it."""
        names = self._originals.names
        return names[shard] if 0 <= shard < len(names) else ""

    @property
    def first(self) -> str:
        """The modality that is searched unless told: the model's first that is no text, or else the first."""
        known = [one for one in (self.vectors.manifest or {}).get("modalities") or [] if one in self.modalities]
        known = known or list(self.modalities)
        return next((one for one in known if not one.startswith("text")), known[0])

    def embed(self, parts: Sequence[Part], ready: Sequence[tuple[np.ndarray, float]] = ()) -> np.ndarray:
        """The unit vector of one or several things that are looked for, (dim,) float32: the sum of theirs.

        Args:
            parts: texts and files; where there are none, the model is not opened.
            ready: vectors that are there already, as `like` gives them, and their weights.

        Raises:
            MmclError: the model cannot be opened or is another one, or a part cannot be used: it says which.
        """
        return self._questions.vector(parts, ready)

    def row(self, key: str) -> int:
        """Number of the sample of a key: the first one, and a note, where shards share it.

        Raises:
            MmclError: there is none.
        """
        column = self.metadata.table.column(self.vectors.key_column)
        column = column.cast(pa.large_string())  # other writers have keys of many types
        said = key.encode(errors="replace").decode()  # what was no UTF-8 at the keyboard is in no column
        found = pc.call_function("indices_nonzero", [pc.call_function("equal", [column, said])])
        if not len(found):
            keys = map(str, column.slice(0, 10_000).to_pylist())
            raise MmclError(f"{self.vectors.folder} has no sample {key!r}{did_you_mean(key, keys)}")
        row = found[0].as_py()
        if len(found) > 1:
            self._say(f"note: {len(found)} samples are called {key}; row {row}, the first of them, is taken.")
        return row

    def like(self, row: int, modality: str) -> np.ndarray:
        """The unit vector of a sample of the export, to search for more like it: (dim,) float32.

        Raises:
            MmclError: there is no such row or modality, or the sample lacks the modality.
        """
        vector = unit(self.vectors.rows(modality, [row])[0])
        if not vector.any():
            raise MmclError(f"sample {self._keyed(row)} has no {modality}, and so no vector of it.")
        return vector

    def index(self, modality: str) -> Index:
        """The index of a modality, which is made where it is not there yet.

        Raises:
            MmclError: there is no such modality, or faiss is not installed.
        """
        with self._one:
            if modality not in self._indexes:
                self._indexes[modality] = open_index(self.vectors, modality, self._say)
            return self._indexes[modality]

    def search(
        self,
        vector: np.ndarray,
        *,
        among: str,
        k: int = 10,
        where: Sequence[Filter] = (),
        without: Several[int] = (),
    ) -> list[Hit]:
        """The nearest samples, best first; k of them where there are as many.

        Args:
            vector: (dim,), as `embed` and `like` make it.
            among: the modality whose vectors are searched.
            k: how many are wanted.
            where: conditions that all of them meet.
            without: rows that are left out.

        Raises:
            MmclError: there is no such modality or column, or the vector is none of this space.
        """
        if k < 1:
            raise MmclError(f"k is the number of results, 1 or more; got {k}.")
        vector = np.asarray(vector)
        if vector.shape != (self.vectors.dim,) or not np.isfinite(vector).all() or not vector.any():
            raise MmclError(f"a query is a finite vector of {self.vectors.dim} numbers; got {vector.shape}.")
        index = self.index(among)
        allowed = self.metadata.meeting(where) if where or without else None
        if allowed is not None:
            allowed[list(without)] = False
        scores, rows = index.search(unit(vector), k, allowed)
        return self._hits(rows, scores)

    def spread(self, k: int = 10, where: Sequence[Filter] = ()) -> list[Hit]:
        """Samples from all over the export that meet all conditions, to look around; their score is NaN.

        Raises:
            MmclError: there is no such column, or it cannot be compared with such a value.
        """
        rows = np.flatnonzero(self.metadata.meeting(where))
        rows = rows[np.linspace(0, max(len(rows) - 1, 0), min(k, len(rows))).astype(np.int64)]
        return self._hits(rows, np.full(len(rows), np.nan))

    def media(self, row: int, modality: str) -> tuple[bytes, str]:
        """The picture, sound or text of a sample itself, read from its shard, and its content type.

        Raises:
            MmclError: the shards are gone or have changed, or the sample has no such modality.
        """
        if not 0 <= row < self.samples:
            raise MmclError(f"{self.vectors.folder} has rows 0 to {self.samples - 1}; got {row}.")
        table = self.metadata.table
        shard = _number(table.column("shard")[row].as_py()) if "shard" in table.column_names else -1
        return self._originals.read(shard, self._keyed(row), modality)

    def _keyed(self, row: int) -> str:
        return str(self.metadata.table.column(self.vectors.key_column)[row].as_py())

    def _hits(self, rows: np.ndarray, scores: np.ndarray) -> list[Hit]:
        said = self.metadata.table.take(pa.array(rows, pa.int64())).to_pylist()
        key = self.vectors.key_column
        return [
            Hit(
                row=int(row),
                key=str(one[key]),
                shard=_number(one.get("shard")),
                score=float(score),
                caption=one.get("caption"),
                columns={name: value for name, value in one.items() if name not in (*KEYS, "shard", "caption")},
            )
            for row, score, one in zip(rows, scores, said, strict=True)
        ]


def _number(shard: Any) -> int:
    """Number of a shard; -1 where a column of this name, which others wrote, says something else."""
    return shard if isinstance(shard, int) else -1
