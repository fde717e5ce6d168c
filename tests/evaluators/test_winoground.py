"""Winoground: equations 1-3 written out, chance by all orders, ties, tags, draws."""

import itertools
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mmcl.errors import MmclError
from mmcl.evaluators import EVALUATORS, Embedded, Winoground
from mmcl.evaluators.base import Items
from mmcl.evaluators.figures import intervals, values
from mmcl.evaluators.winoground import CHANCE, decided
from tests.evaluators.scores import Deaf, drawn

Scores = list[list[float]]  # [caption][picture]


def reference(s: Scores) -> tuple[bool, bool, bool]:
    """Equations 1, 2 and 3."""
    c0i0, c0i1, c1i0, c1i1 = s[0][0], s[0][1], s[1][0], s[1][1]
    text = c0i0 > c1i0 and c1i1 > c0i1
    image = c0i0 > c0i1 and c1i1 > c1i0
    return text, image, text and image


def found(s: Scores) -> tuple[bool, bool, bool]:
    text, image, group = (flags.item() for flags in decided(torch.tensor([s])).values())
    return bool(text), bool(image), bool(group)


def test_chance_is_the_share_of_all_orders() -> None:
    orders = [found([[a, b], [c, d]]) for a, b, c, d in itertools.permutations([1.0, 2.0, 3.0, 4.0])]
    assert np.mean(orders, axis=0) == pytest.approx([CHANCE[name] for name in decided(torch.zeros(1, 2, 2))])
    assert [round(100 * c, 2) for c in CHANCE.values()] == [25, 25, 16.67]


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, float("nan")]), min_size=4, max_size=4))
def test_it_decides_as_the_equations_do(s: list[float]) -> None:
    assert found([s[:2], s[2:]]) == reference([s[:2], s[2:]])
    raised = [x**3 * 7 - 1 for x in s]  # any increasing function of scores
    assert found([raised[:2], raised[2:]]) == found([s[:2], s[2:]])


def test_the_three_can_come_apart() -> None:
    assert found([[0.9, 0.1], [0.2, 0.8]]) == (True, True, True)
    assert found([[0.5, 0.6], [0.1, 0.9]]) == (True, False, False)
    assert found([[0.5, 0.1], [0.6, 0.9]]) == (False, True, False)
    assert found([[0.5, 0.5], [0.5, 0.5]]) == (False, False, False)
    assert found([[0.5, 0.1], [0.5, 0.9]]) == (False, True, False)  # one tie


def some(seed: int = 0, count: int = 30) -> Embedded:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    names = ["image", "image.2", "text", "text.2"]
    vectors = {name: F.normalize(torch.randn(count, 3), dim=1) for name in names}
    tags = [rng.sample(["Object", "Relation", "Both"], rng.randint(0, 2)) for _ in range(count)]
    texts = {"text": [[f"a{i}"] for i in range(count)], "text.2": [[f"b{i}"] for i in range(count)], "tag": tags}
    return Embedded.single(vectors, Items([f"k{i}" for i in range(count)], torch.arange(count), texts))


def test_scores_are_cosines_of_captions_and_pictures() -> None:
    data = some()
    measured = Winoground(tags="tag", named=["Both"]).measure(data, Deaf())
    v = {name: rows.double().numpy() for name, rows in data.vectors.items()}
    rows = [
        reference([[v[t][i] @ v[p][i] for p in ("image", "image.2")] for t in ("text", "text.2")]) for i in range(30)
    ]
    both = ["Both" in tags for tags in data.items.texts["tag"]]
    numbers = values(measured.figures)
    for place, name in enumerate(("text_score", "image_score", "group_score")):
        assert numbers[name] == pytest.approx(np.mean([row[place] for row in rows]))
        mine = np.mean([row[place] for row, has in zip(rows, both, strict=True) if has])
        assert numbers[f"{name}/Both"] == pytest.approx(mine)
        assert measured.details["by_tag"]["Both"][name] == pytest.approx(mine)
    assert measured.details["by_tag"]["Both"]["n"] == measured.figures["text_score/Both"].n == sum(both)
    assert list(numbers) == list(Winoground(tags="tag", named=["Both"]).metrics())
    assert set(measured.details["by_tag"]) == {"Object", "Relation", "Both"}
    assert Winoground.headline in numbers


def test_a_draw_of_items_gives_the_number_of_the_data_that_were_drawn() -> None:
    data, evaluator = some(1), Winoground(tags="tag", named=["Object", "Both"])
    times = np.bincount(np.random.default_rng(1).integers(30, size=30), minlength=30).tolist()
    figures = evaluator.measure(data, Deaf()).figures
    w = torch.tensor([times], dtype=torch.float64)
    again = values(evaluator.measure(drawn(data, times), Deaf()).figures)
    assert {name: figure.statistic(w).item() for name, figure in figures.items()} == pytest.approx(again)
    assert set(intervals(figures, times=50)) == set(evaluator.metrics())


def test_what_belongs_together_is_exchanged_with_the_other_pair_without_effect() -> None:
    data = some(2)
    names = {"image": "image.2", "image.2": "image", "text": "text.2", "text.2": "text"}
    other = Embedded.single({name: data.vectors[names[name]] for name in names}, data.items)
    one, two = (values(Winoground().measure(x, Deaf()).figures) for x in (data, other))
    assert one == two
    wrong = Embedded.single(
        {**data.vectors, "text": data.vectors["text.2"], "text.2": data.vectors["text"]}, data.items
    )
    assert values(Winoground().measure(wrong, Deaf()).figures)["text_score"] != one["text_score"]


def test_equal_captions_are_never_told_apart() -> None:
    data = some(3)
    same = Embedded.single({**data.vectors, "text.2": data.vectors["text"].clone()}, data.items)
    assert values(Winoground().measure(same, Deaf()).figures)["text_score"] == 0


def test_examples_show_which_caption_the_first_picture_takes() -> None:
    axes = torch.eye(3)
    items = Items(["k0", "k1"], torch.arange(2), {"text": [["a"], ["c"]], "text.2": [["b"], ["d"]]})
    image, text, other = axes[[0, 0]], axes[[0, 1]], axes[[1, 0]]
    data = Embedded.single({"image": image, "image.2": axes[[1, 1]], "text": text, "text.2": other}, items)
    examples = Winoground().measure(data, Deaf()).examples
    assert [(e.query, e.correct, e.found) for e in examples] == [("k0", ["a"], ["a", "b"]), ("k1", ["c"], ["d", "c"])]


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(MmclError, match="four different columns"):
        Winoground(texts=("text", "text"))
    with pytest.raises(MmclError, match="`tags` does not say where"):
        Winoground(named=["Object"])
    with pytest.raises(MmclError, match="no item has the tag 'Objekt'; did you mean 'Object'"):
        Winoground(tags="tag", named=["Objekt"]).check(some().items)
    Winoground(tags="tag", named=["Object"]).check(some().items)
    audio = EVALUATORS.check({"name": "winoground", "images": ["audio", "audio.2"]}).build()
    assert audio.modalities() == ["audio", "audio.2", "text", "text.2"]


def test_an_item_that_lacks_a_picture_is_told() -> None:
    data = some()
    rows = {**data.vectors, "image.2": data.vectors["image.2"][:-1]}
    owner = {name: torch.arange(len(v)) for name, v in rows.items()}
    with pytest.raises(MmclError, match=r"item k29 has 0 of image\.2"):
        Winoground().measure(Embedded(data.items, rows, owner), Deaf())
