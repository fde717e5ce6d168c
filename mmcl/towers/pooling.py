"""Hidden states of tokens to one vector."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

Pool = Literal["mean", "cls", "eos", "last"]
"""Over the tokens of a text: their mean, the first, the last end token, the last one."""


def pooled(
    hidden: Float[Tensor, "batch tokens width"],
    rows: Int[Tensor, "batch tokens"],
    pool: Pool,
    eos_id: int = -1,
) -> Float[Tensor, "batch width"]:
    """One vector of each text.

    Args:
        hidden: states of the tokens.
        rows: their numbers; negative ones are padding, wherever it stands.
        pool: which states count.
        eos_id: of the end token, for ``eos``; every row has one.
    """
    there = rows >= 0
    if pool == "mean":
        return masked_mean(hidden, there).to(hidden.dtype)
    if pool == "cls":
        return _at(hidden, there.int().argmax(1))
    return _at(hidden, _last(rows == eos_id if pool == "eos" else there))


def masked_mean(
    hidden: Float[Tensor, "batch tokens width"], there: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch width"]:
    """Mean of the tokens that are there, in fp32 whatever the states are in; what stands elsewhere is not looked at."""
    return hidden.float().masked_fill(~there[:, :, None], 0).sum(1) / there.sum(1, keepdim=True)


def _last(marked: Bool[Tensor, "batch tokens"]) -> Int[Tensor, " batch"]:
    """Place of the last mark of each row."""
    places = torch.arange(marked.shape[1], device=marked.device)
    return (places * marked).amax(1)


def _at(hidden: Shaped[Tensor, "batch tokens width"], place: Int[Tensor, " batch"]) -> Shaped[Tensor, "batch width"]:
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), place]
