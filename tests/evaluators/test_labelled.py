"""What is drawn and held out: by things, by class, and the same whatever the order of the items."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcl.errors import MmclError
from mmcl.evaluators.base import Embedded
from mmcl.evaluators.labelled import Labelled, check_holdout, check_labels, check_shots, distinct, labelled
from tests.evaluators.clusters import items, reordered, vectors

LABELS = ["a"] * 10 + ["b"] * 3 + ["c"] + ["d"] * 2


def known(labels: list[str] = LABELS, ids: list[int] | None = None) -> Labelled:
    return labelled(Embedded.single({"image": vectors(labels, 0)}, items(labels, ids=ids)), "image", "label")


def test_a_share_of_each_class_is_held_out_and_a_single_example_stays() -> None:
    rest, held = known().held_out(0.3, 0)
    assert held.sizes().tolist() == [3, 1, 0, 1]
    assert rest.sizes().tolist() == [7, 2, 1, 1]
    assert not set(held.unit.tolist()) & set(rest.unit.tolist())
    assert known().held_out(0.01, 0)[1].sizes().tolist() == [1, 1, 0, 1]
    assert known().held_out(0.26, 0)[1].sizes().tolist() == [3, 1, 0, 1]
    assert known().held_out(0.99, 0)[0].sizes().tolist() == [1, 1, 1, 1]


def test_nothing_to_hold_out_is_refused() -> None:
    with pytest.raises(MmclError, match="one training example"):
        known(["a", "b"]).held_out(0.5, 0)
    with pytest.raises(MmclError, match="one training example"):
        check_holdout(items(["a", "b", "b"], ids=[0, 1, 1]), "label")
    check_holdout(items(["a", "b", "b"]), "label")


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.permutations(range(len(LABELS))))
def test_the_order_of_items_changes_nothing(seed: int, order: list[int]) -> None:
    data = Embedded.single({"image": vectors(LABELS, 0)}, items(LABELS))
    there, here = (labelled(d, "image", "label") for d in (data, reordered(data, torch.tensor(order))))
    assert torch.equal(here.places(seed), there.places(seed)[order])
    assert torch.equal(here.labels, there.labels[order])


def test_draws_know_things_by_the_smallest_key_of_their_items() -> None:
    labels, other = ["a"] * 6, [3, 1, 4, 1, 5, 9]
    for seed in range(5):
        assert torch.equal(known(labels, other).places(seed), known(labels, [0, 1, 2, 1, 4, 5]).places(seed))
        assert torch.equal(known(labels).places(seed), known(labels, [5, 4, 3, 2, 1, 0]).places(seed))
    data = Embedded.single({"image": vectors(labels, 0)}, items(labels, ids=other))
    back = torch.arange(5, -1, -1)
    there, here = (labelled(d, "image", "label") for d in (data, reordered(data, back)))
    assert torch.equal(here.places(0), there.places(0)[back])


def test_seeds_draw_differently_and_places_are_all_there() -> None:
    places = {tuple(known().places(seed).tolist()) for seed in range(20)}
    assert len(places) > 15
    for row in places:
        assert [sorted(row[i] for i in range(16) if LABELS[i] == c) for c in "abcd"] == [
            list(range(10)),
            [0, 1, 2],
            [0],
            [0, 1],
        ]


def test_every_example_is_held_out_as_often() -> None:
    count = torch.zeros(10)
    for seed in range(1000):
        rest, held = known(["a"] * 10 + ["b"] * 2).held_out(0.3, seed)
        count[held.unit[held.labels == 0]] += 1
        assert len(rest) == 8
    assert ((count - 300).abs() < 5 * (1000 * 0.3 * 0.7) ** 0.5).all()


def test_shots_of_fewer_are_among_those_of_more() -> None:
    data = known()
    for seed in range(5):
        drawn = [set(data.shots(k, seed).unit.tolist()) for k in (1, 2, 3, 10)]
        assert drawn[0] < drawn[1] < drawn[2] < drawn[3]
        assert data.shots(2, seed).sizes().tolist() == [2, 2, 1, 2]


def test_what_shows_the_same_thing_is_never_on_both_sides() -> None:
    data = known(["a", "a", "a", "a", "b", "b"], ids=[7, 7, 8, 8, 9, 10])
    for seed in range(10):
        rest, held = data.held_out(0.5, seed)
        assert held.labels.tolist() == [0, 0, 1]
        assert not set(held.unit.tolist()) & set(rest.unit.tolist())
        assert data.shots(1, seed).labels.tolist() == [0, 0, 1]


def test_all_captions_of_an_item_have_its_class_and_its_side() -> None:
    owner = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    train = Embedded(items(["b", "a", "a", "b"]), {"text": vectors(["a"] * 7, 0)}, {"text": owner})
    data = labelled(train, "text", "label")
    assert data.labels.tolist() == [1, 1, 0, 0, 0, 0, 1]
    assert data.sizes().tolist() == [2, 2]
    for seed in range(5):
        _, held = data.held_out(0.5, seed)
        rows = [held.unit.tolist().count(unit) for unit in held.unit.unique().tolist()]
        whole = [data.unit.tolist().count(unit) for unit in held.unit.unique().tolist()]
        assert rows == whole


def test_vectors_that_are_no_numbers_are_told() -> None:
    train = Embedded.single({"image": torch.tensor([[1.0, 0], [torch.nan, 0]])}, items(["a", "b"]))
    with pytest.raises(MmclError, match="1 of 2 training vectors of image are not finite"):
        labelled(train, "image", "label")


def test_what_cannot_be_learnt_is_told_before_anything_is_embedded() -> None:
    with pytest.raises(MmclError, match="give it a `train:` source"):
        check_labels(items(["a"]), None, "label")
    with pytest.raises(MmclError, match="never show c, d, which"):
        check_labels(items(["a", "d", "c", "c"]), items(["a", "b"]), "label")
    with pytest.raises(MmclError, match="c0, c1, c2, c3, c4 and 2 more"):
        check_labels(items([f"c{i}" for i in range(7)]), items(["a", "b"]), "label")
    with pytest.raises(MmclError, match="one class, 'a'"):
        check_labels(items(["a"]), items(["a", "a"]), "label")
    with pytest.raises(MmclError, match=r"2 different .* b has 1 \(1 of 2 classes"):
        check_shots(items(["a", "a", "b", "b"], ids=[0, 1, 2, 2]), "label", 2)
    with pytest.raises(MmclError, match=r"c has 0 \(1 of 3"):
        check_shots(items(["a", "b"]), "label", 1, ["a", "b", "c"])
    with pytest.raises(MmclError, match="given twice"):
        distinct([1, 2, 1])
