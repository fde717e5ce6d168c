"""Copies of a modality: other crops of a picture, further captions of a sample."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import mmcl
from mmcl.data import Source, Stream
from mmcl.errors import BadSampleError, MmclError
from mmcl.media import ImageTransform
from mmcl.types import Batch, Transform
from tests.data.test_stream import written

WORDS = [["a"], ["b", "bb"], ["c", "cc", "ccc"], ["d", "dd", "ddd", "dddd", "ddddd"]]


class Letters(Transform):
    """The letters of a text, as rows of the longest text of a batch."""

    def empty(self, rows: int) -> Tensor:
        return torch.zeros(rows, 20, dtype=torch.long)

    def __call__(self, value: str, draw: Any, out: Tensor) -> None:
        if value == "broken":
            raise BadSampleError("broken text")
        out[: len(value)] = torch.tensor([ord(letter) for letter in value])

    def finish(self, rows: Tensor, present: Tensor) -> Tensor:
        return rows[:, : int((rows != 0).sum(1).max())]


def said(batch: Batch, name: str) -> list[str]:
    return ["".join(chr(int(i)) for i in row if i) for row in batch[name]]


def photo(kind: str, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    Image.fromarray(pixels).save(out := io.BytesIO(), kind)
    return out.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kinds = ("PNG", "JPEG")
    samples = [
        {"__key__": f"{i:02d}", ("png", "jpg")[i % 2]: photo(kinds[i % 2], i), "json": {"captions": WORDS[i % 4]}}
        for i in range(24)
    ]
    return written(tmp_path_factory.mktemp("photos") / "s", samples, per_shard=5)


@pytest.fixture(scope="module")
def stream(photos: Path) -> Callable[..., Stream]:
    def make(copies: dict[str, int] | None = None, **more: Any) -> Stream:
        source = Source(
            shards=str(photos),
            modalities={"image": "png;jpg", "text": "json:captions"},
            captions="random" if copies is None or "text" not in copies else "all",
            window=2,
        )
        transforms = {"image": ImageTransform(16, crop=(0.1, 0.5)), "text": Letters()}
        settings = {"batch_size": 6, "seed": 3, "transforms": transforms, "copies": copies, **more}
        return Stream(source, **settings)

    return make


NAMES = ["image", "image.2", "image.3", "text", "text.2"]


def rows(batches: Any) -> list[tuple[Any, ...]]:
    """Everything that every row has."""
    found: list[tuple[Any, ...]] = []
    for batch in batches:
        values = {n: said(batch, n) if n.startswith("text") else batch[n].flatten(1).tolist() for n in NAMES}
        for i, key in enumerate(batch.keys):
            found.append((key, *((bool(batch.present[n][i]), values[n][i]) for n in NAMES)))
    return found


def test_the_first_copy_is_what_there_is_without_copies_and_others_are_other_crops(
    stream: Callable[..., Stream],
) -> None:
    plain, several = list(stream()), list(stream({"image": 3}))
    for one, three in zip(plain, several, strict=True):
        assert one.keys == three.keys
        assert set(three.columns) == {"image", "image.2", "image.3", "text"}
        assert torch.equal(one["image"], three["image"])
        assert said(one, "text") == said(three, "text")
        for a, b in (("image", "image.2"), ("image", "image.3"), ("image.2", "image.3")):
            assert all(not torch.equal(x, y) for x, y in zip(three[a], three[b], strict=True))
        assert all(three.present[f"image{n}"].all() for n in ("", ".2", ".3"))


def test_workers_processes_and_interruptions_change_no_copy(stream: Callable[..., Stream]) -> None:
    copies = {"image": 3, "text": 2}
    whole = stream(copies, endless=True, workers=0)
    batches = [batch for batch, _ in zip(whole, range(9), strict=False)]
    expected = [rows([batch]) for batch in batches]
    assert len({str(r[1:4]) for r in rows(batches[4:8])} | {str(r[1:4]) for r in rows(batches[:4])}) == 48
    stopped = stream(copies, endless=True, workers=2)
    for _ in zip(range(3), stopped, strict=False):
        pass
    resumed = [stream(copies, endless=True, workers=3, share=(rank, 3)) for rank in range(3)]
    for s in resumed:
        s.restore(stopped.state())
    pairs = zip(*resumed, strict=False)
    assert [rows(list(pair)) for pair, _ in zip(pairs, range(3, 9), strict=False)] == expected[3:]


def test_copies_of_a_text_are_captions_of_its_sample_drawn_anew_each_epoch(stream: Callable[..., Stream]) -> None:
    s = stream({"text": 3}, endless=True)
    seen: dict[str, list[tuple[str, ...]]] = {}
    for batch, _ in zip(s, range(40), strict=False):
        for i, key in enumerate(batch.keys):
            captions = WORDS[int(key) % 4]
            there = [bool(batch.present[n][i]) for n in ("text", "text.2", "text.3")]
            assert there == [number < len(captions) for number in range(3)]
            taken = tuple(said(batch, n)[i] for n, has in zip(("text", "text.2", "text.3"), there, strict=True) if has)
            assert len(set(taken)) == min(3, len(captions))
            assert set(taken) <= set(captions)
            seen.setdefault(key, []).append(taken)
        assert not batch.bad
        assert all((batch[n][~batch.present[n]] == 0).all() for n in ("text", "text.2", "text.3"))
    drawn = [taken for key, several in seen.items() if int(key) % 4 == 3 for taken in several]
    assert len(drawn) == 60
    assert {word for taken in drawn for word in taken} == set(WORDS[3])
    assert len(set(drawn)) > 20


def test_one_copy_of_all_captions_is_one_that_is_drawn(photos: Path) -> None:
    source = Source(shards=str(photos), modalities={"image": "png;jpg", "text": "json:captions"}, captions="all")
    batches = list(Stream(source, batch_size=24, transforms={"text": Letters()}, copies={"image": 2}))
    assert [len(b["text"]) for b in batches] == [24]
    assert not batches[0].counts
    assert all(said(batches[0], "text")[i] in WORDS[int(key) % 4] for i, key in enumerate(batches[0].keys))


def test_without_transforms_copies_are_lists(photos: Path) -> None:
    s = mmcl.data.stream(
        photos,
        {"image": "png;jpg", "text": "json:captions"},
        batch_size=4,
        shuffle=False,
        captions="all",
        copies={"image": 2, "text": 2},
    )
    batch = next(iter(s))
    assert batch["image.2"][0].shape == (3, 80, 96)
    assert [len({a, b} - {None}) for a, b in zip(batch["text"], batch["text.2"], strict=True)] == [1, 2, 2, 2]


def test_what_goes_through_one_transform_has_one_form(tmp_path: Path) -> None:
    samples = [
        {"__key__": "a", "json": {"t": "fine", "n": ["quite wrong", "no"]}},
        {"__key__": "b", "json": {"t": "also fine"}},
        {"__key__": "c", "json": {"t": "broken", "n": "x"}},
    ]
    folder = written(tmp_path / "s", samples)
    source = Source(
        shards=str(folder),
        modalities={"text": "json:t", "text.wrong": "json:n"},
        optional=["text.wrong"],
        captions="all",
    )
    letters = Letters()
    transforms: dict[str, Transform] = {"text": letters, "text.wrong": letters}
    (batch,) = Stream(source, batch_size=3, shuffle=False, transforms=transforms, copies={"text": 2, "text.wrong": 2})
    names = ["text", "text.2", "text.wrong", "text.wrong.2"]
    assert {batch[name].shape for name in names} == {(3, 11)}
    assert said(batch, "text") == ["fine", "also fine", ""]
    assert {said(batch, "text.wrong")[0], said(batch, "text.wrong.2")[0]} == {"quite wrong", "no"}
    assert [batch.present[name].tolist() for name in names] == [
        [True, True, False],
        [False, False, False],
        [True, False, True],
        [True, False, False],
    ]
    assert [(bad.key, bad.modality, bad.reason) for bad in batch.bad] == [("c", "text", "broken text")]


@pytest.mark.parametrize(
    ("copies", "more", "told"),
    [
        ({"imag": 2}, {}, "copies: 'imag' is none of the modalities; did you mean 'image'"),
        ({"text": 2}, {}, "copies: those of text are further captions of its sample, which takes `captions: all`"),
        ({"text": 2}, {"captions": "first"}, "takes `captions: all`"),
        ({"image": 2}, {"image.2": "jpg"}, "two things are called 'image.2'"),
        ({"image": 2}, {"extras": {"image.2": "json:n"}}, "two things are called 'image.2'"),
        ({}, {"extras": {"text": "json:n"}}, "two things are called 'text'"),
    ],
)
def test_copies_that_make_no_sense_are_refused(
    photos: Path, copies: dict[str, int], more: dict[str, Any], told: str
) -> None:
    modalities = {"image": "png;jpg", "text": "json:captions"} | {k: v for k, v in more.items() if "." in k}
    source = {k: v for k, v in more.items() if "." not in k}
    with pytest.raises(MmclError, match=told):
        mmcl.data.stream(photos, modalities, batch_size=4, copies=copies, **source)


def test_a_picture_that_pillow_decodes_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.media import Picture, image

    calls = []
    decode = image._decode
    monkeypatch.setattr(image, "_decode", lambda data: calls.append(1) or decode(data))
    picture, transform = Picture(photo("PNG", 0)), ImageTransform(8, crop=(0.2, 0.5))
    out = transform.empty(2)
    for row, seed in enumerate((1, 2)):
        transform(picture, lambda seed=seed: np.random.default_rng(seed), out[row])
    assert len(calls) == 1
    fresh = transform.empty(1)
    transform(Picture(photo("PNG", 0)), lambda: np.random.default_rng(2), fresh[0])
    assert torch.equal(fresh[0], out[1])
