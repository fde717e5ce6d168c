"""A server of a collection on the loopback, and what asks it."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from mmcl.search import Collection
from mmcl.search.serve import LOOPBACK, listening
from mmcl.search.serve.app import application

BOUNDARY = "----boundary-of-the-tests"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """Of a refusal, which says nothing else."""
        assert self.headers["content-type"] == "application/json"
        assert list(self.json) == ["error"]
        return self.json["error"]


@dataclass(frozen=True)
class Client:
    """Sends requests exactly as they are written: no path is made shorter, no header left out."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def search(self, query: Any, files: Mapping[str, tuple[str, bytes]] | None = None, **headers: str) -> Answer:
        """By JSON, or by a form where there are files: field -> (name, content)."""
        said = query if isinstance(query, str) else json.dumps(query)
        if files is None:
            return self.ask("POST", "/api/search", said.encode(), Content_Type="application/json", **headers)
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return self.ask("POST", "/api/search", form(said, files), Content_Type=kind, **headers)


def form(query: str, files: Mapping[str, tuple[str, bytes]]) -> bytes:
    """The body of a form."""
    parts = [f'name="query"\r\n\r\n{query}'.encode()]
    for field, (name, content) in files.items():
        about = f'name="{field}"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        parts.append(about.encode() + content)
    start = f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode()
    return b"".join(start + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()


@contextmanager
def served(collection: Collection) -> Iterator[Client]:
    """A server in a thread of this process."""
    with listening("127.0.0.1", 0) as listener:
        config = uvicorn.Config(application(collection, LOOPBACK), log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Client(*client_address(listener.getsockname()))
        finally:
            server.should_exit = True
            thread.join()


def client_address(said: tuple[Any, ...]) -> tuple[str, int]:
    return str(said[0]), int(said[1])


def client_of(url: str) -> Client:
    """Of a server somewhere else."""
    split = urlsplit(url)
    assert split.hostname is not None
    assert split.port is not None
    return Client(split.hostname, split.port)
