"""What a stream says of shards that change, of samples that lack something, and of wrong arguments."""

import gc
import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mmcl.data import Source, Stream, write_shards
from mmcl.data.index import load_index
from mmcl.data.source import array
from mmcl.errors import MmclError
from tests.data.test_index import tar
from tests.data.test_stream import shards, stream

__all__ = ["shards"]  # a fixture


def test_a_shard_that_is_replaced_while_it_is_in_use_is_noticed(tmp_path: Path) -> None:
    for number in range(2):
        write_shards(({"__key__": f"{number}{i}", "txt": f"{i}"} for i in range(6)), tmp_path / str(number))
        (tmp_path / str(number) / "manifest.json").unlink()
    source = Source(shards=str(tmp_path), modalities={"text": "txt"}, window=1)
    s = Stream(source, batch_size=3, endless=True)
    next(iter(s))
    write_shards(({"__key__": f"other{i}", "txt": f"{i}"} for i in range(7)), tmp_path / "other")
    for number in range(2):
        (tmp_path / "new.tar").write_bytes((tmp_path / "other" / "00000.tar").read_bytes())
        (tmp_path / "new.tar").replace(tmp_path / str(number) / "00000.tar")
    with pytest.raises(MmclError, match=r"00000.tar has changed while it was in use. Restore it, and resume"):
        for _ in zip(range(8), s, strict=False):
            pass


def test_notes_of_windows_that_hold_nothing_are_told_with_the_last_batch(tmp_path: Path) -> None:
    write_shards(({"__key__": f"{i}", "txt": f"{i}"} for i in range(6)), tmp_path / "0")
    (tmp_path / "1.tar").write_bytes(b"")
    source = Source(shards=[str(tmp_path / "0"), str(tmp_path / "1.tar")], modalities={"text": "txt"}, window=1)
    for shuffle in (False, True):
        batches = list(Stream(source, batch_size=3, shuffle=shuffle))
        assert ["an empty file" in bad.reason for batch in batches for bad in batch.bad] == [True]


def test_an_optional_modality_may_have_no_field_and_no_text(tmp_path: Path) -> None:
    fields = [b"{}", b'{"caption": null}', b'{"caption": ""}', b'{"caption": []}', b'{"caption": {"a": 1}}', b"{"]
    tar(tmp_path / "0.tar", [(f"{i}.json", field) for i, field in enumerate(fields)])
    source = Source(shards=str(tmp_path), modalities={"text": "json:caption"}, optional=["text"])
    (batch,) = Stream(source, batch_size=6, shuffle=False)
    assert [(bad.key, bad.reason) for bad in batch.bad] == [
        ("4", "no text in JSON field 'caption'"),
        ("5", "JSON cannot be read"),
    ]
    required = source.model_copy(update={"optional": []})
    assert [bad.key for batch in Stream(required, batch_size=6, shuffle=False) for bad in batch.bad] == list("012345")


def test_wrong_arguments_are_told(shards: Path) -> None:
    """In a process without the type checks of these tests, which would speak first."""
    code = f"""
import mmcl
from mmcl.media import AudioTransform, ImageTransform
for wrong in (
    dict(last_batch="foo"), dict(seed="x"), dict(batch_size=2.5), dict(captions="frist"), dict(windw=3),
    dict(transforms=dict(txt=ImageTransform(8))),
):
    try:
        mmcl.data.stream({str(shards)!r}, dict(text="txt"), **dict(dict(batch_size=4), **wrong))
    except mmcl.MmclError as error:
        print(" ".join(str(error).split()))
for wrong in (dict(crop="end"), dict(short="loop")):
    try:
        AudioTransform(8_000, 1.0, **wrong)
    except mmcl.MmclError as error:
        print(str(error)[:26])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[:2] == [
        "last_batch must be one of carry, drop, pad, keep; got 'foo'.",
        "seed must be an integer; got 'x'.",
    ]
    assert said.pop(2) == "batch_size must be an integer; got 2.5."
    assert said[2] == "data: captions: Input should be 'first', 'random' or 'all'"
    assert said[3].startswith("data: windw: there is no such key; did you mean 'window'?")
    assert said[4:] == [
        "transforms: txt is none of the modalities; did you mean 'text'? They are: text.",
        *["AudioTransform: rate * sec"] * 2,
    ]


def test_a_shard_of_another_size_is_noticed_before_it_was_opened(tmp_path: Path) -> None:
    for number in range(3):
        tar(tmp_path / f"{number}.tar", [(f"{number}{i}.txt", b"t") for i in range(6)])
        load_index(tmp_path / f"{number}.tar")
    s = Stream(Source(shards=str(tmp_path), modalities={"text": "txt"}, window=1), batch_size=3, shuffle=False)
    s.samples  # noqa: B018 - counted from the stored indexes
    tar(tmp_path / "2.tar", [(f"{i}.txt", b"t") for i in range(60)])
    with pytest.raises(MmclError, match=r"2.tar has changed while it was in use"):
        list(s)


def test_a_shard_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "a.tar", [("a.txt", b"t")])

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("mmcl.data.store.Descriptor.__init__", refuse)
    with pytest.raises(MmclError, match=r"a.tar cannot be read: Permission denied"):
        Stream(Source(shards=str(path), modalities={"text": "txt"}), batch_size=1)


def test_files_without_an_extension_are_told_and_odd_captions_are_none(tmp_path: Path) -> None:
    captions = [b'{"c": NaN}', b'{"c": true}', b'{"c": 3}', b'{"c": [null, "x"]}', b'{"c": [null]}']
    tar(tmp_path / "a.tar", [("LICENSE", b"free"), *((f"{i}.json", c) for i, c in enumerate(captions)), ("more", b"")])
    source = Source(shards=str(tmp_path), modalities={"text": "json:c"}, optional=["text"])
    (batch,) = Stream(source, batch_size=5, shuffle=False)
    assert batch["text"] == [None, None, "3", "x", None]
    assert [(bad.key, bad.reason) for bad in batch.bad] == [
        ("", "2 files without an extension, which nothing reads"),
        ("0", "no text in JSON field 'c'"),
        ("1", "no text in JSON field 'c'"),
    ]


@pytest.mark.parametrize("change", [{"content": []}, {"order": {"position": 3}}, {"order": None}, {"dropped": "x"}])
def test_a_damaged_state_is_told(shards: Path, change: dict[str, object]) -> None:
    state = stream(shards).state()
    with pytest.raises(MmclError, match="no state of a stream"):
        stream(shards).restore({**state, **change})
    beyond = {**state["order"], "cursors": [[0, 0, 1_000, None]]}
    with pytest.raises(MmclError, match="its window has no place 1000"):
        stream(shards).restore({**state, "order": beyond})


def test_what_is_no_state_is_told(shards: Path) -> None:
    with pytest.raises(MmclError, match="no state of a stream; it lacks content, dropped, fingerprint"):
        stream(shards).restore({})


def test_arrays_are_read_by_many_threads_at_once() -> None:
    """Python's parser, which numpy uses, fails now and then where threads change in it: here, at every collection."""
    np.save(out := io.BytesIO(), np.arange(3, dtype=np.float16))
    failed: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(2_000):
                assert array(out.getvalue()).tolist() == [0, 1, 2]
        except BaseException as error:
            failed.append(error)

    before, pause = gc.get_threshold(), lambda *_: time.sleep(0)
    gc.set_threshold(20)
    gc.callbacks.append(pause)
    try:
        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.callbacks.remove(pause)
        gc.set_threshold(*before)
    assert failed == []
