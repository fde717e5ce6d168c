"""What the local server answers: a page, searches, pictures and sounds of samples; nothing else is reachable."""

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mmcl.errors import MmclError
from mmcl.report import template
from mmcl.search.collection import Collection, Hit
from mmcl.search.filters import Filter, fields
from mmcl.search.query import Part
from mmcl.search.serve.asked import Asked, Piece, read
from mmcl.search.serve.content import SHOWN, content_type, names
from mmcl.search.serve.described import described
from mmcl.search.serve.guard import Guard

READERS = 4  # threads that read pictures and sounds out of shards
ALONE = "sandbox allow-same-origin; default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; media-src 'self'"
"""What a picture or a sound that is opened by itself may do: be seen and heard, and run nothing."""
KINDS = {"image": "picture", "audio": "sound"}
T = TypeVar("T")


def application(collection: Collection, hosts: Sequence[str] = ("*",)) -> ASGIApp:
    """The server's application.

    Args:
        collection: what is searched.
        hosts: names that a request may give this server, so that no other site can be resolved to it.

    Raises:
        MmclError: an index cannot be made.
    """
    site = Site(collection)
    routes = [
        Route("/", site.page),
        *(Route(f"/{name}", site.file) for name in site.files),
        Route("/api/about", site.about),
        Route("/api/search", site.search, methods=["POST"]),
        Route("/media/{row}/{modality}", site.media),
    ]
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    handlers: dict[Any, Any] = {HTTPException: _refused, Exception: _failed}
    return Guard(Starlette(routes=routes, middleware=[trusted], exception_handlers=handlers))


class Site:
    """One collection, and the answers about it. What takes time runs in other threads.

    Args:
        collection: what is searched.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.said = described(collection)
        self.name = collection.vectors.folder.resolve().name
        here = resources.files("mmcl")
        looks = [here / "page.css", here / "search" / "serve" / "page.css"]
        self.files = {  # all that is served as it lies in the package
            "page.css": ("text/css", "".join(one.read_text("utf-8") for one in looks)),
            "page.js": ("text/javascript", (here / "search" / "serve" / "page.js").read_text("utf-8")),
            "icon.svg": ("image/svg+xml", (here / "search" / "serve" / "icon.svg").read_text("utf-8")),
        }
        self.html = template("search/serve/page.html.jinja").render(name=self.name, about=self.said)
        self._model = CapacityLimiter(1)  # one forward at a time, which uses all cores as it is
        self._readers = CapacityLimiter(READERS)

    async def page(self, request: Request) -> Response:
        """The page."""
        return Response(self.html, media_type="text/html")

    async def file(self, request: Request) -> Response:
        """One of the few files that belong to it."""
        kind, text = self.files[request.url.path.removeprefix("/")]
        return Response(text, media_type=kind)

    async def about(self, request: Request) -> Response:
        """What is known of the collection."""
        return _json({"name": self.name, **self.said})

    async def search(self, request: Request) -> Response:
        """The samples that are asked for."""
        asked, form = await read(request)
        try:
            return await _threaded(self._answer, asked, form, limiter=self._model, refused=422)
        finally:
            await form.close()

    def _answer(self, asked: Asked, form: FormData) -> Response:
        started = time.perf_counter()
        hits = [self._shown(hit) for hit in self._found(asked, form)]
        return _json({"hits": hits, "among": asked.among, "seconds": time.perf_counter() - started})

    def _found(self, asked: Asked, form: FormData) -> list[Hit]:
        where = [Filter(one.column, one.op, one.value) for one in asked.where]
        if not asked.pieces:
            return self.collection.spread(asked.k, where)
        likes = [(one.like, one.modality, one.weight) for one in asked.pieces if one.like is not None]
        parts = [self._part(one, form) for one in asked.pieces if one.like is None]
        ready = [(self.collection.like(row, modality), weight) for row, modality, weight in likes]
        vector = self.collection.embed(parts, ready)
        without = [row for row, _, _ in likes]
        return self.collection.search(vector, among=asked.among, k=asked.k, where=where, without=without)

    def _part(self, piece: Piece, form: FormData) -> Part:
        if piece.text is None:
            return Part(piece.modality, self._uploaded(piece, form), piece.weight)
        kind = self.said["kinds"].get(piece.modality)
        if kind in KINDS:
            raise HTTPException(400, f"{piece.modality} is asked for by a {KINDS[kind]}, not by words.")
        return Part(piece.modality, piece.text, piece.weight)

    def _uploaded(self, piece: Piece, form: FormData) -> bytes:
        """The content of a file that was sent, which is what its modality takes.

        Raises:
            HTTPException: 400, or 415 where it is something else.
        """
        file, kind = form.get(piece.file or ""), self.said["kinds"].get(piece.modality)
        if not isinstance(file, UploadFile):
            raise HTTPException(400, f"the form has no file {piece.file!r}.")
        if kind not in KINDS:
            raise HTTPException(400, f"{piece.modality} cannot be asked for by a file here.")
        file.file.seek(0)  # two pieces may be one file
        data = file.file.read()
        if not content_type(data).startswith(f"{kind}/"):
            named = f"{(file.filename or 'the file')[:200]!r}"
            raise HTTPException(415, f"{named} is no {KINDS[kind]}, whatever its name says; known: {names(kind)}.")
        return data

    def _shown(self, hit: Hit) -> dict[str, Any]:
        """A hit, with where its pictures and sounds are."""
        media = {m: f"/media/{hit.row}/{m}" for m in self.said["shown"] if hit.columns.get(f"has_{m}", True)}
        shard = self.collection.shard_name(hit.shard)
        columns = {name: value for name, value in hit.columns.items() if name != "json"}
        columns |= fields(hit.columns.get("json")) | ({"shard": shard} if shard else {})
        score = None if math.isnan(hit.score) else hit.score
        return {
            "row": hit.row,
            "key": hit.key,
            "score": score,
            "caption": hit.caption,
            "media": media,
            "columns": columns,
        }

    async def media(self, request: Request) -> Response:
        """A picture or a sound of a sample; a part of it where that is asked for."""
        row, modality = request.path_params["row"], request.path_params["modality"]
        if modality not in self.said["shown"] or not re.fullmatch("[0-9]{1,12}", row):
            raise HTTPException(404, "there is no such picture or sound.")
        data, _ = await _threaded(self.collection.media, int(row), modality, limiter=self._readers, refused=404)
        kind = content_type(data)
        headers = {"content-security-policy": ALONE, "accept-ranges": "bytes"}
        if kind not in SHOWN:  # SVG, HTML, whatever a shard may hold: never a document of this site
            headers["content-disposition"] = "attachment"
        return _ranged(data, kind, headers, request.headers.get("range", ""))


async def _threaded(work: Callable[..., T], *arguments: Any, limiter: CapacityLimiter, refused: int) -> T:
    """What work gives in another thread; its refusal is told as such."""
    try:
        return await to_thread.run_sync(work, *arguments, limiter=limiter)
    except MmclError as error:
        raise HTTPException(refused, str(error)) from None


def _ranged(data: bytes, kind: str, headers: dict[str, str], asked: str) -> Response:
    """All of it, or the one range of bytes that a player asks for (RFC 9110, 14.2)."""
    found = re.fullmatch(r"bytes=(\d{0,12})-(\d{0,12})", asked.strip())
    if found is None or found.groups() == ("", ""):
        return Response(data, media_type=kind, headers=headers)
    first, last = found.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    end = min(int(last) + 1 if first and last else len(data), len(data))
    if start >= end:
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{len(data)}"})
    told = headers | {"content-range": f"bytes {start}-{end - 1}/{len(data)}"}
    return Response(data[start:end], 206, told, kind)


def _json(said: Mapping[str, Any], status: int = 200) -> Response:
    """An answer of strict JSON, whatever types metadata have."""
    return Response(json.dumps(_plain(said), default=str, allow_nan=False), status, media_type="application/json")


def _plain(value: Any) -> Any:
    """The same without numbers that JSON has not."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


async def _refused(request: Request, error: HTTPException) -> Response:
    answer = _json({"error": error.detail}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _failed(request: Request, error: Exception) -> Response:
    """A defect: uvicorn prints where; the page says that there is something to be read."""
    return _json({"error": "mmcl made a mistake, which the terminal tells more of."}, 500)
