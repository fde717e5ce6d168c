"""Rows of a table (CSV, TSV, Parquet, JSON lines), piece by piece, so that it may be larger than the memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from pyarrow import parquet as pq

from mmcl.errors import MmclError

NUMBER = r"^(-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?)?$"  # of JSON, or nothing: with a leading zero it is a name
BATCH = 1000  # rows of a Parquet file that are held at once


def read_rows(table: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table, column -> value.

    A column of a CSV holds numbers (or nothing, which is None) when all its cells do, however far down, and texts
    otherwise; a number with a leading zero is a text. Parquet and JSON have types of their own.

    Args:
        table: a .csv, .tsv, .parquet, .jsonl or .ndjson file.

    Raises:
        MmclError: it is none of these, cannot be read, or has two columns of one name.
    """
    kind = table.suffix.lower()
    try:
        if kind in (".csv", ".tsv"):
            yield from _csv(table, "\t" if kind == ".tsv" else ",")
        elif kind == ".parquet":
            with pq.ParquetFile(table) as file:
                _check_names(table, file.schema_arrow.names)
                for batch in file.iter_batches(batch_size=BATCH):
                    yield from batch.to_pylist()
        elif kind in (".jsonl", ".ndjson"):
            yield from _json_lines(table)
        else:
            raise MmclError(f"{table}: a table is a .csv, .tsv, .parquet, .jsonl or .ndjson file.")
    except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise MmclError(f"{table} cannot be read: {error}") from None


def _csv(table: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with csv.open_csv(table, parse_options=parse) as reader:
        names = reader.schema.names
    _check_names(table, names)
    texts = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    numbers = set(names)
    with csv.open_csv(table, parse_options=parse, convert_options=texts) as reader:
        for batch in reader:
            numbers -= {n for n in numbers if not pc.all(pc.match_substring_regex(batch[n], NUMBER)).as_py()}  # pyright: ignore[reportAttributeAccessIssue]
    with csv.open_csv(table, parse_options=parse, convert_options=texts) as reader:
        for batch in reader:
            for row in batch.to_pylist():
                yield {n: (json.loads(cell) if cell else None) if n in numbers else cell for n, cell in row.items()}


def _json_lines(table: Path) -> Iterator[dict[str, Any]]:
    with table.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise MmclError(f"{table}, line {number}: no JSON ({error}).") from None
            if not isinstance(row, dict):
                raise MmclError(f"{table}, line {number}: a {type(row).__name__}, not an object of columns.")
            yield row


def _check_names(table: Path, names: list[str]) -> None:
    repeated = sorted(name for name in set(names) if names.count(name) > 1)
    if repeated:
        raise MmclError(f"{table}: the column {repeated[0]!r} is there twice; rename one.")
