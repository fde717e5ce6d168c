"""Exports that are made of vectors, without a model, for tests of indexes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmcl.embed import Vectors

FOLDERS = {"image": "img"}


def clustered(count: int, dim: int = 32, seed: int = 1) -> np.ndarray:
    """Unit rows around 50 centres, fp32."""
    centres = np.random.default_rng(0).standard_normal((50, dim))
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(50, size=count)] + 0.7 * rng.standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def export(folder: Path, vectors: Mapping[str, np.ndarray], part: int = 700, **columns: Any) -> Vectors:
    """Arrays in parts, metadata, and a manifest that says little."""
    count = len(next(iter(vectors.values())))
    table = pa.table({"key": [f"{row:05}" for row in range(count)], **columns})
    (folder / "metadata").mkdir(parents=True)
    for number, start in enumerate(range(0, count, part)):
        for modality, rows in vectors.items():
            name = FOLDERS.get(modality, modality)
            (folder / f"{name}_emb").mkdir(exist_ok=True)
            np.save(folder / f"{name}_emb" / f"{name}_emb_{number:04}.npy", rows[start : start + part])
        pq.write_table(table.slice(start, part), folder / "metadata" / f"metadata_{number:04}.parquet")
    said = {"format": 2, "model": "of nobody", "samples": count, "modalities": list(vectors)}
    (folder / "manifest.json").write_text(json.dumps(said))
    return Vectors(folder)


def cosines(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """In float64; minus infinity where a row is absent."""
    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    found = np.full(len(rows), -np.inf)
    there = lengths > 0
    found[there] = wide[there] @ query.astype(np.float64) / lengths[there] / np.linalg.norm(query.astype(np.float64))
    return found
