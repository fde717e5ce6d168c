"""The layouts in which the field's data sets are distributed, read as they are."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from mmcl.data import Source, Stream
from mmcl.data.extras import extra_selector
from mmcl.data.source import Selector
from mmcl.errors import MmclError
from mmcl.media import AudioTransform
from tests.data.test_index import tar
from tests.data.test_stream import picture


def test_img2dataset(tmp_path: Path) -> None:
    """Tars beside parquet and stats; failed downloads have a JSON and nothing else."""
    for number in range(2):
        name = f"{number:05d}"
        members, rows = [], []
        for i in range(6):
            key = f"{number:05d}{i:04d}"
            meta = {"key": key, "caption": f"caption {key}", "status": "success", "width": 4, "similarity": None}
            members += [(f"{key}.jpg", picture(i, "JPEG")), (f"{key}.json", json.dumps(meta).encode())]
            members += [(f"{key}.txt", meta["caption"].encode())]
            rows.append(meta)
        tar(tmp_path / f"{name}.tar", members)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
        stats = {"count": 8, "successes": 6, "failed_to_download": 2, "status_dict": {"success": 6}}
        (tmp_path / f"{name}_stats.json").write_text(json.dumps(stats))
    source = Source(shards=str(tmp_path), modalities={"image": "jpg", "text": "json:caption"})
    stream = Stream(source, batch_size=5)
    assert stream.samples == 12
    batches = list(stream)
    assert sorted(t for b in batches for t in b["text"]) == [
        f"caption {n:05d}{i:04d}" for n in range(2) for i in range(6)
    ]
    assert not [bad for batch in batches for bad in batch.bad]


def test_open_clip(tmp_path: Path) -> None:
    kinds = [("a", "jpg", "JPEG"), ("b", "png", "PNG"), ("c", "jpeg", "JPEG"), ("d", "webp", "WEBP")]
    members = []
    for key, extension, kind in kinds:
        members += [(f"{key}.{extension}", picture(9, kind)), (f"{key}.txt", key.encode())]
    tar(tmp_path / "000.tar", members)
    (tmp_path / "sizes.json").write_text(json.dumps({"000.tar": 4}))
    source = Source(shards=str(tmp_path / "{000..000}.tar"), modalities={"image": "jpg;png;jpeg;webp", "text": "txt"})
    (batch,) = list(Stream(source, batch_size=4, shuffle=False))
    assert batch["text"] == ["a", "b", "c", "d"]
    assert all(abs(int(image[0, 0, 0]) - 9) <= 2 for image in batch["image"])


def test_clip_benchmark(tmp_path: Path) -> None:
    """Classification has .cls; retrieval has one caption a line."""
    (tmp_path / "c").mkdir()
    tar(tmp_path / "c" / "0.tar", [("s0.webp", picture(1, "WEBP")), ("s0.cls", b"7")])
    tar(tmp_path / "c" / "1.tar", [("s1.webp", picture(1, "WEBP")), ("s1.cls", b"11")])
    (tmp_path / "c" / "nshards.txt").write_text("2")
    classes = Source(shards=str(tmp_path / "c"), modalities={"image": "webp", "label": "cls"})
    stream = Stream(classes, batch_size=2, shuffle=False)
    assert [batch["label"] for batch in stream] == [["7", "11"]]
    (tmp_path / "r").mkdir()
    tar(tmp_path / "r" / "0.tar", [("s0.jpg", picture(1, "JPEG")), ("s0.txt", b"a dog\nthe dog runs\n")])
    (tmp_path / "r" / "nshards.txt").write_text("1")
    source = Source(shards=str(tmp_path / "r"), modalities={"image": "jpg", "text": "txt:lines"}, captions="all")
    assert [batch["text"] for batch in Stream(source, batch_size=1)] == [[["a dog", "the dog runs"]]]


def test_laion_audio(tmp_path: Path) -> None:
    """Flac beside a JSON whose `text` is a list of captions."""
    tone = np.sin(np.arange(4_800) / 10).astype(np.float32)
    soundfile.write(flac := io.BytesIO(), tone, 48_000, format="FLAC")
    captions = json.dumps({"text": ["a tone", "a short beep"], "tag": [], "original_data": {"id": 3}}).encode()
    tar(tmp_path / "0.tar", [("1.flac", flac.getvalue()), ("1.json", captions), ("2.json", captions)])
    source = Source(shards=str(tmp_path), modalities={"audio": "flac;wav;mp3", "text": "json:text"}, captions="first")
    (plain,) = list(Stream(source, batch_size=2, shuffle=False))
    samples, rate = plain["audio"][0]
    assert rate == 48_000
    assert np.abs(samples.numpy() - tone).max() < 1e-4
    assert plain["text"] == ["a tone", "a tone"]
    assert [(bad.key, bad.reason) for bad in plain.bad] == [("2", "no flac or wav or mp3")]
    (batch,) = list(Stream(source, batch_size=2, shuffle=False, transforms={"audio": AudioTransform(16_000, 0.2)}))
    assert batch["audio"].shape == (2, 3_200)
    assert batch["audio"].dtype == torch.float32
    assert batch.present["audio"].tolist() == [True, False]
    assert batch["audio"][1].abs().sum() == 0


def test_compound_extensions_are_chosen_by_their_whole_name(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", [("a.fr.txt", b"bonjour"), ("a.en.txt", b"hello"), ("b.en.txt", b"bye")])
    stream = Stream(Source(shards=str(tmp_path), modalities={"text": "fr.txt;en.txt"}), batch_size=2, shuffle=False)
    assert [batch["text"] for batch in stream] == [["bonjour", "bye"]]


@pytest.mark.parametrize("where", ["npy", "vector.npy"])
def test_ready_vectors(tmp_path: Path, where: str) -> None:
    members = []
    for key, value in (("a", np.arange(3, dtype=np.float16)), ("b", np.array([1.0, np.nan])), ("c", np.array([{}]))):
        np.save(out := io.BytesIO(), value, allow_pickle=True)
        members.append((f"{key}.{where}", out.getvalue()))
    tar(tmp_path / "0.tar", members)
    (batch,) = list(Stream(Source(shards=str(tmp_path), modalities={"vector": where}), batch_size=3, shuffle=False))
    assert batch["vector"][0].tolist() == [0, 1, 2]
    assert [(bad.key, bad.reason) for bad in batch.bad] == [
        ("b", "array is not finite"),
        ("c", "array cannot be read (ValueError)"),
    ]


def test_a_number_of_an_array_is_a_label(tmp_path: Path) -> None:
    """WILDS' metadata in DataComp's shards: region, year and class beside each picture."""
    rows = {
        "a": np.array([3, 2016, 61]),
        "b": np.array([5.0, 2017.5, 2**24 + 1]),
        "c": np.array([1, np.nan, 2]),
        "d": np.array([[1, 2, 3]]),
        "e": np.array([1.0]),
    }
    members = []
    for key, value in rows.items():
        np.save(out := io.BytesIO(), value)
        members.append((f"{key}.npy", out.getvalue()))
    tar(tmp_path / "0.tar", [*members, ("f.npy", b"nothing"), ("g.npy", b"")])
    source = Source(shards=str(tmp_path), modalities={"region": "npy:0", "year": "npy:1", "class": "npy:2"})
    (batch,) = list(Stream(source, batch_size=9, shuffle=False))
    assert batch["region"] == ["3", "5", "1", None, "1", None, None]
    assert batch["year"] == ["2016", "2017.5", None, None, None, None, None]
    assert batch["class"][:3] == ["61", "16777217", "2"]
    reasons = {(bad.key, bad.modality): bad.reason for bad in batch.bad}
    assert reasons["c", "year"] == "no number in the array"
    assert reasons["d", "region"] == "an array of shape (1, 3) has no number 0"
    assert reasons["e", "year"] == "an array of shape (1,) has no number 1"
    assert reasons["f", "region"].startswith("array cannot be read")
    assert ("e", "region") not in reasons


@pytest.mark.parametrize("said", ["npy:", "npy:x", "npy:-1", "npy:1.5", "npy:lines", "png:0"])
def test_what_is_no_number_of_an_array_is_told(tmp_path: Path, said: str) -> None:
    with pytest.raises(MmclError, match="does not say where a modality lies"):
        Selector.parse(said, "data")


def test_an_extra_is_no_single_number_of_an_array() -> None:
    with pytest.raises(MmclError, match="numbers lie in a member"):
        extra_selector("npy:0", "data")
