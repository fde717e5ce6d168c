"""Vectors of one modality, made to be searched: the index, kept beside the export in ``.index``."""

import contextlib
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from mmcl.embed import Vectors
from mmcl.embed.recall import SEED, blocks
from mmcl.errors import MmclError
from mmcl.files import replacing, write_json
from mmcl.search import plan as plans
from mmcl.search.build import WANTED, Say, ask, ask_all, build, faiss_, widest
from mmcl.search.plan import Plan, planned

FOLDER = ".index"
FORMAT = 2
KEPT_NOWHERE = "note: {} cannot be written ({}); the index is made anew each time."


class Index:
    """The rows of one modality that are there, to be searched by their cosine with a query.

    Args:
        vectors: of an export.
        modality: one of them.
        index: of faiss; its ids are rows of the export.
        about: what is known of it, as ``.index/MODALITY.json`` says it.
    """

    def __init__(self, vectors: Vectors, modality: str, index: Any, about: dict[str, Any]) -> None:
        self.about = about
        self._vectors, self._modality, self._index = vectors, modality, index
        self._plan = Plan(about["kind"], about["vectors"], about["dim"])
        self._there = np.zeros(vectors.samples, bool)
        self._there[faiss_().vector_to_array(index.id_map)] = True

    def __len__(self) -> int:
        return self._plan.vectors

    @property
    def why(self) -> str:
        """What it is, why, and what it finds, in a sentence or two."""
        found = [
            f"{one['recall']:.3f} ({one['low']:.3f} to {one['high']:.3f}, {one['n']} queries of {of})"
            for of, one in self.about["recall"].items()
        ]
        return f"{self._plan.why}." + (f" Recall@10 of exact search: {', '.join(found)}." if found else "")

    def search(self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows of the nearest, best first; k of them where there are as many.

        Where few rows are allowed these are compared one by one, which is exact; where many are, the index is searched
        as much wider as rows are left out.

        Args:
            vector: (dim,) float32 of length 1.
            k: how many.
            allowed: (samples,) bool: what may be found; everything unless told.
        """
        count = len(self) if allowed is None else int((allowed & self._there).sum())
        k = min(k, count)
        if not k:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        asked = vector[None]
        if allowed is None or count > plans.FLAT:
            width = min(math.ceil(self.about["width"] * len(self) / count), widest(self._plan))
            scores, rows = ask(self._index, self._plan, asked, k, width, allowed)
            if (rows >= 0).all():
                return scores[0], rows[0]
        scores, rows = ask_all(self._index, self._plan, asked, k, allowed)  # few, or too few near where was looked
        return scores[0], rows[0]


def open_index(vectors: Vectors, modality: str, say: Say = lambda told: None) -> Index:
    """The index of a modality of an export: the one that lies there, if it fits; else it is made.

    Args:
        vectors: of an export.
        modality: one of them.
        say: tells what takes time.

    Raises:
        MmclError: the export has no such modality, faiss is not installed, or the memory does not suffice.
    """
    if modality not in vectors.modalities:
        raise MmclError(f"{vectors.folder} has no vectors of {modality}; it has {', '.join(vectors.modalities)}.")
    faiss_()
    path = vectors.folder / FOLDER / f"{modality}.faiss"
    made_of = _digest(vectors, modality)
    found = _stored(path, vectors, modality, made_of)
    if found is not None:
        return found
    try:
        path.parent.mkdir(exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    except OSError as error:
        say(KEPT_NOWHERE.format(path.parent, error.strerror))
        return _made(vectors, modality, made_of, say)
    try:  # one process makes it, and others wait for it
        return _stored(path, vectors, modality, made_of) or _made(vectors, modality, made_of, say, path)
    finally:
        lock.release()


def _stored(path: Path, vectors: Vectors, modality: str, made_of: str) -> Index | None:
    """The index that lies there, where it is whole and made of these vectors."""
    faiss = faiss_()
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RuntimeError, MemoryError):
        about = json.loads(path.with_suffix(".json").read_bytes())
        if about["made_of"] == made_of and about["bytes"] == path.stat().st_size:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)  # what is searched is read, and nothing else
            return Index(vectors, modality, index, about)
    return None


def _made(vectors: Vectors, modality: str, made_of: str, say: Say, path: Path | None = None) -> Index:
    """A new index, stored where there is a path."""
    count = sum(len(numbers) for numbers, _ in blocks(vectors, modality))
    if not count:
        raise MmclError(f"{vectors.folder}: no sample has {modality}; there is nothing to search.")
    plan = planned(count, vectors.dim)
    index, found = build(vectors, modality, plan, say)
    about = {"made_of": made_of, "kind": plan.kind, "vectors": count, "dim": plan.dim, "why": plan.why, **found}
    if path is not None:
        try:
            path.with_suffix(".json").unlink(missing_ok=True)  # which would speak of another file
            with replacing(path) as file:
                faiss_().write_index(index, faiss_().PyCallbackIOWriter(file.write))
            write_json(path.with_suffix(".json"), {**about, "bytes": path.stat().st_size})
        except OSError as error:
            say(KEPT_NOWHERE.format(path.parent, error.strerror))
    made = Index(vectors, modality, index, about)
    if plan.kind != "flat":
        say(f"indexed {modality} in {about['build_seconds']:,.0f} s. {made.why}")
    return made


def _digest(vectors: Vectors, modality: str) -> str:
    """Of what an index is made of: the export's manifest, its files' sizes, and what an index is made by."""
    manifest = {name: said for name, said in (vectors.manifest or {}).items() if name != "quantized"}
    files = sorted(
        (str(path.relative_to(vectors.folder)), path.stat().st_size, 0 if manifest else path.stat().st_mtime_ns)
        for folder in ("embeddings", *(path.name for path in vectors.folder.glob("*_emb")))
        for path in (vectors.folder / folder).glob("*")
        if not path.name.startswith(".")
    )
    made_by = (WANTED, SEED, plans.FLAT, plans.GRAPH, plans.NEIGHBOURS, plans.PER_LIST)
    said = json.dumps([FORMAT, *made_by, modality, manifest, files], sort_keys=True)
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
