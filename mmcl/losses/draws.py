"""What is drawn of the rows of a batch, the same on every process and without waiting for a device."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def permutation(there: Bool[Tensor, " rows"], generator: torch.Generator) -> Int[Tensor, " rows"]:
    """A permutation of the rows that are there, each of them equally likely; the others stay in their places."""
    drawn = torch.rand(there.shape[0], generator=generator).to(there.device, non_blocking=True)
    places = there.logical_not().to(torch.uint8).argsort(stable=True)  # of the rows that are there, then of the others
    return torch.empty_like(places).scatter(0, places, drawn.masked_fill(~there, 2.0).argsort(stable=True))
