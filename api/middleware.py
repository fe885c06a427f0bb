"""What every request goes through: a request id, a limit of its body, and no NUL byte."""

import re
import secrets
from http import HTTPStatus

import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem

HEADER = "X-Request-ID"


class RequestContext:
    """Gives each request an id (the client's own if it is harmless), in logs and in the answer."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        request_id = _request_id(request)
        request.state.request_id = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            if _has_nul(request):
                # No database takes it, and no path or name has it.
                response = problem(request, 400, "nul_byte", "A NUL byte is not allowed in a URL.")
                await response(scope, receive, send_with_id)
            else:
                await self.app(scope, _limited(receive, self.max_body_bytes), send_with_id)


def _limited(receive: Receive, max_bytes: int) -> Receive:
    """`receive` that ends in 413, said as a problem, once the body is larger than `max_bytes`."""
    # FastAPI's own max_body_size would answer in plain text.
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return message

    return limited


def _request_id(request: Request) -> str:
    given = request.headers.get(HEADER, "")
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else secrets.token_hex(8)


def _has_nul(request: Request) -> bool:
    return "\0" in request.scope["path"] or "%00" in request.url.query
