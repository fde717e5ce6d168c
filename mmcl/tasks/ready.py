"""Vectors that lie in files already: what `mmcl embed` and clip-retrieval write."""

from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F

from mmcl.embed import Vectors
from mmcl.errors import MmclError
from mmcl.evaluators import Items
from mmcl.tasks.columns import Column

NAMED = 3


class ReadyVectors:
    """Vectors by modality and sample key: ``img_emb/*.npy``, ``text_emb/``, ..., ``metadata/*.parquet``, row by row.

    Args:
        folder: that they lie in.

    Raises:
        MmclError: it is no such folder, or its parts do not fit each other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._vectors = folder, Vectors(folder)
        self._rows: dict[str, list[int]] = defaultdict(list)
        for row, key in enumerate(self._vectors.keys()):
            self._rows[key].append(row)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that have vectors."""
        return self._vectors.modalities

    @property
    def model(self) -> str | None:
        """What made the vectors, as the manifest says."""
        said = self._vectors.manifest
        return str(said["model"]) if said is not None and "model" in said else None

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
        vectors = torch.from_numpy(self._vectors.rows(modality, [row for found in rows for row in found]))
        owner = torch.repeat_interleave(torch.arange(len(items)), torch.tensor(wanted))
        there = (vectors != 0).any(1)  # absent rows are zero; what is not a number is there, and counts as wrong
        return Column(F.normalize(vectors[there], dim=-1), owner[there], [])
