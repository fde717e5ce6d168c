"""Pixels to what an image tower expects."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mmcl.errors import MmclError


class Normalize(nn.Module):
    """Whole batches of uint8 pictures, normalised where they lie: ``(pixels / 255 - mean) / std``.

    Args:
        mean: per channel, of pixels in [0, 1].
        std: per channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.shade: Tensor  # for pixels from 0 to 255
        self.scale: Tensor
        self.register_buffer("shade", torch.tensor(mean).view(-1, 1, 1) * 255, persistent=False)
        self.register_buffer("scale", 1 / (torch.tensor(std).view(-1, 1, 1) * 255), persistent=False)

    def forward(
        self, rows: UInt8[Tensor, "batch channels height width"], out: Float[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Pixels in the dtype of this module.

        Args:
            rows: pictures.
            out: where to write; new memory unless told.

        Raises:
            MmclError: the pictures have other channels than the mean, or ``out`` has another shape.
        """
        pixels = torch.empty_like(rows, dtype=self.scale.dtype) if out is None else out
        if rows.ndim != 4 or rows.shape[1] != len(self.shade) or pixels.shape != rows.shape:
            raise MmclError(
                f"pictures of shape {tuple(rows.shape)} cannot be normalised into {tuple(pixels.shape)} with a mean of "
                f"{len(self.shade)} channels; give (batch, {len(self.shade)}, height, width), and `out` of that shape."
            )
        last = all(x.is_contiguous(memory_format=torch.channels_last) for x in (rows, pixels))
        if not last or rows.device.type != "cpu" or torch.compiler.is_compiling():
            return pixels.copy_(rows).sub_(self.shade).mul_(self.scale)
        # a picture at a time stays in the cache, and constants as long as a line of pixels make the loop a vector one
        shade, scale = (x.flatten().repeat(rows.shape[-1]) for x in (self.shade, self.scale))
        for source, target in zip(rows.permute(0, 2, 3, 1), pixels.permute(0, 2, 3, 1), strict=True):
            target.view(-1, len(shade)).copy_(source.reshape(-1, len(shade))).sub_(shade).mul_(scale)
        return pixels
