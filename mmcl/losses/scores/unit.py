"""What scores share: unit vectors, and a square root that stays finite."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORTEST = 1e-12  # a row that is no longer has no direction


def unit(x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
    """Rows of length one, in fp32 at least: brought there before anything is multiplied.

    A row without a direction (zero) stays as it is and gets no gradient.
    """
    return _Unit.apply(wide(x))  # type: ignore[no-any-return]


class _Unit(torch.autograd.Function):
    """Keeps its result and the lengths, and makes no other copy of the rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = torch.where(length > SHORTEST, 1 / length, 0.0)
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        y, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(g, y).unsqueeze(-1)
        return torch.addcmul(g, y, along, value=-1).mul_(inverse)


def wide(x: Tensor) -> Tensor:
    """In fp32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def floored_sqrt(x: Tensor, floor: float) -> Tensor:
    """Square root of what is at least ``floor``; below it the value stands and the gradient is zero, never infinite."""
    return x.clamp(min=floor).sqrt()
