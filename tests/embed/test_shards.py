"""Exports that clip-retrieval's readers open: every sample once, in order, with its vector."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import mmcl
from mmcl import workflow
from mmcl.data import Source, write_shards
from mmcl.embed import embed_shards, weights_digest
from mmcl.errors import MmclError
from mmcl.model import Encoder
from mmcl.recipe import Recipe

FIELDS = {"image": "png", "text": "txt"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Recipe]) -> Encoder:
    return mmcl.load(workflow.train(tiny(tmp_path_factory.mktemp("embed") / "run")))


def test_parts_hold_every_sample_once_in_order_with_its_vector(encoder: Encoder, glyphs: Any, tmp_path: Path) -> None:
    source = Source(shards=str(glyphs.test), modalities=FIELDS)
    manifest = embed_shards(encoder, source, tmp_path / "out", part_size=200, batch_size=50)
    assert [part["samples"] for part in manifest["parts"]] == [200, 200, 100]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    tables = [pq.read_table(path) for path in sorted((tmp_path / "out" / "metadata").glob("metadata_*.parquet"))]
    keys = [key for table in tables for key in table["key"].to_pylist()]
    captions = [caption for table in tables for caption in table["caption"].to_pylist()]
    read = [key for batch in mmcl.data.stream(glyphs.test, FIELDS, batch_size=100, shuffle=False) for key in batch.keys]
    assert keys == read
    for name, modality in (("img", "image"), ("text", "text")):
        paths = sorted((tmp_path / "out" / f"{name}_emb").glob(f"{name}_emb_*.npy"))
        assert [path.name for path in paths] == [f"{name}_emb_{i:04d}.npy" for i in range(3)]
        vectors = np.concatenate([np.load(path) for path in paths])
        assert vectors.shape == (500, 16)
        assert vectors.dtype == np.float32
        if modality == "text":
            torch.testing.assert_close(torch.from_numpy(vectors[::50]), encoder.embed("text", captions[::50]))
    first = json.loads(tables[0]["json"][0].as_py())
    assert first["name"] == captions[0]


def test_an_absent_modality_is_a_zero_row_that_the_metadata_names(
    encoder: Encoder, tmp_path: Path, glyphs: Any
) -> None:
    batch = next(iter(mmcl.data.stream(glyphs.test, {"text": "txt"}, batch_size=4, shuffle=False)))
    samples = [{"__key__": str(i), "txt": text} for i, text in enumerate(batch["text"])]
    samples[2]["png"] = b"broken"
    write_shards(samples, tmp_path / "s")
    source = Source(shards=str(tmp_path / "s"), modalities=FIELDS)
    manifest = embed_shards(encoder, source, tmp_path / "out")
    assert {(b["key"], b["reason"]) for b in manifest["bad_samples"]} == {
        ("0", "no png"),
        ("1", "no png"),
        ("2", "image cannot be decoded (cannot identify image file)"),
        ("3", "no png"),
    }
    assert np.abs(np.load(tmp_path / "out" / "img_emb" / "img_emb_0000.npy")).max() == 0
    table = pq.read_table(tmp_path / "out" / "metadata" / "metadata_0000.parquet")
    assert table["has_image"].to_pylist() == [False] * 4
    assert table["has_text"].to_pylist() == [True] * 4


def test_the_manifest_knows_the_model(encoder: Encoder) -> None:
    before = weights_digest(encoder)
    assert weights_digest(encoder) == before
    parameter = next(encoder.model.parameters())
    with torch.no_grad():
        parameter.add_(1e-3)
    assert weights_digest(encoder) != before
    with torch.no_grad():
        parameter.sub_(1e-3)


def test_nothing_to_embed_is_told(encoder: Encoder, tmp_path: Path, glyphs: Any) -> None:
    source = Source(shards=str(glyphs.test), modalities={"words": "txt"})
    with pytest.raises(MmclError, match="the model has image, text; the shards bring words"):
        embed_shards(encoder, source, tmp_path / "out")
