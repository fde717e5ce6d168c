"""The rows of one part: embedded block by block, kept on the device, and handed over as arrays and columns."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.embed.plan import DTYPES, Options, Part, Precision
from mmcl.embed.samples import Samples
from mmcl.model import Encoder
from mmcl.types import Bad, Batch

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Rows:
    """Vectors and metadata of one part, as far as it is embedded.

    A block of rows goes through a tower as far as its samples have the modality, so that what comes out depends on the
    block alone.

    Args:
        encoder: what embeds.
        samples: of the export.
        options: of the export.
        part: whose rows these are.
        bad: what is known to be bad before.
    """

    def __init__(self, encoder: Encoder, samples: Samples, options: Options, part: Part, bad: list[Bad]) -> None:
        self.part, self.bad, self.done = part, list(bad), 0
        self._encoder, self._samples, self._options = encoder, samples, options
        size = len(part), options.dims or encoder.dim
        self._vectors = {m: torch.zeros(size, device=encoder.device) for m in samples.modalities}
        self._present = {m: np.zeros(len(part), bool) for m in samples.modalities}
        self._columns: dict[str, list[Any]] = {name: [] for name in ("key", *samples.texts, "json")}

    def add(self, batch: Batch) -> None:
        """Embed the next block."""
        for m in self._samples.modalities:
            there = batch.present[m]
            self._present[m][self.done : self.done + len(batch)] = there.numpy()
            if there.any():
                rows = batch[m] if there.all() else batch[m][there]
                places = self.done + there.nonzero()[:, 0]
                self._vectors[m].index_copy_(
                    0, places.to(self._encoder.device, non_blocking=True), self._embed(m, rows)
                )
        self._columns["key"] += batch.keys
        for name in (*self._samples.texts, "json"):
            self._columns[name] += batch[name]
        self.bad += self._samples.bad_of(batch)
        self.done += len(batch)

    def arrays(self) -> dict[str, np.ndarray]:
        """Vectors by modality; those that are no numbers become rows of zeros that are absent, and bad."""
        made = {}
        for m, vectors in self._vectors.items():
            array = vectors.cpu().numpy().astype(DTYPES[self._options.dtype], copy=False)
            wrong = np.flatnonzero(~np.isfinite(array).all(1))
            array[wrong], self._present[m][wrong] = 0, False
            shards = self._shards()
            reason = f"its vector is not finite in {self._options.precision}"
            self.bad += [Bad(self._shown(shards[row]), self._columns["key"][row], m, reason) for row in wrong]
            made[m] = array
        return made

    def table(self) -> pa.Table:
        """The metadata, once `arrays` have been looked at."""
        shards, keys = self._shards(), self._columns["key"]
        texts = {name: pa.array(self._columns[name], pa.string()) for name in (*self._samples.texts, "json")}
        present = {f"has_{m}": pa.array(there) for m, there in self._present.items()}
        told: dict[tuple[str, str], list[str]] = {}
        for one in self.bad:
            told.setdefault((one.shard, one.key), []).append(f"{one.modality}: {one.reason}")
        reasons = [told.get((self._shown(n), key)) for n, key in zip(shards, keys, strict=True)]
        columns: Mapping[str, Any] = {
            "key": pa.array(keys, pa.string()),
            "shard": pa.array(shards, pa.int32()),
            "image_path": pa.array(keys, pa.string()),
            **{name: array for name, array in texts.items() if name != "json"},
            **present,
            "bad": pa.array([None if some is None else "; ".join(some) for some in reasons], pa.string()),
            "json": texts["json"],
        }
        return pa.table(columns)

    def present(self, modality: str) -> np.ndarray:
        """Which rows have a vector."""
        return self._present[modality]

    def _embed(self, modality: str, rows: Tensor) -> Tensor:
        with autocast(self._encoder.device, self._options.precision):
            vectors = self._encoder.embed_rows(modality, rows)
        return vectors if self._options.dims is None else F.normalize(vectors[:, : self._options.dims], dim=-1)

    def _shards(self) -> list[int]:
        return self._samples.shards_of(self.part.start, self.part.stop).tolist()

    def _shown(self, number: int) -> str:
        return self._samples.stream.shards.listed[number].shown


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """In which the towers compute."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, AUTOCAST[precision])
