"""Limits of a request, checked before any parser reads it: its URL, and its body's size, time and values."""

import asyncio
import re
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem

MAX_VALUES = 30_000
"""Values of a body: a request with more than the bounds of its fields (worker.planning.bounds) allow gets an
error that names the field, up to this number."""
MAX_BODIES_BEING_READ = 64
"""Bodies of the largest size that the process holds in memory while it reads them."""

# Every quote begins a match, closed or not, so that each byte is read once.
STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class Rejected(Exception):
    """The request breaks a limit: the status, code and text of the answer."""

    def __init__(self, status: HTTPStatus, code: str, detail: str, hint: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.hint = status, code, detail, hint


class RequestLimits:
    """Rejects NUL bytes in the URL, and bodies that are too large, too slow, or of too many values."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, body_seconds: float) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.body_seconds = body_seconds
        self.bytes_being_read = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        try:
            _check_url(request)
            receive = await self._checked(receive) if _has_body(request) else receive
            await self.app(scope, receive, send)
        except ClientDisconnect:  # nobody reads an answer
            return
        except Rejected as error:
            answer = problem(request, error.status, error.code, error.detail, hint=error.hint)
            answer.headers["Connection"] = "close"  # the rest of the body is not read
            await answer(scope, receive, send)

    async def _checked(self, receive: Receive) -> Receive:
        """Read and check the body; return a `receive` that yields it in one message. Raises Rejected."""
        try:
            async with asyncio.timeout(self.body_seconds):
                body = await self._read(receive)
        except TimeoutError:
            detail = f"The body did not arrive within {self.body_seconds:g} s."
            raise Rejected(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", detail, "Send it again.") from None
        _check_values(body)
        return _replay(body, receive)

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk = message.get("body", b"")
                body += chunk
                self.bytes_being_read += len(chunk)
                self._check_size(len(body))
                if not message.get("more_body"):
                    return bytes(body)
        finally:
            self.bytes_being_read -= len(body)

    def _check_size(self, size: int) -> None:
        if size > self.max_body_bytes:
            hint = "Send a smaller body: the limit is SFT_MAX_BODY_BYTES, 1 MiB by default."
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            raise Rejected(status, "request_entity_too_large", f"{status.phrase}.", hint)
        if self.bytes_being_read > MAX_BODIES_BEING_READ * self.max_body_bytes:
            detail = "The service is reading too many requests."
            raise Rejected(HTTPStatus.SERVICE_UNAVAILABLE, "busy", detail, "Try again shortly.")


def _check_url(request: Request) -> None:
    """Raise Rejected for a NUL byte: no database accepts one, and no path or name contains one."""
    if "\0" in request.scope["path"] or "%00" in request.url.query:
        raise Rejected(HTTPStatus.BAD_REQUEST, "nul_byte", "A NUL byte is not allowed in a URL.")


def _has_body(request: Request) -> bool:
    return request.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in request.headers


def _check_values(body: bytes) -> None:
    """Raise Rejected if a JSON body has more values than any request needs: each costs several checks."""
    if b"\0" in body:  # as in UTF-16 and UTF-32, in which a quote may be half of another character
        detail = "The body is not JSON in UTF-8."
        raise Rejected(HTTPStatus.BAD_REQUEST, "malformed_json", detail, "Send UTF-8 without NUL bytes.")
    outside = STRINGS.sub(b"", body)
    if sum(map(outside.count, (b",", b"[", b"{"))) > MAX_VALUES:
        detail = f"The body has more than {MAX_VALUES} values."
        raise Rejected(HTTPStatus.UNPROCESSABLE_ENTITY, "too_many_values", detail, "Send a smaller body.")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body first, and then what the server sends: a disconnection."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
