"""Indexes: exact where they say so, as good as they say where not, k results where there are k, and never stale."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import faiss
import numpy as np
import pytest

from mmcl.embed import Vectors
from mmcl.embed.recall import nearest
from mmcl.errors import MmclError
from mmcl.search import plan
from mmcl.search.build import build
from mmcl.search.index import Index, open_index
from mmcl.search.plan import Plan
from tests.search.exports import clustered, cosines, export

ROWS = 3000
KINDS = {"flat": 10_000, "hnsw": 500, "ivf": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every seventh image is absent, one is not finite; texts lie apart from images."""
    images = clustered(ROWS)
    texts = images + 0.3 * clustered(ROWS, seed=2) + 0.5
    images[::7] = 0
    images[8] = np.nan
    images[20:30] = images[19]  # equal ones
    return export(tmp_path_factory.mktemp("index") / "e", {"image": images, "text": texts.astype(np.float16)}).folder


@pytest.fixture(params=KINDS)
def index(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """Of each kind: as if fewer vectors were many."""
    monkeypatch.setattr(plan, "FLAT", KINDS[request.param])
    monkeypatch.setattr(plan, "GRAPH", 1000 if request.param == "ivf" else 10_000)
    own = folder.with_name(request.param)
    if not own.exists():  # one that lies there is opened by all tests
        shutil.copytree(folder, own, ignore=shutil.ignore_patterns(".index"))
    made = open_index(Vectors(own), "image")
    assert made.about["kind"] == request.param
    return made


def images(folder: Path) -> np.ndarray:
    rows = np.concatenate(list(Vectors(folder).parts("image")))
    return np.where(np.isfinite(rows), rows, 0)


def test_flat_search_is_that_of_numpy_in_float64(folder: Path) -> None:
    rows, index = images(folder), open_index(Vectors(folder), "image")
    assert len(index) == rows.any(1).sum()
    for query in clustered(20, seed=3):
        expected = cosines(rows, query)
        scores, found = index.search(query, 15)
        assert found.tolist() == np.lexsort((np.arange(ROWS), -expected.round(7)))[:15].tolist()
        np.testing.assert_allclose(scores, expected[found], atol=1e-6)


def test_lists_are_learned_from_all_over_the_export(tmp_path: Path) -> None:
    """Rows lie in order: the second half has nothing in common with the first."""
    rows = np.zeros((4000, 32), np.float32)
    rows[:2000, :16], rows[2000:, 16:] = clustered(2000, 16), clustered(2000, 16, seed=2)
    index, _ = build(export(tmp_path / "e", {"image": rows}), "image", Plan("ivf", 1000, 32), print)
    centres = faiss.downcast_index(index.index).quantizer.reconstruct_n(0, Plan("ivf", 1000, 32).lists)
    share = (np.abs(centres[:, 16:]).sum(1) > np.abs(centres[:, :16]).sum(1)).mean()
    assert 0.35 < share < 0.65


def test_of_equal_vectors_the_lower_rows_come_first_also_where_results_end(folder: Path) -> None:
    index = open_index(Vectors(folder), "image")
    equal = list(range(19, 30))
    scores, found = index.search(images(folder)[19], 5)
    assert found.tolist() == equal[:5]
    assert len(set(scores.tolist())) == 1


def test_what_an_index_says_of_its_recall_holds_for_queries_it_has_not_seen(index: Index, folder: Path) -> None:
    rows = images(folder)
    queries = {"image": clustered(100, seed=4), "text": Vectors(folder).rows("text", np.arange(1, ROWS, 30))}
    for of, asked in queries.items():
        found = [set(index.search(query, 10)[1]) & set(np.argsort(-cosines(rows, query))[:10]) for query in asked]
        share = sum(map(len, found)) / (10 * len(asked))
        assert share >= (1 if index.about["kind"] == "flat" else 0.95)
        if index.about["kind"] != "flat":
            said = index.about["recall"][of]
            assert said["low"] <= said["recall"] <= said["high"]
            assert said["recall"] >= 0.95
            assert said["n"] == 200
            assert f"{said['recall']:.3f}" in index.why


@pytest.mark.parametrize("share", [0.9, 0.3, 0.01])
def test_filters_are_met_by_all_k_results(index: Index, folder: Path, share: float) -> None:
    allowed = np.random.default_rng(5).random(ROWS) < share
    rows = images(folder) * allowed[:, None]
    right = 0
    for query in clustered(20, seed=6):
        scores, found = index.search(query, 12, allowed)
        assert len(found) == len(set(found.tolist())) == min(12, rows.any(1).sum())
        assert allowed[found].all()
        assert rows[found].any(1).all()
        assert (np.diff(scores) <= 0).all()
        right += len(set(found) & set(np.argsort(-cosines(rows, query))[: len(found)])) / len(found)
    assert right / 20 >= (1 if index.about["kind"] == "flat" else 0.95)


def test_far_away_and_more_than_there_are(index: Index, folder: Path) -> None:
    rows = images(folder)
    far = np.argsort(np.where(rows.any(1), cosines(rows, rows[1]), np.inf))[
        :30
    ]  # in other lists, and far off in a graph
    allowed = np.zeros(ROWS, bool)
    allowed[far] = True
    assert sorted(index.search(rows[1], 30, allowed)[1]) == sorted(far)
    assert sorted(index.search(rows[1], 100, allowed)[1]) == sorted(far)
    assert len(index.search(rows[1], 2 * ROWS)[1]) == len(index)
    assert len(index.search(rows[1], 5, np.zeros(ROWS, bool))[1]) == 0
    absent = ~rows.any(1)
    assert len(index.search(rows[1], 5, absent)[1]) == 0


def test_exact_search_by_parts_is_that_of_numpy(folder: Path) -> None:
    rows, queries = images(folder), clustered(7, seed=8)
    scores, found = nearest(Vectors(folder), "image", queries, 9)
    for query, got, said in zip(queries, found, scores, strict=True):
        expected = cosines(rows, query)
        np.testing.assert_allclose(said, np.sort(expected)[::-1][:9], atol=1e-6)
        np.testing.assert_allclose(expected[got], said, atol=1e-6)
    allowed = np.arange(ROWS) == 4
    assert nearest(Vectors(folder), "image", queries[:1], 3, allowed)[1].tolist() == [[4, -1, -1]]


def test_an_index_is_kept_and_made_anew_when_what_it_is_made_of_has_changed(tmp_path: Path) -> None:
    rows = clustered(800)
    vectors = export(tmp_path / "e", {"image": rows})
    open_index(vectors, "image")
    file = tmp_path / "e" / ".index" / "image.faiss"
    before = file.stat().st_ino
    open_index(Vectors(tmp_path / "e"), "image")
    assert file.stat().st_ino == before
    manifest = tmp_path / "e" / "manifest.json"
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(said | {"quantized": {"int8": {}}}))  # of which no index is made
    open_index(Vectors(tmp_path / "e"), "image")
    assert file.stat().st_ino == before
    np.save(tmp_path / "e" / "img_emb" / "img_emb_0000.npy", rows[:700][::-1])
    manifest.write_text(json.dumps(said | {"model": "another"}))
    index = open_index(Vectors(tmp_path / "e"), "image")
    assert file.stat().st_ino != before
    assert index.search(rows[0], 1)[1] == [699]


@pytest.mark.parametrize(
    "damage", ["cut", "zeros", "rows that are not there", "no words", "words of another", "no faiss file"]
)
def test_an_index_that_is_not_whole_is_made_anew(tmp_path: Path, damage: str) -> None:
    rows = clustered(300)
    vectors = export(tmp_path / "e", {"image": rows})
    open_index(vectors, "image")
    file = tmp_path / "e" / ".index" / "image.faiss"
    words = file.with_suffix(".json")
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[:1000])
    elif damage == "zeros":  # as after a power cut
        file.write_bytes(bytes(len(whole)))
    elif damage == "rows that are not there":
        file.write_bytes(whole[:-8] + (10**12).to_bytes(8, "little"))
    elif damage == "no words":
        words.write_text("")
    elif damage == "words of another":
        words.write_text(json.dumps(json.loads(words.read_text()) | {"bytes": 7}))
    else:
        file.unlink()
    index = open_index(Vectors(tmp_path / "e"), "image")
    assert index.search(rows[7], 1)[1] == [7]
    assert file.read_bytes() == whole


def test_where_nothing_can_be_written_the_index_is_made_anew_and_it_is_said(tmp_path: Path) -> None:
    vectors = export(tmp_path / "e", {"image": clustered(50)})
    (tmp_path / "e" / ".index").write_text("in the way")
    said: list[str] = []
    assert open_index(vectors, "image", said.append).search(clustered(50)[3], 1)[1] == [3]
    assert "cannot be written" in said[0]


def test_many_ask_at_once_and_one_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "FLAT", 100)
    export(tmp_path / "e", {"image": clustered(1000)})
    said: list[str] = []
    found: list[int] = []

    def ask() -> None:
        found.append(len(open_index(Vectors(tmp_path / "e"), "image", said.append)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1000] * 4
    assert [line.split(":")[0] for line in said] == ["indexing image", "indexed image in 0 s. HNSW"]


def test_mistakes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = np.zeros((20, 32), np.float32)
    vectors = export(tmp_path / "e", {"image": clustered(20), "audio": nothing})
    with pytest.raises(MmclError, match="has no vectors of text; it has audio, image"):
        open_index(vectors, "text")
    with pytest.raises(MmclError, match="no sample has audio; there is nothing to search"):
        open_index(vectors, "audio")
    monkeypatch.setattr(plan.Plan, "bytes", 10**15)
    with pytest.raises(MmclError, match=r"an index of 20 vectors of image takes 1000000.0 GB .* are free"):
        open_index(vectors, "image")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MmclError, match=r"pip install 'mmcl\[search\]'"):
        open_index(vectors, "image")


BUILDS = """
import sys
from mmcl.embed import Vectors
from mmcl.search.index import open_index
vectors = Vectors(sys.argv[1])
print("begins", flush=True)
open_index(vectors, "image")
print("ends", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["at once", "while it is written"])
def test_an_index_whose_maker_is_killed_is_made_anew(tmp_path: Path, when: str) -> None:
    rows = clustered(49_000, dim=256)
    export(tmp_path / "e", {"image": rows}, part=10_000)
    partial = tmp_path / "e" / ".index" / ".image.faiss.partial"
    process = subprocess.Popen(
        [sys.executable, "-c", BUILDS, str(tmp_path / "e")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    while when == "while it is written" and not partial.exists():
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert process.stdout.read() == ""
    process.stdout.close()
    assert not (tmp_path / "e" / ".index" / "image.json").exists()
    index = open_index(Vectors(tmp_path / "e"), "image")
    assert index.search(rows[48_123], 1)[1] == [48_123]
    assert not partial.exists()
