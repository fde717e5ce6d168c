"""Conditions on what is known of samples: `script=GREEK`, `json.width>=200`, `caption contains hat`."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.errors import MmclError, did_you_mean

JSON = "json."  # begins the name of a field of the JSON column
LOOKED_AT = 1000  # samples whose JSON says which fields there are
Operator = Literal["=", "contains", ">=", "<="]
SAID = re.compile(r"\s*(.+?)\s*(>=|<=|=|(?<=\s)contains(?=\s))\s*(.*?)\s*", re.DOTALL)
TRUTHS = {"true": True, "false": False, "1": True, "0": False}


class Filter(NamedTuple):
    """One condition. A sample of which the column says nothing does not meet it."""

    column: str
    """Of the metadata, or else a field of the JSON column (`json.NAME` or `NAME`); dots lead into objects within it."""
    op: Operator
    """`=` and, whatever the case of letters, `contains`; `>=` and `<=` compare numbers as numbers, texts as texts."""
    value: str

    @classmethod
    def parse(cls, said: str) -> "Filter":
        """Read what a person wrote.

        Raises:
            MmclError: it is no condition.

        >>> Filter.parse("width>=200")
        Filter(column='width', op='>=', value='200')
        """
        found = SAID.fullmatch(said)
        if found is None:
            raise MmclError(
                f"{said!r} is no condition; write one as in script=GREEK, width>=200, width<=400 or 'caption contains "
                "hat'."
            )
        return cls(*map(_text, found.groups()))  # type: ignore[arg-type]  # the expression names the operators


class Metadata:
    """What is known of the samples of an export, column by column.

    Args:
        table: a row a sample.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._fields: dict[str, pa.ChunkedArray] = {}

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Name -> type: the columns, and the fields of the JSON column that the first samples have."""
        plain = {field.name: field.type for field in self.table.schema}
        if "json" not in plain:
            return plain
        fields: dict[str, list[Any]] = {}
        for record in _records(self.table.column("json").drop_null().slice(0, LOOKED_AT)):
            for name, value in _flat(record):
                fields.setdefault(name, []).append(value)
        return plain | {f"{JSON}{name}": _array(values).type for name, values in fields.items()}

    def column(self, name: str) -> pa.ChunkedArray:
        """A column, or a field of the JSON column.

        Raises:
            MmclError: there is none of this name.
        """
        if name in self.table.column_names:
            return self.table.column(name)
        if name not in self._fields:
            self._fields[name] = self._field(name)
        return self._fields[name]

    def _field(self, name: str) -> pa.ChunkedArray:
        field = name.removeprefix(JSON)
        if "json" in self.table.column_names:
            found = [dict(_flat(record)).get(field) for record in _records(self.table.column("json"))]
            if any(value is not None for value in found):
                return pa.chunked_array([_array(found)])
        known = self.columns
        raise MmclError(
            f"the metadata has no column {name!r}{did_you_mean(name, known)} It has: {', '.join(sorted(known))}."
        )

    def meeting(self, where: Sequence[Filter]) -> np.ndarray:
        """Which samples meet all conditions: (samples,) bool.

        Raises:
            MmclError: there is no such column, or it cannot be compared with such a value.
        """
        met = np.ones(self.table.num_rows, bool)
        for one in where:
            found = pc.fill_null(_compared(self.column(one.column), one), False)
            met &= found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy()
        return met


def _compared(column: pa.ChunkedArray, one: Filter) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _compared_texts(column, one)
    if one.op == "contains":
        raise MmclError(f"{one.column} holds {kind}; `contains` looks into texts.")
    if pa.types.is_boolean(kind):
        if one.op != "=" or one.value.lower() not in TRUTHS:
            raise MmclError(f"{one.column} is true or false; write {one.column}=true.")
        return _OPERATORS[one.op](column, TRUTHS[one.value.lower()])
    try:
        value = _number(one.value) if _is_number(kind) else pa.scalar(one.value).cast(kind)
    except (ValueError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise MmclError(f"{one.column} holds {kind}, with which {one.value!r} cannot be compared.") from None
    return _OPERATORS[one.op](column, value)


def _compared_texts(column: pa.ChunkedArray, one: Filter) -> pa.ChunkedArray:
    if one.op == "contains":
        return pc.call_function("match_substring", [column], pc.MatchSubstringOptions(one.value, ignore_case=True))
    if one.op != "=":
        try:
            least = _number(one.value)
        except ValueError:  # dates and words have an order as well
            return _OPERATORS[one.op](column, one.value)
        return _OPERATORS[one.op](pa.chunked_array([[_number_or_none(text) for text in column.to_pylist()]]), least)
    return _OPERATORS["="](column, one.value)


_OPERATORS = {
    op: lambda column, value, name=name: pc.call_function(name, [column, value])
    for op, name in {"=": "equal", ">=": "greater_equal", "<=": "less_equal"}.items()
}


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _number(said: str) -> int | float:
    try:
        number = int(said)
    except ValueError:
        return float(said)
    return number if abs(number) < 2**63 else float(number)


def _number_or_none(said: str | None) -> float | None:
    try:
        return None if said is None else float(said)
    except ValueError:
        return None


def _records(column: pa.ChunkedArray) -> Iterator[dict[str, Any]]:
    """What the JSON column says, a record a row; an empty one where it says nothing."""
    for said in column.to_pylist():
        try:
            record = json.loads(said) if said else None
        except (ValueError, RecursionError):
            record = None
        yield record if isinstance(record, dict) else {}


def fields(said: str | None) -> dict[str, Any]:
    """What a JSON column says of one sample, by the names that conditions use.

    >>> fields('{"size": {"width": 200}, "script": null}')
    {'json.size.width': 200}
    """
    column = pa.chunked_array([[said]], pa.string())
    return {f"{JSON}{name}": value for record in _records(column) for name, value in _flat(record)}


def _flat(record: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Fields of a record, and of the objects within it, by names with dots."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        elif value is not None:
            yield f"{above}{name}", value


def _array(values: Sequence[Any]) -> pa.Array:
    """Values of JSON in one type: all truths, all numbers, or else texts."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds and kinds <= {int, float}:
        try:
            return pa.array(values, pa.int64() if kinds == {int} else pa.float64())
        except (OverflowError, pa.ArrowInvalid):  # an integer beyond 64 bits
            return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    text = value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return None if text is None else text.encode(errors="replace").decode()  # half a character is none of Arrow's
