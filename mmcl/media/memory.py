"""Memory of batches, used again when nobody holds them any more."""

import math
import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

KEPT = 4  # free blocks at most: a stream has as many batches under way


class Memory:
    """Gives tensors whose memory comes back when the last tensor that shares it is gone.

    Memory that is new to a process is cleared page by page when it is first written to, which costs a batch of pictures
    a tenth of its decoding.
    """

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=KEPT)

    def __reduce__(self) -> tuple[type["Memory"], tuple[()]]:
        """A copy begins with nothing: what lies here are pictures of batches that are over."""
        return Memory, ()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of whatever was there before."""
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=dtype)
        try:
            block = self._free.pop()
        except IndexError:  # asked for, not looked for: other threads give back
            block = None
        if block is None or len(block) != size:
            block = np.empty(size, np.uint8)
        held = block[:]  # the tensor keeps this view alive, whatever becomes of the tensor
        weakref.finalize(held, self._free.append, block).atexit = False
        return torch.from_numpy(held).view(dtype).view(shape)
