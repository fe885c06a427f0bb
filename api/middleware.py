"""Middleware of all requests: request id, request log and metrics, the shutdown. Limits: request_limits.

Each class forwards messages as they arrive: a response may be a stream that lasts for hours.
"""

import asyncio
import re
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass
from http import HTTPMethod, HTTPStatus
from time import perf_counter
from typing import Any

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem
from trainer.config.secret_patterns import holds_secret, redacted
from worker.telemetry import metrics, tracing
from worker.telemetry.logging import logger

HEADER = "X-Request-ID"
UNMATCHED = "unmatched"
MAX_LOGGED_PATH = 500

log = logger(__name__)


class RequestContext:
    """Gives each request an id, in logs and in the response: the client's own id if its form is safe."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        request_id = _request_id(request)
        request.state.request_id = request_id
        # A URL may contain a secret by mistake, such as an API key: traces have neither it nor the query.
        path = redacted(scope["path"])[:MAX_LOGGED_PATH]
        tracing.annotate({"sft.request_id": request_id, "url.path": path, "url.query": ""})

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self.app(scope, receive, send_with_id)


def _request_id(request: Request) -> str:
    given = request.headers.get(HEADER, "")
    is_safe = re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) and not holds_secret(given)
    return given if is_safe else secrets.token_hex(8)


# -- log and metrics -------------------------------------------------------------------------------


class RequestLog:
    """Counts each request when its response begins; times and logs the request when the response ends."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, started=perf_counter())

        async def send_observed(message: Message) -> None:
            exchange.observe(message)
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        except Exception:
            if exchange.status is None:
                exchange.begin(HTTPStatus.INTERNAL_SERVER_ERROR)  # an outer handler sends the response
            raise
        finally:
            exchange.end()


@dataclass
class _Exchange:
    """A request, and what is known of its response."""

    scope: MutableMapping[str, Any]
    started: float
    status: int | None = None
    is_stream: bool = False

    def observe(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begin(message["status"])
        elif message.get("more_body"):
            self.is_stream = True

    def begin(self, status: int) -> None:
        self.status = status
        metrics.HTTP_REQUESTS.labels(self.method, self.route, status).inc()

    def end(self) -> None:
        seconds = perf_counter() - self.started
        if not (self.is_stream or self.asks_to_wait):
            metrics.HTTP_SECONDS.labels(self.method, self.route).observe(seconds)
        log.info(
            "request",
            method=self.method,
            route=self.route,
            path=redacted(self.scope["path"])[:MAX_LOGGED_PATH],
            status=self.status,
            duration_ms=round(seconds * 1000, 1),
            caller=self.scope.get("state", {}).get("caller"),
        )

    @property
    def method(self) -> str:
        """The method if HTTP defines it, else `other`: each unknown method would create a metric series."""
        method: str = self.scope["method"]
        return method if method in HTTPMethod.__members__ else "other"

    @property
    def route(self) -> str:
        """The template of the route's path, not the path: the number of paths is unlimited."""
        # An included route knows its path only without the prefix.
        included = self.scope.get("fastapi", {}).get("effective_route_context")
        matched = included or self.scope.get("route")
        return getattr(matched, "path_format", UNMATCHED)

    @property
    def asks_to_wait(self) -> bool:
        return "wait" in Request(self.scope).query_params


# -- the shutdown ----------------------------------------------------------------------------------


class CancelledRequests:
    """Sends 503 to a request that the server cancels at its shutdown, if its response has not begun."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def send_noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except asyncio.CancelledError:
            if scope["type"] != "http" or has_begun:
                raise
            detail, hint = "The service is shutting down.", "Send the request again."
            response = problem(Request(scope), 503, "shutting_down", detail, hint=hint)
            await response(scope, receive, send)
