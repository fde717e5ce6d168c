"""Heads: from a backbone's vectors to the shared space."""

from abc import ABC, abstractmethod
from typing import Annotated

from pydantic import Field, PlainValidator, SerializeAsAny
from torch import nn

from mmcl.errors import MmclError
from mmcl.registry import Part, Registry

Width = Annotated[int, Field(ge=1)]


class Head(ABC):
    """Makes the module that brings vectors of one width to another one."""

    @abstractmethod
    def between(self, width: int, dim: int) -> nn.Module:
        """The module.

        Args:
            width: of the backbone's vectors.
            dim: of the shared space.
        """


HEADS: Registry[Head] = Registry("head")
HeadPart = Annotated[SerializeAsAny[Part], PlainValidator(HEADS.check)]


@HEADS.register("none")
class NoHead(Head):
    """The backbone's vectors as they are.

    Use when: the shared space is that of a frozen tower, as in LiT.
    Expects: a backbone as wide as the shared space.
    Returns: its vectors.
    """

    def between(self, width: int, dim: int) -> nn.Module:
        """Nothing."""
        if width != dim:
            raise MmclError(
                f"head: the backbone's vectors have {width} numbers and the shared space {dim}; take head: linear, or "
                f"dim: {width}."
            )
        return nn.Identity()


@HEADS.register("linear")
class Linear(Head):
    r"""One matrix.

    .. math:: z = W x \; (+ b)

    Use when: nothing speaks for another one; what CLIP has.
    Expects: (batch, width) vectors.
    Returns: (batch, dim) vectors.

    Args:
        bias: add a vector.
    """

    def __init__(self, bias: bool = False) -> None:
        self.bias = bias

    def between(self, width: int, dim: int) -> nn.Module:
        """The matrix."""
        return nn.Linear(width, dim, bias=self.bias)


@HEADS.register("norm_linear")
class NormLinear(Linear):
    r"""Layer normalisation, then one matrix.

    .. math:: z = W \, \mathrm{LayerNorm}(x) \; (+ b)

    Use when: the backbone ends without a normalisation, or its vectors are ready ones of any scale (ImageBind's heads).
    Expects: (batch, width) vectors.
    Returns: (batch, dim) vectors.

    Args:
        bias: add a vector.
    """

    def between(self, width: int, dim: int) -> nn.Module:
        """Both."""
        return nn.Sequential(nn.LayerNorm(width), super().between(width, dim))


@HEADS.register("mlp")
class Mlp(Head):
    r"""A perceptron of one hidden layer.

    .. math:: z = W_2 \, \mathrm{GELU}(W_1 x + b_1) \; (+ b_2)

    Use when: the backbone is frozen, and a matrix alone cannot turn its space into the shared one (LAION-CLAP's heads).
    Expects: (batch, width) vectors.
    Returns: (batch, dim) vectors.

    Args:
        hidden: width of the hidden layer; that of the shared space unless told.
        dropout: share of the hidden layer that is left out in training.
        bias: add vectors.
    """

    def __init__(
        self, hidden: Width | None = None, dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0, bias: bool = True
    ) -> None:
        self.hidden, self.dropout, self.bias = hidden, dropout, bias

    def between(self, width: int, dim: int) -> nn.Module:
        """The layers."""
        hidden = self.hidden or dim
        return nn.Sequential(
            nn.Linear(width, hidden, bias=self.bias),
            nn.GELU(),
            *([nn.Dropout(self.dropout)] if self.dropout else []),
            nn.Linear(hidden, dim, bias=self.bias),
        )
