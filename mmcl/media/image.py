"""Pictures: a header first, then the pixels of a crop at the size that is asked for."""

import io
import re
import threading
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmcl.errors import BadSampleError

MAX_PIXELS = 89_478_485  # a quarter of a gigabyte in RGB: the bound from which Pillow warns of decompression bombs
SCRATCH = 32 << 20  # bytes that a thread keeps for decoding
SCALES = (8, 4, 2)  # at which libjpeg decodes faster than in full
SPARE = 1.2  # a box decoded at a smaller scale is still as many times larger than what it is resized to
SIXTEEN = {"PNG", "PPM", None}  # formats of whose pixels Pillow may keep 16 bits in 32
SCALED_COLOURS = {"RGB", "YCbCr", "Gray"}
_scratch = threading.local()
Interpolation = Literal["bicubic", "bilinear"]
_RESIZES = {
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out,
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out,
}


class Box(NamedTuple):
    """A part of a picture, in its own pixels."""

    top: int
    left: int
    height: int
    width: int


class Picture:
    """An encoded or decoded picture, seen as RGB.

    JPEG is decoded by libjpeg-turbo, everything else by Pillow. Transparent parts become white, 16 bits become 8. The
    orientation that EXIF asks for is not applied, as in open_clip.

    Args:
        data: bytes of a file in any format that Pillow reads.

    Raises:
        BadSampleError: they are no picture, or one of too many pixels.
    """

    height: int
    width: int
    format: str
    """As Pillow names it; nothing where it was decoded already."""
    mode: str
    """How the file holds its colours, as Pillow names it."""

    def __init__(self, data: bytes) -> None:
        if not data:
            raise BadSampleError("empty image")
        self._data = data
        self._pixels: NDArray[np.uint8] | None = None
        self._jpeg = False
        if data[:2] == b"\xff\xd8":
            try:
                height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
                self.height, self.width = int(height), int(width)
                self._jpeg = colours in SCALED_COLOURS
                self.format, self.mode = "JPEG", "L" if colours == "Gray" else "RGB"
            except ValueError:  # Pillow may read it, or say what is wrong
                pass
        if not self._jpeg:
            with _open(data) as opened:
                self.width, self.height = opened.size
                self.format, self.mode = opened.format or "", opened.mode
        if self.height * self.width > MAX_PIXELS:
            raise BadSampleError(f"image of more than {MAX_PIXELS:,} pixels")
        if not self.height * self.width:
            raise BadSampleError("image without pixels")

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> "Picture":
        """A picture that is decoded already.

        Args:
            pixels: (height, width, 3).

        Raises:
            BadSampleError: there are none.
        """
        if not pixels.size:
            raise BadSampleError("image without pixels")
        picture = cls.__new__(cls)
        picture._data, picture._pixels, picture._jpeg = b"", np.require(pixels, requirements=["C", "W"]), False
        picture.height, picture.width = pixels.shape[:2]
        picture.format, picture.mode = "", "RGB"
        return picture

    def array(self) -> NDArray[np.uint8]:
        """All pixels: (height, width, 3).

        Raises:
            BadSampleError: the bytes cannot be decoded.
        """
        pixels = self.view()
        if self._pixels is None:
            self._pixels = pixels.copy()
        return self._pixels

    def view(self) -> NDArray[np.uint8]:
        """The same, perhaps in memory that this thread's next picture overwrites."""
        pixels = self._pixels
        if pixels is None and self._jpeg:
            pixels = self._decode_jpeg(1, fast=False)
        if pixels is None:  # Pillow decodes all of it, and several crops may be wanted
            pixels = self._pixels = _decode(self._data)
        return pixels

    def aligned(self, box: Box, height: int, width: int) -> Box:
        """The box, moved by a few pixels to where `resized` can cut it out of a picture decoded at a smaller scale.

        Args:
            box: what is wanted.
            height: that it will be resized to.
            width: that it will be resized to.
        """
        scale = self._scale(box, height, width)
        if scale == 1:
            return box
        # a cell at the lower and right edge may be cut; boxes end before it
        rows, columns = self.height // scale, self.width // scale
        h, w = min(round(box.height / scale), rows), min(round(box.width / scale), columns)
        top, left = min(box.top // scale, rows - h), min(box.left // scale, columns - w)
        return Box(top * scale, left * scale, h * scale, w * scale)

    def resized(
        self,
        box: Box,
        out: UInt8[Tensor, "height width 3"],
        exact: bool = True,
        interpolation: Interpolation = "bicubic",
    ) -> None:
        """Write a part of the picture, resized, into ``out``.

        With antialiasing, in uint8: within one grey level of Pillow's. Not exact: a JPEG whose box stays 1.2
        times as large as ``out`` may be decoded at 1/2, 1/4 or 1/8 of its size, if the box is `aligned`, and its
        colours at half the resolution are not interpolated; on photographs the mean difference to Pillow's pixels is
        below 2 of 255.

        Args:
            box: the part.
            out: where to; its shape is the size.
            exact: decode at full size, with interpolated colours.
            interpolation: how it is resized.

        Raises:
            BadSampleError: the bytes cannot be decoded.
        """
        height, width = out.shape[:2]
        shrinks = not exact and self._shrinking(box, height, width) >= SPARE
        scale = self._scale(box, height, width) if shrinks else 1
        if any(side % scale for side in box):
            scale = 1
        pixels = self._decode_jpeg(scale, fast=True) if shrinks else None
        if pixels is None:
            pixels, scale = self.view(), 1
        top, left, h, w = (side // scale for side in box)
        part = torch.from_numpy(pixels[top : top + h, left : left + w])
        if (h, w) == (height, width):
            out.copy_(part)
        else:
            resize(part, out, interpolation)

    def _scale(self, box: Box, height: int, width: int) -> int:
        shrinking = self._shrinking(box, height, width)
        return next((s for s in SCALES if shrinking >= SPARE * s), 1)

    def _shrinking(self, box: Box, height: int, width: int) -> float:
        """How many times larger a box is than what it becomes; 0 where there is no JPEG to decode."""
        if not self._jpeg or self._pixels is not None:
            return 0.0
        return min(box.height / height, box.width / width)

    def _decode_jpeg(self, scale: int, fast: bool) -> NDArray[np.uint8] | None:
        """Pixels in this thread's own memory, which the next call overwrites; None where Pillow has to try."""
        least = (-(-self.height // scale), -(-self.width // scale))
        need = 3 * least[0] * least[1]
        memory = _memory(need)
        try:
            pixels = simplejpeg.decode_jpeg(
                self._data,
                min_height=least[0] if scale > 1 else 0,
                min_width=least[1] if scale > 1 else 0,
                min_factor=scale,
                fastupsample=fast,
                buffer=memory,
            )
        except ValueError:  # damaged; Pillow forgives more, or says what is wrong
            return None
        assert pixels.shape[:2] == least, f"{pixels.shape} at 1/{scale} of {(self.height, self.width)}"
        return pixels


def _memory(need: int) -> NDArray[np.uint8]:
    """Memory of this thread, used again and again; a large picture has some of its own, which is given back."""
    if need > SCRATCH:
        return np.empty(need, np.uint8)
    if getattr(_scratch, "size", 0) < need:
        _scratch.size, _scratch.memory = need, np.empty(need, np.uint8)
    return _scratch.memory


def resize(
    part: UInt8[Tensor, "from_height from_width 3"],
    out: UInt8[Tensor, "height width 3"],
    interpolation: Interpolation = "bicubic",
) -> None:
    """Antialiased, in uint8, without a copy in another layout (which is why the operator is called itself)."""
    operator = _RESIZES[interpolation]
    operator(part.permute(2, 0, 1)[None], list(out.shape[:2]), False, None, None, out=out.permute(2, 0, 1)[None])


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadSampleError(f"image of more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:
        raise BadSampleError(f"image cannot be decoded ({_said(error)})") from None


def _decode(data: bytes) -> NDArray[np.uint8]:
    with _open(data) as opened:
        return decoded(opened)


def decoded(picture: Image.Image) -> NDArray[np.uint8]:
    """All pixels of a Pillow picture, as RGB: (height, width, 3).

    Raises:
        BadSampleError: they cannot be decoded.
    """
    try:
        return np.array(rgb(picture))
    except BadSampleError:
        raise
    except Exception as error:  # Pillow's readers raise whatever they meet
        raise BadSampleError(f"image cannot be decoded ({_said(error)})") from None


def _said(error: Exception) -> str:
    """Pillow's words, without what differs from file to file, so that equal reasons are counted together."""
    words = re.sub(r"\d+", "N", re.sub(r"\s*[<(].*", "", str(error)))
    return words if isinstance(error, OSError) and words else type(error).__name__


def rgb(picture: Image.Image) -> Image.Image:
    """A Pillow picture as RGB: transparent parts white, 16 bits brought to 8.

    Raises:
        BadSampleError: its pixels are numbers of 32 bits, whose black and white nobody knows.
    """
    if picture.mode == "F" or (picture.mode == "I" and picture.format not in SIXTEEN):
        raise BadSampleError("image of 32 bits a channel; write it with 8 or 16")
    if picture.mode.startswith("I"):  # 16 bits a pixel, whatever Pillow keeps them in
        wide = np.asarray(picture).astype(np.int64)
        if picture.mode == "I" and picture.format is None and wide.max(initial=0) < 256:
            raise BadSampleError("image in Pillow's mode I, of numbers below 256: convert it to L, or to I;16")
        picture = Image.fromarray((wide.clip(0, 65535) // 257).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")
