"""What is done with embeddings before a term sees them."""

import zlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import PlainValidator, SerializeAsAny
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.registry import Part, Registry
from mmcl.types import Embeddings


class Seen(NamedTuple):
    """What is known of a record before there is one."""

    names: list[str]
    """Modalities and their copies."""
    widths: tuple[int, ...]
    """Of the embeddings; several where transforms make several records."""


class EmbeddingTransform(nn.Module):
    """Other embeddings of the same batch.

    It sees the gathered record of the whole batch, so that what it draws and what it averages do not depend on the
    number of processes; draws come from `generator`. It returns records and their weights: a term is the weighted sum
    of its values for them. What it does not know it leaves as it is.
    """

    mixes: ClassVar[bool] = False
    """Whether its rows are mixtures of several, so that targets must be, too."""

    @classmethod
    def check(cls, said: Any, seen: Seen) -> Seen:
        """Refuse a record with which it can do nothing; what is known of those that it makes.

        Args:
            said: what a recipe says of the transform.
            seen: of the record that it gets.
        """
        for m in getattr(said, "modalities", None) or []:
            if m not in seen.names:
                raise MmclError(f"transform: {said.name}: {m!r} is not among {seen.names}.")
        return seen

    @abstractmethod
    def forward(self, embeddings: Embeddings) -> list[tuple[float, Embeddings]]:
        """Records, and their weights in the term."""

    def generator(self, embeddings: Embeddings, *words: str | int) -> torch.Generator:
        """A generator for what is drawn in this step; ``words`` tell the draws of a transform apart."""
        name = " ".join(map(str, (type(self).__name__, *words)))
        return embeddings.generator(zlib.crc32(name.encode()))


TRANSFORMS: Registry[EmbeddingTransform] = Registry("transform")
TransformPart = Annotated[SerializeAsAny[Part], PlainValidator(TRANSFORMS.check)]


def with_vectors(embeddings: Embeddings, vectors: Mapping[str, Tensor], **more: Any) -> Embeddings:
    """The record with other vectors of all rows, and so of this process's."""
    return replace(embeddings, all=vectors, local={m: x[embeddings.own] for m, x in vectors.items()}, **more)
