"""Counts in bounded memory."""

from mmcl.data_stats.fields import FIELDS, Fields
from mmcl.data_stats.tally import LETTERS, MOST, Counter, Place


def test_values_are_counted_with_where_they_came_first() -> None:
    first, second = Counter(), Counter()
    for number, value in enumerate("abcab"):
        first.add(value, Place(0, number))
    for number, value in enumerate("dbb"):
        second.add(value, Place(1, number))
    first.merge(second)
    assert [(one.value, one.n, one.first) for one in first.most()] == [
        ("b", 4, (0, 1)), ("a", 2, (0, 0)), ("c", 1, (0, 2)), ("d", 1, (1, 0))
    ]  # fmt: skip
    assert first.total == 8


def test_of_many_different_values_the_rest_is_counted_together() -> None:
    counter = Counter()
    for number in range(MOST + 50):
        counter.add(str(number), Place(0, number))
    counter.add("5", Place(0, 0))
    assert (len(counter), counter.rest, counter.total) == (MOST, 50, MOST + 51)
    assert counter.most(1)[0][:2] == ("5", 2)
    other = Counter()
    other.add("new", Place(1, 0), 3)
    other.add("7", Place(1, 1))
    counter.merge(other)
    assert (len(counter), counter.rest) == (MOST, 53)


def test_a_long_value_is_cut() -> None:
    counter = Counter()
    counter.add("x" * 5000, Place(0, 0))
    assert len(counter.most()[0].value) == LETTERS


def test_fields_beyond_a_number_are_counted_together_and_deep_ones_are_not_opened() -> None:
    fields, later = Fields(), Fields()
    fields.add({str(i): i for i in range(FIELDS + 20)}, Place(0, 0))
    later.add({"new": 1, "3": 4, "5": {"a": {"b": {"c": {"d": 1}}}}}, Place(1, 0))
    assert list(later.found) == ["new", "3", "5.a.b.c"]
    fields.merge(later)
    assert (len(fields.found), fields.left_out, fields.samples) == (FIELDS, 22, 2)
    assert (fields.found["3"].least, fields.found["3"].most) == ({"number": 3}, {"number": 4})
    alone = Fields()
    alone.add([1, 2], Place(0, 0))
    assert alone.found["(all of it)"].types == {"list": 1}
