"""What the JSON members hold: which fields, of which types, with which values."""

import json
import math
from collections import Counter as Counts
from typing import Any

from mmcl.data_stats.tally import Counter, Place

FIELDS = 300  # that are told
DEPTH = 4  # of objects within objects


class Field:
    """One field of the JSON members of some samples."""

    def __init__(self) -> None:
        self.samples = 0
        self.types = Counts[str]()
        self.values = Counter()
        self.least: dict[str, float] = {}  # type -> least number, or length
        self.most: dict[str, float] = {}

    def add(self, value: Any, place: Place) -> None:
        """Take up the value of one more sample."""
        self.samples += 1
        kind, size = _kind(value)
        self.types[kind] += 1
        if size is not None:
            self.least[kind] = min(size, self.least.get(kind, size))
            self.most[kind] = max(size, self.most.get(kind, size))
        if not isinstance(value, list | dict):
            self.values.add(value if isinstance(value, str) else json.dumps(value), place)

    def merge(self, later: "Field") -> None:
        """Add what is known from a later shard."""
        self.samples += later.samples
        self.types += later.types
        self.values.merge(later.values)
        for kind, size in later.least.items():
            self.least[kind] = min(size, self.least.get(kind, size))
            self.most[kind] = max(later.most[kind], self.most.get(kind, size))


class Fields:
    """All fields of the JSON members of some samples; those within objects as ``outer.inner``."""

    def __init__(self) -> None:
        self.found: dict[str, Field] = {}
        self.samples = 0
        self.left_out = 0
        """Values of fields beyond the first 300 different ones."""

    def add(self, record: Any, place: Place) -> None:
        """Take up the JSON of one more sample."""
        self.samples += 1
        self._add("", record, place, DEPTH)

    def merge(self, later: "Fields") -> None:
        """Add what is known from a later shard."""
        self.samples += later.samples
        self.left_out += later.left_out
        for name, field in later.found.items():
            mine = self._field(name)
            if mine is None:
                self.left_out += field.samples
            else:
                mine.merge(field)

    def _add(self, name: str, value: Any, place: Place, depth: int) -> None:
        if isinstance(value, dict) and value and depth:
            for key, inner in value.items():
                self._add(f"{name}.{key}" if name else key, inner, place, depth - 1)
            return
        field = self._field(name or "(all of it)")
        if field is None:
            self.left_out += 1
        else:
            field.add(value, place)

    def _field(self, name: str) -> Field | None:
        found = self.found.get(name)
        if found is None and len(self.found) < FIELDS:
            found = self.found[name] = Field()
        return found


def _kind(value: Any) -> tuple[str, float | None]:
    """Type of a value in JSON's words, and its size: a number itself, or a length."""
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else "true or false", None
    if isinstance(value, int | float):
        finite = isinstance(value, int) or math.isfinite(value)  # Python reads NaN and 1e999; JSON has neither
        return "number", value if finite else None
    if isinstance(value, str):
        return "text", len(value)
    return "list" if isinstance(value, list) else "object", len(value)
