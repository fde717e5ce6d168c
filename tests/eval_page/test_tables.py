"""Numbers side by side: what is marked as best, and where bars lie."""

import math

import pytest

from mmcl.eval_page.tables import best, row
from mmcl.tasks import Result

NAN = math.nan


def result(value: float, low: float | None = None, high: float | None = None, metric: str = "acc1") -> Result:
    intervals = {} if low is None else {"intervals": {metric: [low, high]}}
    return Result({metric: value, "n": 10.0}, {"counts": {metric: 1000}, **intervals})


@pytest.mark.parametrize(
    ("results", "larger", "marked"),
    [
        ([result(0.5, 0.4, 0.6), result(0.7, 0.61, 0.8)], True, 1),
        ([result(0.5, 0.4, 0.6), result(0.7, 0.61, 0.8)], False, 0),
        ([result(0.5, 0.4, 0.6), result(0.7, 0.6, 0.8)], True, None),  # they touch
        ([result(0.5, 0.4, 0.6), result(0.7, 0.6, 0.8)], False, None),
        ([result(0.5, 0.4, 0.6), result(0.7, 0.65, 0.8), result(0.75, 0.7, 0.8)], True, None),
        ([result(0.2, 0.1, 0.3), result(0.25, 0.2, 0.3), result(0.75, 0.7, 0.8)], True, 2),  # the others may overlap
        ([result(0.2, 0.1, 0.3), result(0.75, 0.7, 0.8)], None, None),  # nobody knows what is better
        ([result(0.5), result(0.7)], True, None),  # no intervals
        ([result(0.5, 0.4, 0.6), result(0.7)], True, None),
        ([result(0.5, 0.4, 0.6), result(NAN, NAN, NAN)], True, None),
        ([result(0.5, 0.4, 0.6), None], True, None),
        ([result(0.5, 0.4, 0.6)], True, None),
        ([result(0.5, 0.4, 0.6), result(0.7, 0.65, 0.8, "other")], True, None),
    ],
)
def test_the_best_is_marked_where_its_interval_overlaps_no_other(
    results: list[Result | None], larger: bool | None, marked: int | None
) -> None:
    assert best(results, "acc1", larger) == marked


def test_a_row_has_a_cell_a_model() -> None:
    name = "text_to_image/median_rank"
    several = [
        result(12.0, 10, 14, name),
        None,
        result(2.0, metric=name),
        result(NAN, NAN, NAN, name),
        result(3, NAN, NAN, name),
    ]
    made = row(several, name, False)
    assert (made.group, made.metric, made.n, made.smaller) == ("text to image", "median rank", "1,000", True)
    assert [cell and (cell.value, cell.ends, cell.best) for cell in made.cells] == [
        ("12.0", "10.000 – 14.0", False),
        None,
        ("2.000", "", False),
        ("nan", "", False),
        ("3.000", "no interval", False),
    ]
    assert [bar.model for bar in made.bars] == [0, 2, 4]  # what is not a number lies nowhere


@pytest.mark.parametrize(
    ("value", "low", "high", "axis"),
    [
        (0.5, 0.25, 0.75, (0, 1)),
        (-0.5, -0.75, 0.25, (-1, 1)),
        (12.0, 10.0, 14.3, (0, 15)),
        (123.0, 100.0, 187.3, (0, 190)),
        (-2.0, -3.05, -1.5, (-3.1, 0)),
        (1.0, 0.96, 1.04, (0, 1.1)),
    ],
)
def test_bars_lie_where_their_numbers_are(value: float, low: float, high: float, axis: tuple[float, float]) -> None:
    made = row([result(value, low, high)], "acc1", True)
    assert tuple(map(float, made.axis)) == axis
    (bar,) = made.bars
    first, last = axis
    for at, number in ((bar.at, value), (bar.low, low), (bar.high, high)):
        assert first + at / 100 * (last - first) == pytest.approx(number, abs=1e-3 * (last - first))


def test_models_that_were_measured_on_unequal_numbers_of_items_are_told_apart() -> None:
    one, other = result(0.5), result(0.5)
    other.about["counts"]["acc1"] = 998
    assert row([one, other], "acc1", True).n == "1,000 / 998"


def test_zero_alone_has_an_axis() -> None:
    assert row([result(0.0)], "acc1", True).axis == ("0", "1")
    assert row([result(NAN)], "acc1", True).bars == []
