"""Exact search of the vectors of an export, part by part, and what share of it another search finds."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from mmcl.embed.read import Vectors
from mmcl.evaluators.figures import intervals, mean

SEED = 0
BLOCK = 16_384  # rows that are compared at once
EQUAL = 1e-5  # scores this near are equal: float32 sums of 512 products differ by as much, in another order
LOWER = 1e-12  # of a score, a row: far below what float32 tells apart, and in float64 enough to put lower rows first
Found = tuple[np.ndarray, np.ndarray]
"""Scores (queries, k) and rows (queries, k), best first; where there are fewer, minus infinity and row -1."""
Blocks = Iterator[tuple[np.ndarray, np.ndarray]]
"""Numbers of rows, and (rows, dim) float32, some at a time."""


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows at length 1, in float32; zero where a row is absent: zeros, or not finite."""
    rows = rows.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    there = np.isfinite(lengths) & (lengths > 0)
    return np.where(there, rows / np.where(there, lengths, 1), 0)


def blocks(vectors: Vectors, modality: str, allowed: np.ndarray | None = None) -> Blocks:
    """The rows of a modality that are there, at length 1.

    Args:
        vectors: of an export.
        modality: one of them.
        allowed: (samples,) bool; the others are not read.
    """
    first = 0
    for part in vectors.parts(modality):
        for start in range(0, len(part), BLOCK):
            block = part[start : start + BLOCK]
            chosen = None if allowed is None else np.flatnonzero(allowed[first + start : first + start + len(block)])
            if chosen is None or len(chosen):
                rows = unit_rows(block if chosen is None else block[chosen])
                there = rows.any(1)
                numbers = first + start + (np.arange(len(block)) if chosen is None else chosen)
                yield (numbers, rows) if there.all() else (numbers[there], rows[there])
        first += len(part)


def nearest(vectors: Vectors, modality: str, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
    """The rows of greatest cosine with each query, all rows compared; memory does not grow with the export.

    Args:
        vectors: of an export.
        modality: the one that is searched.
        queries: (queries, dim) float32 of length 1.
        k: how many rows of each.
        allowed: (samples,) bool: what may be found; everything unless told.
    """
    return best(blocks(vectors, modality, allowed), queries, k)


def best(parts: Blocks, queries: np.ndarray, k: int) -> Found:
    """The rows of greatest inner product with each query; of equal ones, of which bits have many, the lower rows.

    Args:
        parts: of what is searched.
        queries: (queries, dim) float32.
        k: how many rows of each.
    """
    asked = torch.from_numpy(np.ascontiguousarray(queries))
    scores, rows = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1)
    for numbers, block in parts:
        found = (asked @ torch.from_numpy(block).T).double()
        places = (found - torch.arange(found.shape[1]) * LOWER).topk(min(k, found.shape[1])).indices
        both = np.concatenate([scores, found.gather(1, places).numpy()], 1)
        scores, rows = ordered(both, np.concatenate([rows, numbers[places.numpy()]], 1))
        scores, rows = scores[:, :k], rows[:, :k]
    return scores, rows


def ordered(scores: np.ndarray, rows: np.ndarray) -> Found:
    """The same with the best first; of equal scores the lower row comes first."""
    order = np.lexsort((rows, -scores))
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


class Held(NamedTuple):
    """Queries whose answer is known, since all rows were compared."""

    of: str
    """Modality that the queries are vectors of."""
    own: np.ndarray
    """Row of each query, which is left out where it is itself searched; else -1."""
    queries: np.ndarray
    """(queries, dim) float32 of length 1."""
    least: np.ndarray
    """Score of the last of the k nearest; a row of as much or more is one of them."""
    k: int
    """At most; fewer where fewer rows are there."""

    def without_own(self, found: Found) -> Found:
        """What was found but the query itself, best first: one fewer."""
        scores, rows = found
        scores = np.where((rows == self.own[:, None]) & (rows >= 0), -np.inf, scores)
        scores, rows = ordered(scores, rows)
        return scores[:, :-1], np.where(np.isfinite(scores), rows, -1)[:, :-1]

    def right(self, found: Found, vectors: Vectors, among: str) -> np.ndarray:
        """Which of the rows that a search found are among the k nearest: (queries, rows) bool.

        Args:
            found: rows of each query, one more than are looked at; its scores may be of any kind.
            vectors: of the export.
            among: the modality that was searched.
        """
        rows = self.without_own(found)[1]
        places = np.unique(rows[rows >= 0])
        if not len(places):
            return np.zeros(rows.shape, bool)
        there = unit_rows(vectors.rows(among, places))
        at = np.searchsorted(places, np.maximum(rows, places[0]))
        exact = np.stack([there[some] @ query for some, query in zip(at, self.queries, strict=True)])
        return (exact >= self.least[:, None] - EQUAL) & (rows >= 0)

    def shares(self, found: Found, vectors: Vectors, among: str) -> np.ndarray:
        """What share of the k nearest a search found, a number a query; k + 1 rows of each are looked at."""
        scores, rows = found
        return self.right((scores[:, : self.k + 1], rows[:, : self.k + 1]), vectors, among).sum(1) / self.k


def held(
    vectors: Vectors, among: str, of: str, count: int, share: tuple[int, int] = (0, 1), k: int = 10
) -> Held | None:
    """Queries out of the export itself, drawn with a fixed seed, and their exact answers.

    Args:
        vectors: of an export.
        among: the modality that is searched.
        of: the modality whose vectors ask; of a query of the same modality, its own row is left out.
        count: of queries; fewer where fewer are there.
        share: (i, n): the i-th of n draws that have no row in common.
        k: how many of the nearest are wanted.

    Returns:
        None where there are no queries, or nothing to find.
    """
    numbers, asked = drawn(vectors, of, count, 4 * count * share[1], share)
    if not len(numbers):
        return None
    own = numbers if of == among else np.full(len(numbers), -1)
    made = Held(of, own, asked, np.empty(0), k)
    scores, _ = made.without_own(nearest(vectors, among, made.queries, k + 1))
    k = int(np.isfinite(scores).sum(1).min())
    return made._replace(least=scores[:, k - 1], k=k) if k else None


def drawn(
    vectors: Vectors, modality: str, count: int, looked_at: int, share: tuple[int, int] = (0, 1)
) -> tuple[np.ndarray, np.ndarray]:
    """Some rows from all over an export, with a fixed seed: their numbers, ascending, and the rows at length 1.

    Args:
        vectors: of the export.
        modality: one of them.
        count: of rows; fewer where fewer of those that are looked at are there.
        looked_at: rows that are drawn, of all shares, since some may be absent.
        share: see `held`.
    """
    rng, (number, shares) = np.random.default_rng(SEED), share
    numbers = rng.choice(vectors.samples, min(looked_at, vectors.samples), replace=False)[number::shares]
    numbers = np.sort(numbers)  # files are read from the front to the back
    rows = unit_rows(vectors.rows(modality, numbers))
    there = np.sort(rng.permutation(np.flatnonzero(rows.any(1)))[:count])
    return numbers[there], rows[there]


def stated(shares: np.ndarray) -> dict[str, Any]:
    """Mean of shares with its 95 % bootstrap interval, as manifests say it; of a single query that is everything."""
    figure = mean(torch.from_numpy(shares))
    low, high = intervals({"recall": figure})["recall"] if len(shares) > 1 else (0.0, 1.0)
    return {"recall": round(figure.value, 4), "low": round(low, 4), "high": round(high, 4), "n": len(shares)}
