"""Examples: in groups, with what is right, and pictures that are small."""

import base64
import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcl.eval_page.examples import FOUND, groups
from mmcl.evaluators import Example
from mmcl.media.thumbnail import BYTES, SIDE, small


def url(picture: Image.Image, kind: str = "png", **options: Any) -> str:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def opened(said: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(said.split(",")[1])))


def noise(*size: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))


def example(pictures: dict[str, str] | None = None, **said: Any) -> dict[str, Any]:
    given = {"query": "q", "modality": "text", "correct": ["k3"], "found": [f"k{i}" for i in range(FOUND)]}
    return dataclasses.asdict(Example(**given | {"kind": "items", "gallery": "image"} | said)) | {
        "pictures": pictures or {}
    }


def test_groups_are_ordered_by_what_asks_and_why_they_are_shown() -> None:
    ways = [("text", "image"), ("image", "text")]
    made = groups([example(modality=a, gallery=b, group=g) for a, b in ways for g in ("spread evenly", "worst", "odd")])
    assert [group.title for group in made] == [
        "text → image: worst",
        "text → image: spread evenly",
        "text → image: odd",
        "image → text: worst",
        "image → text: spread evenly",
        "image → text: odd",
    ]


def test_what_is_right_is_marked_and_told_where_it_was_not_found() -> None:
    first, second = (groups([example(correct=keys)])[0].examples[0] for keys in (["k3"], ["a", "b", "c", "d"]))
    assert [thing.right for thing in first.found] == [False, False, False, True, False]
    assert (first.place, first.right, first.more) == (4, [], 0)
    assert second.place is None
    assert [thing.text for thing in second.right] == ["a", "b"]
    assert second.more == 2


def test_what_is_right_beyond_what_is_shown_is_told_with_its_place() -> None:
    (shown,) = groups([example(found=[f"k{i}" for i in range(9)], correct=["k7"])])[0].examples
    assert len(shown.found) == FOUND
    assert shown.place == 8
    assert [thing.text for thing in shown.right] == ["k7"]


def test_a_query_is_not_right_though_it_reads_like_an_answer() -> None:
    (shown,) = groups([example(query="k3")])[0].examples
    assert not shown.query.right


def test_pictures_stand_where_they_are() -> None:
    picture = url(noise(8, 8))
    (group,) = groups([example({"k1": picture})])
    assert group.pictured
    assert [thing.picture for thing in group.examples[0].found] == ["", picture, "", "", ""]
    assert not groups([example()])[0].pictured


def test_a_sound_that_is_found_does_not_show_the_picture_that_asked() -> None:
    (group,) = groups([example({"k3": url(noise(8, 8))}, query="k3", modality="image", gallery="audio")])
    assert not group.pictured
    assert group.examples[0].query.picture
    assert {thing.picture for thing in group.examples[0].found} == {""}


def test_a_large_picture_becomes_small() -> None:
    said = small(url(noise(400, 300, 3), "jpeg"))
    assert said.startswith("data:image/jpeg")
    assert opened(said).size == (SIDE * 3 // 4, SIDE)
    assert len(said) < 3 * BYTES


def test_a_small_picture_stays_as_it_is() -> None:
    said = url(noise(20, 20))
    assert small(said) == said


@pytest.mark.parametrize("kind", ["tiff", "bmp", "ppm"])
def test_what_browsers_cannot_show_becomes_what_they_can(kind: str) -> None:
    said = small(url(noise(20, 20, 3), kind))
    assert said.startswith("data:image/jpeg")
    assert opened(said).size == (20, 20)


def test_clear_pixels_stay_clear() -> None:
    picture = noise(200, 200, 4)
    picture.putalpha(0)
    said = opened(small(url(picture)))
    assert said.mode == "RGBA"
    assert said.getchannel("A").getextrema() == (0, 0)


def test_a_turned_picture_is_shown_upright() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    assert opened(small(url(noise(100, 300, 3), "jpeg", exif=turned))).size == (SIDE // 3, SIDE)


@pytest.mark.parametrize("said", ["", "data:image/png;base64," + base64.b64encode(b"broken" * 999).decode(), "x"])
def test_what_cannot_be_read_is_no_picture(said: str) -> None:
    assert small(said) == ""
