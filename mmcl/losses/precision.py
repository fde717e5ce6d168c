"""Where the maths of objectives happens: never in half precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device, exact: bool = False) -> Iterator[None]:
    """No autocast; for ``exact``, no TF32 either, which would ruin differences of near numbers."""
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda" or not exact:
            yield
            return
        matmul = torch.backends.cuda.matmul
        name, full = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
        before = getattr(matmul, name)
        setattr(matmul, name, full)
        try:
            yield
        finally:
            setattr(matmul, name, before)
