"""What is told of one value: numbers, and kinds of which many values are."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from scipy.fft import dctn
from torch import Tensor

from mmcl.data_stats.languages import script, teller
from mmcl.data_stats.tokens import tokens
from mmcl.media import Picture, Sound
from mmcl.media.image import Box, resize

HASHED, KEPT = 32, 8  # pixels a side that a picture is made for its look, and frequencies of them that count
LARGE = 256  # pixels a side from which a picture is first made half of that, by a JPEG's own scales
FLAT = 4.0  # grey levels: contrast below which a picture shows nothing
GREY = np.array([0.299, 0.587, 0.114], np.float32)
NUMBERS: dict[str, dict[str, Any]] = {
    "picture": {"hash": np.uint64, "look": np.uint64, "flat": np.bool_, "width": np.uint32, "height": np.uint32},
    "sound": {"hash": np.uint64, "seconds": np.float32},
    "text": {"hash": np.uint64, "characters": np.uint32, "words": np.uint32, "tokens": np.uint32},
    "vector": {"hash": np.uint64, "numbers": np.uint32},
}
"""Kind of a value -> its numbers, and how they are kept."""


class Asked(NamedTuple):
    """What is asked for beside what is always told."""

    tokenizer: str | None = None
    context_length: int | None = None
    looks: bool = True
    """Whether pictures are decoded, to see which look alike."""


class Told(NamedTuple):
    """What is told of a value."""

    kind: str
    numbers: dict[str, float]
    kinds: dict[str, str]


def told(value: Picture | Sound | Tensor | str, data: bytes, asked: Asked) -> Told:
    """What is told of a decoded value: from its header, but for what pictures look like.

    Args:
        value: decoded.
        data: its bytes.
        asked: what is to be told.

    Raises:
        BadSampleError: a picture's pixels cannot be decoded.
    """
    if isinstance(value, str):
        counted = {"tokens": tokens(asked.tokenizer, asked.context_length).of(value)} if asked.tokenizer else {}
        numbers = {"hash": hash64(value.encode()), "characters": len(value), "words": len(value.split()), **counted}
        language = teller()
        return Told("text", numbers, ({"language": language(value)} if language else {}) | {"script": script(value)})
    numbers: dict[str, float] = {"hash": hash64(data)}
    if isinstance(value, Picture):
        numbers |= {"width": value.width, "height": value.height}
        if asked.looks:
            numbers["look"], numbers["flat"] = look(value)
        return Told("picture", numbers, {"format": value.format, "mode": value.mode})
    if isinstance(value, Sound):
        said = {"format": value.format, "sample rate": f"{value.rate:,} Hz", "channels": str(value.channels)}
        return Told("sound", {**numbers, "seconds": value.seconds}, said)
    return Told("vector", {**numbers, "numbers": value.numel()}, {"shape": " × ".join(map(str, value.shape)) or "1"})


def hash64(data: bytes) -> int:
    """Eight bytes of BLAKE2: the chance that two of 10 million different values agree is 3 in a million."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def look(picture: Picture) -> tuple[int, bool]:
    """A perceptual hash, and whether the picture is flat.

    64 bits: which of the lowest 8 x 8 frequencies of 32 x 32 grey pixels lie above their median. Pictures that were
    scaled or compressed again differ in few bits. A large JPEG is decoded at a smaller scale, which costs 1 % of what
    is found; the smallest that suffices for 32 pixels would cost 25 %.

    Raises:
        BadSampleError: the pixels cannot be decoded.

    Reference:
        Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1.
    """
    small = torch.empty(HASHED, HASHED, 3, dtype=torch.uint8)
    box = Box(0, 0, picture.height, picture.width)
    if min(picture.height, picture.width) < LARGE:
        picture.resized(box, small)
    else:
        middle = torch.empty(LARGE // 2, LARGE // 2, 3, dtype=torch.uint8)
        picture.resized(picture.aligned(box, *middle.shape[:2]), middle, exact=False)
        resize(middle, small)
    grey = _grey(small)
    low = np.asarray(dctn(grey))[:KEPT, :KEPT]
    bits = np.packbits(low > np.median(low))
    return int.from_bytes(bits.tobytes(), "little"), bool(grey.max() - grey.min() < FLAT)


def _grey(pixels: UInt8[Tensor, "height width 3"]) -> NDArray[np.float32]:
    return pixels.numpy().astype(np.float32) @ GREY
