"""Texts to rows of token numbers."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Int

from mmcl.errors import BadSampleError
from mmcl.types import Draw, Transform

PADDING = -1
"""Of rows of tokens; the mask of a row is ``rows >= 0``."""


class TextTransform(Transform):
    """A text to a row of token numbers.

    Args:
        tokens: a text to its token numbers, special ones included, at most ``length``.
        length: of the longest row.
        padding: what stands after the last token.
        whole: keep rows as long as the longest may be rather than as long as the longest of a batch is.
    """

    def __init__(
        self, tokens: Callable[[str], Sequence[int]], length: int, padding: int = PADDING, whole: bool = False
    ) -> None:
        self.tokens, self.length, self.padding, self.whole = tokens, length, padding, whole

    def empty(self, rows: int) -> Int[torch.Tensor, "rows tokens"]:
        """Padding."""
        return torch.full((rows, self.length), self.padding)

    def __call__(self, value: str, draw: Draw, out: Int[torch.Tensor, " tokens"]) -> None:
        """Fill one row."""
        try:
            value.encode()
        except UnicodeEncodeError:  # which no tokenizer could take
            raise BadSampleError("the text holds half a character (a lone surrogate)") from None
        tokens = self.tokens(value)
        if not len(tokens):
            raise BadSampleError("the tokenizer finds no token in the text")
        out[: len(tokens)] = torch.tensor(tokens)

    def finish(
        self, rows: Int[torch.Tensor, "rows tokens"], present: Bool[torch.Tensor, " rows"]
    ) -> Int[torch.Tensor, "rows longest"]:
        """Rows without the columns in which all are padding."""
        if self.whole:
            return rows
        used = (rows != self.padding).any(0).nonzero()
        return rows[:, : int(used[-1]) + 1] if len(used) else rows[:, :1]
