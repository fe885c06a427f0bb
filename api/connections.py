"""Connections of the HTTP server with limits: their number, and the time of each of their phases.

uvicorn limits none of them: a client that opens connections and sends nothing keeps out all others.
"""

import asyncio
import resource
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from api import framing
from api.problems import MEDIA_TYPE, RETRY_AFTER_SECONDS, Problem
from worker.settings import get_settings


def _answer(status: HTTPStatus, headers: str = "", **problem: Any) -> bytes:
    """Return an answer to what is no request of the app, after which the connection is closed."""
    body = Problem(title=status.phrase, status=status, request_id="", **problem).model_dump_json(
        exclude_none=True
    )
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {MEDIA_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n{body}"
    ).encode()


NO_ROOM = _answer(
    HTTPStatus.SERVICE_UNAVAILABLE,
    f"Retry-After: {RETRY_AFTER_SECONDS}\r\n",
    code="too_many_connections",
    detail="The service has too many connections.",
    hint="Try again shortly.",
    retryable=True,
)
NOT_HTTP = _answer(
    HTTPStatus.BAD_REQUEST,
    code="bad_request",
    detail="The request is not valid HTTP/1.1.",
    hint="Send either one Content-Length or Transfer-Encoding: chunked, and at most 16 KiB of headers.",
    retryable=False,
)


def max_connections() -> int:
    """Return the setting, or half of the descriptors that this process may open: files need the others."""
    return min(get_settings().max_connections, _descriptors() // 2)


def backlog() -> int:
    """Return how many connections wait to be accepted: the event loop accepts all of them in one step."""
    return min(128, _descriptors() // 4)


def _descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class LimitedConnection(H11Protocol):
    """An HTTP/1.1 connection. `uvicorn --http api.connections:LimitedConnection`.

    Beyond the limit, a new connection takes the place of the one that has waited longest for its client.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = framing.ClearConnection(h11.SERVER)
        self.deadline: asyncio.TimerHandle | None = None
        self.stalled: asyncio.TimerHandle | None = None
        self.waits_since = self.loop.time()
        self.client_seconds = get_settings().client_timeout_seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > max_connections() and not self._replace_oldest():
            transport.write(NO_ROOM)
            transport.close()
            return
        self._watch_client()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_served:
            _cancel(self.deadline)
            self.deadline = None
        else:
            self._watch_client()

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self.deadline)
        _cancel(self.stalled)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.stalled = self.loop.call_later(self.client_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self.stalled)

    def send_400_response(self, _msg: str) -> None:
        """Answer what is not valid HTTP, unless another answer has begun, and close the connection."""
        if not (self._is_served and self.cycle.response_started):
            self.transport.write(NOT_HTTP)
        if self.cycle:
            self.cycle.disconnected = True  # the app is not to answer the first half of a request
        self.transport.close()

    def on_response_complete(self) -> None:
        self.waits_since = self.loop.time()
        super().on_response_complete()
        if not self._is_served and self.conn.trailing_data[0]:  # half of a further request
            self._watch_client()

    @property
    def waits_for_client(self) -> bool:
        """Whether the next step is the client's: to send a request, or the rest of one."""
        return not self._is_served or bool(self.cycle.more_body)

    @property
    def _is_served(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch_client(self) -> None:
        """Close the connection unless the headers of a request arrive in time."""
        if self.deadline is None:
            self.deadline = self.loop.call_later(self.client_seconds, self.transport.abort)

    def _replace_oldest(self) -> bool:
        """Close the connection that has waited longest for its client; return False if there is none."""
        others = (one for one in self.connections if isinstance(one, LimitedConnection) and one is not self)
        waiting = [one for one in others if one.waits_for_client and not one.transport.is_closing()]
        oldest = min(waiting, key=lambda one: one.waits_since, default=None)
        if oldest:
            oldest.transport.abort()
        return oldest is not None


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer:
        timer.cancel()
