"""Shards from a table (CSV, TSV, Parquet, JSON lines) whose columns hold paths of files and texts."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mmcl.data import Tally, expand, read_rows, write_shards
from mmcl.errors import MmclError, did_you_mean

TRIED = 1000  # files, none of which is there, are a mistake in the paths
Columns = list[tuple[str, str]]  # member, or nothing where the file's own suffix says it; column


def columns(said: list[str], member: str) -> Columns:
    """``column`` or ``member=column``."""
    pairs = [one.rpartition("=") for one in said]
    return [(name or member, column) for name, _, column in pairs]


def plain(value: Any, column: str) -> Any:
    """What JSON can hold: no number stays null, and times become texts."""
    if isinstance(value, dict):
        return {str(key): plain(one, column) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one, column) for one in value]
    if isinstance(value, bytes):
        raise MmclError(f"the column {column!r} holds bytes: make them a member, as in --files jpg={column}.")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def check_columns(first: dict[str, Any], wanted: list[str]) -> None:
    """Refuse, before anything is written, a column that the first row does not have."""
    for column in wanted:
        if column not in first:
            hint = did_you_mean(column, first)
            raise MmclError(f"the table has no column {column!r}{hint} Its first row has: {', '.join(first)}.")


class Maker:
    """Makes samples of rows, and tells the tally what is missing."""

    def __init__(self, files: Columns, text: Columns, key: str | None, tally: Tally) -> None:
        self.files, self.text, self.key, self.tally = files, text, key, tally
        self.found = self.missing = 0
        self.last = Path()  # of the missing files

    def sample(self, number: int, row: dict[str, Any], root: Path) -> tuple[dict[str, Any], bool]:
        """The sample of a row, and whether it is whole."""
        key = f"{number:09d}" if self.key is None else row.get(self.key)
        members: dict[str, Any] = {}
        for member, column in self.files:
            self._add(members, *self._file(member, column, row.get(column), root, key))
        for member, column in self.text:
            value = row.get(column)
            if value is None or not str(value).strip():
                self.tally.bad("no text", key=key, column=column)
            elif not isinstance(value, str | int | float):
                raise MmclError(f"row {number}: {column!r} holds a {type(value).__name__}, not a text.")
            else:
                self._add(members, member, str(value), column)
        whole = len(members) == len(self.files) + len(self.text)
        used = {self.key, *(column for _, column in (*self.files, *self.text))}
        if rest := {name: plain(value, name) for name, value in row.items() if name not in used}:
            self._add(members, "json", json.dumps(rest, ensure_ascii=False, allow_nan=False).encode(), "the others")
        return {"__key__": key if key is None else str(key), **members}, whole

    def _add(self, members: dict[str, Any], member: str, value: Any, column: str) -> None:
        if value is None:
            return
        if not member or member in members:
            raise MmclError(
                f"the member of {column!r} would be called {member!r}, which is {'taken' if member else 'no name'}; "
                f"say its name, as in --files depth.png={column}."
            )
        members[member] = value

    def _file(self, member: str, column: str, value: Any, root: Path, key: Any) -> tuple[str, bytes | None, str]:
        """Member, bytes and column: of a file, or of bytes that stand in the table itself."""
        if not value:
            self.tally.bad("no path", key=key, column=column)
            return member, None, column
        path = root / ("" if isinstance(value, bytes) else str(value))
        data = value if isinstance(value, bytes) else self.tally.read(path, key=key, column=column)
        self.found, self.missing = self.found + (data is not None), self.missing + (data is None)
        if data is None:
            self.last = path
            if self.missing == TRIED:
                self.check_root()
        return member or path.suffix[1:].lower(), data, column

    def check_root(self) -> None:
        """Refuse a table of whose files none is there."""
        if self.missing and not self.found:
            raise MmclError(
                f"none of the first {self.missing} files is there; the last was {self.last}. Say where, with --root."
            )


def build(
    out: Path,
    table: str,
    *,
    files: list[str] | None = None,
    text: list[str] | None = None,
    key: str | None = None,
    root: Path | None = None,
    incomplete: Literal["write", "skip"] = "write",
    samples_per_shard: int = 1000,
    bytes_per_shard: int | None = None,
) -> None:
    """Make shards of a table: a row is a sample.

    Columns with paths become members with the files' own suffixes, columns with texts become txt, and all other
    columns together become json. Values that are missing are counted (counts.json) and listed (bad_samples.jsonl).

    Args:
        out: folder to make.
        table: .csv, .tsv, .parquet or .jsonl files: braces, globs.
        files: a column with paths (or, in Parquet, with the files' bytes); jpg=column also says the member's name.
        text: a column with texts; caption=column also says the member's name.
        key: column of the samples' keys; the number of the row unless told.
        root: folder that paths start from; that of the table unless told.
        incomplete: what becomes of a row without one of its files or texts: write it without, or skip it.
        samples_per_shard: a shard that has so many is full.
        bytes_per_shard: a shard that has reached so many bytes is full.
    """
    file_columns, text_columns = columns(files or [], ""), columns(text or [], "txt")
    tables = [Path(path) for path in expand(table)]
    if not tables:
        raise MmclError(f"no tables match {table!r}.")

    def samples() -> Iterator[dict[str, Any]]:
        with Tally(out) as tally:
            maker = Maker(file_columns, text_columns, key, tally)
            numbered = enumerate((path, row) for path in tables for row in read_rows(path))
            for number, (path, row) in numbered:
                if number == 0 or path.suffix not in (".jsonl", ".ndjson"):  # where a row may leave columns out
                    check_columns(row, [c for _, c in (*file_columns, *text_columns)] + ([key] if key else []))
                sample, whole = maker.sample(number, row, root or path.parent)
                if len(sample) > 1 and (whole or incomplete == "write"):
                    yield sample
                else:
                    tally.count("rows left out")
            maker.check_root()

    write_shards(samples(), out, samples_per_shard, bytes_per_shard)
