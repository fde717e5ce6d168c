"""What miniatures of data sets are made of: files, tables, tiny pictures and sounds."""

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image


@dataclass
class Miniature:
    """What was made."""

    args: dict[str, Any]
    expected: dict[str, dict[str, Any]]  # key -> member -> bytes, text, or what the JSON says
    annotations: list[str]  # each of which the layout cannot do without
    media: list[str] = field(default_factory=list)  # of the first sample first


def put(root: Path, name: str, content: bytes | str | list[Any] | dict[str, Any]) -> bytes:
    """Write a file below a folder."""
    data = content if isinstance(content, bytes) else content if isinstance(content, str) else json.dumps(content)
    data = data if isinstance(data, bytes) else data.encode()
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def table(root: Path, name: str, *rows: list[Any]) -> None:
    csv.writer(out := io.StringIO(), lineterminator="\n").writerows(rows)
    put(root, name, out.getvalue())


def sound(number: int) -> bytes:
    soundfile.write(out := io.BytesIO(), np.full(80, number / 100, np.float32), 8000, format="WAV")
    return out.getvalue()


def pixels(number: int) -> np.ndarray:
    """12 rows and 16 columns, every one of another colour."""
    y, x = np.mgrid[:12, :16]
    return np.stack([y * 10 + number, x * 10, np.full_like(x, number)], -1).astype(np.uint8)


def picture(number: int, kind: str = "JPEG") -> bytes:
    Image.fromarray(pixels(number)).save(out := io.BytesIO(), kind)
    return out.getvalue()
