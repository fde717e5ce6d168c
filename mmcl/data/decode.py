"""Bytes of a member to a value: an image tensor or a text."""

import io
import json
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from mmcl.data.shards import Members, ShardIndex
from mmcl.errors import MmclError

IMAGES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm"}
TEXTS = {"txt", "text", "caption", "cls"}


class BadSampleError(Exception):
    """One value of one sample cannot be used; its text is the reason."""


@dataclass(frozen=True)
class Selector:
    """Where a modality lies in a sample, from what a recipe says.

    ``jpg;png`` is the first of these members that a sample has; ``json:caption`` a field of a JSON member, ``json`` all
    of it as text.
    """

    extensions: tuple[str, ...]
    field: str | None

    @classmethod
    def parse(cls, said: str, where: str) -> "Selector":
        """Read ``jpg;png`` or ``json:caption``.

        Raises:
            MmclError: it is neither, or mmcl has no decoder for it.
        """
        members, _, field = said.partition(":")
        extensions = tuple(part.strip().lstrip(".").lower() for part in members.split(";"))
        unknown = [e for e in extensions if e not in (IMAGES | TEXTS | {"json"})]
        if unknown or (field and extensions != ("json",)):
            raise MmclError(
                f"{where}: {said!r} does not say where a modality lies. Write members, as in `jpg;png` "
                f"({', '.join(sorted(IMAGES | TEXTS))}), or a field of a JSON member, as in `json:caption`."
            )
        return cls(extensions, field or None)

    def find(self, members: Members) -> str | None:
        """Extension of the member to read, if the sample has one."""
        return next((extension for extension in self.extensions if extension in members), None)

    def load(self, index: ShardIndex, key: str) -> Any:
        """Value of one sample.

        Raises:
            BadSampleError: it is not there or cannot be decoded.
        """
        extension = self.find(index.samples[key])
        if extension is None:
            raise BadSampleError(f"no {' or '.join(self.extensions)}")
        data = index.read(key, extension)
        if self.field is not None:
            return json_field(data, self.field)
        return image(data) if extension in IMAGES else text(data)


def image(data: bytes) -> UInt8[Tensor, "3 height width"]:
    """RGB picture from the bytes of any format that Pillow reads."""
    if not data:
        raise BadSampleError("empty image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data)).convert("RGB")
    except Exception as error:
        raise BadSampleError(f"image cannot be decoded ({type(error).__name__})") from None
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def text(data: bytes) -> str:
    """Text from UTF-8."""
    try:
        value = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise BadSampleError("text is not UTF-8") from None
    if not value:
        raise BadSampleError("empty text")
    return value


def json_field(data: bytes, field: str) -> str:
    """A field of a JSON object, as text."""
    try:
        record = json.loads(data)
    except ValueError:
        raise BadSampleError("JSON cannot be read") from None
    value = record.get(field) if isinstance(record, dict) else None
    if not isinstance(value, str | int | float) or value == "":
        raise BadSampleError(f"no text in JSON field {field!r}")
    return str(value)
