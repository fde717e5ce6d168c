"""Exports in fewer bits, as faiss, usearch and sentence-transformers take them, with what each form loses, measured.

    DIR/quantized/int8/img_emb/img_emb_0000.npy    (rows, dim) int8: 256 steps between a dimension's least and most
    DIR/quantized/int8/img_ranges.npy              (2, dim) float32: least and most of each dimension, of all rows
    DIR/quantized/binary/img_emb/img_emb_0000.npy  (rows, dim / 8) uint8: a bit a number, set where it is greater than 0
    DIR/quantized/dims64/img_emb/img_emb_0000.npy  (rows, 64) as the export: the first 64 numbers, at length 1 again

``int8`` and ``binary`` are what sentence-transformers' ``quantize_embeddings`` makes: ``int8`` with these ranges, and
``ubinary``.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from mmcl.embed.layouts import FOLDERS
from mmcl.embed.read import Vectors
from mmcl.embed.recall import BLOCK, Blocks, Held, best, held, stated, unit_rows
from mmcl.embed.work import told
from mmcl.errors import MmclError, did_you_mean
from mmcl.files import replacing, write_json

FOLDER = "quantized"
QUERIES, K = 500, 10
ENOUGH = 100  # queries of another modality; where it has fewer, that which has most asks
MORE = 4
"""As many times the candidates are taken from the quantised vectors where they are compared once more in float32."""
STEPS = 255


Shared = tuple[Callable[[str], np.ndarray], Callable[[str], Held | None]]
"""Ranges of the dimensions of a modality, and the queries that its forms are measured by."""


class Kind(NamedTuple):
    """One form."""

    encode: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Rows of the export, and the ranges of their dimensions, to codes."""
    decode: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Codes to rows of float32, by whose inner product with a query they are ranked."""
    of_queries: bool
    """Whether queries are brought to the same form (of bits faiss then counts those that differ), or stay float32."""


def _to_int8(rows: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    steps = (rows.astype(np.float32) - ranges[0]) / _steps(ranges)
    return (np.clip(np.floor(steps), 0, STEPS) - 128).astype(np.int8)


def _from_int8(codes: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    return (codes.astype(np.float32) + 128.5) * _steps(ranges) + ranges[0]  # the middle of each step


def _steps(ranges: np.ndarray) -> np.ndarray:
    steps = (ranges[1] - ranges[0]) / STEPS
    return np.where(steps == 0, np.float32(1), steps)


def _to_bits(rows: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    return np.packbits(rows > 0, axis=1)


def _from_bits(codes: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    return np.unpackbits(codes, axis=1, count=ranges.shape[1]).astype(np.float32) * 2 - 1


def _first(count: int) -> Kind:
    """The first coordinates alone, for models that learned it."""
    return Kind(
        lambda rows, _: unit_rows(rows[:, :count]).astype(rows.dtype), lambda codes, _: codes.astype(np.float32), True
    )


KINDS = {"int8": Kind(_to_int8, _from_int8, False), "binary": Kind(_to_bits, _from_bits, True)}


def known(kinds: Sequence[str], dim: int) -> dict[str, Kind]:
    """The kinds of these names, each once.

    Args:
        kinds: `int8`, `binary`, or `dims` and how many coordinates.
        dim: coordinates of a vector.

    Raises:
        MmclError: there is no such kind.
    """
    found = {}
    for name in kinds:
        first = re.fullmatch(r"dims([1-9][0-9]{0,5})", name)
        if name not in KINDS and first is None:
            near = did_you_mean(name, KINDS)
            raise MmclError(f"no quantisation is called {name!r}{near} There are int8, binary, and dims64 or so.")
        if first is not None and int(first[1]) >= dim:
            raise MmclError(f"{name}: vectors have {dim} coordinates, of which 1 to {dim - 1} can be kept.")
        found[name] = KINDS[name] if first is None else _first(int(first[1]))
    return found


def quantize(
    folder: str | Path, kinds: Sequence[str], say: Callable[[str], None] = lambda told: None
) -> dict[str, Any]:
    """Write a finished export in fewer bits beside itself, and what is lost of recall@10 into its manifest.

    What is there already stays; what was interrupted, or is gone, is written again, to the same bytes. Absent rows stay
    where they are, as codes of zeros: the metadata says which they are.

    Args:
        folder: of an export of ours.
        kinds: `int8`, `binary`, `dims64` (or another number: the first coordinates of a Matryoshka model).
        say: tells what was measured.

    Returns:
        What the manifest says as ``quantized``: by kind and modality, recall with its 95 % interval and the number of
        queries, before and after 4 times the candidates were compared once more in float32.

    Raises:
        MmclError: there is no such kind, the folder is no finished export, or it cannot be written.
    """
    if not kinds:
        return {}
    vectors = Vectors(folder)
    if vectors.manifest is None:
        raise MmclError(f"{folder} has no manifest.json of `mmcl embed`, into which what is measured would go.")
    forms = known(kinds, vectors.dim)
    shared = cache(partial(_ranges, vectors)), cache(partial(_queries, vectors))  # by all forms of a modality
    with told(vectors.folder), _held(vectors.folder / FOLDER):
        manifest = Vectors(folder).manifest or {}  # another process may have been here
        done: dict[str, Any] = dict(manifest.get("quantized") or {})
        for name, kind in forms.items():
            place = vectors.folder / FOLDER / name
            if name not in done or not all(
                file.is_file() for m in vectors.modalities for file in _files(vectors, place, m)
            ):
                shutil.rmtree(place, ignore_errors=True)  # of an interruption
                done |= {name: _quantized(vectors, place, kind, shared, say)}
                done = dict(sorted(done.items()))  # the same bytes, in whatever order they were asked for
                write_json(vectors.folder / "manifest.json", {**manifest, "quantized": done})
    return done


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Only one process at a time writes here."""
    folder.mkdir(exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


def _files(vectors: Vectors, place: Path, modality: str) -> list[Path]:
    """Of the parts of a modality in one form."""
    name = FOLDERS.get(modality, modality)
    return [place / f"{name}_emb" / f"{name}_emb_{number}.npy" for number in vectors.numbers(modality)]


def _quantized(vectors: Vectors, place: Path, kind: Kind, shared: Shared, say: Callable[[str], None]) -> dict[str, Any]:
    """Write one form of all modalities, and measure it."""
    found, (ranges_of, queries_of) = {}, shared
    for modality in vectors.modalities:
        files, ranges, there = _files(vectors, place, modality), ranges_of(modality), []
        files[0].parent.mkdir(parents=True, exist_ok=True)
        if kind is KINDS["int8"]:
            with replacing(place / f"{FOLDERS.get(modality, modality)}_ranges.npy") as file:
                np.save(file, ranges)
        for path, part in zip(files, vectors.parts(modality), strict=True):
            there.append(unit_rows(part).any(1))
            with replacing(path) as file:
                np.save(file, kind.encode(np.where(there[-1][:, None], part, 0), ranges))
        asked, codes = queries_of(modality), _decoded(files, kind, ranges, np.concatenate(there))
        measured = None if asked is None else _measured(vectors, modality, kind, ranges, asked, codes)
        found[modality] = measured
        if measured is not None:
            plain, again = measured["recall@10"], measured["rescored"]
            say(
                f"{place.name} of {modality}: recall@{measured['k']} {plain['recall']:.3f} ({plain['low']:.3f} to "
                f"{plain['high']:.3f}) of exact search, {again['recall']:.3f} where {MORE} times the candidates are "
                f"compared once more in float32 ({plain['n']} of {measured['queries']} asked)."
            )
    return found


def _ranges(vectors: Vectors, modality: str) -> np.ndarray:
    """Least and most of each dimension, of all rows that are there: (2, dim)."""
    ranges = np.stack([np.full(vectors.dim, np.inf, np.float32), np.full(vectors.dim, -np.inf, np.float32)])
    for part in vectors.parts(modality):
        rows = part.astype(np.float32)
        rows = rows[np.isfinite(rows).all(1) & rows.any(1)]
        if len(rows):
            ranges = np.stack([np.minimum(ranges[0], rows.min(0)), np.maximum(ranges[1], rows.max(0))])
    return np.where(np.isfinite(ranges), ranges, 0).astype(np.float32)


def _measured(
    vectors: Vectors, among: str, kind: Kind, ranges: np.ndarray, asked: Held, codes: Blocks
) -> dict[str, Any]:
    """Recall of search in what was written."""
    queries = asked.queries
    if kind.of_queries:
        queries = kind.decode(kind.encode(queries, ranges), ranges)
    found = best(codes, queries, MORE * asked.k + 1)
    right = asked.right(found, vectors, among)
    again = np.minimum(right.sum(1), asked.k) / asked.k  # float32 puts what is right first
    shares = asked.shares(found, vectors, among)
    return {"queries": asked.of, "k": asked.k, "recall@10": stated(shares), "rescored": stated(again)}


def _queries(vectors: Vectors, among: str) -> Held | None:
    """Those of the first other modality that has enough, or else of the one that has most; None of no rows."""
    most = None
    for of in (*(one for one in vectors.modalities if one != among), among):
        asked = held(vectors, among, of, QUERIES, k=K)
        if asked is not None and (most is None or len(asked.own) > len(most.own)):
            most = asked
        if most is not None and len(most.own) >= ENOUGH:
            break
    return most


def _decoded(paths: Sequence[Path], kind: Kind, ranges: np.ndarray, there: np.ndarray) -> Blocks:
    """The rows that are there, some at a time: their numbers, and what their codes say."""
    first = 0
    for path in paths:
        codes = np.load(path, mmap_mode="r")
        for start in range(0, len(codes), BLOCK):
            numbers = start + np.flatnonzero(there[first + start : first + min(start + BLOCK, len(codes))])
            if len(numbers):
                yield first + numbers, kind.decode(codes[numbers], ranges)
        first += len(codes)
