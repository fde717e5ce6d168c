"""Wrong captions that are made."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmcl import bundled
from mmcl.errors import MmclError
from mmcl.evaluators.foils import FOILS, Order, Swapped
from mmcl.recipe import read_yaml

PAIRS = [("small", "capital"), ("left", "right"), ("up", "down"), ("next to", "far from")]
WORDS = ["a", "b", "Small", "capital", "left", "right", "small", "LEFT", "Down", "x-left"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)


def made(text: str, pairs: list[tuple[str, str]] = PAIRS, kept: list[str] = []) -> dict[str, str]:  # noqa: B006
    return {foil.kind: foil.text for foil in Swapped(pairs, kept)(text)}


def test_all_words_of_a_pair_change_places() -> None:
    assert made("left up heavy and right down light") == {
        "left/right": "right up heavy and left down light",
        "up/down": "left down heavy and right up light",
    }


def test_words_end_at_letters_digits_and_underscores() -> None:
    assert made("leftwards upper left_1 smaller") == {}
    assert made("black left-pointing (small) triangle") == {
        "small/capital": "black left-pointing (capital) triangle",
        "left/right": "black right-pointing (small) triangle",
    }


def test_several_words_in_a_row_are_a_word_too() -> None:
    assert made("A dog next to a cat") == {"next to/far from": "A dog far from a cat"}


def test_a_word_keeps_its_capital_letters() -> None:
    assert made("Left of a LEFT right") == {"left/right": "Right of a RIGHT left"}
    assert made("A B", [("a", "b")]) == {"a/b": "B A"}


def test_what_is_to_be_kept_is_kept() -> None:
    kept = ["small capital", "Up down"]
    assert made("letter small capital g", kept=kept) == {}
    assert made("up down arrow up", kept=kept) == {"up/down": "up down arrow down"}
    assert made("small small capital g", kept=kept) == {"small/capital": "capital small capital g"}


def test_a_word_may_have_several_opposites_and_equal_captions_are_made_once() -> None:
    pairs = [("final", "initial"), ("final", "medial")]
    assert made("final form", pairs) == {"final/initial": "initial form", "final/medial": "medial form"}
    assert [foil.text for foil in Swapped([("a", "b"), ("a-x", "b-x")])("a-x")] == ["b-x"]


@given(TEXTS)
def test_swapping_twice_gives_the_caption_again_and_never_the_caption_at_once(text: str) -> None:
    maker = Swapped(PAIRS)
    for kind, other in maker(text):
        assert other != text
        again = {foil.kind: foil.text for foil in maker(other)}
        assert again[kind].casefold() == text.casefold()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"pairs": [("a", "A")]}, "is no pair of two different words"),
        ({"pairs": [("a", " b")]}, "is no pair"),
        ({"pairs": [("a", "")]}, "is no pair"),
        ({"pairs": [("a", "b"), ("B", "a")]}, r"\['B', 'a'\] is no pair .* or is there twice"),
        ({"pairs": [("a", "b")], "kept": ["c d"]}, "kept: 'c d' has none of the words"),
    ],
)
def test_swapped_refuses_what_has_no_effect(said: dict[str, list], message: str) -> None:
    with pytest.raises(MmclError, match=message):
        Swapped(**said)


LONG = "one two three four five six seven eight"


def test_trigrams_are_shuffled_as_wholes() -> None:
    threes = [("one", "two", "three"), ("four", "five", "six"), ("seven", "eight")]
    possible = {" ".join(itertools.chain(*order)) for order in itertools.permutations(threes)} - {LONG}
    found = {foil.text for seed in range(60) for foil in Order(["trigrams"], seed)(LONG)}
    assert found == possible


def test_words_are_shuffled_within_trigrams() -> None:
    orders = [list(itertools.permutations(three)) for three in (["a", "b", "c"], ["d", "e"])]
    possible = {" ".join(itertools.chain(*parts)) for parts in itertools.product(*orders)} - {"a b c d e"}
    found = {foil.text for seed in range(200) for foil in Order(["within_trigrams"], seed)("a b c d e")}
    assert found == possible


def test_all_words_are_shuffled() -> None:
    possible = {" ".join(order) for order in itertools.permutations("abcd")} - {"a b c d"}
    assert {foil.text for seed in range(300) for foil in Order(["words"], seed)("a b c d")} == possible


@given(st.lists(st.sampled_from(["a", "b", "c,", "D"]), max_size=11).map(" ".join), st.integers(0, 5))
def test_orders_differ_from_the_caption_and_each_other_and_lose_no_word(text: str, seed: int) -> None:
    foils = Order(["trigrams", "within_trigrams", "words"], seed)(text)
    texts = [foil.text for foil in foils]
    assert len({*texts, text}) == len(texts) + 1
    assert all(sorted(other.split()) == sorted(text.split()) for other in texts)
    assert foils == Order(["trigrams", "within_trigrams", "words"], seed)(text)


def test_what_cannot_change_has_no_wrong_caption() -> None:
    every = Order(["trigrams", "within_trigrams", "words"])
    assert every("one") == every("") == every("a a a a") == []
    assert [foil.kind for foil in every("a b c")] == ["within_trigrams", "words"] or len(every("a b c")) == 1
    assert Order(["trigrams"])("a b c") == []


def test_a_kind_is_drawn_the_same_whatever_else_is_made() -> None:
    alone = Order(["within_trigrams"], 3)(LONG)[0]
    assert alone in Order(["words", "trigrams", "within_trigrams"], 3)(LONG)
    assert len({Order(["words"], seed)(LONG)[0].text for seed in range(9)}) > 5


def test_order_refuses_a_kind_twice_and_one_that_needs_a_tagger() -> None:
    with pytest.raises(MmclError, match="twice"):
        Order(["words", "words"])
    with pytest.raises(ValueError, match="kinds"):
        FOILS.check({"name": "order", "kinds": ["nouns"]})


def test_the_task_of_the_glyphs_makes_wrong_names_of_342_of_500() -> None:
    spec = read_yaml(bundled.shelf("eval") / "tasks" / "glyphs" / "composition.yaml")["evaluator"]["foils"]
    maker = FOILS.check(spec).build()
    lines = Path(bundled.shelf("data_tools") / "glyphs_test.txt").read_text().splitlines()
    names = [line.split(" ", 1)[1].lower() for line in lines]
    foils = [maker(name) for name in names]
    assert (len(names), sum(map(bool, foils)), sum(map(len, foils))) == (500, 342, 474)
    assert {foil.kind for some in foils for foil in some} == set(maker.kinds())  # no pair is there for nothing
