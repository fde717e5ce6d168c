"""Embeddings of shards, in clip-retrieval's layout: <modality>_emb/*.npy beside metadata/*.parquet."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mmcl.data import Source, Stream
from mmcl.data.source import Selector
from mmcl.data.write import claimed
from mmcl.errors import MmclError
from mmcl.files import replacing, write_json
from mmcl.model import Encoder, hash_tensors
from mmcl.types import Batch

FOLDERS = {"image": "img"}  # clip-retrieval abbreviates this one
FORMAT = 1


def embed_shards(
    encoder: Encoder,
    source: Source,
    out: str | Path,
    *,
    part_size: int = 10_000,
    batch_size: int = 256,
    workers: int = 2,
) -> dict[str, Any]:
    """Embed every sample of shards, in the order of the shards.

    Args:
        encoder: what embeds; the modalities of the source that it has no tower for go into the metadata as texts.
        source: shards, and where the modalities lie.
        out: folder to make; it must not hold an export yet.
        part_size: rows of a part; each part is three or more files of the same number.
        batch_size: rows that are embedded at once.
        workers: threads that read and decode.

    Returns:
        The manifest, which is also ``out/manifest.json``: model, shards, counts, parts.

    Raises:
        MmclError: shards are missing, the folder is taken, or the model and the shards share no modality.
    """
    out = Path(out)
    modalities = [m for m in source.modalities if m in encoder.modalities]
    if not modalities:
        raise MmclError(
            f"the model has {', '.join(encoder.modalities)}; the shards bring {', '.join(source.modalities)}."
        )
    fields = {
        ("caption" if m == "text" else f"{m} text"): source.modalities[m]
        for m in modalities
        if encoder.takes(m) == "text"
    }
    unread = [
        m for m in source.modalities if m not in modalities and not Selector.parse(source.modalities[m], m).is_text
    ]
    read = {m: s for m, s in source.modalities.items() if m not in unread}
    source = source.model_copy(update={"modalities": read, "captions": "first"})  # a sample is one row
    vectors = [f"{FOLDERS.get(m, m)}_emb/{FOLDERS.get(m, m)}_emb_*.npy" for m in modalities]
    rows = max(part_size // batch_size, 1) * batch_size
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "workers": workers,
        "shuffle": False,
        "transforms": {m: encoder.transforms[m] for m in modalities},
        "share": (0, 1),
    }
    stream = Stream(source.fixed(**fields), **settings)
    if "json" in stream.shards.extensions():
        fields["json"] = "json"
        stream = Stream(source.fixed(**fields), **settings)
    with claimed(out, [*vectors, "metadata/metadata_*.parquet"], "export") as left:
        for path in left:
            path.unlink()
        parts: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        waiting: list[Batch] = []
        for batch in stream:
            waiting.append(batch)
            bad += [b._asdict() for b in batch.bad if b.modality not in fields]  # a text that is bad is bad once
            if stream.samples_seen % rows == 0 or stream.samples_seen == stream.samples:
                parts.append(_write_part(encoder, modalities, waiting, out, len(parts)))
                waiting = []
        manifest = {
            "format": FORMAT,
            "model": weights_digest(encoder),
            "modalities": modalities,
            "dim": parts[0]["dim"],
            "samples": sum(part["samples"] for part in parts),
            "shards": stream.shards.described(),
            "source": source.model_dump(),
            "parts": parts,
            "bad_samples": bad,
        }
        write_json(out / "manifest.json", manifest)
    return manifest


def weights_digest(encoder: Encoder) -> str:
    """A hash of the model's tensors: names, types, shapes and contents, in the order of the names."""
    digest = hashlib.blake2b(digest_size=16)
    hash_tensors(digest, encoder.model.state_dict())
    return digest.hexdigest()


def _write_part(
    encoder: Encoder, modalities: Sequence[str], batches: list[Batch], out: Path, number: int
) -> dict[str, Any]:
    """Embed batches and write their files; absent rows are zero vectors, and the metadata says so."""
    columns: dict[str, list[Any]] = {"key": [key for batch in batches for key in batch.keys]}
    dim = 0
    for m in modalities:
        vectors = torch.cat([_embed(encoder, m, batch) for batch in batches])
        dim = vectors.shape[1]
        name = FOLDERS.get(m, m)
        _put(out / f"{name}_emb" / f"{name}_emb_{number:04d}.npy", vectors.numpy())
        columns[f"has_{m}"] = [bool(p) for batch in batches for p in batch.present[m]]
    for name, first in batches[0].columns.items():
        if isinstance(first, list):
            columns[name] = [value for batch in batches for value in batch[name]]
    _put(out / "metadata" / f"metadata_{number:04d}.parquet", pa.table(columns))
    return {"number": number, "samples": len(columns["key"]), "dim": dim}


def _embed(encoder: Encoder, modality: str, batch: Batch) -> torch.Tensor:
    there = batch.present[modality]
    if not there.any():
        return torch.zeros(len(batch), encoder.dim)
    vectors = encoder.embed_rows(modality, batch[modality][there]).cpu()
    full = torch.zeros(len(batch), vectors.shape[1])
    full[there] = vectors
    return full


def _put(path: Path, content: np.ndarray | pa.Table) -> None:
    """A file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        if isinstance(content, np.ndarray):
            np.save(file, content)
        else:
            pq.write_table(content, file)
