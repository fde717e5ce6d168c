"""Vectors of tasks in the user's cache, found again by what they are made of."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mmcl import distributed
from mmcl.data import Source, Stream
from mmcl.data.index import signature, user_cache
from mmcl.data.remote import is_remote
from mmcl.data.shards import is_pipe
from mmcl.data.source import Selector
from mmcl.model import Encoder, hash_tensors
from mmcl.tasks.columns import BLOCK, Column
from mmcl.towers.preparation import preparation
from mmcl.types import Bad

FORMAT = 1
GIGABYTES = 20.0
NEAR = 1e-3  # that the vector of a probe may differ on another machine
PROBES: Mapping[str, Any] = {
    "image": (7 * np.arange(120 * 96 * 3, dtype=np.uint32)).astype(np.uint8).reshape(120, 96, 3),
    "text": "a photo of a cat on a red chair",
    "audio": (np.sin(np.arange(48_000, dtype=np.float32) ** 1.2 / 40) / 2, 48_000),
}
"""A value of each kind, which the model embeds anew whenever it takes vectors from the cache."""


class Maker(NamedTuple):
    """What makes a column: a tower, and how its input is prepared."""

    digest: str
    """A hash of the tower's tensors and modules, and of the preparation."""
    probe: torch.Tensor
    """The vector that it makes of a value that is the same each time."""


class VectorStore:
    """A folder of vectors, by model, shards and preparation.

    A column is found by a hash of the tower's tensors, of how its input is prepared, and of the shards it was made of;
    and it is taken only where the model still makes the same vector of a probe, so that a model that changed in any
    other way (its settings, a library below it) does not meet vectors that it would not make. When the folder holds
    more than it may, what was not used for the longest time goes.

    Args:
        folder: where; ``embeddings`` in the user's cache (``MMCL_CACHE``) unless told.
        gigabytes: that it may hold.
    """

    def __init__(self, folder: Path | None = None, gigabytes: float = GIGABYTES) -> None:
        self.folder = folder or user_cache() / "embeddings"
        self.limit = int(gigabytes * 1e9)

    def load(self, key: str, made_by: Maker) -> Column | None:
        """The column, if it is there, whole, and of a model that still makes the same vector of a probe."""
        column, path = None, self._path(key)
        with contextlib.suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
            with safe_open(path, "pt") as file:
                vectors, owner, probe = (file.get_tensor(tensor) for tensor in ("vectors", "owner", "probe"))
                bad = [Bad(*one) for one in json.loads(file.metadata()["bad"])]
            with contextlib.suppress(OSError):  # of a folder that can only be read
                os.utime(path)
            if torch.allclose(probe, made_by.probe, atol=NEAR):
                column = Column(vectors, owner, bad)
        return column

    def save(self, key: str, column: Column, made_by: Maker) -> None:
        """Keep a column; where the folder cannot be written, it is made again the next time."""
        path = self._path(key)
        tensors = {"vectors": column.vectors, "owner": column.owner, "probe": made_by.probe}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
                try:
                    file.write(save(tensors, {"bad": json.dumps(column.bad)}))
                    file.flush()
                    os.replace(file.name, path)  # another process may write the same one
                except BaseException:
                    os.unlink(file.name)
                    raise
            self._make_room(path)
        except OSError:
            return

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _make_room(self, kept: Path) -> None:
        files = sorted((p for p in self.folder.glob("*/*.safetensors") if p != kept), key=lambda p: p.stat().st_mtime)
        over = sum(p.stat().st_size for p in (*files, kept)) - self.limit
        for path in files:
            if over <= 0:
                return
            over -= path.stat().st_size
            path.unlink(missing_ok=True)


def maker(encoder: Encoder, modality: str, texts: Sequence[str] = ()) -> Maker:
    """What makes the vectors of a modality.

    Args:
        encoder: the model.
        modality: whose tower.
        texts: that it embeds: what its tokenizer makes of them says more of it than any description.
    """
    tower = encoder.model.tower(modality)
    digest = hashlib.blake2b(repr(tower).encode(), digest_size=20)
    digest.update(repr(preparation(encoder.transforms[modality], tower.backbone)).encode())
    for start in range(0, len(texts), BLOCK):
        digest.update(encoder.rows(modality, texts[start : start + BLOCK]).numpy().tobytes())
    hash_tensors(digest, tower.state_dict())
    return Maker(digest.hexdigest(), _probe(encoder, modality))


def column_key(made_by: Maker, source: Source, name: str, view: str | None, shards: Sequence[Any]) -> str:
    """By which a column is found again.

    Args:
        made_by: what makes it.
        source: says where the modality lies.
        name: of the modality.
        view: another look at it.
        shards: `identities` of them.
    """
    every = source.captions == "all" and Selector.parse(source.modalities[name], name).is_text
    lies = [source.modalities[name], "all" if every else "first"]
    said = [FORMAT, BLOCK, made_by.digest, lies, view, shards]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=20).hexdigest()


def identities(stream: Stream) -> list[Any]:
    """What tells whether shards are those of before: their indexes, their ends, and when local ones were written."""
    return [_identity(stream, number) for number in range(len(stream.shards.listed))]


def _identity(stream: Stream, number: int) -> list[Any]:
    listed = stream.shards.listed[number]
    if is_pipe(listed.url):
        return [listed.url, os.getpid(), distributed.rank()]  # what it gives cannot be known before
    path = stream.shards.path(number)
    written = listed.sha256 if is_remote(listed.url) else path.stat().st_mtime_ns
    return [stream.shards.open(number).index.digest, signature(path), written]


def _probe(encoder: Encoder, modality: str) -> torch.Tensor:
    """The vector of a value that is the same each time."""
    takes = encoder.takes(modality)
    if takes == "vector":
        width = encoder.transforms[modality].empty(1).shape[1]
        return encoder.embed(modality, np.linspace(-1, 1, width, dtype=np.float32)[None])
    return encoder.embed(modality, [PROBES[takes]])
