"""Choice: written out again from the protocol, limits, ties, groups, draws, made captions."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators import EVALUATORS, Choice, Embedded
from mmcl.evaluators.base import Items
from mmcl.evaluators.candidates import Groups
from mmcl.evaluators.figures import intervals, values
from mmcl.evaluators.foils import FOILS
from tests.evaluators.scores import Deaf, data, drawn, scoring

NAN = float("nan")
SWAPPED = FOILS.check({"name": "swapped", "pairs": [["left", "right"], ["up", "down"]]})


def accuracy(right: Sequence[float], *wrong: Sequence[Sequence[float]], **said: object) -> float:
    names = ["text.wrong", *(f"text.wrong.{i}" for i in range(2, len(wrong) + 1))]
    some = data("image", {"text": [[r] for r in right], **dict(zip(names, wrong, strict=True))})
    return values(Choice(wrong=names).measure(some, Deaf()).figures)["accuracy"]


def test_the_right_one_must_beat_every_wrong_one() -> None:
    assert accuracy([0.9, 0.5, 0.5], [[0.1], [0.4], [0.6]]) == pytest.approx(2 / 3)
    assert accuracy([0.9, 0.5, 0.5], [[0.1], [0.4], [0.1]], [[0.2], [0.7], []]) == pytest.approx(2 / 3)
    assert accuracy([-0.3], [[-0.4, -0.5]]) == 1


def test_a_tie_is_wrong() -> None:
    assert accuracy([0.5], [[0.5]]) == 0
    assert accuracy([0.5], [[0.1, 0.5, 0.2]]) == 0


@pytest.mark.parametrize(("right", "wrong"), [(NAN, 0.1), (0.9, NAN), (NAN, NAN)])
def test_what_is_not_a_number_is_wrong(right: float, wrong: float) -> None:
    assert accuracy([right], [[-0.5, wrong, -0.1]]) == 0


def test_without_ties_it_is_what_the_code_of_aro_finds() -> None:
    scores = np.random.default_rng(0).uniform(-1, 1, (200, 5)).astype(np.float32)
    order = np.argmax(scores, axis=1) == 0  # COCO-Order: the right caption is the first of five
    found = accuracy(scores[:, 0].tolist(), *([[s] for s in scores[:, i].tolist()] for i in range(1, 5)))
    assert found == pytest.approx(order.mean())
    pair = np.argmax(scores[:, 1::-1], axis=1) == 1  # VG-Relation: the right caption is the second of two
    assert accuracy(scores[:, 0].tolist(), [[s] for s in scores[:, 1].tolist()]) == pytest.approx(pair.mean())


def some(seed: int, items: int = 40) -> tuple[Embedded, list[list[float]], list[list[float]]]:
    """Random scores with ties: one to three right captions an item, one to four wrong ones in two columns."""
    rng = random.Random(seed)
    grid = [i / 8 for i in range(-8, 9)]
    right = [[rng.choice(grid) for _ in range(rng.randint(1, 3))] for _ in range(items)]
    wrong = [[rng.choice(grid) for _ in range(rng.randint(1, 2))] for _ in range(items)]
    more = [[rng.choice(grid) for _ in range(rng.randint(0, 2))] for _ in range(items)]
    groups = [[rng.choice("abc")] for _ in range(items)]
    made = data("image", {"text": right, "text.wrong": wrong, "text.wrong.2": more}, {"by": groups})
    return made, right, [a + b for a, b in zip(wrong, more, strict=True)]


def choice(**groups: object) -> Choice:
    by = Groups.model_validate({"field": "by", **groups}) if groups else None
    return Choice(wrong=["text.wrong", "text.wrong.2"], groups=by)


@pytest.mark.parametrize("seed", range(5))
def test_figures_and_details_are_those_of_the_protocol_written_out(seed: int) -> None:
    given, right, wrong = some(seed)
    groups = [by for (by,) in given.items.texts["by"]]
    asked = [(by, r > max(w), 1 / (1 + len(w))) for by, rs, w in zip(groups, right, wrong, strict=True) for r in rs]
    found = choice(least=20, without=["c"], named=["b", "c"]).measure(given, Deaf())
    numbers = values(found.figures)
    assert list(numbers) == list(choice(least=20, without=["c"], named=["b", "c"]).metrics())

    def mean(of: str) -> float:
        return np.mean([ok for by, ok, _ in asked if by in of])

    assert numbers["accuracy"] == pytest.approx(mean("abc"))
    large = [by for by in "ab" if sum(group == by for group, _, _ in asked) >= 20]
    assert numbers["macro_accuracy"] == pytest.approx(np.mean([mean(by) for by in large]))
    assert (numbers["accuracy/b"], numbers["accuracy/c"]) == pytest.approx((mean("b"), mean("c")))
    assert found.figures["accuracy"].n == len(asked)
    assert found.figures["macro_accuracy"].n == len(large)
    assert found.figures["accuracy/c"].n == sum(by == "c" for by, _, _ in asked)
    assert {figure.units for figure in found.figures.values()} == {40}
    assert found.details["chance"] == pytest.approx(np.mean([chance for _, _, chance in asked]))
    for by, one in found.details["by_group"].items():
        count = sum(group == by for group, _, _ in asked)
        assert one == {"accuracy": pytest.approx(mean(by)), "n": count, "in_macro": by in large}


@pytest.mark.parametrize("seed", range(4))
def test_a_draw_of_items_gives_the_number_of_the_data_that_were_drawn(seed: int) -> None:
    given, _, _ = some(seed)
    evaluator = choice(least=18, without=["c"], named=["a", "b"])
    times = np.bincount(np.random.default_rng(seed).integers(40, size=40), minlength=40).tolist()
    w = torch.tensor([times], dtype=torch.float64)
    figures = evaluator.measure(given, Deaf()).figures
    again = values(evaluator.measure(drawn(given, times), Deaf()).figures)
    assert {name: figure.statistic(w).item() for name, figure in figures.items()} == pytest.approx(again)
    assert all(low <= figures[name].value <= high for name, (low, high) in intervals(figures, times=200).items())


@given(st.integers(0, 1000), st.randoms())
def test_the_order_of_items_does_not_matter(seed: int, rng: random.Random) -> None:
    before, _, _ = some(seed, 9)
    order = list(range(9))
    rng.shuffle(order)
    after = Embedded(*_permuted(before, order))
    one, other = (values(choice(least=1).measure(x, Deaf()).figures) for x in (before, after))
    assert one == pytest.approx(other)


def _permuted(given: Embedded, order: list[int]) -> tuple[Items, dict[str, Tensor], dict[str, Tensor]]:
    parts = [drawn(given, [int(i == j) for j in range(len(order))]) for i in order]
    texts = {name: [part.items.texts[name][0] for part in parts] for name in given.items.texts}
    vectors = {name: torch.cat([part.vectors[name] for part in parts]) for name in given.vectors}
    owner = {n: torch.cat([torch.full_like(p.owner[n], i) for i, p in enumerate(parts)]) for n in given.vectors}
    return Items([f"p{i}" for i in order], torch.tensor(order), texts), vectors, owner


def test_the_other_way_round_by_names_alone() -> None:
    evaluator = Choice("text", "image")
    assert evaluator.modalities() == ["text", "image", "image.wrong"]
    given = data("text", {"image": [[0.9], [0.1]], "image.wrong": [[0.2], [0.2]]}, {"text": [["a dog"], ["a cat"]]})
    found = evaluator.measure(given, Deaf())
    assert found.figures["accuracy"].value == 0.5
    assert found.details["blind"] == {}
    assert found.examples[0].query == "a dog"
    assert found.examples[1].found == ["image.wrong", "image"]


def test_a_wrong_caption_that_is_the_right_one_is_left_out_and_counted() -> None:
    texts = {
        "text": [["a b"], ["c"], ["d", "e"]],
        "text.wrong": [["b a"], ["f"], ["d"]],
        "text.wrong.2": [["a b"], ["g"], ["d"]],
        "by": [["x"], ["x"], ["y"]],
    }
    wrong = {"text.wrong": [[0.1], [0.1], [0.5]], "text.wrong.2": [[0.9], [0.95], [0.5]]}
    given = data("image", {"text": [[0.9], [0.9], [0.5, 0.6]], **wrong}, texts)
    evaluator = choice(least=1)
    evaluator.check(given.items)
    found = evaluator.measure(given, Deaf())
    assert found.figures["accuracy"].value == pytest.approx(2 / 3)
    assert found.details["left_out"] == {"items": 0, "questions": 1, "wrong": 3}
    assert found.details["chance"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 3) / 3)
    assert found.details["by_wrong"] == {
        "text.wrong": {"accuracy": 1, "n": 3},
        "text.wrong.2": {"accuracy": 0.5, "n": 2},
    }
    assert found.details["by_group"]["y"] == {"accuracy": 1, "n": 1, "in_macro": True}
    with pytest.raises(MmclError, match="the largest has 2 questions"):
        choice(least=3).check(given.items)


def test_with_shuffles_that_changed_nothing_it_is_what_the_code_of_aro_finds() -> None:
    rng = np.random.default_rng(1)
    scores, same = rng.uniform(-1, 1, (300, 3)).astype(np.float32), rng.random((300, 2)) < 0.2
    same[same.all(1), 0] = False  # a question is left
    scores[:, 1:][same] = scores[:, :1].repeat(2, 1)[same]
    texts = {"text": [["r"]] * 300}
    texts |= {n: [["r" if s else "w"] for s in same[:, i]] for i, n in enumerate(["text.wrong", "text.wrong.2"])}
    columns = ["text", "text.wrong", "text.wrong.2"]
    given = data("image", {n: [[s] for s in scores[:, i].tolist()] for i, n in enumerate(columns)}, texts)
    theirs = (np.argmax(scores, axis=1) == 0).mean()  # COCO-Order: at a tie the first, which is the right one
    assert values(choice().measure(given, Deaf()).figures)["accuracy"] == pytest.approx(theirs)


def test_who_never_looks_takes_the_longest_or_the_shortest() -> None:
    texts = {"text": [["aaa"], ["aa"], ["a"], ["aaaa"]], "text.wrong": [["aa"], ["bb"], ["aa", "aaa"], ["b", "cc"]]}
    scores = {"text": [[0.9]] * 4, "text.wrong": [[0.1], [0.1], [0.1, 0.1], [0.1, 0.1]]}
    found = Choice().measure(data("image", scores, texts), Deaf())
    assert found.details["blind"] == {"longest": 0.5, "shortest": 0.25}


def test_examples_show_candidates_best_first_and_the_worst_mistakes() -> None:
    texts = {"text": [["r0"], ["r1"], ["r2"]], "text.wrong": [["w0"], ["w1"], ["w2"]]}
    scores = {"text": [[0.9], [0.5], [0.1]], "text.wrong": [[0.1], [0.5], [0.8]]}
    found = Choice().measure(data("image", scores, texts), Deaf()).examples
    assert [(e.query, e.found, e.group) for e in found] == [
        ("k0", ["r0", "w0"], "spread evenly"),
        ("k1", ["w1", "r1"], "spread evenly"),
        ("k2", ["w2", "r2"], "spread evenly"),
        ("k2", ["w2", "r2"], "worst"),
        ("k1", ["w1", "r1"], "worst"),
    ]
    assert (found[0].correct, found[0].modality, found[0].kind) == (["r0"], "image", "labels")


class Told:
    """Embeds texts so that they score what they were told to."""

    def __init__(self, **scores: float) -> None:
        self.scores, self.asked = {name.replace("_", " "): s for name, s in scores.items()}, []

    def embed(self, modality: str, values: Sequence[str]) -> Tensor:
        self.asked.append((modality, list(values)))
        return scoring([self.scores[value] for value in values])


def test_made_captions_stand_against_those_that_they_are_made_of() -> None:
    texts = [["a cat"], ["left dog", "a dog"], ["right dog"], ["up left"], ["left dog"]]
    scores = [[0.9], [0.5, 0.9], [0.5], [0.5], [0.3]]
    given = data("image", {"text": scores}, {"text": texts})
    embedder = Told(right_dog=0.4, left_dog=0.6, up_right=0.2, down_left=0.7)
    evaluator = Choice(foils=SWAPPED)
    evaluator.check(given.items)
    assert (evaluator.modalities(), evaluator.prompted()) == (["image", "text"], ["text"])
    found = evaluator.measure(given, embedder)
    # left dog 0.5 > 0.4; right dog 0.5 < 0.6; up left 0.5 > 0.2 but < 0.7; left dog 0.3 < 0.4
    assert found.figures["accuracy"].value == 1 / 4
    assert (found.figures["accuracy"].n, found.figures["accuracy"].units) == (4, 4)
    assert found.details["left_out"] == {"items": 1, "questions": 2, "wrong": 0}
    assert found.details["chance"] == pytest.approx((3 / 2 + 1 / 3) / 4)
    assert found.details["by_wrong"] == {
        "left/right": {"accuracy": 0.5, "n": 4},
        "up/down": {"accuracy": 0, "n": 1},
    }
    assert embedder.asked == [("text", ["right dog", "left dog", "up right", "down left"])]


def test_made_captions_can_be_grouped_and_drawn() -> None:
    texts = {"text": [["left a"], ["up b"], ["c"], ["left d", "up d"]], "by": [["x"], ["y"], ["x"], ["x"]]}
    given = data("image", {"text": [[0.5], [0.1], [0.9], [0.6, 0.2]]}, texts)
    embedder = Told(right_a=0.1, down_b=0.2, right_d=0.7, down_d=0.1)
    evaluator = Choice(foils=SWAPPED, groups="by")
    assert evaluator.headline == "macro_accuracy"
    evaluator.check(given.items)
    figures = evaluator.measure(given, embedder).figures
    assert values(figures) == pytest.approx({"accuracy": 0.5, "macro_accuracy": (2 / 3 + 0) / 2})
    again = values(evaluator.measure(drawn(given, [2, 1, 5, 3]), embedder).figures)
    w = torch.tensor([[2.0, 1, 3]])  # the third asks nothing
    assert {name: figure.statistic(w).item() for name, figure in figures.items()} == pytest.approx(again)


def test_a_recipe_can_say_it_all() -> None:
    said = {"name": "choice", "foils": {"name": "order", "seed": 3}, "groups": {"field": "by", "least": 25}}
    evaluator = EVALUATORS.check(said).build()
    assert evaluator.foils.kinds() == ["trigrams", "within_trigrams"]
    assert (evaluator.groups.least, evaluator.fields()) == (25, ["by"])
    assert EVALUATORS.check({"name": "choice", "groups": "by"}).build().groups == Groups(field="by")
    assert EVALUATORS.check("choice").build().headline == "accuracy"
    with pytest.raises(ValueError, match="lest"):
        EVALUATORS.check({"name": "choice", "groups": {"field": "by", "lest": 25}})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"foils": SWAPPED, "wrong": "text.wrong"}, "either columns .* or made"),
        ({"wrong": []}, "one wrong at least"),
        ({"wrong": ["text"]}, "different columns"),
        ({"query": "text"}, "different columns"),
        ({"wrong": ["a", "a"]}, "different columns"),
    ],
)
def test_columns_that_mean_nothing_are_refused(said: dict[str, object], message: str) -> None:
    with pytest.raises(MmclError, match=message):
        Choice(**said)


def test_data_that_do_not_fit_are_told_before_they_are_embedded() -> None:
    items = data("image", {"text": [[0.1]]}, {"text": [["a dog"]], "by": [["x"]]}).items
    with pytest.raises(MmclError, match=r"no text of text has a wrong one: \['left/right', 'up/down'\] change none"):
        Choice(foils=SWAPPED).check(items)
    same = data("image", {"text": [[0.1]], "text.wrong": [[0.1]]}, {"text": [["a"]], "text.wrong": [["a"]]})
    with pytest.raises(MmclError, match=r"no text of text has a wrong one: those of text\.wrong are the right ones"):
        Choice().check(same.items)
    with pytest.raises(MmclError, match=r"those of text\.wrong are the right ones"):
        Choice().measure(same, Deaf())
    with pytest.raises(MmclError, match="image holds no texts"):
        Choice("text", "image", foils=SWAPPED).check(items)
    with pytest.raises(MmclError, match="`least` is 2"):
        Choice(groups=Groups(field="by", least=2)).check(items)


def test_an_item_without_candidates_is_told() -> None:
    with pytest.raises(MmclError, match="item k1 has none of text;"):
        Choice().measure(data("image", {"text": [[0.1], []], "text.wrong": [[0.1], [0.1]]}), Deaf())
    with pytest.raises(MmclError, match=r"item k1 has none of text\.wrong"):
        Choice().measure(data("image", {"text": [[0.1], [0.1]], "text.wrong": [[0.1], []]}), Deaf())
