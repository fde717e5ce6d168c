"""Vectors that lie in files: what `mmcl embed` writes, in both layouts, and what clip-retrieval writes."""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmcl.errors import MmclError

MODALITIES = {"img": "image"}  # clip-retrieval abbreviates this one
KEYS = ("key", "image_path")  # of a sample, in the metadata: ours, and clip-retrieval's for shards
EMBEDDING = "_embedding"  # ends the names of columns of vectors
WORK = ".work"  # a folder that is there while an export is being made


class _Part(NamedTuple):
    """Some rows of one modality, in one file."""

    path: Path
    column: str | None  # of a parquet file; None of an .npy file
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """The rows: mapped into memory from an .npy file; of absent samples zero."""
        return _mapped(self.path) if self.column is None else _listed(self.path, self.column, self.shape)


class Vectors:
    """The vectors of an export by modality, and what is known of their samples, row by row.

    Nothing but headers is read before it is asked for, so that an export may be larger than the memory.

    Args:
        folder: of ``NAME_emb/*.npy`` beside ``metadata/*.parquet``, or of ``embeddings/*.parquet``.

    Raises:
        MmclError: it is no such folder, it is not finished, or its parts do not fit each other.

    Attributes:
        folder: that they lie in.
        samples: how many rows there are.
        dim: width of a row.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.manifest is None and (self.folder / WORK).exists():
            raise MmclError(f"{self.folder} is not finished; make the same `mmcl embed` again, which goes on there.")
        arrays = {path.name.removesuffix("_emb"): path for path in sorted(self.folder.glob("*_emb")) if path.is_dir()}
        self._tables = _files(self.folder / ("metadata" if arrays else "embeddings"), ".parquet")
        counts = [_rows_of(path) for path in self._tables]
        self.samples = sum(counts)
        if arrays:
            self._parts = {MODALITIES.get(name, name): _of_arrays(path) for name, path in arrays.items()}
        else:
            self._parts = _of_tables(self._tables, counts)
        if not self._tables or not self._parts:
            raise MmclError(
                f"{self.folder} holds no embeddings: NAME_emb/*.npy beside metadata/*.parquet are needed, or "
                f"embeddings/*.parquet with columns NAME{EMBEDDING}."
            )
        self.dim = self._checked()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that have vectors."""
        return tuple(self._parts)

    @cached_property
    def manifest(self) -> dict[str, Any] | None:
        """What made the vectors, where an export of ours says it."""
        try:
            said = json.loads((self.folder / "manifest.json").read_text())
        except OSError:
            return None
        except ValueError:
            raise MmclError(f"{self.folder}/manifest.json is damaged: it is no JSON. Restore it.") from None
        return said if isinstance(said, dict) else None

    def parts(self, modality: str) -> Iterator[np.ndarray]:
        """The rows of a modality, one part after another: (rows, dim) float16 or float32; zero where one is absent.

        Raises:
            MmclError: there is no such modality.
        """
        return (part.read() for part in self._of(modality))

    def numbers(self, modality: str) -> list[str]:
        """Of the parts of a modality, as the names of their files say them.

        Raises:
            MmclError: there is no such modality.
        """
        return [_digits(part.path) for part in self._of(modality)]

    def rows(self, modality: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Some rows of a modality, (len(rows), dim) float32.

        Args:
            modality: one of `modalities`.
            rows: their numbers, in any order.

        Raises:
            MmclError: there is no such modality, or no such row.
        """
        parts, wanted = self._of(modality), np.asarray(rows)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.samples:  # before they need 64 bits
            raise MmclError(f"{self.folder} has rows 0 to {self.samples - 1}; got {wanted.min()} to {wanted.max()}.")
        wanted = wanted.astype(np.int64)
        found = np.empty((len(wanted), self.dim), np.float32)
        ends = np.cumsum([part.shape[0] for part in parts])
        of = np.searchsorted(ends, wanted, side="right")
        for number in np.unique(of):
            here = of == number
            found[here] = parts[number].read()[wanted[here] - (ends[number] - parts[number].shape[0])]
        return found

    def metadata(self, columns: Sequence[str] | None = None) -> pa.Table:
        """What is known of the samples, a row each.

        Args:
            columns: names of those to read; all but the vectors unless told.

        Raises:
            MmclError: there is no such column.
        """
        known = [name for name in self.columns if not name.endswith(EMBEDDING)]
        if missing := [name for name in columns or [] if name not in known]:
            raise MmclError(f"{self.folder}: the metadata has no column {missing[0]}; it has {', '.join(known)}.")
        tables = [pq.read_table(path, columns=list(columns or known)) for path in self._tables]
        return pa.concat_tables(tables, promote_options="permissive")

    @property
    def columns(self) -> list[str]:
        """Names of what the files of metadata hold."""
        return pq.read_schema(self._tables[0]).names

    @cached_property
    def key_column(self) -> str:
        """Name of the column that holds the samples' keys.

        Raises:
            MmclError: there is none.
        """
        name = next((key for key in KEYS if key in self.columns), None)
        if name is None:
            raise MmclError(f"{self.folder}/metadata names no samples; a column {' or '.join(KEYS)} is needed.")
        return name

    def keys(self) -> list[str]:
        """Of the samples.

        Raises:
            MmclError: the metadata says none.
        """
        return [str(key) for key in self.metadata([self.key_column]).column(self.key_column).to_pylist()]

    def _of(self, modality: str) -> list[_Part]:
        if modality not in self._parts:
            raise MmclError(f"{self.folder} has no vectors of {modality}; it has {', '.join(self.modalities)}.")
        return self._parts[modality]

    def _checked(self) -> int:
        """The width of all rows."""
        for parts in self._parts.values():
            count = sum(part.shape[0] for part in parts if part.shape)
            if count != self.samples:
                where = parts[0].path.parent if parts else self.folder
                raise MmclError(f"{where} has {count} rows, but the metadata {self.samples}.")
        widths = {part.shape[1:] for parts in self._parts.values() for part in parts}
        if {len(width) for width in widths} != {1} or len(widths) != 1:
            raise MmclError(
                f"{self.folder}: arrays must be (rows, dim), of one dim for all modalities; rows are {sorted(widths)}."
            )
        return widths.pop()[0]


def _of_arrays(folder: Path) -> list[_Part]:
    return [_Part(path, None, _mapped(path).shape) for path in _files(folder, ".npy")]


def _of_tables(paths: Sequence[Path], counts: Sequence[int]) -> dict[str, list[_Part]]:
    parts: dict[str, list[_Part]] = {}
    for path, count in zip(paths, counts, strict=True):
        for field in pq.read_schema(path):
            if field.name.endswith(EMBEDDING) and pa.types.is_fixed_size_list(field.type):
                part = _Part(path, field.name, (count, field.type.list_size))
                parts.setdefault(field.name.removesuffix(EMBEDDING), []).append(part)
    return parts


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise MmclError(f"{path} cannot be read as an array ({error}); it was cut, or is something else.") from None


def _rows_of(path: Path) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except pa.ArrowInvalid as error:
        raise MmclError(f"{path} cannot be read as a table ({error}); it was cut, or is something else.") from None


def _listed(path: Path, column: str, shape: tuple[int, ...]) -> np.ndarray:
    """A column of lists of one length; a list that is not there is zero."""
    found = pq.read_table(path, columns=[column]).column(column).combine_chunks()
    values = found.flatten().to_numpy(zero_copy_only=False)  # of lists that are there
    full = np.zeros(shape, values.dtype)
    full[found.is_valid().to_numpy(zero_copy_only=False)] = values.reshape(-1, shape[1])
    return full


def _files(folder: Path, suffix: str) -> list[Path]:
    """Parts in the order of their numbers."""
    return sorted((path for path in folder.glob(f"*{suffix}") if not path.name.startswith(".")), key=_number)


def _number(path: Path) -> int:
    """Of a part, as its name says it: 10 comes after 9."""
    number = _digits(path)
    if not number.isdigit():
        raise MmclError(f"{path} does not end in the number of a part, as in {path.stem}_0{path.suffix}.")
    return int(number)


def _digits(path: Path) -> str:
    return path.stem.rpartition("_")[2]
