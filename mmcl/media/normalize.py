"""Pixels to what an image tower expects."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.media.memory import Memory

CACHED = 1 << 17  # values that are written at a time


class Normalize(nn.Module):
    """Whole batches of uint8 pictures, normalised where they lie: ``(pixels / 255 - mean) / std``.

    Args:
        mean: per channel, of pixels in [0, 1].
        std: per channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self._memory = Memory()
        self.shade: Tensor  # for pixels from 0 to 255
        self.scale: Tensor
        self.register_buffer("shade", torch.tensor(mean).view(-1, 1, 1) * 255, persistent=False)
        self.register_buffer("scale", 1 / (torch.tensor(std).view(-1, 1, 1) * 255), persistent=False)

    def forward(
        self, rows: UInt8[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Pixels in the dtype of this module.

        On a CPU they are contiguous, channel by channel, whatever the layout of the pictures: convolutions over patches
        are faster there. Their memory is used again once nobody holds them any more, and is written a few pictures at a
        time, which stay in the cache.

        Args:
            rows: pictures.

        Raises:
            MmclError: the pictures have other channels than the mean.
        """
        if rows.ndim != 4 or rows.shape[1] != len(self.shade):
            raise MmclError(
                f"pictures of shape {tuple(rows.shape)} cannot be normalised with a mean of {len(self.shade)} "
                f"channels; give (batch, {len(self.shade)}, height, width)."
            )
        if rows.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return rows.to(self.scale.dtype, copy=True).sub_(self.shade).mul_(self.scale)
        pixels = self._memory.empty(tuple(rows.shape), self.scale.dtype)
        few = max(1, CACHED // max(1, rows[0:1].numel()))
        for source, target in zip(rows.split(few), pixels.split(few), strict=True):
            target.copy_(source).sub_(self.shade).mul_(self.scale)
        return pixels
