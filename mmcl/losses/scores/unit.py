"""What scores share: unit vectors, and a square root that stays finite."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def unit(x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
    """Rows of length one, in fp32 at least: brought there before anything is multiplied. A zero row stays zero."""
    return F.normalize(wide(x), dim=-1)


def wide(x: Tensor) -> Tensor:
    """In fp32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def floored_sqrt(x: Tensor, floor: float) -> Tensor:
    """Square root of what is at least ``floor``; below it the value stands and the gradient is zero, never infinite."""
    return x.clamp(min=floor).sqrt()
