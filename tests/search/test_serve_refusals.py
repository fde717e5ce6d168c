"""What the page's server refuses: other paths, other sites, mistakes, files that are something else or too large."""

import itertools
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from mmcl.search import Collection
from mmcl.search.serve.asked import JSON, UPLOAD
from tests.search.served import Client, served
from tests.search.shapes import COLOURS, HOSTILE, SVG, made, picture, tone

OWN = picture(COLOURS["blue"], "circle", side=64)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with served(Collection.open(made(tmp_path_factory.mktemp("shapes")), device="cpu")) as client:
        yield client


def text(words: str = "a red circle", **more: Any) -> dict[str, Any]:
    return {"pieces": [{"modality": "text", "text": words}], "among": "image", **more}


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
