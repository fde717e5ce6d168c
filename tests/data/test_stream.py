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
from mmcl.data import SampleWindow, Source, Stream, write_shards
from mmcl.errors import MmclError
from mmcl.types import Transform
from tests.data.test_index import tar

FIELDS = {"image": "png", "text": "txt"}


class Draw(Transform):
    """A transform whose row shows what was drawn for it."""

    def empty(self, rows: int) -> Tensor:
        return torch.empty(rows, 2, dtype=torch.float64)

    def __call__(self, value: Any, draw: Any, out: Tensor) -> None:
        out[:] = torch.tensor([draw().random(), 1.0], dtype=torch.float64)


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
        ("noise", "image"): "image cannot be decoded (cannot identify image file)",
        ("nothing", "image"): "empty image",
        ("silent", "text"): "empty text",
        ("latin1", "text"): "text is not UTF-8",
        ("blind", "image"): "no png",
    }
    assert {b.shard for b in batch.bad} == {str(tmp_path / "s" / "00000.tar")}


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
        if thread.name.startswith("mmcl-"):
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


def written(folder: Path, samples: list[dict[str, Any]], per_shard: int = 10) -> Path:
    write_shards(iter(samples), folder, samples_per_shard=per_shard)
    return folder


def texts(folder: Path, name: str, n: int, **more: Any) -> Path:
    return written(folder, [{"__key__": f"{name}{i:03d}", "txt": f"{name} {i}", **more} for i in range(n)])


def keys(batches: Any) -> list[str]:
    return [key for batch in batches for key in batch.keys]


@pytest.mark.parametrize("world", range(1, 9))
def test_every_number_of_processes_and_workers_sees_each_sample_once(tmp_path: Path, world: int) -> None:
    folder = texts(tmp_path / "s", "a", 53)
    source = Source(shards=str(folder), modalities={"text": "txt"}, window=2)
    expected = None
    for workers in range(9):
        ranks = [
            list(Stream(source, batch_size=12, seed=1, workers=workers, share=(rank, world))) for rank in range(world)
        ]
        dealt = [keys(batches) for batches in zip(*ranks, strict=True)]
        expected = expected or dealt
        assert dealt == expected
    assert sorted(key for batch in expected or [] for key in batch) == [f"a{i:03d}" for i in range(53)]


@pytest.mark.parametrize("endless", [True, False])
@pytest.mark.parametrize("policy", ["drop", "pad", "keep", "carry"])
@pytest.mark.parametrize("world", [1, 3])
def test_the_last_batch_is_as_is_said_on_every_process(tmp_path: Path, policy: str, endless: bool, world: int) -> None:
    folder = texts(tmp_path / "s", "a", 53)
    source = Source(shards=str(folder), modalities={"text": "txt"}, window=2)
    if policy == "carry" and not endless:
        with pytest.raises(MmclError, match="needs an endless stream"):
            Stream(source, batch_size=12, last_batch="carry")
        return
    streams = [
        Stream(source, batch_size=12, seed=1, endless=endless, last_batch=policy, share=(rank, world))  # type: ignore[arg-type]
        for rank in range(world)
    ]
    batches = [list(zip(range(9), s, strict=False)) for s in streams]
    steps = [[batch for _, batch in step] for step in zip(*batches, strict=True)]
    sizes = [step[0].size for step in steps]
    assert all(batch.size == size for step, size in zip(steps, sizes, strict=True) for batch in step)
    assert [sum(len(batch) for batch in step) for step in steps] == sizes
    one = {"drop": [12] * 4, "pad": [12] * 5, "keep": [12] * 4 + [5], "carry": [12] * 9}[policy]
    assert sizes == (one * 3)[:9] if endless else one
    epochs = [Counter(key for step in steps for b in step if b.epoch == e for key in b.keys if key) for e in range(3)]
    assert policy == "carry" or set().union(*(seen.values() for seen in epochs)) == {1}
    assert policy == "carry" or len(epochs[0]) == (48 if policy == "drop" else 53)
    if not endless:
        assert streams[0].dropped == (5 if policy == "drop" else 0)
    if policy == "pad":
        last = steps[4]
        assert sum(int(batch.present["text"].sum()) for batch in last) == 5
        assert [key for batch in last for key in batch.keys][5:] == [""] * 7
        assert len({int(i) for batch in last for i in batch.ids}) >= 5


@pytest.mark.parametrize("policy", ["drop", "pad", "keep"])
@pytest.mark.parametrize("at", [3, 4, 5, 7])
def test_policies_of_the_last_batch_survive_an_interruption(shards: Path, policy: Any, at: int) -> None:
    def make() -> Stream:
        return stream(shards, endless=True, last_batch=policy, batch_size=25)

    expected = [batch.keys for batch, _ in zip(make(), range(12), strict=False)]
    stopped = make()
    for _ in zip(range(at), stopped, strict=False):
        pass
    resumed = make()
    resumed.restore(stopped.state())
    assert [batch.keys for batch, _ in zip(resumed, range(at, 12), strict=False)] == expected[at:]


def test_windows_may_be_counted_in_samples(shards: Path) -> None:
    def order(window: Any) -> list[str]:
        return keys(stream(shards, window=window, batch_size=7))

    assert sorted(order(SampleWindow(samples=25))) == [f"{i:03d}" for i in range(103)]
    assert order(SampleWindow(samples=24)) == order(SampleWindow(samples=30)) != order(SampleWindow(samples=20))
    first = stream(shards, window=SampleWindow(samples=25), batch_size=7)
    batches = iter(first)
    next(batches)
    resumed = stream(shards, window=SampleWindow(samples=25), batch_size=7, workers=0)
    resumed.restore(first.state())
    assert keys(resumed) == order(SampleWindow(samples=25))[7:]


def test_iterating_again_after_leaving_early_loses_nothing(shards: Path) -> None:
    s = stream(shards, batch_size=10)
    first = [key for _, batch in zip(range(3), s, strict=False) for key in batch.keys]
    assert sorted(first + keys(s)) == [f"{i:03d}" for i in range(103)]


def test_a_modality_that_may_be_missing_is_not_bad_and_a_broken_one_is(tmp_path: Path) -> None:
    samples = [
        {"__key__": "both", "txt": "a", "png": picture(1)},
        {"__key__": "text", "txt": "b"},
        {"__key__": "broken", "txt": "c", "png": b"no picture"},
    ]
    folder = written(tmp_path / "s", samples)
    source = Source(shards=str(folder), modalities={"image": "png", "text": "txt"}, optional=["image"])
    (batch,) = list(Stream(source, batch_size=3, shuffle=False))
    assert batch.present["image"].tolist() == [True, False, False]
    assert [(b.key, b.reason) for b in batch.bad] == [
        ("broken", "image cannot be decoded (cannot identify image file)")
    ]


@pytest.mark.parametrize("said", ["pyd", "jpg;pkl", "pth"])
def test_members_that_would_run_code_are_refused(shards: Path, said: str) -> None:
    with pytest.raises(MmclError, match="would run code"):
        mmcl.data.stream(shards, modalities={"image": said}, batch_size=4)


def test_problems_of_the_shards_are_told_once_by_the_first_process(tmp_path: Path) -> None:
    folder = texts(tmp_path / "s", "a", 30)
    cut = folder / "00001.tar"
    cut.write_bytes(cut.read_bytes()[:-12_000])
    (folder / "manifest.json").unlink()
    source = Source(shards=str(folder), modalities={"text": "txt"}, window=2)
    told = [[bad for batch in Stream(source, batch_size=6, share=(rank, 2)) for bad in batch.bad] for rank in range(2)]
    assert [(bad.shard, bad.modality) for bad in told[0]] == [(str(cut), "")]
    assert told[1] == []


def test_the_first_shards_may_lack_a_modality_that_later_ones_have(tmp_path: Path) -> None:
    texts(tmp_path / "s" / "a", "a", 5)
    written(tmp_path / "s" / "b", [{"__key__": "b", "txt": "b", "png": picture(1)}])
    batches = list(mmcl.data.stream(tmp_path / "s", {"image": "png", "text": "txt"}, batch_size=6, shuffle=False))
    assert batches[0].present["image"].tolist() == [False] * 5 + [True]


def test_shards_without_samples_are_told(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [])
    with pytest.raises(MmclError, match="hold no samples"):
        mmcl.data.stream(tmp_path, {"text": "txt"}, batch_size=2)


def test_an_endless_stream_that_drops_everything_is_told(shards: Path) -> None:
    with pytest.raises(MmclError, match="fewer samples than the 104"):
        next(iter(stream(shards, batch_size=104, endless=True, last_batch="drop")))
    whole = iter(stream(shards, batch_size=103, endless=True, last_batch="drop"))
    assert [next(whole).epoch for _ in range(3)] == [0, 1, 2]
    most = iter(stream(shards, batch_size=60, endless=True, last_batch="drop"))
    assert [next(most).epoch for _ in range(3)] == [0, 1, 2]


def test_half_a_character_in_json_is_a_bad_sample(tmp_path: Path) -> None:
    captions = {"half": '{"c": "ok \\ud83d"}', "whole": '{"c": "ok \\ud83d\\ude00"}'}
    write_shards(({"__key__": k, "json": c.encode()} for k, c in captions.items()), tmp_path / "s")
    source = {"text": "json:c"}
    (batch,) = mmcl.data.stream(tmp_path / "s", source, batch_size=2, identity="json:c", shuffle=False)
    assert batch["text"] == [None, "ok \U0001f600"]
    assert [(b.key, "lone surrogate" in b.reason) for b in batch.bad] == [("half", True)]


def test_an_older_iterator_does_not_repeat_what_a_newer_one_gave(shards: Path) -> None:
    one = stream(shards)
    older = iter(one)
    seen = keys([next(older)])
    newer = iter(one)
    seen += keys([next(newer)])
    with pytest.raises(MmclError, match="iterated anew"):
        next(older)
    assert len(set(seen + keys(newer))) == 103
