"""Several sources: one pool, or weights that hold."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcl.data import Source, Stream
from mmcl.data.order import BATCH_BLOCK, Quotas
from mmcl.errors import MmclError
from tests.data.test_stream import keys, picture, texts, written


@pytest.fixture
def two(tmp_path: Path) -> list[Source]:
    pictures = [{"__key__": f"p{i:03d}", "png": picture(i), "json": {"caption": f"p {i}"}} for i in range(60)]
    written(tmp_path / "p", pictures)
    texts(tmp_path / "t", "t", 20)
    return [
        Source(shards=str(tmp_path / "p"), modalities={"image": "png", "text": "json:caption"}),
        Source(shards=str(tmp_path / "t"), modalities={"text": "txt"}),
    ]


def test_sources_without_weights_are_one_pool_each_with_its_own_keys(two: list[Source]) -> None:
    batches = list(Stream(two, batch_size=16, seed=3))
    assert sorted(keys(batches)) == [f"p{i:03d}" for i in range(60)] + [f"t{i:03d}" for i in range(20)]
    assert any({key[0] for key in batch.keys} == {"p", "t"} for batch in batches)
    for batch in batches:
        assert batch.present["text"].all()
        assert batch.present["image"].tolist() == [key[0] == "p" for key in batch.keys]
        assert not batch.bad


def weighted(two: list[Source]) -> list[Source]:
    return [s.model_copy(update={"weight": w}) for s, w in zip(two, (1.0, 3.0), strict=True)]


@pytest.mark.slow
def test_weights_hold_and_each_source_runs_through_epochs_of_its_own(two: list[Source]) -> None:
    mixed = Stream(weighted(two), batch_size=16, seed=3, endless=True)
    seen = keys(batch for batch, _ in zip(mixed, range(1250), strict=False))
    share = sum(key[0] == "p" for key in seen) / len(seen)
    assert abs(share - 0.25) < 1e-9  # whole blocks of 10,000
    counts = Counter(seen)
    pictures, captions = [n for k, n in counts.items() if k[0] == "p"], [n for k, n in counts.items() if k[0] == "t"]
    assert max(pictures) - min(pictures) <= 1
    assert max(captions) - min(captions) <= 1
    assert mixed.samples == 80


@pytest.mark.parametrize("at", [2, 5, 9])
def test_a_mixture_goes_on_exactly_where_it_was(two: list[Source], at: int) -> None:
    def make(rank: int = 0, world: int = 1, workers: int = 2) -> Stream:
        return Stream(weighted(two), batch_size=16, seed=3, endless=True, share=(rank, world), workers=workers)

    expected = [batch.keys for batch, _ in zip(make(), range(14), strict=False)]
    stopped = make()
    for _ in zip(range(at), stopped, strict=False):
        pass
    resumed = [make(rank, 2, workers=0) for rank in range(2)]
    for s in resumed:
        s.restore(json.loads(json.dumps(stopped.state())))
    pairs = zip(*resumed, strict=False)
    assert [keys(pair) for pair, _ in zip(pairs, range(at, 14), strict=False)] == expected[at:]


def test_an_epoch_of_a_mixture_is_as_long_as_its_sources_together(two: list[Source]) -> None:
    once = Stream(weighted(two), batch_size=16, seed=3)
    assert len(keys(once)) == 80
    assert keys(once)[:10] != keys(Stream(weighted(two), batch_size=16, seed=3))[:10]  # the second epoch is another


@pytest.mark.parametrize(
    ("change", "told"),
    [({"weight": 1.0}, "some sources have a weight and some have none"), ({"window": 3}, "need one window")],
)
def test_mixtures_that_say_nothing_clear_are_refused(two: list[Source], change: dict[str, Any], told: str) -> None:
    with pytest.raises(MmclError, match=told):
        Stream([two[0].model_copy(update=change), two[1]], batch_size=4)


def by_source(two: list[Source], **more: Any) -> Stream:
    return Stream(weighted(two), **{"batch_size": 7, "seed": 3, "endless": True, "batches": "by_source", **more})


def test_batches_by_source_are_of_one_each_and_their_weights_hold(two: list[Source]) -> None:
    seen = [batch.keys for batch, _ in zip(by_source(two, batch_size=1), range(2 * BATCH_BLOCK), strict=False)]
    which = ["".join(sorted({key[0] for key in keys})) for keys in seen]
    for block in (which[:BATCH_BLOCK], which[BATCH_BLOCK:]):
        assert Counter(block) == {"p": BATCH_BLOCK // 4, "t": BATCH_BLOCK * 3 // 4}
    quotas = Quotas([1.0, 3.0], 3, BATCH_BLOCK)
    assert which == ["pt"[number] for number in quotas(0, 2 * BATCH_BLOCK)]
    counts = Counter(key for keys in seen for key in keys)
    for source in "pt":  # each runs through epochs of its own
        own = [n for key, n in counts.items() if key[0] == source]
        assert max(own) - min(own) <= 1


@pytest.mark.parametrize(
    "last_batch", ["carry", "keep", *(pytest.param(k, marks=pytest.mark.slow) for k in ("drop", "pad"))]
)
def test_batches_by_source_go_on_from_any_batch_on_any_number_of_processes(two: list[Source], last_batch: Any) -> None:
    """80 samples an epoch in batches of 7: the twelfth is the odd one."""
    whole, states, expected = by_source(two, last_batch=last_batch), [], []
    for batch, _ in zip(whole, range(26), strict=False):
        expected.append((batch.keys, batch.ids.tolist(), batch.epoch, len(batch)))
        states.append(json.loads(json.dumps(whole.state())))
    odd = {"carry": 7, "drop": 7, "pad": 7, "keep": 3}[last_batch]
    assert [size for *_, size in expected] == ([7] * 11 + [odd]) * 2 + [7] * 2
    some = [
        [by_source(two, last_batch=last_batch, share=(rank, world), workers=0) for rank in range(world)]
        for world in (1, 2, 3)
    ]
    for state, (rows, ids, epoch, _), parts in zip(states, expected[1:], itertools.cycle(some), strict=False):
        for part in parts:
            part.restore(state)
        own = [next(iter(part)) for part in parts]
        assert keys(own) == rows
        assert torch.cat([batch.ids for batch in own]).tolist() == ids
        assert {batch.epoch for batch in own} == {epoch}


def test_batches_by_source_are_another_order_and_need_weights(two: list[Source]) -> None:
    mixed, other = by_source(two, batches="mixed"), by_source(two)
    assert [next(iter(mixed)).keys] != [next(iter(other)).keys]
    for one, another in ((mixed, other), (other, mixed)):
        with pytest.raises(MmclError, match="the kind of batches or their size are not those of the run"):
            one.restore(another.state())
    for sources in (two, two[:1]):
        with pytest.raises(MmclError, match="batches: by_source has no effect where sources have no weights"):
            Stream(sources, batch_size=4, batches="by_source")
    sources = [two[0].model_copy(update={"weight": 1e-4}), two[1].model_copy(update={"weight": 1.0})]
    with pytest.raises(MmclError, match="of 1,000 batches none would come from there"):
        Stream(sources, batch_size=4, batches="by_source")
