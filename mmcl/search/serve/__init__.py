"""A local page over a collection: `mmcl search DIR --serve`."""

import contextlib
import socket
from collections.abc import Callable

from mmcl.errors import MmclError
from mmcl.search.collection import Collection

HOST, PORT = "127.0.0.1", 8707
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
ANY = ("0.0.0.0", "::")
AT_ONCE = 512  # open connections; further ones are told to come again (503)
GRACE = 5  # seconds that what is under way has after Ctrl-C


def serve(collection: Collection, host: str = HOST, port: int = PORT, say: Callable[[str], None] = print) -> None:
    """Serve a page until Ctrl-C; the model and the indexes are opened first.

    Args:
        collection: what is searched.
        host: address to listen at; another than the loopback lets others in.
        port: 0 takes a free one.
        say: tells where the page is.

    Raises:
        MmclError: the extra is not installed, the port is taken, or the collection cannot be searched.
    """
    try:
        import python_multipart  # noqa: F401  # which starlette misses only when a form comes
        import uvicorn

        from mmcl.search.serve.app import application
    except ModuleNotFoundError as error:
        if (error.name or "mmcl").startswith("mmcl"):
            raise
        raise MmclError(f"--serve needs {error.name}: pip install 'mmcl[search]'") from None
    with listening(host, port) as listener:
        address, taken = listener.getsockname()[:2]
        local = address in LOOPBACK
        app = application(collection, LOOPBACK if local else ("*",))
        reached = socket.gethostname() if address in ANY else f"[{address}]" if ":" in address else address
        say(f"http://{reached}:{taken}/  (Ctrl-C ends it)")
        if not local:
            say("note: whoever reaches this machine can search, and see every picture and sound of the collection.")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, lifespan="off", limit_concurrency=AT_ONCE,
            timeout_graceful_shutdown=GRACE,
        )  # fmt: skip
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn, having shut down, raises again
            uvicorn.Server(config).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections already.

    Raises:
        MmclError: it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise MmclError(f"--host {host}: there is no such address here ({error}).") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise MmclError(
            f"port {port} of {host} cannot be had ({error.strerror}); another page may be served there. --port 0 "
            "takes a free one."
        ) from None
    return listener
