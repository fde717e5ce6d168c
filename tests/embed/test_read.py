"""Exports are read by ourselves and by those who read such files."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmcl.embed import Vectors
from mmcl.errors import MmclError
from tests.embed.export import COUNT, embed


@pytest.fixture(
    scope="module", params=[(layout, dtype) for layout in ("clip_retrieval", "parquet") for dtype in ("fp32", "fp16")]
)
def made(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    layout, dtype = request.param
    out = tmp_path_factory.mktemp("read") / "out"
    embed(folder, out, layout=layout, dtype=dtype)
    return Vectors(out)


def test_both_layouts_hold_the_same(made: Vectors, folder: Path, tmp_path: Path) -> None:
    embed(folder, tmp_path / "out")
    first = Vectors(tmp_path / "out")
    assert set(made.modalities) == {"caption", "picture", "voice"}
    assert (made.dim, made.samples) == (16, COUNT)
    assert made.metadata().equals(first.metadata())
    some = np.random.default_rng(0).integers(0, COUNT, 50)
    for m in made.modalities:
        every = np.concatenate(list(made.parts(m)))
        np.testing.assert_allclose(every, np.concatenate(list(first.parts(m))), atol=1e-3)
        np.testing.assert_array_equal(made.rows(m, some), every[some].astype(np.float32))
        assert made.rows(m, np.array([], np.int64)).shape == (0, 16)
        there = made.metadata([f"has_{m}"]).column(0).to_numpy()
        np.testing.assert_array_equal(every.any(1), there)


def test_mistakes_of_readers_are_told(made: Vectors) -> None:
    with pytest.raises(MmclError, match=f"has rows 0 to {COUNT - 1}; got 0 to {COUNT}"):
        made.rows("voice", [0, COUNT])
    with pytest.raises(MmclError, match="has no vectors of smell; it has"):
        made.rows("smell", [0])
    with pytest.raises(MmclError, match="the metadata has no column smell; it has key, shard"):
        made.metadata(["smell"])


def test_others_read_the_metadata(made: Vectors) -> None:
    where = made.folder / ("metadata" if (made.folder / "metadata").exists() else "embeddings")
    keys = made.keys()
    by_duckdb = duckdb.sql(f"select key, shard, has_voice from '{where}/*.parquet' order by key").fetchall()
    assert [row[0] for row in by_duckdb] == keys
    assert pl.read_parquet(where / "*.parquet")["key"].to_list() == keys
    assert pd.read_parquet(where)["key"].to_list() == keys
    assert pq.read_table(where, columns=["key"]).column("key").to_pylist() == keys


def test_others_read_vectors_out_of_parquet(folder: Path, tmp_path: Path) -> None:
    for dtype in ("fp32", "fp16"):
        embed(folder, tmp_path / dtype, layout="parquet", dtype=dtype)
        wanted = Vectors(tmp_path / dtype).rows("caption", range(COUNT))
        there, files = wanted.any(1), f"{tmp_path / dtype}/embeddings/*.parquet"
        said = f"select caption_embedding::FLOAT[16] from '{files}' order by key"
        pair = "caption_embedding::FLOAT[16], caption_embedding::FLOAT[16]"
        cosine = f"select max(array_cosine_similarity({pair})) from '{files}'"
        frames = {
            "duckdb": [row[0] for row in duckdb.sql(said).fetchall()],
            "polars": pl.read_parquet(files)["caption_embedding"].to_list(),
            "pandas": list(pd.read_parquet(tmp_path / dtype / "embeddings")["caption_embedding"]),
        }
        for name, rows in frames.items():
            assert [row is not None for row in rows] == there.tolist(), name
            found = np.array([row for row in rows if row is not None], np.float32)
            np.testing.assert_array_equal(found, wanted[there], err_msg=name)
        assert duckdb.sql(cosine).fetchall()[0][0] == pytest.approx(1)


def test_arrays_open_as_they_are(folder: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    faiss: Any = pytest.importorskip("faiss")
    embed(folder, tmp_path / "out", dtype="fp16")
    files = sorted((tmp_path / "out" / "caption_emb").glob("*.npy"))
    rows = np.concatenate([np.load(file) for file in files]).astype(np.float32)
    index = faiss.IndexFlatIP(16)
    index.add(rows)
    there = np.flatnonzero(rows.any(1))
    _, found = index.search(rows[there], 1)
    assert (found[:, 0] == there).mean() > 0.9  # some captions are alike


def test_clip_retrievals_metadata_of_several_types_is_joined(tmp_path: Path) -> None:
    """A column that holds nothing in one part has no type there."""
    for number, width in enumerate(([None, None], [640, 480])):
        (tmp_path / "img_emb").mkdir(exist_ok=True)
        (tmp_path / "metadata").mkdir(exist_ok=True)
        np.save(tmp_path / "img_emb" / f"img_emb_{number}.npy", np.eye(2, 4, dtype=np.float16))
        table = pa.table({"image_path": ["a", "b"], "width": width})
        pq.write_table(table, tmp_path / "metadata" / f"metadata_{number}.parquet")
    made = Vectors(tmp_path)
    assert made.manifest is None
    assert made.metadata(["width"]).column("width").to_pylist() == [None, None, 640, 480]
    assert made.keys() == ["a", "b", "a", "b"]
    (tmp_path / "manifest.json").write_text(json.dumps({"model": "x"}))
    assert Vectors(tmp_path).manifest == {"model": "x"}


def test_a_cut_array_is_told(tmp_path: Path, folder: Path) -> None:
    embed(folder, tmp_path / "out")
    file = tmp_path / "out" / "voice_emb" / "voice_emb_0002.npy"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(MmclError, match="voice_emb_0002.npy cannot be read as an array"):
        Vectors(tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_a_cut_table_and_a_damaged_manifest_are_told(tmp_path: Path, folder: Path, content: bytes) -> None:
    embed(folder, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_bytes(content)
    with pytest.raises(MmclError, match=r"manifest.json is damaged"):  # and not taken for an export of others
        Vectors(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "metadata" / "metadata_0000.parquet").write_bytes(content)
    with pytest.raises(MmclError, match=r"metadata_0000.parquet cannot be read as a table"):
        Vectors(tmp_path / "out")
