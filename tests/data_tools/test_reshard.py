"""Shards to shards: nothing lost, nothing changed, everything counted."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmcl import bundled
from mmcl.cli import main
from mmcl.data import find_shards, read_samples, write_shards
from mmcl.data.store import ShardSet
from mmcl.errors import MmclError


@pytest.fixture(scope="module")
def reshard(tool: Callable[[str], SimpleNamespace]) -> SimpleNamespace:
    return tool("reshard")


def samples(n: int = 300, first: int = 0) -> Iterator[dict[str, Any]]:
    for i in range(first, first + n):
        meta: dict[str, Any] = {"i": i, "width": 8 * i, "caption": f"number {i}", "language": ["en", "de"][i % 2]}
        if i % 10 == 3:
            del meta["width"]
        if i % 10 == 4:
            meta["width"] = "wide"
        yield {"__key__": f"k/{i:04d}", "bin": np.random.default_rng(i).bytes(i), "json": meta}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(samples(), tmp_path / "in", 37)
    return tmp_path / "in"


def keys(folder: Path) -> list[str]:
    return [sample["__key__"] for sample in read_samples(folder)]


def counts(folder: Path) -> dict[str, int]:
    return json.loads((folder / "counts.json").read_text())


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_cut_to_another_size_and_merged_without_a_change(
    shards: Path, tmp_path: Path, reshard: SimpleNamespace
) -> None:
    write_shards(samples(50, first=1000), tmp_path / "more", 20)
    reshard.build(tmp_path / "out", [str(shards), str(tmp_path / "more")], samples_per_shard=100)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 4
    assert list(read_samples(tmp_path / "out")) == [*read_samples(shards), *read_samples(tmp_path / "more")]
    assert counts(tmp_path / "out") == {"samples kept": 350, "samples read": 350}


def test_equal_keys_of_data_sets_are_refused_or_told_apart(
    shards: Path, tmp_path: Path, reshard: SimpleNamespace
) -> None:
    write_shards(samples(5), tmp_path / "more")
    both = [str(shards), str(tmp_path / "more")]
    with pytest.raises(MmclError, match="sample 'k/0000' comes twice"):
        reshard.build(tmp_path / "no", both)
    reshard.build(tmp_path / "out", both, prefix_keys=True)
    assert keys(tmp_path / "out")[0] == "in/00000/k/0000"
    assert keys(tmp_path / "out")[-1] == "more/00000/k/0004"
    assert len(keys(tmp_path / "out")) == 305


@pytest.mark.parametrize(
    ("where", "keeps"),
    [
        ("i >= 100 and i < 110", lambda meta: 100 <= meta["i"] < 110),
        ('language in ["de", "fr"] and len(caption) > 9', lambda meta: meta["i"] % 2 == 1 and meta["i"] > 99),
        ('caption.endswith("7")', lambda meta: meta["i"] % 10 == 7),
        ("not i % 7", lambda meta: meta["i"] % 7 == 0),
    ],
)
def test_where_keeps_what_is_true(
    where: str, keeps: Callable[[Any], bool], shards: Path, tmp_path: Path, reshard: SimpleNamespace
) -> None:
    reshard.build(tmp_path / "out", [str(shards)], where=where)
    wanted = [sample["__key__"] for sample in samples() if keeps(sample["json"])]
    assert keys(tmp_path / "out") == wanted
    assert counts(tmp_path / "out") == {
        "samples kept": len(wanted), "samples read": 300, "where: false": 300 - len(wanted),
    }  # fmt: skip


def test_where_it_cannot_be_computed_is_counted(shards: Path, tmp_path: Path, reshard: SimpleNamespace) -> None:
    write_shards(
        [{"__key__": "a", "bin": b""}, {"__key__": "b", "json": b"{"}, {"__key__": "c", "json": [1]}], tmp_path / "odd"
    )
    reshard.build(tmp_path / "out", [str(shards), str(tmp_path / "odd")], where="width >= 1200")
    assert counts(tmp_path / "out") == {
        "samples read": 303,
        "samples kept": 120,
        "where: false": 120,
        "where: no field 'width'": 30,
        "where: TypeError: '>=' not supported between instances of 'str' and 'int'": 30,
        "where: no JSON object": 3,
    }


def test_reasons_do_not_hold_values(tmp_path: Path, reshard: SimpleNamespace) -> None:
    write_shards(samples(20), tmp_path / "in")
    reshard.build(tmp_path / "out", [str(tmp_path / "in")], where="i == 5 or int(caption) > 3")
    assert counts(tmp_path / "out") == {"samples read": 20, "samples kept": 1, "where: ValueError": 19}


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("widht > 3", "no sample is kept.*no field 'widht'.*Fields are: caption, i, language, width"),
        ("i >", "'i >' is no expression"),
        ("i = 3", "is no expression"),
        ("i; i", "is no expression"),
        ("__import__('os').system('true')", "no sample is kept.*'__import__'"),
        ("caption.__class__", "no sample is kept"),
        ("rand() > 0.5", "no sample is kept.*rand"),
        ("i > 1000", "no sample is kept.*where: false"),
    ],
)
def test_mistakes_in_where_are_told(
    where: str, told: str, shards: Path, tmp_path: Path, reshard: SimpleNamespace
) -> None:
    with pytest.raises(MmclError, match=told):
        reshard.build(tmp_path / "out", [str(shards)], where=where)
    assert not (tmp_path / "out" / "counts.json").exists()


@pytest.mark.parametrize("held", [1 << 30, 5000])
def test_a_shuffle_is_exact_whatever_it_holds_at_once(
    held: int, shards: Path, tmp_path: Path, reshard: SimpleNamespace
) -> None:
    reshard.build.__globals__["HELD"] = held
    reshard.build(tmp_path / "out", [str(shards)], shuffle=True, seed=1, samples_per_shard=50)
    reshard.build.__globals__["HELD"] = 1 << 30
    reshard.build(tmp_path / "again", [str(shards)], shuffle=True, seed=1, samples_per_shard=50)
    assert content(tmp_path / "out") == content(tmp_path / "again")
    mixed = {sample.pop("__key__"): sample for sample in read_samples(tmp_path / "out")}
    assert mixed == {sample.pop("__key__"): sample for sample in read_samples(shards)}
    places = np.array([int(key[-4:]) for key in mixed])
    assert abs(np.corrcoef(places, np.arange(300))[0, 1]) < 0.2
    assert all(len(set(part // 37)) > 5 for part in np.split(places, 6))  # each shard has samples of most others


def test_every_order_of_a_shuffle_is_as_likely(tmp_path: Path, reshard: SimpleNamespace) -> None:
    write_shards(samples(3), tmp_path / "in", 2)
    of_shards = reshard.Samples(ShardSet(find_shards(tmp_path / "in")), False)
    selected = of_shards.select(None, 0, SimpleNamespace(count=lambda *_: None))[:, 0]
    permutation = reshard.build.__globals__["permutation"]
    orders = [tuple(selected[permutation(3, seed, "reshard", "")]) for seed in range(3000)]
    _, times = np.unique(orders, axis=0, return_counts=True)
    assert len(times) == 6
    assert (np.abs(times - 500) < 100).all()  # five standard deviations


def test_parts_by_sizes_and_shares_are_disjoint_and_whole(
    shards: Path, tmp_path: Path, reshard: SimpleNamespace
) -> None:
    reshard.build(tmp_path / "sizes", [str(shards)], split=["val=20", "test=30", "train=rest"])
    parts = {name: keys(tmp_path / "sizes" / name) for name in ("val", "test", "train")}
    assert {name: len(part) for name, part in parts.items()} == {"val": 20, "test": 30, "train": 250}
    assert sorted(itertools.chain(*parts.values())) == keys(shards)
    assert json.loads((tmp_path / "sizes" / "manifest.json").read_text())["parts"] == {
        "val": 20,
        "test": 30,
        "train": 250,
    }
    reshard.build(tmp_path / "shares", [str(shards)], split=["test=0.2", "train=0.7"])
    test, train = (keys(tmp_path / "shares" / name) for name in ("test", "train"))
    assert 40 < len(test) < 80
    assert not set(test) & set(train)
    assert counts(tmp_path / "shares") == {
        "samples read": 300, "samples in test": len(test), "samples in train": len(train),
        "samples in no part": 300 - len(test) - len(train),
    }  # fmt: skip


def test_a_share_keeps_its_samples_when_data_grows(shards: Path, tmp_path: Path, reshard: SimpleNamespace) -> None:
    write_shards(samples(300, first=300), tmp_path / "more")
    split = ["test=0.1", "train=0.7", "rest=0.2"]  # floats whose sum is not quite one
    reshard.build(tmp_path / "small", [str(shards)], split=split)
    reshard.build(tmp_path / "large", [str(tmp_path / "more"), str(shards)], split=split)
    assert set(keys(tmp_path / "small" / "test")) < set(keys(tmp_path / "large" / "test"))
    assert set(keys(tmp_path / "small" / "rest")) < set(keys(tmp_path / "large" / "rest"))
    assert "samples in no part" not in counts(tmp_path / "large")


@pytest.mark.parametrize(
    "split",
    [
        ["test=0.1", "train=100"], ["test"], ["test=-1"], ["a=0.5", "a=0.5"], ["../a=1"], ["a=rest", "b=3"], ["a=301"],
        ["a=0.9", "b=0.2"], ["a=.", "b=0.2"], ["=3"],
    ],
)  # fmt: skip
def test_mistakes_in_split_are_told(split: list[str], shards: Path, tmp_path: Path, reshard: SimpleNamespace) -> None:
    with pytest.raises(MmclError, match="split: .*each part is NAME=SIZE"):
        reshard.build(tmp_path / "out", [str(shards)], split=split)
    with pytest.raises(MmclError, match="split: a=0 of 300 samples is none"):
        reshard.build(tmp_path / "out", [str(shards)], split=["a=0", "b=rest"])


def test_what_an_interrupted_call_began_goes_on_with_the_same_options_only(
    shards: Path, tmp_path: Path, reshard: SimpleNamespace
) -> None:
    options: dict[str, Any] = {"shuffle": True, "split": ["test=50", "train=rest"], "samples_per_shard": 20}
    reshard.build(tmp_path / "whole", [str(shards)], **options)
    script = (  # killed in the middle of the second part
        "import os, runpy, signal, sys\n"
        "def hook(event, arguments):\n"
        "    if event == 'os.rename' and str(arguments[1]).endswith('train/00004.tar'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"tool = runpy.run_path({str(bundled.shelf('data_tools') / 'reshard.py')!r})\n"
        "from pathlib import Path\n"
        "sys.addaudithook(hook)\n"
        f"tool['build'](Path({str(tmp_path / 'out')!r}), [{str(shards)!r}], **{options!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert (tmp_path / "out" / "test" / "manifest.json").exists()
    assert not (tmp_path / "out" / "train" / "manifest.json").exists()
    with pytest.raises(MmclError, match="was begun with other options or shards"):
        reshard.build(tmp_path / "out", [str(shards)], **{**options, "split": ["test=60", "train=rest"]})
    reshard.build(tmp_path / "out", [str(shards)], **options)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    with pytest.raises(MmclError, match="holds a finished data set"):
        reshard.build(tmp_path / "out", [str(shards)], **options)


def test_what_cannot_be_read_is_listed(shards: Path, tmp_path: Path, reshard: SimpleNamespace) -> None:
    shard = shards / "00007.tar"
    (shards / "00007.tar.index.safetensors").unlink()
    (shards / "manifest.json").unlink()  # it would say that a sample is missing
    shard.write_bytes(shard.read_bytes()[:-15_000])
    reshard.build(tmp_path / "out", [str(shards)])
    (bad,) = map(json.loads, (tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines())
    assert bad["shard"] == str(shard)
    assert "cut" in bad["reason"]
    assert counts(tmp_path / "out")["samples read"] < 300


def test_on_the_command_line(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(samples(5, first=900), tmp_path / "more")
    main(["data", "build", "reshard", str(shards), str(tmp_path / "more"), "--where", "i > 290", "--shuffle",
          "--split", "test=2", "--split", "train=rest", "--out", str(tmp_path / "out")])  # fmt: skip
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "2  samples in test" in printed.err
    assert "14  samples in" in printed.err
