"""Vectors that lie in files: those of `mmcl embed`, and of clip-retrieval."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmcl.data import Source
from mmcl.embed import embed_shards
from mmcl.errors import MmclError
from mmcl.model import Encoder
from mmcl.tasks import ReadyVectors, load_task
from tests.tasks.conftest import COUNT, LABELLED, PAIRS, RETRIEVAL, ZEROSHOT, Write

SAID = {"picture": "png", "caption": "txt"}


@pytest.fixture
def embedded(small: Encoder, samples: list[Any], task: Write, tmp_path: Path) -> tuple[Path, Path]:
    """A task, and the folder that `mmcl embed` writes of its shards."""
    path = task(samples, RETRIEVAL, PAIRS)
    shards = str(path.parent / "shards" / "task")
    embed_shards(small, Source(shards=shards, modalities=SAID), tmp_path / "out", part_size=10, batch_size=5)
    return path, tmp_path / "out"


def test_the_numbers_are_those_of_the_model(small: Encoder, embedded: tuple[Path, Path]) -> None:
    path, folder = embedded
    ready = load_task(str(path)).measure(None, ready=ReadyVectors(folder)).result
    assert dict(ready) == dict(load_task(str(path)).measure(small).result)
    assert ready.about["embeddings"]["folder"] == str(folder)
    assert len(ready.about["embeddings"]["model"]) == 32
    assert ready.about["precision"]["towers"] == "unknown"


def test_prompts_need_a_model(small: Encoder, embedded: tuple[Path, Path]) -> None:
    path, folder = embedded
    second = path.with_name("second.yaml")
    shards = path.parent / "shards" / "task"
    second.write_text(f"title: t\nevaluator: {ZEROSHOT}\ndata: {{shards: '{shards}', {LABELLED}}}\n")
    with pytest.raises(MmclError, match="needs caption, but there is no model"):
        load_task(str(second)).measure(None, ready=ReadyVectors(folder))
    found = load_task(str(second)).measure(small, ready=ReadyVectors(folder)).result
    assert dict(found) == pytest.approx(dict(load_task(str(second)).measure(small).result))


def theirs(folder: Path, keys: list[str], vectors: dict[str, np.ndarray], column: str = "image_path") -> Path:
    """What clip-retrieval writes, in two parts whose numbers are not padded alike."""
    half = len(keys) // 2
    for name, rows in vectors.items():
        (folder / f"{name}_emb").mkdir(parents=True)
        for number, part in ((9, rows[:half]), (10, rows[half:])):
            np.save(folder / f"{name}_emb" / f"{name}_emb_{number}.npy", part.astype(np.float16))
    (folder / "metadata").mkdir()
    for number, part in ((9, keys[:half]), (10, keys[half:])):
        pq.write_table(pa.table({column: part}), folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def test_clip_retrievals_folders_are_read_by_key_in_any_order(samples: list[Any], task: Write, tmp_path: Path) -> None:
    path = task(samples, RETRIEVAL.replace("picture", "image"), PAIRS.replace("picture", "image"))
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(COUNT, 8))
    order = rng.permutation(COUNT)
    keys = [samples[i]["__key__"] for i in order]
    folder = theirs(tmp_path / "x", keys, {"img": vectors[order], "caption": vectors[order]})
    found = load_task(str(path)).measure(None, ready=ReadyVectors(folder))
    assert found.result["caption_to_image/recall@1"] == 1.0
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(found.data.vectors["image"], unit, atol=1e-3)


def test_mistakes_are_told(samples: list[Any], task: Write, tmp_path: Path) -> None:
    path = task(samples, RETRIEVAL.replace("picture", "image"), PAIRS.replace("picture", "image"))
    with pytest.raises(MmclError, match="holds no embeddings"):
        ReadyVectors(tmp_path)
    keys = [one["__key__"] for one in samples]
    vectors = np.random.default_rng(0).normal(size=(COUNT, 8))
    named = theirs(tmp_path / "unnamed", keys, {"img": vectors}, "who")
    with pytest.raises(MmclError, match="a column key or image_path"):
        ReadyVectors(named)
    short = theirs(tmp_path / "short", keys, {"img": vectors, "caption": vectors})
    (short / "caption_emb" / "caption_emb_10.npy").unlink()
    with pytest.raises(MmclError, match="caption_emb has 15 rows, but the metadata 30"):
        ReadyVectors(short)
    keys[3] = "nobody"
    uneven = theirs(tmp_path / "uneven", keys, {"img": vectors, "caption": vectors[:, :4]})
    with pytest.raises(MmclError, match=r"of one dim for all modalities; rows are \[\(4,\), \(8,\)\]"):
        ReadyVectors(uneven)
    flat = theirs(tmp_path / "flat", keys, {"img": vectors[:, 0]})
    with pytest.raises(MmclError, match=r"must be \(rows, dim\).*rows are \[\(\)\]"):
        ReadyVectors(flat)
    wrong = theirs(tmp_path / "wrong", keys, {"img": vectors, "caption": vectors})
    with pytest.raises(MmclError, match="vectors of caption: 0003 has 0, not 1"):
        load_task(str(path)).measure(None, ready=ReadyVectors(wrong))


def test_what_is_not_a_number_is_there_and_wrong(samples: list[Any], task: Write, tmp_path: Path) -> None:
    path = task(samples, RETRIEVAL.replace("picture", "image"), PAIRS.replace("picture", "image"))
    vectors = np.random.default_rng(0).normal(size=(COUNT, 8))
    broken = vectors.copy()
    broken[[2, 5]] = np.nan
    folder = theirs(tmp_path / "x", [one["__key__"] for one in samples], {"img": broken, "caption": vectors})
    (folder / "manifest.json").write_text("[]")
    result = load_task(str(path)).measure(None, ready=ReadyVectors(folder)).result
    assert result["n"] == COUNT
    assert result["caption_to_image/recall@1"] == 0.0  # what is not a number stands before every other picture
    assert result["image_to_caption/recall@1"] == pytest.approx((COUNT - 2) / COUNT)


def test_absent_rows_are_zero_and_no_vectors(samples: list[Any], task: Write, tmp_path: Path) -> None:
    data = f"{PAIRS}, optional: [picture]".replace("picture", "image")
    path = task(samples, RETRIEVAL.replace("picture", "image"), data)
    vectors = np.random.default_rng(0).normal(size=(COUNT, 8))
    pictures = vectors.copy()
    pictures[[2, 5]] = 0
    keys = [one["__key__"] for one in samples]
    ready = ReadyVectors(theirs(tmp_path / "x", keys, {"img": pictures, "caption": vectors}))
    result = load_task(str(path)).measure(None, ready=ready).result
    assert (result["n"], result["skipped"]) == (COUNT - 2, 2)
