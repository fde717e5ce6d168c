"""Vectors that lie in files already: what `mmcl embed` and clip-retrieval write."""

import contextlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F

from mmcl.errors import MmclError
from mmcl.evaluators import Items
from mmcl.tasks.columns import Column

MODALITIES = {"img": "image"}  # clip-retrieval abbreviates this one
KEYS = ("key", "image_path")  # of a sample, in the metadata: ours, and clip-retrieval's for shards
NAMED = 3


class ReadyVectors:
    """Vectors by modality and sample key: ``img_emb/*.npy``, ``text_emb/``, ..., ``metadata/*.parquet``, row by row.

    Args:
        folder: that they lie in.

    Raises:
        MmclError: it is no such folder, or its parts do not fit each other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tables = [pq.read_table(path) for path in sorted((folder / "metadata").glob("*.parquet"), key=_number)]
        parts = {path.name.removesuffix("_emb"): path for path in sorted(folder.glob("*_emb")) if path.is_dir()}
        if not tables or not parts:
            raise MmclError(f"{folder} holds no embeddings: NAME_emb/*.npy beside metadata/*.parquet are needed.")
        name = next((key for key in KEYS if key in tables[0].column_names), None)
        if name is None:
            raise MmclError(f"{folder}/metadata names no samples; a column {' or '.join(KEYS)} is needed.")
        keys = [str(key) for table in tables for key in table.column(name).to_pylist()]
        self._rows: dict[str, list[int]] = defaultdict(list)
        for row, key in enumerate(keys):
            self._rows[key].append(row)
        self._arrays = {}
        for part, path in parts.items():
            files = sorted(path.glob("*.npy"), key=_number)
            arrays = [np.load(file, mmap_mode="r", allow_pickle=False) for file in files]
            count = sum(map(len, arrays))
            if count != len(keys):
                raise MmclError(f"{path} has {count} rows, but the metadata {len(keys)}.")
            self._arrays[MODALITIES.get(part, part)] = arrays
        widths = {array.shape[1:] for arrays in self._arrays.values() for array in arrays}
        if {len(width) for width in widths} != {1} or len(widths) != 1:
            raise MmclError(
                f"{folder}: arrays must be (rows, dim), of one dim for all modalities; rows are {sorted(widths)}."
            )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that have vectors."""
        return tuple(self._arrays)

    @property
    def model(self) -> str | None:
        """What made the vectors, as the manifest says."""
        with contextlib.suppress(OSError, ValueError):
            said = json.loads((self.folder / "manifest.json").read_text())
            return str(said["model"]) if isinstance(said, dict) and "model" in said else None
        return None

    def column(self, modality: str, items: Items) -> Column:
        """The vectors of all items, by their keys: one each, or one a text where items have several.

        Raises:
            MmclError: an item has no vector, or several where one is needed.
        """
        texts = items.texts.get(modality)
        wanted = [1] * len(items) if texts is None else [max(len(some), 1) for some in texts]
        rows = [self._rows.get(key, []) for key in items.keys]
        wrong = [
            f"{key} has {len(found)}, not {count}"
            for key, found, count in zip(items.keys, rows, wanted, strict=True)
            if len(found) != count
        ]
        if wrong:
            raise MmclError(
                f"{self.folder}: vectors of {modality}: {', '.join(wrong[:NAMED])}"
                f"{f', and {len(wrong) - NAMED} more' if len(wrong) > NAMED else ''}. Embed the shards of the task."
            )
        every = np.concatenate(self._arrays[modality])
        vectors = torch.from_numpy(every[[row for found in rows for row in found]].astype(np.float32))
        owner = torch.repeat_interleave(torch.arange(len(items)), torch.tensor(wanted))
        there = (vectors != 0).any(1)  # absent rows are zero; what is not a number is there, and counts as wrong
        return Column(F.normalize(vectors[there], dim=-1), owner[there], [])


def _number(path: Path) -> int:
    """Of a part, as its name says it: 10 comes after 9."""
    number = path.stem.rpartition("_")[2]
    if not number.isdigit():
        raise MmclError(f"{path} does not end in the number of a part, as in {path.stem}_0{path.suffix}.")
    return int(number)
