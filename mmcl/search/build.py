"""Indexes of faiss: made of the parts of an export one at a time, and as wide a search as recall needs, measured."""

import importlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import psutil

from mmcl.embed import Vectors
from mmcl.embed.recall import SEED, Found, Held, blocks, drawn, held, ordered, stated
from mmcl.errors import MmclError
from mmcl.search.plan import NEIGHBOURS, PER_LIST, Plan

WANTED = 0.95
"""Recall@10 of exact search that the width is chosen for: the lower end of its 95 % interval."""
QUERIES = 200  # held queries of each modality: as many choose the width, and as many others measure it
WIDEST = {"flat": 1, "hnsw": 1024}
Say = Callable[[str], None]


def faiss_() -> ModuleType:
    """The library.

    Raises:
        MmclError: it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError:
        raise MmclError("search needs faiss, which is not installed: pip install 'mmcl[search]'") from None


def widest(plan: Plan) -> int:
    """How wide a search can be."""
    return WIDEST.get(plan.kind, plan.lists)


def ask(index: Any, plan: Plan, queries: np.ndarray, k: int, width: int, allowed: np.ndarray | None = None) -> Found:
    """What an index finds.

    Args:
        index: of faiss.
        plan: by which it was made.
        queries: (queries, dim) float32 of length 1.
        k: how many rows of each.
        width: candidates of a graph that are kept (efSearch), or lists that are read (nprobe).
        allowed: (samples,) bool: what may be found; everything unless told.
    """
    faiss = faiss_()
    bits = None if allowed is None else np.packbits(allowed, bitorder="little")  # held until the search ends
    chosen = {} if bits is None else {"sel": faiss.IDSelectorBitmap(bits)}
    if plan.kind == "ivf":
        how = faiss.SearchParametersIVF(nprobe=width, **chosen)
    elif plan.kind == "hnsw":
        how = faiss.SearchParametersHNSW(efSearch=max(width, k), **chosen)
    else:
        how = faiss.SearchParameters(**chosen)
    with _threads(1 if len(queries) == 1 else None):
        scores, rows = index.search(np.ascontiguousarray(queries, np.float32), k, params=how)
    return ordered(np.where(rows >= 0, scores, -np.inf), rows)


def ask_all(index: Any, plan: Plan, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
    """What all vectors of an index, or all that are allowed, are compared for; arguments: see `ask`."""
    if plan.kind != "hnsw":
        return ask(index, plan, queries, k, widest(plan), allowed)
    faiss = faiss_()
    numbers = faiss.vector_to_array(index.id_map)  # the vectors of a graph lie in a flat index below it
    flat = faiss.downcast_index(faiss.downcast_index(index.index).storage)
    there = None if allowed is None else allowed[numbers]
    scores, places = ask(flat, plan._replace(kind="flat"), queries, k, 1, there)
    return ordered(scores, np.where(places >= 0, numbers[places], -1))


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """As many threads of faiss, in calls of this thread: one query is soon answered, and waking others takes longer."""
    faiss = faiss_()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def build(vectors: Vectors, modality: str, plan: Plan, say: Say) -> tuple[Any, dict[str, Any]]:
    """Make the index of a modality, and measure it.

    Args:
        vectors: of an export.
        modality: one of them.
        plan: what to make.
        say: tells what takes time.

    Returns:
        The index of faiss, whose ids are rows of the export, and what is to be known of it: width, recall, seconds.

    Raises:
        MmclError: faiss is not installed, or the memory does not suffice.
    """
    free = psutil.virtual_memory().available
    if plan.bytes > 0.9 * free:
        raise MmclError(
            f"{vectors.folder}: an index of {plan.vectors:,} vectors of {modality} takes {plan.bytes / 1e9:.1f} GB of "
            f"memory, and {free / 1e9:.1f} GB are free. Embed with fewer numbers a vector (--dims), or search it on a "
            "larger machine; its .index folder can be copied back."
        )
    began = time.monotonic()
    index = faiss_().IndexIDMap(_empty(vectors, modality, plan, say))
    for numbers, rows in blocks(vectors, modality):
        index.add_with_ids(rows, numbers)
    said: dict[str, Any] = {"width": 1, "recall": {}, "build_seconds": round(time.monotonic() - began, 1)}
    if plan.kind != "flat":
        said |= _measured(vectors, modality, index, plan)
    return index, said


def _empty(vectors: Vectors, modality: str, plan: Plan, say: Say) -> Any:
    """An index of no vectors yet; that of lists has learned their centres."""
    faiss = faiss_()
    if plan.kind == "flat":
        return faiss.IndexFlatIP(plan.dim)
    say(f"indexing {modality}: {plan.why}.")
    if plan.kind == "hnsw":
        return faiss.IndexHNSWFlat(plan.dim, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    lists = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(plan.dim),
        plan.dim,
        plan.lists,
        faiss.ScalarQuantizer.QT_fp16,
        faiss.METRIC_INNER_PRODUCT,
        False,  # vectors themselves, and not what differs from the centre
    )
    lists.cp.spherical, lists.cp.niter, lists.cp.seed = True, 10, SEED
    wanted = PER_LIST * plan.lists
    lists.train(drawn(vectors, modality, wanted, 2 * wanted)[1])
    return lists


def _measured(vectors: Vectors, modality: str, index: Any, plan: Plan) -> dict[str, Any]:
    """The narrowest search that finds enough, and what it finds for queries that did not choose it."""
    choosing = _held(vectors, modality, share=0)
    width = min(4 if plan.kind == "ivf" else 16, widest(plan))
    while width < widest(plan) and not all(_suffices(vectors, modality, index, plan, h, width) for h in choosing):
        width = min(2 * width, widest(plan))
    recall = {
        h.of: stated(h.shares(ask(index, plan, h.queries, h.k + 1, width), vectors, modality))
        for h in _held(vectors, modality, share=1)
    }
    return {"width": width, "recall": recall}


def _held(vectors: Vectors, among: str, share: int) -> list[Held]:
    found = (held(vectors, among, of, QUERIES, (share, 2)) for of in vectors.modalities)
    return [one for one in found if one is not None]


def _suffices(vectors: Vectors, modality: str, index: Any, plan: Plan, queries: Held, width: int) -> bool:
    shares = queries.shares(ask(index, plan, queries.queries, queries.k + 1, width), vectors, modality)
    return float(shares.mean() - 1.96 * shares.std() / math.sqrt(len(shares))) >= WANTED
