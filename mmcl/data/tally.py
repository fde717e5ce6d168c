"""What a data tool did: how many of what, and which values it could not use."""

import json
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

from mmcl.files import replacing, write_json


class Tally:
    """Counts by what happened, and a list of what could not be used.

    Enter it where samples are made: when they are used up, ``out/bad_samples.jsonl`` (an object a line) and
    ``out/counts.json`` are written, and so before the manifest of `mmcl.data.write_shards` is.

    Args:
        out: the folder that the data tool writes.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> "Tally":
        self.out.mkdir(parents=True, exist_ok=True)
        self._replacing = replacing(self.out / "bad_samples.jsonl")
        self._list = self._replacing.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._replacing.__exit__(kind, error, trace)
        if error is None:
            write_json(self.out / "counts.json", dict(sorted((+self.counts).items())))

    def count(self, what: str, number: int = 1) -> None:
        """Count something."""
        self.counts[what] += number

    def bad(self, reason: str, **where: Any) -> None:
        """Count and list a value that cannot be used.

        Args:
            reason: why, in words that many values share.
            where: what names it: key, file, row.
        """
        self.counts[reason] += 1
        self._list.write(f"{json.dumps({**where, 'reason': reason}, default=str)}\n".encode())

    def read(self, path: Path, **where: Any) -> bytes | None:
        """Bytes of a file; one that is missing, empty or cannot be read is counted, listed and None."""
        try:
            data = path.read_bytes()
        except OSError as error:
            self.bad((error.strerror or type(error).__name__).lower(), **where, file=str(path))
            return None
        if not data:
            self.bad("empty file", **where, file=str(path))
        return data or None
