"""From a picture or a sound to one row of a batch."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.media.audio import Sound
from mmcl.media.image import Box, Picture, resize
from mmcl.media.memory import Memory
from mmcl.types import Draw, Transform

LONG = 8  # a picture whose sides differ by more than this factor is cut to it before it is resized
Crop = tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]]
CROPS = {"random": 0.0, "start": 0.0, "middle": 0.5}  # where the stretch begins, as a share of what is left out
Short = Literal["pad", "repeat", "repeat_pad", "mask"]


class ImageTransform(Transform):
    """A picture of any size to a square.

    In training (``crop``) a box is drawn and resized to the square, as torchvision's RandomResizedCrop does; otherwise
    the shorter side is resized and the middle cut out, as open_clip does for evaluation.

    Args:
        size: side of the square, in pixels.
        crop: smallest and largest share of the area that a box covers; None cuts out the middle.
        shift: the square is moved by up to this share of its side, in whole pixels; its edge fills the gap.
        exact: decode as in evaluation also in training. Otherwise a JPEG whose box stays 1.2 times as large as the
            square is decoded at 1/2, 1/4 or 1/8 of its size, for which the box moves by less than that many pixels, and
            without interpolating its colours.

    Raises:
        MmclError: a size, a share or a shift that no picture can have.
    """

    def __init__(self, size: int, crop: Crop | None = None, shift: float = 0.0, exact: bool = False) -> None:
        shares = [1.0, 1.0] if crop is None else list(crop) if isinstance(crop, Sequence) else []
        fits = len(shares) == 2 and 0 < shares[0] <= shares[1] <= 1
        if not isinstance(size, int) or size < 1 or not 0 <= shift <= 1 or not fits:
            raise MmclError(
                "ImageTransform: size must be 1 or more, crop two shares of the area (0 < least <= most <= 1) or None, "
                f"and shift from 0 to 1; got size={size}, crop={crop}, shift={shift}."
            )
        self.size, self.shift, self.exact = size, shift, exact
        self.crop: Crop | None = None if shares == [1.0, 1.0] else (shares[0], shares[1])
        self.draws = bool(self.crop or shift)
        self._memory = Memory()

    def empty(self, rows: int) -> UInt8[Tensor, "rows 3 size size"]:
        """Room for a batch; channels lie last in memory."""
        return self._memory.empty((rows, self.size, self.size, 3), torch.uint8).permute(0, 3, 1, 2)

    def __call__(self, value: Picture, draw: Draw, out: UInt8[Tensor, "3 size size"]) -> None:
        """Fill one row."""
        rng = draw() if self.draws else None
        square = out.permute(1, 2, 0)
        if rng is not None and self.crop is not None:
            box = draw_box(value.height, value.width, self.crop, rng)
            if not self.exact:
                box = value.aligned(box, self.size, self.size)
            value.resized(box, square, exact=self.exact)
        else:
            middle(value, square)
        if rng is not None and self.shift:
            move(square, self.shift, rng)


class AudioTransform(Transform):
    """A sound of any length and rate to one channel of a fixed length.

    Only the stretch that is used is decoded. Shorter sounds are filled up: with silence (``pad``), by repeating them
    to the last sample (``repeat``), by as many whole repeats as fit and then silence (``repeat_pad``, as CLAP does), or
    by NaN (``mask``), which says that nothing is there: such a batch is as long as its longest sound.

    Args:
        rate: frames per second.
        seconds: length.
        crop: where the stretch of a longer sound lies; ``random`` draws it.
        short: what fills up shorter sounds.
        multiple: of samples, to which a batch of masked sounds is as long as its longest, up to ``seconds``.
        windows: stretches of a sound, equally spread over a longer one; rows of several have one more dimension.

    Raises:
        MmclError: a rate, a length or a way that there is not.
    """

    def __init__(
        self,
        rate: int,
        seconds: float,
        crop: Literal["random", "start", "middle"] = "random",
        short: Short = "pad",
        multiple: int = 1,
        windows: int = 1,
    ) -> None:
        self.rate, self.seconds, self.crop, self.short = rate, seconds, crop, short
        self.frames = round(rate * seconds) if math.isfinite(rate * seconds) else 0
        if min(rate, self.frames, multiple, windows) < 1 or crop not in CROPS or short not in get_args(Short):
            raise MmclError(
                f"AudioTransform: rate * seconds must give one frame or more, crop be one of {', '.join(CROPS)}, short "
                f"one of {', '.join(get_args(Short))}, and multiple and windows 1 or more; got rate={rate}, "
                f"seconds={seconds}, crop={crop!r}, short={short!r}, multiple={multiple}, windows={windows}."
            )
        self.multiple, self.windows = multiple, windows
        self._memory = Memory()

    def empty(self, rows: int) -> Float[Tensor, "rows *windows frames"]:
        """Room for a batch."""
        shape = (rows, self.frames) if self.windows == 1 else (rows, self.windows, self.frames)
        return self._memory.empty(shape, torch.float32)

    def __call__(self, value: Sound, draw: Draw, out: Float[Tensor, "*windows frames"]) -> None:
        """Fill one row."""
        spare = max(value.seconds - self.seconds, 0.0)
        if self.windows > 1:
            for number, window in enumerate(out):
                self._fill(value, spare * number / (self.windows - 1), window)
        else:
            share = draw().random() if spare and self.crop == "random" else CROPS[self.crop]
            self._fill(value, spare * share, out)

    def _fill(self, value: Sound, start: float, out: Float[Tensor, " frames"]) -> None:
        stretch = value.read(self.rate, start, self.seconds + 2 / self.rate)  # resampling may round
        samples = torch.from_numpy(stretch)[: self.frames]
        count = len(samples)
        if count == 0:  # shorter than one frame at this rate
            samples, count = torch.zeros(1), 1
        repeats = {"repeat": -(-self.frames // count), "repeat_pad": self.frames // count}.get(self.short, 1)
        filled = samples.repeat(repeats)[: self.frames]
        out[: len(filled)] = filled
        out[len(filled) :] = torch.nan if self.short == "mask" else 0.0

    def finish(
        self, rows: Float[Tensor, "rows *windows frames"], present: Bool[Tensor, " rows"]
    ) -> Float[Tensor, "rows *windows longest"]:
        """Masked rows without what none of them fills."""
        longest = self.frames
        if self.short == "mask":  # nothing follows the first NaN
            filled = ~rows[present, ..., :: self.multiple].isnan()
            longest = min(max(int(filled.flatten(0, -2).any(0).sum()), 1) * self.multiple, longest)
        return super().finish(rows[..., :longest], present)


def draw_box(height: int, width: int, area: tuple[float, float], rng: np.random.Generator) -> Box:
    """A box of a share of the area and of an aspect ratio between 3/4 and 4/3, as torchvision draws it."""
    for _ in range(10):
        share, stretch, down, right = rng.random(4).tolist()
        pixels = (area[0] + (area[1] - area[0]) * share) * height * width
        ratio = (3 / 4) ** (1 - 2 * stretch)  # its logarithm is uniform
        w, h = round((pixels * ratio) ** 0.5), round((pixels / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return Box(int(down * (height - h + 1)), int(right * (width - w + 1)), h, w)
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))  # the middle, as long as is allowed
    return Box((height - h) // 2, (width - w) // 2, h, w)


def middle(picture: Picture, out: UInt8[Tensor, "size size 3"]) -> None:
    """Shorter side to the square's, then the middle: the numbers of torchvision's Resize and CenterCrop."""
    size, short, long = out.shape[0], *sorted((picture.height, picture.width))
    if short == long:
        return picture.resized(Box(0, 0, short, long), out)
    pixels = torch.from_numpy(picture.view())
    if long > LONG * short:  # or a line of 1 x 5,000 pixels would become one of 224 x 1,120,000
        cut = (long - LONG * short) // 2
        along = 0 if picture.height == long else 1
        pixels, long = pixels.narrow(along, cut, LONG * short), LONG * short
    longer = int(size * long / short)
    height, width = (longer, size) if pixels.shape[0] == long else (size, longer)
    whole = torch.empty(height, width, 3, dtype=torch.uint8)
    resize(pixels, whole)
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    out.copy_(whole[top : top + size, left : left + size])
    return None


def move(square: UInt8[Tensor, "size size 3"], share: float, rng: np.random.Generator) -> None:
    """Move a picture by whole pixels, in its place; its edge fills the gap."""
    size = square.shape[0]
    most = round(share * size)
    down, right = (int(x) for x in rng.integers(-most, most + 1, size=2))
    channels = square.permute(2, 0, 1)[None].float()
    padded = F.pad(channels, (most, most, most, most), mode="replicate")[0].to(torch.uint8)
    moved = padded[:, most - down : most - down + size, most - right : most - right + size]
    square.copy_(moved.permute(1, 2, 0))
