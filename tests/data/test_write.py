"""Shards that are whole, equal for equal samples, and never overwritten."""

import errno
import gc
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from mmcl.data import read_samples, write_shards
from mmcl.data.index import index_paths, load_index, scan
from mmcl.errors import MmclError


def samples(n: int = 25) -> Iterator[dict[str, Any]]:
    return ({"__key__": f"{i:03d}", "bin": bytes([i]), "txt": f"é {i}", "json": {"i": i}} for i in range(n))


@pytest.mark.filterwarnings("ignore")  # webdataset leaves its files to the garbage collector
def test_shards_hold_what_was_given_and_webdataset_reads_them(tmp_path: Path) -> None:
    manifest = write_shards(samples(), tmp_path / "s", samples_per_shard=10)
    assert [s["samples"] for s in manifest["shards"]] == [10, 10, 5]
    assert json.loads((tmp_path / "s" / "manifest.json").read_text()) == manifest
    pattern = str(tmp_path / "s" / "{00000..00002}.tar")
    read = list(webdataset.WebDataset(pattern, shardshuffle=False).decode())
    assert [(r["__key__"], r["txt"], r["json"]["i"]) for r in read] == [(f"{i:03d}", f"é {i}", i) for i in range(25)]
    gc.collect()


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    first = write_shards(samples(), tmp_path / "a")
    assert write_shards(samples(), tmp_path / "b") == first


def test_the_index_is_there_from_the_start(tmp_path: Path) -> None:
    write_shards(samples(), tmp_path / "s")
    assert index_paths(tmp_path / "s" / "00000.tar")[0].is_file()
    assert len(load_index(tmp_path / "s" / "00000.tar").keys) == 25


def test_a_finished_folder_is_not_touched(tmp_path: Path) -> None:
    write_shards(samples(), tmp_path / "s")
    with pytest.raises(MmclError, match="holds a finished data set"):
        write_shards(samples(), tmp_path / "s")


def test_an_interrupted_writing_leaves_whole_shards_only_and_no_manifest(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from samples(15)
        raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        write_shards(broken(), tmp_path / "s", samples_per_shard=10)
    assert [p.name for p in sorted((tmp_path / "s").glob("*.tar"))] == ["00000.tar"]
    assert not (tmp_path / "s" / "manifest.json").exists()
    with tarfile.open(tmp_path / "s" / "00000.tar") as tar:
        assert len(tar.getmembers()) == 30


def test_pickles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MmclError, match=r"x: a \.pyd member is pickled"):
        write_shards([{"__key__": "x", "pyd": {"a": 1}}], tmp_path / "s")


def interrupted(out: Path, n: int = 25, after: int = 15, **limits: int) -> None:
    """A writing whose power fails."""

    def broken() -> Iterator[dict[str, Any]]:
        yield from itertools.islice(samples(n), after)
        raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        write_shards(broken(), out, **({"samples_per_shard": 5} | limits))


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_interrupted_writing_goes_on_and_keeps_its_whole_shards(tmp_path: Path) -> None:
    write_shards(samples(), tmp_path / "whole", 5)
    interrupted(tmp_path / "s", after=17)
    kept = {path: path.stat().st_ino for path in (tmp_path / "s").glob("*.tar")}
    assert len(kept) == 3
    write_shards(samples(), tmp_path / "s", 5)
    assert content(tmp_path / "s") == content(tmp_path / "whole")
    assert {path: path.stat().st_ino for path in kept} == kept


@pytest.mark.parametrize(
    ("again", "limits", "told"),
    [
        (lambda s: {**s, "txt": "other"} if s["__key__"] == "007" else s, {}, "00001.tar differs .* from sample '007'"),
        (
            lambda s: {**s, "__key__": f"b{s['__key__']}"},
            {},
            "00000.tar differs from what they make, from sample 'b000'",
        ),
        (lambda s: s, {"samples_per_shard": 4}, "00000.tar differs .* from sample '003'"),
        (lambda s: s, {"samples_per_shard": 6}, "00000.tar differs .* from sample '005'"),
        (lambda s: None if s["__key__"] > "008" else s, {}, "00001.tar differs .* from sample '008'"),
        (lambda s: None if s["__key__"] > "009" else s, {}, "it holds 00002.tar, but the samples end with 00001.tar"),
    ],
)
def test_other_samples_than_those_of_the_interrupted_writing_are_refused(
    again: Callable[[dict[str, Any]], Any], limits: dict[str, int], told: str, tmp_path: Path
) -> None:
    interrupted(tmp_path / "s")
    before = content(tmp_path / "s")
    changed = filter(None, map(again, samples()))
    with pytest.raises(MmclError, match=f"unfinished data set of other samples: {told}"):
        write_shards(changed, tmp_path / "s", **({"samples_per_shard": 5} | limits))
    assert content(tmp_path / "s") == before


def test_a_shard_that_was_damaged_meanwhile_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path / "s")
    shard = tmp_path / "s" / "00001.tar"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(MmclError, match="00001.tar differs"):
        write_shards(samples(), tmp_path / "s", 5)


def test_files_of_others_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "00003.tar").write_bytes(b"years of work")
    with pytest.raises(MmclError, match="holds 00003.tar, which would be overwritten"):
        write_shards(samples(5), tmp_path)
    assert content(tmp_path) == {"00003.tar": b"years of work"}
    (tmp_path / "00003.tar").rename(tmp_path / "download.tar.partial")
    write_shards(samples(5), tmp_path)
    assert (tmp_path / "download.tar.partial").read_bytes() == b"years of work"


KILLED = """
import os, random, shutil, signal, sys, time
from pathlib import Path
from mmcl.data import write_shards
from mmcl.errors import MmclError

def samples():
    for i in range(40):
        yield {"__key__": f"{i:04d}", "bin": random.Random(i).randbytes(3000), "txt": f"caption {i}", "json": {"i": i}}

def attempt(out, dies):
    pid = os.fork()
    if pid == 0:
        dies()
        try:
            write_shards(samples(), out, 20)
        except MmclError as error:
            os._exit(0 if "holds a finished data set" in str(error) else 1)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return pid

def ended(pid):
    return os.waitpid(pid, 0)[1]

def at_event(number):
    left = [number]
    def hook(event, arguments):
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "fcntl.flock"):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    return lambda: sys.addaudithook(hook)

root = Path(sys.argv[1])
before = time.perf_counter()
assert ended(attempt(root / "whole", lambda: None)) == 0
whole = time.perf_counter() - before
for trial in range(12):  # at random instants
    draw = random.Random(trial)
    while True:
        pid = attempt(root / f"random{trial}", lambda: None)
        time.sleep(draw.uniform(0, whole))
        os.kill(pid, signal.SIGKILL)
        if ended(pid) == signal.SIGKILL:
            break
        shutil.rmtree(root / f"random{trial}")  # it was through already
    assert ended(attempt(root / f"random{trial}", lambda: None)) == 0
for number in range(1, 1000):  # before each operation on a file
    status = ended(attempt(root / f"event{number}", at_event(number)))
    assert status in (0, signal.SIGKILL), status
    assert ended(attempt(root / f"event{number}", lambda: None)) == 0
    if status == 0:
        break
print(number)
"""


@pytest.mark.slow
def test_a_killed_writing_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Kill -9 at random instants, and before each single operation on a file."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    events = int(done.stdout)
    assert events > 15  # six and more operations for each of two shards
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 1 + 12 + events
    whole = content(tmp_path / "whole")
    assert len(whole) == 5
    assert [folder.name for folder in folders if content(folder) != whole] == []


def test_two_processes_do_not_write_the_same_folder(tmp_path: Path) -> None:
    def nested() -> Iterator[dict[str, Any]]:
        yield from samples(1)
        with pytest.raises(MmclError, match="another process is writing a data set there"):
            write_shards(samples(1), tmp_path / "s")

    write_shards(nested(), tmp_path / "s")


def test_a_full_disk_is_told_and_leaves_room_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync
    done = []

    def full(descriptor: int) -> None:
        done.append(descriptor)
        if len(done) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MmclError, match="the disk is full"):
        write_shards(samples(), tmp_path / "s", 5)
    monkeypatch.undo()
    assert not list((tmp_path / "s").glob(".*partial"))
    write_shards(samples(), tmp_path / "s", 5)
    write_shards(samples(), tmp_path / "whole", 5)
    assert content(tmp_path / "s") == content(tmp_path / "whole")


def test_the_manifest_says_what_is_there(tmp_path: Path) -> None:
    manifest = write_shards(samples(), tmp_path / "s", 10)
    assert (manifest["format"], manifest["samples"], len(manifest["shards"])) == (1, 25, 3)
    for shard in manifest["shards"]:
        data = (tmp_path / "s" / shard["name"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert shard["digest"] == scan(tmp_path / "s" / shard["name"]).digest


def test_a_shard_is_full_when_it_has_so_many_bytes(tmp_path: Path) -> None:
    big = ({"__key__": str(i), "bin": bytes(10_000)} for i in range(20))
    manifest = write_shards(big, tmp_path / "s", bytes_per_shard=50_000)
    assert [shard["samples"] for shard in manifest["shards"]] == [5, 5, 5, 5]
    huge = ({"__key__": str(i), "bin": bytes(100_000)} for i in range(2))
    assert [s["samples"] for s in write_shards(huge, tmp_path / "t", None, 50_000)["shards"]] == [1, 1]
    with pytest.raises(MmclError, match="a shard needs room"):
        write_shards(samples(), tmp_path / "u", samples_per_shard=0)


@pytest.mark.parametrize("distance", [1, 3, 12, 24])
def test_a_key_that_comes_twice_is_refused_wherever_it_comes(distance: int, tmp_path: Path) -> None:
    keys = [f"{i}" for i in range(distance)] + ["0"]
    with pytest.raises(MmclError, match="sample '0' comes twice" + (", first in 00000.tar" if distance > 3 else "")):
        write_shards(({"__key__": key, "txt": "x"} for key in keys), tmp_path / "s", 4)


def test_keys_of_equal_hash_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcl.data.write.hash", lambda key: 7, raising=False)
    assert write_shards(samples(), tmp_path / "s", 5)["samples"] == 25


class Odd:
    def __repr__(self) -> str:  # an address would name the test differently in each process of pytest-xdist
        return "Odd()"


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        ({"txt": "x"}, "sample 0: its __key__ is None; a key is a text"),
        ({"__key__": 7, "txt": "x"}, "sample 0: its __key__ is 7"),
        *(({"__key__": key, "txt": "x"}, f"its key {re.escape(repr(key))} is no plain relative path")
          for key in ("", "/a", "a/../b", "..", "a//b", "a/", "./a", ".")),
        ({"__key__": "v1.2/cat.v1", "txt": "x"}, "'v1.2/cat.v1' has a dot in its last part.*'v1_2/cat_v1' would do"),
        ({"__key__": "a\nb", "txt": "x"}, "control characters"),
        ({"__key__": "a\udcff", "txt": "x"}, "no Unicode text"),
        ({"__key__": "a"}, "sample 'a' has no members"),
        ({"__key__": "a", "__url__": "b"}, "sample 'a' has no members"),
        ({"__key__": "a", "": b"x"}, "sample 'a': a member's extension is ''"),
        ({"__key__": "a", 5: b"x"}, "sample 'a': a member's extension is 5"),
        ({"__key__": "a", ".jpg": b"x"}, "extension '.jpg' would not be read back"),
        ({"__key__": "a", "b/jpg": b"x"}, "extension 'b/jpg' would not be read back"),
        ({"__key__": "a", "_jpg": b"x"}, "extension '_jpg' would not be read back"),
        ({"__key__": "a", "JPG": b"x", "jpg": b"y"}, "sample 'a': 'JPG' and 'jpg' are the same extension"),
        ({"__key__": "a", "pth": b"x"}, r"a: a \.pth member is pickled"),
        ({"__key__": "a", "npy": np.array([{}])}, r"sample 'a': \.npy: an array of Python objects would be pickled"),
        ({"__key__": "a", "npz": {"x": np.array([{}])}}, "an array of Python objects would be pickled"),
        ({"__key__": "a", "json": {"x": Odd()}}, r"sample 'a': \.json: a value of type dict cannot be encoded .*Odd"),
        ({"__key__": "a", "xyz": 5}, r"sample 'a': \.xyz: a value of type int cannot be encoded"),
        ({"__key__": "a", "json.gz": {}}, r"sample 'a': \.json\.gz: give compressed members as bytes"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_a_reader_would_not_give_back_is_refused_by_name(sample: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(MmclError, match=told):
        write_shards([sample], tmp_path / "s")


def test_no_samples_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(MmclError, match="there are no samples to write"):
        write_shards([], tmp_path / "s")


def test_what_is_read_is_what_was_written_whatever_its_name(tmp_path: Path) -> None:
    keys = ["a", "v1.2/x", "猫/東京タワー", "é" * 60, "long/" + "x" * 150, "a b", "d" * 90 + "/" + "e" * 90]
    wanted = [{"__key__": key, "seg.png": bytes([i]), "bin": b"", "json.gz": b"raw"} for i, key in enumerate(keys)]
    write_shards(wanted, tmp_path / "s", 3)
    assert list(read_samples(tmp_path / "s")) == wanted
    write_shards(read_samples(tmp_path / "s"), tmp_path / "t", 3)
    assert content(tmp_path / "t") == content(tmp_path / "s")


@pytest.mark.filterwarnings("ignore")
def test_plain_names_make_the_bytes_that_webdataset_makes(tmp_path: Path) -> None:
    write_shards(samples(), tmp_path / "s")
    with webdataset.TarWriter(str(tmp_path / "theirs.tar"), mtime=0) as writer:
        for sample in samples():
            writer.write(sample)
    assert (tmp_path / "s" / "00000.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()
    gc.collect()
