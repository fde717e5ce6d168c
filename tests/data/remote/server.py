"""A web server on loopback that fails as it is told, and what the tests of remote shards share."""

import hashlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import filelock

from mmcl.data.remote import Patience

KIB, MIB = 1 << 10, 1 << 20
QUICK = Patience(attempts=3, timeout=10.0, backoff=0.01)


@dataclass
class Page:
    """A file, and what goes wrong with it."""

    data: bytes
    ranges: bool = True
    validators: bool = True
    length: bool = True  # say it
    statuses: list[int] = field(default_factory=list)  # answers to the next GETs; then all is well
    every: int | None = None  # answer to everything
    headers: dict[str, str] = field(default_factory=dict)  # of those answers
    cut: list[int] = field(default_factory=list)  # bytes after which the next GETs are cut off
    short: int | None = None  # bytes that GET gives, and says are all
    head_size: int | None = None  # what HEAD says, if not the truth
    delay: float = 0.0  # seconds before an answer
    slow: float = 0.0  # seconds between 64 KiB
    hang: int | None = None  # bytes after which nothing comes any more
    held: bool = False  # nothing comes before `Server.released`


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Page] = {}
        self.gets: list[tuple[str, str | None, float]] = []  # path, range, time
        self.heads: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.released = threading.Event()  # lets go what hangs
        self.before_cut: Callable[[int], None] = lambda start: None  # is told where the GET began

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def put(self, path: str, data: bytes, **faults: Any) -> str:
        self.pages[path] = Page(data, **faults)
        return self.url(path)

    def got(self, path: str) -> list[str | None]:
        """Ranges of the GETs of a path."""
        return [range_ for got, range_, _ in self.gets if got == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        path = self.path.partition("?")[0]
        self.server.heads[path] += 1
        page = self._page(path)
        if page is not None:
            self._begin(page, 200, page.head_size or len(page.data))

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        asked = self.headers.get("Range")
        self.server.gets.append((path, asked, time.monotonic()))
        page = self._page(path)
        if page is None:
            return
        if page.statuses:
            self._refuse(page.statuses.pop(0), page.headers)
            return
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked and page.ranges else 0
        body = page.data[start : page.short]
        self._begin(page, 206 if asked and page.ranges else 200, len(body), start)
        self._send(path, page, body, start)

    def _page(self, path: str) -> Page | None:
        page = self.server.pages.get(path)
        if page is None:
            self._refuse(404, {})
            return None
        time.sleep(page.delay)
        if page.every:
            self._refuse(page.every, page.headers)
            return None
        return page

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _begin(self, page: Page, status: int, length: int, start: int = 0) -> None:
        self.send_response(status)
        if page.length:
            self.send_header("Content-Length", str(length))
        else:
            self.close_connection = True
        if page.validators:
            self.send_header("ETag", f'"{hashlib.md5(page.data).hexdigest()}"')
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(page.data) - 1}/{len(page.data)}")
        self.end_headers()

    def _send(self, path: str, page: Page, body: bytes, start: int) -> None:
        end = page.cut.pop(0) if page.cut else page.hang if page.hang is not None else len(body)
        body, whole = body[:end], end >= len(body)
        if page.held:
            self.server.released.wait(20)
        try:
            for i in range(0, len(body), 1 << 16):
                self.wfile.write(body[i : i + (1 << 16)])
                self.server.sent[path] += len(body[i : i + (1 << 16)])
                time.sleep(page.slow)
            if page.hang is not None:
                self.server.released.wait(20)
            if not whole:
                self.server.before_cut(start)
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
        except OSError:  # the client has gone
            self.close_connection = True


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def used(root: Path) -> int:
    """Bytes below the folder of a cache; a file that is renamed meanwhile counts once."""
    if not (root / "locks").is_dir():
        return 0
    sizes: dict[int, int] = {}
    with filelock.FileLock(root / "locks" / "room.lock"):  # or a file might go, and another one come, while we count
        for path in root.rglob("*"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            sizes[stat.st_ino] = 0 if path.is_dir() else stat.st_size
    return sum(sizes.values())


def shards(root: Path) -> set[str]:
    return {path.name.partition("-")[2] for path in root.glob("*.tar")}


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
