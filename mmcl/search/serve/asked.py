"""What a request asks for: JSON alone, or a form whose field ``query`` is that JSON, and whose files it names."""

import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from mmcl.registry import Spec, explain
from mmcl.search.filters import Operator

UPLOAD = 20 << 20  # bytes of one request
JSON = 1 << 20  # bytes of its query; held in memory
FILES, PARTS, FILTERS, TEXT, MOST = 8, 16, 16, 10_000, 200


class Piece(Spec):
    """One part of a query: a text, a file of the form, or a sample of the collection, with its weight."""

    modality: str
    text: Annotated[str, Field(min_length=1, max_length=TEXT)] | None = None
    file: str | None = None
    """Name of the form's field that holds it."""
    like: Annotated[int, Field(ge=0)] | None = None
    """Row of a sample, whose vector of this modality is taken."""
    weight: Annotated[float, Field(ge=-10, le=10)] = 1.0

    @model_validator(mode="after")
    def _one_of_them(self) -> "Piece":
        if sum(one is not None for one in (self.text, self.file, self.like)) != 1:
            raise ValueError("say one of text, file and like")
        return self


class Where(Spec):
    """One condition on the metadata."""

    column: str
    op: Operator = "="
    value: str


class Asked(Spec):
    """A search. Without pieces, samples spread evenly over the collection are shown."""

    pieces: Annotated[list[Piece], Field(max_length=PARTS)] = []
    among: str
    """Modality that is searched."""
    k: Annotated[int, Field(ge=1, le=MOST)] = 24
    where: Annotated[list[Where], Field(max_length=FILTERS)] = []


class TooLargeError(MultiPartException):
    """More bytes than a request may have; the form's parser closes its files on it."""


async def read(request: Request) -> tuple[Asked, FormData]:
    """What is asked, and the files that came with it, which are the caller's to close.

    No more than `UPLOAD` bytes are read, and files of more than a megabyte lie on the disk.

    Raises:
        HTTPException: 400, 413, 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            body = bounded(request, UPLOAD)
            parser = MultiPartParser(request.headers, body, max_files=FILES, max_fields=1, max_part_size=JSON)
            form = await parser.parse()
            query = form.get("query")
        elif kind == "application/json":
            form = FormData()
            query = b"".join([chunk async for chunk in bounded(request, JSON)])
        else:
            raise HTTPException(415, "a search is application/json or multipart/form-data.")
    except TooLargeError as error:
        raise HTTPException(413, error.message) from None
    except MultiPartException as error:
        raise HTTPException(400, f"the form cannot be read: {error.message}") from None
    try:
        if query is None or isinstance(query, UploadFile):
            raise HTTPException(400, "the form needs a field `query` that is JSON.")
        return checked(query), form
    except BaseException:
        await form.close()
        raise


def checked(query: str | bytes) -> Asked:
    """A query.

    Raises:
        HTTPException: 400, with all that is wrong.
    """
    try:
        said: Any = json.loads(query)
        json.dumps(said, ensure_ascii=False).encode()  # half a character is none, and no library takes it
    except (ValueError, RecursionError):
        raise HTTPException(400, "the query is no JSON.") from None
    try:
        return Asked.model_validate(said)
    except ValidationError as error:
        raise HTTPException(400, str(explain(error, "query"))) from None


async def bounded(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The body of a request, piece by piece.

    Raises:
        TooLargeError: it is larger, as it says itself or as it turns out.
    """
    told = f"more than {most / (1 << 20):.0f} MB were sent, which is the limit."
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said) > most:
        raise TooLargeError(told)
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > most:
            raise TooLargeError(told)
        yield chunk
