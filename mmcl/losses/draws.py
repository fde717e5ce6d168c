"""What is drawn of the rows of a batch, the same on every process and without waiting for a device."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def shuffled(there: Bool[Tensor, " rows"], generator: torch.Generator) -> Int[Tensor, " rows"]:
    """The rows in an order that is drawn; those that are not there come last."""
    drawn = torch.rand(there.shape[0], generator=generator).to(there.device, non_blocking=True)
    return drawn.masked_fill(~there, 2.0).argsort(stable=True)


def permutation(there: Bool[Tensor, " rows"], generator: torch.Generator) -> Int[Tensor, " rows"]:
    """A permutation of the rows that are there, each of them equally likely; the others stay in their places."""
    places = there.logical_not().to(torch.uint8).argsort(stable=True)  # of the rows that are there, then of the others
    return torch.empty_like(places).scatter(0, places, shuffled(there, generator))
