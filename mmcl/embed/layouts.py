"""How the rows of a part lie in files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmcl.embed.plan import Layout
from mmcl.embed.read import EMBEDDING, MODALITIES
from mmcl.embed.rows import Rows

FOLDERS = {modality: name for name, modality in MODALITIES.items()}


def clip_retrieval(rows: Rows, name: str, folder: Path) -> dict[str, Path]:
    """``NAME_emb/NAME_emb_0000.npy`` beside ``metadata/metadata_0000.parquet``; zero where a sample has none."""
    files = {}
    for modality, array in rows.arrays().items():
        kind = f"{FOLDERS.get(modality, modality)}_emb"
        files[f"{kind}/{kind}_{name}.npy"] = folder / f"{kind}.npy"
        np.save(folder / f"{kind}.npy", array)
    files[f"metadata/metadata_{name}.parquet"] = folder / "metadata.parquet"
    pq.write_table(rows.table(), folder / "metadata.parquet")
    return files


def parquet(rows: Rows, name: str, folder: Path) -> dict[str, Path]:
    """``embeddings/part_0000.parquet``, with a column of vectors a modality; null where a sample has none."""
    arrays = rows.arrays()
    table = rows.table()
    texts = table.column_names
    for modality, array in arrays.items():
        values = pa.array(array.reshape(-1))
        absent = pa.array(~rows.present(modality))
        column = pa.FixedSizeListArray.from_arrays(values, array.shape[1], mask=absent)
        table = table.append_column(f"{modality}{EMBEDDING}", column)
    pq.write_table(table, folder / "part.parquet", use_dictionary=texts)  # no two numbers of vectors are alike
    return {f"embeddings/part_{name}.parquet": folder / "part.parquet"}


LAYOUTS: Mapping[Layout, Callable[[Rows, str, Path], dict[str, Path]]] = {
    "clip_retrieval": clip_retrieval,
    "parquet": parquet,
}
"""Writes the files of a part into a folder: place in the export -> where it lies now."""
