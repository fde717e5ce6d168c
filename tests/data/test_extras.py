"""Numbers that lie in the shards beside what is embedded."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmcl
from mmcl.data import Source, Stream
from mmcl.data.extras import LOOKED_AT
from mmcl.data.remote import ShardCache
from mmcl.errors import MmclError
from tests.data.remote.server import serving
from tests.data.test_check import report
from tests.data.test_stream import written

EXTRAS = {"teacher.text": "teacher.npy", "grade": "json:grade", "spread": "json:parts.spread", "whole": "list.json"}


def npy(*values: Any, dtype: Any = np.float64) -> bytes:
    np.save(out := io.BytesIO(), np.array(values, dtype), allow_pickle=True)
    return out.getvalue()


def sample(i: int, **more: Any) -> dict[str, Any]:
    return {
        "__key__": f"{i:03d}",
        "txt": f"text {i}",
        "teacher.npy": npy(i, 0.5, -1),
        "json": {"grade": i / 4, "parts": {"spread": [i, 2]}, "flag": i % 2 == 0, "n": 3},
        "list.json": json.dumps([1, i]).encode(),
        **more,
    }


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extras") / "s"
    return written(folder, [sample(i) for i in range(30)], per_shard=7)


def source(folder: Path, extras: dict[str, str] = EXTRAS, **more: Any) -> Source:
    return Source(shards=str(folder), modalities={"text": "txt"}, extras=extras, window=2, **more)


def test_extras_are_columns_of_numbers_in_the_order_of_the_samples(shards: Path) -> None:
    extras = {**EXTRAS, "flag": "json:flag"}
    for batch in Stream(source(shards, extras), batch_size=8, seed=1):
        i = torch.tensor([float(key) for key in batch.keys])
        assert torch.equal(batch["teacher.text"], torch.stack([i, 0 * i + 0.5, 0 * i - 1], 1))
        assert torch.equal(batch["grade"], i / 4)
        assert torch.equal(batch["spread"], torch.stack([i, 0 * i + 2], 1))
        assert torch.equal(batch["whole"], torch.stack([0 * i + 1, i], 1))
        assert torch.equal(batch["flag"], (i % 2 == 0).float())
        assert {batch[name].dtype for name in extras} == {torch.float32}
        assert all(batch.present[name].all() for name in extras)
        assert batch["text"] == [f"text {int(key)}" for key in batch.keys]


def test_a_stream_with_extras_goes_on_on_other_processes(shards: Path) -> None:
    whole = Stream(source(shards), batch_size=8, seed=1, endless=True)
    expected = [batch["teacher.text"] for batch, _ in zip(whole, range(9), strict=False)]
    stopped = Stream(source(shards), batch_size=8, seed=1, endless=True)
    for _ in zip(range(4), stopped, strict=False):
        pass
    resumed = [Stream(source(shards), batch_size=8, seed=1, endless=True, share=(rank, 2)) for rank in range(2)]
    for s in resumed:
        s.restore(stopped.state())
    pairs = zip(*resumed, strict=False)
    found = [torch.cat([b["teacher.text"] for b in pair]) for pair, _ in zip(pairs, range(4, 9), strict=False)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected[4:], strict=True))
    Stream(source(shards, {}), batch_size=8, seed=1, endless=True).restore(stopped.state())  # the order is the same


def test_what_is_missing_is_absent_and_what_is_wrong_is_bad(tmp_path: Path) -> None:
    def without(i: int, *names: str) -> dict[str, Any]:
        return {k: v for k, v in sample(i).items() if k not in names}

    pickled = npy({"a": 1}, dtype=object)
    wrong: list[tuple[dict[str, Any], str, str | None]] = [
        (without(2, "teacher.npy"), "teacher.text", None),
        (sample(3, json={"parts": {}}), "grade", None),
        (sample(4, json={"grade": None, "parts": {}}), "grade", None),
        (sample(5, json={"grade": "high", "parts": {}}), "grade", "the JSON has no number there"),
        (sample(6, **{"teacher.npy": npy(1, 2)}), "teacher.text", "a vector of 2 where others have a vector of 3"),
        (sample(7, **{"teacher.npy": npy([1, 2, 3])}), "teacher.text", "an array of 2 axes"),
        (sample(8, **{"teacher.npy": b"no array"}), "teacher.text", "array cannot be read"),
        (sample(9, **{"teacher.npy": pickled}), "teacher.text", "array cannot be read"),
        (sample(10, **{"teacher.npy": npy(1, 2, np.nan)}), "teacher.text", "array is not finite"),
        (sample(11, json={"grade": 10**400, "parts": {}}), "grade", "numbers are not finite"),
        (sample(12, **{"list.json": b'[1, "2"]'}), "whole", "no list of numbers"),
        (sample(13, **{"list.json": b"[1, "}), "whole", "JSON cannot be read"),
        (sample(14, **{"list.json": b"[]"}), "whole", None),
        (sample(15, json={"grade": [1.0], "parts": {}}), "grade", "a vector of 1 where others have one number"),
    ]
    folder = written(tmp_path / "s", [sample(0), sample(1), *(s for s, _, _ in wrong)])
    (batch,) = Stream(source(folder), batch_size=16, shuffle=False)
    assert [(b.key, b.modality) for b in batch.bad] == [(s["__key__"], name) for s, name, why in wrong if why]
    for bad, why in zip(batch.bad, [why for _, _, why in wrong if why], strict=True):
        assert why in bad.reason
    for row, (_, name, _) in enumerate(wrong, 2):
        assert not batch.present[name][row]
        assert not batch[name][row].any()
    assert batch.present["text"].all()
    assert batch.present["teacher.text"].sum() == 10


def test_most_of_the_first_samples_say_how_many_numbers_there_are(tmp_path: Path) -> None:
    samples = [sample(0, **{"teacher.npy": npy(1, 2)}), *(sample(i) for i in range(1, 9))]
    folder = written(tmp_path / "s", samples)
    (batch,) = Stream(source(folder, {"t": "teacher.npy"}), batch_size=9, shuffle=False)
    assert batch.present["t"].tolist() == [False] + [True] * 8


def test_sources_have_their_own_extras_of_the_same_width(shards: Path, tmp_path: Path) -> None:
    plain = written(tmp_path / "p", [{"__key__": f"p{i}", "txt": "p"} for i in range(6)])
    other = written(tmp_path / "o", [sample(i, **{"teacher.npy": npy(1, 2)}) for i in range(6)])
    batches = list(Stream([source(shards), source(plain, {})], batch_size=36, seed=0))
    assert batches[0].present["grade"].tolist() == [not key.startswith("p") for key in batches[0].keys]
    assert batches[0]["teacher.text"].shape == (36, 3)
    assert not batches[0].bad
    with pytest.raises(MmclError, match=r"teacher.text is a vector of 3 in .*, and a vector of 2 in .*/o\."):
        Stream([source(shards), source(other)], batch_size=4)


@pytest.mark.parametrize(
    ("extras", "told"),
    [
        ({"grade": "json:graed"}, r"none of the first 30 samples of .* has the extra grade.*members are: .*json"),
        ({"t": "npy"}, "none of the first 30 samples"),
        ({"t": "jpg"}, "data: extras: t: 'jpg': numbers lie in a member"),
        ({"t": "txt"}, "'txt': numbers lie in a member"),
        ({"t": "pkl"}, "would run code"),
        ({"ema.image": "npy"}, "names that begin with `ema.`"),
    ],
)
def test_extras_that_are_not_there_are_told_before_anything_is_read(
    shards: Path, extras: dict[str, str], told: str
) -> None:
    with pytest.raises(MmclError, match=told):
        mmcl.data.stream(shards, {"text": "txt"}, batch_size=4, extras=extras)


def test_only_the_first_samples_are_looked_at(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcl.data.extras.LOOKED_AT", 9)
    with pytest.raises(MmclError, match="none of the first 9 samples"):
        mmcl.data.stream(shards, {"text": "txt"}, batch_size=4, extras={"t": "npy"})
    assert LOOKED_AT == 10_000


def test_extras_of_a_pipe_are_refused(shards: Path) -> None:
    with pytest.raises(MmclError, match="extras of a pipe are not known"):
        mmcl.data.stream(f"pipe:cat {shards}/00000.tar", {"text": "txt"}, batch_size=4, extras={"grade": "json:grade"})


def test_extras_of_remote_shards(shards: Path, tmp_path: Path) -> None:
    expected = [batch["teacher.text"] for batch in Stream(source(shards), batch_size=8, seed=1)]
    with serving() as server:
        for file in shards.iterdir():
            if file.suffix in (".tar", ".json"):
                server.put(f"/d/{file.name}", file.read_bytes())
        remote = source(shards).model_copy(update={"shards": server.url("/d")})
        cache = ShardCache(tmp_path / "cache", 1 << 30, timeout=2.0, backoff=0.01)
        found = [batch["teacher.text"] for batch in Stream(remote, batch_size=8, seed=1, cache=lambda: cache)]
        cache.close()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_check_reads_extras_too(shards: Path, tmp_path: Path) -> None:
    from mmcl.data.check import Check

    check = Check([source(shards)])
    check.run(processes=1)
    found = check.report()
    assert found["modalities"]["grade"] == 30
    assert found["sizes"]["teacher.text"]["numbers"]["least"] == found["sizes"]["teacher.text"]["numbers"]["most"] == 3
    assert found["extensions_with_dots"] == []
    assert report(shards, tmp_path / "r.json", str(shards), "--modality", "text=txt", code=None)["bad_samples"] == 0
