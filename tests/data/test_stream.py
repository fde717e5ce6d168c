"""Batches: every sample once, the same whoever reads them, and nothing lost silently."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import mmcl
from mmcl.data import Source, Stream, write_shards
from mmcl.errors import MmclError

FIELDS = {"image": "png", "text": "txt"}


class Draw:
    """A transform whose row shows what was drawn for it."""

    def __call__(self, value: Any, draw: Any) -> Tensor:
        return torch.tensor([draw().random(), float(len(value))], dtype=torch.float64)

    def collate(self, rows: list[Tensor]) -> Tensor:
        return torch.stack(rows)


def picture(value: int, kind: str = "PNG") -> bytes:
    Image.fromarray(np.full((6, 4, 3), value, np.uint8)).save(out := io.BytesIO(), kind)
    return out.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    samples = (
        {"__key__": f"{i:03d}", "png": picture(i), "txt": f"text {i}", "json": {"who": i // 2}} for i in range(103)
    )
    write_shards(samples, tmp_path / "s", samples_per_shard=10)
    return tmp_path / "s"


def stream(shards: Path, **more: Any) -> Stream:
    source = Source(shards=str(shards), modalities=FIELDS, identity="json:who", window=more.pop("window", 3))
    return Stream(source, **{"batch_size": 16, "seed": 5, "transforms": {"text": Draw()}, **more})


def content(batches: list[Any]) -> list[tuple[str, float, int]]:
    """(key, draw, red) of every row."""
    return [
        (key, draw, int(picture[0, 0, 0]))
        for batch in batches
        for key, draw, picture in zip(batch.keys, batch["text"][:, 0].tolist(), batch["image"], strict=True)
    ]


def test_an_epoch_has_every_sample_once_and_its_own_pixels(shards: Path) -> None:
    batches = list(stream(shards))
    rows = content(batches)
    assert sorted(key for key, _, _ in rows) == [f"{i:03d}" for i in range(103)]
    assert all(int(key) == red for key, _, red in rows)
    assert [len(b) for b in batches] == [16] * 6 + [7]


def test_iterating_again_gives_the_next_epoch_in_another_order(shards: Path) -> None:
    s = stream(shards)
    first, second = content(list(s)), content(list(s))
    assert sorted(key for key, _, _ in first) == sorted(key for key, _, _ in second)
    assert [key for key, _, _ in first] != [key for key, _, _ in second]
    assert {d for _, d, _ in first}.isdisjoint(d for _, d, _ in second)  # an epoch draws its own augmentation


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_and_processes_change_nothing(shards: Path, workers: int, world: int) -> None:
    expected = content(list(stream(shards, workers=0)))
    ranks = [list(stream(shards, workers=workers, share=(rank, world))) for rank in range(world)]
    dealt = [batch for batches in zip(*ranks, strict=True) for batch in batches]
    assert content(dealt) == expected
    offsets = [(b.size, b.offset, len(b)) for b in dealt[:world]]
    assert sum(count for _, _, count in offsets) == 16
    assert all(size == 16 for size, _, _ in offsets)


@pytest.mark.parametrize("at", [1, 4, 7, 9])
def test_a_stream_goes_on_exactly_where_it_was_on_other_workers_and_processes(shards: Path, at: int) -> None:
    whole = stream(shards, endless=True)
    expected = [content([batch]) for batch, _ in zip(whole, range(14), strict=False)]
    stopped = stream(shards, endless=True, workers=2)
    for _ in zip(range(at), stopped, strict=False):
        pass
    resumed = [stream(shards, endless=True, workers=1, share=(rank, 2)) for rank in range(2)]
    for s in resumed:
        s.restore(stopped.state())
    pairs = zip(*resumed, strict=False)
    assert [content(list(pair)) for pair, _ in zip(pairs, range(at, 14), strict=False)] == expected[at:]


def test_an_endless_stream_has_full_batches_and_every_sample_once_an_epoch(shards: Path) -> None:
    batches = [b for b, _ in zip(stream(shards, endless=True), range(13), strict=False)]
    keys = [key for b in batches for key in b.keys]
    assert {len(b) for b in batches} == {16}
    assert set(Counter(keys[:103]).values()) == set(Counter(keys[103:206]).values()) == {1}


def test_rows_of_one_identity_share_an_id(shards: Path) -> None:
    ids = {key: i for b in stream(shards) for key, i in zip(b.keys, b.ids.tolist(), strict=True)}
    assert all(ids[f"{i:03d}"] == ids[f"{i + 1:03d}"] for i in range(0, 102, 2))
    assert len(set(ids.values())) == 52


def test_keys_that_repeat_from_shard_to_shard_are_different_samples(tmp_path: Path) -> None:
    for shard in range(3):
        write_shards(({"__key__": str(i), "txt": f"{shard} {i}"} for i in range(5)), tmp_path / str(shard))
    source = Source(shards=str(tmp_path), modalities={"text": "txt"})
    batches = list(Stream(source, batch_size=4, transforms={"text": Draw()}))
    assert len({i for b in batches for i in b.ids.tolist()}) == 15
    assert len({d for b in batches for d in b["text"][:, 0].tolist()}) == 15


@pytest.mark.parametrize("change", [{"seed": 6}, {"batch_size": 8}, {"window": 2}])
def test_going_on_with_another_order_is_refused(shards: Path, change: dict[str, int]) -> None:
    with pytest.raises(MmclError, match="its order cannot be continued"):
        stream(shards, **change).restore(stream(shards).state())


def test_going_on_with_changed_shards_is_refused(shards: Path, tmp_path: Path) -> None:
    state = stream(shards).state()
    samples = ({"__key__": f"{i:03d}", "png": picture(i), "txt": f"text {i}!", "json": {"who": 1}} for i in range(103))
    write_shards(samples, tmp_path / "t", samples_per_shard=10)
    with pytest.raises(MmclError, match="its order cannot be continued"):
        stream(tmp_path / "t").restore(state)


def test_bad_samples_are_absent_rows_each_with_its_reason(tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [
        {"__key__": "fine", "png": picture(9), "txt": "fine"},
        {"__key__": "noise", "png": b"\x89PNG\r\n\x1a\nnoise", "txt": "noise"},
        {"__key__": "nothing", "png": b"", "txt": "nothing"},
        {"__key__": "silent", "png": picture(1), "txt": "  "},
        {"__key__": "latin1", "png": picture(1), "txt": "\xe9".encode("latin-1")},
        {"__key__": "blind", "txt": "blind"},
        {"__key__": "wrong", "png": picture(3, "JPEG"), "txt": "a jpeg that calls itself png"},
    ]
    write_shards(bad, tmp_path / "s")
    (batch,) = list(stream(tmp_path / "s", shuffle=False, workers=2))
    assert batch.keys == [sample["__key__"] for sample in bad]
    assert batch.present["image"].tolist() == [True, False, False, True, True, False, True]
    assert batch.present["text"].tolist() == [True, True, True, False, False, True, True]
    assert batch["image"][1] is None
    assert batch["text"][3].abs().sum() == 0
    assert {(b.key, b.modality): b.reason for b in batch.bad} == {
        ("noise", "image"): "image cannot be decoded (UnidentifiedImageError)",
        ("nothing", "image"): "empty image",
        ("silent", "text"): "empty text",
        ("latin1", "text"): "text is not UTF-8",
        ("blind", "image"): "no png",
    }
    assert {b.shard for b in batch.bad} == {"00000.tar"}


def test_a_batch_without_any_row_of_a_modality(tmp_path: Path) -> None:
    samples = [{"__key__": str(i), "txt": f"{i}", **({"png": picture(i)} if i > 3 else {})} for i in range(8)]
    write_shards(samples, tmp_path / "s")
    source = Source(shards=str(tmp_path / "s"), modalities=FIELDS)
    first = next(iter(Stream(source, batch_size=4, shuffle=False, transforms={"image": Draw()})))
    assert not first.present["image"].any()
    assert first["image"].shape[0] == 4


def test_the_public_stream_gives_pictures_and_texts(shards: Path) -> None:
    s = mmcl.data.stream(shards / "{00000..00010}.tar", modalities={"image": "jpg;png", "text": "txt"}, batch_size=7)
    batch = next(iter(s))
    assert batch["image"][0].shape == (3, 6, 4)
    assert batch["image"][0].dtype == torch.uint8
    assert batch["text"][0] == f"text {int(batch.keys[0])}"


def test_leaving_a_stream_early_ends_its_threads(shards: Path) -> None:
    import threading

    before = threading.active_count()
    for _ in stream(shards, workers=3):
        break
    import gc

    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("mmcl-data"):
            thread.join(timeout=5)
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    ("modalities", "told"),
    [
        ({"image": "jpg"}, r"no sample of .* has image \(jpg\); their members are: json, png, txt"),
        ({"image": "mp7"}, "'mp7' does not say where a modality lies"),
        ({"text": "txt:caption"}, "'txt:caption' does not say"),
    ],
)
def test_a_modality_that_is_not_there_is_told(shards: Path, modalities: dict[str, str], told: str) -> None:
    with pytest.raises(MmclError, match=told):
        mmcl.data.stream(shards, modalities=modalities, batch_size=4)


def test_nonsense_sizes_are_refused(shards: Path) -> None:
    with pytest.raises(MmclError, match="batch_size must be 1 or more"):
        stream(shards, batch_size=0)
