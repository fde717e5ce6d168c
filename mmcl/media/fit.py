"""From a whole picture to a square, the ways in which libraries prepare pictures for evaluation."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from mmcl.media.image import Box, Interpolation, Picture, resize

LONG = 8  # a picture whose sides differ by more than this factor is cut to it before it is resized
Resize = Literal["shortest", "longest", "squash"]


@dataclass(frozen=True)
class Fit:
    """How a whole picture becomes a square.

    Args:
        resize: whether the shorter side is resized to the square's, and the middle cut out; or the longer one, and the
            rest filled; or both, and proportions change.
        interpolation: how; both are antialiased.
        resized: what a side is resized to, where it is not the square's: of more the middle is cut out, less is filled
            up (timm's ``crop_pct``: ``floor(size / crop_pct)``).
        floor: where half a pixel is left over, cut at the lower one, as transformers does; otherwise round, as
            torchvision does.
        fill: colour of what is filled up.
    """

    resize: Resize = "shortest"
    interpolation: Interpolation = "bicubic"
    resized: int | None = None
    floor: bool = False
    fill: tuple[int, int, int] = (0, 0, 0)

    def __call__(self, picture: Picture, out: UInt8[Tensor, "size size 3"]) -> None:
        """Write the square."""
        size, side = out.shape[0], self.resized or out.shape[0]
        height, width = self._resized(picture.height, picture.width, side)
        if height == width == size:
            return picture.resized(Box(0, 0, picture.height, picture.width), out, interpolation=self.interpolation)
        pixels = torch.from_numpy(picture.view())
        short, long = sorted(pixels.shape[:2])
        if self.resize == "shortest" and long > LONG * short:  # or 1 x 5,000 pixels would become 224 x 1,120,000
            along = 0 if pixels.shape[0] == long else 1
            pixels = pixels.narrow(along, (long - LONG * short) // 2, LONG * short)
            height, width = self._resized(pixels.shape[0], pixels.shape[1], side)
        whole = torch.empty(height, width, 3, dtype=torch.uint8)
        resize(pixels, whole, self.interpolation)
        self._place(whole, out)
        return None

    def _resized(self, height: int, width: int, side: int) -> tuple[int, int]:
        """Size of the picture once it is resized."""
        if self.resize == "squash":
            return side, side
        if self.resize == "longest":
            ratio = max(height, width) / side
            return max(round(height / ratio), 1), max(round(width / ratio), 1)
        longer = int(side * max(height, width) / min(height, width))
        return (longer, side) if height > width else (side, longer)

    def _place(self, whole: UInt8[Tensor, "height width 3"], out: UInt8[Tensor, "size size 3"]) -> None:
        """Cut out the middle, or put the picture into it."""
        size = out.shape[0]
        if min(whole.shape[:2]) < size:
            out.copy_(torch.tensor(self.fill, dtype=torch.uint8).expand_as(out))
        here, there = [], []
        for length in whole.shape[:2]:
            spare, missing = max(length - size, 0), max(size - length, 0)
            start = spare // 2 if self.floor else round(spare / 2.0)
            here.append(slice(missing // 2, missing // 2 + length - spare))
            there.append(slice(start, start + length - spare))
        out[here[0], here[1]] = whole[there[0], there[1]]
