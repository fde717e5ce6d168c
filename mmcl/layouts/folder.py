"""The folder of a data set: annotations and media files, each by its path below it."""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcl.errors import MmclError, did_you_mean

UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\.]+")


@dataclass(frozen=True)
class File:
    """A media file of a data set."""

    path: Path

    @property
    def extension(self) -> str:
        """As a member of a sample has it."""
        return self.path.suffix.lstrip(".").lower()

    def there(self) -> bool:
        """Whether it is there and holds something."""
        return self.path.is_file() and self.path.stat().st_size > 0

    def read(self) -> bytes:
        """Its bytes, as they are."""
        return self.path.read_bytes()


@dataclass(frozen=True)
class Cut(File):
    """A part of a picture, as a PNG of the same pixels."""

    box: tuple[float, float, float, float]  # left, top, right, bottom; what lies outside of the picture is black

    @property
    def extension(self) -> str:
        """Of what `read` gives."""
        return "png"

    def read(self) -> bytes:
        """The part, in RGB.

        Raises:
            MmclError: the picture cannot be decoded.
        """
        from PIL import Image

        try:
            with Image.open(self.path) as picture:
                part = picture.convert("RGB").crop(self.box)
        except (OSError, SyntaxError) as error:
            raise MmclError(f"{self.path}: this picture cannot be read ({error}); get it again.") from None
        if not all(part.size):
            raise MmclError(f"{self.path}: the part {self.box} of this picture is empty.")
        part.save(out := io.BytesIO(), "PNG")
        return out.getvalue()


class Folder:
    """Finds the files of a data set by their paths below its folder, and knows which annotations were read.

    Args:
        root: the folder.
        holds: what it should hold, for messages.
    """

    def __init__(self, root: Path, holds: Sequence[str]) -> None:
        self.root, self.holds = root, holds
        self.read: list[Path] = []  # annotations, each once

    def media(self, *parts: str) -> File:
        """A media file that may be there or not.

        Raises:
            MmclError: the path leads out of the folder.
        """
        return File(self._below(*parts))

    def cut(self, box: tuple[float, float, float, float], *parts: str) -> Cut:
        """A part of a picture that may be there or not."""
        return Cut(self._below(*parts), box)

    def first(self, *paths: str) -> str:
        """The one of some paths that is there.

        Raises:
            MmclError: none is.
        """
        for path in paths:
            if (self.root / path).is_file():
                return path
        raise self._missing(" or ".join(paths))

    def data(self, path: str) -> bytes:
        """An annotation's bytes; those of what is compressed, where its name ends in .gz.

        Raises:
            MmclError: it is missing or cannot be read.
        """
        file = self._below(path)
        if not file.is_file():
            raise self._missing(path)
        if file not in self.read:
            self.read.append(file)
        try:
            return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        except (OSError, EOFError) as error:
            raise MmclError(f"{file} cannot be read ({error}); get it again.") from None

    def text(self, path: str) -> str:
        """An annotation's text."""
        try:
            return self.data(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise MmclError(f"{self.root / path}: this is not UTF-8 ({error}).") from None

    def lines(self, path: str) -> list[str]:
        """Lines of an annotation, without the empty ones at its end."""
        return [line.rstrip("\r") for line in self.text(path).rstrip("\r\n").split("\n")]

    def json(self, path: str, kind: type) -> Any:
        """An annotation in JSON.

        Raises:
            MmclError: it is no JSON, or of another kind (list, dict).
        """
        try:
            content = json.loads(self.text(path))
        except ValueError as error:
            raise MmclError(f"{self.root / path}: this is not JSON ({error}); get it again.") from None
        if not isinstance(content, kind):
            raise MmclError(
                f"{self.root / path}: a JSON {kind.__name__} is needed, this is a {type(content).__name__}."
            )
        return content

    def json_lines(self, path: str) -> list[dict[str, Any]]:
        """An annotation of one JSON object a line."""
        rows = []
        for number, line in enumerate(self.lines(path), 1):
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise MmclError(f"{self.root / path}, line {number}: this is no JSON object ({error}).") from None
        return rows

    def table(self, path: str, columns: Iterable[str], header: bool = True) -> list[dict[str, str]]:
        """Rows of a CSV, all cells as they are written.

        Args:
            path: below the folder.
            columns: that are needed.
            header: whether the first line names the columns; otherwise they are those that are needed, in this order.

        Raises:
            MmclError: it is missing, lacks a column, or has a row of another length.
        """
        columns = list(columns)
        reader = csv.DictReader(io.StringIO(self.text(path), newline=""), fieldnames=None if header else columns)
        missing = [column for column in columns if column not in (reader.fieldnames or [])]
        if missing:
            there = ", ".join(reader.fieldnames or [])
            raise MmclError(f"{self.root / path}: there is no column {missing[0]!r}; there are: {there}.")
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise MmclError(
                    f"{self.root / path}, line {reader.line_num}: this row has not as many cells as columns."
                )
            rows.append(row)
        return rows

    def _below(self, *parts: str) -> Path:
        path = Path(*parts)
        if path.is_absolute() or ".." in path.parts:
            raise MmclError(f"{self.root}: {str(path)!r} does not lie below this folder.")
        return self.root / path

    def _missing(self, path: str) -> MmclError:
        return MmclError(f"{self.root}: there is no {path} here. The folder holds {'; '.join(self.holds)}.")


def field(row: dict[str, Any], name: str, where: str) -> Any:
    """A field of an annotation.

    Raises:
        MmclError: there is none of this name.
    """
    if name not in row:
        raise MmclError(f"{where}: there is no {name!r}{did_you_mean(name, row)} There are: {', '.join(row)}.")
    return row[name]


def filled(pattern: str, fields: dict[str, Any], what: str) -> str:
    """A path from a pattern such as ``audio/{youtube_id}.wav``.

    Raises:
        MmclError: it names no field, or one that there is not.
    """
    try:
        made = pattern.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        raise MmclError(
            f"{what}: {pattern!r} cannot be filled in ({error}). It may name {', '.join(fields)}, each in braces."
        ) from None
    if made == pattern:
        raise MmclError(f"{what}: {pattern!r} is the same for all; name {', '.join(fields)} in braces.")
    return made


def key_of(name: str) -> str:
    """A sample's key from a name: readers of shards end a key at its first dot, so dots and slashes become ``_``.

    >>> key_of("20.45 rain")
    '20_45 rain'
    """
    return UNSAFE.sub("_", name)
