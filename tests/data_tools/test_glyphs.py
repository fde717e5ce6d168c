"""The glyphs data set: what the issue's figures are measured on, so it must not drift."""

import hashlib
import io
import itertools
import unicodedata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcl import bundled

TESTED = (bundled.shelf("data_tools") / "glyphs_test.txt").read_text()


@pytest.fixture(scope="module")
def test_set(script: SimpleNamespace) -> list[dict[str, Any]]:
    return list(script.test_samples())


def test_the_characters_and_their_styles_are_all_there(script: SimpleNamespace) -> None:
    table = script.characters()
    assert (len(table), sum(map(len, table.values()))) == (7346, 54534)  # 7,407 with a name, of which 61 are blank


def test_the_test_characters_are_fixed_and_chosen_by_hash_alone(script: SimpleNamespace) -> None:
    assert hashlib.sha256(TESTED.encode()).hexdigest()[:16] == "fcebcb3fbf698401"
    assert script.choose_test() == TESTED.splitlines()
    assert len(TESTED.splitlines()) == 500


def test_no_test_character_and_no_name_of_one_is_in_the_training_set(script: SimpleNamespace) -> None:
    names = {line.split(" ", 1)[1].lower() for line in TESTED.splitlines()}
    seen: set[str] = set()
    for sample in script.train_samples():
        seen.add(sample["json"]["name"])
    assert len(seen) == 6846
    assert seen.isdisjoint(names)


def test_a_sample_is_a_readable_picture_with_a_caption_of_its_name(test_set: list[dict[str, Any]]) -> None:
    assert len({sample["__key__"] for sample in test_set}) == 500
    for sample in test_set:
        picture = np.asarray(Image.open(io.BytesIO(sample["png"])))
        assert picture.min() < 128 < picture.max()
        assert sample["txt"] == unicodedata.name(sample["json"]["character"]).lower()


def test_no_two_test_pictures_are_equal(test_set: list[dict[str, Any]]) -> None:
    assert len({np.asarray(Image.open(io.BytesIO(s["png"]))).tobytes() for s in test_set}) == 500


def test_twins_share_an_identity(script: SimpleNamespace) -> None:
    identities = script.identities()
    assert identities["A"] == identities["\N{GREEK CAPITAL LETTER ALPHA}"]
    assert identities["A"] != identities["B"]


def test_styles_shifts_and_templates_vary_and_are_repeatable(script: SimpleNamespace) -> None:
    once, again = ([*itertools.islice(script.train_samples(), 300)] for _ in range(2))
    assert [s["png"] for s in once] == [s["png"] for s in again]
    assert [s["txt"] for s in once] == [s["txt"] for s in again]
    assert len({s["json"]["style"] for s in once}) > 10
    assert any(s["txt"] != s["json"]["name"] for s in once)


def test_the_digits_are_all_there() -> None:
    import runpy

    made = runpy.run_path(str(bundled.shelf("data_tools") / "mnist5k.py"))
    samples = list(made["test_samples"]())
    assert len(samples) == 5000
    assert {s["json"]["digit"] for s in samples} == set(made["DIGITS"])
    corner = np.asarray(Image.open(io.BytesIO(samples[0]["png"])))[0, 0]
    assert corner == 255  # ink on paper, as the glyphs are
