"""What is done with embeddings before a term sees them."""

from abc import abstractmethod
from typing import Annotated

from pydantic import PlainValidator, SerializeAsAny
from torch import nn

from mmcl.registry import Part, Registry
from mmcl.types import Embeddings


class EmbeddingTransform(nn.Module):
    """Other embeddings of the same batch.

    It sees the gathered record of the whole batch, so that what it draws and what it averages do not depend on the
    number of processes; draws come from `Embeddings.generator`. It returns records and their weights: a term is the
    weighted sum of its values for them.
    """

    @abstractmethod
    def forward(self, embeddings: Embeddings) -> list[tuple[float, Embeddings]]:
        """Records, and their weights in the term."""


TRANSFORMS: Registry[EmbeddingTransform] = Registry("transform")
TransformPart = Annotated[SerializeAsAny[Part], PlainValidator(TRANSFORMS.check)]
