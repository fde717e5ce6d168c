"""Embeddings of shards: written part by part, and read again."""

from mmcl.embed.plan import weights_digest
from mmcl.embed.read import Vectors
from mmcl.embed.shards import embed_shards

__all__ = ["Vectors", "embed_shards", "weights_digest"]
