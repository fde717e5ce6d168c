"""Several texts of one sample."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mmcl
from mmcl.data import Source, Stream, write_shards
from mmcl.errors import BadSampleError
from mmcl.types import Transform
from tests.data.test_stream import written


def captioned(tmp_path: Path) -> Path:
    return written(
        tmp_path / "c",
        [
            {"__key__": "a", "txt": "one\ntwo\n\nthree", "json": {"captions": {"en": ["x", "y"]}, "label": 3}},
            {"__key__": "b", "txt": "single", "json": {"captions": {"en": "z"}, "label": 4}},
            {"__key__": "c", "txt": " \n ", "json": {"captions": {"en": [" ", ""]}}},
        ],
    )


@pytest.mark.parametrize("where", ["txt:lines", "json:captions.en"])
def test_captions_first_random_and_all(tmp_path: Path, where: str) -> None:
    folder = captioned(tmp_path)
    several = ["one", "two", "three"] if where == "txt:lines" else ["x", "y"]
    last = "single" if where == "txt:lines" else "z"

    def column(captions: str, epochs: int = 1) -> list[Any]:
        s = mmcl.data.stream(folder, {"text": where}, batch_size=3, shuffle=False, captions=captions)
        return [batch["text"] for _ in range(epochs) for batch in s]

    assert column("first") == [[several[0], last, None]]
    assert column("all") == [[several, [last], None]]
    drawn = column("random", epochs=40)
    assert {row[0] for row in drawn} == set(several)
    assert {row[1] for row in drawn} == {last}


class Letters(Transform):
    """The length of a text."""

    def empty(self, rows: int) -> Tensor:
        return torch.empty(rows, 1)

    def __call__(self, value: str, draw: Any, out: Tensor) -> None:
        out[0] = len(value)


def test_all_captions_are_rows_that_are_counted(tmp_path: Path) -> None:
    folder = captioned(tmp_path)
    source = Source(shards=str(folder), modalities={"text": "txt:lines", "label": "json:label"}, captions="all")
    (batch,) = list(Stream(source, batch_size=3, shuffle=False, transforms={"text": Letters()}))
    assert batch["text"][:, 0].tolist() == [3, 3, 5, 6]
    assert batch.counts["text"].tolist() == [3, 1, 0]
    assert batch.present["text"].tolist() == [True, True, False]


class NoB(Transform):
    """Numbers of texts, except of those that begin with b."""

    def empty(self, rows: int) -> Tensor:
        return torch.full((rows, 1), -7)

    def __call__(self, value: str, draw: object, out: Tensor) -> None:
        if value.startswith("b"):
            raise BadSampleError("begins with b")
        out[:] = len(value)


def test_texts_of_a_sample_one_of_which_cannot_be_used_leave_no_rows(tmp_path: Path) -> None:
    texts = [["a", "aa"], ["aa", "b"]]
    write_shards(({"__key__": str(i), "json": {"t": t}} for i, t in enumerate(texts)), tmp_path / "s")
    source = Source(shards=str(tmp_path / "s"), modalities={"text": "json:t"}, captions="all")
    (batch,) = Stream(source, batch_size=2, shuffle=False, transforms={"text": NoB()})
    assert batch.present["text"].tolist() == [True, False]
    assert batch.counts["text"].tolist() == [2, 0]
    assert batch["text"].tolist() == [[1], [2]]
    assert [bad.reason for bad in batch.bad] == ["begins with b"]
