"""MNIST's form: pictures of 28 by 28 grey pixels and labels in IDX files, as Fashion-MNIST has it, too."""

import io
import math
import struct
from collections.abc import Iterator
from functools import partial
from typing import Literal

import numpy as np

from mmcl.errors import MmclError
from mmcl.layouts.base import LAYOUTS, Later, Layout, Row
from mmcl.layouts.folder import Folder

UNSIGNED_BYTE = 8  # of IDX, the third byte of a file


@LAYOUTS.register("mnist")
class Mnist(Layout):
    """IDX files of MNIST, Fashion-MNIST and the like (``t10k-images-idx3-ubyte``), compressed (``.gz``) or not.

    A sample has the picture (``png``, grey, the same pixels) and ``cls``, its label: ``0`` to ``9``.

    Args:
        split: ``test`` (files that begin with t10k) or ``train``.

    Reference:
        LeCun et al., http://yann.lecun.com/exdb/mnist/; Xiao et al., "Fashion-MNIST: a Novel Image Dataset for
        Benchmarking Machine Learning Algorithms", 2017. https://arxiv.org/abs/1708.07747
    """

    def __init__(self, split: Literal["test", "train"] = "test") -> None:
        self.split = split
        self.stem = {"test": "t10k", "train": "train"}[split]

    def holds(self) -> list[str]:
        """The two files of the split."""
        return [f"{self.stem}-images-idx3-ubyte.gz", f"{self.stem}-labels-idx1-ubyte.gz"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a picture, in the order of the file."""
        pictures, labels = (_idx(folder, path.removesuffix(".gz")) for path in self.holds())
        if pictures.ndim != 3 or labels.ndim != 1 or len(pictures) != len(labels):
            raise MmclError(
                f"{folder.root}: pictures of shape {pictures.shape} and labels of shape {labels.shape} do not belong "
                "together."
            )
        for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            yield {"__key__": f"{self.split}_{number:05d}", "png": Later(partial(png, picture)), "cls": str(label)}


def png(picture: np.ndarray) -> bytes:
    """A picture of uint8 pixels as PNG."""
    from PIL import Image

    Image.fromarray(picture).save(out := io.BytesIO(), "PNG")
    return out.getvalue()


def _idx(folder: Folder, name: str) -> np.ndarray:
    """Content of an IDX file of bytes: two zeros, the type, the count of dimensions, their sizes, the values."""
    path = folder.first(f"{name}.gz", name)
    data = folder.data(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != UNSIGNED_BYTE or len(data) < 4 + 4 * data[3]:
        raise MmclError(f"{folder.root / path}: this is no IDX file of unsigned bytes; get it again.")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if len(values) != math.prod(shape):
        raise MmclError(f"{folder.root / path}: {len(values)} bytes, where {shape} are promised; get it again.")
    return values.reshape(shape)
