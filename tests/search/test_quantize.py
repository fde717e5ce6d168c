"""Exports in fewer bits: the bytes that others expect, and a loss that is what another implementation measures."""

import json
import shutil
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss

from mmcl.embed import Vectors
from mmcl.embed.quantize import quantize
from mmcl.embed.recall import held, unit_rows
from mmcl.errors import MmclError
from tests.search.exports import clustered, cosines, export

ROWS = 2000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = clustered(ROWS, 48)
    texts = (images + 0.3 * clustered(ROWS, 48, seed=2)).astype(np.float32)
    images[::9] = 0
    folder = export(tmp_path_factory.mktemp("quantize") / "e", {"image": images, "text": texts}).folder
    quantize(folder, ["int8", "binary", "dims12"])
    return folder


def rows(folder: Path, name: str, kind: str = "") -> np.ndarray:
    place = folder / "quantized" / kind if kind else folder
    return np.concatenate([np.load(path) for path in sorted((place / f"{name}_emb").glob("*.npy"))])


@pytest.mark.parametrize("name", ["img", "text"])
def test_the_bytes_are_those_of_sentence_transformers(folder: Path, name: str) -> None:
    floats = rows(folder, name)
    ranges = np.load(folder / "quantized" / "int8" / f"{name}_ranges.npy")
    there = floats[floats.any(1)]
    np.testing.assert_array_equal(ranges, [there.min(0), there.max(0)])
    np.testing.assert_array_equal(rows(folder, name, "int8"), quantize_embeddings(floats, "int8", ranges=ranges))
    np.testing.assert_array_equal(rows(folder, name, "binary"), quantize_embeddings(floats, "ubinary"))
    parts = [path.name for path in sorted((folder / "quantized" / "binary" / f"{name}_emb").iterdir())]
    assert parts == [path.name for path in sorted((folder / f"{name}_emb").iterdir())]


def test_the_measured_loss_of_bits_is_that_of_faiss(folder: Path) -> None:
    said = json.loads((folder / "manifest.json").read_text())["quantized"]["binary"]["image"]
    assert said["queries"] == "text"
    images, texts, codes = rows(folder, "img"), rows(folder, "text"), rows(folder, "img", "binary")
    there = np.flatnonzero(images.any(1))
    index = faiss.IndexBinaryFlat(48)
    index.add(codes[there])
    plain, again = [], []
    _, found = index.search(quantize_embeddings(texts, "ubinary"), 40)
    for query, places in zip(texts, there[found], strict=True):
        nearest = set(np.argsort(-cosines(images, query))[:10].tolist())
        plain.append(len(nearest & set(places[:10].tolist())) / 10)
        again.append(len(nearest & set(places.tolist())) / 10)
    for name, shares in {"recall@10": plain, "rescored": again}.items():
        assert said[name]["n"] == 500
        assert said[name]["low"] < said[name]["recall"] < said[name]["high"]
        assert said[name]["recall"] == pytest.approx(np.mean(shares), abs=0.03)  # of 500 of the 2,000 texts
    assert said["recall@10"]["recall"] < said["rescored"]["recall"]


def test_the_measured_loss_of_int8_is_that_of_numpy(folder: Path) -> None:
    said = json.loads((folder / "manifest.json").read_text())["quantized"]["int8"]["text"]
    images, texts = rows(folder, "img"), rows(folder, "text")
    low, high = np.load(folder / "quantized" / "int8" / "text_ranges.npy").astype(np.float64)
    codes = rows(folder, "text", "int8") * (high - low) / 255  # beginnings and middles are the same for all rows
    shares = []
    for query in images[images.any(1)]:
        nearest = set(np.argsort(-cosines(texts, query))[:10].tolist())
        shares.append(len(nearest & set(np.argsort(-(codes @ query))[:10].tolist())) / 10)
    assert said["queries"] == "image"
    assert said["recall@10"]["recall"] == pytest.approx(np.mean(shares), abs=0.01)
    assert said["rescored"]["recall"] == 1


def test_first_coordinates_lose_what_numpy_says(folder: Path) -> None:
    said = json.loads((folder / "manifest.json").read_text())["quantized"]["dims12"]["image"]
    images, texts = rows(folder, "img"), rows(folder, "text")
    there = images.any(1)
    expected = images[:, :12].astype(np.float64)
    expected[there] /= np.linalg.norm(expected[there], axis=1, keepdims=True)
    np.testing.assert_allclose(rows(folder, "img", "dims12"), expected, rtol=1e-6)
    assert rows(folder, "img", "dims12").dtype == images.dtype
    plain, again = [], []
    for query in texts:
        nearest = set(np.argsort(-cosines(images, query))[:10].tolist())
        found = np.argsort(-cosines(images[:, :12], query[:12]))[:40].tolist()
        plain.append(len(nearest & set(found[:10])) / 10)
        again.append(len(nearest & set(found)) / 10)
    for name, shares in {"recall@10": plain, "rescored": again}.items():
        assert said[name]["recall"] == pytest.approx(np.mean(shares), abs=0.03)  # of 500 of the 2,000 texts
    assert 0.1 < said["recall@10"]["recall"] < said["rescored"]["recall"] < 1


def test_sentence_transformers_searches_the_files(folder: Path) -> None:
    codes, texts = rows(folder, "text", "binary"), rows(folder, "text")
    found, _ = semantic_search_faiss(texts[:5], codes, corpus_precision="ubinary", top_k=3, rescore_multiplier=4)
    assert [hits[0]["corpus_id"] for hits in found] == [0, 1, 2, 3, 4]


def files(folder: Path) -> dict[str, bytes]:
    found = [path for path in (folder / "quantized").rglob("*") if path.is_file()] + [folder / "manifest.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_the_same_again_after_an_interruption_and_nothing_twice(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "e")
    whole = files(folder)
    said: list[str] = []
    assert quantize(tmp_path / "e", ["binary", "int8"], said.append).keys() == {"int8", "binary", "dims12"}
    assert said == []
    manifest = json.loads((tmp_path / "e" / "manifest.json").read_text())
    manifest["quantized"].pop("binary")
    (tmp_path / "e" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "e" / "quantized" / "binary" / "text_emb" / "text_emb_0001.npy").write_bytes(b"cut")
    (tmp_path / "e" / "quantized" / "binary" / "img_emb" / "img_emb_0002.npy").unlink()
    quantize(tmp_path / "e", ["binary"], said.append)
    assert [line.split(":")[0] for line in said] == ["binary of image", "binary of text"]
    assert files(tmp_path / "e") == whole


def test_of_one_modality_its_own_rows_ask_and_are_not_their_own_answer(tmp_path: Path) -> None:
    rows = clustered(300, 16)
    folder = export(tmp_path / "e", {"image": rows}).folder
    said = quantize(folder, ["binary"])["binary"]["image"]
    assert (said["queries"], said["recall@10"]["n"]) == ("image", 300)
    bits = np.where(rows > 0, 1.0, -1.0)
    shares = []
    for row, query in enumerate(rows):
        exact, same = cosines(rows, query), bits @ bits[row]
        exact[row] = same[row] = -np.inf
        nearest = set(np.argsort(-exact)[:10].tolist())
        shares.append(len(nearest & set(np.lexsort((np.arange(300), -same))[:10].tolist())) / 10)
    assert said["recall@10"]["recall"] == pytest.approx(np.mean(shares), abs=1e-4)


@pytest.mark.parametrize("few", [0, 1, 5])
def test_few_rows_are_quantised_as_well(tmp_path: Path, few: int) -> None:
    images = np.zeros((20, 16), np.float32)
    images[:few] = clustered(few or 1, 16)[:few]
    said: Any = quantize(export(tmp_path / "e", {"image": images}).folder, ["int8", "binary"])
    assert (said["int8"]["image"] is None) == (few < 2)
    assert np.load(tmp_path / "e" / "quantized" / "int8" / "img_emb" / "img_emb_0000.npy").shape == (20, 16)
    if few == 5:
        assert said["int8"]["image"]["k"] == 4


def test_loss_is_that_of_the_whole_export_and_not_of_its_first_rows(tmp_path: Path) -> None:
    """Rows lie in order, as of shards by class: first those that are apart, then those that are nearly equal."""
    rng = np.random.default_rng(0)
    apart, close = rng.standard_normal((4000, 24)), 0.01 * rng.standard_normal((4000, 24)) + rng.standard_normal(24)
    rows = np.concatenate([apart, close])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = export(tmp_path / "e", {"image": rows.astype(np.float32)})
    asked = held(vectors, "image", "image", 500)
    assert asked is not None
    assert np.histogram(asked.own, 4, (0, 8000))[0].min() > 90  # of 125 in each quarter
    np.testing.assert_array_equal(asked.queries, unit_rows(vectors.rows("image", asked.own)))
    said = quantize(vectors.folder, ["int8"])["int8"]["image"]["recall@10"]
    low, high = np.load(vectors.folder / "quantized" / "int8" / "img_ranges.npy").astype(np.float64)
    codes = np.concatenate([np.load(p) for p in sorted((vectors.folder / "quantized/int8/img_emb").glob("*.npy"))])
    codes = codes * (high - low) / 255
    shares = []
    for row in range(0, 8000, 8):
        exact, found = cosines(rows, rows[row]), codes @ rows[row]
        exact[row] = found[row] = -np.inf
        shares.append(len({*np.argsort(-exact)[:10].tolist()} & {*np.argsort(-found)[:10].tolist()}) / 10)
    assert said["recall"] == pytest.approx(np.mean(shares), abs=0.05)
    assert np.mean(shares[:500]) > np.mean(shares[500:]) + 0.3, "halves are alike, and nothing was tested"


def test_what_is_gone_is_written_again_under_the_names_of_the_export(tmp_path: Path) -> None:
    vectors = export(tmp_path / "e", {"image": clustered(300, 16)}, part=100)
    for path in sorted((vectors.folder / "img_emb").glob("*.npy")):
        path.rename(path.with_name(f"img_emb_0{path.stem[-4:]}.npy"))  # as of more than 10,000 parts
    quantize(vectors.folder, ["int8", "dims8"])
    before = files(vectors.folder)
    place = vectors.folder / "quantized" / "int8" / "img_emb"
    assert sorted(path.name for path in place.iterdir()) == [f"img_emb_0000{number}.npy" for number in range(3)]
    (place / "img_emb_00001.npy").unlink()
    shutil.rmtree(vectors.folder / "quantized" / "dims8")
    quantize(vectors.folder, ["int8", "dims8"])
    assert files(vectors.folder) == before


def test_parts_of_another_export_do_not_stay(tmp_path: Path) -> None:
    vectors = export(tmp_path / "e", {"image": clustered(300, 16)}, part=100)
    (vectors.folder / "quantized" / "int8" / "img_emb").mkdir(parents=True)
    left = vectors.folder / "quantized" / "int8" / "img_emb" / "img_emb_0003.npy"
    left.write_bytes(b"of another export")
    quantize(vectors.folder, ["int8"])
    assert not left.exists()


def test_rows_that_are_not_finite_are_codes_of_zeros(tmp_path: Path) -> None:
    rows = clustered(50, 16)
    rows[7] = np.nan
    plain = rows.copy()
    plain[7] = 0
    said = [export(tmp_path / name, {"image": some}).folder for name, some in (("nan", rows), ("zero", plain))]
    for folder in said:
        quantize(folder, ["int8", "binary", "dims8"])
    both = [{name: data for name, data in files(folder).items() if name != "manifest.json"} for folder in said]
    assert both[0] == both[1]


def test_a_modality_of_few_does_not_ask_and_one_query_says_nothing(tmp_path: Path) -> None:
    texts = np.zeros((200, 16), np.float32)
    texts[:3] = clustered(3, 16)
    told: list[str] = []
    said = quantize(export(tmp_path / "e", {"image": clustered(200, 16), "text": texts}).folder, ["int8"], told.append)
    assert said["int8"]["image"]["queries"] == "image"
    assert (said["int8"]["text"]["queries"], said["int8"]["text"]["k"]) == ("image", 3)
    assert told[1].startswith("int8 of text: recall@3 ")
    few = export(tmp_path / "few", {"image": clustered(1, 16), "text": clustered(1, 16)}).folder
    only = quantize(few, ["int8"])["int8"]["image"]["recall@10"]
    assert (only["recall"], only["low"], only["high"], only["n"]) == (1.0, 0.0, 1.0, 1)


def test_mistakes_are_told(tmp_path: Path) -> None:
    folder = export(tmp_path / "e", {"image": clustered(20)}).folder
    assert quantize(folder, []) == {}
    (folder / "quantized").write_text("a file")
    with pytest.raises(MmclError, match="cannot be written"):
        quantize(folder, ["int8"])
    (folder / "quantized").unlink()
    with pytest.raises(MmclError, match="no quantisation is called 'int4'; did you mean 'int8'"):
        quantize(folder, ["int4"])
    for wrong in ("dims32", "dims999"):
        with pytest.raises(MmclError, match=f"{wrong}: vectors have 32 coordinates, of which 1 to 31 can be kept"):
            quantize(folder, [wrong])
    (folder / "manifest.json").unlink()
    with pytest.raises(MmclError, match="has no manifest.json"):
        quantize(folder, ["int8"])
    assert Vectors(folder).samples == 20
