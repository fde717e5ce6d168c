"""Samples to the bytes of their members, and nothing that a reader could not take up."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from webdataset.writer import make_encoder

from mmcl.errors import MmclError

PICKLED = {"pyd", "pickle", "pkl", "pth", "pt"}  # readers unpickle what has such a name
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
Encoded = tuple[str, dict[str, bytes]]  # key, extension -> bytes

_encoder = make_encoder(True)


def encode(samples: Iterable[Mapping[str, Any]]) -> Iterator[Encoded]:
    """Keys and members of samples in webdataset's form.

    Bytes pass unchanged; texts become UTF-8, and other values what webdataset makes of them by their extension (what
    JSON can hold, pictures, arrays). Names that begin with ``__`` are webdataset's own and no members.

    Raises:
        MmclError: a key or an extension that no reader would give back as it is, a sample without members, or a value
            that has no encoding or would be pickled. The message names the sample.
    """
    for number, sample in enumerate(samples):
        key = _key(sample.get("__key__"), number)
        members = {name: value for name, value in sample.items() if not str(name).startswith("__")}
        _check_extensions(key, members)
        yield key, {extension: _bytes(key, extension, value) for extension, value in members.items()}


def _key(key: Any, number: int) -> str:
    """The key, where a tar's reader would give back the same."""
    if not isinstance(key, str):
        raise MmclError(f"sample {number}: its __key__ is {key!r}; a key is a text.")
    path = PurePosixPath(key)
    if not path.parts or path.is_absolute() or str(path) != key or ".." in path.parts:
        raise MmclError(f"sample {number}: its key {key!r} is no plain relative path such as 'cat' or 'animals/cat'.")
    if "." in path.name:
        raise MmclError(
            f"sample {number}: its key {key!r} has a dot in its last part, where readers end a key at the first dot; "
            f"{key.replace('.', '_')!r} would do."
        )
    _check_letters(key, f"sample {number}: its key")
    return key


def _check_extensions(key: str, members: Mapping[Any, Any]) -> None:
    if not members:
        raise MmclError(f"sample {key!r} has no members: give it at least one extension with a value.")
    seen: dict[str, str] = {}
    for extension in members:
        if not isinstance(extension, str) or not extension.strip("."):
            raise MmclError(f"sample {key!r}: a member's extension is {extension!r}; it must be a text such as 'jpg'.")
        if extension[0] in "._" or extension[-1] == "." or "/" in extension:
            raise MmclError(
                f"sample {key!r}: the extension {extension!r} would not be read back; leave out slashes, dots at its "
                "ends and the underscore in front, which marks what webdataset does not write."
            )
        _check_letters(extension, f"sample {key!r}: the extension")
        if (other := seen.setdefault(extension.lower(), extension)) != extension:
            raise MmclError(f"sample {key!r}: {other!r} and {extension!r} are the same extension; readers ignore case.")
        if extension.rpartition(".")[2].lower() in PICKLED:
            raise MmclError(f"{key}: a .{extension} member is pickled; write json, npy or bytes under another name.")


def _check_letters(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MmclError(f"{what} {text!r} is no Unicode text; rename it.") from None
    if CONTROL.search(text):
        raise MmclError(f"{what} {text!r} has control characters; leave them out.")


def _bytes(key: str, extension: str, value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if extension.lower().endswith(".gz"):  # the time of writing would go into it
        raise MmclError(f"sample {key!r}: .{extension}: give compressed members as bytes.")
    arrays = value.values() if isinstance(value, dict) else [value]
    if any(isinstance(array, np.ndarray) and array.dtype.hasobject for array in arrays):
        raise MmclError(f"sample {key!r}: .{extension}: an array of Python objects would be pickled; write json.")
    try:
        return bytes(_encoder({extension: value})[extension])
    except Exception as error:
        raise MmclError(
            f"sample {key!r}: .{extension}: a value of type {type(value).__name__} cannot be encoded ({error}). Give "
            "bytes, or a text, or what the extension stands for, as a dict for json."
        ) from error
