"""What a failure of a remote file system means, and another attempt where that may help."""

import contextlib
import email.utils
import http
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from mmcl.errors import MmclError

T = TypeVar("T")

RETRY_AFTER_LIMIT = 600.0  # seconds that a server may ask for; whoever asks for more is believed to be closed
DEFECTS = (TypeError, AttributeError, LookupError, AssertionError)


@dataclass(frozen=True)
class Patience:
    """How long failures are borne."""

    attempts: int = 6
    """In a row, without getting further."""
    timeout: float = 60.0
    """Seconds without a byte."""
    backoff: float = 1.0
    """Seconds before the second attempt; doubled each time, up to 30 times this, with jitter."""


PATIENCE = Patience()


class TransferError(Exception):
    """An attempt failed, and another one would as well.

    Args:
        reason: what happened; it may be shown, so it holds no credentials.
        advice: what to do, where that is not what the class says.
    """

    advice = "Correct the URL."

    def __init__(self, reason: str, advice: str | None = None) -> None:
        super().__init__(reason)
        self.advice = advice or self.advice


class MissingFileError(TransferError):
    """It is not there."""

    advice = "Correct the URL or the pattern; some stores say this (or 403) of files that one may not read, too."


class AccessDeniedError(TransferError):
    """The server does not let us."""

    advice = "Check the credentials; fsspec reads them from the environment and from ~/.config/fsspec (docs/remote.md)."


class TransientError(TransferError):
    """An attempt failed, another one may not.

    Args:
        reason: what happened.
        retry_after: seconds that the server asked for.
    """

    advice = "Check the network and the server, and start again; what has arrived is kept."

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.gained = False  # whoever keeps what arrived says whether it was enough to call it progress


def redact(url: str) -> str:
    """A URL without what may be a secret: user and password, and the query (signatures).

    >>> redact("https://me:secret@host/a.tar?sig=1")
    'https://***@host/a.tar?***'
    >>> redact("s3://bucket/0000?.tar")
    's3://bucket/0000?.tar'
    """
    protocol, _, rest = url.partition("://")
    rest = re.sub(r"^[^/?#]*@", "***@", rest)
    if protocol.lower() in ("http", "https") or "=" in rest.partition("?")[2]:
        rest = re.sub(r"(?s)\?.*", "?***", rest)
    return f"{protocol}://{rest}"


def redact_text(text: str, url: str) -> str:
    """A message of some library about a URL, without what may be a secret in it."""
    user = re.match(r"[^:]+://([^/?#]*)@", url)
    for secret in (url.partition("?")[2], *(user[1].split(":", 1) if user else [])):
        text = text.replace(secret, "***") if len(secret) > 2 else text
    return re.sub(r"[A-Za-z][\w+.-]*://[^\s'\"<>)]*", lambda found: redact(found[0]), text)


def is_http(url: str) -> bool:
    """Whether a URL is read over plain HTTP, and not by an API that is called over it."""
    return url.lower().startswith(("http://", "https://"))


@contextlib.contextmanager
def explained(url: str, timeout: float) -> Iterator[None]:
    """Turns whatever the libraries below raise into a `TransferError`."""
    try:
        yield
    except (MmclError, TransferError, *DEFECTS):
        raise
    except Exception as error:
        raise _failure(error, url, timeout) from None


def _failure(error: BaseException, url: str, timeout: float) -> TransferError:
    if isinstance(error, FileNotFoundError) and is_http(url) and error.__cause__ is not None:
        error = error.__cause__  # fsspec's HTTP says "not found" of every failure
    if isinstance(error, TimeoutError):
        return TransientError(f"no data for {timeout:g} s")
    status = _status(error)
    said = redact_text(str(error), url).rstrip(".")
    reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if status in set(http.HTTPStatus):
        reason = f"HTTP {status} {http.HTTPStatus(status).phrase}"
    if status in (404, 410) or isinstance(error, FileNotFoundError):
        return MissingFileError(f"it is not there ({reason})")
    if status in (401, 403) or isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return AccessDeniedError(f"access was denied ({reason})")
    refused = status is not None and 400 <= status < 500 and status not in (408, 425, 429)
    if refused or isinstance(error, ValueError | ImportError | NotImplementedError | IsADirectoryError):
        return TransferError(reason)
    retry_after = _retry_after(error)
    if retry_after is not None and retry_after > RETRY_AFTER_LIMIT:
        return TransferError(f"{reason}; the server asks to come back in {retry_after:.0f} s")
    return TransientError(reason, retry_after)


def _status(error: BaseException | None) -> int | None:
    """HTTP status that an error of aiohttp, httpx, requests, botocore or gcsfs stands for."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(error, "status", None) or getattr(error, "code", None) or getattr(response, "status_code", None)
    if isinstance(found, int | str) and str(found).isdigit():
        return int(found)
    # s3fs raises Python's own errors from botocore's
    return _status(error.__cause__) if error is not None and type(error).__module__ == "builtins" else None


def _retry_after(error: BaseException) -> float | None:
    """Seconds of a Retry-After header, which may be a number or a date."""
    headers = getattr(error, "headers", None) or getattr(getattr(error, "response", None), "headers", None)
    said = headers.get("Retry-After") if headers is not None and hasattr(headers, "get") else None
    if not said:
        return None
    if str(said).strip().isdigit():
        return float(said)
    try:
        return max(email.utils.parsedate_to_datetime(str(said)).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def persist(attempt: Callable[[], T], url: str, patience: Patience, sleep: Callable[[float], None] = time.sleep) -> T:
    """Attempt until it works, or until ``patience.attempts`` in a row got nowhere.

    Raises:
        MmclError: url, what happened last, how many attempts there were, what to do.
    """
    barren = 0

    def stop(state: tenacity.RetryCallState) -> bool:
        nonlocal barren
        barren = 1 if _error(state).gained else barren + 1
        return barren >= patience.attempts

    def wait(state: tenacity.RetryCallState) -> float:
        asked = _error(state).retry_after
        pause = patience.backoff * min(2 ** (barren - 1), 30) * random.uniform(0.5, 1.5)
        return pause if asked is None else asked + patience.backoff * random.random()

    transient = tenacity.retry_if_exception_type(TransientError)
    retrying = tenacity.Retrying(stop=stop, wait=wait, retry=transient, sleep=sleep, reraise=True)
    try:
        return retrying(attempt)
    except TransferError as error:
        count = retrying.statistics["attempt_number"]
        tries = f" ({count} attempts)" if count > 1 else ""
        raise MmclError(f"{redact(url)}: {error}{tries}. {error.advice}") from None


def _error(state: tenacity.RetryCallState) -> TransientError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, TransientError)
    return error
