"""A stream that goes to some samples in the order of the shards, and reads no others."""

from pathlib import Path

import pytest

from mmcl.data import Source, Stream, write_shards
from mmcl.errors import MmclError

COUNT = 23


@pytest.fixture
def source(tmp_path: Path) -> Source:
    write_shards(({"__key__": f"{i:02d}", "txt": f"text {i}"} for i in range(COUNT)), tmp_path / "s", 5)
    return Source(shards=str(tmp_path / "s"), modalities={"text": "txt"})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [1, 3, 50])
def test_any_range_comes_in_batches_from_its_first_sample_on(source: Source, workers: int, size: int) -> None:
    stream = Stream(source, batch_size=size, shuffle=False, workers=workers)
    for start, stop in ((0, COUNT), (4, 6), (5, 10), (22, 23), (0, 1), (3, 20), (0, COUNT)):
        stream.seek(start, stop)
        batches = [batch.keys for batch in stream]
        assert [key for keys in batches for key in keys] == [f"{i:02d}" for i in range(start, stop)]
        assert all(len(keys) == size for keys in batches[:-1])
        assert stream.samples_seen == stop


def test_a_range_may_be_left_in_its_middle(source: Source) -> None:
    stream = Stream(source, batch_size=2, shuffle=False)
    stream.seek(0, 20)
    assert next(iter(stream)).keys == ["00", "01"]
    stream.seek(17, 19)
    assert [batch.keys for batch in stream] == [["17", "18"]]


def test_shards_that_hold_none_of_the_samples_are_not_read(source: Source) -> None:
    stream = Stream(source, batch_size=2, shuffle=False)
    for number in (0, 1, 4):
        (Path(str(source.shards)) / f"{number:05d}.tar").write_bytes(b"gone")
    stream.seek(11, 15)
    assert [batch.keys for batch in stream] == [["11", "12"], ["13", "14"]]


def test_what_cannot_be_gone_to_is_told(source: Source) -> None:
    with pytest.raises(MmclError, match="samples are shuffled, so none can be gone to"):
        Stream(source, batch_size=2).seek(3, 4)
    for start, stop in ((3, 3), (-1, 2), (3, 24)):
        with pytest.raises(MmclError, match=f"there are samples 0 to 22; asked for {start} to {stop - 1}"):
            Stream(source, batch_size=2, shuffle=False).seek(start, stop)
    mixed = [source.model_copy(update={"weight": weight}) for weight in (1.0, 2.0)]
    with pytest.raises(MmclError, match="a mixture has no order of the shards"):
        Stream(mixed, batch_size=2, shuffle=False).seek(3, 4)
