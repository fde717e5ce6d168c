"""Vectors of one modality, made to be searched."""

import numpy as np

from mmcl.embed import Vectors
from mmcl.errors import MmclError


class Index:
    """The rows of one modality that are there, to be searched by inner product.

    Args:
        vectors: of an export.
        modality: one of them.
    """

    def __init__(self, vectors: Vectors, modality: str) -> None:
        parts = [_unit(part) for part in vectors.parts(modality)]
        every = np.concatenate(parts)
        self._rows = np.flatnonzero(every.any(1))
        self._vectors = every[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows of the nearest, best first; of equal scores the lower row comes first.

        Args:
            vector: (dim,) of length 1.
            k: how many, where there are as many.
            allowed: (samples,) bool; all unless told.
        """
        scores = self._vectors @ vector
        there = np.arange(len(scores)) if allowed is None else np.flatnonzero(allowed[self._rows])
        order = np.lexsort((there, -scores[there]))[:k]
        return scores[there[order]], self._rows[there[order]]


def _unit(part: np.ndarray) -> np.ndarray:
    part = part.astype(np.float32)
    lengths = np.linalg.norm(part, axis=1, keepdims=True)
    return np.divide(part, lengths, out=np.zeros_like(part), where=np.isfinite(lengths) & (lengths > 0))


def open_index(vectors: Vectors, modality: str) -> Index:
    """The index of a modality of an export.

    Raises:
        MmclError: the export has no such modality.
    """
    if modality not in vectors.modalities:
        raise MmclError(f"{vectors.folder} has no vectors of {modality}; it has {', '.join(vectors.modalities)}.")
    return Index(vectors, modality)
