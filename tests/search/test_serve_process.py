"""The server as a process of its own: its memory under large uploads, its end, and its port."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mmcl.errors import MmclError
from mmcl.search import Collection
from mmcl.search.serve import listening, serve
from tests.search.served import Client, client_of
from tests.search.shapes import made

MB = 1 << 20
BLOCK = os.urandom(MB)
ENDLESS = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("shapes"))


def start(export: Path, port: int = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mmcl", "search", str(export), "--serve", "--port", str(port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **pipes, env=os.environ | {"OMP_NUM_THREADS": "1"})


def first(process: "subprocess.Popen[str]") -> Client:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("http://"):
            return client_of(line.split()[0])
    raise AssertionError(f"no address; ended with {process.wait()}")


@pytest.fixture
def process(export: Path) -> Iterator["subprocess.Popen[str]"]:
    process = start(export)
    yield process
    process.kill()
    process.communicate()


def upload(client: Client, length: str, size: int) -> int:
    """Send a body of a size, and only then look at the status that came back."""
    chunked = length == ENDLESS
    head = (
        f"POST /api/search HTTP/1.1\r\nHost: {client.host}:{client.port}\r\n{length}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    begin, sent = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n', 0
    with socket.create_connection((client.host, client.port), timeout=30) as connection:
        connection.sendall(head.encode())
        while sent < size:
            data = begin + BLOCK if sent == 0 else BLOCK
            connection.sendall(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
            sent += len(data)
        return int(connection.recv(65536).split()[1])


def watch(server: psutil.Process, seen: list[int], done: threading.Event) -> None:
    """Its memory, again and again."""
    while not done.wait(0.01):
        seen.append(server.memory_info().rss)


@pytest.mark.slow
def test_large_uploads_are_refused_and_never_held(process: "subprocess.Popen[str]") -> None:
    client = first(process)
    query = {"pieces": [{"modality": "text", "text": "a red circle"}], "among": "image", "k": 1}
    found = client.search(query).json["hits"]
    server = psutil.Process(process.pid)
    before = server.memory_info().rss
    seen = list[int]()
    for length in (f"Content-Length: {200 * MB}", ENDLESS, f"Content-Length: {200 * MB}", ENDLESS):
        watched = threading.Thread(target=watch, args=(server, seen, done := threading.Event()))
        watched.start()
        assert upload(client, length, 200 * MB) == 413
        done.set()
        watched.join()
    assert len(seen) > 4
    assert max(seen) - before < 40 * MB
    assert upload(client, f"Content-Length: {200 * MB}", MB) == 413  # who waits hears it at once
    assert client.search(query).json["hits"] == found


@pytest.mark.slow
def test_ctrl_c_ends_it_and_frees_its_port(process: "subprocess.Popen[str]", export: Path) -> None:
    client = first(process)
    assert client.get("/").status == 200
    with socket.create_connection((client.host, client.port)):  # somebody who never asks does not hold it
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=120)
    assert (process.returncode, told) == (0, "")
    with listening(client.host, client.port):
        taken = start(export, client.port)
        told, _ = taken.communicate(timeout=240)
    assert taken.returncode == 2
    assert f"port {client.port} of 127.0.0.1 cannot be had" in told
    assert "--port 0" in told


@pytest.mark.parametrize("package", ["uvicorn", "python_multipart"])
def test_a_package_that_is_missing(export: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MmclError, match=rf"--serve needs {package}: pip install 'mmcl\[search\]'"):
        serve(Collection.open(export))


def test_hosts_and_ports_that_there_are_not() -> None:
    with pytest.raises(MmclError, match="--host nowhere.invalid: there is no such address"):
        listening("nowhere.invalid", 0)
    with listening("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        with pytest.raises(MmclError, match=rf"port {port} of 127.0.0.1 cannot be had .*--port 0"):
            listening("127.0.0.1", port)
