"""Files of a stream: closed with it, and told where they vanish."""

import gc
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mmcl.data import Source, Stream
from mmcl.data.store import ShardSet
from mmcl.errors import MmclError
from tests.data.test_stream import texts


def test_shards_that_vanish_end_the_stream_with_their_name(tmp_path: Path) -> None:
    folder = texts(tmp_path / "s", "a", 90)
    source = Source(shards=str(folder), modalities={"text": "txt"}, window=1)
    running = iter(Stream(source, batch_size=5, workers=1))
    next(running)
    for shard in folder.glob("*.tar"):
        shard.unlink()
    with pytest.raises(MmclError, match=r"\.tar is not there any more"):
        list(running)


def test_a_shard_that_vanishes_while_it_is_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Stream(
        Source(shards=str(texts(tmp_path / "s", "a", 20)), modalities={"text": "txt"}), batch_size=5, workers=0
    )
    load = ShardSet._load_index

    def slow(shards: ShardSet, number: int) -> Any:
        index = load(shards, number)
        for shard in (tmp_path / "s").glob("*.tar"):
            shard.unlink()
        return index

    monkeypatch.setattr(ShardSet, "_load_index", slow)
    with pytest.raises(MmclError, match=r"\.tar is not there any more"):
        list(made)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which files are open")
@pytest.mark.parametrize("workers", [0, 2])
def test_files_are_closed_with_the_stream(tmp_path: Path, workers: int) -> None:
    """At once, and not when Python next looks for circles, which it does ever more rarely in a long run."""
    folder = texts(tmp_path / "s", "a", 40)

    def read() -> None:
        stream = Stream(Source(shards=str(folder), modalities={"text": "txt"}), batch_size=8, workers=workers)
        assert [len(batch) for batch in stream]
        assert opened()

    def opened() -> list[str]:
        files = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        return [file for file in files if file.startswith(str(folder))]

    gc.collect()
    gc.disable()
    try:
        read()
        end = time.monotonic() + 5
        while opened() and time.monotonic() < end:  # threads that read end a moment later
            time.sleep(0.01)
        assert not opened()
    finally:
        gc.enable()
