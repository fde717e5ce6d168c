"""The page's server: what it finds, and what it serves."""

import io
import json
import re
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmcl.search import Collection, Filter, Part
from mmcl.search.query import joined
from tests.search.served import Client, served
from tests.search.shapes import COLOURS, HOSTILE, SVG, made, picture, tone

OWN = picture(COLOURS["blue"], "circle", side=64)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    folder = tmp_path_factory.mktemp("shapes")
    return Collection.open(made(folder), model=folder / "run", device="cpu")


@pytest.fixture(scope="module")
def client(collection: Collection) -> Iterator[Client]:
    with served(collection) as client:
        yield client


def text(words: str = "a red circle", **more: Any) -> dict[str, Any]:
    return {"pieces": [{"modality": "text", "text": words}], "among": "image", **more}


def test_what_is_found_is_what_the_collection_finds(client: Client, collection: Collection) -> None:
    answer = client.search(text(k=5))
    expected = collection.search(collection.embed([Part("text", "a red circle")]), among="image", k=5)
    assert answer.status == 200
    assert [(hit["row"], hit["key"], hit["caption"]) for hit in answer.json["hits"]] == [
        (hit.row, hit.key, hit.caption) for hit in expected
    ]
    assert [hit["score"] for hit in answer.json["hits"]] == pytest.approx([hit.score for hit in expected])
    first = answer.json["hits"][0]
    assert first["media"]["image"] == f"/media/{first['row']}/image"
    assert first["columns"]["json.shape"] in ("circle", "square", "triangle", "cross")


@pytest.mark.parametrize(("modality", "member"), [("image", "png"), ("audio", "wav")])
def test_a_file_of_the_collection_finds_its_sample(client: Client, modality: str, member: str) -> None:
    content = picture(COLOURS["blue"], "cross") if modality == "image" else tone(880)
    pieces = [{"modality": modality, "file": "mine"}]
    answer = client.search({"pieces": pieces, "among": modality, "k": 1}, {"mine": (f"x.{member}", content)})
    assert answer.status == 200, answer.body
    (hit,) = answer.json["hits"]
    assert hit["score"] == pytest.approx(1, abs=1e-3)
    assert ("blue cross" if modality == "image" else "high tone") in hit["caption"]


def test_parts_of_a_query_are_weighed(client: Client, collection: Collection) -> None:
    pieces = [
        {"modality": "text", "text": "a red circle", "weight": 0.5},
        {"modality": "image", "file": "own", "weight": -0.25},
        {"modality": "audio", "like": 7},
    ]
    answer = client.search({"pieces": pieces, "among": "text", "k": 4}, {"own": ("own.png", OWN)})
    vectors = [
        (collection.embed([Part("text", "a red circle")]), 0.5),
        (collection.embed([Part("image", OWN)]), -0.25),
        (collection.like(7, "audio"), 1.0),
    ]
    expected = collection.search(joined(vectors), among="text", k=4, without=[7])
    assert [hit["row"] for hit in answer.json["hits"]] == [hit.row for hit in expected]
    assert [hit["score"] for hit in answer.json["hits"]] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_more_like_a_sample_leaves_it_out(client: Client) -> None:
    query = {"pieces": [{"modality": "image", "like": 9}], "among": "image", "k": 200}
    rows = [hit["row"] for hit in client.search(query).json["hits"]]
    assert len(rows) == 70  # of 72, one is asked for and one has no picture
    assert 9 not in rows


def test_filters_hold(client: Client, collection: Collection) -> None:
    where = [
        {"column": "json.colour", "op": "=", "value": "blue"},
        {"column": "json.pitch", "op": ">=", "value": "400"},
    ]
    hits = client.search(text(k=50, where=where)).json["hits"]
    assert [hit["row"] for hit in hits] == [
        hit.row
        for hit in collection.search(
            collection.embed([Part("text", "a red circle")]),
            among="image",
            k=50,
            where=[Filter("json.colour", "=", "blue"), Filter("json.pitch", ">=", "400")],
        )
    ]
    assert len(hits) == 8
    assert {hit["columns"]["json.colour"] for hit in hits} == {"blue"}


def test_without_a_query_samples_from_all_over_are_shown(client: Client) -> None:
    rows = [hit["row"] for hit in client.search({"among": "image", "k": 5}).json["hits"]]
    assert rows == [0, 17, 35, 53, 71]
    where = [{"column": "json.shape", "op": "=", "value": "cross"}]
    hits = client.search({"among": "image", "where": where}).json["hits"]
    assert {hit["columns"]["json.shape"] for hit in hits} == {"cross"}
    assert {hit["score"] for hit in hits} == {None}
    nothing = [{"column": "json.shape", "op": "=", "value": "none"}]
    assert client.search({"among": "image", "where": nothing}).json["hits"] == []


def test_samples_without_a_sound_offer_none(client: Client) -> None:
    hits = client.search({"among": "image", "k": 72}).json["hits"]
    assert [hit["row"] for hit in hits if "audio" not in hit["media"]] == [*range(0, 72, 5)]
    answer = client.get("/media/5/audio")
    assert answer.status == 404
    assert "005 has no audio" in answer.error


def test_media_are_the_bytes_of_the_shard(client: Client, collection: Collection) -> None:
    shards = collection.vectors.folder.parent / "shards"
    with tarfile.open(sorted(shards.glob("*.tar"))[1]) as tar:
        names = {member.name: member for member in tar.getmembers()}
        read = {name: tar.extractfile(member).read() for name, member in names.items()}  # type: ignore[union-attr]
    for modality, member, kind in (("image", "png", "image/png"), ("audio", "wav", "audio/wav")):
        answer = client.get(f"/media/43/{modality}")
        assert answer.body == read[f"043.{member}"]
        assert answer.headers["content-type"] == kind
        assert answer.headers["content-security-policy"].startswith("sandbox allow-same-origin; default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-", 0, None), ("bytes=10-19", 10, 20), ("bytes=-5", -5, None), ("bytes=100-99999999", 100, None)],
)
def test_players_get_ranges(client: Client, asked: str, start: int, end: int | None) -> None:
    whole = client.get("/media/43/audio").body
    answer = client.get("/media/43/audio", Range=asked)
    assert answer.status == 206
    assert answer.body == whole[start:end]
    first = start % len(whole)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.body) - 1}/{len(whole)}"


def test_ranges_that_are_none(client: Client) -> None:
    assert client.get("/media/43/audio", Range="bytes=99999999-").status == 416
    for odd in ("bytes=-", "bytes=1-2,5-6", "lines=1-2", "bytes=5-2x"):
        assert client.get("/media/43/audio", Range=odd).status == 200


def test_a_picture_that_is_a_program_is_no_document(client: Client) -> None:
    answer = client.get("/media/1/image")
    assert answer.body == SVG
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment"


def test_the_page_runs_nothing_but_its_own_file(client: Client) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    assert "unsafe" not in policy
    assert answer.body.count(b"<script") == answer.body.count(b'<script src="/page.js"') == 1
    assert not re.search(rb"\s(on[a-z]+|style)\s*=", answer.body)  # which the policy would block
    assert HOSTILE.encode() not in answer.body
    for name in ("page.css", "page.js", "icon.svg"):
        assert client.get(f"/{name}").status == 200
    about = client.get("/api/about").json
    assert (about["samples"], about["dim"], about["searched"]) == (72, 16, ["image", "audio", "text"])
    assert about["asks"] == {"text": ["text"], "image": ["image"], "audio": ["audio"]}


def test_fifty_clients_at_once_get_what_one_gets(client: Client) -> None:
    queries = [text(f"a {colour} {shape}", k=3) for colour in COLOURS for shape in ("circle", "cross")]
    alone = [client.search(query).json["hits"] for query in queries]
    found: list[tuple[int, int, Any]] = []
    ended: list[float] = []

    def ask(number: int) -> None:
        for turn in range(3):
            which = (number + turn) % len(queries)
            answer = client.search(queries[which])
            found.append((answer.status, which, answer.json["hits"]))
        ended.append(time.perf_counter())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    page = client.get("/")
    answered = time.perf_counter()
    for thread in threads:
        thread.join()
    assert page.status == 200
    assert answered < max(ended)  # the page does not wait for searches
    assert len(found) == 150
    assert all(status == 200 and hits == alone[which] for status, which, hits in found)


def test_metadata_of_any_kind_is_strict_json() -> None:
    from mmcl.search.serve.app import _json

    odd = {"nan": float("nan"), "inf": [float("-inf")], "half": "\ud83d", "bytes": b"x", "array": np.int64(3)}
    body = bytes(_json({"odd": odd}).body)
    read = json.load(io.BytesIO(body), parse_constant=lambda name: pytest.fail(name))
    assert read["odd"] == {"nan": "nan", "inf": ["-inf"], "half": "\ud83d", "bytes": "b'x'", "array": "3"}


def test_without_its_model_a_collection_can_be_looked_around_in(collection: Collection, tmp_path: Path) -> None:
    lost = Collection.open(collection.vectors.folder, model=tmp_path / "nothing", shards=tmp_path / "none")
    with served(lost) as client:
        about = client.get("/api/about").json
        assert about["asks"] == {"text": [], "image": [], "audio": []}
        assert "nothing is no run folder" in about["no_model"]
        page = client.get("/").body.decode()
        assert 'id="text"' not in page
        assert "More-like-this" in page
        like = {"pieces": [{"modality": "image", "like": 9}], "among": "image", "k": 3}
        assert len(client.search(like).json["hits"]) == 3
        assert client.search(text()).status == 422
        gone = client.get("/media/0/image")
        assert (gone.status, "say where: --shards" in gone.error) == (404, True)
