"""What stands before every answer: headers that keep a page to itself, and no requests in another site's name."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = (  # blob: is how a page shows a file that was dropped on it
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": PAGE,
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",  # pictures are not for pages of other sites
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",  # another collection may be served here tomorrow
}
READING = ("GET", "HEAD", "OPTIONS")


class Guard:
    """Refuses what another site's page sends, and sets `HEADERS` wherever an answer has not set its own.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["method"] in READING or _of_this_site(Headers(scope=scope)):
            await self.app(scope, receive, guarded)
        else:
            refusal = JSONResponse({"error": "a page of another site sent this; only this one may ask."}, 403)
            await refusal(scope, receive, guarded)


def _of_this_site(headers: Headers) -> bool:
    """Whether no page sent it (a program says no origin), or one that was served here."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")
