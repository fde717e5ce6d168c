"""The page's server: what it finds, what it serves, and what it refuses."""

import io
import itertools
import json
import re
import struct
import tarfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmcl.search import Collection, Filter, Part
from mmcl.search.query import joined
from mmcl.search.serve.asked import JSON, UPLOAD
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


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/page.css/../app.py",
        "/page.css%2f..%2fapp.py",
        "/app.py",
        "/page.html.jinja",
        "/manifest.json",
        "/media/0/..%2f..%2f..%2fmanifest.json",
        "/media/..%2f..%2fmanifest.json/image",
        "/media/0/image%00.png",
        "/media/0/image/..",
        "/media/0/text",
        "/media/0/json",
        "/media/0/__class__",
        "/media/-1/image",
        "/media/72/image",
        "/media/%D9%A1/image",
        "/media/1e0/image",
        f"/media/{'9' * 5000}/image",
        "/media//image",
        "/media",
        "/api",
        "/api/search/../../etc/passwd",
        "/static/../etc/passwd",
        "/..%5c..%5cetc%5cpasswd",
        "/%c0%ae%c0%ae/etc/passwd",
    ],
)
def test_nothing_else_is_reachable(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status == 404, answer.body[:200]
    assert answer.error
    assert b"root:" not in answer.body
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST"])
def test_nothing_can_be_written(client: Client, method: str) -> None:
    for path in ("/", "/media/0/image", "/api/about"):
        assert client.ask(method, path, b"x").status == 405


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Host": "evil.example:8707"}, 400),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
    ],
)
def test_other_names_of_this_machine_are_refused(client: Client, headers: dict[str, str], status: int) -> None:
    assert client.get("/", **headers).status == status
    assert client.search(text(), **headers).status == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [("{url}", 200), ("http://evil.example", 403), ("null", 403), ("http://127.0.0.1:1", 403), ("", 403)],
)
def test_pages_of_other_sites_cannot_ask(client: Client, origin: str, status: int) -> None:
    answer = client.search(text(), Origin=origin.format(url=client.url.rstrip("/")))
    assert answer.status == status
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("query", "status", "told"),
    [
        ("no json", 400, "the query is no JSON"),
        ("[" * 100_000, 400, "the query is no JSON"),
        ('{"among": "image", "where": [{"column": "key", "value": "\\ud83d"}]}', 400, "the query is no JSON"),
        ("[]", 400, "query"),
        ({}, 400, "among"),
        (text(colour="red"), 400, "colour"),
        (text(k=0), 400, "k"),
        (text(k=10**9), 400, "k"),
        (text("x" * 10_001), 400, "10000"),
        (text(""), 400, "pieces.0.text"),
        (text(" "), 422, "there is none"),
        (text(among="smell"), 422, "no vectors of smell"),
        ({"pieces": [{"modality": "smell", "text": "rose"}], "among": "image"}, 422, "no tower for 'smell'"),
        ({"pieces": [{"modality": "image", "text": "rose"}], "among": "image"}, 400, "asked for by a picture"),
        ({"pieces": [{"modality": "image", "file": "mine"}], "among": "image"}, 400, "no file 'mine'"),
        ({"pieces": [{"modality": "text", "text": "a", "like": 1}], "among": "image"}, 400, "one of text, file"),
        ({"pieces": [{"modality": "image"}], "among": "image"}, 400, "one of text, file"),
        ({"pieces": [{"modality": "image", "like": -1}], "among": "image"}, 400, "like"),
        ({"pieces": [{"modality": "image", "like": 72}], "among": "image"}, 422, "rows 0 to 71"),
        ({"pieces": [{"modality": "audio", "like": 5}], "among": "image"}, 422, "005 has no audio"),
        ('{"pieces": [{"modality": "text", "text": "a", "weight": Infinity}], "among": "image"}', 400, "weight"),
        ({"pieces": [{"modality": "text", "text": "a", "weight": 0}], "among": "image"}, 422, "cancel each other out"),
        (text(where=[{"column": "json.color", "op": "=", "value": "x"}]), 422, "did you mean 'json.colour'"),
        (text(where=[{"column": "json.pitch", "op": "=", "value": "x"}]), 422, "cannot be compared"),
        (text(where=[{"column": "json.pitch", "op": "~", "value": "1"}]), 400, "op"),
    ],
)
def test_mistakes_are_told(client: Client, query: Any, status: int, told: str) -> None:
    answer = client.search(query)
    assert (answer.status, told in answer.error) == (status, True), answer.body


def test_no_condition_is_a_mistake_of_the_server(client: Client) -> None:
    columns = [*client.get("/api/about").json["columns"], "", "json.", "json.note", "x" * 1000]
    values = ["", "x", "1", "1e400", "nan", "-9" * 50, "9" * 30, "true", "\0", "2020-01-01", "[1]", "'\"%(", "🦊"]
    statuses = set()
    for column, op, value in itertools.product(columns, ["=", "contains", ">=", "<="], values):
        where = [{"column": column, "op": op, "value": value}]
        statuses.add(client.search({"among": "image", "k": 1, "where": where}).status)
    assert statuses == {200, 422}


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that says it has side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min(side * side // 8, 10**7)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content", "modality", "status", "told"),
    [
        ("notes.png", b"this is a text, whatever its name", "image", 415, "'notes.png' is no picture"),
        ("notes.wav", b"this is a text, whatever its name", "audio", 415, "'notes.wav' is no sound"),
        ("<b>.png", HOSTILE.encode(), "image", 415, "'<b>.png' is no picture"),
        ("drawn.svg", SVG, "image", 415, "is no picture"),
        ("print.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", "image", 415, "is no picture"),
        ("sound.png", tone(440), "image", 415, "is no picture"),
        ("picture.wav", OWN, "audio", 415, "is no sound"),
        ("empty.png", b"", "image", 415, "is no picture"),
        ("cut.png", OWN[:60], "image", 422, "the image of the query cannot be used"),
        ("cut.wav", tone(440)[:40], "audio", 422, "the audio of the query cannot be used"),
        ("bomb.png", bomb(60_000), "image", 422, "more than 89,478,485 pixels"),
        ("own.png", OWN, "text", 400, "text cannot be asked for by a file"),
    ],
)
def test_files_that_are_something_else(
    client: Client, name: str, content: bytes, modality: str, status: int, told: str
) -> None:
    pieces = [{"modality": modality, "file": "mine"}]
    answer = client.search({"pieces": pieces, "among": "image"}, {"mine": (name, content)})
    assert (answer.status, told in answer.error) == (status, True), answer.body


def test_forms_that_are_none(client: Client) -> None:
    def sent(body: bytes, kind: str) -> tuple[int, str]:
        answer = client.ask("POST", "/api/search", body, Content_Type=kind)
        return answer.status, answer.error

    assert sent(b"a=b", "application/x-www-form-urlencoded")[0] == 415
    assert sent(b"", "multipart/form-data")[0] == 400
    assert sent(b"what", "multipart/form-data; boundary=x")[0] == 400
    lone = b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\n1\r\n--x--\r\n'
    assert sent(lone, "multipart/form-data; boundary=x") == (400, "the form needs a field `query` that is JSON.")
    files = {f"file{i}": ("own.png", OWN) for i in range(9)}
    answer = client.search({"among": "image"}, files)
    assert (answer.status, "Too many files" in answer.error) == (400, True)


def test_what_is_too_large_is_refused(client: Client) -> None:
    pieces = [{"modality": "image", "file": "mine"}]
    just = OWN + bytes(UPLOAD - len(OWN) - 2000)  # what follows the end of a PNG is none of it
    assert client.search({"pieces": pieces, "among": "image"}, {"mine": ("a.png", just)}).status == 200
    assert client.search(json.dumps(text()) + " " * JSON).status == 413
    for more in (1, 1 << 20):
        refused = client.search({"pieces": pieces, "among": "image"}, {"mine": ("a.png", OWN + bytes(UPLOAD + more))})
        assert refused.status == 413
        assert "more than 20 MB" in refused.error


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
