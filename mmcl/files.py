"""Files and folders that are either whole or not there, whatever instant a process dies at."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block ends well; otherwise ``path`` stays as it was.

    What is written goes to ``.NAME.partial`` beside it and to the disk before it is renamed. The name is fixed, so that
    whoever tries again overwrites what a killed process left: a path has one writer at a time.
    """
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sha256_of(path: str | Path) -> str:
    """Checksum of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that is whole or not there."""
    with replacing(path) as file:
        file.write(f"{json.dumps(content, indent=1)}\n".encode())


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Make a folder of files that takes the place of ``path`` when the block ends well; see `replacing`."""
    partial = _partial(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.rglob("*"):
            sync(file)
        sync(partial)
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
