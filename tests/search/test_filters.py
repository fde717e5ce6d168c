"""Conditions on metadata: what they mean for each kind of column, and what is told where they mean nothing."""

import json
from datetime import date

import pyarrow as pa
import pytest

from mmcl.errors import MmclError
from mmcl.search.filters import Filter, Metadata

RECORDS = [
    {"script": "GREEK", "width": 100, "nested": {"by": "ann"}, "tags": ["a", "b"], "mixed": 1, "lone": "\ud800"},
    {"script": "greek", "width": 200.5, "mixed": "one", "width ": 3},
    {"script": None, "width": 300},
]
TABLE = pa.table(
    {
        "key": ["a", "b", "c", "d", "e"],
        "caption": ["A red Hat", "red=hat", None, "a (blue) hat", ""],
        "size": pa.array([1, 2, None, 4, 5], pa.int32()),
        "ratio": [0.5, 1.5, float("nan"), None, 2.5],
        "good": [True, False, None, True, True],
        "day": pa.array([date(2024, 1, 1), date(2025, 1, 1), None, None, date(2026, 1, 1)]),
        "text size": ["9", "10", "many", None, "2.5"],
        "json": [*map(json.dumps, RECORDS), "{broken", None],
    }
)


@pytest.mark.parametrize(
    ("said", "meeting"),
    [
        ("key=b", "b"),
        ("caption contains HAT", "abd"),
        ("caption contains (", "d"),
        ("caption=red=hat", "b"),
        ("caption=", "e"),
        ("size>=2", "bde"),
        ("size <= 2", "ab"),
        ("size=4", "d"),
        ("size>=1.5", "bde"),
        ("ratio>=1", "be"),
        ("good=true", "ade"),
        ("good=False", "b"),
        ("day>=2025-01-01", "be"),
        ("text size>=9.5", "b"),
        ("text size<=10", "abe"),
        ("text size>=m", "c"),
        ("json.script=GREEK", "a"),
        ("script=GREEK", "a"),
        ("json.width>=200", "bc"),
        ("width<=100", "a"),
        ("json.nested.by=ann", "a"),
        ('tags contains "b"', "a"),
        ("mixed=1", "a"),
        ("mixed=one", "b"),
    ],
)
def test_conditions_are_met_by(said: str, meeting: str) -> None:
    met = Metadata(TABLE).meeting([Filter.parse(said)])
    assert "".join(key for key, there in zip("abcde", met, strict=True) if there) == meeting


def test_several_are_all_met_and_none_leave_all() -> None:
    metadata = Metadata(TABLE)
    assert metadata.meeting([]).all()
    found = metadata.meeting([Filter("good", "=", "true"), Filter("size", ">=", "4"), Filter("key", "=", "e")])
    assert found.tolist() == [False] * 4 + [True]


def test_columns_are_those_of_the_table_and_of_the_json() -> None:
    columns = Metadata(TABLE).columns
    assert columns["size"] == pa.int32()
    assert columns["json.width"] == pa.float64()
    assert columns["json.nested.by"] == pa.string()
    assert "json.script" in columns
    assert "json.nested" not in columns


def test_a_dictionary_of_texts_is_texts() -> None:
    table = pa.table({"key": pa.array(["x", "y", None]).dictionary_encode()})
    assert Metadata(table).meeting([Filter("key", "contains", "Y")]).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("script", "is no condition; write one as in script=GREEK"),
        ("=3", "is no condition"),
        ("", "is no condition"),
        ("sise=3", "no column 'sise'; did you mean 'size'"),
        ("json.colour=red", "no column 'json.colour'"),
        ("size=large", "size holds int32, with which 'large' cannot be compared"),
        ("size contains 1", "size holds int32; `contains` looks into texts"),
        ("good>=true", "good is true or false; write good=true"),
        ("good=maybe", "good is true or false"),
        ("day>=yesterday", "day holds date32.*'yesterday' cannot be compared"),
    ],
)
def test_mistakes_are_told(said: str, told: str) -> None:
    with pytest.raises(MmclError, match=told):
        Metadata(TABLE).meeting([Filter.parse(said)])


def test_what_was_no_utf8_at_the_keyboard_is_looked_for_in_vain() -> None:
    texts = Metadata(pa.table({"caption": ["hat", None]}))
    for said in ("caption=\udcff", "caption contains \udcff", "caption<=\udcff"):
        assert Filter.parse(said).value.encode() == b"?"
        assert texts.meeting([Filter.parse(said)]).sum() == 0
